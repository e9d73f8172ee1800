"""The time by which retired addresses, tombstones and unused Certificates end.

It is the last time that a leader saved in the Lease, plus the steady time since. So a wall clock that jumps, on this
machine or another one, ends nothing, restarts add up, and time in which no operator runs does not count. Only an
install's first leader starts from its wall clock.
"""

import time
from collections.abc import Callable


def steady_microseconds() -> int:
    """Microseconds by a clock that never jumps."""
    return time.monotonic_ns() // 1000


def wall_microseconds() -> int:
    """Microseconds since the epoch, by this machine's clock."""
    return time.time_ns() // 1000


class ConfirmedClock:
    """Microseconds since the epoch: a saved time plus the steady time since. ``wall``: read once, at the start."""

    def __init__(
        self, *, steady: Callable[[], int] = steady_microseconds, wall: Callable[[], int] = wall_microseconds
    ) -> None:
        self._steady = steady
        self._offset = wall() - steady()

    def now(self) -> int:
        """The present time."""
        return self._steady() + self._offset

    def start_from(self, saved: int) -> None:
        """Go on from the time that the previous leader saved."""
        self._offset = saved - self._steady()
