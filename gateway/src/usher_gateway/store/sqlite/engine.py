"""The SQLite engine: the loop's side hands batches to one writer thread and gives the results back.

All queues live on the event loop; the writer's thread gets one finished batch at a time, so neither side needs a lock.
What came in while a batch was committed is the next batch (group commit).
"""

import asyncio
import collections
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from usher_gateway import metrics, model
from usher_gateway.store.base import AbandonedCallback, DueDestination, HeldGroup, OpenReport
from usher_gateway.store.sqlite import database, disk, isolate, lanes, reads, tail, writer
from usher_gateway.store.sqlite import queue as arrival_queue

_log = structlog.get_logger(__name__)

_RETRY_FIRST_SECONDS = 0.05
_RETRY_LONGEST_SECONDS = 1.0
_SETTLEMENTS_PER_BATCH = 512
_COUNTS_EVERY_SECONDS = 2.0
_CHECKPOINT_BYTES = 16 * 1024 * 1024


class Settings(msgspec.Struct, frozen=True):
    """How the engine runs."""

    folder: Path
    key_fingerprint: str
    limits: arrival_queue.Limits = arrival_queue.Limits()
    disk_bounds: disk.Bounds = disk.Bounds()
    fold_rows: int = tail.FOLD_ROWS
    truncate_seconds: float = 600.0
    """How often the write-ahead log is emptied: what was deleted must not stay readable in it."""


class _InFlight(msgspec.Struct):
    """A batch in the writer's hands, with those who wait for it."""

    batch: writer.Batch
    entries: list[arrival_queue.Entry]
    waiters: list["asyncio.Future[None]"]
    job_future: "asyncio.Future[None] | None" = None


class SqliteEngine:
    """Queues, the writer's thread, retries while the file cannot be written. Reading is in reads.py."""

    def __init__(self, settings: Settings, now: Callable[[], int]) -> None:
        self.settings = settings
        self.now = now
        self.disk = disk.Disk(settings.folder, settings.disk_bounds)
        self._arrivals = arrival_queue.ArrivalQueue(settings.limits)
        self._settlements: collections.deque[model.Settlement] = collections.deque()
        self._unacknowledged: list[model.Arrival] = []
        self._abandoned: dict[asyncio.Future[model.Accepted], AbandonedCallback] = {}
        self._jobs: list[tuple[Callable[[writer.Writer], None], asyncio.Future[None]]] = []
        self._counts: dict[tuple[model.ListenerName, int, int], int] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._in_flight: _InFlight | None = None
        self._scheduled = False
        self._retry_seconds = 0.0
        self._retry_longest = _RETRY_FIRST_SECONDS
        self._next_counts = 0.0
        self._next_truncate = 0.0
        self.orphans: list[model.Delivery] = []
        """See the interface."""
        self._batches: queue.SimpleQueue[_InFlight | None] = queue.SimpleQueue()
        self._job_is_next = False
        self.commit_seconds = metrics.Histogram(metrics.SECONDS)
        self.batch_sizes = metrics.Histogram(metrics.SIZES)
        self.available = False
        """False while commits fail."""

    # opening and closing

    async def open(self) -> OpenReport:
        """See the interface."""
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        self.opened = opened = await asyncio.to_thread(
            database.open_for_writing, settings.folder, settings.key_fingerprint, settings.fold_rows, self.now()
        )
        self.disk.look()
        self._next_truncate = self._loop.time() + settings.truncate_seconds
        self.reader = reads.Reader(settings.folder)
        self._thread = threading.Thread(target=self._write, args=(opened.writer,), name="usher-store", daemon=True)
        self._thread.start()
        self.available = True
        self._ticker = asyncio.create_task(self._tick(), name="store-ticker")
        return opened.report

    async def close(self) -> None:
        """See the interface."""
        if not hasattr(self, "_thread") or not self._thread.is_alive():
            return
        self._ticker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._ticker
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.flush()
        await self.reader.close()
        self._batches.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self.opened.close)

    # handing in

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        """See the interface."""
        if not self.disk.may_accept:
            raise model.StoreFullError("too little disk space to accept visits")
        future: asyncio.Future[model.Accepted] = self._loop.create_future()
        self._arrivals.push(arrival_queue.Entry(arrival, future))
        self._schedule()
        return future

    def abandon(self, future: "asyncio.Future[model.Accepted]", learned: AbandonedCallback | None = None) -> None:
        """See the interface."""
        if future.cancel() and learned is not None:
            self._abandoned[future] = learned

    def unacknowledged(self, arrival: model.Arrival) -> None:
        """See the interface."""
        self._unacknowledged.append(arrival)
        self._schedule()

    def count(self, listener: model.ListenerName, counter: model.Counter, at: int) -> None:
        """See the interface."""
        key = (listener, model.slot_of(at), int(counter))
        self._counts[key] = self._counts.get(key, 0) + 1

    def settle(self, settlement: model.Settlement) -> None:
        """See the interface."""
        self._settlements.append(settlement)
        self._schedule()

    @property
    def unsettled(self) -> int:
        """See the interface."""
        return len(self._settlements)

    @property
    def may_attempt(self) -> bool:
        """See the interface."""
        return self.disk.may_attempt and self.available

    async def flush(self) -> None:
        """See the interface."""
        future = self._loop.create_future()
        self._waiters.append(future)
        self._schedule()
        await future

    async def run_job(self, job: Callable[[writer.Writer], None]) -> None:
        """Run a job in a transaction of its own; what it raises is raised here.

        Raises:
            StoreUnavailableError: the database cannot be written now.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._jobs.append((job, future))
        self._schedule()
        await asyncio.shield(future)

    # deliveries in lanes, in the backlog, held

    async def claim(self, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
        """See the interface."""
        found: list[model.Delivery] = []
        await self.run_job(lanes.claim(destination, limit, max_bytes, now, found))
        return found

    async def defer(self, keys: Sequence[int]) -> None:
        """See the interface."""
        if keys:
            await self.run_job(lanes.defer(keys))

    async def note_lanes(self) -> None:
        """See the interface."""
        await self.run_job(lanes.note(self.now()))

    async def hasten(self, destination: str, now: int) -> int:
        """See the interface."""
        return await self._in_slices(lambda changed: lanes.hasten(destination, now, changed))

    async def claim_held(
        self, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
    ) -> list[model.Delivery]:
        """See the interface."""
        found: list[model.Delivery] = []
        await self.run_job(lanes.claim_held(group, definition, limit, now, found))
        return found

    def route(self, number: int) -> model.RouteDefinition:
        """See the interface."""
        return self.opened.writer.names.definitions[number]

    async def due(self) -> list[DueDestination]:
        """See the interface."""
        return await self.reader.run(reads.due)

    async def held_groups(self) -> list[HeldGroup]:
        """See the interface."""
        return await self.reader.run(reads.held_groups)

    async def unhold(self, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
        """See the interface."""
        return await self._in_slices(lambda changed: lanes.unhold(group, now, changed, lasting))

    async def cancel_held(self, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int) -> int:
        """See the interface."""
        return await self._in_slices(lambda changed: lanes.cancel_held(group, cancel, held_before, now, changed))

    async def expire_held(self, now: int) -> int:
        """See the interface."""
        return await self._in_slices(lambda changed: lanes.expire_held(now, changed))

    async def _in_slices(self, make: Callable[[list[int]], Callable[[writer.Writer], None]]) -> int:
        changed: list[int] = []
        while not changed or changed[-1] == lanes.HOLD_SLICE:
            await self.run_job(make(changed))
        return sum(changed)

    # batches

    def _schedule(self) -> None:
        """Draw a batch after the callbacks that are ready now: they may add to it."""
        if not self._scheduled and self._in_flight is None and not self._retry_seconds:
            self._scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._scheduled = False
        if self._in_flight is not None or self._retry_seconds:
            return
        in_flight = self._draw_job() or self._draw() or self._draw_job()
        if in_flight is not None:
            self._in_flight = in_flight
            self._batches.put(in_flight)

    def _draw_job(self) -> _InFlight | None:
        """Jobs take turns with batches, and are alone: what a job does wrong is undone without harm to others."""
        self._job_is_next = not self._job_is_next
        if not self._jobs or not self._job_is_next:
            return None
        job, future = self._jobs.pop(0)
        return _InFlight(writer.Batch(job=job, now=self.now()), [], [], future)

    def _draw(self) -> _InFlight | None:
        entries = self._arrivals.draw()
        for entry in self._arrivals.withdrawn:
            self._tell(entry, None)
        self._arrivals.withdrawn.clear()
        if not (entries or self._settlements or self._unacknowledged or self._waiters or self._counts_are_due()):
            return None if self.available else _InFlight(writer.Batch(job=writer.probe, now=self.now()), [], [])
        settlements = _take(self._settlements, _SETTLEMENTS_PER_BATCH)
        unacknowledged, self._unacknowledged = self._unacknowledged, []
        counts, self._counts = self._counts, {}
        waiters: list[asyncio.Future[None]] = []
        if not self._settlements and not self._arrivals.entries:
            waiters, self._waiters = self._waiters, []
        batch = writer.Batch(
            arrivals=[entry.arrival for entry in entries],
            settlements=settlements,
            unacknowledged=unacknowledged,
            counts=[(*key, count) for key, count in counts.items()],
            now=self.now(),
        )
        return _InFlight(batch, entries, waiters)

    def _counts_are_due(self) -> bool:
        return bool(self._counts) and self._loop.time() >= self._next_counts

    def _write(self, batch_writer: writer.Writer) -> None:
        """The writer's thread: one batch after the other until None comes."""
        while (in_flight := self._batches.get()) is not None:
            started = time.perf_counter()
            result = isolate.commit(batch_writer, in_flight.batch)
            self.commit_seconds.observe(time.perf_counter() - started)
            self._call(self._done, in_flight, result)

    def _call(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _done(self, in_flight: _InFlight, result: isolate.Result) -> None:
        self._in_flight = None
        if in_flight.entries:
            self.batch_sizes.observe(len(in_flight.entries))
        for entry, accepted in zip(in_flight.entries, result.accepted, strict=True):
            if accepted is not None:
                self._answer(entry, accepted)
        if in_flight.job_future is not None:
            # A job says nothing of the file: one that fails may be wrong itself, one that succeeds may write nothing.
            _finish_job(in_flight.job_future, result)
        elif result.error is not None:
            self._put_back(in_flight, result)
            return
        else:
            self._has_committed(in_flight)
        self._dispatch()

    def _has_committed(self, in_flight: _InFlight) -> None:
        _resolve(in_flight.waiters)
        if not self.available:
            _log.info("store_commits_again")
        self.available = True
        self._retry_longest = _RETRY_FIRST_SECONDS
        if in_flight.batch.counts:
            self._next_counts = self._loop.time() + _COUNTS_EVERY_SECONDS

    def _answer(self, entry: arrival_queue.Entry, accepted: model.Accepted) -> None:
        if entry.future.done():
            self._unacknowledged.append(entry.arrival)
            self.orphans.extend(accepted.deliveries)
            self._tell(entry, accepted)
        else:
            entry.future.set_result(accepted)

    def _tell(self, entry: arrival_queue.Entry, accepted: model.Accepted | None) -> None:
        """Whoever abandoned an arrival learns what became of it."""
        learned = self._abandoned.pop(entry.future, None)
        if learned is not None:
            learned(accepted)

    def _put_back(self, in_flight: _InFlight, result: isolate.Result) -> None:
        """The database could not be written: keep what is not committed, and try again soon."""
        self.available = False
        _log.error("store_commit_failed", error=type(result.error).__name__, reason=str(result.error)[:200])
        left = zip(in_flight.entries, result.accepted, strict=True)
        self._arrivals.put_back([entry for entry, accepted in left if accepted is None])
        self._waiters = [*in_flight.waiters, *self._waiters]
        if not result.rest_is_committed:
            batch = in_flight.batch
            self._settlements.extendleft(reversed(batch.settlements))
            self._unacknowledged = [*batch.unacknowledged, *self._unacknowledged]
            for listener, slot, counter, count in batch.counts:
                key = (listener, slot, counter)
                self._counts[key] = self._counts.get(key, 0) + count
        self._retry_seconds = self._retry_longest
        self._retry_longest = min(self._retry_longest * 2, _RETRY_LONGEST_SECONDS)
        self._loop.call_later(self._retry_seconds, self._retry)

    def _retry(self) -> None:
        self._retry_seconds = 0.0
        self._dispatch()

    async def _tick(self) -> None:
        """Once a second: look at the disk, keep the write-ahead log short, flush counts when nothing else commits."""
        while True:
            await asyncio.sleep(1)
            try:
                await asyncio.to_thread(self.disk.look)
                await self._checkpoint()
                await asyncio.to_thread(self.opened.mark)
            except Exception as error:  # noqa: BLE001 - the task's top: without it a full disk would stay full for ever
                _log.warning("store_upkeep_failed", error=type(error).__name__)
            self._schedule()

    async def _checkpoint(self) -> None:
        """Copy the log into the file beside the writer; the writer then only copies the little that came meanwhile."""
        log_file = self.opened.folder / f"{database.FILE_NAME}-wal"
        size = log_file.stat().st_size if log_file.exists() else 0
        truncate = size > 0 and self._loop.time() >= self._next_truncate
        if size < _CHECKPOINT_BYTES and not truncate:
            return
        await asyncio.to_thread(database.checkpoint, self.opened.folder)
        if truncate:
            self._next_truncate = self._loop.time() + self.settings.truncate_seconds
        await self.run_job(writer.truncate_after if truncate else writer.checkpoint_after)


def _resolve(futures: "list[asyncio.Future[None]]") -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _finish_job(future: "asyncio.Future[None]", result: isolate.Result) -> None:
    """A job's own failure is its caller's."""
    if future.done():
        return
    if result.error is None:
        future.set_result(None)
    elif isinstance(result.error, sqlite3.Error):
        future.set_exception(model.StoreUnavailableError(f"the store failed: {type(result.error).__name__}"))
    else:
        future.set_exception(result.error)


def _take(items: "collections.deque[model.Settlement]", limit: int) -> list[model.Settlement]:
    return [items.popleft() for _ in range(min(limit, len(items)))]
