"""Routes' decisions about arrivals, and the deliveries that they create."""

import enum
from typing import NamedTuple

import msgspec

from usher_gateway.model.identifiers import ListenerName


class DeliveryState(enum.IntEnum):
    """A delivery's state. The store keeps the numbers: never reuse one."""

    Pending = 0
    Delivered = 1
    Dead = 2
    Cancelled = 3


class HoldReason(enum.IntEnum):
    """The cause that a held delivery waits for, instead of a retry. The store keeps the numbers: never reuse one."""

    TenantSuspended = 1
    ListenerSuspended = 2
    TokenHeld = 3
    QuotaExceeded = 4
    FilterError = 5
    TransformError = 6
    ExpressionTooSlow = 7
    DestinationNotFound = 8
    DestinationPaused = 9
    SecretNotFound = 10
    FormatError = 11
    """The body cannot be put into the destination's format (a CloudEvent needs JSON)."""


class CancelReason(enum.IntEnum):
    """Why a delivery was cancelled. The store keeps the numbers: never reuse one."""

    Expired = 1
    Retention = 2
    DestinationDeleted = 3
    Filter = 4
    """The filter failed at accept; after it was corrected, it excluded the visit."""
    OnRequest = 5
    Erased = 6
    """A person's data were erased."""
    Suppressed = 7
    """A person was suppressed: nothing is sent any more."""


class Origin(enum.IntEnum):
    """The action that created a delivery. The store keeps the numbers: never reuse one."""

    Accepted = 0
    Released = 1
    Replayed = 2


class SkipReason(enum.IntEnum):
    """Why a route created no delivery. The store keeps the numbers: never reuse one."""

    Filter = 1
    OncePer = 2
    Stale = 3
    Repeat = 4
    Paused = 5
    Shadow = 6


# The destination of a delivery whose route the database lost. No resource can have this name.
UNKNOWN_DESTINATION = "?/?"


class RouteDefinition(msgspec.Struct, frozen=True):
    """The part that a delivery needs from its route while it is open, also after the route was removed.

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
    destination_uid: str | msgspec.UnsetType = msgspec.UNSET
    """As in the route's document at acceptance."""
    destination_tenant: str | msgspec.UnsetType = msgspec.UNSET
    """The destination's one tenant at acceptance, ``""`` for a shared one; not set: it had no document."""


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


class Hold(NamedTuple):
    """A delivery of a route is held."""

    route: int
    """The route's number."""
    reason: HoldReason
    since: int
    """Microseconds."""


class Delivery(msgspec.Struct, gc=False):
    """A pending delivery in memory, with what an attempt needs. A delivery that waits long loses its body."""

    key: int
    """Row key (see identifiers.py)."""
    id: bytes
    """UUIDv7, 16 bytes: the ``webhook-id``."""
    arrival: int
    """The arrival's row key."""
    visit_id: bytes
    """The arrival's id, 16 bytes: the same for all its deliveries, and after a replay."""
    is_repeat: bool
    """True if the arrival counted as a repeat."""
    route: int
    """The store's number for the RouteDefinition."""
    created_at: int
    received_at: int
    visit_time: int
    late: bool
    hops: int
    attempts: int
    """Attempts made so far."""
    started_at: int
    """Where the time that retries may take starts. It moves on by the time held, because the clock stops then."""
    expires_at: int
    """0 means no limit."""
    body: bytes | None
    content_type: bytes
    arrival_holds: tuple[HoldReason, ...] = ()
    """Reasons that hold every delivery from the arrival, even if another one came first (set by the store only)."""
    replay: bytes = b""
    """The replay that created it, by id; empty if none did."""
    filter_hold: HoldReason | None = None
    """Why its route's filter has not decided on it yet. The next attempt evaluates the filter first."""


class SettledAs(enum.IntEnum):
    """An attempt's outcome, for the store."""

    Delivered = 1
    Retry = 2
    Dead = 3
    Cancelled = 4
    Held = 5


class Settlement(msgspec.Struct, frozen=True):
    """The result of an attempt, or of a decision to make none, for the store.

    The store applies it only if the delivery is pending with exactly ``attempts_before`` attempts.
    """

    key: int
    settled_as: SettledAs
    at: int
    attempts_before: int
    attempts: int
    """``attempts_before`` plus one if a request was sent."""
    due_at: int = 0
    """For Retry."""
    hold: HoldReason | None = None
    """For Held, and for Retry if the filter has not decided on the delivery (``Delivery.filter_hold``)."""
    cancel: CancelReason | None = None
    status: int = 0
    """The last answer's HTTP status; 0 if there was none."""
    error: str = ""
    """A code from outcome.py, never text from a peer."""
    answer: bytes = b""
    """The last answer, at most 256 bytes; kept only for dead deliveries."""
    milliseconds: int = 0
    """How long the request took, if one was sent."""
