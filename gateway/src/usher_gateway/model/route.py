"""What a route decides for one arrival."""

import enum

import msgspec

from usher_gateway.model.delivery import HoldReason
from usher_gateway.model.tenant import ListenerName


class SkipReason(enum.IntEnum):
    """Why a route made no delivery (design §1, verdict reasons). The numbers are stored: never reuse one."""

    Filter = 1
    OncePer = 2
    Stale = 3
    Repeat = 4
    Paused = 5
    Shadow = 6


class RouteDefinition(msgspec.Struct, frozen=True):
    """What a delivery needs of its route for as long as it is open, also after the route was removed.

    The store keeps each distinct definition once. While the route still exists, its newest document is used.
    """

    listener: ListenerName
    route: str
    destination: str
    """``namespace/name``."""
    when: str = ""
    """CEL; kept to notice, after a restart too, that a filter that failed was mended."""
    transform: str = ""
    """CEL; ``""`` means the destination's format."""
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """How the listener maps a body: (field, JSON pointers tried in turn)."""


class RoutePlan(msgspec.Struct, frozen=True, gc=False):
    """A route's verdict for one arrival, decided before the transaction: a skip, or a delivery to be made.

    Exactly one of ``skip`` set, or a delivery. ``once_key`` (16 bytes) makes the delivery depend on a mark that the
    store writes together with it: where the mark exists already, the verdict turns into ``OncePer``.
    """

    route: RouteDefinition
    skip: SkipReason | None = None
    hold: HoldReason | None = None
    once_key: bytes = b""
    once_until: int = 0
    """When the mark may be forgotten, in microseconds."""
    expires_at: int = 0
    """Deliver before this instant (microseconds); 0 means no limit."""
