"""The store's port: what every engine does, whatever it is. The docstrings are the contract.

One suite (tests/contract) runs over all engines unchanged. All times are microseconds UTC; all methods are safe to
call from the event loop's thread only. Methods raise StoreUnavailableError (or StoreFullError) when the engine cannot
commit now; nothing else but the errors named. Cancelling an awaiting caller never cancels a commit that has begun.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from usher_gateway import model

Period = Literal["slot", "day", "month"]
"""What usage is added up over: quarters of an hour, days or months, all UTC."""


class OpenReport(msgspec.Struct, frozen=True):
    """What an engine found when it was opened."""

    highest_key: int
    """The highest row key in use: ids must grow from there."""
    recovered: int
    """Deliveries that a dead incarnation had in its lanes; they are backlog now."""
    durability: str
    """``Local`` or ``Replicated``."""


class HeldGroup(msgspec.Struct, frozen=True):
    """Held deliveries that are held for the same reason on the same route."""

    reason: model.HoldReason
    route: int
    count: int


class DueDestination(msgspec.Struct, frozen=True):
    """A destination with deliveries in the backlog."""

    destination: str
    next_due_at: int


class OpenCounts(msgspec.Struct, frozen=True):
    """What is open in the store now, for metrics."""

    waiting: int
    """Deliveries in the backlog."""
    held: dict[str, int]
    """Hold reason -> deliveries."""
    oldest_waiting: bytes
    """Id of the oldest delivery in the backlog; empty if there is none."""


class Backlog(msgspec.Struct, frozen=True):
    """Pending deliveries of one destination that wait in the store, not in a lane."""

    destination: str
    count: int
    next_due_at: int


class UsageRow(msgspec.Struct, frozen=True):
    """The meters of one listener in one period."""

    listener: model.ListenerName
    period: int
    """First second of the period (slots: multiples of 900)."""
    counts: model.Counts


class ListingPage(msgspec.Struct, frozen=True):
    """Rows of a listing, newest first, as plain dicts ready for JSON, and where the next page starts."""

    rows: list[dict[str, object]]
    next_cursor: str | None


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows a listing, redrive, release or replay means; None means any."""

    namespace: str | None = None
    tenant: str | None = None
    listener: str | None = None
    route: str | None = None
    destination: str | None = None
    """``namespace/name``."""
    since: int | None = None
    until: int | None = None
    reason: str | None = None
    """Quarantine reason, skip reason or hold reason, by what is listed."""
    state: str | None = None
    counted_as: str | None = None
    ids: tuple[bytes, ...] = ()


_ANY = Filter()


AbandonedCallback = Callable[[model.Accepted | None], None]
"""Told what became of an abandoned arrival: what the commit made of it, or None if it was withdrawn."""


class Store(Protocol):
    """A durable ledger of arrivals and a queue of deliveries, with its meters."""

    orphans: list[model.Delivery]
    """Deliveries of arrivals that were committed after abandon(): whoever moves deliveries takes them out of here."""

    async def open(self) -> OpenReport:
        """Take ownership, migrate, recover.

        Raises:
            StoreLockedError: another gateway owns the data.
            StoreCorruptError: the data cannot be read as ours.
            InstallKeyError: the data was made with another install key.
            ConfigurationError: the place is unfit (a network file system, no rights).
        """

    async def close(self) -> None:
        """Commit what was handed in, then let go. Idempotent."""

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        """Hand in an arrival for the next group commit; the future is done once it is durable.

        One transaction holds the ledger row with its verdicts, the deliveries, the once-per marks and the meters of
        all arrivals of a batch. A batch that fails on data is bisected; an arrival that fails alone is committed as
        quarantined ``Unstorable``. Who is the visit among equal ones is decided here, whatever the number of replicas.
        Deliveries returned in Accepted belong to this process at once. While the store is away arrivals wait.

        Raises:
            StoreBusyError: the queue, or the tenant's part of it, is full.
            StoreFullError: disk space is below the bound.
        """

    def abandon(self, future: "asyncio.Future[model.Accepted]", learned: AbandonedCallback | None = None) -> None:
        """Stop waiting for an accept(): the deadline has come.

        The future is cancelled. An arrival whose commit has not begun is withdrawn; otherwise the commit goes on, and
        its success is recorded as by unacknowledged(). ``learned`` is called once that is known.
        """

    def unacknowledged(self, arrival: model.Arrival) -> None:
        """Note that a committed arrival's 200 did not go out: its content is a redelivery for 7 days."""

    def count(self, listener: model.ListenerName, counter: model.Counter, at: int) -> None:
        """Count a probe or a refusal: kept in memory, flushed within seconds, exactly once."""

    def settle(self, settlement: model.Settlement) -> None:
        """Record what became of an attempt, with the next commit; nothing happens if the delivery has moved on."""

    @property
    def unsettled(self) -> int:
        """Settlements that wait for their commit; the caller starts no attempts while there are many."""

    @property
    def may_attempt(self) -> bool:
        """Whether results can be recorded now: False while the disk is nearly full."""

    async def flush(self) -> None:
        """Wait until all that was handed in before is committed."""

    async def claim(self, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
        """Take due deliveries of a destination from the backlog into this process's lanes, oldest due first."""

    async def defer(self, keys: Sequence[int]) -> None:
        """Give deliveries of this process's lanes back to the backlog, due at once (no room, or shutting down)."""

    async def note_lanes(self) -> None:
        """Note how old the oldest delivery in this process's lanes is: a start need not look below."""

    async def hasten(self, destination: str, now: int) -> int:
        """Make a destination's backlog due at once, because what it waited for may have been mended; how many."""

    async def open_counts(self) -> OpenCounts:
        """What is in the backlog and held."""

    async def backlogs(self) -> list[Backlog]:
        """Every destination with deliveries in the backlog."""

    async def due(self) -> list[DueDestination]:
        """Every destination with deliveries in the backlog, and when the first of them is due."""

    def route(self, number: int) -> model.RouteDefinition:
        """The route definition of a delivery or of a held group."""

    async def held_groups(self) -> list[HeldGroup]:
        """Held deliveries, grouped."""

    async def claim_held(
        self, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
    ) -> list[model.Delivery]:
        """Take held deliveries of a group into this process's lanes, to be decided anew by another route definition."""

    async def unhold(self, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
        """Make held deliveries of a group due at once (backlog); returns how many left the group.

        Those whose arrival brought one of ``lasting`` with it are held by that from now on, and not due.
        """

    async def cancel_held(self, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int) -> int:
        """Cancel held deliveries of a group that were held before an instant; returns how many."""

    async def expire_held(self, now: int) -> int:
        """Cancel held deliveries whose time limit is over (``Expired``); returns how many."""

    async def usage(self, since: int, until: int, where: Filter = _ANY, period: Period = "slot") -> list[UsageRow]:
        """The meters of slots in [since, until), unfolded rows included: each slot in one snapshot.

        Only ``namespace``, ``tenant`` and ``listener`` of the filter count. Sorted by period, then listener. The counts
        of retention's own making (``carried``) are in slot 0: only who asks since 0 gets them.
        """

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        """Deliveries open at a slot border, by listener (those with none are left out).

        Counted from the rows themselves: what is pending now, less what the meters say has happened since the border,
        in one snapshot. So for the instant 0 it is empty, unless the meters and the rows differ.
        """

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """Arrivals of the ledger with their verdicts.

        A page ends early, with a cursor, where few rows match. ``reason`` is a quarantine or skip reason; ``state`` is
        ``released`` or ``unreleased`` (quarantined ones).

        Raises:
            ValueError: the filter or the cursor cannot be understood.
        """

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """Deliveries of every state; ``held`` is the state of pending ones that wait for a person or a date.

        ``reason`` is a hold or cancel reason, or an error's code. Ends early as visits() does.

        Raises:
            ValueError: the filter or the cursor cannot be understood.
        """

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        """Body and content type of an arrival.

        Raises:
            NotFoundError: no such arrival, or its body's retention has ended.
        """

    async def answer(self, delivery: bytes) -> bytes:
        """What a dead delivery's destination answered last (at most 256 bytes).

        Raises:
            NotFoundError: no such delivery, or it has none.
        """

    async def find_person(self, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
        """Ids of a tenant's arrivals in which any of these person keys occurs, newest first."""

    async def redrive(self, where: Filter, now: int) -> int:
        """Make dead deliveries pending and due again, with attempts starting anew; how many.

        Those cancelled only where ``state`` says so. Left out: what has no body any more or is past its time limit.
        """

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        """Quarantined arrivals that can be released, oldest first, with bodies but without plans.

        ``after`` is the key of the last one that was looked at. Never ``Truncated`` or ``Unstorable`` ones.
        """

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        """Create the ``if_visit`` deliveries of quarantined arrivals that were not released yet; deliveries made.

        The plans become the arrival's verdicts, and its person keys those of the arrival given.
        """

    async def replay(self, where: Filter, now: int) -> int:
        """Create deliveries for skipped verdicts that have none yet; how many. They have no time limit.

        ``reason`` is a skip reason.
        """

    async def prune(self, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        """Delete one small slice of what retention has ended for; rows touched (0: nothing left to do).

        ``meter_months``: months that meters are kept, by ``namespace/tenant``; 25 for those not named.
        """
