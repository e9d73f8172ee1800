"""Which addresses an edit would take out of service."""

import msgspec
import pytest

from usher_gateway import documents
from usher_gateway.resources.address_moves import addresses_of, find_moves

OLD = documents.Address("hooks.example.com", "/v1/aaaaaaaaaaaaaaaaaaaaaaaaaa")
NEW = documents.Address("new.example.com", "/v1/aaaaaaaaaaaaaaaaaaaaaaaaaa")
RETIRED = msgspec.structs.replace(OLD, retired_at=1)
Listeners = dict[str, documents.ListenerDocument]


def listeners_of(tenant: str = "acme", **addresses: tuple[documents.Address, ...]) -> Listeners:
    return {
        f"agency/{name}": documents.ListenerDocument("agency", name, documents.TenantDocument(tenant), addresses=given)
        for name, given in addresses.items()
    }


LOBBY = listeners_of(lobby=(OLD,))
MOVED = ("https://new.example.com/v1/aaaa…",)


@pytest.mark.parametrize(
    ("earlier", "later", "outcomes"),
    [
        (LOBBY, listeners_of(lobby=(NEW, OLD)), []),
        (listeners_of(lobby=(NEW, RETIRED)), listeners_of(lobby=(NEW,)), []),
        (
            LOBBY,
            listeners_of(lobby=(NEW,)),
            [("is retired: served until nothing has arrived there for the class's retiredAddressDays", MOVED)],
        ),
        (LOBBY, {}, [("ends, because its listener is removed", ())]),
        (LOBBY, listeners_of("successor", lobby=(NEW,)), [("ends, because its listener gets another Tenant", MOVED)]),
        (LOBBY, listeners_of(lobby=(NEW,), bar=(OLD,)), [("moves to listener agency/bar", MOVED)]),
    ],
    ids=["unchanged", "retired-already", "edited", "removed", "of-another-tenant", "of-another-listener"],
)
def test_moves_name_what_becomes_of_an_address(
    earlier: Listeners, later: Listeners, outcomes: list[tuple[str, tuple[str, ...]]]
) -> None:
    moves = find_moves(addresses_of(earlier), later)
    assert [(move.outcome, move.replacements) for move in moves] == outcomes
    assert all((move.listener, move.url) == ("agency/lobby", "https://hooks.example.com/v1/aaaa…") for move in moves)
