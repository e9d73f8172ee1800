"""Retention on PostgreSQL: a slice is a transaction beside the writer's, so that no arrival waits for it.

One gateway at a time deletes (``store/jobs/retention.py`` has the common part).
"""

from collections.abc import Mapping, Sequence

from usher_gateway.store.base import KeptTimes
from usher_gateway.store.encodings import split_person_keys
from usher_gateway.store.jobs import meters, retention
from usher_gateway.store.jobs.retention import LEAST_SLICE, ExpiredArrival, RetentionWalk
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import Connection, PostgresSession, Transaction
from usher_gateway.store.session import columns

_MOST = 1_000  # The largest slice
_SLICE_SECONDS = 0.1  # How long a slice should take: an arrival from a visitor in it waits for it

# A slice that a crash takes back is deleted again, so it need not wait for the disk or a standby.
_NEED_NOT_WAIT = "set local synchronous_commit = off"

_FORGET_CONTENTS = """
    delete from prints where fingerprint = any(array(select fingerprint from prints
        join unnest($1::bytea[], $2::bigint[]) as gone (fingerprint, arrival) using (fingerprint, arrival)
        order by fingerprint for update of prints))
"""
_LOCK_VISITORS = "select visitor from sightings where visitor = any($1::bytea[]) order by visitor for update"

_GONE_TIMES = """
    (select visitor, array_agg(time) times from unnest($1::bytea[], $2::bigint[]) as one (visitor, time)
        group by visitor) gone
"""
_FORGET_VISITORS = f"""
    delete from sightings using {_GONE_TIMES}
    where sightings.visitor = gone.visitor and sightings.times <@ gone.times
"""  # noqa: S608 - a subquery
_FORGET_TIMES = f"""
    update sightings set times = array(select time from unnest(sightings.times) time where time <> all(gone.times))
    from {_GONE_TIMES} where sightings.visitor = gone.visitor and sightings.times && gone.times
"""  # noqa: S608 - a subquery
# Delete arrivals with the rows that nothing else uses, in one statement.
_FORGET = """
    with
    person as (delete from persons using unnest($3::bytea[], $4::bigint[]) as gone (person, arrival)
        where persons.person = gone.person and persons.arrival = gone.arrival),
    delivery as (delete from deliveries where key = any($2::bigint[])),
    attempt as (delete from attempts where delivery = any($2::bigint[])),
    body as (delete from bodies where key = any($1::bigint[]))
    delete from arrivals where key = any($1::bigint[])
"""


def next_size(size: int, seconds: float) -> int:
    """Return the next slice's size, because the last one took some time (pure)."""
    return max(LEAST_SLICE, min(_MOST, 2 * size, int(size * _SLICE_SECONDS / max(seconds, 0.001))))


async def prune(transaction: Transaction, now: int, kept: KeptTimes, walk: RetentionWalk) -> int:
    """Delete one slice, unless another gateway deletes one now; return the rows touched."""
    connection = transaction.connection
    if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.PRUNE_LOCK):
        return 0
    await connection.execute(_NEED_NOT_WAIT)
    count = await retention.prune(transaction, now, kept, walk, forget_arrivals)
    await meters.add_counts(transaction)
    return count


async def forget_arrivals(
    transaction: Transaction, ending: Sequence[ExpiredArrival], deliveries: Mapping[int, set[int]]
) -> None:
    """Delete arrivals with all their rows."""
    connection = transaction.connection
    keys = sorted(arrival.key for arrival in ending)
    prints = sorted((arrival.fingerprint, arrival.key) for arrival in ending)
    await connection.execute(_FORGET_CONTENTS, *columns(prints, 2))
    await _forget_visits(connection, [(arrival.visitor, arrival.visit_time) for arrival in ending])
    gone = sorted(set().union(*[deliveries[key] for key in keys]))
    persons = sorted((person, arrival.key) for arrival in ending for person in set(split_person_keys(arrival.persons)))
    await connection.execute(_FORGET, keys, gone, *columns(persons, 2))


async def _forget_visits(connection: Connection, visits: Sequence[tuple[bytes, int]]) -> None:
    """Delete visitors' visit times, and the visitors who have none left."""
    visitors = [
        visitor for (visitor,) in await connection.fetch(_LOCK_VISITORS, sorted({visitor for visitor, _ in visits}))
    ]
    if await PostgresSession(connection).execute(_FORGET_VISITORS, *columns(visits, 2)) < len(visitors):
        await connection.execute(_FORGET_TIMES, *columns(visits, 2))
