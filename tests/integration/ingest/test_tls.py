"""The public port over TLS with unusual records and segments: same answers as over plain TCP, and no leaks."""

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support import certificates, segments, tls_wire, waiting, wire
from support import gateway as gateways
from usher_gateway.ingest import pipeline, server

SHORT = server.ServerLimits(answer_seconds=1.5, header_seconds=0.5, idle_seconds=30)
STUCK_BYTES = 64 * 1024
ANSWER_BYTES = 400  # The most bytes of an answer


def open_sockets() -> int:
    """Count the sockets of this process, including those in a handshake."""
    count = 0
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            count += str(file.readlink()).startswith("socket:")
    return count


class Port(msgspec.Struct, frozen=True):
    """A gateway's TLS port with a client's context, and a plain port of the same gateway."""

    gateway: gateways.RunningGateway
    context: ssl.SSLContext
    plain: int

    @property
    def server(self) -> server.PublicServer:
        return self.gateway.gateway.server

    async def wait_nothing_left(self, files: int) -> None:
        """Wait until no connection is left, including those in a handshake, and no bytes are counted."""
        await waiting.wait_until(lambda: not self.server.connections and open_sockets() <= files)
        assert (self.server.reading_bytes, self.server.lingering) == (0, 0)
        assert "refused:InternalError" not in self.gateway.counted()


@contextlib.asynccontextmanager
async def serving(folder: Path, limits: server.ServerLimits = SHORT) -> AsyncIterator[Port]:
    certificate = certificates.make("gateway")
    cert, key = certificates.write(folder, *certificate)
    async with gateways.running(folder, tls_cert=cert, tls_key=key, limits=limits) as gateway:
        plain = await asyncio.get_running_loop().create_server(gateway.gateway.server, "127.0.0.1", 0)
        try:
            yield Port(gateway, certificates.trusting(certificate[0]), plain.sockets[0].getsockname()[1])
        finally:
            plain.close()


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    async with serving(tmp_path) as ready:
        yield ready


def last(target: str, user: int, rng: random.Random) -> bytes:
    """Return a last request, which closes the connection."""
    extra = rng.choice(({"Connection": "close"}, {"Connection": "Upgrade, close", "Upgrade": "h2c"}))
    return wire.request(target, segments.visit(user), headers=extra)


def comparable(received: bytes) -> bytes:
    """Remove dates and ``100 Continue``, which depends on whether the body came with the header."""
    received = received.replace(segments.CONTINUE, b"")
    return b"\r\n".join(line for line in received.split(b"\r\n") if not line.startswith(b"Date:"))


async def plain_answers(port: int, pieces: list[bytes]) -> bytes:
    async with wire.connect(port) as connection:
        connection.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # the gateway may have ended it meanwhile
            for piece in pieces:
                await connection.send(piece)
                await asyncio.sleep(0)
        async with asyncio.timeout(60):
            return comparable(await connection.reader.read(-1))


async def tls_answers(port: Port, data: bytes, rng: random.Random) -> tuple[bytes, bytes]:
    """Send data in random records and random segments; return the answers and the bytes sent."""
    async with tls_wire.connect(port.gateway.port, port.context) as client:
        await client.shake_hands()
        sent = client.records(segments.cut(data, rng))
        with contextlib.suppress(ConnectionError):  # the gateway may have ended it meanwhile
            await client.send(segments.cut(sent, rng))
        return comparable(await client.read_all()), sent


async def test_answers_are_the_same_for_any_segments_with_and_without_tls(tmp_path: Path) -> None:
    async with serving(tmp_path, server.ServerLimits()) as port:
        await compare_answers(port)


async def compare_answers(port: Port) -> None:
    files = open_sockets()
    target = port.gateway.target()

    async def compare(number: int) -> None:
        rng = random.Random(number)
        parts = [segments.request(target, number * 100 + n, rng) for n in range(rng.randrange(7))]
        data = b"".join(parts) + last(target, number * 100 + 99, rng)
        expected = await plain_answers(port.plain, [data])
        assert expected.count(b"HTTP/1.1 ") > len(parts)
        for _ in range(2):
            assert await plain_answers(port.plain, segments.cut(data, rng)) == expected, (number, data[:2000])
            answers, sent = await tls_answers(port, data, rng)
            assert answers == expected, (number, data[:2000], data[-200:], len(sent))

    await asyncio.gather(*(compare(number) for number in range(16)))
    await port.wait_nothing_left(files)


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("sends_on", [False, True])
async def test_sender_that_reads_no_answers_is_disconnected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_tls: bool, sends_on: bool
) -> None:
    """This includes a sender that stops with a few answers unsent, for which a plain close would wait."""
    monkeypatch.setattr(pipeline, "_REFUSALS_PER_SECOND", 1_000_000)  # the answers are refusals
    limits = msgspec.structs.replace(SHORT, idle_seconds=1.0)
    async with serving(tmp_path, limits) as port:
        files = open_sockets()
        number = port.gateway.port if is_tls else port.plain
        async with tls_wire.connect(number, port.context, receive_bytes=1024) as client:
            if is_tls:
                await client.shake_hands()
            client.read_no_more()
            connection = await only_connection(port.server)
            assert connection.transport is not None
            sending = connection.transport.get_extra_info("socket")
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # otherwise the kernel takes megabytes
            await fill(port, client, is_tls=is_tls, sends_on=sends_on)
            assert 0 < connection.transport.get_write_buffer_size() < STUCK_BYTES + 20 * ANSWER_BYTES
            assert bool(connection.paused_since) is sends_on
            asked = wire.request(port.gateway.target(), segments.visit(1))
            assert (await wire.exchange(port.plain, asked)).acknowledges
            await waiting.wait_until(lambda: not port.server.connections)
        await port.wait_nothing_left(files)


async def only_connection(public: server.PublicServer) -> server.Connection:
    await waiting.wait_until(lambda: len(public.connections) == 1)
    (connection,) = public.connections
    return connection


async def fill(port: Port, client: tls_wire.Client, *, is_tls: bool, sends_on: bool) -> None:
    """Send until answers wait in the gateway: a few, or as many as its buffer allows."""
    (connection,) = port.server.connections
    assert connection.transport is not None
    transport = connection.transport
    many = wire.request("/nowhere", method="GET") * 100
    for count in itertools.count(1):
        await client.send([client.records([many]) if is_tls else many])
        await waiting.wait_until(
            lambda count=count: connection.paused_since or port.gateway.counted().get("refused:NotFound") == count * 100
        )
        if connection.paused_since if sends_on else transport.get_write_buffer_size():
            return


@pytest.mark.parametrize("end", ["reset", "end", "silence"])
async def test_broken_connection_is_closed_and_delays_no_others(port: Port, end: str) -> None:
    files, rng = open_sockets(), random.Random(end)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(24):
            client = await stack.enter_async_context(tls_wire.connect(port.gateway.port, port.context))
            await begin(port, client, number % 3, rng)
            if end == "reset":
                client.abort()
            elif end == "end":
                client.writer.write_eof()
        started = time.monotonic()
        async with wire.connect(port.gateway.port, port.context) as neighbour:
            await neighbour.send(wire.request(port.gateway.target(), segments.visit(1)))
            assert (await neighbour.answer()).acknowledges
        # until it is answered, lingers, and its answer is taken; the rest is for a slow machine
        most = started + SHORT.answer_seconds + 2 + SHORT.answer_seconds + 15
        await waiting.wait_until(lambda: not port.server.connections, seconds=most - time.monotonic())
    await port.wait_nothing_left(files)
    counted = port.gateway.counted()
    assert counted.pop("visit") == 1
    assert set(counted) <= {"refused:Disconnected", "refused:BodyTimeout", "refused:BadRequest"}


async def begin(port: Port, client: tls_wire.Client, kind: int, rng: random.Random) -> None:
    """Send part of a handshake, part of the first record, or a header and part of the body's record."""
    if kind == 0:
        hello = client.hello()
        await client.send([hello[: rng.randrange(1, len(hello))]])
        return
    await client.shake_hands()
    body = segments.visit(7)
    head = wire.request(port.gateway.target(), body)[: -len(body)]
    whole = client.records([head]) if kind == 2 else b""
    record = client.records([body if kind == 2 else head])
    await client.send([whole + record[: rng.randrange(1, len(record))]])


async def test_unfinished_handshakes_count_as_connections_and_give_way(tmp_path: Path) -> None:
    """Otherwise a stranger uses up the descriptors of the process, and shuts Purple and every destination out."""
    limits = msgspec.structs.replace(SHORT, header_seconds=20, connections=20)
    async with serving(tmp_path, limits) as port, contextlib.AsyncExitStack() as stack:
        files = open_sockets()
        clients = [
            await stack.enter_async_context(tls_wire.connect(port.gateway.port, port.context)) for _ in range(100)
        ]
        for client in clients[::2]:
            await client.send([client.hello()[:100]])
        await waiting.wait_until(lambda: open_sockets() <= files + len(clients) + limits.connections)
        assert port.server.displaced >= len(clients) - limits.connections
        async with wire.connect(port.gateway.port, port.context, "localhost") as connection:
            await connection.send(wire.request(port.gateway.target(), segments.visit(1)))
            assert (await connection.answer()).acknowledges
        await stack.aclose()
        await port.wait_nothing_left(files)


async def test_unfinished_handshake_does_not_delay_a_drain(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(SHORT, header_seconds=30)
    async with serving(tmp_path, limits) as port, tls_wire.connect(port.gateway.port, port.context) as client:
        await client.send([client.hello()])
        await waiting.wait_until(lambda: port.server.connections)
        async with asyncio.timeout(15):
            await port.server.drain(20)
        assert not port.server.connections
