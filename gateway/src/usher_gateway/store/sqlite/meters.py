"""Folds the counts of commits: sums the rows of ``meter_batches``, and adds the sums to ``meters``."""

import sqlite3

import msgspec

from usher_gateway import model
from usher_gateway.store.jobs import meters
from usher_gateway.store.session import run_to_end
from usher_gateway.store.sqlite.transaction import Transaction

_GATHERED_BATCHES = 1_024
"""Rows of meter_batches to sum at a time: many counts of a listener become a few meters."""

_PART_KEYS = 1_024
"""Meters that one job updates; arrivals wait for it."""

_encode = msgspec.msgpack.encode

Sums = dict[tuple[int, int, int], int]
"""(slot, listener, counter) -> count."""


class GatheredCounts(msgspec.Struct):
    """The sums of the oldest batches."""

    last: int
    """The number of the last batch."""
    batches: int
    parts: list[Sums]
    """In the order of the table meters, cut into parts for one job each."""

    @property
    def is_everything(self) -> bool:
        """True if there were no more batches."""
        return self.batches < _GATHERED_BATCHES


CountsPart = tuple[int, Sums]
"""(batch number, sums): a part that fold() stored as a separate batch."""


def gather(connection: sqlite3.Connection) -> GatheredCounts:
    """Sum the oldest batches. A reader does this, so that arrivals do not wait for it."""
    statement = "select number, counts from meter_batches order by number limit ?"
    batches = connection.execute(statement, (_GATHERED_BATCHES,)).fetchall()
    counts = list(meters.sums([packed for _, packed in batches]).items())
    parts = [dict(counts[start : start + _PART_KEYS]) for start in range(0, len(counts), _PART_KEYS)]
    return GatheredCounts(batches[-1][0] if batches else 0, len(batches), parts)


def fold(transaction: Transaction, gathered: GatheredCounts) -> list[CountsPart]:
    """Replace the gathered batches: add the first part to the meters, and store the others as separate batches.

    All in one transaction, so that a crash neither loses nor doubles a count.

    Returns:
        The other parts, for fold_part().
    """
    connection = transaction.connection
    deleted = connection.execute("delete from meter_batches where number <= ?", (gathered.last,)).rowcount
    if deleted != gathered.batches:
        raise model.StoreUnavailableError("the batches of counts have changed since they were gathered")
    rest: list[CountsPart] = []
    for part in gathered.parts[1:]:
        packed = _encode([(listener, slot, counter, count) for (slot, listener, counter), count in part.items()])
        statement = "insert into meter_batches (counts) values (?) returning number"
        (number,) = connection.execute(statement, (packed,)).fetchone()
        rest.append((number, part))
    run_to_end(meters.add(transaction.session, gathered.parts[0]))
    return rest


def fold_part(transaction: Transaction, part: CountsPart) -> None:
    """Add a part that fold() returned to the meters, and delete its batch."""
    number, counts = part
    transaction.connection.execute("delete from meter_batches where number = ?", (number,))
    run_to_end(meters.add(transaction.session, counts))
