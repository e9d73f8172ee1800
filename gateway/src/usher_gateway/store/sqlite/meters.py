"""Folds the counts of commits: sums the rows of ``meter_batches``, and adds the sums to ``meters``."""

import sqlite3

import msgspec

from usher_gateway import model
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.transaction import Transaction

_GATHERED_BATCHES = 1_024
"""Rows of meter_batches to sum at a time: many counts of a listener become a few meters."""

_PART_KEYS = 1_024
"""Meters that one job updates; arrivals wait for it."""

_decode = msgspec.msgpack.decode
_encode = msgspec.msgpack.encode


class GatheredCounts(msgspec.Struct):
    """The sums of the oldest batches."""

    last: int
    """The number of the last batch."""
    batches: int
    parts: list[list[database.Row]]
    """(slot, listener, counter, count) in the order of the table meters, cut into parts for one job each."""

    @property
    def is_everything(self) -> bool:
        """True if there were no more batches."""
        return self.batches < _GATHERED_BATCHES


CountsPart = tuple[int, list[database.Row]]
"""(batch number, rows): a part that fold() stored as a separate batch."""


def gather(connection: sqlite3.Connection) -> GatheredCounts:
    """Sum the oldest batches. A reader does this, so that arrivals do not wait for it."""
    statement = "select number, counts from meter_batches order by number limit ?"
    batches = connection.execute(statement, (_GATHERED_BATCHES,)).fetchall()
    sums: dict[tuple[int, int, int], int] = {}
    for _, packed in batches:
        for listener, slot, counter, count in _decode(packed):
            key = (slot, listener, counter)
            sums[key] = sums.get(key, 0) + count
    counts: list[database.Row] = [(*key, sums[key]) for key in sorted(sums)]
    parts = [counts[start : start + _PART_KEYS] for start in range(0, len(counts), _PART_KEYS)]
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
        packed = _encode([(listener, slot, counter, count) for slot, listener, counter, count in part])
        statement = "insert into meter_batches (counts) values (?) returning number"
        (number,) = connection.execute(statement, (packed,)).fetchone()
        rest.append((number, part))
    add(connection, gathered.parts[0])
    return rest


def fold_part(transaction: Transaction, part: CountsPart) -> None:
    """Add a part that fold() returned to the meters, and delete its batch."""
    number, counts = part
    transaction.connection.execute("delete from meter_batches where number = ?", (number,))
    add(transaction.connection, counts)


def add(connection: sqlite3.Connection, counts: list[database.Row]) -> None:
    """Add (slot, listener, counter, count) rows to the meters."""
    head = "insert into meters (slot, listener, counter, count)"
    database.insert_rows(
        connection, head, "(?,?,?,?)", counts, "on conflict do update set count = count + excluded.count"
    )
