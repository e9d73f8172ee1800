"""What has to be reconciled: every key once, never twice at the same time, failures later and later.

The queue decides by the time that it is given (seconds of a clock that only grows), so that its tests need no waiting;
only ``get`` waits.
"""

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

FIRST_RETRY_SECONDS = 0.2
"""From a first failure to the next try; it doubles from there."""

LAST_RETRY_SECONDS = 300.0
"""No retry is put off for longer."""

K = TypeVar("K")


class Workqueue(Generic[K]):
    """Ready keys in order of arrival, delayed ones by due time, and those being processed.

    ``clock``: seconds that only grow. ``random``: from 0 to below 1, for jitter.
    """

    def __init__(self, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._clock, self._random = clock, random
        self._ready: deque[K] = deque()
        self._since: dict[K, float] = {}
        """Ready keys -> since when."""
        self._last: dict[K, None] = {}
        """Keys that wait until nothing else is ready, in order."""
        self._processing: set[K] = set()
        self._again: set[K] = set()
        """Keys added while they were processed."""
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0
        self._failures: dict[K, int] = {}
        self._wake = asyncio.Event()
        self.retried: Callable[[], object] = lambda: None
        """Told that something has to be tried again."""
        self.waited: Callable[[float], object] = lambda _: None
        """Told how long a key was ready before it was taken."""

    def add(self, key: K) -> None:
        """Reconcile a key as soon as a worker is free. Many calls before that are one."""
        self._due.pop(key, None)
        self._last.pop(key, None)
        if key in self._processing:
            self._again.add(key)
        elif key not in self._since:
            self._since[key] = self._clock()
            self._ready.append(key)
            self._wake.set()

    def add_last(self, key: K) -> None:
        """Reconcile a key once nothing else is ready, unless it is added in another way before."""
        if key not in self._since and key not in self._again:
            self._last[key] = None
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Reconcile a key in a while, unless it is due earlier anyway."""
        due = self._clock() + seconds
        if key in self._since or key in self._again or self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, key))
        self._wake.set()

    def retry(self, key: K) -> float:
        """Reconcile a key that failed again, later each time; returns in how many seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self.retried()
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures, 30), LAST_RETRY_SECONDS)
        delay *= 0.8 + 0.4 * self._random()
        self.add_after(key, delay)
        return delay

    def succeeded(self, key: K) -> None:
        """Forget a key's failures."""
        self._failures.pop(key, None)

    def take(self) -> K | None:
        """The next key, which counts as processed until ``done``; None where none is ready."""
        self._release_due()
        if self._ready:
            key = self._ready.popleft()
            self.waited(self._clock() - self._since.pop(key))
        else:
            found = next((key for key in self._last if key not in self._processing), None)
            if found is None:
                return None
            key = found
            del self._last[key]
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """A worker has finished with a key; it is ready again if it was added meanwhile."""
        self._processing.discard(key)
        if key in self._last:
            self._wake.set()
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    async def get(self) -> K:
        """Wait for the next key. Cancel-safe: a key is taken only when it is returned."""
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
        """Seconds to the next delayed key; None where there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._heap[0][0] - self._clock()) if self._heap else None

    @property
    def depth(self) -> int:
        """Keys that are ready and wait for a worker."""
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is ready or processed; delayed keys may be there."""
        return not self._ready and not self._last and not self._processing

    @property
    def oldest_age(self) -> float:
        """Seconds for which the first ready key has waited; 0 where there is none."""
        return self._clock() - self._since[self._ready[0]] if self._ready else 0.0

    def _release_due(self) -> None:
        while self.due_in() == 0.0:
            self.add(heapq.heappop(self._heap)[2])


_log = structlog.get_logger(__name__)


class PauseGate:
    """Reasons to hold still, by topic."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._whole = asyncio.Event()
        self._whole.set()

    def doubt(self, topic: str, reason: str) -> None:
        """Hold still; said once per topic and reason."""
        if self.reasons.get(topic) != reason:
            _log.error("holding_still", topic=topic, reason=reason)
        self.reasons[topic] = reason
        self._whole.clear()

    def restore(self, topic: str) -> None:
        """A reason is gone."""
        if self.reasons.pop(topic, None) is not None:
            _log.info("going_on", topic=topic)
        if not self.reasons:
            self._whole.set()

    async def wait(self) -> None:
        """Until there is no reason left."""
        await self._whole.wait()
