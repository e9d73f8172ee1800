"""The index for the newest arrivals, in memory, until they are folded into the lookup tables.

Dedupe looks up content and visitors in two tables (``prints`` and ``sightings``) whose keys are random. Single inserts
into them would write two pages each. So the index collects arrivals in 256 buckets by the key's first byte. Once
there are many, the writer begins a round: with each commit it folds one bucket into the tables, in key order. After a
crash the writer reads the newest arrivals back from the ledger, so this index does not have to be durable.
"""

import array
import bisect
from collections.abc import Sequence
from typing import Any

from usher_gateway import model
from usher_gateway.store.decide import KnownContent
from usher_gateway.store.encodings import FLAG_FIRST, FLAG_UNACKNOWLEDGED

FOLD_ROWS = 32_768  # Arrivals at which a round begins; a start reads back at most about three times as many
BUCKETS = 256


class RecentIndex:
    """The newest arrivals' contents and visits.

    It holds tens of thousands of values, in types that the garbage collector does not track.
    """

    def __init__(self, fold_rows: int = FOLD_ROWS) -> None:
        self._fold_rows = fold_rows
        self._contents: list[dict[bytes, KnownContent]] = [{} for _ in range(BUCKETS)]
        self._sightings: list[dict[bytes, array.array[int]]] = [{} for _ in range(BUCKETS)]
        """Visitor key -> its visit times, sorted. An array, because one visitor may have thousands."""
        self._size = 0  # Arrivals since the round began, or since the last one
        self._next: int | None = None  # The bucket that the next commit folds; None: no round has begun
        self.last_key = 0
        self.round_ends_at = 0
        """The last key when the round began. After the round, the tables have all arrivals up to it."""

    def add(self, arrival: Sequence[Any]) -> None:
        """Add a row from ``arrivals``; rows come in key order."""
        key, _, _, received_at, visit_time, counted_as, flags, _, _, _, fingerprint, visitor_key, _, _ = arrival
        self.last_key = key
        self._size += 1
        if flags & FLAG_FIRST:
            content = KnownContent(key, received_at, bool(flags & FLAG_UNACKNOWLEDGED))
            self._contents[fingerprint[0]][fingerprint] = content
        if counted_as == model.CountedAs.Visit:
            bisect.insort(self._sightings[visitor_key[0]].setdefault(visitor_key, array.array("q")), visit_time)

    def content_of(self, fingerprint: bytes) -> KnownContent | None:
        """Return a content's known acceptance, if it is in memory."""
        return self._contents[fingerprint[0]].get(fingerprint)

    def sighting_between(self, visitor_key: bytes, after: int, before: int) -> int | None:
        """Return a visit time between two instants (exclusive), if there is one in memory."""
        times = self._sightings[visitor_key[0]].get(visitor_key)
        if times is None:
            return None
        index = bisect.bisect_right(times, after)
        return times[index] if index < len(times) and times[index] < before else None

    def forget(self, key: int, fingerprint: bytes, visitor_key: bytes, visit_time: int) -> None:
        """Forget an arrival before its rows are deleted, so that no commit moves it into the tables."""
        contents, sightings = self._contents[fingerprint[0]], self._sightings[visitor_key[0]]
        content = contents.get(fingerprint)
        if content is not None and content.arrival == key:
            del contents[fingerprint]
        times = [time for time in sightings.pop(visitor_key, ()) if time != visit_time]
        if times:
            sightings[visitor_key] = array.array("q", times)

    def next_bucket(self) -> int | None:
        """Return the number of the bucket to fold with this commit, or None if there is nothing to fold."""
        if self._next is None and self._size >= self._fold_rows:
            self._next, self._size, self.round_ends_at = 0, 0, self.last_key
        return self._next

    def rows_of(self, bucket: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return a bucket's sorted rows: (print, arrival) and (visitor, visit time)."""
        prints = sorted((short_key(digest), content.arrival) for digest, content in self._contents[bucket].items())
        sightings = sorted((short_key(key), time) for key, times in self._sightings[bucket].items() for time in times)
        return prints, sightings

    def folded(self, bucket: int) -> None:
        """Drop a bucket that the tables have.

        Call it after the commit only: if a transaction is rolled back, the next one has to fold the same bucket again.
        """
        self._contents[bucket], self._sightings[bucket] = {}, {}
        self._next = bucket + 1 if bucket + 1 < BUCKETS else None


def short_key(digest: bytes) -> int:
    """Return a digest's first 8 bytes as SQLite's signed integer.

    The tables compare 64 bits only. With a hundred million rows, the chance of a false match is 5e-12 per arrival. For
    a match in ``prints``, the writer compares the whole digest with the ledger.
    """
    return int.from_bytes(digest[:8], signed=True)
