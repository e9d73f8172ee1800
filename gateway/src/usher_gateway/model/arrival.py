"""An arrival: one HTTP request at the public port, from the moment it is understood."""

import enum

import msgspec

from usher_gateway.model.delivery import Delivery
from usher_gateway.model.route import RoutePlan, SkipReason
from usher_gateway.model.tenant import ListenerName

REDELIVERY_KEEP_SECONDS = 7 * 86400
"""How long identical content is known again, where a trusted time or a lost answer proves it a redelivery."""

REDELIVERY_NOT_BEFORE_SECONDS = 10_000
"""Purple retries after 3 h (purple.md): from here on identical content without a trusted time is a redelivery."""

TRUSTED_AHEAD_SECONDS = 120
"""A time in a body that is further in the future is not trusted (design §3)."""


class CountedAs(enum.IntEnum):
    """What an arrival is counted as (design §1). The numbers are stored: never reuse one."""

    Visit = 1
    Repeat = 2
    Redelivery = 3
    Probe = 4
    Quarantined = 5
    Refused = 6


class QuarantineReason(enum.IntEnum):
    """Why an arrival at a valid address is no valid visit. Stored: never reuse a number."""

    NotJSON = 1
    NotObject = 2
    NoUser = 3
    BadCharset = 4
    BadEncoding = 5
    TooDeep = 6
    TooManyNodes = 7
    Truncated = 8
    CompanyMismatch = 9
    Loop = 10
    Unstorable = 11


class RefusedReason(enum.StrEnum):
    """Why nothing of an arrival was committed."""

    BadRequest = "BadRequest"
    NotFound = "NotFound"
    Unauthenticated = "Unauthenticated"
    AuthenticationUnresolved = "AuthenticationUnresolved"
    SourceNotAllowed = "SourceNotAllowed"
    MethodNotAllowed = "MethodNotAllowed"
    TooLarge = "TooLarge"
    BodyTimeout = "BodyTimeout"
    RateLimited = "RateLimited"
    QueueFull = "QueueFull"
    StoreUnavailable = "StoreUnavailable"
    LowDisk = "LowDisk"
    Deadline = "Deadline"
    NotConfigured = "NotConfigured"
    Disconnected = "Disconnected"
    InternalError = "InternalError"


class Arrival(msgspec.Struct, gc=False):
    """An arrival on its way into the store: all that can be decided without knowing what came before.

    ``if_visit`` and ``if_repeat`` hold one plan per route in force; both are empty for a quarantined arrival.
    """

    listener: ListenerName
    received_at: int
    visit_time: int
    time_trusted: bool
    late: bool
    fingerprint: bytes
    """16 bytes: keyed digest of listener and canonical content."""
    visitor_key: bytes
    """16 bytes: keyed digest of listener and ``dedupe.per`` ids; the fingerprint where the body has none."""
    person_keys: tuple[bytes, ...]
    """8 bytes each."""
    body: bytes
    content_type: bytes
    hops: int
    body_days: int
    window: int
    """dedupe.windowSeconds in microseconds."""
    redelivery: int
    """dedupe.redeliverySeconds in microseconds."""
    if_visit: tuple[RoutePlan, ...]
    if_repeat: tuple[RoutePlan, ...]
    quarantine: QuarantineReason | None = None
    future_time: int = 0
    """The time in its body, where that is too far in the future to be trusted; else 0."""
    has_marks: bool = False
    """Whether a plan has a once_key."""
    quota: int = 0
    """Visits a month after which deliveries are held; 0 means no limit."""
    quota_month: tuple[int, int] = (0, 0)
    """The month (in the tenant's zone) that the quota counts: first instant and first instant of the next."""
    token_held: bool = False
    """Whether it came by an address whose visits are held."""
    over_quota: bool = False
    """Whether its tenant's month was over its quota with it; known once decided."""
    body_size: int = 0
    """Bytes after inflating; more than ``len(body)`` where truncated."""
    key: int = 0
    """Row key, given by the store when it commits: keys grow in the order of commits."""


class Accepted(msgspec.Struct, gc=False):
    """What the transaction made of an arrival."""

    counted_as: CountedAs
    deliveries: tuple[Delivery, ...] = ()
    """Those that are due at once; held ones stay in the store."""
    skipped: tuple[SkipReason, ...] = ()
    """Why each route that made no delivery made none."""
