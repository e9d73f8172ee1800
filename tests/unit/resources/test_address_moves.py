"""Which addresses an edit would take out of service."""

import msgspec

from usher_gateway import documents
from usher_gateway.resources.address_moves import AddressMove, addresses_of, find_moves

TENANT = documents.TenantDocument("acme")
OLD = documents.Address("hooks.example.com", "/v1/aaaaaaaaaaaaaaaaaaaaaaaaaa")
NEW = documents.Address("new.example.com", "/v1/aaaaaaaaaaaaaaaaaaaaaaaaaa")


def listeners_of(**addresses: tuple[documents.Address, ...]) -> dict[str, documents.ListenerDocument]:
    return {
        f"agency/{name}": documents.ListenerDocument("agency", name, TENANT, addresses=given)
        for name, given in addresses.items()
    }


def moves_of(
    earlier: dict[str, documents.ListenerDocument], now: dict[str, documents.ListenerDocument]
) -> list[AddressMove]:
    return find_moves(addresses_of(earlier), now)


def test_unchanged_address_does_not_move() -> None:
    assert moves_of(listeners_of(lobby=(OLD,)), listeners_of(lobby=(NEW, OLD))) == []


def test_edited_address_is_retired_and_names_the_new_one() -> None:
    (move,) = moves_of(listeners_of(lobby=(OLD,)), listeners_of(lobby=(NEW,)))
    assert move.listener == "agency/lobby"
    assert move.url == "https://hooks.example.com/v1/aaaa…"
    assert move.outcome.startswith("is retired")
    assert move.replacements == ("https://new.example.com/v1/aaaa…",)


def test_address_of_a_removed_listener_ends() -> None:
    (move,) = moves_of(listeners_of(lobby=(OLD,)), {})
    assert move.outcome.startswith("ends")
    assert move.replacements == ()


def test_address_of_a_listener_with_another_tenant_ends() -> None:
    earlier, later = listeners_of(lobby=(OLD,)), listeners_of(lobby=(NEW,))
    other = documents.TenantDocument("successor")
    later = {key: msgspec.structs.replace(document, tenant=other) for key, document in later.items()}
    (move,) = moves_of(earlier, later)
    assert move.outcome == "ends, because its listener gets another Tenant"
    assert move.replacements == ("https://new.example.com/v1/aaaa…",)


def test_address_that_another_listener_has_moves_there() -> None:
    (move,) = moves_of(listeners_of(lobby=(OLD,)), listeners_of(lobby=(NEW,), bar=(OLD,)))
    assert move.outcome == "moves to listener agency/bar"


def test_address_that_is_retired_already_is_not_listed() -> None:
    retired = msgspec.structs.replace(OLD, retired_at=1)
    assert moves_of(listeners_of(lobby=(NEW, retired)), listeners_of(lobby=(NEW,))) == []
