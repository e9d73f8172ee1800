"""Retention on SQLite: a slice is a job of the writer (``store/jobs/retention.py`` has the common part)."""

from collections.abc import Mapping, Sequence

from usher_gateway.store.base import KeptTimes
from usher_gateway.store.encodings import split_person_keys
from usher_gateway.store.jobs import retention
from usher_gateway.store.jobs.retention import ExpiredArrival, RetentionWalk
from usher_gateway.store.sqlite.recent_index import short_key
from usher_gateway.store.sqlite.transaction import Transaction, segment_of

_DELETE = [
    f"delete from {table} where {column} = any($1::bigint[])"  # noqa: S608 - constants
    for table, column in (("deliveries", "key"), ("attempts", "delivery"))
]
_DELETE_ARRIVALS = [
    f"delete from {table} where key = any($1::bigint[])"  # noqa: S608 - constants
    for table in ("bodies", "arrivals")
]
_DELETE_OLDEST_SEGMENT = """
    delete from person_segments where segment = (select min(segment) from person_segments)
    and not exists (select 1 from arrivals where key between first_arrival and last_arrival)
"""


async def prune(transaction: Transaction, now: int, kept: KeptTimes, walk: RetentionWalk) -> int:
    """Delete one slice; return the rows touched."""
    transaction.connection.execute("insert or replace into meta values ('confirmed_at', ?)", (str(now),))
    walk.after = (0, 0)  # nothing is left behind the walk but what it could not delete

    async def forget(ending: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]) -> Sequence[ExpiredArrival]:
        return await _forget_folded(transaction, ending, deliveries)

    return await retention.prune(transaction, now, kept, walk, forget)


async def _forget_folded(
    transaction: Transaction, ending: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
) -> list[ExpiredArrival]:
    """Delete arrivals with all their rows, once they are folded into the lookup tables; return those."""
    rows = await transaction.session.fetch("select cast(value as integer) from meta where name = 'folded_to'")
    folded_to = rows[0][0] if rows else 0
    folded = [arrival for arrival in ending if arrival.key <= folded_to]
    if len(folded) < len(ending):
        transaction.recent_index.fold_soon()
    await _delete(transaction, folded, deliveries)
    return folded


async def forget_arrivals(
    transaction: Transaction, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
) -> None:
    """Delete arrivals with all their rows, also those whose lookups are in memory only.

    If the transaction is rolled back, these are forgotten all the same: a later step deletes the arrivals.
    """
    for arrival in arrivals:
        transaction.recent_index.forget(arrival.key, arrival.fingerprint, arrival.visitor, arrival.visit_time)
    await _delete(transaction, arrivals, deliveries)


async def _delete(
    transaction: Transaction, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
) -> None:
    session = transaction.session
    for arrival in arrivals:
        _forget_lookups(transaction, arrival)
    keys = sorted([arrival.key for arrival in arrivals])
    delivery_keys = sorted(set().union(*[deliveries[key] for key in keys]))
    for statement in _DELETE:
        await session.execute(statement, delivery_keys)
    for statement in _DELETE_ARRIVALS:
        await session.execute(statement, keys)
    await session.execute(_DELETE_OLDEST_SEGMENT)


def _forget_lookups(transaction: Transaction, arrival: ExpiredArrival) -> None:
    connection, key = transaction.connection, arrival.key
    segment = segment_of(connection, key)
    for person in split_person_keys(arrival.persons):
        statement = "delete from persons where segment = ? and person = ? and arrival = ?"
        connection.execute(statement, (segment, person, key))
    connection.execute("delete from prints where print = ? and arrival = ?", (short_key(arrival.fingerprint), key))
    values = (short_key(arrival.visitor), arrival.visit_time)
    connection.execute("delete from sightings where visitor = ? and visit_time = ?", values)
