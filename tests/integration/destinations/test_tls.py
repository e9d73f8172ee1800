"""TLS to destinations: an authority of its own, a client certificate, and another name."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import test_utils, web

from support import certificates, peers, waiting
from usher_gateway import documents, metered_tls
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError, address_guard, http
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.tls import TlsContexts
from usher_gateway.metered_tls import CURVES

CLOSING = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

AUTHORITY, AUTHORITY_KEY = certificates.make("destination", "crm.internal")
CLIENT, CLIENT_KEY = certificates.make("client")
OTHER, OTHER_KEY = certificates.make("other")


@pytest.fixture
async def client() -> AsyncIterator[DestinationClient]:
    destination_client = DestinationClient(guard=address_guard.AddressGuard(["127.0.0.1/32"]))
    yield destination_client
    await destination_client.close()


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A server that wants the client's certificate, and whose own certificate has another name than its address."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text=str(dict(request.transport.get_extra_info("peercert")["subject"][0])))  # type: ignore[union-attr]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.write(tmp_path, AUTHORITY, AUTHORITY_KEY))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=CLIENT.decode())
    server = test_utils.RawTestServer(answer)
    await server.start_server(ssl=context)
    yield f"https://127.0.0.1:{server.port}/"
    await server.close()


def tls(
    authority: bytes = AUTHORITY, chain: bytes = CLIENT, key: bytes = CLIENT_KEY, server_name: str = "crm.internal"
) -> documents.Tls:
    return documents.Tls(authority.decode(), chain.decode(), key.decode(), server_name)


def request_to(url: str, **fields: Any) -> DestinationRequest:
    """A request with TLS settings of its own."""
    return DestinationRequest("POST", url, [], b"{}", tls=tls(), **fields)


async def result(client: DestinationClient, url: str, settings: documents.Tls | None) -> int | SendError | None:
    request = DestinationRequest("POST", url, [], b"{}", tls=settings)
    answer = await client.send(request, 10)
    return answer.error or answer.status


async def test_destination_with_its_own_authority_gets_the_client_certificate(
    client: DestinationClient, url: str
) -> None:
    assert await result(client, url, tls()) == 200


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (None, SendError.TLSAuthorityUnknown),
        (tls(authority=b""), SendError.TLSAuthorityUnknown),
        (tls(authority=OTHER), SendError.TLSAuthorityUnknown),
        (tls(server_name=""), SendError.TLSNameMismatch),
        (tls(server_name="other.internal"), SendError.TLSNameMismatch),
        (tls(key=OTHER_KEY), SendError.TLSError),
        (tls(chain=b"nonsense"), SendError.TLSError),
        (tls(authority=b"nonsense"), SendError.TLSError),
    ],
)
async def test_error_says_which_setting_does_not_fit(
    client: DestinationClient, url: str, settings: documents.Tls | None, error: SendError
) -> None:
    assert await result(client, url, settings) is error


async def test_peer_that_wants_a_client_certificate_refuses_one_without(client: DestinationClient, url: str) -> None:
    assert await result(client, url, tls(chain=b"", key=b"")) in {SendError.TLSError, SendError.Reset}


async def test_kept_connection_is_not_used_with_other_settings(client: DestinationClient, url: str) -> None:
    assert await result(client, url, tls()) == 200
    assert client.idle_connections == 1
    assert await result(client, url, tls(server_name="other.internal")) is SendError.TLSNameMismatch
    assert await result(client, url, None) is SendError.TLSAuthorityUnknown


async def test_equal_settings_share_a_context_and_contexts_are_bounded() -> None:
    contexts = TlsContexts(None)
    first = await contexts.get(tls(), CURVES[0])
    assert await contexts.get(tls(server_name="other.internal"), CURVES[0]) is first
    for number in range(300):
        await contexts.get(tls(authority=AUTHORITY + b"\n" * number), CURVES[0])
    assert len(contexts._contexts) <= 256


@pytest.mark.parametrize("curve", CURVES)
async def test_peer_that_has_only_one_curve_is_reached_and_its_curve_remembered(tmp_path: Path, curve: str) -> None:
    authority, names = peers.Authority(tmp_path), []
    serving = authority.serving("127.0.0.1")
    serving.set_ecdh_curve(curve)
    serving.sni_callback = lambda _, name, __: names.append(name)
    client = DestinationClient(guard=address_guard.AddressGuard(["127.0.0.1/32"]))
    async with peers.serving(peers.answering(CLOSING, keep=False), tls=serving) as peer:
        settings = documents.Tls(authority=authority.file.read_text())
        assert await result(client, peer.url(scheme="https"), settings) == 200
        handshakes = len(names)
        assert await result(client, peer.url(scheme="https"), settings) == 200
        assert len(names) == handshakes + 1
    await client.close()


async def test_handshake_that_takes_too_long_is_not_repeated_with_another_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metered_tls, "_LONGEST_STEP_SECONDS", 1e-9)
    authority, names = peers.Authority(tmp_path), []
    serving = authority.serving("127.0.0.1")
    serving.sni_callback = lambda _, name, __: names.append(name)
    client = DestinationClient(guard=address_guard.AddressGuard(["127.0.0.1/32"]))
    async with peers.serving(peers.hanging, tls=serving) as peer:
        settings = documents.Tls(authority=authority.file.read_text())
        assert await result(client, peer.url(scheme="https"), settings) is SendError.TLSError
    assert len(names) == 1
    await client.close()


@contextlib.asynccontextmanager
async def handshakes_that_never_end(
    client: DestinationClient, *owners: tuple[str, str], connections: int
) -> AsyncIterator[str]:
    """Send a request for each (destination, tenant), until there are as many connections; yield the requests' URL."""
    async with peers.serving(peers.hanging) as peer:
        url = peer.url(scheme="https")
        tasks = [
            asyncio.create_task(client.send(request_to(url, destination=destination, tenant=tenant), 60))
            for destination, tenant in owners
        ]
        await waiting.wait_until(lambda: peer.connections == connections)
        yield url
        assert peer.connections == connections
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("destination", "tenant"), [("agency/crm", "acme"), ("agency/crm", "globex"), ("other/", "")])
async def test_slow_handshakes_of_a_destination_leave_turns_to_others(
    client: DestinationClient, url: str, destination: str, tenant: str
) -> None:
    async with handshakes_that_never_end(client, *[("agency/slow", "acme")] * 8, connections=2):
        assert (await client.send(request_to(url, destination=destination, tenant=tenant), 10)).status == 200


async def test_slow_handshakes_of_a_tenant_leave_turns_to_others(client: DestinationClient, url: str) -> None:
    slow = [(f"agency/slow-{number}", "acme") for number in range(8)]
    async with handshakes_that_never_end(client, *slow, connections=3):
        assert (await client.send(request_to(url, destination="agency/crm", tenant="globex"), 10)).status == 200


async def test_kept_connection_needs_no_turn(client: DestinationClient, url: str) -> None:
    slow = [(f"agency/slow-{number}", f"tenant-{number}") for number in range(6)]
    crm = request_to(url, destination="agency/crm", tenant="acme")
    assert (await client.send(crm, 10)).status == 200
    async with handshakes_that_never_end(client, *slow, connections=6):
        assert (await client.send(crm, 10)).status == 200


async def test_attempt_without_a_turn_to_connect_fails(client: DestinationClient) -> None:
    async with handshakes_that_never_end(client, *[("agency/slow", "acme")] * 2, connections=2) as url:
        request = request_to(url, destination="agency/slow", tenant="acme", may_send=lambda: True)
        assert await client.send(request, 0.1) == DestinationAnswer(error=SendError.Timeout)


async def test_handshake_is_charged_also_if_it_fails(
    client: DestinationClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ORDINARY_SECONDS", 0.0)
    charged: list[float] = []
    request = DestinationRequest("POST", url, [], b"{}", tls=tls(server_name="other.internal"), charge=charged.append)
    assert (await client.send(request, 10)).error is SendError.TLSNameMismatch
    assert [seconds > 0 for seconds in charged] == [True]
