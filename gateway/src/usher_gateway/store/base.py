"""The interface of the store, for every engine. The docstrings are the contract.

One suite (tests/contract) tests all engines unchanged. All times are microseconds UTC. Callers use all methods from the
event loop's thread. Methods raise StoreUnavailableError (or StoreFullError) if the engine cannot commit now, and
otherwise only the errors that they name. Cancelling an awaiting caller never cancels a commit that has begun.
"""

import asyncio
import datetime
import enum
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from usher_gateway import metrics, model

Period = Literal["slot", "day", "month"]
"""The period over which usage is added up: quarters of an hour, days or months."""


class OpenReport(msgspec.Struct, frozen=True):
    """The state in which an engine found its data when it opened them."""

    highest_key: int
    """The highest row key in use; new ids start above it."""
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


class RouteBacklog(msgspec.Struct, frozen=True):
    """The deliveries of a route that wait in the backlog, at least one."""

    route: int
    count: int
    oldest_at: int
    """When the oldest of them was created, in microseconds."""


class DueDestination(msgspec.Struct, frozen=True):
    """A destination with deliveries in the backlog."""

    destination: str
    next_due_at: int


class VisitBody(msgspec.Struct, frozen=True):
    """The body of a visit or of a repeat."""

    key: int
    """Row key of the arrival."""
    listener: model.ListenerName
    counted_as: model.CountedAs
    content_type: bytes
    body: bytes | None
    """None: retention has deleted it."""


class OpenCounts(msgspec.Struct, frozen=True):
    """Counts of the open deliveries in the store, for metrics."""

    backlog: int
    """Deliveries in the backlog."""
    held: dict[str, int]
    """Hold reason -> deliveries."""
    oldest_in_backlog: bytes
    """Id of the oldest delivery in the backlog; empty if there is none."""


class StoreStatistics(msgspec.Struct, frozen=True):
    """The state and the speed of the engine, for metrics."""

    is_available: bool
    """False while commits fail."""
    free_bytes: int | None
    """Free space where the data are; None: unknown."""
    is_disk_low: bool
    """True while the store refuses arrivals because little space is free."""
    unsettled: int
    """Settlements that wait for their commit."""
    commit_seconds: metrics.Histogram
    batch_sizes: metrics.Histogram
    """Arrivals per commit."""
    unknown_names: int = 0
    """Numbers of listeners and routes that rows have lately been read with, and that have no name."""


class Backlog(msgspec.Struct, frozen=True):
    """The deliveries of one destination in the backlog."""

    destination: str
    count: int
    next_due_at: int


class UsageRow(msgspec.Struct, frozen=True):
    """The meters of one listener in one period."""

    listener: model.ListenerName
    period: int
    """First second of the period (slots: multiples of 900)."""
    counts: model.Counts


class ListenerActivity(msgspec.Struct, frozen=True):
    """When a listener was used. Times are microseconds."""

    last_arrival_at: int = 0
    """The last accepted arrival; 0: none."""
    first_visits: Mapping[str, int] = {}
    """``Address.id`` -> the first visit at that address."""
    retired_arrivals: Mapping[str, int] = {}
    """``Address.id`` of a retired address -> the last request there."""


class AttemptRecord(msgspec.Struct, frozen=True):
    """One attempt of a delivery, as the store keeps it."""

    at: int
    """When it ended."""
    status: int
    """HTTP status; 0 if there was no answer."""
    error: str
    """A code; empty if the delivery was delivered."""
    milliseconds: int
    """How long it took."""


class ListingPage(msgspec.Struct, frozen=True):
    """Rows of a listing, newest first, as dicts ready for JSON."""

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
    visit: bytes | None = None
    """Id of the arrival that the deliveries belong to; only for deliveries."""


_ANY = Filter()


class ReplayReport(msgspec.Struct):
    """The result of a replay, or of its preview, for the skipped verdicts that it selected."""

    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    """Skip reason -> verdicts for which it creates a delivery."""
    replayed_before: int = 0
    """Verdicts that have a delivery already, from an earlier replay."""
    without_body: int = 0
    """Verdicts whose body was deleted."""
    once_per: int = 0
    """Verdicts that it leaves out because the mark of their route's once-per rule exists."""

    @property
    def replayed(self) -> int:
        """The verdicts for which it creates a delivery."""
        return sum(self.reasons.values())

    def add(self, other: "ReplayReport") -> None:
        """Add the counts of another part of the selection."""
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        self.replayed_before += other.replayed_before
        self.without_body += other.without_body
        self.once_per += other.once_per


Change = Literal["redrive", "cancel", "retry"]
"""A change of deliveries that a person requests."""


HoldsOf = Callable[[model.RouteDefinition], Awaitable[Sequence[model.HoldReason]]]
"""Returns the reasons that hold deliveries of a route now, the first one first.

TokenHeld and QuotaExceeded hold only deliveries of arrivals that came with them; any other reason holds all.
"""


async def no_holds(_: model.RouteDefinition) -> Sequence[model.HoldReason]:
    """Hold nothing."""
    return ()


MarkOf = Callable[[model.Arrival], tuple[bytes, int]]
"""Returns the mark of a once-per rule for an arrival, and the instant from which the store may delete it."""

MarkOfRoute = Callable[[model.RouteDefinition], MarkOf | None]
"""Returns how the marks of a route are made; None if the route has no once-per rule now."""


def no_marks(_: model.RouteDefinition) -> MarkOf | None:
    """Ignore the once-per rules."""
    return None


AbandonedCallback = Callable[[model.Accepted | None], None]
"""Receives the result of an abandoned arrival: what the commit decided, or None if the arrival was withdrawn."""


class Replicas(msgspec.Struct, frozen=True):
    """The gateways of a store, which share the limits of destinations."""

    own: int = 0
    """The number of this gateway's run."""
    members: tuple[int, ...] = (0,)
    """The numbers of all runs that have not ended, the oldest first."""
    has_joined: bool = True
    """False while other gateways may still use the limits without a share for this one."""

    @property
    def newest(self) -> int:
        """The number of the newest run."""
        return max(self.own, *self.members)


ApplyReplicas = Callable[[Replicas], bool]


class CircuitEvent(enum.Enum):
    """A change of a destination's circuit at a gateway."""

    Opened = "Opened"
    Failed = "Failed"
    """An attempt failed while it was open."""
    Closed = "Closed"


class CircuitChange(msgspec.Struct, frozen=True):
    """A change of a destination's circuit that a gateway tells the others."""

    destination: str
    event: CircuitEvent
    error: str = ""
    """The code of the failed attempt."""


class TrialTimes(msgspec.Struct, frozen=True):
    """When trials of open circuits may start, in seconds of the database's clock."""

    every_seconds: float
    """How long after a failure the next trial may start."""
    claim_seconds: float
    """How long a gateway that has claimed a trial may wait until it starts it."""


class OpenCircuit(msgspec.Struct, frozen=True):
    """A destination's circuit that is open at all gateways."""

    destination: str
    error: str
    """The code of the last failed attempt."""
    trial_in_seconds: float
    """When the next trial may be claimed. Below 0: now."""
    is_claimed: bool
    """This gateway has just claimed a trial."""


class Store(Protocol):
    """A durable ledger of arrivals and a queue of deliveries, with its meters.

    A pending delivery is *claimed* (in a lane or an attempt of this process), in the *backlog*, or *held*.
    """

    async def open(self) -> OpenReport:
        """Take ownership of the data, migrate the schema, and recover from a crash.

        Raises:
            StoreLockedError: another gateway owns the data, or they were exported, or their import is unfinished.
            StoreCorruptError: the data are damaged or not Usher's.
            InstallKeyError: another install key made the data.
            ConfigurationError: the folder cannot be used (a network file system, missing rights).
        """

    async def close(self) -> None:
        """Commit everything handed in so far, then release the data. Idempotent."""

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        """Queue an arrival for the next group commit. The future completes once the arrival is durable.

        One transaction holds the ledger rows with their verdicts, the deliveries, the once-per marks and the meters of
        all arrivals of a batch. If a batch fails on its data, the store bisects it, and commits an arrival that fails
        alone as quarantined ``Unstorable``. The store decides here which of equal arrivals is the visit, for any number
        of replicas. The deliveries in Accepted are claimed at once. During an outage arrivals wait.

        Raises:
            StoreBusyError: the queue, or the tenant's share of it, is full.
            StoreFullError: free disk space is below the bound.
            StorageLimitError: the tenant stores as many bytes as it may (``Arrival.max_stored_bytes``).
        """

    def abandon(self, future: "asyncio.Future[model.Accepted]", on_result: AbandonedCallback | None = None) -> None:
        """Stop waiting for an accept() because its deadline has come.

        Cancels the future. If the commit of the arrival has not begun, the store withdraws the arrival. Otherwise the
        commit goes on, and if it succeeds the store records it as unacknowledged() does. Then it calls ``on_result``.
        """

    def take_orphans(self) -> list[model.Delivery]:
        """Return the claimed deliveries of arrivals that were committed after abandon(), since the last call."""

    def unacknowledged(self, arrival: model.Arrival) -> None:
        """Record that a committed arrival's 200 was not sent: its content is a redelivery for 7 days."""

    def count(self, listener: model.ListenerName, counter: model.Counter, at: int) -> None:
        """Count a probe or a refusal in memory. The store flushes such counts within seconds, exactly once."""

    def settle(self, settlement: model.Settlement) -> None:
        """Record the outcome of an attempt with the next commit; ignored if the delivery has changed meanwhile."""

    @property
    def unsettled(self) -> int:
        """Settlements that wait for their commit; the caller starts no attempts while there are many."""

    @property
    def may_attempt(self) -> bool:
        """False while the store cannot record outcomes: during an outage, or while the disk is nearly full."""

    def statistics(self) -> StoreStatistics:
        """Return the present state of the engine."""

    async def outage(self) -> str | None:
        """Return why arrivals cannot be committed; None if they can, or if they only have to wait a few seconds."""

    def follow_replicas(self, apply: ApplyReplicas) -> None:
        """Call ``apply`` now, and whenever the gateways of this store may have changed.

        It applies this gateway's shares of the destinations' limits, and returns whether the running attempts are
        within them. A gateway that starts gets its shares when that is so at all others.
        """

    @property
    def is_shared(self) -> bool:
        """True if other gateways may use the data at the same time. Only then ``exchange_circuits`` is called."""

    async def exchange_circuits(
        self, changes: Sequence[CircuitChange], trials: Collection[str], times: TrialTimes
    ) -> list[OpenCircuit]:
        """Tell the other gateways about circuits, claim due trials, and return the circuits that are open.

        Only one gateway gets a trial. The next trial is due ``every_seconds`` after that gateway reports a failure,
        or after the end of its claim if it reports nothing.
        """

    async def tell_destinations(self, destinations: Collection[str]) -> None:
        """Tell the other gateways which destinations this one knows. Called only if ``is_shared``."""

    async def destinations_of_others(self, destinations: Collection[str]) -> list[frozenset[str]]:
        """Return for each other gateway that runs which of some destinations it knows. Called only if ``is_shared``."""

    async def watch_ownership(self) -> None:
        """Wait until this process loses the ownership of its deliveries; after that it can commit nothing.

        Raises:
            StoreLockedError: another gateway took over.
        """

    async def flush(self) -> None:
        """Wait until everything handed in before this call is committed."""

    async def claim(self, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
        """Claim due deliveries of a destination from the backlog, the longest due first."""

    async def defer(self, keys: Sequence[int]) -> None:
        """Return claimed deliveries to the backlog, due at once (no room, or shutting down)."""

    async def note_oldest_claimed(self) -> None:
        """Record the age of the oldest claimed delivery, so that recovery skips older rows."""

    async def hasten(self, destination: str, now: int) -> int:
        """Make a destination's backlog due at once, because its cause may be gone; return how many changed."""

    async def hasten_forbidden(self, now: int) -> int:
        """Make the backlog whose last attempt met a forbidden address due at once; return how many changed."""

    async def open_counts(self) -> OpenCounts:
        """Count the deliveries in the backlog and the held ones."""

    async def backlog_by_route(self) -> list[RouteBacklog]:
        """Return the routes with deliveries in the backlog."""

    async def dead_by_route(self) -> Mapping[int, int]:
        """Return how many dead deliveries each route has."""

    async def backlogs(self) -> list[Backlog]:
        """Return every destination with deliveries in the backlog, with their number."""

    async def due(self) -> list[DueDestination]:
        """Return every destination with deliveries in the backlog, with the time at which the first is due."""

    def route(self, number: int) -> model.RouteDefinition:
        """Return the route definition of a delivery or of a held group."""

    def routes(self) -> Collection[model.RouteDefinition]:
        """Return every route that deliveries were made for."""

    async def listener_names(self) -> Collection[model.ListenerName]:
        """Return every listener that something was counted for."""

    async def held_groups(self) -> list[HeldGroup]:
        """Return the held deliveries, grouped by reason and route."""

    async def claim_held(
        self, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
    ) -> list[model.Delivery]:
        """Claim held deliveries of a group, under another route definition."""

    async def unhold(self, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
        """Make held deliveries of a group due at once (backlog); return how many left the group.

        If the arrival of a delivery came with one of the reasons in ``lasting``, the delivery stays held for that
        reason.
        """

    async def cancel_held(self, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int) -> int:
        """Cancel the deliveries of a group that are held since before an instant; return how many."""

    async def expire_held(self, now: int) -> int:
        """Cancel held deliveries that are past their time limit (``Expired``); return how many."""

    async def activity(self) -> Mapping[model.ListenerName, ListenerActivity]:
        """Return the saved activity of every listener that was ever used."""

    async def save_activity(self, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
        """Replace the saved activity of some listeners."""

    async def usage(
        self,
        since: int,
        until: int,
        where: Filter = _ANY,
        period: Period = "slot",
        zone: datetime.tzinfo = datetime.UTC,
    ) -> list[UsageRow]:
        """Return the meters of the slots in [since, until), including unfolded counts; one snapshot per slot.

        Days and months begin at midnight of ``zone``: slots are quarters of an hour, and so are the offsets of zones.
        Uses only ``namespace``, ``tenant`` and ``listener`` of the filter. Sorted by period, then listener. The counts
        that retention adds itself (``carried``) are in slot 0, so only a query with ``since=0`` returns them.
        """

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        """Count the deliveries that were open at a slot border, by listener; listeners without any are left out.

        In one snapshot, the store counts the pending rows and subtracts the changes since the border according to the
        meters. So the result for the instant 0 is empty, unless the meters and the rows disagree.
        """

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """List the arrivals of the ledger with their verdicts.

        If few rows match, a page ends early with a cursor. ``reason`` is a quarantine or skip reason; ``state`` is
        ``released`` or ``unreleased`` (quarantined arrivals).

        Raises:
            ValueError: the filter or the cursor is invalid.
        """

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """List deliveries of every state; the state ``held`` selects the held part of the pending ones.

        ``reason`` is a hold or cancel reason, or the code of an error. Pages end early as those of visits() do.

        Raises:
            ValueError: the filter or the cursor is invalid.
        """

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        """Return body and content type of an arrival.

        Raises:
            NotFoundError: the arrival does not exist, or the retention of its body has ended.
        """

    async def visit_bodies(self, where: Filter, limit: int, after: int = 0) -> list[VisitBody]:
        """Return the bodies of visits and repeats, oldest first, after a row key.

        Uses the names and the period of the filter.
        """

    async def answer(self, delivery: bytes) -> bytes:
        """Return the last answer of a dead delivery's destination (at most 256 bytes).

        Raises:
            NotFoundError: the delivery does not exist, or it has no answer.
        """

    async def attempts(self, delivery: bytes) -> list[AttemptRecord]:
        """Return the last 10 attempts of a delivery, the oldest first. A redrive keeps those before it.

        Raises:
            NotFoundError: the delivery does not exist.
        """

    async def find_person(self, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
        """Return the ids of a tenant's arrivals that have any of these person keys, newest first."""

    async def redrive(self, where: Filter, now: int, holds_of: HoldsOf = no_holds) -> int:
        """Make dead deliveries pending and due again, or held, with no attempts made; return how many.

        Redrives cancelled deliveries only if ``state`` asks for them. Leaves out deliveries without a body and those
        past their time limit.
        """

    async def cancel(self, where: Filter, now: int, on_cancelled: Callable[[Sequence[int]], None]) -> int:
        """Cancel pending deliveries (``OnRequest``), held and claimed ones too; return how many.

        ``on_cancelled`` receives the row keys of each slice, so that the caller can drop those in lanes. A result that
        a running attempt brings later is ignored.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """

    async def preview(self, change: Change, where: Filter, now: int) -> Mapping[str, int]:
        """Return how many deliveries a change would change: by hold or cancel reason, or by the error's code.

        Those that were never tried count as ``NotTried``.

        Raises:
            ValueError: ``state`` asks for deliveries that the change does not select.
        """

    async def retry(self, where: Filter, now: int) -> int:
        """Make deliveries of the backlog due at once that wait for a later retry; return how many.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        """Return quarantined arrivals that can be released, oldest first, with bodies but without plans.

        ``after`` is the row key of the last arrival of the previous call. ``Truncated`` and ``Unstorable`` arrivals are
        never returned.
        """

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        """Create the ``if_visit`` deliveries of quarantined arrivals that were not released before; return how many.

        The plans become the arrival's verdicts, and the store adds the person keys of the given arrivals.
        """

    async def replay(
        self,
        where: Filter,
        reasons: Collection[model.SkipReason],
        now: int,
        *,
        holds_of: HoldsOf = no_holds,
        mark_of_route: MarkOfRoute = no_marks,
        is_preview: bool = False,
    ) -> ReplayReport:
        """Create deliveries, without a time limit, for skipped verdicts that have none yet. They are due, or held.

        Selects verdicts with one of the reasons. A once-per mark is written together with its delivery. A preview
        changes nothing.
        """

    async def prune(self, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        """Delete one small slice of the data whose retention has ended; return the rows touched (0: nothing left).

        ``now`` must be confirmed, because deleted data are lost. The store records it for the next start.

        ``meter_months``: months for which meters are kept, by ``namespace/tenant``; 25 for all others.
        """
