"""How the gateways at one store share its destinations.

``share_of`` divides a destination's limits among the gateways. Pure.

For each destination the gateways have another order (by a hash, so that the others' order stays the same when
one starts or ends). The first k share the limits, where k is at most the concurrency and the rate: each
gets the same whole number, and the remainder goes to the first. So the shares add up to the limits exactly.
Destinations that share a rate limit have the same order.

When a gateway ends, no other share gets smaller, and when one starts, none gets larger. Hence gateways that
have not noticed an end use less than their share. Gateways may use more until their next heartbeat notices a start.

`UnknownDestinations` decides about deliveries to destinations that are not in this gateway's configuration.
The gateways at one store run different manifests for a while, for example during a rolling update. So each tells the
others which destinations it knows. A gateway leaves deliveries to an unknown destination in the backlog while another
one that runs knows it. It holds them (``DestinationNotFound``) if it is alone, or once no other gateway has known the
destination for 60 s: in this time a gateway that starts reads its configuration.
"""

import hashlib
from collections.abc import Callable, Collection

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.delivery.scheduler import LaneLimits
from usher_gateway.store.base import Replicas
from usher_gateway.store.store import DeliveryQueue

_log = structlog.get_logger(__name__)

_NO_SHARE = LaneLimits(concurrency=0)


def share_of(limits: LaneLimits, destination: str, replicas: Replicas) -> LaneLimits:
    """Return this gateway's share of a destination's limits."""
    count, rate = len(replicas.members), limits.rate
    if count == 1:
        return limits
    sharing = min(count, limits.concurrency, count if rate is None else rate.requests)
    rank = _rank((rate and rate.shared_by) or destination, replicas)
    if rank >= sharing:
        return _NO_SHARE
    if rate is not None:
        # the other destinations that share it divide it among as many gateways, whatever their concurrency is
        dividing = min(count, rate.requests) if rate.shared_by else sharing
        rate = msgspec.structs.replace(rate, requests=_part(rate.requests, dividing, rank))
    return LaneLimits(_part(limits.concurrency, sharing, rank), rate)


def _part(total: int, count: int, rank: int) -> int:
    """Return a part of a whole number; the first ones get the remainder."""
    return (total - rank + count - 1) // count if total else 0


def _rank(destination: str, replicas: Replicas) -> int:
    """Return this gateway's place in a destination's order."""
    own = _place(destination, replicas.own)
    return sum(_place(destination, member) < own for member in replicas.members)


def _place(destination: str, member: int) -> tuple[bytes, int]:
    return hashlib.blake2b(f"{member} {destination}".encode(), digest_size=8).digest(), member


HOLD_AFTER_SECONDS = 60.0
_TELL_SECONDS = 5.0  # The least time between two messages of a gateway, because each has all its destinations

_LOOK_UP_SECONDS = 1.0


class UnknownDestinations:
    """Decides whether deliveries to destinations without a document are left to other gateways."""

    def __init__(self, *, store: DeliveryQueue, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._known: frozenset[str] = frozenset()
        self._told: frozenset[str] = frozenset()
        self._tell_at = self._look_up_at = 0.0
        self._missing_since: dict[str, float] = {}
        """Destination -> when this gateway first saw that no gateway knows it."""

    def apply(self, destinations: Collection[str]) -> None:
        """Note the destinations that this gateway knows from now on."""
        self._known = frozenset(destinations)
        for destination in self._known & self._missing_since.keys():
            del self._missing_since[destination]

    async def tell(self) -> None:
        """Tell the other gateways what this one knows, if that changed."""
        if self._store.is_shared and self._known != self._told and self._now() >= self._tell_at:
            self._tell_at = self._now() + _TELL_SECONDS
            destinations = self._known
            try:
                await self._store.tell_destinations(destinations)
            except model.StoreUnavailableError as error:
                _log.warning("destinations_not_shared", reason=str(error))
                return
            self._told = destinations

    async def look_up(self, unknown: Collection[str]) -> None:
        """Find out whether other gateways know destinations with due deliveries. If that fails, these wait."""
        now = self._now()
        if not self._store.is_shared or not unknown or now < self._look_up_at:
            return
        self._look_up_at = now + _LOOK_UP_SECONDS
        try:
            others = await self._store.destinations_of_others(unknown)
        except model.StoreUnavailableError as error:
            _log.warning("destinations_not_shared", reason=str(error))
            return
        for destination in unknown:
            if any(destination in theirs for theirs in others):
                self._missing_since.pop(destination, None)
            else:
                self._missing_since.setdefault(destination, now if others else now - HOLD_AFTER_SECONDS)

    def is_left_to_others(self, destination: str) -> bool:
        """Return whether a destination's deliveries stay in the backlog instead of being held."""
        if not self._store.is_shared or destination in self._known or destination == model.UNKNOWN_DESTINATION:
            return False
        since = self._missing_since.get(destination)
        return since is None or self._now() - since < HOLD_AFTER_SECONDS
