"""A wall clock that is right on every replica: checked against the API server's, by ``Date`` of its responses.

A replica whose own clock is days ahead would end retired URLs, tombstones and unused Certificates days early. So if the
machine's clock differs from the API server's by more than a minute, the API server's counts, and the monotonic clock
between two responses. Otherwise the machine's own clock counts, because ``Date`` has whole seconds only.
"""

import email.utils
import time
from collections.abc import Callable

_TOLERANCE_MICROSECONDS = 60_000_000
"""A machine's clock that differs by less counts as right."""


def _monotonic() -> int:
    return time.monotonic_ns() // 1000


def _wall() -> int:
    return time.time_ns() // 1000


class ServerClock:
    """The machine's wall clock, or the API server's if they differ. All times are in microseconds.

    Args:
        monotonic: counts between two responses.
        wall: the machine's own wall clock.
    """

    def __init__(self, *, monotonic: Callable[[], int] = _monotonic, wall: Callable[[], int] = _wall) -> None:
        self._monotonic, self._wall = monotonic, wall
        self._offset: int | None = None
        """Difference between the server's clock and the monotonic one, by the last response."""

    def saw_date(self, date: str) -> None:
        """Take the header ``Date`` of a response that arrives now. Ignores a text that is not a date."""
        try:
            server_time = round(email.utils.parsedate_to_datetime(date).timestamp() * 1_000_000)
        except (TypeError, ValueError, OverflowError):
            return
        self._offset = server_time - self._monotonic()

    def now(self) -> int:
        """The present time."""
        wall = self._wall()
        if self._offset is None:
            return wall
        server_time = self._monotonic() + self._offset
        return wall if abs(wall - server_time) <= _TOLERANCE_MICROSECONDS else server_time
