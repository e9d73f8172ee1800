"""Two operators at the same time: only one writes, nothing is removed, and everything converges."""

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import api, faulty_proxy, installs, waiting

LOAD = 40  # Enough listeners that writing them takes a while

# A shorter Lease, so that a takeover is quick.
QUICK = {"timing": {"lease_seconds": 8.0, "renew_deadline_seconds": 6.0, "lease_retry_seconds": 0.5}}

# A Lease that no wait outlasts, so that only a release hands it over.
PATIENT = {"timing": {"lease_seconds": 120.0, "renew_deadline_seconds": 60.0}}

SLOW_SECONDS = 0.05  # Delay of each write of a leader with one worker, so that it writes for seconds on any machine


async def declare(install: installs.Install, namespace: str, count: int = LOAD) -> None:
    """Apply a class, a tenant, a destination and many listeners, without waiting."""
    for document in (install.klass(), installs.tenant(namespace), installs.destination(namespace)):
        await install.server.apply(document)
    names = [f"room-{number}" for number in range(count)]
    await asyncio.gather(*(install.server.create(installs.listener(install, namespace, name)) for name in names))


def lease_of(install: installs.Install) -> api.Resource:
    return api.Resource("Lease", "usher-operator", install.system)


def holder(lease: Any) -> str:
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")


async def wait_holder(install: installs.Install, name: str) -> None:
    await install.server.wait(lease_of(install), lambda lease: holder(lease) == name)


async def documents(install: installs.Install, namespace: str) -> dict[str, Any]:
    """Documents of one namespace. Destinations have no class, so this install also sees those of other tests."""
    return {owner: secret for owner, secret in (await install.documents()).items() if f" {namespace}/" in owner}


async def wait_some_written(install: installs.Install, namespace: str, count: int = LOAD) -> None:
    """Wait until an operator has written some of the documents."""
    written = await waiting.until(
        lambda: documents(install, namespace),
        lambda written_so_far: len(written_so_far) > count / 4,
        every_seconds=0.01,
    )
    assert len(written) < count, "the operator was done before the test began"


async def wait_whole(install: installs.Install, namespace: str, count: int = LOAD) -> None:
    """Wait until every document is in force and every status is written; no document may have a tombstone."""

    async def look() -> tuple[int, int]:
        listeners = await install.server.list(api.Resource("Listener", "", namespace))
        resolved = sum(api.condition(listener, "ResolvedRefs").get("status") == "True" for listener in listeners)
        return len(await documents(install, namespace)), resolved

    await waiting.until(look, lambda counts: counts == (count + 1, count), every_seconds=0.3)
    for secret in (await documents(install, namespace)).values():
        assert "tombstone" not in json.loads(base64.b64decode(secret["data"]["config.json"]))
    asked = install.cluster.audit.since(0, install.operator.user)
    assert [request for request in asked if request.verb.startswith("delete")] == []


def writes(proxy: faulty_proxy.Proxy) -> list[faulty_proxy.Asked]:
    """Write requests through a proxy, without those of the Lease."""
    return [asked for asked in proxy.asked if asked.writes and "/leases" not in asked.path]


@pytest.fixture
async def other_proxy(install: installs.Install, tmp_path: Path) -> AsyncIterator[faulty_proxy.Proxy]:
    """A second proxy, so that the test can tell the requests of the replicas apart."""
    folder = tmp_path / "other-proxy"
    folder.mkdir()
    async with faulty_proxy.running(install.cluster.endpoint, folder) as ready:
        yield ready


async def test_leader_killed_while_writing_leaves_nothing_half_done(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    proxy.slow(SLOW_SECONDS, faulty_proxy.writes)
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    first = await install.start_operator("--identity", "first", "--workers", "1", account=through, changes=QUICK)
    await install.start_operator("--identity", "second", changes=QUICK)
    await declare(install, namespace)
    await wait_some_written(install, namespace)
    await first.stop(signal.SIGKILL)
    await wait_holder(install, "second")
    await wait_whole(install, namespace)


@pytest.mark.long
async def test_stopped_leader_writes_nothing_after_the_takeover(
    install: installs.Install,
    namespace: str,
    proxy: faulty_proxy.Proxy,
    other_proxy: faulty_proxy.Proxy,
    tmp_path: Path,
) -> None:
    """Two operators start together, and only the leader writes."""
    proxies = {"first": proxy, "second": other_proxy}

    async def start(name: str) -> installs.Process:
        proxies[name].slow(SLOW_SECONDS, faulty_proxy.writes)
        through = install.operator.at(proxies[name].endpoint, tmp_path / name)
        return await install.start_operator("--identity", name, "--workers", "1", account=through, changes=PATIENT)

    running = dict(zip(proxies, await asyncio.gather(*map(start, proxies)), strict=True))
    leader = holder(await install.server.wait(lease_of(install), holder))
    (standby,) = proxies.keys() - {leader}
    await declare(install, namespace)
    await wait_some_written(install, namespace)
    assert writes(proxies[standby]) == []
    running[leader].process.send_signal(signal.SIGTERM)
    await wait_holder(install, standby)
    written = len(writes(proxies[leader]))
    async with asyncio.timeout(60):
        assert await running[leader].process.wait() == 0
    await wait_whole(install, namespace)
    assert len(writes(proxies[leader])) == written


@pytest.mark.long
async def test_suspended_leader_starts_no_write_when_it_resumes(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    proxy.slow(SLOW_SECONDS, faulty_proxy.writes)
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    first = await install.start_operator("--identity", "first", "--workers", "1", account=through, changes=QUICK)
    await install.start_operator("--identity", "second", changes=QUICK)
    await declare(install, namespace)
    await wait_some_written(install, namespace)
    first.process.send_signal(signal.SIGSTOP)
    try:
        await wait_holder(install, "second")
        await wait_whole(install, namespace)
        written = len(writes(proxy))
    finally:
        first.process.send_signal(signal.SIGCONT)
    async with asyncio.timeout(60):
        assert await first.process.wait() == 1
    harmless = ("/events", "/selfsubjectaccessreviews")  # a review only asks for the rights of the operator
    late = [
        (request.method, request.path) for request in writes(proxy)[written:] if not request.path.endswith(harmless)
    ]
    # Its one worker may have been stopped between the check of the clock and the write to the socket.
    assert len(late) <= 1, late
    await wait_whole(install, namespace)
