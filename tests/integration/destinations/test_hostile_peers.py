"""The client against hostile peers: each request ends within its time limit, in bounded memory, with the right code."""

import asyncio
import pathlib
import socket
import sys
import threading
import tracemalloc
import types
from collections.abc import AsyncIterator

import pytest

from support import peers
from usher_gateway.destinations import (
    MAX_ANSWER_BYTES,
    DestinationAnswer,
    DestinationRequest,
    SendError,
    address_guard,
    http,
    resolver,
)
from usher_gateway.destinations.http import DestinationClient

LIMIT_SECONDS = 0.5
SLACK_SECONDS = 3.0  # Extra time for a busy machine. The peers here would take much longer.
MEGABYTE = 1024 * 1024


def sending(tls: object = None) -> DestinationClient:
    return DestinationClient(guard=address_guard.AddressGuard(["127.0.0.1/32"]), tls=tls)  # type: ignore[arg-type]


@pytest.fixture
async def client() -> AsyncIterator[DestinationClient]:
    destination_client = sending()
    yield destination_client
    await destination_client.close()


async def attempt(client: DestinationClient, url: str, body: bytes = b"{}") -> DestinationAnswer:
    """Send one request, which must end within its time limit and leave no connection open."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer = await client.send(DestinationRequest("POST", url, [], body), LIMIT_SECONDS)
    assert loop.time() - started < LIMIT_SECONDS + SLACK_SECONDS
    assert client.idle_connections == 0
    return answer


async def test_hanging_peer_is_a_timeout(client: DestinationClient) -> None:
    async with peers.serving(peers.hanging) as peer:
        assert (await attempt(client, peer.url())).error is SendError.Timeout


async def test_thousands_of_answers_to_one_request_take_little_memory(client: DestinationClient) -> None:
    """aiohttp builds an object of 2 KB for each answer, and reads all of them at once."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with peers.serving(peers.answering(answer * 1_500)) as peer:
        tracemalloc.start()
        try:
            assert (await client.send(DestinationRequest("POST", peer.url(), [], b"{}"), LIMIT_SECONDS)).status == 200
            assert tracemalloc.get_traced_memory()[1] < MEGABYTE
        finally:
            tracemalloc.stop()


async def test_peer_that_drips_its_head_is_a_timeout(client: DestinationClient) -> None:
    drip = [bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"a" * 500]
    async with peers.serving(peers.answering(*drip, pause_seconds=0.01)) as peer:
        assert (await attempt(client, peer.url())).error is SendError.Timeout


async def test_peer_that_drips_its_body_has_answered(client: DestinationClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with peers.serving(peers.answering(head, *[b"x"] * 500, pause_seconds=0.01)) as peer:
        answer = await attempt(client, peer.url())
    assert answer.status == 200
    assert 0 < len(answer.body) < 1000


async def test_peer_without_a_body_costs_one_second() -> None:
    client = sending()
    async with peers.serving(peers.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as peer:
        started = asyncio.get_running_loop().time()
        answer = await client.send(DestinationRequest("POST", peer.url(), [], b""), 20)
        assert answer.status == 200
        assert asyncio.get_running_loop().time() - started < http.BODY_SECONDS + SLACK_SECONDS
    await client.close()


async def test_peer_that_resets_is_a_reset(client: DestinationClient) -> None:
    async with peers.serving(peers.resetting) as peer:
        assert (await attempt(client, peer.url())).error is SendError.Reset


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_peer_that_closes_within_its_head_is_a_reset(client: DestinationClient, sent: bytes) -> None:
    async with peers.serving(peers.answering(sent, keep=False)) as peer:
        assert (await attempt(client, peer.url())).error is SendError.Reset


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"<html>hello</html>\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nNo colon\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
async def test_malformed_answer_is_a_bad_answer(client: DestinationClient, sent: bytes) -> None:
    async with peers.serving(peers.answering(sent)) as peer:
        assert (await attempt(client, peer.url())).error is SendError.BadAnswer


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"Content-Length: 100\r\n\r\nshort", b"short"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", b"ab"),
        (b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nab", b""),
    ],
)
async def test_malformed_body_after_a_good_head_is_an_answer(
    client: DestinationClient, body: bytes, expected: bytes
) -> None:
    async with peers.serving(peers.answering(b"HTTP/1.1 200 OK\r\n" + body, keep=False)) as peer:
        answer = await attempt(client, peer.url())
    assert (answer.status, answer.body) == (200, expected)


@pytest.mark.parametrize("framing", [b"Content-Length: 314572800\r\n", b"", b"Content-Encoding: gzip\r\n"])
async def test_client_reads_one_kilobyte_of_300_megabytes(client: DestinationClient, framing: bytes) -> None:
    handler = peers.flooding(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n", b"x" * 65_536, 300 * MEGABYTE)
    async with peers.serving(handler) as peer:
        tracemalloc.start()
        answer = await attempt(client, peer.url())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (answer.status, answer.body) == (200, b"x" * MAX_ANSWER_BYTES)
    assert peer.written < 20 * MEGABYTE
    assert peak < 4 * MEGABYTE


@pytest.mark.parametrize(
    "chunk",
    [
        b"X-Flood: " + b"a" * 100 + b"\r\n",
        b"X: " + b"a" * 60_000 + b"\r\n",
        b"a" * 60_000,
        b"\r\n\r\nHTTP/1.1 100 Continue\r\n" * 100,
    ],
)
async def test_endless_head_is_a_bad_answer(client: DestinationClient, chunk: bytes) -> None:
    async with peers.serving(peers.flooding(b"HTTP/1.1 102 Processing\r\n", chunk, 300 * MEGABYTE)) as peer:
        tracemalloc.start()
        answer = await attempt(client, peer.url())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert answer.error is SendError.BadAnswer
    assert peer.written < 20 * MEGABYTE
    assert peak < 4 * MEGABYTE


@pytest.mark.parametrize(("length", "is_accepted"), [(3_000, True), (5_000, False)])
async def test_interim_heads_have_a_limit_of_bytes(client: DestinationClient, length: int, is_accepted: bool) -> None:
    """aiohttp keeps all their fields in memory until the final head."""
    hint = b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </style.css>\r\n" * 20 + b"\r\n"
    answer = hint * (length // len(hint)) + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with peers.serving(peers.answering(answer)) as peer:
        status = (await client.send(DestinationRequest("POST", peer.url(), [], b"{}"), LIMIT_SECONDS)).status
    assert (status == 200) is is_accepted


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b""])
async def test_answer_of_blank_lines_is_not_read_line_by_line(client: DestinationClient, head: bytes) -> None:
    calls = 0

    def count(frame: types.FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    async with peers.serving(peers.answering(head + b"\r\n\r\n" * 15_000)) as peer:
        sys.setprofile(count)
        try:
            await client.send(DestinationRequest("POST", peer.url(), [], b"{}"), LIMIT_SECONDS)
        finally:
            sys.setprofile(None)
    assert calls < 15_000


async def test_costly_answer_is_charged_and_an_ordinary_one_is_free(client: DestinationClient) -> None:
    ordinary = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    small_chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000

    async def charged(answer: bytes, count: int) -> int:
        charges: list[float] = []
        async with peers.serving(peers.answering(answer)) as peer:
            for _ in range(count):
                request = DestinationRequest("POST", peer.url(), [], b"", charge=charges.append)
                assert (await client.send(request, 5)).status == 200
        return len(charges)

    assert await charged(small_chunks, 2) == 2
    assert await charged(ordinary, 20) < 20  # a slow machine may take too long for some


async def test_endless_chunk_extension_is_cut(client: DestinationClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    async with peers.serving(peers.flooding(head, b"a" * 60_000, 300 * MEGABYTE)) as peer:
        answer = await attempt(client, peer.url())
    assert answer.status == 200
    assert peer.written < 20 * MEGABYTE


async def test_answer_before_the_whole_request_is_sent_is_an_answer(client: DestinationClient) -> None:
    async def early(peer: peers.Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with peers.serving(early) as peer:
        assert (await attempt(client, peer.url(), b"x" * 32 * MEGABYTE)).status == 413


async def test_peer_that_reads_nothing_is_a_timeout(client: DestinationClient) -> None:
    async def deaf(peer: peers.Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with peers.serving(deaf) as peer:
        assert (await attempt(client, peer.url(), b"x" * 32 * MEGABYTE)).error is SendError.Timeout


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("body", [b"hello", b"HTTP/1.1 200 Forged\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("header", ["", "Content-Length: {}\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_body_of_an_answer_without_one_is_no_answer_to_the_next_request(
    status: int, body: bytes, header: str
) -> None:
    """RFC 9112 §6.3: 204 and 304 have no body. A peer may send one all the same, in the same segment or a later one."""
    client = sending()

    async def answers(peer: peers.Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.read(reader)
        if peer.connections == 1:
            writer.write(f"HTTP/1.1 {status} First\r\n{header.format(len(body))}\r\n".encode() + body)
            await peer.read(reader)
        writer.write(b"HTTP/1.1 500 Real\r\nContent-Length: 0\r\n\r\n")
        await reader.read(1)

    async with peers.serving(answers) as peer:
        first = await client.send(DestinationRequest("POST", peer.url(), [], b""), 5)
        assert first.status in {0, status}
        assert (await client.send(DestinationRequest("POST", peer.url(), [], b""), 5)).status == 500
    await client.close()


async def test_tls_connection_with_a_valid_certificate_is_reused(tmp_path: pathlib.Path) -> None:
    authority = peers.Authority(tmp_path)
    client = sending(authority.trusting())
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with peers.serving(peers.answering(ok), authority.serving("127.0.0.1")) as peer:
        for _ in range(3):
            answer = await client.send(DestinationRequest("POST", peer.url(scheme="https"), [], b"{}"), 5)
            assert answer.status == 200
        assert peer.connections == 1
    await client.close()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("name", SendError.TLSNameMismatch),
        ("expired", SendError.TLSDateInvalid),
        ("authority", SendError.TLSAuthorityUnknown),
        ("plain", SendError.Timeout),
    ],
)
async def test_error_says_what_is_wrong_with_a_certificate(
    tmp_path: pathlib.Path, wrong: str, error: SendError
) -> None:
    authority = peers.Authority(tmp_path)
    tls = authority.serving("other.example" if wrong == "name" else "127.0.0.1", days=-1 if wrong == "expired" else 30)
    client = sending(None if wrong == "authority" else authority.trusting())
    handler = peers.answering(b"HTTP/1.1 400 This is HTTP\r\n\r\n", keep=False)
    async with peers.serving(handler, None if wrong == "plain" else tls) as peer:
        answer = await attempt(client, peer.url(scheme="https"))
    assert answer.error is error
    assert peer.requests == []
    await client.close()


async def test_endless_handshake_is_a_timeout(client: DestinationClient) -> None:
    async def silent(peer: peers.Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with peers.serving(silent) as peer:
        assert (await attempt(client, peer.url(scheme="https"))).error is SendError.Timeout


async def test_silent_name_server_does_not_delay_other_destinations() -> None:
    silence = threading.Event()

    def lookup(host: str, port: int) -> list[resolver.SocketAddress]:
        if host == "127.0.0.1":
            return [(socket.AF_INET, ("127.0.0.1", port))]
        silence.wait(20)
        raise OSError("nothing")

    client = DestinationClient(guard=address_guard.AddressGuard(["127.0.0.1/32"]), resolver=resolver.Resolver(lookup))
    async with peers.serving(peers.answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as peer:
        broken = DestinationRequest("POST", "http://broken.example/", [], b"")
        waiting = [asyncio.create_task(client.send(broken, LIMIT_SECONDS)) for _ in range(50)]
        answer = await client.send(DestinationRequest("POST", peer.url(), [], b""), LIMIT_SECONDS)
        assert answer.status == 200
        assert {(await task).error for task in waiting} == {SendError.NameNotResolved}
    silence.set()
    await client.close()


async def test_bad_peers_leave_no_file_descriptor_open(client: DestinationClient) -> None:
    def to_peers() -> int:
        """Count the sockets of this process that are connected to a peer."""
        return sum(f"{port:04X}" in line.split()[2] for line in _connections() for port in ports)

    async with peers.serving(peers.answering(b"garbage\r\n\r\n")) as bad, peers.serving(peers.hanging) as hangs:
        ports = [bad.port, hangs.port]
        for peer in (bad, hangs):
            await asyncio.gather(*[attempt(client, peer.url()) for _ in range(20)])
        assert (bad.connections, hangs.connections) == (20, 20)
        async with asyncio.timeout(60):
            while to_peers():  # noqa: ASYNC110 - the kernel sends no event
                await asyncio.sleep(0.01)


def _connections() -> list[str]:
    """Return the established connections of this machine as the kernel lists them (state 01)."""
    lines = pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if line.split()[3] == "01"]
