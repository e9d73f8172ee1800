"""The gateway's clock for windows, schedules, expiry and days, and token buckets for rate limits.

Time limits of I/O use the event loop's own clock and are never scaled.
"""

import time

from usher_gateway import model

MIN_BURST = 1.0


class Clock:
    """The wall clock in microseconds, or (for development) a clock that runs ``scale`` times as fast from its start."""

    def __init__(self, scale: float = 1.0, start: int | None = None) -> None:
        """Start a scaled clock at ``start`` (microseconds), such as another process's current time; default: now."""
        self.scale = scale
        self._start = time.time_ns() // 1000 if start is None else start
        self._monotonic = time.monotonic_ns()

    def now(self) -> int:
        """Return the current instant (microseconds since the epoch, UTC)."""
        if self.scale == 1.0:
            return time.time_ns() // 1000
        elapsed = (time.monotonic_ns() - self._monotonic) // 1000
        return self._start + int(elapsed * self.scale)

    def steady(self) -> int:
        """Return microseconds of a clock that never goes back and runs as fast as now(): for circuits and rates."""
        return int(time.monotonic_ns() // 1000 * self.scale)

    def real_seconds(self, microseconds: int) -> float:
        """Return the real seconds in which this clock advances by ``microseconds``."""
        return microseconds / model.MICROSECONDS / self.scale


class TokenBucket:
    """Allows ``rate`` takes per second on average, and up to ``burst`` at once.

    ``now`` is in seconds of a clock that never goes back. If it does go back, the bucket earns nothing until the clock
    has caught up.
    """

    __slots__ = ("_burst", "_filled_at", "_tokens", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self._burst = max(MIN_BURST, burst)
        self._tokens = self._burst
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token. Returns False if there is none."""
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._filled_at) * self.rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def seconds_until_token(self) -> float:
        """Return how long after the last ``take`` the next token is there."""
        return max(0.0, 1.0 - self._tokens) / self.rate
