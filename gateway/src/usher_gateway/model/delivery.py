"""A delivery: one arrival on its way to one destination by one route."""

import enum

import msgspec


class DeliveryState(enum.IntEnum):
    """Where a delivery stands. The numbers are stored: never reuse one."""

    Pending = 0
    Delivered = 1
    Dead = 2
    Cancelled = 3


class HoldReason(enum.IntEnum):
    """Why a pending delivery waits for a person or a date, not for a retry. Stored: never reuse a number."""

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
    """Why a delivery was given up without being dead. Stored: never reuse a number."""

    Expired = 1
    Retention = 2
    DestinationDeleted = 3
    Filter = 4
    """A filter that failed at first was mended and said no."""
    OnRequest = 5


class Origin(enum.IntEnum):
    """What made a delivery. Stored: never reuse a number."""

    Accepted = 0
    Released = 1
    Replayed = 2


class Delivery(msgspec.Struct, gc=False):
    """A pending delivery in memory: what an attempt needs. Bodies are dropped when it waits for long."""

    key: int
    """Row key; see identifiers.py."""
    id: bytes
    """UUIDv7, 16 bytes: the ``webhook-id``."""
    arrival: int
    """Row key of the arrival."""
    route: int
    """The store's number of the RouteDefinition."""
    created_at: int
    received_at: int
    visit_time: int
    late: bool
    hops: int
    attempts: int
    """Attempts made so far."""
    started_at: int
    """When the clock of retrying started; moved on by the time spent held, because the clock stops then."""
    expires_at: int
    """0 means no limit."""
    hold: HoldReason | None
    body: bytes | None
    content_type: bytes
    arrival_holds: tuple[HoldReason, ...] = ()
    """What holds every delivery of its arrival, also where another reason came first (from the store only)."""


class SettledAs(enum.IntEnum):
    """What became of an attempt, as the store is told."""

    Delivered = 1
    Retry = 2
    Dead = 3
    Cancelled = 4
    Held = 5


class Settlement(msgspec.Struct, frozen=True):
    """The result of an attempt (or of a decision to make none), for the store.

    Settling is conditional on the delivery being pending with exactly ``attempts_before`` attempts.
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
    cancel: CancelReason | None = None
    status: int = 0
    """HTTP status of the last answer; 0 where there was none."""
    error: str = ""
    """A code of outcome.py, never text from a peer."""
    answer: bytes = b""
    """At most 256 bytes of the last answer; kept only for dead deliveries."""
