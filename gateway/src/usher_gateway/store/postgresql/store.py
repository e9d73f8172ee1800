"""The PostgreSQL store: implements store/base.py over one database that several gateways share.

``Store`` describes the methods that have no docstring here.
"""

import asyncio
import contextlib
import datetime
import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import structlog

from usher_gateway import model
from usher_gateway.store import requests
from usher_gateway.store.arrival_queue import QueueLimits
from usher_gateway.store.base import (
    AbandonedCallback,
    ApplyReplicas,
    AttemptRecord,
    Backlog,
    Change,
    CircuitChange,
    DueDestination,
    Filter,
    HeldGroup,
    HoldsOf,
    ListenerActivity,
    ListingPage,
    MarkOfRoute,
    OpenCircuit,
    OpenCounts,
    OpenReport,
    Period,
    ReplayReport,
    RouteBacklog,
    StoreStatistics,
    TrialTimes,
    UsageRow,
    VisitBody,
    no_holds,
    no_marks,
)
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.postgresql import activity as listener_activity
from usher_gateway.store.postgresql import (
    changes,
    circuits,
    delivery_queue,
    incarnations,
    known_destinations,
    listings,
    meters,
    prune,
)
from usher_gateway.store.postgresql.connections import CONNECT_SECONDS, UNAVAILABLE, Connection, describe, snapshot
from usher_gateway.store.postgresql.names import NamesLostError
from usher_gateway.store.postgresql.opening import PostgresSettings, open_store, read_stored_bytes
from usher_gateway.store.postgresql.ownership import Ownership
from usher_gateway.store.postgresql.transaction import Transaction
from usher_gateway.store.postgresql.writer import LINES

_log = structlog.get_logger(__name__)

_UPKEEP_SECONDS = 5.0
"""Interval at which counts are moved into the meters, and what other gateways changed is read."""

_DROP_SECONDS = 3_600.0
"""Interval at which deleted route definitions leave the memory."""

_FLUSH_SECONDS = 5.0
"""Time that close() gives to the last commit, and to each step after it."""

_LOOKUPS = 2
"""Queries of people that run at a time, so that they leave connections to the commits."""

_RELEASE_SLICE = 20
"""Arrivals that one job releases; each has up to 32 routes."""

_NAME_TRIES = 3
"""How often a job is repeated because the database lost names that it uses."""

_ANY = Filter()

T = TypeVar("T")


class PostgresStore:
    """The store over one PostgreSQL database."""

    def __init__(self, settings: PostgresSettings, now: Callable[[], int], limits: QueueLimits | None = None) -> None:
        self.settings = settings
        self._now = now
        self._commits = GroupCommit(limits=limits or QueueLimits(), now=now, lines=LINES)
        self._is_open = False
        self._apply_replicas: ApplyReplicas | None = None
        self._prune_walk = prune.PruneWalk()
        self._tasks: list[asyncio.Task[None]] = []
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._drops_from = 0.0
        """Monotonic time of the next look for route definitions that were deleted."""
        self._full_tenants: set[tuple[str, str]] = set()
        """Tenants whose last arrival was refused because they store too many bytes."""

    async def open(self) -> OpenReport:
        opened = await open_store(self.settings, self._now)
        self._pool = opened.pool
        self.incarnation = opened.incarnation
        self.writer = opened.writer
        self._names = opened.writer.names
        self.ownership = Ownership(
            pool=opened.pool,
            incarnation=opened.incarnation,
            begun_at=opened.begun_at,
            replicas=opened.replicas,
            durability=self.settings.durability,
            lost=opened.lost,
            now=self._now,
            connected=self._names.connected,
        )
        if self._apply_replicas is not None:
            self.ownership.follow_replicas(self._apply_replicas)
        self._commits.start_writing(self.writer)
        self._is_open = True
        self._heartbeats = asyncio.create_task(self.ownership.run(), name="store-heartbeat")
        self._heartbeats.add_done_callback(self._note_heartbeats_ended)
        self._tasks = [self._heartbeats, asyncio.create_task(self._run_upkeep(), name="store-upkeep")]
        return opened.report

    def _note_heartbeats_ended(self, task: asyncio.Task[None]) -> None:
        """Log why no heartbeat follows. Other gateways take over after 60 s, and this one then ends."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("store_heartbeat_ended", error=describe(error), exc_info=error)

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._is_lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._commits.stop_writing()
        with contextlib.suppress(*UNAVAILABLE):
            async with asyncio.timeout(_FLUSH_SECONDS), self._pool.acquire() as connection:
                await incarnations.end(connection, self.incarnation)
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._pool.close()
        except UNAVAILABLE:
            self._pool.terminate()

    # Arrivals and outcomes, which the next commit writes

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        if self._is_lost:
            raise model.StoreUnavailableError("another gateway took over this one's deliveries")
        self._check_stored_bytes(arrival)
        return self._commits.accept(arrival)

    def _check_stored_bytes(self, arrival: model.Arrival) -> None:
        """Raise StorageLimitError if the arrival's tenant stores as many bytes as it may."""
        tenant, limit = (arrival.listener.namespace, arrival.listener.tenant), arrival.max_stored_bytes
        stored = self.writer.stored_bytes.get(tenant, 0)
        if limit and stored + len(arrival.body) > limit:
            if tenant not in self._full_tenants:
                self._full_tenants.add(tenant)
                _log.warning("storage_limit_reached", namespace=tenant[0], tenant=tenant[1], stored=stored, limit=limit)
            raise model.StorageLimitError("the tenant stores as many bytes as it may")
        self._full_tenants.discard(tenant)

    def abandon(self, future: "asyncio.Future[model.Accepted]", on_result: AbandonedCallback | None = None) -> None:
        self._commits.abandon(future, on_result)

    def take_orphans(self) -> list[model.Delivery]:
        return self._commits.take_orphans()

    def unacknowledged(self, arrival: model.Arrival) -> None:
        self._commits.unacknowledged(arrival)

    def count(self, listener: model.ListenerName, counter: model.Counter, at: int) -> None:
        self._commits.count(listener, counter, at)

    def settle(self, settlement: model.Settlement) -> None:
        self._commits.settle(settlement)

    @property
    def unsettled(self) -> int:
        return self._commits.unsettled

    @property
    def _is_lost(self) -> bool:
        return self.ownership.is_lost

    @property
    def _is_usable(self) -> bool:
        return not self.ownership.undurable and not self.writer.is_uncertain and not self._is_lost

    @property
    def may_attempt(self) -> bool:
        return self._is_usable and self._commits.can_settle and self.ownership.may_attempt

    def follow_replicas(self, apply: ApplyReplicas) -> None:
        self._apply_replicas = apply
        if self._is_open:
            self.ownership.follow_replicas(apply)

    @property
    def is_shared(self) -> bool:
        return True

    async def exchange_circuits(
        self, changes: Sequence[CircuitChange], trials: Collection[str], times: TrialTimes
    ) -> list[OpenCircuit]:
        try:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(asyncio.timeout(CONNECT_SECONDS))
                connection = await stack.enter_async_context(self._pool.acquire())
                if changes or trials:
                    await stack.enter_async_context(connection.transaction())
                return await circuits.exchange(connection, self.incarnation.number, changes, trials, times)
        except UNAVAILABLE as error:
            raise model.StoreUnavailableError(f"circuits are not shared: {describe(error)}") from error

    async def tell_destinations(self, destinations: Collection[str]) -> None:
        await self._exchange(
            lambda connection: known_destinations.tell(connection, self.incarnation.number, destinations)
        )

    async def destinations_of_others(self, destinations: Collection[str]) -> list[frozenset[str]]:
        return await self._exchange(
            lambda connection: known_destinations.known(connection, self.incarnation.number, destinations)
        )

    async def _exchange(self, statement: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement for what the gateways tell each other."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS), self._pool.acquire() as connection:
                return await statement(connection)
        except UNAVAILABLE as error:
            raise model.StoreUnavailableError(f"destinations are not shared: {describe(error)}") from error

    async def watch_ownership(self) -> None:
        await self.ownership.lost.wait()
        raise model.StoreLockedError(
            "another gateway took over this one's deliveries, because it sent no heartbeat for 60 s",
            "Start it again. Look for a suspended process, an overloaded machine or a slow network.",
        )

    async def outage(self) -> str | None:
        if self._is_lost:
            return "another gateway took over this one's deliveries"
        if self._heartbeats.done():
            return "the heartbeats have ended"
        return self.ownership.undurable or self._commits.outage

    async def flush(self) -> None:
        await self._commits.flush()

    def statistics(self) -> StoreStatistics:
        commits = self._commits
        return StoreStatistics(
            is_available=self._is_usable and commits.is_available,
            free_bytes=None,
            is_disk_low=False,
            unsettled=commits.unsettled,
            commit_seconds=commits.commit_seconds,
            batch_sizes=commits.batch_sizes,
            unknown_names=len(self._names.unknown),
        )

    # Claimed deliveries, the backlog, held deliveries

    async def _run(self, job: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a job in a separate transaction."""
        return await self._commits.run_job(cast("Callable[[Any], T]", job))  # the writer awaits it

    async def _run_with_names(
        self,
        job: Callable[[Transaction], Awaitable[T]],
        listeners: Collection[model.ListenerName],
        definitions: Collection[model.RouteDefinition] = (),
    ) -> T:
        """Run a job that uses names, which get numbers before it. If the database loses them meanwhile, repeat it."""
        for _ in range(_NAME_TRIES):
            try:
                async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                    await self._names.prepare(connection, listeners, definitions, self.writer.ids.last)
                return await self._run(job)
            except NamesLostError:
                self._names.forget()
            except UNAVAILABLE as error:
                raise model.StoreUnavailableError(f"the store failed: {describe(error)}") from error
        raise NamesLostError

    async def _read(self, query: Callable[[Connection], Awaitable[T]]) -> T:
        """Return the result of a query over one snapshot."""
        async with snapshot(self._pool) as connection:
            return await query(connection)

    async def _look_up(self, query: Callable[[Connection], Awaitable[T]]) -> T:
        """Return the result of a query that a person asked for, once few others run."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._lookups.acquire()
        except TimeoutError as error:
            raise model.StoreUnavailableError("other queries take too long") from error
        try:
            return await self._read(query)
        finally:
            self._lookups.release()

    async def claim(self, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
        return await self._run(
            lambda transaction: delivery_queue.claim(transaction, destination, limit, max_bytes, now)
        )

    async def defer(self, keys: Sequence[int]) -> None:
        if keys:
            now = self._now()
            await self._run(lambda transaction: delivery_queue.defer(transaction, keys, now))

    async def note_oldest_claimed(self) -> None:
        """Record the time only: an index finds the claimed deliveries."""
        now = self._now()

        async def note(transaction: Transaction) -> None:
            transaction.note_time(now)

        await self._run(note)

    async def hasten(self, destination: str, now: int) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.hasten(transaction, destination, now))

    async def hasten_forbidden(self, now: int) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.hasten_forbidden(transaction, now))

    async def claim_held(
        self, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
    ) -> list[model.Delivery]:
        return await self._run_with_names(
            lambda transaction: delivery_queue.claim_held(transaction, group, definition, limit, now), (), [definition]
        )

    def route(self, number: int) -> model.RouteDefinition:
        return self._names.definition(number)

    def routes(self) -> Collection[model.RouteDefinition]:
        return self._names.definitions.values()

    async def due(self) -> list[DueDestination]:
        return await self._read(delivery_queue.due)

    async def listener_names(self) -> Collection[model.ListenerName]:
        return (await self._read(meters.listener_names)).values()

    async def held_groups(self) -> list[HeldGroup]:
        groups = await self._read(delivery_queue.held_groups)
        await self._load_routes([group.route for group in groups])
        return groups

    async def backlog_by_route(self) -> list[RouteBacklog]:
        found = await self._read(delivery_queue.backlog_by_route)
        await self._load_routes([one.route for one in found])
        return found

    async def dead_by_route(self) -> Mapping[int, int]:
        found = await self._read(delivery_queue.dead_by_route)
        await self._load_routes(found)
        return found

    async def _load_routes(self, numbers: Collection[int]) -> None:
        """Make sure that route() knows some numbers, which other gateways may have added."""
        await self._read(lambda connection: self._names.load_routes(connection, numbers))

    async def backlogs(self) -> list[Backlog]:
        return await self._read(delivery_queue.backlogs)

    async def open_counts(self) -> OpenCounts:
        return await self._read(delivery_queue.open_counts)

    async def unhold(self, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.unhold(transaction, group, now, lasting))

    async def cancel_held(self, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int) -> int:
        return await self._in_slices(
            lambda transaction: delivery_queue.cancel_held(transaction, group, cancel, held_before, now)
        )

    async def expire_held(self, now: int) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.expire_held(transaction, now))

    async def activity(self) -> Mapping[model.ListenerName, ListenerActivity]:
        return await self._read(listener_activity.read)

    async def save_activity(self, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
        await self._run_with_names(lambda transaction: listener_activity.save(transaction, activity), list(activity))

    async def _in_slices(self, job: Callable[[Transaction], Awaitable[int]]) -> int:
        """Run a job until it changes less than a whole slice; return how many rows it changed in all."""
        total = 0
        while True:
            changed = await self._run(job)
            total += changed
            if changed < delivery_queue.HOLD_SLICE:
                return total

    # Queries

    async def usage(
        self,
        since: int,
        until: int,
        where: Filter = _ANY,
        period: Period = "slot",
        zone: datetime.tzinfo = datetime.UTC,
    ) -> list[UsageRow]:
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)

        async def query(connection: Connection) -> list[UsageRow]:
            found = await meters.usage(connection, first, end, where, period, zone)
            names = await meters.listener_names(connection)
            return [
                UsageRow(self._names.listener_name(listener, names), start, counts)
                for (start, listener), counts in found.items()
            ]

        return sorted(await self._look_up(query), key=lambda row: (row.period, row.listener))

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        return await self._look_up(lambda connection: meters.open_deliveries(connection, at))

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        return await self._look_up(lambda connection: listings.visits(connection, where, cursor, limit))

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        return await self._look_up(lambda connection: listings.deliveries(connection, where, cursor, limit))

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        return await self._look_up(lambda connection: listings.body(connection, arrival))

    async def visit_bodies(self, where: Filter, limit: int, after: int = 0) -> list[VisitBody]:
        return await self._look_up(lambda connection: listings.visit_bodies(connection, where, limit, after))

    async def answer(self, delivery: bytes) -> bytes:
        return await self._look_up(lambda connection: listings.answer(connection, delivery))

    async def attempts(self, delivery: bytes) -> list[AttemptRecord]:
        return await self._look_up(lambda connection: listings.attempts(connection, delivery))

    async def find_person(self, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
        return await self._look_up(lambda connection: listings.person_ids(connection, namespace, tenant, keys))

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        return await self._look_up(lambda connection: changes.quarantined(connection, where, limit, after))

    # Changes that people and retention make

    async def redrive(self, where: Filter, now: int, holds_of: HoldsOf = no_holds) -> int:
        total = 0
        cursor: str | None = None
        holds: requests.Holds = {}
        while True:
            keys, cursor = await self._find(changes.redrivable, where, cursor)
            if keys:
                await self._add_holds(holds, await self._routes_of(keys), holds_of)
                total += await self._redrive_slice(keys, now, holds)
            if cursor is None:
                return total

    async def _routes_of(self, keys: Sequence[int]) -> set[int]:
        return await self._read(lambda connection: changes.routes_of(connection, keys))

    async def _add_holds(self, holds: requests.Holds, routes: Iterable[int], holds_of: HoldsOf) -> None:
        """Find out once per route what holds its deliveries."""
        new = set(routes) - holds.keys()
        await self._load_routes(new)
        for route in new:
            holds[route] = await holds_of(self.route(route))

    async def _redrive_slice(self, keys: Sequence[int], now: int, holds: requests.Holds) -> int:
        return await self._run(lambda transaction: changes.redrive(transaction, keys, now, holds))

    async def cancel(self, where: Filter, now: int, on_cancelled: Callable[[Sequence[int]], None]) -> int:
        total = 0
        cursor: str | None = None
        while True:
            keys, cursor = await self._find(changes.pending, where, cursor)
            if keys:
                cancelled = await self._cancel_slice(keys, now)
                on_cancelled(cancelled)
                total += len(cancelled)
            if cursor is None:
                return total

    async def _cancel_slice(self, keys: Sequence[int], now: int) -> list[int]:
        return await self._run(lambda transaction: changes.cancel(transaction, keys, now))

    async def preview(self, change: Change, where: Filter, now: int) -> Mapping[str, int]:
        query = changes.redrivable if change == "redrive" else changes.pending
        total: Counter[str] = Counter()
        cursor: str | None = None
        while True:
            keys, cursor = await self._find(query, where, cursor)
            total += await self._look_up(functools.partial(changes.count_changeable, change=change, keys=keys, now=now))
            if cursor is None:
                return total

    async def retry(self, where: Filter, now: int) -> int:
        total = 0
        cursor: str | None = None
        while True:
            keys, cursor = await self._find(changes.pending, where, cursor)
            if keys:
                total += await self._retry_slice(keys, now)
            if cursor is None:
                return total

    async def _retry_slice(self, keys: Sequence[int], now: int) -> int:
        return await self._run(lambda transaction: changes.retry(transaction, keys, now))

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
        total = ReplayReport()
        cursor: str | None = None
        holds: requests.Holds = {}
        taken: set[bytes] = set()
        query = functools.partial(changes.replayable, reasons=reasons)
        while True:
            skipped, cursor = await self._find(query, where, cursor)
            await self._add_holds(holds, (route for _, route, _ in skipped), holds_of)
            for start in range(0, len(skipped), requests.SLICE):
                part = skipped[start : start + requests.SLICE]
                marks = await self._once_marks(part, mark_of_route)
                if is_preview:
                    preview = functools.partial(changes.preview_replay, skipped=part, marks=marks, taken=taken)
                    total.add(await self._look_up(preview))
                else:
                    total.add(await self._replay_slice(part, now, holds, marks))
            if cursor is None:
                return total

    async def _once_marks(
        self, skipped: Sequence[requests.SkippedVerdict], mark_of_route: MarkOfRoute
    ) -> requests.OnceMarks:
        routes = {route for _, route, _ in skipped}
        rules = {route: rule for route in routes if (rule := mark_of_route(self.route(route))) is not None}
        keys = {key for key, route, _ in skipped if route in rules}
        arrivals = await self._look_up(functools.partial(changes.stored_arrivals, keys=keys)) if keys else []
        return await requests.make_marks(skipped, arrivals, rules)

    async def _replay_slice(
        self,
        skipped: Sequence[requests.SkippedVerdict],
        now: int,
        holds: requests.Holds,
        marks: requests.OnceMarks,
    ) -> ReplayReport:
        return await self._run(lambda transaction: changes.replay(transaction, skipped, now, holds, marks))

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        total = 0
        for start in range(0, len(arrivals), _RELEASE_SLICE):
            total += await self._release_slice(arrivals[start : start + _RELEASE_SLICE], now)
        return total

    async def _release_slice(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        definitions = [plan.route for arrival in arrivals for plan in arrival.if_visit]
        return await self._run_with_names(
            lambda transaction: changes.release(transaction, arrivals, now), (), definitions
        )

    async def prune(self, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        """Delete one slice beside the commits: not as a job, for which arrivals would wait."""
        walk = self._prune_walk
        try:
            async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                began = time.perf_counter()
                transaction = Transaction(
                    connection=connection,
                    incarnation=self.incarnation.number,
                    ids=self.writer.ids,
                    names=self._names,
                    now=now,
                )
                async with connection.transaction():
                    count = await prune.prune(transaction, now, meter_months or {}, walk)
        except UNAVAILABLE as error:
            walk.start_over()
            raise model.StoreUnavailableError(f"the store failed: {describe(error)}") from error
        if count >= walk.size:
            walk.size = prune.next_size(walk.size, time.perf_counter() - began)
        for tenant, freed in transaction.tenant_changes():
            self.writer.stored_bytes[tenant] = self.writer.stored_bytes.get(tenant, 0) + freed
        return count

    async def _find(
        self,
        query: Callable[[Connection, Filter, str | None], Awaitable[tuple[list[T], str | None]]],
        where: Filter,
        cursor: str | None,
    ) -> tuple[list[T], str | None]:
        return await self._look_up(lambda connection: query(connection, where, cursor))

    # Background work

    async def fold_meters(self) -> None:
        """Move all counts of commits into the meters."""
        async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
            while await meters.fold(connection):
                pass

    async def _read_others(self, transaction: Transaction) -> None:
        """Read what other gateways changed. As a job, so that few commits of this gateway happen meanwhile."""
        await self._names.load_routes(transaction.connection)
        self.writer.stored_bytes = await read_stored_bytes(transaction.connection, self._names)
        if time.monotonic() > self._drops_from:
            self._drops_from = time.monotonic() + _DROP_SECONDS
            await self._names.drop_deleted(transaction.connection)
        await self._names.review_unknown(transaction.connection)

    async def _run_upkeep(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_SECONDS)
            try:
                await self.fold_meters()
                await self._run(self._read_others)
            except Exception as error:  # noqa: BLE001 - the top of the task: upkeep must go on after an outage
                _log.warning("store_upkeep_failed", error=describe(error))
            self._commits.schedule()
