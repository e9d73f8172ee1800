"""The queue of keys to reconcile, and the gate that pauses its workers.

A key is in the queue at most once and is never processed twice at the same time: keys added while they are processed
become ready again when their worker is done. A key that failed is retried later and later.

The queue is fair among namespaces. Each key waits in its namespace's lane, lanes take turns, and one lane's keys never
occupy all workers. So one agency's flood delays another agency's key by a few keys, and not by all keys in the flood.
The queue takes the time and the random numbers as arguments, so that tests need not wait; only ``get`` waits.
"""

import asyncio
import contextlib
import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger(__name__)

FIRST_RETRY_SECONDS = 0.2  # Delay between the first failure and the next try; it doubles with each failure
LAST_RETRY_SECONDS = 60.0  # Longest delay before a retry: every gateway runs what it should two minutes after a fault

ItemT = TypeVar("ItemT")
K = TypeVar("K", bound=Hashable)


class Lanes(Generic[ItemT]):
    """Items in lanes, which take turns: one item from each lane, then the next one from each."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, deque[ItemT]] = OrderedDict()
        """Lanes with items; the lane whose turn it is comes first."""

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __contains__(self, lane: str) -> bool:
        return lane in self._lanes

    def add(self, lane: str, item: ItemT) -> None:
        """Add an item at a lane's end."""
        self._lanes.setdefault(lane, deque()).append(item)

    def take(self, blocked: Collection[str] = ()) -> ItemT | None:
        """Remove and return the next item, from a lane that is not blocked; None if there is none."""
        name = next((name for name in self._lanes if name not in blocked), None)
        if name is None:
            return None
        lane = self._lanes[name]
        item = lane.popleft()
        if lane:
            self._lanes.move_to_end(name)
        else:
            del self._lanes[name]
        return item

    def depth(self, lane: str) -> int:
        """How many items a lane has."""
        return len(self._lanes.get(lane, ()))


class Workqueue(Generic[K]):
    """Holds ready keys in lanes, delayed keys by due time, and the keys being processed.

    Args:
        clock: monotonic seconds.
        random: returns a number from 0 to below 1, for jitter.
        max_per_lane: how many keys in one lane may be processed at the same time.
        observe_wait: called with the seconds for which a key was ready before a worker took it.
        count_retry: called for each key that is retried after a failure.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        lane_of: Callable[[K], str] = lambda _: "",
        max_per_lane: int = 256,
        observe_wait: Callable[[float], object] = lambda _: None,
        count_retry: Callable[[], object] = lambda: None,
    ) -> None:
        self._clock, self._random = clock, random
        self._lane_of, self._max_per_lane = lane_of, max_per_lane
        self._observe_wait, self._count_retry = observe_wait, count_retry
        self._waiting: Lanes[K] = Lanes()
        self._since: dict[K, float] = {}  # When each ready key became ready
        self._processing: dict[K, str] = {}  # Lane of each key that is processed
        self._workers: Counter[str] = Counter()  # Number of keys of each lane that are processed
        self._full: set[str] = set()  # Lanes that occupy as many workers as they may
        self._again: set[K] = set()  # Keys added while they were processed
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: K) -> None:
        """Reconcile a key as soon as a worker is free. Repeated calls before that count once."""
        self._due.pop(key, None)
        if key in self._processing:
            self._again.add(key)
        elif key not in self._since:
            self._since[key] = self._clock()
            self._waiting.add(self._lane_of(key), key)
            self._wake.set()

    def add_all(self, keys: Iterable[K]) -> None:
        """Add keys in their order."""
        for key in keys:
            self.add(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Reconcile a key after a delay, unless it is due earlier anyway."""
        due = self._clock() + seconds
        if key in self._since or key in self._again or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, key))
        self._wake.set()

    def retry(self, key: K) -> float:
        """Schedule a failed key's next try; returns the delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._count_retry()
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 30), LAST_RETRY_SECONDS)
        delay *= 0.8 + 0.4 * self._random()
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget a key's failures."""
        self._failures.pop(key, None)

    def take(self) -> K | None:
        """Return the next key, which counts as processing until ``done``; None if no key may be processed now."""
        self._release_due()
        key = self._waiting.take(self._full)
        if key is None:
            return None
        self._observe_wait(self._clock() - self._since.pop(key))
        lane = self._processing[key] = self._lane_of(key)
        self._workers[lane] += 1
        if self._workers[lane] >= self._max_per_lane:
            self._full.add(lane)
        return key

    def done(self, key: K) -> None:
        """Note that a worker has finished with a key; the key is ready again if it was added meanwhile."""
        lane = self._processing.pop(key)
        self._workers[lane] -= 1
        if not self._workers[lane]:
            del self._workers[lane]
        if lane in self._full:
            self._full.discard(lane)
            self._wake.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def get(self) -> K:
        """Wait for the next key. Cancel-safe: a key leaves the queue only when it is returned."""
        while True:
            self._wake.clear()
            key = self.take()
            if key is not None:
                if self._waiting:
                    self._wake.set()  # for the next worker, because clear() may have taken its wake-up
                return key
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.due_in()):
                    await self._wake.wait()

    def due_in(self) -> float | None:
        """Seconds until the next delayed key is due; None if no key is delayed."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    @property
    def depth(self) -> int:
        """How many keys are ready and wait for a worker."""
        return len(self._since)

    def is_busy(self, lane: str) -> bool:
        """Return whether a key in a lane waits for a worker or is processed."""
        return lane in self._workers or lane in self._waiting

    @property
    def oldest_age_seconds(self) -> float:
        """Seconds for which the first ready key has waited; 0 if no key is ready."""
        return self._clock() - next(iter(self._since.values())) if self._since else 0.0

    def _release_due(self) -> None:
        while self.due_in() == 0.0:
            self.add(heapq.heappop(self._heap)[2])


class PauseGate:
    """Pauses the workers while the cache may be wrong, for example because a list failed.

    Each topic may give one reason to pause. While at least one reason exists, workers take no key, so that the operator
    publishes and removes nothing.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}  # Reasons to pause, by topic
        self._open = asyncio.Event()
        self._open.set()

    def pause(self, topic: str, reason: str) -> None:
        """Give a reason to pause. The same reason is logged once."""
        if self.reasons.get(topic) != reason:
            _log.error("reconciling_paused", topic=topic, reason=reason)
        self.reasons[topic] = reason
        self._open.clear()

    def resume(self, topic: str) -> None:
        """Withdraw a topic's reason."""
        if self.reasons.pop(topic, None) is not None:
            _log.info("reconciling_resumed", topic=topic)
        if not self.reasons:
            self._open.set()

    async def wait(self) -> None:
        """Wait until no reason to pause exists."""
        await self._open.wait()
