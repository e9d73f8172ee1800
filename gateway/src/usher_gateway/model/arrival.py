"""An arrival: one HTTP request at the public port, and the visit that the gateway read from its body."""

import enum

import msgspec

from usher_gateway.model.delivery import Delivery, Hold, RoutePlan, SkipReason
from usher_gateway.model.identifiers import ListenerName
from usher_gateway.model.instants import DAY, MICROSECONDS

# Identical content is a redelivery for this long if a trusted time or a lost answer proves it.
REDELIVERY_KEEP = 7 * DAY

# Identical content without a trusted time is a redelivery from this age on, because Purple retries after 3 h.
REDELIVERY_NOT_BEFORE = 10_000 * MICROSECONDS

PERSON_KEY_START = 2  # Bytes at the start of a person key that are the same for all tenants
TRUSTED_AHEAD = (
    120 * MICROSECONDS
)  # The gateway does not trust a time in a body that is further in the future than this


class CountedAs(enum.IntEnum):
    """The kind under which an arrival is counted. The store keeps the numbers: never reuse one."""

    Visit = 1
    Repeat = 2
    Redelivery = 3
    Probe = 4
    Quarantined = 5
    Refused = 6
    Suppressed = 7
    """True if nothing may be stored about the person, so that the arrival is only counted."""


class QuarantineReason(enum.IntEnum):
    """Why an arrival at a valid address is not a valid visit. The store keeps the numbers: never reuse one."""

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
    IntegerTooLong = 12


# The store keeps the body, and no key by which its person can be found, because nothing was read from it.
UNREADABLE = (
    QuarantineReason.NotJSON,
    QuarantineReason.NotObject,
    QuarantineReason.Truncated,
    QuarantineReason.TooDeep,
    QuarantineReason.TooManyNodes,
    QuarantineReason.IntegerTooLong,
    QuarantineReason.BadCharset,
    QuarantineReason.BadEncoding,
)


class RefusedReason(enum.StrEnum):
    """Why the gateway committed nothing for an arrival."""

    BadRequest = "BadRequest"
    NotFound = "NotFound"
    Unauthenticated = "Unauthenticated"
    AuthenticationUnresolved = "AuthenticationUnresolved"
    SourceNotAllowed = "SourceNotAllowed"
    MethodNotAllowed = "MethodNotAllowed"
    TooLarge = "TooLarge"
    BodyTimeout = "BodyTimeout"
    RateLimited = "RateLimited"
    TooCostly = "TooCostly"
    QueueFull = "QueueFull"
    StoreUnavailable = "StoreUnavailable"
    LowDisk = "LowDisk"
    StorageLimit = "StorageLimit"
    Deadline = "Deadline"
    NotConfigured = "NotConfigured"
    Disconnected = "Disconnected"
    InternalError = "InternalError"


class Visit(msgspec.Struct, frozen=True):
    """A body's normalised fields. Text fields are ``""`` if the body lacks them.

    Ids are text, whether they came as numbers or strings (docs/purple.md: ``127`` and ``"127"`` are the same id).
    """

    userId: str = ""  # noqa: N815 - these are the names that expressions see
    venueId: str = ""  # noqa: N815
    companyId: str = ""  # noqa: N815
    firstName: str = ""  # noqa: N815
    lastName: str = ""  # noqa: N815
    email: str = ""
    mobile: str = ""
    gender: str = ""
    dateOfBirth: str = ""  # noqa: N815
    source: str = ""
    mac: str = ""
    venueName: str = ""  # noqa: N815
    visitCount: int | None = None  # noqa: N815
    occurredAt: int | None = None  # noqa: N815
    """Microseconds; None if the body has no trusted time."""


class Arrival(msgspec.Struct, gc=False):
    """An arrival on its way into the store, with everything that can be decided without earlier arrivals.

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
    """16 bytes: keyed digest of the listener and the ``dedupe.per`` ids; the fingerprint if the body lacks them."""
    person_keys: tuple[bytes, ...]
    """8 bytes each: `ingest.identity.PersonKeys`."""
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
    other_company: str = ""
    """The company that the body names if it is not the tenant's, and ``companyCheck: Warn`` lets it in."""
    has_untrusted_time: bool = False
    """True if a visit's body has a time that cannot be trusted, such as one without an offset."""
    future_time: int = 0
    """The time in the body if it is too far in the future to be trusted, else 0."""
    has_marks: bool = False
    """True if a plan has a once_key."""
    is_over_quota: bool = False
    """True if the deliveries are held because its tenant is over its quota (set by the store)."""
    token_held: bool = False
    """True if it came by an address whose visits are held."""
    max_stored_bytes: int = 0
    """Bytes that its tenant may store; 0 means a share of the free space."""
    body_size: int = 0
    """Bytes after inflating, or up to the listener's limit and one more; over ``len(body)`` if that was truncated."""
    address: str = ""
    """``Address.id``: the address at which it arrived."""
    key: int = 0
    """Row key; 0 if it is suppressed. The store sets it when it commits the arrival, so keys grow with commits."""


class Accepted(msgspec.Struct, gc=False):
    """The accepting transaction's result for one arrival."""

    counted_as: CountedAs
    deliveries: tuple[Delivery, ...] = ()
    """The deliveries that are due at once; held ones stay in the store."""
    skipped: tuple[SkipReason, ...] = ()
    """One reason for each route that created no delivery."""
    holds: tuple[Hold, ...] = ()


def without_surrogates(text: str) -> str:
    """Replace surrogates, which bodies and headers may have, and which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
