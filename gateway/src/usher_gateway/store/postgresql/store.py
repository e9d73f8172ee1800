"""The PostgreSQL engine of the store, over one database that several gateways share.

``Store`` describes the methods that have no docstring here.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store.arrival_queue import QueueLimits
from usher_gateway.store.base import (
    CLAIMS_SECONDS,
    USUAL_TIMES,
    ApplyReplicas,
    KeptTimes,
    OpenReport,
    StoreStatistics,
)
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.jobs import claims
from usher_gateway.store.jobs import meters as stored_meters
from usher_gateway.store.jobs.retention import ExpiredArrival, RetentionWalk
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.postgresql import incarnations, meters, prune
from usher_gateway.store.postgresql.connections import (
    CONNECT_SECONDS,
    OWNERSHIP_LOST,
    UNAVAILABLE,
    PostgresSession,
    Transaction,
    acquired,
    describe,
    snapshot,
)
from usher_gateway.store.postgresql.opening import PostgresSettings, open_store
from usher_gateway.store.postgresql.writer import LINES
from usher_gateway.store.store import Store
from usher_gateway.store.transaction import Query

_log = structlog.get_logger(__name__)

_UPKEEP_SECONDS = 5.0  # Interval at which counts are moved into the meters, and what other gateways changed is read
_FLUSH_SECONDS = 5.0  # Time that close() gives to the last commit, and to each step after it
_LOOKUPS = 2  # Queries of people that run at a time, so that they leave connections to the commits

T = TypeVar("T")


_TIME = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"

# The running transactions that have read or written the suppressions.
_READERS_OF_SUPPRESSIONS = """
    select coalesce(array_agg(virtualtransaction), '{}') from pg_locks
    where relation = 'suppressed'::regclass and granted
    and database = (select oid from pg_database where datname = current_database())
"""

_OLDER_WRITES_SECONDS = 15.0
_OLDER_WRITES_PAUSE = 0.02


class PostgresStore(Store):
    """The store over one PostgreSQL database."""

    _usage_part_seconds = 31 * 86_400
    settling_seconds = int(CLAIMS_SECONDS) + 15  # 15 s for the commit of the change

    def __init__(self, settings: PostgresSettings, now: Callable[[], int], limits: QueueLimits | None = None) -> None:
        self.settings = settings
        names = NameNumbers(settings.names_key)
        commits = GroupCommit(limits=limits or QueueLimits(), now=now, lines=LINES)
        super().__init__(commits=commits, names=names, now=now)
        self._is_open = False
        self._apply_replicas: ApplyReplicas | None = None
        self._retention_walk = RetentionWalk()
        self._tasks: list[asyncio.Task[None]] = []
        self._lookups = asyncio.Semaphore(_LOOKUPS)
        self._forgotten: set[int] = set()  # Keys that the last compare_claims() found

    async def open(self) -> OpenReport:
        self.writer, self.ownership, report = await open_store(self.settings, self._names, self._now)
        self._pool = self.writer.pool
        self.incarnation = self.ownership.incarnation
        if self._apply_replicas is not None:
            self.ownership.follow_replicas(self._apply_replicas)
        self._commits.start_writing(self.writer)
        self._is_open = True
        self._heartbeats = asyncio.create_task(self.ownership.run(), name="store-heartbeat")
        self._heartbeats.add_done_callback(self._note_heartbeats_ended)
        self._tasks = [self._heartbeats, asyncio.create_task(self._run_upkeep(), name="store-upkeep")]
        return report

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
                await self._commits.committer.stop()
        with contextlib.suppress(*UNAVAILABLE):
            async with asyncio.timeout(_FLUSH_SECONDS), self._pool.acquire() as connection:
                await connection.execute(incarnations.END, self.incarnation.number)
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._pool.close()
        except UNAVAILABLE:
            self._pool.terminate()

    def _check_arrival(self, arrival: model.Arrival) -> None:
        if self._is_lost:
            raise model.StoreUnavailableError(OWNERSHIP_LOST)
        if arrival.max_stored_bytes:
            stored = self.writer.stored_bytes.get((arrival.listener.namespace, arrival.listener.tenant), 0)
            self._check_stored_bytes(arrival, stored, arrival.max_stored_bytes)

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

    async def store_time(self, now: int) -> int:  # noqa: ARG002 - this gateway's clock may be wrong
        async with acquired(self._pool, "the time of the database is not known") as connection:
            asked_at = asyncio.get_running_loop().time()
            microseconds = int(await connection.fetchval(_TIME))
        self.ownership.note_clock(microseconds / model.MICROSECONDS, asked_at)
        return microseconds

    async def settling_times(self, now: int) -> range:
        times = await super().settling_times(now)
        return times if self.ownership.is_clock_steady(self.settling_seconds) else range(sys.maxsize)

    async def _end_of_older_writes(self) -> None:
        """Wait for every transaction that has read the suppressions before now; each of them holds a lock till its end.

        Raises:
            StoreUnavailableError: one lasts too long.
        """
        end = time.monotonic() + _OLDER_WRITES_SECONDS
        async with acquired(self._pool, "the end of other transactions is not known") as connection:
            older = await connection.fetchval(_READERS_OF_SUPPRESSIONS)
            while set(older) & set(await connection.fetchval(_READERS_OF_SUPPRESSIONS)):
                if time.monotonic() > end:
                    raise model.StoreUnavailableError(
                        "the person is suppressed, but a visit that was arriving may still be sent",
                        "send the request again: it cancels the rest",
                    )
                await asyncio.sleep(_OLDER_WRITES_PAUSE)

    async def compare_claims(self, keys: Collection[int]) -> Collection[int]:
        expected = {*keys, *self._commits.unsettled_keys()}  # before the query, so that what changes during it is in it
        claimed = set(await self._read(lambda session: claims.claimed(session, self.incarnation.number)))
        forgotten = claimed - expected
        lost, self._forgotten = self._forgotten & forgotten, forgotten
        if lost:
            await self.defer(sorted(lost))
            _log.warning("deliveries_recovered", count=len(lost))
        return set(keys) - claimed

    async def tell_destinations(self, destinations: Collection[str]) -> None:
        async with acquired(self._pool, "destinations are not shared") as connection:
            await connection.execute(incarnations.TELL_DESTINATIONS, self.incarnation.number, sorted(destinations))

    async def destinations_of_others(self, destinations: Collection[str]) -> list[frozenset[str]]:
        async with acquired(self._pool, "destinations are not shared") as connection:
            values = (self.incarnation.number, list(destinations))
            rows = await connection.fetch(incarnations.DESTINATIONS_OF_OTHERS, *values)
        return [frozenset(keys) for (keys,) in rows]

    async def watch_ownership(self) -> None:
        await self.ownership.lost.wait()
        raise model.StoreLockedError(
            OWNERSHIP_LOST,
            "Start it again. Unless the database was restored, look for a suspended process, an overloaded machine or "
            "a slow network: it sent no heartbeat for 60 s.",
        )

    async def outage(self) -> str | None:
        if self._is_lost:
            return OWNERSHIP_LOST
        if self._heartbeats.done():
            return "the heartbeats have ended"
        return self.ownership.undurable or self._commits.outage

    def statistics(self) -> StoreStatistics:
        is_available = self._is_usable and self._commits.is_available
        return msgspec.structs.replace(super().statistics(), is_available=is_available)

    # Sessions and transactions for the jobs

    async def _read(self, query: Query[T]) -> T:
        async with snapshot(self._pool) as connection:
            return await query(PostgresSession(connection))

    async def _look_up(self, query: Query[T]) -> T:
        """Wait until few other people's queries run."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._lookups.acquire()
        except TimeoutError as error:
            raise model.StoreUnavailableError("other queries take too long") from error
        try:
            return await self._read(query)
        finally:
            self._lookups.release()

    async def prune(self, now: int, kept: KeptTimes = USUAL_TIMES) -> int:
        """Delete one slice beside the commits: not as a job, for which arrivals would wait."""
        walk = self._retention_walk
        try:
            async with acquired(self._pool) as connection:
                began = time.perf_counter()
                transaction = Transaction(
                    connection=connection,
                    incarnation=self.incarnation.number,
                    ids=self.writer.ids,
                    names=self._names,
                    now=now,
                )
                async with connection.transaction():
                    count = await prune.prune(transaction, now, kept, walk)
        except model.StoreUnavailableError:
            walk.start_over()
            raise
        if count >= walk.size:
            walk.size = prune.next_size(walk.size, time.perf_counter() - began)
        self.writer.stored_bytes.update(transaction.tenant_changes())
        return count

    async def _forget_arrivals(
        self, transaction: Any, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
    ) -> None:
        await prune.forget_arrivals(transaction, arrivals, deliveries)

    # Background work

    async def fold_meters(self) -> None:
        """Move all counts of commits into the meters."""
        async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
            while await meters.fold(connection):
                pass

    async def _read_others(self, transaction: Transaction) -> None:
        """Read what other gateways changed. As a job, so that few commits of this gateway happen meanwhile."""
        session = transaction.session
        await self._names.load_routes(session)
        by_listener = await stored_meters.stored_bytes(session)
        await transaction.load_listeners(by_listener)
        self.writer.stored_bytes = self._names.by_tenant(by_listener)

    async def _run_upkeep(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP_SECONDS)
            try:
                await self.fold_meters()
                await self._commits.run_job(self._read_others)
            except Exception as error:  # noqa: BLE001 - the top of the task: upkeep must go on after an outage
                _log.warning("store_upkeep_failed", error=describe(error))
            self._commits.schedule()
