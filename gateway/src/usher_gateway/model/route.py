"""Listeners' names, and the decision of a route about one arrival."""

import enum

import msgspec

from usher_gateway.model.delivery import HoldReason


class ListenerName(msgspec.Struct, frozen=True, order=True):
    """The full name of a listener with its tenant: the key of all meters.

    ``namespace`` is the isolation boundary (agency or company); ``tenant`` and ``listener`` are names inside it.
    """

    namespace: str
    tenant: str
    listener: str

    @property
    def key(self) -> str:
        """``namespace/listener``: names of listeners are unique inside a namespace."""
        return f"{self.namespace}/{self.listener}"


class SkipReason(enum.IntEnum):
    """Why a route created no delivery. The store keeps the numbers: never reuse one."""

    Filter = 1
    OncePer = 2
    Stale = 3
    Repeat = 4
    Paused = 5
    Shadow = 6


class RouteDefinition(msgspec.Struct, frozen=True):
    """The part of a route that a delivery needs while it is open, also after the route was removed.

    The store keeps each distinct definition once. While the route exists, the gateway uses its newest document.
    """

    listener: ListenerName
    route: str
    destination: str
    """``namespace/name``."""
    when: str = ""
    """CEL. Kept so that the gateway notices, after a restart too, that a failing filter was corrected."""
    transform: str = ""
    """CEL; ``""`` means the destination's format."""
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """How the listener reads a body: (field, JSON pointers in the order in which they are tried)."""


class RoutePlan(msgspec.Struct, frozen=True, gc=False):
    """A route's verdict for one arrival, planned before the transaction: a skip or a delivery.

    The plan is a delivery if ``skip`` is None. ``once_key`` (16 bytes) makes the delivery depend on a mark that the
    store writes together with it. If the mark exists already, the verdict becomes ``OncePer``.
    """

    route: RouteDefinition
    skip: SkipReason | None = None
    hold: HoldReason | None = None
    once_key: bytes = b""
    once_until: int = 0
    """The store may delete the mark from this instant on (microseconds)."""
    expires_at: int = 0
    """The delivery expires at this instant (microseconds); 0 means no limit."""
