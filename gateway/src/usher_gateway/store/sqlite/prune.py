"""Deletes arrivals on SQLite, for retention and erasures (``store/jobs/retention.py``, ``erasures.py``)."""

from collections.abc import Mapping, Sequence

from usher_gateway.store.encodings import split_person_keys
from usher_gateway.store.jobs.retention import ExpiredArrival
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


async def forget_arrivals(
    transaction: Transaction, arrivals: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
) -> None:
    """Delete arrivals with all their rows, and their lookups in memory.

    If the transaction is rolled back, these are forgotten all the same: a later step deletes the arrivals.
    """
    session = transaction.session
    for arrival in arrivals:
        transaction.recent_index.forget(arrival.key, arrival.fingerprint, arrival.visitor, arrival.visit_time)
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
