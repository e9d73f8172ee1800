"""The tail of the ledger that is not folded into the lookup tables yet, kept in memory.

Random single inserts into the lookup tables would write two pages each. Rows are collected here instead, in 256 buckets
by their first byte, and moved bucket by bucket in key order, one with every commit. After a crash the tail is read back
from the ledger: nothing here is durable, and nothing has to be.
"""

import array
import bisect
from typing import TypeAlias

import msgspec

from usher_gateway.store import decide

FOLD_ROWS = 32_768
"""Size at which a generation stops growing and is folded; also about what a start reads back."""

BUCKETS = [*range(128, 256), *range(128)]
"""First bytes in the order of the signed integers that they begin."""


Times: TypeAlias = "tuple[int, ...] | array.array[int]"
"""Visit times of one visitor, in their order; nearly always one."""

_FEW_TIMES = 8
"""Up to so many are a tuple; to copy thousands for each one more would keep everybody waiting."""


class LedgerRow(msgspec.Struct, frozen=True, gc=False):
    """What the tail needs of an accepted arrival."""

    key: int
    received_at: int
    fingerprint: bytes
    visitor_key: bytes
    visit_time: int
    is_visit: bool
    remembers_print: bool
    """True for the first acceptance of a content; later ones do not replace it."""
    unacknowledged: bool = False


class Generation:
    """Rows of one stretch of the ledger, and what to look up in them.

    Values are of kinds that the garbage collector does not walk: there are tens of thousands of them.
    """

    def __init__(self) -> None:
        self.size = 0
        self.first_key = 0
        self.last_key = 0
        self._prints: list[dict[bytes, decide.Print]] = [{} for _ in range(256)]
        self._sightings: list[dict[bytes, Times]] = [{} for _ in range(256)]

    def add(self, row: LedgerRow) -> None:
        """Remember one row; rows may come out of key order."""
        key = row.key
        if not self.size or key < self.first_key:
            self.first_key = key
        self.last_key = max(self.last_key, key)
        self.size += 1
        if row.remembers_print:
            known = decide.Print(key, row.received_at, row.unacknowledged)
            self._prints[row.fingerprint[0]][row.fingerprint] = known
        if row.is_visit:
            bucket = self._sightings[row.visitor_key[0]]
            bucket[row.visitor_key] = _with(bucket.get(row.visitor_key, ()), row.visit_time)

    def print_of(self, fingerprint: bytes) -> decide.Print | None:
        """What is known here of a content."""
        return self._prints[fingerprint[0]].get(fingerprint)

    def sighting_between(self, visitor_key: bytes, after: int, before: int) -> int | None:
        """A visit time of a visitor key that lies in between, if one is known here."""
        times = self._sightings[visitor_key[0]].get(visitor_key)
        if times is None:
            return None
        index = bisect.bisect_right(times, after)
        return times[index] if index < len(times) and times[index] < before else None

    def bucket(self, first_byte: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Sorted rows of one bucket: (print, arrival), (visitor, visit time)."""
        prints = sorted((short_key(digest), known.arrival) for digest, known in self._prints[first_byte].items())
        sightings = sorted(
            (short_key(key), time) for key, times in self._sightings[first_byte].items() for time in times
        )
        return prints, sightings


class Tail:
    """The generation that grows, and the one that is being folded."""

    def __init__(self, fold_rows: int = FOLD_ROWS) -> None:
        self._fold_rows = fold_rows
        self.growing = Generation()
        self.folding: Generation | None = None
        self._position = 0
        self._must_fold = False

    def print_of(self, fingerprint: bytes) -> decide.Print | None:
        """What is known in memory of a content; the newest acceptance wins."""
        known = self.growing.print_of(fingerprint)
        if known is None and self.folding is not None:
            known = self.folding.print_of(fingerprint)
        return known

    def sighting_between(self, visitor_key: bytes, after: int, before: int) -> int | None:
        """A visit time of a visitor key that lies in between, if one is known in memory."""
        time = self.growing.sighting_between(visitor_key, after, before)
        if time is None and self.folding is not None:
            time = self.folding.sighting_between(visitor_key, after, before)
        return time

    def fold_soon(self) -> None:
        """Fold what there is, however little: some of it is to be deleted."""
        self._must_fold = self.folding is None and self.growing.size > 0

    def next_bucket(self) -> int | None:
        """The bucket to fold with this commit, or None if there is nothing to fold now."""
        if self.folding is None:
            if self.growing.size < self._fold_rows and not self._must_fold:
                return None
            self._must_fold = False
            self.folding, self.growing = self.growing, Generation()
            self._position = 0
        return BUCKETS[self._position] if self._position < len(BUCKETS) else None

    def folded(self) -> None:
        """Go on to the next bucket, since this one is committed; after the last, forget the generation.

        Never before the commit: what a rolled back transaction has folded is folded again by the next one.
        """
        if self._position < len(BUCKETS):
            self._position += 1
        else:
            self.folding = None


def _with(times: Times, time: int) -> Times:
    """Times in their order, one more among them."""
    if len(times) < _FEW_TIMES:
        return tuple(sorted((*times, time))) if times else (time,)
    many = times if isinstance(times, array.array) else array.array("q", times)
    bisect.insort(many, time)
    return many


def short_key(digest: bytes) -> int:
    """The first 8 bytes of a digest as SQLite's signed integer.

    The tables compare 64 bits only: at a hundred million rows a false match has a chance of 5e-12 per arrival. A match
    of a print is compared in full with the ledger.
    """
    return int.from_bytes(digest[:8], signed=True)
