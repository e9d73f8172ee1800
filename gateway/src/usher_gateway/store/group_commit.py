"""Group commit: the event loop collects work, and the engine's committer commits it in batches.

All queues belong to the event loop. The committer gets one complete batch per line at a time, so neither side needs a
lock. The work that comes in while a batch is being committed is the next batch. If the database cannot be written, the
loop puts the batch back and tries again with growing pauses up to 1 s.

An engine that can commit several transactions at once has several lines. The first line writes everything; the others
help it with arrivals while many wait or its commit is slow.
"""

import asyncio
import collections
import functools
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar, cast

import msgspec
import structlog

from usher_gateway import metrics, model
from usher_gateway.store.arrival_queue import ArrivalQueue, QueuedArrival, QueueLimits
from usher_gateway.store.base import AbandonedCallback

_log = structlog.get_logger(__name__)

_RETRY_FIRST_SECONDS = 0.05
_RETRY_LONGEST_SECONDS = 1.0
_OUTAGE_SECONDS = 8.0  # Commits that fail for less are not an outage, because arrivals wait for them that long

_SETTLEMENTS_PER_BATCH = 512
_COUNTS_EVERY_SECONDS = 2.0

# Arrivals that are worth a transaction of their own. Smaller batches cost the database more than they gain.
MANY_WAITING = 48

# A commit of the first line that takes longer may wait for a lock; arrivals do not wait for it any more.
_SLOW_COMMIT_SECONDS = 0.2

T = TypeVar("T")

# Work in a separate transaction, which the engine passes in. The caller gets the returned value after the commit.
Job = Callable[[Any], Coroutine[Any, Any, Any]]


class Batch(msgspec.Struct):
    """The work of one transaction."""

    arrivals: Sequence[model.Arrival] = ()
    settlements: Sequence[model.Settlement] = ()
    unacknowledged: Sequence[model.Arrival] = ()
    counts: Sequence[tuple[model.ListenerName, int, int, int]] = ()
    """(listener, slot, counter, count)."""
    job: Job | None = None
    now: int = 0
    line: int = 0
    """The line's number."""


class BatchResult(msgspec.Struct):
    """A batch's result. If there is an error, a part may still be committed."""

    accepted: list[model.Accepted | None]
    """One per arrival, in order; None if the arrival is not committed."""
    job_result: object = None
    rest_is_committed: bool = False
    """True if everything except the arrivals is committed."""
    error: Exception | None = None
    seconds: float = 0.0
    """How long the commit took."""


class Committer(Protocol):
    """The part of an engine that commits batches, one at a time for each line."""

    async def test_write(self, transaction: Any) -> None:
        """Find out whether the database can be written (a ``Job``)."""

    def submit(self, batch: Batch, finished: Callable[[BatchResult], None]) -> None:
        """Begin to commit a batch; call ``finished`` on the event loop afterwards. Nothing cancels the commit."""

    async def stop(self) -> None:
        """End after the batches in hand."""


class _InFlight(msgspec.Struct):
    """A batch in the writer's hands, with the futures that wait for it."""

    batch: Batch
    entries: list[QueuedArrival] = msgspec.field(default_factory=list)
    waiters: list["asyncio.Future[None]"] = msgspec.field(default_factory=list)
    job_future: "asyncio.Future[object] | None" = None
    begun_at: float = 0.0
    """Loop time."""
    is_slow: bool = False
    """True once its commit takes longer than ``_SLOW_COMMIT_SECONDS``: other lines commit the waiting arrivals."""
    slow_timer: asyncio.TimerHandle | None = None


class _Line(msgspec.Struct):
    """Commits one batch after another."""

    number: int
    in_flight: _InFlight | None = None
    is_scheduled: bool = False
    failing_since: float = math.inf
    """Loop time when its first commit failed after the last one that succeeded."""

    @property
    def is_failing(self) -> bool:
        """True while its commits fail."""
        return self.failing_since < math.inf


class GroupCommit:
    """Collects work on the event loop and commits it through one committer."""

    def __init__(self, *, limits: QueueLimits, now: Callable[[], int], lines: int = 1) -> None:
        self._is_writing = False
        self._failure = ""  # Why the last failed commit failed
        self.commit_seconds = metrics.Histogram(metrics.SECONDS)
        self.batch_sizes = metrics.Histogram(metrics.SIZES)
        self._now = now
        self._offer_orphans: Callable[[Sequence[model.Delivery]], None] = lambda _: None  # See `follow_orphans`
        self._arrivals = ArrivalQueue(limits)
        self._lines = [_Line(number) for number in range(lines)]
        self._first = self._lines[0]
        self._waiters: list[asyncio.Future[None]] = []
        """Futures for the callers of ``flush``, which wait until nothing is left to commit."""
        self._settlements: collections.deque[model.Settlement] = collections.deque()
        self._unacknowledged: list[model.Arrival] = []
        self._abandoned: dict[asyncio.Future[model.Accepted], AbandonedCallback] = {}
        self._jobs: list[tuple[Job, asyncio.Future[object]]] = []
        self._counts: dict[tuple[model.ListenerName, int, int], int] = {}
        self._retry_seconds = 0.0  # The current pause after a failed commit; 0.0 if there is none
        self._next_retry_seconds = _RETRY_FIRST_SECONDS
        self._next_counts = 0.0
        self._job_is_next = True

    def start_writing(self, committer: Committer) -> None:
        """Start to commit."""
        self._loop = asyncio.get_running_loop()
        self.committer = committer
        self._is_writing = True

    # Handing in work

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        """Queue an arrival for the next commit.

        Raises:
            StoreBusyError: the queue, or the tenant's share of it, is full.
        """
        future: asyncio.Future[model.Accepted] = self._loop.create_future()
        self._arrivals.push(QueuedArrival(arrival, future))
        for line in self._lines:
            if self._may_draw(line):
                self._schedule(line)
                break
        return future

    def abandon(self, future: "asyncio.Future[model.Accepted]", on_result: AbandonedCallback | None = None) -> None:
        """Stop waiting for an accept() because its deadline has come.

        Cancels the future. If the arrival's commit has not begun, the arrival is withdrawn. Otherwise the commit
        goes on, and if it succeeds the arrival becomes unacknowledged(). Then ``on_result`` is called.
        """
        if future.cancel() and on_result is not None:
            self._abandoned[future] = on_result

    def follow_orphans(self, offer: Callable[[Sequence[model.Delivery]], None]) -> None:
        """Call ``offer`` with the claimed deliveries of each abandoned arrival, as soon as its commit is known.

        A job that is committed later, such as a cancellation, reports its end only after that.
        """
        self._offer_orphans = offer

    def unacknowledged(self, arrival: model.Arrival) -> None:
        """Record that a committed arrival's 200 was not sent: its content is a redelivery for 7 days."""
        if not arrival.key:  # a suppressed one
            return
        self._unacknowledged.append(arrival)
        self.schedule()

    def count(self, listener: model.ListenerName, counter: model.Counter, at: int) -> None:
        """Count a probe or a refusal in memory. A commit writes such counts every 2 s, exactly once."""
        key = (listener, model.slot_of(at), int(counter))
        self._counts[key] = self._counts.get(key, 0) + 1

    def settle(self, settlement: model.Settlement) -> None:
        """Record an attempt's outcome with the next commit; ignored if the delivery has changed meanwhile."""
        self._settlements.append(settlement)
        self.schedule()

    @property
    def unsettled(self) -> int:
        """Settlements that wait for their commit."""
        return len(self._settlements)

    def unsettled_keys(self) -> set[int]:
        """Return the deliveries whose settlements wait for their commit, or for its end."""
        in_flight = self._first.in_flight
        settlements = [*self._settlements, *(in_flight.batch.settlements if in_flight else [])]
        return {settlement.key for settlement in settlements}

    @property
    def is_available(self) -> bool:
        """False while any line's commits fail."""
        return self._is_writing and not any(line.is_failing for line in self._lines)

    @property
    def can_settle(self) -> bool:
        """False while the commits of the first line fail, which writes the settlements."""
        return self._is_writing and not self._first.is_failing

    @property
    def outage(self) -> str | None:
        """Why arrivals cannot be committed, if it lasts for longer than arrivals wait.

        Either a line's commits fail, or no line has ended its commit. A commit lasts while its outcome is unknown.
        """
        now = self._loop.time()
        seconds = now - min(line.failing_since for line in self._lines)
        if seconds > _OUTAGE_SECONDS:
            return f"commits fail since {seconds:.0f} s: {self._failure}"
        seconds = now - max(line.in_flight.begun_at if line.in_flight else now for line in self._lines)
        return f"no commit has ended for {seconds:.0f} s" if seconds > _OUTAGE_SECONDS else None

    async def flush(self) -> None:
        """Wait until everything handed in before this call is committed."""
        future = self._loop.create_future()
        self._waiters.append(future)
        self.schedule()
        await future

    async def run_job(self, job: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Run a job in a separate transaction; return its result after the commit, or raise its error.

        Raises:
            StoreUnavailableError: the database cannot be written now.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        self._jobs.append((job, future))
        self.schedule()
        return cast("T", await asyncio.shield(future))

    # Drawing batches

    def schedule(self) -> None:
        """Draw the first line's batch after the callbacks that are ready now, because they may add to it."""
        self._schedule(self._first)

    def _may_draw(self, line: _Line) -> bool:
        """Return whether a line may begin a commit now.

        The other lines begin only while the first is busy. While a caller waits in ``flush``, they begin nothing, so
        that the first line comes to the last batch.
        """
        if line.in_flight is not None:
            return False
        if line is self._first:
            return True
        ahead = self._first.in_flight
        if ahead is None or self._waiters:
            return False
        return ahead.is_slow or self._arrivals.entries >= MANY_WAITING

    def _schedule(self, line: _Line) -> None:
        if not line.is_scheduled and line.in_flight is None and not self._retry_seconds:
            line.is_scheduled = True
            self._loop.call_soon(self._dispatch, line)

    def _dispatch(self, line: _Line) -> None:
        line.is_scheduled = False
        if self._retry_seconds or not self._may_draw(line):
            return
        in_flight = self._draw() if line is self._first else self._draw_arrivals(line)
        if in_flight is not None:
            in_flight.begun_at = self._loop.time()
            line.in_flight = in_flight
            if line is self._first and len(self._lines) > 1:
                in_flight.slow_timer = self._loop.call_later(_SLOW_COMMIT_SECONDS, self._note_slow, in_flight)
            self.committer.submit(in_flight.batch, functools.partial(self._finish, line, in_flight))

    def _note_slow(self, in_flight: _InFlight) -> None:
        """Let the other lines commit the arrivals that wait, even if none comes after them."""
        in_flight.is_slow = True
        for line in self._lines[1:]:
            self._dispatch(line)

    def _draw_arrivals(self, line: _Line) -> _InFlight | None:
        """Draw a batch for a line that writes only arrivals."""
        entries = self._draw_entries()
        if not entries:
            return None
        arrivals = [entry.arrival for entry in entries]
        return _InFlight(Batch(arrivals=arrivals, now=self._now(), line=line.number), entries)

    def _draw_entries(self) -> list[QueuedArrival]:
        entries = self._arrivals.draw()
        for entry in self._arrivals.withdrawn:
            self._report_abandoned(entry, None)
        self._arrivals.withdrawn.clear()
        return entries

    def _draw(self) -> _InFlight | None:
        """Draw a job or a batch of arrivals. They alternate, so that neither delays the other for long."""
        first, second = self._draw_job, self._draw_batch
        if not self._job_is_next:
            first, second = second, first
        self._job_is_next = not self._job_is_next
        return first() or second()

    def _draw_job(self) -> _InFlight | None:
        """Draw a job, which is a batch by itself, so that its rollback affects nothing else."""
        if not self._jobs:
            return None
        job, future = self._jobs.pop(0)
        return _InFlight(Batch(job=job, now=self._now()), job_future=future)

    def _draw_batch(self) -> _InFlight | None:
        entries = self._draw_entries()
        waiters = self._take_waiters()
        counts_are_due = bool(self._counts) and self._loop.time() >= self._next_counts
        if not (entries or self._settlements or self._unacknowledged or waiters or counts_are_due):
            return None if self.is_available else _InFlight(Batch(job=self.committer.test_write, now=self._now()))
        settlements = [self._settlements.popleft() for _ in range(min(len(self._settlements), _SETTLEMENTS_PER_BATCH))]
        unacknowledged = self._unacknowledged
        self._unacknowledged = []
        counts = self._counts
        self._counts = {}
        batch = Batch(
            arrivals=[entry.arrival for entry in entries],
            settlements=settlements,
            unacknowledged=unacknowledged,
            counts=[(*key, count) for key, count in counts.items()],
            now=self._now(),
        )
        return _InFlight(batch, entries, waiters)

    def _take_waiters(self) -> list["asyncio.Future[None]"]:
        """Return the callers of ``flush``, if the batch that is being drawn is the last one."""
        is_last = len(self._settlements) <= _SETTLEMENTS_PER_BATCH and not self._arrivals.entries
        if not is_last or any(line.in_flight for line in self._lines):
            return []
        waiters = self._waiters
        self._waiters = []
        return waiters

    # Results

    def _finish(self, line: _Line, in_flight: _InFlight, result: BatchResult) -> None:
        line.in_flight = None
        if in_flight.slow_timer is not None:
            in_flight.slow_timer.cancel()
        self.commit_seconds.observe(result.seconds)
        if in_flight.entries:
            self.batch_sizes.observe(len(in_flight.entries))
        for entry, accepted in zip(in_flight.entries, result.accepted, strict=True):
            if accepted is not None:
                self._answer(entry, accepted)
        if in_flight.job_future is not None:
            # A job does not show whether the file can be written: it may fail by itself, or succeed without writing.
            _finish_job(in_flight.job_future, result)
        elif result.error is not None:
            self._put_back(line, in_flight, result)
            return
        else:
            self._finish_commit(line, in_flight)
        self._dispatch(line)
        if line is not self._first:
            self.schedule()  # the first line may have left arrivals, or those who wait, for the end of this commit

    def _finish_commit(self, line: _Line, in_flight: _InFlight) -> None:
        for waiter in in_flight.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._note_success(line)
        if in_flight.batch.counts:
            self._next_counts = self._loop.time() + _COUNTS_EVERY_SECONDS

    def _note_success(self, line: _Line) -> None:
        """Note a commit. One of the first line counts for all lines, because it commits what failed in the others."""
        was_available = self.is_available
        for working_line in self._lines if line is self._first else [line]:
            working_line.failing_since = math.inf
        if self.is_available and not was_available:
            _log.info("store_commits_resumed")
            self._next_retry_seconds = _RETRY_FIRST_SECONDS

    def _answer(self, entry: QueuedArrival, accepted: model.Accepted) -> None:
        if entry.future.done():
            self.unacknowledged(entry.arrival)
            self._offer_orphans(accepted.deliveries)
            self._report_abandoned(entry, accepted)
        else:
            entry.future.set_result(accepted)

    def _report_abandoned(self, entry: QueuedArrival, accepted: model.Accepted | None) -> None:
        on_result = self._abandoned.pop(entry.future, None)
        if on_result is not None:
            on_result(accepted)

    def _put_back(self, line: _Line, in_flight: _InFlight, result: BatchResult) -> None:
        """Keep the part of a batch that is not committed, because the database cannot be written, and retry soon."""
        line.failing_since = min(line.failing_since, self._loop.time())
        self._failure = str(result.error)[:200]
        _log.error("store_commit_failed", error=type(result.error).__name__, reason=self._failure)
        outcomes = zip(in_flight.entries, result.accepted, strict=True)
        self._arrivals.put_back([entry for entry, accepted in outcomes if accepted is None])
        self._waiters = [*in_flight.waiters, *self._waiters]
        if not result.rest_is_committed:
            batch = in_flight.batch
            self._settlements.extendleft(reversed(batch.settlements))
            self._unacknowledged = [*batch.unacknowledged, *self._unacknowledged]
            for listener, slot, counter, count in batch.counts:
                key = (listener, slot, counter)
                self._counts[key] = self._counts.get(key, 0) + count
        self._retry_seconds = self._next_retry_seconds
        self._next_retry_seconds = min(self._next_retry_seconds * 2, _RETRY_LONGEST_SECONDS)
        self._loop.call_later(self._retry_seconds, self._retry)

    def _retry(self) -> None:
        self._retry_seconds = 0.0
        for line in self._lines:
            self._dispatch(line)


def _finish_job(future: "asyncio.Future[object]", result: BatchResult) -> None:
    if future.done():
        return
    if result.error is None:
        future.set_result(result.job_result)
    else:
        future.set_exception(result.error)
