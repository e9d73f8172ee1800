"""Time limits: an answer is sent before Purple times out, whatever the store or the sender does."""

import asyncio
import contextlib
import functools
import json
import time
from pathlib import Path

import pytest

from support import gateway as gateways
from support import hold, segments, waiting, wire
from support.gateway import visit
from usher_gateway.ingest import cpu_limits, server

SHORT = server.ServerLimits(answer_seconds=1.0, header_seconds=0.4, idle_seconds=2.5)


async def test_requests_get_503_within_8_seconds_if_the_store_hangs(tmp_path: Path) -> None:
    async with (
        gateways.running(tmp_path) as gateway,
        wire.connect(gateway.port) as first,
        wire.connect(gateway.port) as later,
    ):
        await later.send(wire.request(gateway.target(), visit(1)))
        assert (await later.answer()).acknowledges
        async with hold.held_before_commits(gateway.gateway.store):
            started = time.monotonic()
            await asyncio.gather(
                later.send(wire.request(gateway.target(), visit(2))),
                first.send(wire.request(gateway.target(), visit(3))),
            )
            answers = await asyncio.gather(later.answer(), first.answer())
            seconds = time.monotonic() - started
        assert [(answer.status, answer.has_header) for answer in answers] == [(503, False)] * 2
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert 6 < seconds < 8
        await later.send(wire.request(gateway.target(), visit(2)))
        assert (await later.answer()).acknowledges
        assert gateway.counted() == {"visit": 2, "refused:Deadline": 2}
        assert await gateway.meters() == {"visits": 2, "refused": 2}


async def test_pipelined_requests_get_503_in_time_if_the_store_hangs(tmp_path: Path) -> None:
    async with (
        gateways.running(tmp_path, limits=SHORT) as gateway,
        hold.held_before_commits(gateway.gateway.store),
        wire.connect(gateway.port) as connection,
    ):
        started = time.monotonic()
        await connection.send(b"".join([wire.request(gateway.target(), visit(user)) for user in range(40)]))
        assert [(await connection.answer()).status for _ in range(40)] == [503] * 40
        assert time.monotonic() - started < 10 * SHORT.answer_seconds  # if each request waited for the whole time, 40


async def test_first_request_is_timed_from_the_connection(tmp_path: Path) -> None:
    limits = server.ServerLimits(answer_seconds=3.0, header_seconds=2.8)
    async with (
        gateways.running(tmp_path, limits=limits) as gateway,
        hold.held_before_commits(gateway.gateway.store),
        wire.connect(gateway.port) as connection,
    ):
        started = time.monotonic()
        await asyncio.sleep(1.5)
        await connection.send(wire.request(gateway.target(), visit(1)))
        assert (await connection.answer()).status == 503
        assert time.monotonic() - started < 1.5 + limits.answer_seconds


async def test_arrival_committed_after_its_503_is_unacknowledged(
    tmp_path: Path,
) -> None:
    async with gateways.running(tmp_path, limits=SHORT) as gateway:
        async with hold.held_in_commits(gateway.gateway.store) as is_held:
            answer = await gateway.post(visit(1))
            assert (answer.status, answer.has_header) == (503, False)
            assert is_held.is_set()
            assert gateway.counted() == {}
        await waiting.wait_until(lambda: gateway.counted() != {})
        assert gateway.counted() == {"visit": 1, "unacknowledged": 1}
        assert await gateway.meters() == {"visits": 1, "unacknowledged": 1}
        assert (await gateway.post(visit(1))).acknowledges
        assert gateway.counted() == {"visit": 1, "unacknowledged": 1, "redelivery": 1}
        assert await gateway.meters() == {"visits": 1, "unacknowledged": 1, "redeliveries": 1}


async def test_arrival_committed_for_a_closed_connection_is_unacknowledged(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, limits=SHORT) as gateway:
        async with hold.held_in_commits(gateway.gateway.store) as is_held, wire.connect(gateway.port) as connection:
            await connection.send(wire.request(gateway.target(), visit(1)))
            await waiting.wait_until(is_held.is_set)
            connection.abort()
            await waiting.wait_until(lambda: not gateway.gateway.server.connections)
        await waiting.wait_until(lambda: gateway.counted() != {})
        assert gateway.counted() == {"visit": 1, "unacknowledged": 1}
        assert await gateway.meters() == {"visits": 1, "unacknowledged": 1}
        assert (await gateway.post(visit(1))).acknowledges
        assert gateway.counted()["redelivery"] == 1


async def test_queue_of_one_tenant_is_limited_and_others_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_limits, "ORDINARY_SECONDS", 1.0)  # else the CPU time of these bodies limits them first
    other = gateways.LISTENER.replace("{name: wifi,", "{name: other,").replace("acme", "zeta")
    manifests = gateways.MANIFESTS + gateways.TENANT.replace("acme", "zeta") + other
    limits = server.ServerLimits(reading_bytes=1024 * 1024 * 1024)  # else some of these bodies give way first
    async with gateways.running(tmp_path, manifests, limits) as gateway:
        async with hold.held_before_commits(gateway.gateway.store):
            body = json.dumps({"user": {"id": 1}, "x": "y" * 250_000}).encode()
            connections = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(140)]
            for _, writer in connections:
                writer.write(wire.request(gateway.target(), body))
            await waiting.wait_until(lambda: gateway.counted().get("refused:QueueFull", 0) > 0)
            neighbour = asyncio.create_task(gateway.post(visit(7), "agency/other"))
            shed = gateway.gateway.counters.refused
            await waiting.wait_until(lambda: gateway.gateway.pipeline.uncommitted + shed["QueueFull"] == 141)
        assert (await neighbour).acknowledges
        answers = [await wire.read_answer(reader) for reader, _ in connections]
        for _, writer in connections:
            writer.close()
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 503}
        assert gateway.counted()["refused:QueueFull"] == statuses.count(503)
        assert all(answer.has_header == (answer.status == 200) for answer in answers)


async def test_slowly_sent_header_is_refused(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        dripping = asyncio.create_task(_drip(connection, wire.request("/v1/x", visit(1)), 0.05))
        assert (await connection.answer()).status == 408
        await asyncio.gather(dripping, return_exceptions=True)
        assert gateway.counted() == {"refused:BodyTimeout": 1}


async def test_slowly_sent_body_is_refused_at_the_deadline(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        request = wire.request(gateway.target(), visit(1) + b" " * 100)
        head, body = request[:-136], request[-136:]
        started = time.monotonic()
        await connection.send(head)
        dripping = asyncio.create_task(_drip(connection, body, 0.05))
        answer = await connection.answer()
        assert (answer.status, answer.has_header) == (408, False)
        assert time.monotonic() - started < 5  # the whole body would take 6.8 s
        assert answer.headers["connection"] == "close"
        await asyncio.gather(dripping, return_exceptions=True)
        assert gateway.counted() == {"refused:BodyTimeout": 1}
        assert await gateway.meters() == {"refused": 1}


async def _drip(connection: wire.Wire, data: bytes, seconds: float) -> None:
    for at in range(len(data)):
        await connection.send(data[at : at + 1])
        await asyncio.sleep(seconds)


async def test_silent_connection_is_closed_without_an_answer(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        assert await connection.is_closed()
        assert gateway.counted() == {}


async def test_idle_connection_is_kept_longer_than_the_header_limit(tmp_path: Path) -> None:
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        for body in (b"", visit(1)):
            await connection.send(wire.request(gateway.target(), body))
            assert (await connection.answer()).acknowledges
            await asyncio.sleep(1.0)
        started = time.monotonic()
        assert await connection.is_closed()
        assert time.monotonic() - started > 1.0
        assert sum(gateway.counted().values()) == 2


async def test_connection_beyond_the_limit_gets_503_if_all_are_busy(tmp_path: Path) -> None:
    limits = server.ServerLimits(connections=2)
    async with gateways.running(tmp_path, limits=limits) as gateway, contextlib.AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(wire.connect(gateway.port)) for _ in range(2)]
        async with hold.held_before_commits(gateway.gateway.store):
            for number, connection in enumerate(busy):
                await connection.send(wire.request(gateway.target(), visit(number)))
            await waiting.wait_until(lambda: gateway.gateway.pipeline.uncommitted == 2)
            answer = await gateway.post(visit(3))
            assert (answer.status, answer.has_header) == (503, False)
        assert all([(await connection.answer()).acknowledges for connection in busy])
        assert gateway.counted() == {"visit": 2, "refused:QueueFull": 1}


async def test_idle_strangers_give_way_to_new_connections(tmp_path: Path) -> None:
    limits = server.ServerLimits(connections=5)
    async with gateways.running(tmp_path, limits=limits) as gateway, contextlib.AsyncExitStack() as stack:
        acquaintance = await stack.enter_async_context(wire.connect(gateway.port))
        await acquaintance.send(wire.request(gateway.target(), visit(1)))
        assert (await acquaintance.answer()).acknowledges
        strangers = [await stack.enter_async_context(wire.connect(gateway.port)) for _ in range(4)]
        for stranger in strangers:
            await stranger.send(wire.request("/nothing/here", visit(1)))
            assert (await stranger.answer()).status == 404
        for number in range(2, 8):
            assert (await gateway.post(visit(number))).acknowledges
        assert await strangers[0].is_closed()
        await acquaintance.send(wire.request(gateway.target(), visit(9)))
        assert (await acquaintance.answer()).acknowledges
        assert gateway.counted() == {"visit": 8, "refused:NotFound": 4}
        assert gateway.gateway.server.displaced > 0


async def test_one_source_cannot_use_up_all_connections(tmp_path: Path) -> None:
    limits = server.ServerLimits(connections_per_source=3)
    async with gateways.running(tmp_path, limits=limits) as gateway, contextlib.AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(wire.connect(gateway.port)) for _ in range(6)]
        assert await silent[0].is_closed()
        await waiting.wait_until(lambda: len(gateway.gateway.server.connections) == 3)
        assert (await gateway.post(visit(1))).acknowledges


async def test_largest_unfinished_body_of_a_listener_gives_way(tmp_path: Path) -> None:
    limits = server.ServerLimits(reading_bytes=4_000_000)  # 1 MB for each listener
    async with gateways.running(tmp_path, limits=limits) as gateway:
        public = gateway.gateway.server
        async with wire.connect(gateway.port) as large, wire.connect(gateway.port) as small:
            await large.send(wire.request(gateway.target(), b"x" * 2_000_000)[:900_000])
            await waiting.wait_until(lambda: public.reading_bytes > 400_000)
            await small.send(wire.request(gateway.target(), b"x" * 2_000_000)[:300_000])
            assert (await large.answer()).status == 408
            await waiting.wait_until(lambda: 200_000 < public.reading_bytes < 400_000)
        await waiting.wait_until(lambda: not public.connections)
        assert public.reading_bytes == 0
        assert public.displaced_bodies == {"agency/wifi": 1}
        assert gateway.counted() == {"refused:BodyTimeout": 1, "refused:Disconnected": 1}


async def test_oldest_unfinished_body_of_a_listener_gives_way(tmp_path: Path) -> None:
    limits = server.ServerLimits(connections=16, answer_seconds=60.0)  # 4 unfinished bodies for each listener
    async with gateways.running(tmp_path, limits=limits) as gateway, contextlib.AsyncExitStack() as stack:
        public = gateway.gateway.server

        def began(count: int) -> bool:
            return len(public.bodies) + sum(public.displaced_bodies.values()) == count

        unfinished = []
        for number in range(6):
            connection = await stack.enter_async_context(wire.connect(gateway.port))
            await connection.send(wire.request(gateway.target(), visit(number))[:-1])
            await waiting.wait_until(functools.partial(began, number + 1))
            unfinished.append(connection)
        assert [(await connection.answer()).status for connection in unfinished[:2]] == [408, 408]
        for connection in unfinished[2:]:
            await connection.send(b"}")
            assert (await connection.answer()).acknowledges
        assert public.displaced_bodies == {"agency/wifi": 2}
        assert gateway.counted() == {"visit": 4, "refused:BodyTimeout": 2}
        assert (await gateway.meters())["refused"] == 2


def overloaded(public: server.PublicServer) -> int:
    """Count the connections that get a 503 because all bytes together exceed the limit."""
    return sum(connection.is_overloaded for connection in public.connections)


async def test_pipelined_bytes_count_towards_the_limit_of_bodies(tmp_path: Path) -> None:
    """The limit holds for all connections together, because each one alone may pipeline a little."""
    limits = server.ServerLimits(reading_bytes=500_000)
    async with gateways.running(tmp_path, limits=limits) as gateway, contextlib.AsyncExitStack() as stack:
        public, pipeline = gateway.gateway.server, gateway.gateway.pipeline
        connections = [await stack.enter_async_context(wire.connect(gateway.port)) for _ in range(20)]
        first = wire.request(gateway.target(), segments.visit(0))
        pipelined = b"".join([wire.request(gateway.target(), segments.visit(number, 10_000)) for number in range(1, 6)])
        async with hold.held_before_commits(gateway.gateway.store):
            for connection in connections:
                await connection.send(first)
            await waiting.wait_until(lambda: pipeline.uncommitted == 20)
            sending = [asyncio.create_task(connection.send(pipelined)) for connection in connections]
            await waiting.wait_until(lambda: public.reading_bytes > 400_000)
            await waiting.wait_until(lambda: overloaded(public) > 0)
            assert public.reading_bytes <= limits.reading_bytes
        answers = [await connection.answer() for connection in connections]
        assert all(answer.acknowledges for answer in answers)
        second = [(await connection.answer()).status for connection in connections]
        shed = second.count(503)
        assert shed > 0
        assert set(second) <= {200, 503}
        await asyncio.gather(*sending, return_exceptions=True)
        assert gateway.counted()["refused:QueueFull"] == shed
    assert public.reading_bytes == 0


@pytest.mark.parametrize("size", [20, 2_000, 100_000])
async def test_connection_with_much_behind_its_request_ends(tmp_path: Path, size: int) -> None:
    """Of what is behind the request, the gateway reads what one read from the socket brings, and a little more."""
    async with gateways.running(tmp_path) as gateway, wire.connect(gateway.port) as connection:
        public, pipeline = gateway.gateway.server, gateway.gateway.pipeline
        async with hold.held_before_commits(gateway.gateway.store):
            await connection.send(wire.request(gateway.target(), segments.visit(0)))
            await waiting.wait_until(lambda: pipeline.uncommitted == 1)
            pipelined = [wire.request(gateway.target(), segments.visit(user, size)) for user in range(900_000 // size)]
            sending = asyncio.create_task(connection.send(b"".join(pipelined)))
            await waiting.wait_until(lambda: public.reading_bytes > 70_000)
            assert (await gateway.post(b"")).acknowledges
            assert public.reading_bytes < 400_000
        answer = await connection.answer()
        assert (answer.acknowledges, answer.headers["connection"]) == (True, "close")
        await connection.is_closed()
        await asyncio.gather(sending, return_exceptions=True)
    assert public.reading_bytes == 0


async def test_connection_with_a_large_header_ends(tmp_path: Path) -> None:
    async with gateways.running(tmp_path) as gateway:
        for count, expected in ((7, None), (9, "close")):
            headers = {f"X-{number}": "x" * 8_000 for number in range(count)}
            answer = await wire.exchange(gateway.port, wire.request(gateway.target(), visit(count), headers=headers))
            assert (answer.acknowledges, answer.headers.get("connection")) == (True, expected)


async def test_stopping_gateway_answers_requests_in_progress(tmp_path: Path) -> None:
    async with (
        gateways.running(tmp_path, limits=SHORT, drain_seconds=5.0) as gateway,
        hold.held_before_commits(gateway.gateway.store),
        wire.connect(gateway.port) as connection,
    ):
        await connection.send(wire.request(gateway.target(), visit(1)))
        await waiting.wait_until(lambda: gateway.gateway.pipeline.uncommitted)
        gateway.gateway.stop()
        assert (await connection.answer()).status == 503
