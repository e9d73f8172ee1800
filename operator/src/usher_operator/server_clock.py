"""The wall clock that all replicas share: the API server's, from the header ``Date`` of its responses.

A replica whose own clock is days ahead would end retired URLs, tombstones and unused Certificates days early. Between
responses the monotonic clock counts, so a jump of the machine's own clock changes nothing.
"""

import email.utils
import time
from collections.abc import Callable

_TOLERANCE_MICROSECONDS = 2_000_000
"""``Date`` has whole seconds and the response took some time, so a smaller difference does not move the clock."""


def _monotonic() -> int:
    return time.monotonic_ns() // 1000


def _wall() -> int:
    return time.time_ns() // 1000


class ServerClock:
    """The API server's wall clock; the machine's own before the first response. All times are in microseconds.

    Args:
        monotonic: counts between two responses.
        wall: the machine's own wall clock.
    """

    def __init__(self, *, monotonic: Callable[[], int] = _monotonic, wall: Callable[[], int] = _wall) -> None:
        self._monotonic, self._wall = monotonic, wall
        self._offset: int | None = None
        """Difference between the server's clock and the monotonic one."""

    def saw_date(self, date: str) -> None:
        """Take the header ``Date`` of a response that arrives now. Ignores a text that is no date."""
        try:
            server_time = round(email.utils.parsedate_to_datetime(date).timestamp() * 1_000_000)
        except (TypeError, ValueError, OverflowError):
            return
        offset = server_time - self._monotonic()
        if self._offset is None or abs(offset - self._offset) > _TOLERANCE_MICROSECONDS:
            self._offset = offset

    def now(self) -> int:
        """The present time."""
        return self._wall() if self._offset is None else self._monotonic() + self._offset
