"""The client gets a URL for each host of the corpus, and must not connect to any of them."""

import pathlib
import re
import socket
from collections.abc import AsyncIterator

import pytest

from usher_gateway.destinations import DestinationRequest, SendError, address_guard, resolver
from usher_gateway.destinations.http import DestinationClient

CORPUS = pathlib.Path(__file__).parents[2] / "corpus" / "forbidden_addresses.txt"
REFUSED = {SendError.AddressForbidden, SendError.NameNotResolved, SendError.BadRequest}


def entries() -> list[tuple[str, list[str] | None]]:
    """Return each host with the addresses that it resolves to, or None for a spelling of an address."""
    lines = [line for line in CORPUS.read_text().splitlines() if line and not line.startswith("#")]
    split = [line.partition(" ->") for line in lines]
    return [(host, answers.split() if arrow else None) for host, arrow, answers in split]


NAMES = {host: answers for host, answers in entries() if answers is not None}
NAMES |= {host.encode("idna").decode().lower(): answers for host, answers in NAMES.items()}


def look_up(host: str, port: int) -> list[resolver.SocketAddress]:
    """Resolve the names of the corpus. The system parses spellings of addresses, as it does in production."""
    answers = NAMES.get(host)
    if answers is None:
        socket_addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [(family, address) for family, _, _, _, address in socket_addresses if isinstance(address[0], str)]
    return [
        (socket.AF_INET6, (address, port, 0, 0)) if ":" in address else (socket.AF_INET, (address, port))
        for address in answers
    ]


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DestinationClient]:
    def no_socket(*_: object) -> None:
        raise AssertionError("a socket was made for a forbidden address")

    guard = address_guard.AddressGuard()
    destination_client = DestinationClient(guard=guard, resolver=resolver.Resolver(look_up))
    monkeypatch.setattr(socket, "socket", no_socket)
    yield destination_client
    monkeypatch.undo()
    await destination_client.close()


async def test_client_connects_to_no_address_of_the_corpus(client: DestinationClient) -> None:
    hosts = [host for host, _ in entries()]
    assert len(hosts) > 400
    errors = {}
    for host in hosts:
        for port in ("", ":8080"):
            answer = await client.send(DestinationRequest("POST", f"http://{host}{port}/in", [], b"{}"), 5)
            assert answer.error in REFUSED, host
            errors[host] = answer.error
    # aiohttp itself refuses IPv4 addresses in other spellings than four decimal numbers.
    errors_by_guard = [error for host, error in errors.items() if not re.fullmatch(r"[0-9.]+", host)]
    assert len(errors_by_guard) > 300
    assert errors_by_guard.count(SendError.AddressForbidden) > 0.99 * len(errors_by_guard)
