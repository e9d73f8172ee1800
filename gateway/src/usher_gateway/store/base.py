"""The values that the store's callers give and get. All times are microseconds UTC."""

import enum
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from usher_gateway import metrics, model

Period = Literal["slot", "day", "month"]  # The period over which usage is added up: quarters of an hour, days or months


class OpenReport(msgspec.Struct, frozen=True):
    """The state in which an engine found its data when it opened them."""

    recovered: int
    """Deliveries that a dead incarnation had claimed; they are in the backlog now."""
    durability: str
    """``Local`` or ``Replicated``."""
    confirmed_at: int = 0
    """The last time that prune() got, in an earlier run; 0: none."""


class HeldGroup(msgspec.Struct, frozen=True):
    """Deliveries that are held for the same reason on the same route."""

    reason: model.HoldReason
    route: int
    count: int
    since: int
    """Since when the oldest one is held (microseconds)."""


class RouteBacklog(msgspec.Struct, frozen=True):
    """A route's deliveries that wait in the backlog, at least one."""

    route: int
    count: int
    oldest_at: int
    """When the oldest one was created (microseconds)."""


class VisitBody(msgspec.Struct, frozen=True):
    """The body that came with a visit or a repeat."""

    key: int
    """The arrival's row key."""
    listener: model.ListenerName
    counted_as: model.CountedAs
    content_type: bytes
    body: bytes | None
    """None: retention has deleted it."""


class StoreStatistics(msgspec.Struct, frozen=True):
    """The engine's state and speed, for metrics."""

    is_available: bool
    """False while commits fail."""
    unsettled: int
    """Settlements that wait for their commit."""
    commit_seconds: metrics.Histogram
    batch_sizes: metrics.Histogram
    """Arrivals per commit."""
    free_bytes: int | None = None
    """Free space where the data are; None: unknown."""
    is_disk_low: bool = False
    """True while the store refuses arrivals because little space is free."""


class UsageRow(msgspec.Struct, frozen=True):
    """One listener's meters in one period."""

    listener: model.ListenerName
    period: int
    """The period's first second (slots: multiples of 900)."""
    counts: model.Counts


class ListenerActivity(msgspec.Struct, frozen=True):
    """When a listener was used. Times are microseconds."""

    last_arrival_at: int = 0
    """The last accepted arrival; 0: none."""
    first_visits: Mapping[str, int] = {}
    """``Address.id`` -> the first visit at that address."""
    retired_arrivals: Mapping[str, int] = {}
    """A retired address's ``Address.id`` -> the last request there."""


class DestinationActivity(msgspec.Struct, frozen=True):
    """How the attempts at a destination's URL ended: the columns of its row. Times are microseconds; 0: never."""

    url_digest: bytes
    """Keyed digest of the URL, because another URL's activity says nothing about it."""
    has_succeeded: bool = False
    error: str = ""
    """The last failed attempt's code; ``""``: none failed."""
    status: int = 0
    """Its HTTP status; 0: there was no answer."""
    failed_at: int = 0
    failing_since: int = 0
    """When the present row of failures began."""
    failures: int = 0
    """The last failures in a row."""
    recovered_at: int = 0
    """The first success after them; 0: there was none yet."""


class AttemptRecord(msgspec.Struct, frozen=True):
    """One attempt at a delivery, as the store keeps it."""

    at: int
    """When it ended."""
    status: int
    """HTTP status; 0 if there was no answer."""
    error: str
    """A code; empty if the delivery was delivered."""
    milliseconds: int
    """How long it took."""


# A gateway of a shared store sends only for this long after it compared which deliveries it has claimed.
CLAIMS_SECONDS = 30.0

LONGEST_PAGE = 1_000  # The most rows of one page, whatever the caller asks for


class ListingPage(msgspec.Struct, frozen=True):
    """A listing's rows, newest first, as dicts ready for JSON."""

    rows: list[dict[str, object]]
    next_cursor: str | None
    """Where the next page starts; None on the last page."""


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects the rows of a listing, redrive, release or replay; None matches every row."""

    namespace: str | None = None
    tenant: str | None = None
    listener: str | None = None
    route: str | None = None
    destination: str | None = None
    """``namespace/name``."""
    since: int | None = None
    until: int | None = None
    reason: str | None = None
    """A quarantine, skip, hold or cancel reason; each method says which."""
    state: str | None = None
    counted_as: str | None = None
    ids: tuple[bytes, ...] = ()
    id_range: tuple[bytes, bytes] | None = None
    """The lowest and the highest id."""
    visit: bytes | None = None
    """The arrival's id; only for deliveries."""
    replay: bytes | None = None
    """The replay that created the deliveries, by id; only for deliveries."""
    permitted: frozenset[str] | None = None
    """The only tenants that the caller may see: ``namespace/name``, or ``namespace/*``; None: all."""

    def selects(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant's rows may match."""
        is_permitted = self.permitted is None or not self.permitted.isdisjoint(
            (f"{namespace}/*", f"{namespace}/{tenant}")
        )
        return is_permitted and self.namespace in {None, namespace} and self.tenant in {None, tenant}


ANY = Filter()  # Matches every row


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The verdicts for which a replay creates deliveries, and how."""

    where: Filter
    """Without a reason and a state."""
    results: frozenset[str]
    """Results that verdicts had: skip reasons, ``delivered``, ``dead``, ``cancelled``."""
    per_second: int
    """Deliveries created per second, at most."""
    ignores_once_per: bool = False
    """Deliver also skipped verdicts for whose visitor the route's once-per rule allows no more deliveries."""
    ignores_expiry: bool = False
    """Deliver also what is past its time limit."""
    ignores_pause: bool = False
    """Deliver also for routes that are paused or in shadow mode now."""
    started_by: str = ""
    """The caller's token, by name."""

    @property
    def requester(self) -> bytes:
        """A digest for the requester: a limited token's tenants, or else the tenant that the replay selects."""
        where = self.where
        names = (where.namespace or "", where.tenant or "") if where.permitted is None else sorted(where.permitted)
        return hashlib.sha256("\n".join(names).encode()).digest()[:16]


class ReplayReport(msgspec.Struct):
    """The verdicts that a replay, or its preview, has selected so far."""

    results: dict[str, int] = msgspec.field(default_factory=dict)
    """Earlier result -> verdicts with it for which the replay creates a delivery."""
    replayed_before: int = 0
    """Skipped verdicts that have a delivery already, from an earlier replay."""
    without_body: int = 0
    """Verdicts whose body was deleted."""
    once_per: int = 0
    """Skipped verdicts that it leaves out because their route's once-per rule has its mark already."""
    expired: int = 0
    """Verdicts that it leaves out because they are past their time limit."""
    paused: int = 0
    """Verdicts that it leaves out because their route is paused or changed: `IsPaused`."""
    suppressed: int = 0
    """Verdicts that it leaves out because their person is suppressed."""

    @property
    def created(self) -> int:
        """The verdicts for which it creates a delivery."""
        return sum(self.results.values())

    def add(self, other: "ReplayReport") -> None:
        """Add the counts from another part of the selection."""
        for result, count in other.results.items():
            self.results[result] = self.results.get(result, 0) + count
        self.replayed_before += other.replayed_before
        self.without_body += other.without_body
        self.once_per += other.once_per
        self.expired += other.expired
        self.paused += other.paused
        self.suppressed += other.suppressed


class ReplaySample(msgspec.Struct, frozen=True):
    """One verdict that a preview selected."""

    visit: bytes
    """The arrival's id."""
    received_at: int
    route: model.RouteDefinition
    result: str
    """The verdict's earlier result."""


class ReplayPreview(msgspec.Struct):
    """The effect that a replay would have now."""

    report: ReplayReport = msgspec.field(default_factory=ReplayReport)
    destinations: Counter[str] = msgspec.field(default_factory=Counter)
    """``namespace/name`` -> new deliveries to this destination."""
    tenants: Counter[str] = msgspec.field(default_factory=Counter)
    """``namespace/name`` -> this tenant's new deliveries."""
    waiting: int = 0
    """The selection's pending deliveries, which no replay selects; without held ones."""
    held: int = 0
    sample: list[ReplaySample] = msgspec.field(default_factory=list)
    """The newest selected verdicts."""
    is_complete: bool = True
    """False if counting took too long: then there are more."""


class ReplayState(enum.IntEnum):
    """A replay's state. The store keeps the numbers: never reuse one."""

    Running = 1
    Done = 2
    """It has created all its deliveries."""
    Cancelled = 3


class Replay(msgspec.Struct, frozen=True):
    """A replay as the store has it."""

    key: int
    id: bytes
    request: ReplayRequest
    state: ReplayState
    created_at: int
    ended_at: int
    """0: not yet."""
    place: str
    """The cursor from which it goes on; ``""``: the newest arrival."""
    next_at: int
    """When the next step may be taken."""
    report: ReplayReport
    reached_at: int = 0
    """When the last arrival came that it has looked at; 0: none yet, or all."""
    deliveries: Mapping[str, int] = {}
    """State (``held`` apart from ``pending``) -> its deliveries."""


class ForwardedErasure(msgspec.Struct, frozen=True):
    """How a destination answered the request to erase a person."""

    at: int
    """When it was asked, so before the answer."""
    status: int = 0
    """HTTP status; 0: there was no answer."""
    error: str = ""
    """A code; ``""``: the destination took the request, or has no person with this value."""


class ErasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to erase a person's data. It contains no value that the person has."""

    persons: tuple[bytes, ...]
    """Person keys, from all selected tenants; empty once the erasure has ended."""
    tenants: tuple[str, ...]
    """``namespace/name`` for each searched tenant."""
    fields: tuple[str, ...]
    """Kinds of value: ``email`` and so on."""
    reference: str = ""
    """The id that the caller gave the request."""
    requested_by: str = ""
    """The caller's token, by name."""
    since: int = 0
    """When the oldest arrival in the store was received; 0: there was none, or the caller may not know it."""
    store: str = ""
    """The searched store's type."""
    backup_days: int = 0
    """Days that the store's backups are kept; 0: not stated."""
    forwarded: Mapping[str, ForwardedErasure] = {}
    """Destination (``namespace/name``) that was asked to erase the person -> its answer."""


class SentTo(msgspec.Struct):
    """A person's deliveries that a destination got before the erasure. Times are microseconds; 0: none."""

    delivered: int = 0
    attempted: int = 0
    """Deliveries with an attempt that was not accepted: the destination may have them all the same."""
    first_at: int = 0
    last_at: int = 0


class ErasureReport(msgspec.Struct):
    """Counts of erased rows, without personal data."""

    arrivals: dict[str, int] = msgspec.field(default_factory=dict)
    """``namespace/tenant`` -> arrivals."""
    deliveries: dict[str, int] = msgspec.field(default_factory=dict)
    """State that the delivery had -> deliveries."""
    sent_to: dict[str, SentTo] = msgspec.field(default_factory=dict)
    """Destination (``namespace/name``) -> what it has got."""
    changed_at: int = 0
    """When the erasure began, or last cancelled a pending delivery, by the store's clock (`Store.store_time`)."""


class ErasureState(enum.IntEnum):
    """The state of an erasure, with OpenDSR's names. The store keeps the numbers: never reuse one."""

    Pending = 1
    InProgress = 2
    Completed = 3
    Cancelled = 4


class Erasure(msgspec.Struct, frozen=True):
    """An erasure as the store has it."""

    key: int
    id: bytes
    request: ErasureRequest
    state: ErasureState
    created_at: int
    ended_at: int
    """0: not yet."""
    report: ErasureReport


class SuppressedTenant(msgspec.Struct, frozen=True):
    """A tenant's suppressed persons. Times are microseconds."""

    tenant: str
    """``namespace/name``."""
    persons: int
    """Values: a person whose e-mail address and mobile number are suppressed counts twice."""
    first_at: int
    last_at: int


class Link(msgspec.Struct, frozen=True):
    """A link that opens one tenant's pages to a customer. Times are microseconds."""

    id: str
    tenant: str
    """``namespace/name``."""
    created_at: int
    expires_at: int
    shows_visits: bool
    """True: also the last visits, with visitors' initials."""
    opened_at: int = 0
    """When it was exchanged for a cookie; 0: not yet."""
    used_at: int = 0
    """When its pages were last asked for, within a minute; 0: not yet."""
    revoked_at: int = 0
    """0: it is not revoked."""


class KeptTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long to keep rows that have no end themselves."""

    meter_months: Mapping[str, int] = {}
    """``namespace/tenant`` -> months that its meters are kept; 25 for all others."""
    receipt_days: int = 1_095
    """Days that an erasure is kept after its end."""


USUAL_TIMES = KeptTimes()  # The defaults, without manifests and settings


class AuditEntry(msgspec.Struct, frozen=True):
    """A caller's look or change at the admin port, without personal data."""

    at: int
    who: str
    """The caller's token, by name."""
    action: str
    selection: Mapping[str, object]
    count: int
    peer: str
    """The caller's address."""
    id: bytes = b""
    """Empty before it is stored."""


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Selects audit log entries; None matches every entry."""

    since: int | None = None
    until: int | None = None
    who: str | None = None
    action: str | None = None
    reference: str | None = None
    """The selection's ``reference``: the caller's own id for a person's request."""
    tenant: str | None = None
    """``NAME`` or ``NAMESPACE/NAME``: the tenant that an entry's selection names."""


Change = Literal["redrive", "cancel", "retry"]  # A change of deliveries that a person requests


class ChangePreview(msgspec.Struct):
    """How many deliveries a change would change now."""

    reasons: Counter[str] = msgspec.field(default_factory=Counter)
    """By hold or cancel reason, or by the error's code; ``NotTried`` without an attempt."""
    destinations: Counter[str] = msgspec.field(default_factory=Counter)
    """By ``namespace/name``."""
    tenants: Counter[str] = msgspec.field(default_factory=Counter)
    """By ``namespace/tenant``."""
    left_out: int = 0
    """Selected deliveries that it would not change."""


# Returns the reasons that hold deliveries of a route now, the first one first. TokenHeld and QuotaExceeded hold only
# deliveries of arrivals that came with them; any other reason holds all.
HoldsOf = Callable[[model.RouteDefinition], Sequence[model.HoldReason]]


# Returns the mark of a once-per rule for an arrival, and the instant from which the store may delete it.
MarkOf = Callable[[model.Arrival], tuple[bytes, int]]

# Returns how the marks of a route are made; None if the route has no once-per rule now.
MarkOfRoute = Callable[[model.RouteDefinition], MarkOf | None]


RELEASED, UNRELEASED = "released", "unreleased"  # States of quarantined arrivals


# Returns whether a route is paused or in shadow mode now, was removed, or leads to another destination.
IsPaused = Callable[[model.RouteDefinition], bool]


# Receives the result of an abandoned arrival: what the commit decided, or None if the arrival was withdrawn.
AbandonedCallback = Callable[[model.Accepted | None], None]


class Replicas(msgspec.Struct, frozen=True):
    """The gateways of a store, which share the limits of destinations."""

    own: int = 0
    """This gateway's run, as a number."""
    members: tuple[int, ...] = (0,)
    """The numbers of all runs that have not ended, the oldest first."""


ApplyReplicas = Callable[[Replicas], None]
