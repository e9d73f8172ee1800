"""The client against well-behaved peers on loopback."""

import asyncio
import contextlib
import resource
import socket
import threading
from collections.abc import AsyncIterator

import pytest

from support import peers
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError, address_guard, http, resolver
from usher_gateway.destinations.http import DestinationClient

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nwifiWebhookListener: 1\r\n\r\nok"


def lookup(host: str, port: int) -> list[resolver.SocketAddress]:
    """Resolve the names of these tests without a name server."""
    if host in ("crm.example", "127.0.0.1"):
        return [(socket.AF_INET, ("127.0.0.1", port))]
    if host == "mixed.example":
        return [(socket.AF_INET, ("127.0.0.9", port)), (socket.AF_INET, ("127.0.0.1", port))]
    raise OSError("no such name")


@pytest.fixture
async def client() -> AsyncIterator[DestinationClient]:
    guard = address_guard.AddressGuard(["127.0.0.1/32"])
    destination_client = DestinationClient(guard=guard, resolver=resolver.Resolver(lookup))
    yield destination_client
    await destination_client.close()


def request_to(url: str, body: bytes = b'{"a":1}') -> DestinationRequest:
    return DestinationRequest("POST", url, [("content-type", "application/json"), ("webhook-id", "x")], body)


async def test_client_sends_the_request_and_returns_the_answer(client: DestinationClient) -> None:
    async with peers.serving(peers.answering(OK)) as peer:
        answer = await client.send(request_to(peer.url()), 5)
    assert (answer.status, answer.body, answer.error) == (200, b"ok", None)
    assert answer.headers["WIFIWEBHOOKLISTENER"] == "1"
    head = f"POST /hook?a=1 HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\ncontent-type: application/json\r\n"
    assert peer.requests == [f'{head}webhook-id: x\r\nContent-Length: 7\r\n\r\n{{"a":1}}'.encode()]


@pytest.mark.parametrize("body", [b"{}", b""], ids=["body", "no body"])
async def test_withdrawn_request_is_not_written(client: DestinationClient, body: bytes) -> None:
    async with peers.serving(peers.answering(OK)) as peer:
        for connections in (1, 2):  # the second time over a kept connection
            request = request_to(peer.url(), body)
            request.may_send = lambda: False
            assert await client.send(request, 5) == DestinationAnswer(is_withdrawn=True)
            assert peer.requests == []
            assert (await client.send(request_to(peer.url()), 5)).status == 200
            assert peer.connections == connections + 1
            peer.requests.clear()


@pytest.mark.parametrize("framing", [b"Content-Length: 60000\r\n\r\n", b"Connection: close\r\n\r\n"])
async def test_client_reads_an_answer_whole_whose_body_decides(client: DestinationClient, framing: bytes) -> None:
    body = b"[" + b"1," * 29_999 + b"]"
    async with peers.serving(peers.answering(b"HTTP/1.1 200 OK\r\n" + framing + body, keep=False)) as peer:
        request = request_to(peer.url())
        request.reads_answer = True
        answer = await client.send(request, 5)
    assert (answer.status, answer.is_complete, answer.body) == (200, True, body)


@pytest.mark.parametrize("sent", [b"Content-Length: 9\r\n\r\nok", b"Content-Length: 70000\r\n\r\n" + b"x" * 70_000])
async def test_client_says_if_a_body_is_cut_off_or_too_long(client: DestinationClient, sent: bytes) -> None:
    async with peers.serving(peers.answering(b"HTTP/1.1 200 OK\r\n" + sent, keep=False)) as peer:
        request = request_to(peer.url())
        request.reads_answer = True
        answer = await client.send(request, 5)
    assert (answer.status, answer.is_complete) == (200, False)


async def test_client_keeps_no_trace_of_a_secret_url(client: DestinationClient) -> None:
    http.parse_url.cache_clear()
    async with peers.serving(peers.answering(OK)) as peer:
        request = request_to(peer.url())
        request.is_url_secret = True
        assert (await client.send(request, 5)).status == 200
    assert http.parse_url.cache_info().currsize == 0


async def test_connection_is_reused(client: DestinationClient) -> None:
    async with peers.serving(peers.answering(OK)) as peer:
        for _ in range(20):
            assert (await client.send(request_to(peer.url()), 5)).status == 200
        assert (peer.connections, client.idle_connections) == (1, 1)


async def test_destinations_of_one_host_share_no_connection(client: DestinationClient) -> None:
    """Else the peer of one could answer the next request of another before it is sent."""
    async with peers.serving(peers.answering(OK)) as peer:
        for destination in ("agency/a", "agency/b", "rival/a", "agency/a"):
            request = request_to(peer.url())
            request.destination = destination
            assert (await client.send(request, 5)).status == 200
        assert (peer.connections, client.idle_connections) == (3, 3)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Again\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok???",
    ],
)
async def test_connection_with_a_doubtful_end_is_not_reused(client: DestinationClient, answer: bytes) -> None:
    async with peers.serving(peers.answering(answer)) as peer:
        for expected in (1, 2):
            got = await client.send(request_to(peer.url()), 5)
            assert (got.status, got.body) == (200, b"ok")
            assert (peer.connections, client.idle_connections) == (expected, 0)


@pytest.mark.parametrize("status", [204, 304])
async def test_answer_without_a_body_keeps_the_connection(client: DestinationClient, status: int) -> None:
    async with peers.serving(peers.answering(f"HTTP/1.1 {status} X\r\n\r\n".encode())) as peer:
        for _ in range(2):
            assert (await client.send(request_to(peer.url()), 5)).status == status
        assert peer.connections == 1


async def test_answer_that_ends_with_the_connection_is_complete(client: DestinationClient) -> None:
    async with peers.serving(peers.answering(b"HTTP/1.1 200 OK\r\n\r\no", b"k", keep=False)) as peer:
        answer = await client.send(request_to(peer.url()), 5)
    assert (answer.status, answer.body) == (200, b"ok")


async def test_interim_answers_are_skipped(client: DestinationClient) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    async with peers.serving(peers.answering(interim, OK)) as peer:
        for _ in range(2):
            assert (await client.send(request_to(peer.url()), 5)).status == 200
        assert peer.connections == 1


async def test_redirect_is_not_followed(client: DestinationClient) -> None:
    async with peers.serving(peers.answering(OK)) as other:
        moved = f"HTTP/1.1 307 Moved\r\nLocation: {other.url()}\r\nContent-Length: 0\r\n\r\n".encode()
        async with peers.serving(peers.answering(moved)) as peer:
            assert (await client.send(request_to(peer.url()), 5)).status == 307
        assert other.connections == 0


async def test_compressed_answer_is_not_inflated(client: DestinationClient) -> None:
    body = b"\x1f\x8b not really gzip"
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with peers.serving(peers.answering(head + body)) as peer:
        assert (await client.send(request_to(peer.url()), 5)).body == body


async def test_cookie_is_not_sent_back(client: DestinationClient) -> None:
    async with peers.serving(
        peers.answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")
    ) as peer:
        for _ in range(2):
            await client.send(request_to(peer.url()), 5)
    assert peer.requests[0] == peer.requests[1]


async def test_proxy_of_the_environment_is_not_used(client: DestinationClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peers.serving(peers.answering(OK)) as proxy, peers.serving(peers.answering(OK)) as peer:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url())
        assert (await client.send(request_to(peer.url()), 5)).status == 200
        assert (proxy.connections, peer.connections) == (0, 1)


@pytest.mark.parametrize("method", ["POST", "PUT"])  # aiohttp itself sends a PUT again
async def test_request_on_a_stale_connection_is_sent_again(client: DestinationClient, method: str) -> None:
    async def closes_on_the_second(
        peer: peers.Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await peer.read(reader)
        writer.write(OK)
        await reader.read(1)

    async with peers.serving(closes_on_the_second) as peer:
        request = request_to(peer.url())
        request.method = method
        for _ in range(2):
            assert (await client.send(request, 5)).status == 200
        assert peer.connections == 2
        request.may_send = iter([True, False]).__next__
        assert await client.send(request, 5) == DestinationAnswer(error=SendError.Reset), "the request was written once"


async def test_unasked_answer_is_not_used_for_the_next_request(client: DestinationClient) -> None:
    late, answered = threading.Event(), threading.Event()

    def serve(listening: socket.socket) -> None:
        for unasked in (OK, b""):
            accepted, _ = listening.accept()
            with accepted:
                accepted.recv(65_536)
                accepted.sendall(OK if unasked else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
                assert late.wait(10)
                accepted.sendall(unasked)
                answered.set()
                with contextlib.suppress(ConnectionResetError):
                    accepted.recv(1)

    def wait_standing_still() -> None:
        late.set()
        assert answered.wait(10)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        request = request_to(f"http://127.0.0.1:{listening.getsockname()[1]}/hook")
        assert (await client.send(request, 5)).status == 200
        wait_standing_still()
        assert (await client.send(request, 5)).status == 500
        await client.close()
        await asyncio.to_thread(thread.join, 10)


async def test_idle_connections_are_limited() -> None:
    client = DestinationClient(
        guard=address_guard.AddressGuard(["127.0.0.1/32"]), resolver=resolver.Resolver(lookup), max_idle=1
    )
    async with peers.serving(peers.answering(OK)) as peer, peers.serving(peers.answering(OK)) as other:
        for url in (peer.url(), other.url(), peer.url()):
            assert (await client.send(request_to(url), 5)).status == 200
        assert (client.idle_connections, peer.connections) == (1, 1)
        await client.close()


async def test_lack_of_descriptors_closes_idle_connections(
    client: DestinationClient,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with peers.serving(peers.answering(OK)) as peer, peers.serving(peers.answering(OK)) as other:
        assert (await client.send(request_to(peer.url()), 5)).status == 200
        assert client.idle_connections == 1
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            answer = await client.send(request_to(other.url()), 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (answer.error, client.idle_connections) == (SendError.ConnectError, 0)


async def test_each_address_of_a_name_is_checked(client: DestinationClient) -> None:
    async with peers.serving(peers.answering(OK)) as peer:
        assert (await client.send(request_to(peer.url("mixed.example")), 5)).status == 200
        assert peer.connections == 1


async def test_rebound_name_is_refused() -> None:
    answers = iter(["127.0.0.1", "127.0.0.9"])

    def rebinding(host: str, port: int) -> list[resolver.SocketAddress]:
        return [(socket.AF_INET, (next(answers), port))]

    now = [0.0]
    names = resolver.Resolver(rebinding, lambda: now[0])
    client = DestinationClient(guard=address_guard.AddressGuard(["127.0.0.1/32"]), resolver=names)
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with peers.serving(peers.answering(closing)) as peer:
        url = peer.url("rebinds.example")
        assert (await client.send(request_to(url), 5)).status == 200
        now[0] += resolver.FRESH_SECONDS + resolver.STALE_SECONDS
        assert (await client.send(request_to(url), 5)).error is SendError.AddressForbidden
    await client.close()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/", SendError.ConnectError),
        ("http://nowhere.example/", SendError.NameNotResolved),
        ("ftp://crm.example/", SendError.BadRequest),
        ("http:///x", SendError.BadRequest),
        ("http://user:word@crm.example/", SendError.BadRequest),
        ("http://crm.example:99999/", SendError.BadRequest),
        ("//crm.example", SendError.BadRequest),
        ("", SendError.BadRequest),
    ],
)
async def test_unreachable_url_is_an_error_code(client: DestinationClient, url: str, error: SendError) -> None:
    assert (await client.send(request_to(url), 5)).error is error


@pytest.mark.parametrize("header", [("a", "b\r\nc: d"), ("a\r\nc", "d"), ("a", "\n"), ("a", "\0")])
async def test_unsafe_header_is_not_sent(client: DestinationClient, header: tuple[str, str]) -> None:
    async with peers.serving(peers.answering(OK)) as peer:
        request = DestinationRequest("POST", peer.url(), [header], b"")
        assert (await client.send(request, 5)).error is SendError.BadRequest
        assert peer.requests == []


async def test_cancelled_request_closes_its_connection(client: DestinationClient) -> None:
    async with peers.serving(peers.hanging) as peer:
        task = asyncio.create_task(client.send(request_to(peer.url()), 30))
        async with asyncio.timeout(60):
            await peer.seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.idle_connections == 0


async def test_closed_client_keeps_no_connection(client: DestinationClient) -> None:
    async with peers.serving(peers.answering(OK)) as peer:
        await client.send(request_to(peer.url()), 5)
        await client.close()
        assert client.idle_connections == 0
