"""Deliveries of destinations that are not in the configuration of this gateway.

The gateways of one store run different manifests for a while, for example during a rolling update. So each tells the
others which destinations it knows. A gateway leaves deliveries of an unknown destination in the backlog while another
one that runs knows it. It holds them (``DestinationNotFound``) if it is alone, or once no other gateway has known the
destination for 60 s: in this time a gateway that starts reads its configuration.
"""

from collections.abc import Callable, Collection

import structlog

from usher_gateway import model
from usher_gateway.store.store import DeliveryQueue

_log = structlog.get_logger(__name__)

HOLD_AFTER_SECONDS = 60.0
_TELL_SECONDS = 5.0
"""The least time between two messages of a gateway, because each has all its destinations."""

_LOOK_UP_SECONDS = 1.0


class UnknownDestinations:
    """Decides whether deliveries of destinations without a document are left to other gateways.

    Args:
        store: of the gateways.
        now: returns a monotonic time in seconds.
    """

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
        """Return whether deliveries of a destination stay in the backlog instead of being held."""
        if not self._store.is_shared or destination in self._known or destination == model.UNKNOWN_DESTINATION:
            return False
        since = self._missing_since.get(destination)
        return since is None or self._now() - since < HOLD_AFTER_SECONDS
