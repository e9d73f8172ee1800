"""Tenants do not affect each other's arrivals: floods, decompression bombs, and bodies that the store rejects."""

import asyncio
import contextlib
import gc
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import gateway as gateways
from support import hold, waiting, wire
from support.gateway import visit
from usher_gateway.ingest import pipeline, server

RATE = 20  # Requests a second that the class allows each listener, few enough that a slow machine exceeds them

FLOODED = gateways.LISTENER.replace("{name: wifi,", "{name: flooded,").replace("acme", "flood")
MANIFESTS = (
    gateways.CLASS.replace("requestsPerSecond: 100000", f"requestsPerSecond: {RATE}")
    + gateways.TENANT
    + gateways.TENANT.replace("acme", "flood")
    + gateways.LISTENER
    + FLOODED
)


async def _flood(gateway: gateways.RunningGateway, data: bytes, is_over: asyncio.Event) -> dict[int, int]:
    """Send as fast as one connection can; return status -> count."""
    statuses: dict[int, int] = {}
    async with wire.connect(gateway.port) as connection:
        while not is_over.is_set():
            await connection.send(data)
            answer = await connection.answer()
            assert answer.has_header == (answer.status == 200)
            statuses[answer.status] = statuses.get(answer.status, 0) + 1
    return statuses


async def _post_calmly(gateway: gateways.RunningGateway, count: int) -> list[float]:
    """Return how long each answer to another tenant took, in seconds, sorted. Keeps below its rate."""
    seconds = []
    async with wire.connect(gateway.port) as connection:
        for number in range(count):
            started = time.monotonic()
            await connection.send(wire.request(gateway.target(), visit(number)))
            assert (await connection.answer()).acknowledges
            seconds.append(time.monotonic() - started)
            await asyncio.sleep(1 / (0.8 * RATE))
    return sorted(seconds)


async def test_rate_limit_affects_only_the_flooded_listener(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, MANIFESTS) as gateway:
        is_over = asyncio.Event()
        data = wire.request(gateway.target("agency/flooded"), visit(1))
        floods = [asyncio.create_task(_flood(gateway, data, is_over)) for _ in range(64)]
        started = time.monotonic()
        seconds = await _post_calmly(gateway, 50)
        lasted = time.monotonic() - started
        is_over.set()
        floods_statuses = await asyncio.gather(*floods)
        assert seconds[-1] < 8.0
        served = sum(statuses.get(200, 0) for statuses in floods_statuses)
        shed = sum(statuses.get(503, 0) for statuses in floods_statuses)
        assert served <= RATE * (lasted + 9)  # the burst, and a second for the last answers
        assert shed > served
        counted = gateway.counted()
        assert counted["refused:RateLimited"] == shed
        assert counted["visit"] + counted["repeat"] == served + 50
        assert await gateway.meters("flooded") == {"visits": 1, "repeats": served - 1, "refused": shed}
        assert await gateway.meters("wifi") == {"visits": 50}


async def test_posts_of_eight_seconds_that_are_read_at_once_are_accepted(tmp_path: Path) -> None:
    """A sender below the rate loses nothing while the gateway is stalled."""
    async with gateways.running(tmp_path, MANIFESTS) as gateway:
        answers = await asyncio.gather(*[gateway.post(visit(number)) for number in range(8 * RATE)])
        assert all(answer.acknowledges for answer in answers)


async def test_listener_over_its_rate_is_refused_after_a_second(tmp_path: Path) -> None:
    manifests = gateways.MANIFESTS.replace("requestsPerSecond: 100000", "requestsPerSecond: 1")
    async with gateways.running(tmp_path, manifests) as gateway:
        started = time.monotonic()
        posts = [asyncio.create_task(gateway.post(visit(number))) for number in range(100)]
        refused = [answer for answer in await asyncio.gather(*posts) if answer.status == 503]
        assert refused
        assert all(answer.headers["retry-after"] for answer in refused)
        assert time.monotonic() - started >= 1.0
        assert gateway.counted()["refused:RateLimited"] == len(refused)


async def test_refusals_of_a_flood_wait_and_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered at full speed, 9,000 connections of a stranger delay the visits of all tenants by more than 8 s."""
    monkeypatch.setattr(pipeline, "_REFUSALS_PER_SECOND", 0.001)
    limits = server.ServerLimits(connections=3, answer_seconds=60)
    async with gateways.running(tmp_path, limits=limits) as gateway, contextlib.AsyncExitStack() as stack:
        floods = [await stack.enter_async_context(wire.connect(gateway.port)) for _ in range(3)]
        for flood in floods:
            await flood.send(wire.request("/nowhere", visit(1)))
        await waiting.wait_until(lambda: gateway.counted() == {"refused:NotFound": 3})
        async with wire.connect(gateway.port) as connection:
            await connection.send(wire.request(gateway.target(), visit(2)))
            assert (await connection.answer()).acknowledges
            public = gateway.gateway.server
            assert public.displaced == 1
            assert sorted(connected.answered for connected in public.connections) == [0, 0, 1]
            closings = [asyncio.create_task(flood.is_closed()) for flood in floods]
            done, others = await asyncio.wait(closings, return_when=asyncio.FIRST_COMPLETED)
            assert [closing.result() for closing in done] == [True]
            for closing in others:
                closing.cancel()


async def test_requests_behind_a_refusal_that_waits_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_REFUSALS_PER_SECOND", 1.0)
    refused = wire.request("/nowhere", visit(1))
    async with gateways.running(tmp_path) as gateway, wire.connect(gateway.port) as connection:
        public = gateway.gateway.server
        await connection.send(refused)
        await waiting.wait_until(lambda: gateway.counted() == {"refused:NotFound": 1})
        await connection.send(wire.request(gateway.target(), visit(2)))
        assert (await gateway.post(visit(3))).acknowledges
        assert public.reading_bytes == len(refused)
        assert (await connection.answer()).status == 404
        assert (await connection.answer()).acknowledges


async def test_refusal_with_much_behind_it_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """aiohttp copies all bytes behind a request to parse the next one, which megabytes would make slow for all."""
    monkeypatch.setattr(pipeline, "_REFUSALS_PER_SECOND", 0.001)
    limits = server.ServerLimits(answer_seconds=600)
    async with gateways.running(tmp_path, limits=limits) as gateway, wire.connect(gateway.port) as connection:
        sending = asyncio.create_task(connection.send(wire.request("/nowhere", visit(1)) * 50_000))
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        await connection.is_closed()
        await asyncio.gather(sending, return_exceptions=True)
        assert gateway.counted() == {"refused:NotFound": 1}


async def test_refusal_of_an_incomplete_body_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_REFUSALS_PER_SECOND", 0.001)
    limits = server.ServerLimits(answer_seconds=600)
    async with gateways.running(tmp_path, limits=limits) as gateway, wire.connect(gateway.port) as connection:
        await connection.send(wire.request("/nowhere", visit(1))[:-1])
        answer = await connection.answer()
        assert (answer.status, answer.headers["connection"]) == (404, "close")


async def test_refusals_of_incomplete_bodies_take_no_turn_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered at once, so a flood of them would let the refusals of all tenants wait."""
    monkeypatch.setattr(pipeline, "_REFUSALS_PER_SECOND", 0.01)
    monkeypatch.setattr(pipeline, "_REFUSED_AT_ONCE_SECONDS", 150)
    limits = server.ServerLimits(answer_seconds=600)
    async with gateways.running(tmp_path, limits=limits) as gateway:
        for _ in range(3):
            async with wire.connect(gateway.port) as connection:
                await connection.send(wire.request("/nowhere", visit(1))[:-1])
                assert (await connection.answer()).status == 404
        assert (await wire.exchange(gateway.port, wire.request("/nowhere", visit(1)))).status == 404


async def test_single_refusals_are_answered_at_once(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, MANIFESTS, server.ServerLimits(answer_seconds=600)) as gateway:
        for _ in range(3):
            assert (await wire.exchange(gateway.port, wire.request("/nowhere", visit(1)))).status == 404


async def test_decompression_bombs_do_not_stop_other_tenants(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, MANIFESTS) as gateway:
        is_over = asyncio.Event()
        bomb = gzip.compress(b"\0" * (8 * 1024 * 1024 + 1), 9)
        data = wire.request(gateway.target("agency/flooded"), bomb, headers={"Content-Encoding": "gzip"})

        async def throw() -> int:
            thrown = 0
            while not is_over.is_set():
                answer = await wire.exchange(gateway.port, data)
                assert answer.status in {200, 503}
                thrown += 1
            return thrown

        throwers = [asyncio.create_task(throw()) for _ in range(8)]
        seconds = await _post_calmly(gateway, 60)
        is_over.set()
        thrown = sum(await asyncio.gather(*throwers))
        assert thrown > 20
        assert seconds[-1] < 8.0


async def test_expensive_bodies_affect_only_the_flooded_listener(tmp_path: Path) -> None:
    bomb = gzip.compress(gzip.compress(b'{"user":{"id":1},"text":"' + b"y" * (8 * 1024 * 1024 - 100) + b'"}'))
    manifests = (
        gateways.CLASS + gateways.TENANT + gateways.TENANT.replace("acme", "flood") + gateways.LISTENER + FLOODED
    )
    async with gateways.running(tmp_path, manifests) as gateway:
        data = wire.request(gateway.target("agency/flooded"), bomb, headers={"Content-Encoding": "gzip, gzip"})
        flood = [asyncio.create_task(wire.exchange(gateway.port, data)) for _ in range(40)]
        neighbours = await asyncio.gather(*[gateway.post(visit(user)) for user in range(20)])
        statuses = [(await answer).status for answer in flood]
        assert all(answer.acknowledges for answer in neighbours)
        counted = gateway.counted()
        assert statuses.count(503) == counted["refused:TooCostly"]
        assert 1 <= statuses.count(200) < 40  # how many, depends on the machine: the budget is CPU time
        assert statuses.count(200) + statuses.count(503) == 40
        assert counted["visit"] == 20


def _resident_megabytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Leave freeing memory to reference counts, as it is in a gateway, whose collector runs rarely."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection", "no_body_budgets")
@pytest.mark.parametrize("cut", [0, 9])
async def test_inflated_bodies_are_freed_at_once(tmp_path: Path, cut: int) -> None:
    async with gateways.running(tmp_path) as gateway:
        bomb = gzip.compress(b"\0" * 8 * 1024 * 1024, 9)
        data = wire.request(gateway.target(), bomb[: len(bomb) - cut], headers={"Content-Encoding": "gzip"})
        megabytes_before = _resident_megabytes()
        for _ in range(40):
            assert (await wire.exchange(gateway.port, data)).acknowledges
        assert _resident_megabytes() - megabytes_before < 100


@pytest.mark.parametrize("bad", [1, 5])
async def test_body_that_the_store_rejects_does_not_affect_others(tmp_path: Path, bad: int) -> None:
    async with gateways.running(tmp_path) as gateway:
        await hold.refuse_bodies_with(gateway.gateway.store, b"refuse me")
        bodies = [visit(user) for user in range(60)]
        for number in range(bad):
            bodies[number * 11] = json.dumps({"user": {"id": 1000 + number, "x": "refuse me"}}).encode()
        async with hold.held_before_commits(gateway.gateway.store):
            posts = [asyncio.create_task(gateway.post(body)) for body in bodies]
            await waiting.wait_until(lambda: gateway.gateway.pipeline.uncommitted == 60)
        answers = await asyncio.gather(*posts)
        assert all(answer.acknowledges for answer in answers)
        assert gateway.counted() == {"visit": 60 - bad, "quarantined": bad, "quarantined:Unstorable": bad}
        assert await gateway.meters() == {"visits": 60 - bad, "quarantined": bad}
