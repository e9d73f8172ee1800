"""The limits of a destination hold over all gateways together, also while one stops."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import gateways, waiting
from usher_gateway import model
from usher_gateway.store import encodings

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
GATEWAYS = 3
CONCURRENCY = 5
RATE = 20
VISITS = 120


class Peer:
    """A destination that measures how many requests it gets at once."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()  # Path -> the most requests at the same moment
        self.ids: Counter[str] = Counter()
        self.url = ""
        self._running: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.Response:
        path = request.path
        self.ids[request.headers["webhook-id"]] += 1
        self._running[path] += 1
        self.most[path] = max(self.most[path], self._running[path])
        await asyncio.sleep(0.01 if path == "/single" else 0.1)
        self._running[path] -= 1
        return web.Response()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with test_utils.RawTestServer(peer.answer) as server:
        peer.url = str(server.make_url("")).rstrip("/")
        yield peer


def manifests(url: str) -> list[gateways.Manifest]:
    names = ("wide", "single", "rated")
    specs: list[gateways.Manifest] = [
        {"concurrency": CONCURRENCY},
        {"concurrency": 1},
        {"rateLimit": {"requests": RATE}},
    ]
    return [
        gateways.TENANT,
        gateways.listener("wifi", [gateways.route(name, name) for name in names]),
        *[gateways.destination(name, f"{url}/{name}", **spec) for name, spec in zip(names, specs, strict=True)],
    ]


async def test_gateways_keep_to_the_limits_together(tmp_path: Path, database: str, peer: Peer) -> None:
    fleet = []
    for place in range(GATEWAYS):
        folder = tmp_path / f"{place}"
        folder.mkdir()
        fleet.append(gateways.Gateway(folder, manifests(peer.url), database=database))
    numbers = iter(range(VISITS))

    async def post(some: list[gateways.Gateway], visits: int) -> None:
        for _ in range(visits):
            number = next(numbers)
            reply = await gateways.post(some[number % len(some)].port, "/wifi", gateways.visit(number))
            assert reply.is_acknowledgement

    try:
        await asyncio.gather(*[gateway.start(USHER_INSTALL_KEY=KEY) for gateway in fleet])
        store = fleet[0].store
        await waiting.wait_until(lambda: gateways.know_each_other(store), 60, "a share for every gateway")
        await post(fleet, VISITS // 2)
        assert await fleet[0].terminate() == 0
        await post(fleet[1:], VISITS // 2)
        await waiting.wait_until(lambda: store.open_deliveries() == 0, 60, "the delivery of everything")
        for gateway in fleet[1:]:
            assert await gateway.terminate() == 0
    finally:
        for gateway in fleet:
            await gateway.close()
    assert len(peer.ids) == 3 * VISITS
    assert set(peer.ids.values()) == {1}
    assert peer.most["/wide"] <= CONCURRENCY
    assert peer.most["/single"] == 1
    # In T seconds at most RATE * (T + 1) requests start; the second more is for what a gateway does around a request.
    times = started_at(store, "rated")
    assert len(times) == VISITS
    for start in range(0, len(times), RATE):
        assert len(times) - start <= RATE * (times[-1] - times[start] + 2)


def started_at(store: gateways.StoreData, destination: str) -> list[float]:
    """Return when each attempt began, in seconds. A busy peer would see requests late, and several at once."""
    logs = store.rows(
        "select log from attempts join deliveries on deliveries.key = attempts.delivery"
        " join destinations on destinations.number = deliveries.destination"
        f" where destinations.key like '%/{destination}'"
    )
    attempts = [attempt for (log,) in logs for attempt in encodings.unpack_attempts(bytes(log))]
    return sorted(attempt.at / model.MICROSECONDS - attempt.milliseconds / 1000 for attempt in attempts)
