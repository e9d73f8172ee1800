"""Folds the counts of commits: sums the rows of ``meter_batches``, and adds the sums to ``meters``."""

import sqlite3

import msgspec

from usher_gateway import model
from usher_gateway.store.jobs import meters
from usher_gateway.store.session import run_to_end
from usher_gateway.store.sqlite.transaction import Transaction

_MOST_METERS = 1_024  # About so many meters one job updates; arrivals wait for it


class GatheredCounts(msgspec.Struct):
    """The sums of the oldest batches."""

    last: int = 0
    """The number of the last batch."""
    batches: int = 0
    counts: meters.Sums = {}
    is_everything: bool = True
    """True if there were no more batches."""


def gather(connection: sqlite3.Connection) -> GatheredCounts:
    """Sum the oldest batches. A reader does this, so that arrivals do not wait for it."""
    gathered = GatheredCounts()
    for number, packed in connection.execute("select number, counts from meter_batches order by number"):
        if len(gathered.counts) >= _MOST_METERS:
            gathered.is_everything = False
            break
        gathered.last = number
        gathered.batches += 1
        meters.sum_up(packed, gathered.counts)
    return gathered


def fold(transaction: Transaction, gathered: GatheredCounts) -> None:
    """Replace the gathered batches by their sums, in one transaction, so that a crash neither loses nor doubles any."""
    statement = "delete from meter_batches where number <= ?"
    if transaction.connection.execute(statement, (gathered.last,)).rowcount != gathered.batches:
        raise model.StoreUnavailableError("the batches of counts have changed since they were gathered")
    run_to_end(meters.add(transaction.session, gathered.counts))
