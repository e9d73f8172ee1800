"""The gateway's clock for windows, schedules, expiry and days.

Time limits of I/O use the event loop's own clock and are never scaled.
"""

import time

from usher_gateway import model


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
