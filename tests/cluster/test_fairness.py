"""One agency's work does not delay another's."""

import asyncio
import contextlib
import itertools
import secrets
import statistics
import time
from typing import Any

from support import agencies, api

pytestmark = agencies.SHARED

_LIMIT = 5
_LISTENERS = 40  # Listeners of the agency that disturbs the other, far more than its class permits
_COSTLY = 10  # Number of listeners with costly expressions. The agency edits them in turn.
_LIVE_SECONDS = 1.0  # How soon an edit takes effect. Source: design.md.
_ANSWER_SECONDS = 8.0  # How soon every arrival is answered. Source: design.md.


async def test_edit_is_live_within_a_second_while_another_agency_creates_and_deletes(
    make_agency: agencies.Make,
) -> None:
    calm, noisy = await make_agency(), await make_agency()
    server, install = calm.platform.server, calm.platform.install
    limited = install.klass(hostname=f"{noisy.namespace}.example.com", maximums={"listenersPerNamespace": _LIMIT})
    limited["metadata"]["name"] = noisy.namespace
    await server.create(limited)
    await calm.apply(calm.tenant(), calm.destination(), calm.listener())
    await noisy.apply(noisy.tenant(), noisy.destination())
    await calm.until_answers(await calm.url(), 200)
    listeners = [noisy.listener(f"l{number}", listenerClassName=noisy.namespace) for number in range(_LISTENERS)]
    for document in listeners:
        await server.create(document)

    async def disturb() -> None:
        while True:
            for document in listeners:
                await server.delete(api.of(document))
                await server.create(document)

    undisturbed = [await edit(calm) for _ in range(5)]
    disturbing = asyncio.create_task(disturb())
    try:
        seconds = [await edit(calm) for _ in range(5)]
        assert not disturbing.done()
    finally:
        disturbing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await disturbing
        await server.delete(api.of(limited))
    assert_live(seconds, undisturbed)


async def test_costly_expressions_of_another_agency_delay_neither_edits_nor_answers(
    make_agency: agencies.Make,
) -> None:
    calm, noisy = await make_agency(), await make_agency()
    server, platform = calm.platform.server, calm.platform
    await calm.apply(calm.tenant(), calm.destination(), calm.listener(), calm.listener("steady"))
    await noisy.apply(noisy.tenant(), noisy.destination())
    await calm.until_answers(await calm.url(), 200)
    url = await calm.url("steady")
    await calm.until_answers(url, 200)

    async def disturb() -> None:
        for turn in itertools.count():
            for number in range(_COSTLY):
                await server.apply(noisy.listener(f"l{number}", routes=costly_routes(f"{turn}.{number}")))

    async def probe() -> None:
        while True:
            begun = time.monotonic()
            assert (await calm.post(url, b"{}")).status == 200
            answered.append(time.monotonic() - begun)
            await asyncio.sleep(0.02)

    answered: list[float] = []
    undisturbed = [await edit(calm) for _ in range(5)]
    tasks = [asyncio.create_task(disturb()), asyncio.create_task(probe())]
    try:
        seconds = [await edit(calm) for _ in range(5)]
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert_live(seconds, undisturbed)
    assert statistics.median(answered) <= _LIVE_SECONDS
    assert max(answered) <= _ANSWER_SECONDS
    assert platform.operator.process.returncode is None


def assert_live(seconds: list[float], undisturbed: list[float]) -> None:
    """Compare medians, because the whole cluster shares the cores of the test machine.

    On a machine so busy that an undisturbed edit takes a third of the limit, the other agency may treble the time.
    """
    limit = max(_LIVE_SECONDS, 3 * statistics.median(undisturbed))
    assert statistics.median(seconds) <= limit, (seconds, undisturbed)


def costly_routes(text: str) -> list[dict[str, Any]]:
    """Build routes whose expressions take about 0.4 s to compile, and are different for each text."""
    patterns = [f"visit.email.matches('(\\\\pL|a){{1,4}}{text}x{number}')" for number in range(4)]
    chain = "<".join(["1"] * 450)
    return [
        {
            "name": f"r{number}",
            "destinationRef": {"name": "crm"},
            "when": " || ".join(pattern.replace("x", f"x{number}y") for pattern in patterns),
            "transform": f"['{text}x{number}', {chain}]",
        }
        for number in range(32)
    ]


async def edit(agency: agencies.Agency) -> float:
    """Give the listener another path; return the seconds until the gateway serves it."""
    hostname, path = f"{agency.namespace}.customers.example", f"/{secrets.token_hex(8)}"
    spec = {"addresses": [{"name": "own", "hostname": hostname, "path": path}], "authentication": {"type": "None"}}
    await agency.platform.server.merge(api.Resource("Listener", "lobby", agency.namespace), {"spec": spec})
    answered = time.monotonic()
    await agency.until_answers(f"https://{hostname}{path}", 200)
    return time.monotonic() - answered
