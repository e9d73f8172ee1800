"""TLS to destinations: an authority of its own, a client certificate, and another name."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import certificates
from usher_gateway import documents
from usher_gateway.destinations import DestinationRequest, SendError, address_guard
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.tls import TlsContexts

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
    contexts = TlsContexts()
    first = await contexts.get(tls())
    assert await contexts.get(tls()) is first
    for number in range(300):
        await contexts.get(tls(server_name=f"n{number}.internal"))
    assert len(contexts._contexts) <= 256
