"""The index of the newest arrivals, in memory, until they are folded into the lookup tables.

Dedupe looks up content and visitors in two tables (``prints`` and ``sightings``) whose keys are random. Single inserts
into them would write two pages each. So the index collects arrivals in 256 buckets by the first byte of the key, and
the writer folds one bucket per commit into the tables, in key order. After a crash the writer reads the newest arrivals
back from the ledger, so this index does not have to be durable.
"""

import array
import bisect
from typing import TypeAlias

import msgspec

from usher_gateway.store.decide import KnownContent

FOLD_ROWS = 32_768  # Arrivals at which a generation stops growing and is folded; a start reads back about as many
BUCKETS = [*range(128, 256), *range(128)]  # First bytes, in the order of the signed integers that start with them
Times: TypeAlias = "tuple[int, ...] | array.array[int]"  # The visit times of one visitor, sorted; nearly always one

# From this many times on, an array replaces the tuple, because copying thousands per visit would delay commits.
_FEW_TIMES = 8


class RecentArrival(msgspec.Struct, frozen=True, gc=False):
    """The part of an accepted arrival that the index needs."""

    key: int
    received_at: int
    fingerprint: bytes
    visitor_key: bytes
    visit_time: int
    is_visit: bool
    remembers_print: bool
    """True for the first acceptance of a content, which later ones do not replace."""
    unacknowledged: bool = False


class Generation:
    """The index of one stretch of the ledger.

    It holds tens of thousands of values, of types that the garbage collector does not track.
    """

    def __init__(self) -> None:
        self.size = 0
        self.first_key = 0
        self.last_key = 0
        self._contents: list[dict[bytes, KnownContent]] = [{} for _ in range(256)]
        self._sightings: list[dict[bytes, Times]] = [{} for _ in range(256)]

    def add(self, row: RecentArrival) -> None:
        """Add one arrival; arrivals may come out of key order."""
        key = row.key
        if not self.size or key < self.first_key:
            self.first_key = key
        self.last_key = max(self.last_key, key)
        self.size += 1
        if row.remembers_print:
            content = KnownContent(key, row.received_at, row.unacknowledged)
            self._contents[row.fingerprint[0]][row.fingerprint] = content
        if row.is_visit:
            bucket = self._sightings[row.visitor_key[0]]
            bucket[row.visitor_key] = _with(bucket.get(row.visitor_key, ()), row.visit_time)

    def content_of(self, fingerprint: bytes) -> KnownContent | None:
        """Return the known acceptance of a content, if it is in this generation."""
        return self._contents[fingerprint[0]].get(fingerprint)

    def sighting_between(self, visitor_key: bytes, after: int, before: int) -> int | None:
        """Return a visit time between two instants (exclusive), if this generation has one."""
        times = self._sightings[visitor_key[0]].get(visitor_key)
        if times is None:
            return None
        index = bisect.bisect_right(times, after)
        return times[index] if index < len(times) and times[index] < before else None

    def forget(self, key: int, fingerprint: bytes, visitor_key: bytes, visit_time: int) -> None:
        """Forget an arrival that is deleted."""
        contents, sightings = self._contents[fingerprint[0]], self._sightings[visitor_key[0]]
        content = contents.get(fingerprint)
        if content is not None and content.arrival == key:
            del contents[fingerprint]
        left = tuple([time for time in sightings.pop(visitor_key, ()) if time != visit_time])
        if left:
            sightings[visitor_key] = left

    def bucket(self, first_byte: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the sorted rows of one bucket: (print, arrival) and (visitor, visit time)."""
        prints = sorted((short_key(digest), content.arrival) for digest, content in self._contents[first_byte].items())
        sightings = sorted(
            (short_key(key), time) for key, times in self._sightings[first_byte].items() for time in times
        )
        return prints, sightings


class RecentIndex:
    """Two generations: one that grows, and one that the writer is folding into the lookup tables, if any."""

    def __init__(self, fold_rows: int = FOLD_ROWS) -> None:
        self._fold_rows = fold_rows
        self.growing = Generation()
        self.folding: Generation | None = None
        self._position = 0
        self._must_fold = False

    def content_of(self, fingerprint: bytes) -> KnownContent | None:
        """Return the known acceptance of a content, if it is in memory; the newer generation wins."""
        content = self.growing.content_of(fingerprint)
        if content is None and self.folding is not None:
            content = self.folding.content_of(fingerprint)
        return content

    def sighting_between(self, visitor_key: bytes, after: int, before: int) -> int | None:
        """Return a visit time between two instants (exclusive), if there is one in memory."""
        time = self.growing.sighting_between(visitor_key, after, before)
        if time is None and self.folding is not None:
            time = self.folding.sighting_between(visitor_key, after, before)
        return time

    def forget(self, key: int, fingerprint: bytes, visitor_key: bytes, visit_time: int) -> None:
        """Forget an arrival before its rows are deleted, so that no commit moves it into the tables."""
        for generation in filter(None, (self.growing, self.folding)):
            generation.forget(key, fingerprint, visitor_key, visit_time)

    def fold_soon(self) -> None:
        """Fold the growing generation at any size, because retention has to delete some of its arrivals."""
        self._must_fold = self.folding is None and self.growing.size > 0

    def next_bucket(self) -> int | None:
        """Return the first byte of the bucket to fold with this commit, or None if there is nothing to fold."""
        if self.folding is None:
            if self.growing.size < self._fold_rows and not self._must_fold:
                return None
            self._must_fold = False
            self.folding = self.growing
            self.growing = Generation()
            self._position = 0
        return BUCKETS[self._position] if self._position < len(BUCKETS) else None

    def folded(self) -> None:
        """Advance to the next bucket after a commit; after the last bucket, drop the generation.

        Call it after the commit only: if a transaction is rolled back, the next one has to fold the same bucket again.
        """
        if self._position < len(BUCKETS):
            self._position += 1
        else:
            self.folding = None


def _with(times: Times, time: int) -> Times:
    """Return the sorted times with one more."""
    if len(times) < _FEW_TIMES:
        return tuple(sorted((*times, time))) if times else (time,)
    many = times if isinstance(times, array.array) else array.array("q", times)
    bisect.insort(many, time)
    return many


def short_key(digest: bytes) -> int:
    """Return the first 8 bytes of a digest as SQLite's signed integer.

    The tables compare 64 bits only. With a hundred million rows, the chance of a false match is 5e-12 per arrival. For
    a match in ``prints``, the writer compares the whole digest with the ledger.
    """
    return int.from_bytes(digest[:8], signed=True)
