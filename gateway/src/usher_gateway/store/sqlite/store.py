"""The SQLite engine of the store, over one file. Writes go through group_commit.py, and reads do not.

``Store`` describes the methods that have no docstring here.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store.arrival_queue import QueueLimits
from usher_gateway.store.base import (
    USUAL_TIMES,
    KeptTimes,
    OpenReport,
    StoreStatistics,
)
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.jobs import retention
from usher_gateway.store.jobs.retention import ExpiredArrival, RetentionWalk
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.session import run_to_end
from usher_gateway.store.sqlite import database, prune
from usher_gateway.store.sqlite.recent_index import FOLD_ROWS
from usher_gateway.store.sqlite.transaction import SqliteSession, Transaction
from usher_gateway.store.sqlite.writer import WriterThread, open_writer
from usher_gateway.store.store import Store
from usher_gateway.store.transaction import Query

_log = structlog.get_logger(__name__)

_QUERY_THREADS = 4
_SWEEP_PAUSE_SECONDS = 0.05  # Pause after each piece of the file that is swept: at most 80 MB are read in a second

_SWEEP_RETRY_SECONDS = 5.0

_SWEPT_SECONDS = 60.0  # How long an erasure waits for the sweep before it lets others go on
_FLUSH_SECONDS = 5.0  # Time that close() gives to the last commit

# Without a maximum of the class, a tenant may store this much, however little space is free.
_ALWAYS_STORED_BYTES = 16 * 1024 * 1024

T = TypeVar("T")


class SqliteSettings(msgspec.Struct, frozen=True):
    """Settings of the SQLite store."""

    folder: Path
    key_fingerprint: str
    names_key: bytes = b""
    """Key of the numbers of names (``store/names.py``)."""
    limits: QueueLimits = QueueLimits()
    disk_bounds: database.DiskBounds = database.DiskBounds()
    fold_rows: int = FOLD_ROWS
    truncate_seconds: float = 600.0
    """Interval at which the write-ahead log is emptied, because deleted data would stay readable in it."""


class SqliteStore(Store):
    """The store over one SQLite file."""

    _usage_part_seconds = 86_400  # a day, so that no reader lasts long

    def __init__(self, settings: SqliteSettings, now: Callable[[], int]) -> None:
        self.settings = settings
        names = NameNumbers(settings.names_key)
        super().__init__(commits=GroupCommit(limits=settings.limits, now=now), names=names, now=now)
        self._disk = database.DiskSpace(settings.folder, settings.disk_bounds)
        self._is_open = False
        self._retention_walk = RetentionWalk()
        self._next_truncate = 0.0
        self._reusable_bytes = 0  # Pages of the file that deleted data left
        self._copying_log = asyncio.Lock()
        self._is_swept = asyncio.Event()
        self._files_problem: str | None = None
        """The file that was deleted, moved or replaced; None: all are in place."""

    async def open(self) -> OpenReport:
        settings = self.settings
        self.writer = await asyncio.to_thread(
            open_writer,
            settings.folder,
            key_fingerprint=settings.key_fingerprint,
            names=self._names,
            fold_rows=settings.fold_rows,
            now=self._now(),
        )
        self._disk.measure()
        self._next_truncate = asyncio.get_running_loop().time() + settings.truncate_seconds
        self._reader = database.SnapshotReader(settings.folder)
        # Queries of people get their own reader, so that long ones delay neither deliveries nor upkeep. One token may
        # ask more at a time than there are threads (`admin/server.py`), but not many more.
        self._query_reader = database.SnapshotReader(settings.folder, _QUERY_THREADS)
        self._upkeep_reader = database.SnapshotReader(settings.folder)
        self._commits.start_writing(WriterThread(self.writer))
        self._is_open = True
        self._upkeep_task = asyncio.create_task(self._run_upkeep(), name="store-upkeep")
        self._sweeper_task = asyncio.create_task(self._sweep(), name="store-sweeper")
        return self.writer.report

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        for task in (self._upkeep_task, self._sweeper_task):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._query_reader.close()
        await self._upkeep_reader.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self.flush()
        await self._reader.close()
        await self._commits.committer.stop()
        await asyncio.to_thread(self.writer.close)

    def _check_arrival(self, arrival: model.Arrival) -> None:
        if not self._disk.may_accept:
            raise model.StoreFullError("there is too little free disk space to accept visits")
        if self._files_problem is not None:
            raise model.StoreUnavailableError(self._files_problem)
        stored = self.writer.stored_bytes.get((arrival.listener.namespace, arrival.listener.tenant), 0)
        # A tenant stores at most as much as it leaves free.
        spare = self._disk.spare_bytes + self._reusable_bytes
        self._check_stored_bytes(arrival, stored, arrival.max_stored_bytes or max(spare, _ALWAYS_STORED_BYTES))

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

    def statistics(self) -> StoreStatistics:
        return msgspec.structs.replace(
            super().statistics(),
            is_available=self._commits.is_available and self._files_problem is None,
            free_bytes=self._disk.free_bytes,
            is_disk_low=not self._disk.may_accept,
        )

    # Sessions and transactions for the jobs

    async def _read(self, query: Query[T]) -> T:
        return await self._reader.run(lambda connection: run_to_end(query(SqliteSession(connection))))

    async def _look_up(self, query: Query[T]) -> T:
        return await self._query_reader.run(lambda connection: run_to_end(query(SqliteSession(connection))))

    async def prune(self, now: int, kept: KeptTimes = USUAL_TIMES) -> int:
        walk, forget = self._retention_walk, prune.forget_arrivals
        return await self._change(lambda transaction: retention.prune(transaction, now, kept, walk, forget))

    async def _forget_arrivals(
        self, transaction: Any, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
    ) -> None:
        await prune.forget_arrivals(transaction, arrivals, deliveries)

    async def _purge(self) -> bool:
        """Scrub the file and empty the log, which still has the deleted rows; a reader may be in the way."""
        try:
            async with asyncio.timeout(_SWEPT_SECONDS):
                await self._is_swept.wait()
        except TimeoutError:
            return False
        await self._copy_log("truncate")
        return self.writer.is_purged

    # Background work

    async def _run_upkeep(self) -> None:
        """Once a second, check files and disk, keep the write-ahead log short, and flush counts if no commit did."""
        while True:
            await asyncio.sleep(1)
            try:
                await asyncio.to_thread(self._disk.measure)
                await self.outage()
                if self._files_problem is None:
                    await self._checkpoint()
                    self._reusable_bytes = await self._upkeep_reader.run(database.reusable_bytes)
                    await asyncio.to_thread(self.writer.owned.sync_mark)
            except Exception as error:  # noqa: BLE001 - the top of the task: without it, a full disk would stay full
                _log.warning("store_upkeep_failed", error=type(error).__name__)
            self._commits.schedule()

    async def _sweep(self) -> None:
        """Scrub what an earlier process left, if it was killed: read the whole file slowly, because visits go first."""
        scrubber = self.writer.scrubber
        while not scrubber.is_swept:
            try:
                if await asyncio.to_thread(scrubber.sweep):
                    await self._copy_log("passive")
                await asyncio.sleep(_SWEEP_PAUSE_SECONDS)
            except Exception as error:  # noqa: BLE001 - the top of the task: without it, no erasure would be completed
                _log.warning("store_upkeep_failed", error=type(error).__name__)
                await asyncio.sleep(_SWEEP_RETRY_SECONDS)
        self._is_swept.set()

    async def _checkpoint(self) -> None:
        """Copy the log into the file if it has grown or become old."""
        log_file = self.writer.owned.log_file
        size = log_file.stat().st_size if log_file.exists() else 0
        loop = asyncio.get_running_loop()
        truncate = size > 0 and loop.time() >= self._next_truncate
        if size < database.CHECKPOINT_BYTES and not truncate:
            return
        await self._copy_log("truncate" if truncate else "passive")
        if truncate and self.writer.is_purged:
            self._next_truncate = loop.time() + self.settings.truncate_seconds

    async def _copy_log(self, mode: Literal["passive", "truncate"]) -> None:
        """Copy the log into the file beside the writer, so that the writer copies only what was added meanwhile.

        Then the next commit restarts the log (``passive``), or the log is empty (``truncate``), unless a reader is in
        the way.
        """

        async def request(transaction: Transaction) -> None:
            transaction.checkpoint = mode

        async with self._copying_log:
            await asyncio.to_thread(database.copy_log, self.writer.owned, self.writer.scrubber)
            await self._commits.run_job(request)
