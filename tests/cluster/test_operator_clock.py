"""The wall clock of a single operator jumps forward and back: it stays leader and keeps every time limit."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support import api, installs, moving_clock, waiting
from support.published_documents import content, declare

HOUR, DAY = 3600, 86_400
BUSY = {"timing": {"lease_retry_seconds": 0.5}}
"""A Lease that is renewed often."""

TOMBSTONE_SECONDS = 12


@pytest.fixture
def clock(tmp_path: Path) -> moving_clock.Clock:
    return moving_clock.Clock(tmp_path / "clock")


async def lease_of(install: installs.Install) -> dict[str, Any]:
    lease = await install.server.get(api.Resource("Lease", "usher-operator", install.system))
    return dict(lease["spec"])


def is_told(resource: Any) -> bool:
    """True if the status is of the newest generation."""
    observed = api.condition(resource, "Accepted").get("observedGeneration")
    return bool(observed == resource["metadata"]["generation"])


async def test_clock_jump_keeps_the_lease_and_the_documents(
    install: installs.Install, namespace: str, clock: moving_clock.Clock
) -> None:
    operator = await install.start_operator("--resync-seconds", "1", changes=BUSY, clock=clock)
    await declare(install, namespace, "lobby")
    first_lease = await lease_of(install)
    for generation, ahead in enumerate((HOUR, 0, DAY, -DAY, 0), start=1):
        clock.set(ahead)
        await install.server.apply(installs.listener(install, namespace, "lobby", token={"generation": generation}))
        lobby = api.Resource("Listener", "lobby", namespace)
        await install.server.wait(lobby, is_told)
        renewed: set[str] = set()

        async def renewals(times: set[str] = renewed) -> int:
            times.add((await lease_of(install))["renewTime"])
            return len(times)

        await waiting.until(renewals, lambda count: count > 3)
        latest_lease = await lease_of(install)
        assert [latest_lease[name] for name in ("holderIdentity", "leaseTransitions")] == [
            first_lease[name] for name in ("holderIdentity", "leaseTransitions")
        ]
    assert operator.process.returncode is None
    lines = operator.log.read_text("utf-8").splitlines()
    assert [line for line in lines if "document_removed" in line and namespace in line] == []


async def test_clock_jumps_keep_a_tombstone_for_its_time(
    install: installs.Install, namespace: str, clock: moving_clock.Clock
) -> None:
    said = ("--tombstone-seconds", str(TOMBSTONE_SECONDS), "--resync-seconds", "1")
    await install.start_operator(*said, clock=clock)
    await declare(install, namespace, "lobby", "bar")
    owner = f"Listener {namespace}/lobby"
    await install.server.delete(api.Resource("Listener", "lobby", namespace))
    await waiting.until(
        install.documents, lambda documents: "tombstone" in content(documents[owner]), every_seconds=0.1
    )
    clock.set(DAY)
    # the changed class causes another plan meanwhile
    await install.server.merge(api.of(install.klass()), {"spec": {"allowedHostnames": [{"hostname": "*.example"}]}})
    await asyncio.sleep(TOMBSTONE_SECONDS / 4)
    assert owner in await install.documents()
    clock.set(-DAY)
    await waiting.until(install.documents, lambda documents: owner not in documents)


async def test_replica_whose_clock_is_days_ahead_ends_no_retired_url_and_no_tombstone(
    install: installs.Install, namespace: str, clock: moving_clock.Clock
) -> None:
    first = await install.start_operator()
    await declare(install, namespace, "lobby", "bar")
    lobby, bar = (api.Resource("Listener", name, namespace) for name in ("lobby", "bar"))
    await install.server.merge(api.of(install.klass()), {"spec": {"hostname": f"{namespace}.example.com"}})
    await install.server.wait(lobby, lambda listener: api.condition(listener, "AddressRetired"))
    await install.server.delete(bar)
    owner = f"Listener {namespace}/bar"
    await waiting.until(
        install.documents, lambda documents: "tombstone" in content(documents[owner]), every_seconds=0.1
    )
    await first.stop()
    clock.set(8 * DAY)
    await install.start_operator(clock=clock)
    await install.server.merge(lobby, {"spec": {"silence": {"afterSeconds": 60}}})
    await install.server.wait(lobby, is_told)
    assert api.condition(await install.server.get(lobby), "AddressRetired")["status"] == "True"
    assert owner in await install.documents()
