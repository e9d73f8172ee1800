"""What a peer can make the event loop do below HTTP is limited in bytes, and measured."""

import ssl
from pathlib import Path
from typing import NamedTuple

import pytest

from support import certificates
from usher_gateway.metered_tls import CURVES, MeteredContext, MeteredTls, client_context

CERTIFICATE, KEY = certificates.make("peer", "peer.internal")


class Peers(NamedTuple):
    """A metered client after its handshake, and the server at its other end."""

    client: MeteredTls
    server: ssl.SSLObject
    to_client: ssl.MemoryBIO
    to_server: ssl.MemoryBIO
    from_server: ssl.MemoryBIO

    def send(self, data: bytes) -> None:
        """Send data from the server to the client, in a record of its own."""
        self.server.write(data)
        self.to_client.write(self.from_server.read())


def connect(folder: Path, context: MeteredContext, tickets: int = 2) -> Peers:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificates.write(folder, CERTIFICATE, KEY))
    serving.num_tickets = tickets
    to_client, from_client, to_server, from_server = (ssl.MemoryBIO() for _ in range(4))
    client = context.wrap_bio(to_client, from_client, server_hostname="peer.internal")
    server = serving.wrap_bio(to_server, from_server, server_side=True)
    assert isinstance(client, MeteredTls)
    waiting: list[ssl.SSLObject] = [client, server]
    while waiting:
        end = waiting.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(end)
        to_server.write(from_client.read())
        to_client.write(from_server.read())
    return Peers(client, server, to_client, to_server, from_server)


def read_all(client: MeteredTls) -> bytes:
    data = b""
    while True:
        try:
            data += client.read(64 * 1024)
        except ssl.SSLWantReadError:
            return data


def test_messages_without_data_end_a_connection_before_all_are_processed(tmp_path: Path) -> None:
    peers = connect(tmp_path, client_context(CERTIFICATE.decode(), CURVES[0]), tickets=1000)
    arrived = peers.to_client.pending
    with pytest.raises(ssl.SSLError, match="without data"):
        peers.client.read(1024)
    assert arrived - peers.to_client.pending < 32 * 1024
    assert peers.to_client.pending > 100 * 1024


def test_data_in_records_of_any_size_is_read(tmp_path: Path) -> None:
    peers = connect(tmp_path, client_context(CERTIFICATE.decode(), CURVES[0]))
    whole = bytes(range(256)) * 4096
    peers.send(whole)
    assert read_all(peers.client) == whole
    for size in (1, 100):
        for start in range(0, 4000 * size, size):
            peers.send((whole * 2)[start : start + size])
        assert read_all(peers.client) == (whole * 2)[: 4000 * size]


def test_requests_on_a_kept_connection_may_bring_overhead_each(tmp_path: Path) -> None:
    peers = connect(tmp_path, client_context(CERTIFICATE.decode(), CURVES[0]), tickets=20)
    assert read_all(peers.client) == b""
    for _ in range(20):
        peers.client.begin_request()
        peers.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert read_all(peers.client)


def test_data_that_comes_with_the_last_step_of_the_handshake_is_pending(tmp_path: Path) -> None:
    """uvloop asks ``pending`` whether there is something to read. A client sends its request with that step."""
    serving = MeteredContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*certificates.write(tmp_path, CERTIFICATE, KEY))
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificates.trusting(CERTIFICATE).wrap_bio(to_client, to_server, server_hostname="peer.internal")
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    client.do_handshake()
    client.write(b"request")
    server.do_handshake()
    assert to_server.pending == 0
    assert server.pending() > 0
    assert server.read(1024) == b"request"


def test_end_of_a_connection_is_read_behind_data(tmp_path: Path) -> None:
    peers = connect(tmp_path, client_context(CERTIFICATE.decode(), CURVES[0]))
    peers.server.write(b"last")
    with pytest.raises(ssl.SSLWantReadError):
        peers.server.unwrap()
    peers.to_client.write(peers.from_server.read())
    assert peers.client.read(1024) == b"last"
    assert peers.client.read(1024) == b""
    peers.client.unwrap()


def test_handshake_and_reading_are_measured(tmp_path: Path) -> None:
    noted: list[float] = []
    context = client_context(CERTIFICATE.decode(), CURVES[0])
    context.note = lambda: noted.append
    peers = connect(tmp_path, context)
    handshake = sum(noted)
    assert handshake > 0
    peers.send(b"data")
    read_all(peers.client)
    assert sum(noted) > handshake


def test_handshake_with_a_step_that_takes_too_long_fails(tmp_path: Path) -> None:
    context = client_context(CERTIFICATE.decode(), CURVES[0])
    context.longest_handshake = 1e-9
    with pytest.raises(ssl.SSLError, match="too long"):
        connect(tmp_path, context)


@pytest.mark.parametrize(("curve", "group"), list(zip(CURVES, ["0017", "0018"], strict=True)))
def test_destinations_are_offered_one_curve_and_no_group_that_takes_long(curve: str, group: str) -> None:
    """Source: RFC 8446 §4.2.7, RFC 7919."""
    context = client_context("", curve)
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="peer.internal")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    assert bytes.fromhex("000a00040002" + group) in outgoing.read(), "the extension supported_groups"
    assert not [cipher for cipher in context.get_ciphers() if cipher["name"].startswith("DHE")]
