"""The SQLite store: implements store/base.py over one file. Writes go through group_commit.py, and reads do not.

``Store`` describes the methods that have no docstring here.
"""

import asyncio
import contextlib
import datetime
import functools
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
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
    Replicas,
    RouteBacklog,
    StoreStatistics,
    TrialTimes,
    UsageRow,
    VisitBody,
    no_holds,
    no_marks,
)
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.sqlite import activity as listener_activity
from usher_gateway.store.sqlite import attempt_log, changes, database, delivery_queue, listings, meters, prune
from usher_gateway.store.sqlite.recent_index import FOLD_ROWS
from usher_gateway.store.sqlite.transaction import Transaction
from usher_gateway.store.sqlite.writer import open_writer
from usher_gateway.store.sqlite.writer_thread import WriterThread

_log = structlog.get_logger(__name__)

_FOLD_SECONDS = 5.0
"""Interval at which the counts of commits are moved into the meters."""

_CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Size of the write-ahead log from which on it is copied into the file."""

_FLUSH_SECONDS = 5.0
"""Time that close() gives to the last commit."""

_ALWAYS_STORED_BYTES = 16 * 1024 * 1024
"""Without a maximum of the class, a tenant may store this much, however little space is free."""

_RELEASE_SLICE = 20
"""Arrivals that one job releases; each has up to 32 routes."""

_ANY = Filter()

T = TypeVar("T")


class SqliteSettings(msgspec.Struct, frozen=True):
    """Settings of the SQLite store."""

    folder: Path
    key_fingerprint: str
    limits: QueueLimits = QueueLimits()
    disk_bounds: database.DiskBounds = database.DiskBounds()
    fold_rows: int = FOLD_ROWS
    truncate_seconds: float = 600.0
    """Interval at which the write-ahead log is emptied, because deleted data would stay readable in it."""


class SqliteStore:
    """The store over one SQLite file."""

    def __init__(self, settings: SqliteSettings, now: Callable[[], int]) -> None:
        self.settings = settings
        self._now = now
        self._disk = database.DiskSpace(settings.folder, settings.disk_bounds)
        self._commits = GroupCommit(limits=settings.limits, now=now)
        self._is_open = False
        self._meter_walk = requests.MeterWalk()
        self._folding = asyncio.Lock()
        self._next_truncate = 0.0
        self._reusable_bytes = 0
        """Pages of the file that deleted data left."""
        self._full_tenants: set[tuple[str, str]] = set()
        """Tenants whose last arrival was refused because they store too many bytes."""
        self._files_problem: str | None = None
        """Which of the files was deleted, moved or replaced; None: all are in place."""

    async def open(self) -> OpenReport:
        settings = self.settings
        self.writer = await asyncio.to_thread(
            open_writer,
            settings.folder,
            key_fingerprint=settings.key_fingerprint,
            fold_rows=settings.fold_rows,
            now=self._now(),
        )
        self._disk.measure()
        self._next_truncate = asyncio.get_running_loop().time() + settings.truncate_seconds
        self._reader = database.SnapshotReader(settings.folder)
        # Queries of people get their own reader, so that a long one does not delay deliveries.
        self._query_reader = database.SnapshotReader(settings.folder)
        self._commits.start_writing(WriterThread(self.writer))
        self._is_open = True
        self._upkeep_task = asyncio.create_task(self._run_upkeep(), name="store-upkeep")
        self._folder_task = asyncio.create_task(self._fold_regularly(), name="store-meter-folder")
        return self.writer.report

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for task in (self._folder_task, self._upkeep_task):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._query_reader.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self.flush()
        await self._reader.close()
        await self._commits.stop_writing()
        await asyncio.to_thread(self.writer.close)

    # Arrivals and outcomes, which the next commit writes

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        if not self._disk.may_accept:
            raise model.StoreFullError("there is too little free disk space to accept visits")
        if self._files_problem is not None:
            raise model.StoreUnavailableError(self._files_problem)
        self._check_stored_bytes(arrival)
        return self._commits.accept(arrival)

    def _check_stored_bytes(self, arrival: model.Arrival) -> None:
        """Raise StorageLimitError if the arrival's tenant stores as many bytes as it may."""
        tenant = (arrival.listener.namespace, arrival.listener.tenant)
        stored = self.writer.stored_bytes.get(tenant, 0)
        # A tenant stores at most as much as it leaves free.
        spare = self._disk.spare_bytes + self._reusable_bytes
        limit = arrival.max_stored_bytes or max(spare, _ALWAYS_STORED_BYTES)
        if stored + len(arrival.body) > limit:
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
    def may_attempt(self) -> bool:
        return self._disk.may_attempt and self._commits.can_settle and self._files_problem is None

    async def outage(self) -> str | None:
        try:
            await asyncio.to_thread(self.writer.owned.check_files)
        except model.StoreUnavailableError as error:
            if self._files_problem is None:
                _log.error("store_file_lost", reason=str(error), hint=error.hint)
            self._files_problem = str(error)
        else:
            if self._files_problem is not None:
                _log.info("store_files_returned")
            self._files_problem = None
        return self._files_problem or self._commits.outage

    def follow_replicas(self, apply: ApplyReplicas) -> None:
        apply(Replicas())  # the lock of the folder excludes other gateways

    @property
    def is_shared(self) -> bool:
        return False

    async def exchange_circuits(
        self, changes: Sequence[CircuitChange], trials: Collection[str], times: TrialTimes
    ) -> list[OpenCircuit]:
        raise NotImplementedError

    async def tell_destinations(self, destinations: Collection[str]) -> None:
        raise NotImplementedError

    async def destinations_of_others(self, destinations: Collection[str]) -> list[frozenset[str]]:
        raise NotImplementedError

    async def watch_ownership(self) -> None:
        await asyncio.Event().wait()  # the lock of the folder lasts as long as the process

    async def flush(self) -> None:
        await self._commits.flush()

    def statistics(self) -> StoreStatistics:
        commits = self._commits
        return StoreStatistics(
            is_available=commits.is_available and self._files_problem is None,
            free_bytes=self._disk.free_bytes,
            is_disk_low=not self._disk.may_accept,
            unsettled=commits.unsettled,
            commit_seconds=commits.commit_seconds,
            batch_sizes=commits.batch_sizes,
        )

    # Claimed deliveries, the backlog, held deliveries

    async def claim(self, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
        return await self._commits.run_job(
            lambda transaction: delivery_queue.claim(transaction, destination, limit, max_bytes, now)
        )

    async def defer(self, keys: Sequence[int]) -> None:
        if keys:
            now = self._now()
            await self._commits.run_job(lambda transaction: delivery_queue.defer(transaction, keys, now))

    async def note_oldest_claimed(self) -> None:
        now = self._now()

        def note(transaction: Transaction) -> None:
            transaction.note_oldest_claimed()
            transaction.note_time(now)

        await self._commits.run_job(note)

    async def hasten(self, destination: str, now: int) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.hasten(transaction, destination, now))

    async def hasten_forbidden(self, now: int) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.hasten_forbidden(transaction, now))

    async def claim_held(
        self, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
    ) -> list[model.Delivery]:
        return await self._commits.run_job(
            lambda transaction: delivery_queue.claim_held(transaction, group, definition, limit, now)
        )

    def route(self, number: int) -> model.RouteDefinition:
        return self.writer.names.definitions[number]

    async def due(self) -> list[DueDestination]:
        return await self._reader.run(delivery_queue.due)

    def routes(self) -> Collection[model.RouteDefinition]:
        return self.writer.names.definitions.values()

    async def listener_names(self) -> Collection[model.ListenerName]:
        return (await self._query_reader.run(meters.listener_names)).values()

    async def held_groups(self) -> list[HeldGroup]:
        return await self._reader.run(delivery_queue.held_groups)

    async def backlog_by_route(self) -> list[RouteBacklog]:
        return await self._reader.run(delivery_queue.backlog_by_route)

    async def dead_by_route(self) -> Mapping[int, int]:
        return await self._reader.run(delivery_queue.dead_by_route)

    async def backlogs(self) -> list[Backlog]:
        return await self._reader.run(delivery_queue.backlogs)

    async def open_counts(self) -> OpenCounts:
        return await self._reader.run(delivery_queue.open_counts)

    async def unhold(self, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.unhold(transaction, group, now, lasting))

    async def cancel_held(self, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int) -> int:
        return await self._in_slices(
            lambda transaction: delivery_queue.cancel_held(transaction, group, cancel, held_before, now)
        )

    async def expire_held(self, now: int) -> int:
        return await self._in_slices(lambda transaction: delivery_queue.expire_held(transaction, now))

    async def activity(self) -> Mapping[model.ListenerName, ListenerActivity]:
        return await self._reader.run(listener_activity.read)

    async def save_activity(self, activity: Mapping[model.ListenerName, ListenerActivity]) -> None:
        await self._commits.run_job(lambda transaction: listener_activity.save(transaction, activity))

    async def _in_slices(self, job: Callable[[Transaction], int]) -> int:
        """Run a job until it changes less than a whole slice; return how many rows it changed in all."""
        total = 0
        while True:
            changed = await self._commits.run_job(job)
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
        """Read one day at a time, so that no reader lasts long."""
        first, end = since // model.MICROSECONDS, -(-until // model.MICROSECONDS)
        oldest, youngest = await self._query_reader.run(meters.bounds)
        days = list(meters.days(max(first, oldest), min(end, youngest)))
        if first <= 0:
            days.insert(0, (0, 1))
        found: dict[tuple[int, int], model.Counts] = {}
        for day in days:
            part = await self._usage_of(day, where, period, zone)
            for key, counts in part.items():
                total = found.setdefault(key, {})
                for counter, count in counts.items():
                    total[counter] = total.get(counter, 0) + count
        names = await self._query_reader.run(meters.listener_names)
        usage = [UsageRow(names[listener], start, counts) for (start, listener), counts in found.items()]
        return sorted(usage, key=lambda row: (row.period, row.listener))

    async def _usage_of(
        self, day: tuple[int, int], where: Filter, period: Period, zone: datetime.tzinfo
    ) -> dict[tuple[int, int], model.Counts]:
        return await self._query_reader.run(lambda connection: meters.usage(connection, *day, where, period, zone))

    async def open_deliveries(self, at: int) -> Mapping[model.ListenerName, int]:
        return await self._query_reader.run(lambda connection: meters.open_deliveries(connection, at))

    async def visits(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        return await self._query_reader.run(lambda connection: listings.visits(connection, where, cursor, limit))

    async def deliveries(self, where: Filter, cursor: str | None, limit: int) -> ListingPage:
        return await self._query_reader.run(lambda connection: listings.deliveries(connection, where, cursor, limit))

    async def body(self, arrival: bytes) -> tuple[bytes, bytes]:
        return await self._query_reader.run(lambda connection: listings.body(connection, arrival))

    async def visit_bodies(self, where: Filter, limit: int, after: int = 0) -> list[VisitBody]:
        return await self._query_reader.run(lambda connection: listings.visit_bodies(connection, where, limit, after))

    async def answer(self, delivery: bytes) -> bytes:
        return await self._query_reader.run(lambda connection: listings.answer(connection, delivery))

    async def attempts(self, delivery: bytes) -> list[AttemptRecord]:
        return await self._query_reader.run(lambda connection: attempt_log.read(connection, delivery))

    async def find_person(self, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
        found = await self._query_reader.run(lambda connection: listings.arrivals_of_person(connection, keys))
        names = (namespace, tenant)
        return await self._query_reader.run(lambda connection: listings.person_ids(connection, found, names, keys))

    async def quarantined(self, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
        return await self._query_reader.run(lambda connection: changes.quarantined(connection, where, limit, after))

    # Changes that people and retention make

    async def redrive(self, where: Filter, now: int, holds_of: HoldsOf = no_holds) -> int:
        total = 0
        cursor: str | None = None
        holds: requests.Holds = {}
        while True:
            keys, cursor = await self._find(changes.redrivable, where, cursor)
            if keys:
                routes = await self._query_reader.run(functools.partial(changes.routes_of, keys=keys))
                await self._add_holds(holds, routes, holds_of)
                total += await self._redrive_slice(keys, now, holds)
            if cursor is None:
                return total

    async def _add_holds(self, holds: requests.Holds, routes: Iterable[int], holds_of: HoldsOf) -> None:
        """Find out once per route what holds its deliveries."""
        for route in routes:
            if route not in holds:
                holds[route] = await holds_of(self.route(route))

    async def _redrive_slice(self, keys: Sequence[int], now: int, holds: requests.Holds) -> int:
        return await self._commits.run_job(lambda transaction: changes.redrive(transaction, keys, now, holds))

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
        return await self._commits.run_job(lambda transaction: changes.cancel(transaction, keys, now))

    async def preview(self, change: Change, where: Filter, now: int) -> Mapping[str, int]:
        query = changes.redrivable if change == "redrive" else changes.pending
        total: Counter[str] = Counter()
        cursor: str | None = None
        while True:
            keys, cursor = await self._find(query, where, cursor)
            total += await self._query_reader.run(
                functools.partial(changes.count_changeable, change=change, keys=keys, now=now)
            )
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
        return await self._commits.run_job(lambda transaction: changes.retry(transaction, keys, now))

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
                    total.add(await self._query_reader.run(preview))
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
        arrivals = await self._query_reader.run(functools.partial(changes.stored_arrivals, keys=keys)) if keys else []
        return await requests.make_marks(skipped, arrivals, rules)

    async def _replay_slice(
        self,
        skipped: Sequence[requests.SkippedVerdict],
        now: int,
        holds: requests.Holds,
        marks: requests.OnceMarks,
    ) -> ReplayReport:
        return await self._commits.run_job(lambda transaction: changes.replay(transaction, skipped, now, holds, marks))

    async def release(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        total = 0
        for start in range(0, len(arrivals), _RELEASE_SLICE):
            total += await self._release_slice(arrivals[start : start + _RELEASE_SLICE], now)
        return total

    async def _release_slice(self, arrivals: Sequence[model.Arrival], now: int) -> int:
        return await self._commits.run_job(lambda transaction: changes.release(transaction, arrivals, now))

    async def prune(self, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        months = meter_months or {}
        return await self._commits.run_job(lambda transaction: prune.prune(transaction, now, months, self._meter_walk))

    async def _find(
        self,
        query: "Callable[[sqlite3.Connection, Filter, str | None], tuple[list[T], str | None]]",
        where: Filter,
        cursor: str | None,
    ) -> tuple[list[T], str | None]:
        return await self._query_reader.run(lambda connection: query(connection, where, cursor))

    # Background work

    async def fold_meters(self) -> None:
        """Move all counts of commits into the meters, one part at a time."""
        async with self._folding:
            while True:
                gathered = await self._query_reader.run(meters.gather)
                if gathered.parts:
                    await self._fold_gathered(gathered)
                if gathered.is_everything:
                    return

    async def _fold_gathered(self, gathered: meters.GatheredCounts) -> None:
        rest = await self._commits.run_job(lambda transaction: meters.fold(transaction, gathered))
        for part in rest:
            await self._fold_part(part)

    async def _fold_part(self, part: meters.CountsPart) -> None:
        await self._commits.run_job(lambda transaction: meters.fold_part(transaction, part))

    async def _fold_regularly(self) -> None:
        while True:
            await asyncio.sleep(_FOLD_SECONDS)
            try:
                await self.fold_meters()
            except model.StoreUnavailableError as error:
                _log.warning("store_upkeep_failed", error=type(error).__name__)

    async def _run_upkeep(self) -> None:
        """Once a second, check files and disk, keep the write-ahead log short, and flush counts if no commit did."""
        while True:
            await asyncio.sleep(1)
            try:
                await asyncio.to_thread(self._disk.measure)
                await self.outage()
                if self._files_problem is None:
                    self._reusable_bytes = await self._query_reader.run(database.reusable_bytes)
                    await self._checkpoint()
                    await asyncio.to_thread(self.writer.owned.sync_mark)
            except Exception as error:  # noqa: BLE001 - the top of the task: without it, a full disk would stay full
                _log.warning("store_upkeep_failed", error=type(error).__name__)
            self._commits.schedule()

    async def _checkpoint(self) -> None:
        """Copy the log into the file beside the writer, so that the writer copies only what was added meanwhile."""
        log_file = self.writer.owned.log_file
        size = log_file.stat().st_size if log_file.exists() else 0
        loop = asyncio.get_running_loop()
        truncate = size > 0 and loop.time() >= self._next_truncate
        if size < _CHECKPOINT_BYTES and not truncate:
            return
        await asyncio.to_thread(database.checkpoint, self.settings.folder)
        await self._commits.run_job(truncate_after_commit if truncate else checkpoint_after_commit)
        if truncate:
            self._next_truncate = loop.time() + self.settings.truncate_seconds


def truncate_after_commit(transaction: Transaction) -> None:
    """Empty the write-ahead log after the commit. If a reader is in the way, the next time does it."""
    transaction.checkpoint = "truncate"


def checkpoint_after_commit(transaction: Transaction) -> None:
    """Copy the rest of the write-ahead log after the commit, so that the next commit restarts the log."""
    transaction.checkpoint = "passive"
