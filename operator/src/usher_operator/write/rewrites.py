"""The delay between writes to an object that something else changes again and again after this operator wrote it. Pure.

Only the install that owns an object writes it, so two installs never take turns. Another controller may, and without a
delay both would write as fast as the API server answers.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

import msgspec

# Delay before an object is written for the second time because something else changed it; it doubles each time.
FIRST_REWRITE_SECONDS = 1.0

LAST_REWRITE_SECONDS = 300.0  # Longest delay before such a write
_CONFLICT_REWRITES = 3  # So many rewrites in a row are a conflict. Fewer may be an edit by hand.

KeyT = TypeVar("KeyT", bound=Hashable)


class _LastWrite(msgspec.Struct, frozen=True):
    content: Hashable
    written_at: float
    rewrites: int = 0
    """How many writes in a row replaced somebody's change."""

    @property
    def delay(self) -> float:
        """Seconds from this write to the next one that replaces a change. The first one needs no delay."""
        if not self.rewrites:
            return 0.0
        return min(FIRST_REWRITE_SECONDS * 2.0 ** min(self.rewrites - 1, 30), LAST_REWRITE_SECONDS)


class RewriteBackoff(Generic[KeyT]):
    """Remembers each object's last write. ``now``: monotonic seconds."""

    def __init__(self) -> None:
        self._writes: dict[KeyT, _LastWrite] = {}

    def seconds_left(self, key: KeyT, stored: Hashable, now: float) -> float:
        """Seconds until the stored content may be replaced; zero or negative if it may be now."""
        last = self._writes.get(key)
        if last is None or not last.rewrites or stored == last.content:
            return 0.0
        return last.written_at + last.delay - now

    def written(self, key: KeyT, content: Hashable, stored: Hashable, now: float) -> None:
        """Note that ``content`` was written over ``stored``."""
        last = self._writes.get(key, _LastWrite(stored, now))
        rewrites = last.rewrites
        if stored != last.content:
            rewrites += 1
        elif now - last.written_at > LAST_REWRITE_SECONDS:
            rewrites = 0
        self._writes[key] = _LastWrite(content, now, rewrites)

    def is_conflict(self, key: KeyT, stored: Hashable) -> bool:
        """Return whether somebody changed an object again and again: the next write replaces the last change."""
        last = self._writes.get(key)
        return last is not None and stored != last.content and last.rewrites + 1 >= _CONFLICT_REWRITES

    def conflict_seconds_left(self, key: KeyT, now: float) -> float:
        """For how long an object counts as contested: while a change would be delayed, and once more as long."""
        last = self._writes.get(key)
        if last is None or last.rewrites < _CONFLICT_REWRITES:
            return 0.0
        return last.written_at + 2 * last.delay - now

    def forget(self, key: KeyT) -> None:
        """Forget an object that this operator does not write any more."""
        self._writes.pop(key, None)
