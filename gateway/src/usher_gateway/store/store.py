"""The store: a durable ledger of arrivals and a queue of deliveries, with its meters.

``Store`` has every job once. An engine is a subclass: it opens the data, gives sessions and transactions to the jobs,
and writes the batches of the group commit. The statements of the jobs are in ``jobs/``, those of accepting and settling
in the engine's folder. One suite (tests/contract) tests all engines unchanged.
"""

import abc
import asyncio
import datetime
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from usher_gateway import model
from usher_gateway.store import books, requests
from usher_gateway.store.base import (
    AbandonedCallback,
    ApplyReplicas,
    AttemptRecord,
    Backlog,
    Change,
    DueDestination,
    Filter,
    HeldGroup,
    HoldsOf,
    ListenerActivity,
    ListingPage,
    MarkOfRoute,
    OpenCounts,
    OpenReport,
    Period,
    ReplayReport,
    RouteBacklog,
    StoreStatistics,
    UsageRow,
    VisitBody,
    no_holds,
    no_marks,
)
from usher_gateway.store.encodings import unknown_listener
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.jobs import activity as listener_activity
from usher_gateway.store.jobs import changes, claims, holds, listings, meters
from usher_gateway.store.session import Session, Transaction

_log = structlog.get_logger(__name__)

_RELEASE_SLICE = 20
"""Arrivals that one job releases; each has up to 32 routes."""

_ANY = Filter()

T = TypeVar("T")

Query = Callable[[Session], Coroutine[Any, Any, T]]
"""Reads over one snapshot."""

Job = Callable[[Transaction], Coroutine[Any, Any, T]]
"""Changes rows in one transaction."""


class Store(abc.ABC):
    """A durable ledger of arrivals and a queue of deliveries, with its meters. The docstrings are the contract.

    A pending delivery is *claimed* (in a lane or an attempt of this process), in the *backlog*, or *held*.

    Callers use all methods from the event loop's thread. Methods raise StoreUnavailableError (or StoreFullError) if the
    engine cannot commit now, and otherwise only the errors that they name. Cancelling an awaiting caller never cancels
    a commit that has begun.
    """

    _usage_part_seconds: int
    """The longest period that one query of usage() reads."""

    def __init__(self, *, commits: GroupCommit, now: Callable[[], int]) -> None:
        self._commits = commits
        self._now = now
        self._full_tenants: set[tuple[str, str]] = set()
        """Tenants whose last arrival was refused because they store too many bytes."""

    # The operations of an engine

    @abc.abstractmethod
    async def _read(self, query: Query[T]) -> T:
        """Return the result of a query over one snapshot.

        Raises:
            StoreUnavailableError: the query failed or took too long.
        """

    @abc.abstractmethod
    async def _look_up(self, query: Query[T]) -> T:
        """Do the same for a query that a person asked for, so that it does not delay deliveries."""

    @abc.abstractmethod
    async def _change(
        self,
        job: Job[T],
        *,
        listeners: Collection[model.ListenerName] = (),
        definitions: Collection[model.RouteDefinition] = (),
    ) -> T:
        """Run a job in a separate transaction; return its result after the commit.

        ``listeners`` and ``definitions``: the names whose numbers the job writes.
        """

    @abc.abstractmethod
    async def _load_routes(self, numbers: Collection[int]) -> None:
        """Make sure that route() knows some numbers, which other gateways may have added."""

    @abc.abstractmethod
    def _check_arrival(self, arrival: model.Arrival) -> None:
        """Raise an error of accept() if the engine cannot accept an arrival now."""

    def _check_stored_bytes(self, arrival: model.Arrival, stored: int, limit: int) -> None:
        """Raise StorageLimitError if the arrival's tenant would store more bytes than it may."""
        tenant = (arrival.listener.namespace, arrival.listener.tenant)
        if stored + len(arrival.body) > limit:
            if tenant not in self._full_tenants:
                self._full_tenants.add(tenant)
                _log.warning("storage_limit_reached", namespace=tenant[0], tenant=tenant[1], stored=stored, limit=limit)
            raise model.StorageLimitError("the tenant stores as many bytes as it may")
        self._full_tenants.discard(tenant)

    @abc.abstractmethod
    async def open(self) -> OpenReport:
        """Take ownership of the data, migrate the schema, and recover from a crash.

        Raises:
            StoreLockedError: another gateway owns the data, or they were copied, or a copy to them is unfinished.
            StoreCorruptError: the data are damaged or not Usher's.
            InstallKeyError: another install key made the data.
            ConfigurationError: the folder cannot be used (a network file system, missing rights).
        """

    @abc.abstractmethod
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
        self._check_arrival(arrival)
        return self._commits.accept(arrival)

    def abandon(self, future: "asyncio.Future[model.Accepted]", on_result: AbandonedCallback | None = None) -> None:
        """Stop waiting for an accept() because its deadline has come.

        Cancels the future. If the commit of the arrival has not begun, the store withdraws the arrival. Otherwise the
        commit goes on, and if it succeeds the store records it as unacknowledged() does. Then it calls ``on_result``.
        """
        self._commits.abandon(future, on_result)

    def take_orphans(self) -> list[model.Delivery]:
        """Return the claimed deliveries of arrivals that were committed after abandon(), since the last call."""
        return self._commits.take_orphans()

    def unacknowledged(self, arrival: model.Arrival) -> None:
        """Record that a committed arrival's 200 was not sent: its content is a redelivery for 7 days."""
        self._commits.unacknowledged(arrival)

    def count(self, listener: model.ListenerName, counter: model.Counter, at: int) -> None:
        """Count a probe or a refusal in memory. The store flushes such counts within seconds, exactly once."""
        self._commits.count(listener, counter, at)

    def settle(self, settlement: model.Settlement) -> None:
        """Record the outcome of an attempt with the next commit; ignored if the delivery has changed meanwhile."""
        self._commits.settle(settlement)

    @property
    def unsettled(self) -> int:
        """Settlements that wait for their commit; the caller starts no attempts while there are many."""
        return self._commits.unsettled

    @property
    @abc.abstractmethod
    def may_attempt(self) -> bool:
        """False while the store cannot record outcomes: during an outage, or while the disk is nearly full."""

    @abc.abstractmethod
    def statistics(self) -> StoreStatistics:
        """Return the present state of the engine."""

    @abc.abstractmethod
    async def outage(self) -> str | None:
        """Return why arrivals cannot be committed; None if they can, or if they only have to wait a few seconds."""

    @abc.abstractmethod
    def follow_replicas(self, apply: ApplyReplicas) -> None:
        """Call ``apply`` now, and whenever the gateways of this store may have changed.

        It applies this gateway's shares of the destinations' limits, and returns whether the running attempts are
        within them. A gateway that starts gets its shares when that is so at all others.
        """

    @property
    @abc.abstractmethod
    def is_shared(self) -> bool:
        """True if other gateways may use the data at the same time."""

    @abc.abstractmethod
    async def tell_destinations(self, destinations: Collection[str]) -> None:
        """Tell the other gateways which destinations this one knows. Called only if ``is_shared``."""

    @abc.abstractmethod
    async def destinations_of_others(self, destinations: Collection[str]) -> list[frozenset[str]]:
        """Return for each other gateway that runs which of some destinations it knows. Called only if ``is_shared``."""

    @abc.abstractmethod
    async def watch_ownership(self) -> None:
        """Wait until this process loses the ownership of its deliveries; after that it can commit nothing.

        Raises:
            StoreLockedError: another gateway took over.
        """

    async def flush(self) -> None:
        """Wait until everything handed in before this call is committed."""
        await self._commits.flush()

    async def claim(self, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
        """Claim due deliveries of a destination from the backlog, the longest due first."""
        return await self._change(lambda transaction: claims.claim(transaction, destination, limit, max_bytes, now))

    async def defer(self, keys: Sequence[int]) -> None:
        """Return claimed deliveries to the backlog, due at once (no room, or shutting down)."""
        if keys:
            now = self._now()
            await self._change(lambda transaction: claims.defer(transaction, keys, now))

    async def note_oldest_claimed(self) -> None:
        """Record the age of the oldest claimed delivery, so that recovery skips older rows."""
        now = self._now()

        async def note(transaction: Transaction) -> None:
            transaction.note_oldest_claimed()
            transaction.note_time(now)

        await self._change(note)

    async def hasten(self, destination: str, now: int) -> int:
        """Make a destination's backlog due at once, because its cause may be gone; return how many changed."""
        return await self._in_slices(lambda transaction: claims.hasten(transaction, destination, now))

    async def hasten_forbidden(self, now: int) -> int:
        """Make the backlog whose last attempt met a forbidden address due at once; return how many changed."""
        return await self._in_slices(lambda transaction: claims.hasten_forbidden(transaction, now))

    async def open_counts(self) -> OpenCounts:
        """Count the deliveries in the backlog and the held ones."""
        return await self._read(claims.open_counts)

    async def backlog_by_route(self) -> list[RouteBacklog]:
        """Return the routes with deliveries in the backlog."""
        backlog = await self._read(claims.backlog_by_route)
        await self._load_routes([waiting.route for waiting in backlog])
        return backlog

    async def dead_by_route(self) -> Mapping[int, int]:
        """Return how many dead deliveries each route has."""
        dead = await self._read(claims.dead_by_route)
        await self._load_routes(dead)
        return dead

    async def backlogs(self) -> list[Backlog]:
        """Return every destination with deliveries in the backlog, with their number."""
        return await self._read(claims.backlogs)

    async def due(self) -> list[DueDestination]:
        """Return every destination with deliveries in the backlog, with the time at which the first is due."""
        return await self._read(claims.due)

    @abc.abstractmethod
    def route(self, number: int) -> model.RouteDefinition:
        """Return the route definition of a delivery or of a held group."""

    @abc.abstractmethod
    def routes(self) -> Collection[model.RouteDefinition]:
        """Return every route that deliveries were made for."""

    async def listener_names(self) -> Collection[model.ListenerName]:
        """Return every listener that something was counted for."""
        return (await self._look_up(meters.listener_names)).values()

    async def held_groups(self) -> list[HeldGroup]:
        """Return the held deliveries, grouped by reason and route."""
        groups = await self._read(holds.held_groups)
        await self._load_routes([group.route for group in groups])
        return groups

    async def claim_held(
        self, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
    ) -> list[model.Delivery]:
        """Claim held deliveries of a group, under another route definition."""
        return await self._change(
            lambda transaction: holds.claim_held(transaction, group, definition, limit, now), definitions=[definition]
        )

    async def unhold(self, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
        """Make held deliveries of a group due at once (backlog); return how many left the group.

        If the arrival of a delivery came with one of the reasons in ``lasting``, the delivery stays held for that
        reason.
        """
        return await self._in_slices(lambda transaction: holds.unhold(transaction, group, now, lasting))

    async def cancel_held(self, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int) -> int:
        """Cancel the deliveries of a group that are held since before an instant; return how many."""
        return await self._in_slices(
            lambda transaction: holds.cancel_held(transaction, group, cancel, held_before, now)
        )

    async def expire_held(self, now: int) -> int:
        """Cancel held deliveries that are past their time limit (``Expired``); return how many."""
        return await self._in_slices(lambda transaction: holds.expire_held(transaction, now))

    async def activity(self) -> Mapping[model.ListenerName, ListenerActivity]:
        """Return the saved activity of every listener that was ever used."""
        return await self._read(listener_activity.read)

    async def save_activity(self, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
        """Replace the saved activity of some listeners."""
        await self._change(lambda transaction: listener_activity.save(transaction, activity), listeners=list(activity))

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
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        oldest, youngest = await self._look_up(meters.bounds)
        parts = list(meters.parts(max(first, oldest), min(end, youngest), self._usage_part_seconds))
        if first <= 0:
            parts.insert(0, (0, 1))
        totals: dict[tuple[int, int], model.Counts] = {}
        for start, stop in parts:
            part = await self._look_up(
                functools.partial(meters.usage, since=start, until=stop, where=where, period=period, zone=zone)
            )
            for key, counts in part.items():
                books.add(totals.setdefault(key, {}), counts)
        names = await self._look_up(meters.listener_names)
        rows = [
            UsageRow(self._listener_name(listener, names), start, counts)
            for (start, listener), counts in totals.items()
        ]
        return sorted(rows, key=lambda row: (row.period, row.listener))

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        """Count the deliveries that were open at a slot border, by listener; listeners without any are left out.

        In one snapshot, the store counts the pending rows and subtracts the changes since the border according to the
        meters. So the result for the instant 0 is empty, unless the meters and the rows disagree.
        """
        return await self._look_up(lambda session: meters.open_deliveries(session, at))

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """List the arrivals of the ledger with their verdicts.

        If few rows match, a page ends early with a cursor. ``reason`` is a quarantine or skip reason; ``state`` is
        ``released`` or ``unreleased`` (quarantined arrivals).

        Raises:
            ValueError: the filter or the cursor is invalid.
        """
        return await self._look_up(lambda session: listings.visits(session, where, cursor, limit))

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        """List deliveries of every state; the state ``held`` selects the held part of the pending ones.

        ``reason`` is a hold or cancel reason, or the code of an error. Pages end early as those of visits() do.

        Raises:
            ValueError: the filter or the cursor is invalid.
        """
        return await self._look_up(lambda session: listings.deliveries(session, where, cursor, limit))

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        """Return body and content type of an arrival.

        Raises:
            NotFoundError: the arrival does not exist, or the retention of its body has ended.
        """
        return await self._look_up(lambda session: listings.body(session, arrival))

    async def visit_bodies(self, where: Filter, limit: int, after: int = 0) -> list[VisitBody]:
        """Return the bodies of visits and repeats, oldest first, after a row key.

        Uses the names and the period of the filter.
        """
        return await self._look_up(lambda session: listings.visit_bodies(session, where, limit, after))

    async def answer(self, delivery: bytes) -> bytes:
        """Return the last answer of a dead delivery's destination (at most 256 bytes).

        Raises:
            NotFoundError: the delivery does not exist, or it has no answer.
        """
        return await self._look_up(lambda session: listings.answer(session, delivery))

    async def attempts(self, delivery: bytes) -> list[AttemptRecord]:
        """Return the last 10 attempts of a delivery, the oldest first. A redrive keeps those before it.

        Raises:
            NotFoundError: the delivery does not exist.
        """
        return await self._look_up(lambda session: listings.attempts(session, delivery))

    async def find_person(self, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
        """Return the ids of a tenant's arrivals that have any of these person keys, newest first."""
        return await self._look_up(lambda session: listings.person_ids(session, namespace, tenant, keys))

    async def redrive(self, where: Filter, now: int, holds_of: HoldsOf = no_holds) -> int:
        """Make dead deliveries pending and due again, or held, with no attempts made; return how many.

        Redrives cancelled deliveries only if ``state`` asks for them. Leaves out deliveries without a body and those
        past their time limit.
        """
        total = 0
        holds_by_route: requests.Holds = {}
        async for keys in self._slices(changes.redrivable, where):
            routes = await self._look_up(functools.partial(changes.routes_of, keys=keys))
            await self._add_holds(holds_by_route, routes, holds_of)
            total += await self._change(functools.partial(changes.redrive, keys=keys, now=now, holds=holds_by_route))
        return total

    async def cancel(self, where: Filter, now: int, on_cancelled: Callable[[Sequence[int]], None]) -> int:
        """Cancel pending deliveries (``OnRequest``), held and claimed ones too; return how many.

        ``on_cancelled`` receives the row keys of each slice, so that the caller can drop those in lanes. A result that
        a running attempt brings later is ignored.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """
        total = 0
        async for keys in self._slices(changes.pending, where):
            cancelled = await self._change(functools.partial(changes.cancel, keys=keys, now=now))
            on_cancelled(cancelled)
            total += len(cancelled)
        return total

    async def preview(self, change: Change, where: Filter, now: int) -> Mapping[str, int]:
        """Return how many deliveries a change would change: by hold or cancel reason, or by the error's code.

        Those that were never tried count as ``NotTried``.

        Raises:
            ValueError: ``state`` asks for deliveries that the change does not select.
        """
        query = changes.redrivable if change == "redrive" else changes.pending
        total: Counter[str] = Counter()
        async for keys in self._slices(query, where):
            total += await self._look_up(functools.partial(changes.count_changeable, change=change, keys=keys, now=now))
        return total

    async def retry(self, where: Filter, now: int) -> int:
        """Make deliveries of the backlog due at once that wait for a later retry; return how many.

        Raises:
            ValueError: ``state`` asks for deliveries that are not pending.
        """
        total = 0
        async for keys in self._slices(changes.pending, where):
            total += await self._change(functools.partial(changes.retry, keys=keys, now=now))
        return total

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        """Return quarantined arrivals that can be released, oldest first, with bodies but without plans.

        ``after`` is the row key of the last arrival of the previous call. ``Truncated`` and ``Unstorable`` arrivals are
        never returned.
        """
        return await self._look_up(lambda session: changes.quarantined(session, where, limit, after))

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        """Create the ``if_visit`` deliveries of quarantined arrivals that were not released before; return how many.

        The plans become the arrival's verdicts, and the store adds the person keys of the given arrivals.
        """
        total = 0
        for start in range(0, len(arrivals), _RELEASE_SLICE):
            part = arrivals[start : start + _RELEASE_SLICE]
            total += await self._change(
                functools.partial(changes.release, arrivals=part, now=now),
                definitions=[plan.route for arrival in part for plan in arrival.if_visit],
            )
        return total

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
        total = ReplayReport()
        holds_by_route: requests.Holds = {}
        taken: set[bytes] = set()
        async for skipped in self._slices(functools.partial(changes.replayable, reasons=reasons), where):
            await self._add_holds(holds_by_route, [route for _, route, _ in skipped], holds_of)
            for start in range(0, len(skipped), requests.SLICE):
                part = skipped[start : start + requests.SLICE]
                marks = await self._once_marks(part, mark_of_route)
                if is_preview:
                    preview = functools.partial(changes.preview_replay, skipped=part, marks=marks, taken=taken)
                    total.add(await self._look_up(preview))
                else:
                    job = functools.partial(changes.replay, skipped=part, now=now, holds=holds_by_route, marks=marks)
                    total.add(await self._change(job))
        return total

    @abc.abstractmethod
    async def prune(self, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        """Delete one small slice of the data whose retention has ended; return the rows touched (0: nothing left).

        ``now`` must be confirmed, because deleted data are lost. The store records it for the next start.

        ``meter_months``: months for which meters are kept, by ``namespace/tenant``; 25 for all others.
        """

    # Parts of the jobs above

    def _listener_name(self, number: int, names: Mapping[int, model.ListenerName]) -> model.ListenerName:
        return names.get(number) or unknown_listener(number)

    async def _in_slices(self, job: Job[int]) -> int:
        """Run a job until it changes less than a whole slice; return how many rows it changed in all."""
        total = 0
        while True:
            changed = await self._change(job)
            total += changed
            if changed < claims.SLICE:
                return total

    async def _slices(
        self,
        query: Callable[..., Coroutine[Any, Any, tuple[list[T], str | None]]],
        where: Filter,
    ) -> AsyncIterator[list[T]]:
        """Yield what a query selects, slice by slice; leave out empty slices."""
        cursor: str | None = None
        while True:
            selected, cursor = await self._look_up(functools.partial(query, where=where, cursor=cursor))
            if selected:
                yield selected
            if cursor is None:
                return

    async def _add_holds(self, holds_by_route: requests.Holds, routes: Iterable[int], holds_of: HoldsOf) -> None:
        """Find out once per route what holds its deliveries."""
        new = set(routes) - holds_by_route.keys()
        await self._load_routes(new)
        for route in new:
            holds_by_route[route] = await holds_of(self.route(route))

    async def _once_marks(
        self, skipped: Sequence[requests.SkippedVerdict], mark_of_route: MarkOfRoute
    ) -> requests.OnceMarks:
        routes = {route for _, route, _ in skipped}
        rules = {route: rule for route in routes if (rule := mark_of_route(self.route(route))) is not None}
        keys = {key for key, route, _ in skipped if route in rules}
        arrivals = await self._look_up(functools.partial(changes.stored_arrivals, keys=keys)) if keys else []
        return await requests.make_marks(skipped, arrivals, rules)
