"""TLS to destinations: an authority of its own, a client certificate, and another name."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import test_utils, web

from support import certificates, peers, waiting
from usher_gateway import documents, metered_tls
from usher_gateway.destinations import DestinationRequest, SendError, address_guard, http
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


async def test_waiting_for_a_turn_to_connect_is_no_failure(client: DestinationClient, url: str) -> None:
    """Four connections of a namespace that never end their handshakes keep further ones waiting, but not others'."""
    async with peers.serving(peers.hanging) as peer:
        request = request_to(peer.url(scheme="https"))
        hanging = [asyncio.create_task(client.send(request, 60)) for _ in range(4)]
        await waiting.wait_until(lambda: peer.connections == 4)
        returned = await client.send(request_to(url, may_send=lambda: True), 0.3)
        assert (returned.is_withdrawn, returned.error) == (True, None)
        assert (await client.send(request_to(url), 0.3)).error is SendError.Timeout, "without an attempt to return to"
        assert (await client.send(request_to(url, destination="other/crm"), 10)).status == 200
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        assert (await client.send(request_to(url), 10)).status == 200


async def test_handshake_is_charged_also_if_it_fails(
    client: DestinationClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ORDINARY_SECONDS", 0.0)
    charged: list[float] = []
    request = DestinationRequest("POST", url, [], b"{}", tls=tls(server_name="other.internal"), charge=charged.append)
    assert (await client.send(request, 10)).error is SendError.TLSNameMismatch
    assert [seconds > 0 for seconds in charged] == [True]
