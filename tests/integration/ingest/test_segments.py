"""Requests whose bytes end and begin in the middle of a segment are answered and timed, and no resources leak."""

import asyncio
import gc
import tracemalloc
from pathlib import Path

import pytest

from support import gateway as gateways
from support import segments, waiting, wire
from usher_gateway.ingest import server

SHORT = server.ServerLimits(answer_seconds=2.0, header_seconds=0.5, idle_seconds=30)


@pytest.mark.parametrize("is_busy", [False, True])
async def test_half_a_header_behind_a_request_ends_with_the_sender(
    gateway: gateways.RunningGateway, is_busy: bool
) -> None:
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(gateway.target(), segments.visit(1)) + b"POST / HTT")
        if is_busy:
            connection.send_eof()
        assert (await connection.answer()).acknowledges
        if not is_busy:
            connection.send_eof()
        assert await connection.is_closed()


@pytest.mark.parametrize("is_slow", [False, True])
async def test_half_a_header_behind_a_request_is_closed_after_the_header_limit(tmp_path: Path, is_slow: bool) -> None:
    """aiohttp does not report the beginning of a header, so the connection is closed without an answer."""
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        data = wire.request(gateway.target(), segments.visit(1))
        cut = 20 if is_slow else 0
        if is_slow:
            await connection.send(data[:-cut])
            await waiting.wait_until(
                lambda: any(open_connection.request for open_connection in gateway.gateway.server.connections)
            )
        await connection.send(
            (data[-cut:] if is_slow else data) + b"POST /next HTTP/1.1\r\nHost: hooks.test\r\nX-Long: " + b"x" * 40
        )
        assert (await connection.answer()).acknowledges
        assert await connection.is_closed()
    assert gateway.counted() == {"visit": 1}


async def test_each_of_many_pipelined_requests_has_its_own_time(tmp_path: Path) -> None:
    """Each segment here holds the end of one request and the beginning of the next."""
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        body = segments.visit(1, 5_000)  # so that a late server does not get more than 64 KiB beyond a body
        data = wire.request(gateway.target(), body)
        size, count = len(data), 40

        async def send() -> None:
            await connection.send(data * 2 + data[: size // 2])
            for _ in range(count):
                await asyncio.sleep(SHORT.answer_seconds * 2 / count)
                await connection.send(data[size // 2 :] + data[: size // 2])

        sending = asyncio.create_task(send())
        statuses = [(await connection.answer()).status for _ in range(count)]
        await sending
    assert statuses == [200] * count


@pytest.mark.parametrize("is_known", [True, False])
async def test_body_in_thousands_of_tiny_chunks_is_refused(gateway: gateways.RunningGateway, is_known: bool) -> None:
    """Each chunk takes as long as 100 bytes of a body, so a few senders could stop the event loop."""
    target = gateway.target() if is_known else "/nobody"
    async with wire.connect(gateway.port) as connection:
        connection.writer.write(wire.chunked(target, [b"x"] * 100_000))
        answer = await connection.answer()
        assert answer.status == (503 if is_known else 404)
        assert answer.headers["connection"] == "close"
    assert gateway.counted() == {"refused:TooCostly" if is_known else "refused:NotFound": 1}


async def test_body_in_some_tiny_chunks_and_many_ordinary_ones_is_read(gateway: gateways.RunningGateway) -> None:
    pieces = [b" "] * 500 + [b" " * 1_000] * 2_000 + [segments.visit(1)]
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.chunked(gateway.target(), pieces))
        assert (await connection.answer()).acknowledges
    assert "refused:TooCostly" not in gateway.counted()


@pytest.mark.parametrize("end", ["reset", "displaced"])
async def test_body_that_will_not_be_complete_is_released_at_once(gateway: gateways.RunningGateway, end: str) -> None:
    """The garbage collector runs rarely, and a sender can leave such a body behind 100 times a second."""
    public = gateway.gateway.server
    part = b"x" * 4_000_000
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(5):
            async with wire.connect(gateway.port) as connection:
                await connection.send(wire.request(gateway.target(), part + b"x")[:-1])
                await waiting.wait_until(lambda: public.reading_bytes > len(part))
                if end == "displaced":
                    next(iter(public.connections)).abandon_body()
                    assert (await connection.answer()).status == 408
                connection.abort()
            await waiting.wait_until(lambda: not public.connections)
        assert tracemalloc.get_traced_memory()[0] < len(part)
    finally:
        tracemalloc.stop()
        gc.enable()


async def test_bytes_that_aiohttp_drops_are_not_counted_for_ever(gateway: gateways.RunningGateway) -> None:
    """Else one kept connection could use up the limit of all connections together."""
    public = gateway.gateway.server
    probe = wire.request(gateway.target(), method="GET")
    padded = wire.request(gateway.target(), method="GET", headers={"X-Padded": " " * 7000 + "a"})
    async with wire.connect(gateway.port) as connection:
        for _ in range(50):
            await connection.send(padded)
            assert (await connection.answer()).acknowledges
            await asyncio.sleep(0)
        assert public.reading_bytes < 2 * len(padded)
        await connection.send(probe)
        assert (await connection.answer()).acknowledges
        assert public.reading_bytes <= len(probe)
    async with wire.connect(gateway.port) as connection:
        await connection.send(probe)
        assert (await connection.answer()).acknowledges
        await waiting.wait_until(lambda: public.reading_bytes == 0)
        await connection.send(b"\r\n" * 100_000)
        await asyncio.sleep(0.2)
        assert public.reading_bytes == 0
        await connection.send(probe)
        assert (await connection.answer()).acknowledges


async def test_half_a_header_behind_a_chunked_request_is_counted_and_timed(tmp_path: Path) -> None:
    part = b"GET / HTTP/1.1\r\n" + b"".join([b"X-%d: %s\r\n" % (number, b"a" * 4000) for number in range(10)])
    async with gateways.running(tmp_path, limits=SHORT) as gateway, wire.connect(gateway.port) as connection:
        await connection.send(wire.chunked(gateway.target(), [segments.visit(1)]) + part)
        assert (await connection.answer()).acknowledges
        assert gateway.gateway.server.reading_bytes >= len(part)
        assert await connection.is_closed()
        await waiting.wait_until(lambda: not gateway.gateway.server.connections)
        assert gateway.gateway.server.reading_bytes == 0
