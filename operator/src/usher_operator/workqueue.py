"""The queue of keys to reconcile, and the gate that pauses its workers.

A key is in the queue at most once and is never processed twice at the same time: keys added while they are processed
become ready again when their worker is done. A key that failed is retried later and later. The queue takes the time and
the random numbers as arguments, so that tests need not wait; only ``get`` waits.
"""

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

_log = structlog.get_logger(__name__)

FIRST_RETRY_SECONDS = 0.2
"""Delay between the first failure and the next try; it doubles with each failure."""

LAST_RETRY_SECONDS = 300.0
"""Longest delay before a retry."""

K = TypeVar("K")


class Workqueue(Generic[K]):
    """Holds ready keys in order of arrival, delayed keys by due time, and the keys being processed.

    Args:
        clock: monotonic seconds.
        random: returns a number from 0 to below 1, for jitter.
        observe_wait: called with the seconds for which a key was ready before a worker took it.
        count_retry: called for each key that is retried after a failure.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        random: Callable[[], float],
        observe_wait: Callable[[float], object] = lambda _: None,
        count_retry: Callable[[], object] = lambda: None,
    ) -> None:
        self._clock, self._random = clock, random
        self._observe_wait, self._count_retry = observe_wait, count_retry
        self._ready: deque[K] = deque()
        self._since: dict[K, float] = {}
        """When each ready key became ready."""
        self._last: dict[K, None] = {}
        """Keys that wait until no other key is ready, in order."""
        self._processing: set[K] = set()
        self._again: set[K] = set()
        """Keys added while they were processed."""
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: K) -> None:
        """Reconcile a key as soon as a worker is free. Repeated calls before that count once."""
        self._due.pop(key, None)
        self._last.pop(key, None)
        if key in self._processing:
            self._again.add(key)
        elif key not in self._since:
            self._since[key] = self._clock()
            self._ready.append(key)
            self._wake.set()

    def add_last(self, key: K) -> None:
        """Reconcile a key once no other key is ready, unless another call adds it earlier."""
        if key not in self._since and key not in self._again:
            self._last[key] = None
            self._wake.set()

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
        """Schedule the next try of a key that failed; returns the delay in seconds."""
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
        """Return the next key, which counts as processing until ``done``; None if no key is ready."""
        self._release_due()
        if self._ready:
            key = self._ready.popleft()
            self._observe_wait(self._clock() - self._since.pop(key))
        else:
            found = next((key for key in self._last if key not in self._processing), None)
            if found is None:
                return None
            key = found
            del self._last[key]
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """Note that a worker has finished with a key; the key is ready again if it was added meanwhile."""
        self._processing.discard(key)
        if key in self._last:
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
                if self._ready or self._last:
                    self._wake.set()
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
        """Number of keys that are ready and wait for a worker."""
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """True if no key is ready or processing. Delayed keys may exist."""
        return not self._ready and not self._last and not self._processing

    @property
    def oldest_age_seconds(self) -> float:
        """Seconds for which the first ready key has waited; 0 if no key is ready."""
        return self._clock() - self._since[self._ready[0]] if self._ready else 0.0

    def _release_due(self) -> None:
        while self.due_in() == 0.0:
            self.add(heapq.heappop(self._heap)[2])


class PauseGate:
    """Pauses the workers while the cache may be wrong, for example because a list failed.

    Each topic may give one reason to pause. While at least one reason exists, workers take no key, so that the operator
    publishes and removes nothing.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """Reasons to pause, by topic."""
        self._open = asyncio.Event()
        self._open.set()

    def pause(self, topic: str, reason: str) -> None:
        """Give a reason to pause. The same reason is logged once."""
        if self.reasons.get(topic) != reason:
            _log.error("reconciling_paused", topic=topic, reason=reason)
        self.reasons[topic] = reason
        self._open.clear()

    def resume(self, topic: str) -> None:
        """Withdraw the reason of a topic."""
        if self.reasons.pop(topic, None) is not None:
            _log.info("reconciling_resumed", topic=topic)
        if not self.reasons:
            self._open.set()

    async def wait(self) -> None:
        """Wait until no reason to pause exists."""
        await self._open.wait()
