"""Limits how often customers load links' pages, because a view may look through a day's deliveries."""

import math
from collections import Counter
from collections.abc import Callable

_SECONDS = 60.0


class ViewLimit:
    """Counts views in one-minute windows, for each link and for all. Refused ones do not count.

    Args:
        of_link: how many views a link has.
        of_all: how many views there may be together.
        now: returns monotonic seconds.
    """

    def __init__(self, *, of_link: int, of_all: int, now: Callable[[], float]) -> None:
        self._of_link, self._of_all, self._now = of_link, of_all, now
        self._ends_at = -math.inf
        self._counts: Counter[str] = Counter()

    def count_view(self, link: str) -> int:
        """Return 0, or if there are too many views, after how many seconds there may be another."""
        now = self._now()
        if now >= self._ends_at:
            self._ends_at, self._counts = now + _SECONDS, Counter()
        if self._counts[link] >= self._of_link or self._counts.total() >= self._of_all:
            return max(1, math.ceil(self._ends_at - now))
        self._counts[link] += 1
        return 0
