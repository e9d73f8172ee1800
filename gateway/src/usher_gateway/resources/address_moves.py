"""Lists the addresses that an edit would take out of service, for ``usher check --against``. Pure."""

from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import documents


class KnownAddress(msgspec.Struct, frozen=True):
    """An address that is in service before the edit."""

    listener: str  # `namespace/name`
    tenant: str  # The name of the listener's Tenant
    id: str  # See `Address.id`
    url: str  # Shortened, because a URL is a credential


class AddressMove(msgspec.Struct, frozen=True):
    """An address that its listener would lose."""

    listener: str
    url: str  # Shortened
    outcome: str  # The effect of the edit on it
    replacements: tuple[str, ...]  # The listener's new URLs, shortened


def addresses_of(listeners: Mapping[str, documents.ListenerDocument]) -> list[KnownAddress]:
    """Return documents' addresses, without those that are retired already."""
    return [
        KnownAddress(key, document.tenant.name, address.id, documents.shorten_url(address.url))
        for key, document in listeners.items()
        for address in document.live_addresses
    ]


def find_moves(
    former: Iterable[KnownAddress], listeners: Mapping[str, documents.ListenerDocument]
) -> list[AddressMove]:
    """Return each former address that its listener does not have in ``listeners``, in ``former``'s order."""
    former = list(former)
    old = {(address.listener, address.id) for address in former}
    now = {address.id: key for key, document in listeners.items() for address in document.live_addresses}
    moves = []
    for address in former:
        owner = now.get(address.id)
        if owner == address.listener:
            continue
        document = listeners.get(address.listener)
        if owner is not None:
            outcome = f"moves to listener {owner}"
        elif document is None:
            outcome = "ends, because its listener is removed"
        elif document.tenant.name != address.tenant:
            outcome = "ends, because its listener gets another Tenant"
        else:
            outcome = "is retired: served until nothing has arrived there for the class's retiredAddressDays"
        added = document.live_addresses if document is not None else ()
        replacements = tuple(
            [documents.shorten_url(addition.url) for addition in added if (address.listener, addition.id) not in old]
        )
        moves.append(AddressMove(address.listener, address.url, outcome, replacements))
    return moves
