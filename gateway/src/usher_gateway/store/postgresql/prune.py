"""Retention: delete expired data in small slices, found by the day of expiry. One gateway at a time does it.

The body goes first. Its row stays, empty, until the ledger row may go too, because dedupe looks back 7 days. A body
stays while a pending delivery needs it; held deliveries are cancelled (``Retention``).

A slice is a transaction beside those of the writer, so that no arrival waits for it, and so that it never waits behind
arrivals. It locks contents and visitors in the order in which accepting locks them. Of arrivals and deliveries it skips
what another transaction has locked: a person may just be replaying the arrival or redriving the delivery.
"""

from collections.abc import Mapping, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.encodings import row_bytes, split_person_keys
from usher_gateway.store.jobs import meters as job_meters
from usher_gateway.store.postgresql import meters, schema
from usher_gateway.store.postgresql.connections import Connection, Record
from usher_gateway.store.postgresql.session import PostgresSession
from usher_gateway.store.postgresql.transaction import Transaction
from usher_gateway.store.requests import LEDGER_DAYS, METER_MONTHS, MeterWalk, months_before
from usher_gateway.store.session import columns

_LEAST, _MOST = 64, 1_000
"""Bounds of a slice."""

_SLICE_SECONDS = 0.1
"""How long a slice should take: an arrival of one of its visitors waits for it."""

_METER_SLICE = 64
"""Slots of meters that a transaction walks over."""

_DAY = 86_400 * model.MICROSECONDS

_NEED_NOT_WAIT = "set local synchronous_commit = off"
"""A slice that a crash takes back is deleted again, so it need not wait for the disk or a standby."""

_EXPIRED = """
    select b.key, b.expires_day, length(b.body) length, a.received_at, a.verdicts, a.persons, a.fingerprint, a.visitor,
        a.visit_time, a.listener
    from bodies b join arrivals a on a.key = b.key
    where b.expires_day <= $1 and (b.expires_day, b.key) > ($2, $3)
    order by b.expires_day, b.key limit $4 for update of a skip locked
"""
_UNDELIVERED = "select key from deliveries where key = any($1::bigint[]) and state <> 1"
_LOCK_UNDELIVERED = """
    select key, state, hold from deliveries where key = any($1::bigint[]) and state <> 1
    order by key for update skip locked
"""
"""Lock what is pending, or what a redrive could make pending again (1: Delivered)."""

_CANCEL = """
    update deliveries set state = $2, hold = 0, cancel = $3, settled_at = $4, owner = 0
    where key = any($1::bigint[]) and state = 0 and hold > 0 returning route
"""
_MOVE = "update bodies set expires_day = $2 where key = any($1::bigint[])"
_EMPTY = """
    update bodies set body = null, content_type = null, expires_day = new.day
    from unnest($1::bigint[], $2::integer[]) as new (key, day) where bodies.key = new.key
"""
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
_FORGET = """
    with
    person as (delete from persons using unnest($3::bytea[], $4::bigint[]) as gone (person, arrival)
        where persons.person = gone.person and persons.arrival = gone.arrival),
    delivery as (delete from deliveries where key = any($2::bigint[])),
    attempt as (delete from attempts where delivery = any($2::bigint[])),
    body as (delete from bodies where key = any($1::bigint[]))
    delete from arrivals where key = any($1::bigint[])
"""
"""Delete arrivals with the rows that nothing else uses, in one statement."""

_END_ROUTES = """
    with clock (now) as (select (extract(epoch from clock_timestamp()) * 1000)::bigint)
    update routes set used_key = -((select now from clock) << 15)
    where number = any(array(select number from routes where used_key >= 0 and used_key < least(
            (select min(key) from arrivals), ((select now from clock) - $2) << 15)
        order by used_key limit $1 for update skip locked))
"""
"""Mark route definitions to which no arrival refers, by the negative key of this moment. A use takes the mark away.

A definition that was used in the last two days stays even if no arrival refers to it, because a running commit may do
so. A gateway can lose the route of an arrival only if its clock is days behind and the route was unused for as long.
"""

_FORGET_ROUTES = """
    delete from routes where number = any(array(select number from routes
        where used_key < 0 and used_key > -(((extract(epoch from clock_timestamp()) * 1000)::bigint - $2) << 15)
        order by used_key limit $1 for update skip locked))
"""
"""Delete route definitions that have had the mark for a day.

Until then all gateways have forgotten their numbers. Only then may another definition get such a number: a gateway that
remembered the old one would send its visits to another tenant's destination.
"""

_ROUTES_STAY_MILLISECONDS = 2 * 86_400_000
_NUMBERS_STAY_MILLISECONDS = 86_400_000

_decode = msgspec.msgpack.decode


class PruneWalk(msgspec.Struct):
    """How far this gateway has deleted."""

    size: int = _LEAST
    """Arrivals, or marks, that the next slice deletes."""
    after: tuple[int, int] = (0, 0)
    """Day of expiry and key of the last arrival. A search from the start would pass the index entries of all that are
    deleted, until a vacuum removes them."""
    meters: MeterWalk = msgspec.field(default_factory=MeterWalk)

    def start_over(self) -> None:
        """Begin again with a small slice, because the last one failed: it may have been too large for a time limit."""
        self.size, self.after = _LEAST, (0, 0)


def next_size(size: int, seconds: float) -> int:
    """Return the size of the next slice, because the last one took some time (pure)."""
    return max(_LEAST, min(_MOST, 2 * size, int(size * _SLICE_SECONDS / max(seconds, 0.001))))


async def prune(transaction: Transaction, now: int, months: Mapping[str, int], walk: PruneWalk) -> int:
    """Delete one slice: of bodies and ledger, else of marks, meters or routes; return the rows touched."""
    connection = transaction.connection
    if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.PRUNE_LOCK):
        return 0
    await connection.execute(_NEED_NOT_WAIT)
    await schema.set_meta(connection, "confirmed_at", str(now))
    count = await _prune_arrivals(transaction, now, walk)
    if not count:
        count = await _prune_marks(connection, now, walk.size)
    if not count:
        count = await _prune_meters(connection, now, months, walk.meters)
    if not count:
        status = await connection.execute(_END_ROUTES, walk.size, _ROUTES_STAY_MILLISECONDS)
        count = int(status.rpartition(" ")[2])
    if not count:
        status = await connection.execute(_FORGET_ROUTES, walk.size, _NUMBERS_STAY_MILLISECONDS)
        count = int(status.rpartition(" ")[2])
    if transaction.meters:
        sums = {(slot, listener, counter): count for (listener, slot, counter), count in transaction.meters.items()}
        await meters.add(connection, sums)
    return count


# Bodies, ledger rows, and the rows that belong to them


async def _prune_arrivals(transaction: Transaction, now: int, walk: PruneWalk) -> int:
    today = now // _DAY
    connection = transaction.connection
    found = await connection.fetch(_EXPIRED, today, *walk.after, walk.size)
    walk.after = (found[-1]["expires_day"], found[-1]["key"]) if len(found) == walk.size else (0, 0)
    if not found:
        return 0
    await transaction.names.load_listeners(connection, [row["listener"] for row in found])
    deliveries = await _deliveries_of(connection, found)
    needed = await _cancel_held(transaction, deliveries, now)
    later, emptied, ending = [], [], []
    for row in found:
        stays_until = row["received_at"] // _DAY + LEDGER_DAYS + 1
        if needed.intersection(deliveries[row["key"]]):
            later.append(row["key"])
        elif stays_until > today:
            _release_bytes(transaction, row)
            emptied.append((row["key"], stays_until))
        else:
            _release_bytes(transaction, row)
            ending.append(row)
    if later:
        await connection.execute(_MOVE, later, today + 1)
    if emptied:
        await connection.execute(_EMPTY, *columns(emptied, 2))
    if ending:
        await _forget(connection, ending, deliveries)
    return len(found)


async def _deliveries_of(connection: Connection, arrivals: Sequence[Record]) -> dict[int, set[int]]:
    """Return the keys of each arrival's deliveries: of its verdicts, of releases and of replays."""
    found = {row["key"]: {delivery for _, _, delivery in _decode(row["verdicts"]) if delivery} for row in arrivals}
    statement = "select arrival, key from deliveries where arrival = any($1::bigint[]) and origin > 0"
    for arrival, key in await connection.fetch(statement, list(found)):
        found[arrival].add(key)
    return found


async def _cancel_held(transaction: Transaction, deliveries: Mapping[int, set[int]], now: int) -> set[int]:
    """Cancel the held ones of some deliveries; return those that need their bodies: pending or locked."""
    keys = sorted(set().union(*deliveries.values()))
    connection = transaction.connection
    undelivered = {key for (key,) in await connection.fetch(_UNDELIVERED, keys)}
    if not undelivered:
        return undelivered
    locked = await connection.fetch(_LOCK_UNDELIVERED, sorted(undelivered))
    held = [key for key, _, hold in locked if hold]
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Retention)
    cancelled = await connection.fetch(_CANCEL, held, state, reason, now)
    await transaction.meter_routes([route for (route,) in cancelled], now, model.Counter.cancelled)
    return undelivered - {key for key, state, hold in locked if state or hold}


def _release_bytes(transaction: Transaction, row: Record) -> None:
    """Subtract the bytes of an arrival from its tenant's, once: when its body goes."""
    if row["length"] is not None:
        transaction.add_stored_bytes(row["listener"], -row["length"] - row_bytes(_decode(row["verdicts"])))


async def _forget(connection: Connection, ending: Sequence[Record], deliveries: Mapping[int, set[int]]) -> None:
    """Delete arrivals with all their rows."""
    keys = sorted(row["key"] for row in ending)
    prints = sorted((row["fingerprint"], row["key"]) for row in ending)
    await connection.execute(_FORGET_CONTENTS, *columns(prints, 2))
    await _forget_visits(connection, [(row["visitor"], row["visit_time"]) for row in ending])
    gone = sorted(set().union(*[deliveries[key] for key in keys]))
    persons = sorted((person, row["key"]) for row in ending for person in set(split_person_keys(row["persons"])))
    await connection.execute(_FORGET, keys, gone, *columns(persons, 2))


async def _forget_visits(connection: Connection, visits: Sequence[tuple[bytes, int]]) -> None:
    """Delete visit times of visitors, and the visitors of whom none is left."""
    visitors = [visitor for (visitor,) in await connection.fetch(_LOCK_VISITORS, sorted({one for one, _ in visits}))]
    status = await connection.execute(_FORGET_VISITORS, *columns(visits, 2))
    if int(status.rpartition(" ")[2]) < len(visitors):
        await connection.execute(_FORGET_TIMES, *columns(visits, 2))


# Marks and meters


async def _prune_marks(connection: Connection, now: int, size: int) -> int:
    statement = """
        delete from once_marks where mark in (select mark from once_marks where until <= $1 order by until limit $2)
    """
    return int((await connection.execute(statement, now, size)).rpartition(" ")[2])


async def _prune_meters(connection: Connection, now: int, months: Mapping[str, int], meter_walk: MeterWalk) -> int:
    """Check the next slots; return 0 only if today's walk has reached slots that all tenants keep."""
    today = now // _DAY
    if meter_walk.day != today:
        meter_walk.day = today
        meter_walk.slot = 0
    cutoffs = {
        number: months_before(now, months.get(f"{name.namespace}/{name.tenant}", METER_MONTHS))
        for number, name in (await job_meters.listener_names(PostgresSession(connection))).items()
    }
    youngest = max(cutoffs.values(), default=0)
    for _ in range(_METER_SLICE):
        statement = "select min(slot) from meters where slot > $1 and slot < $2"
        slot = await connection.fetchval(statement, meter_walk.slot, youngest)
        if slot is None:
            return 0
        meter_walk.slot = slot
        deleted = await _prune_slot(connection, slot, [number for number, cutoff in cutoffs.items() if slot < cutoff])
        if deleted >= _METER_SLICE:
            return deleted
    return 1


async def _prune_slot(connection: Connection, slot: int, listeners: list[int]) -> int:
    """Delete a slot's meters, and carry over the open deliveries at its end, so that the books still balance."""
    statement = (
        "delete from meters where slot = $1 and listener = any($2::integer[]) returning listener, counter, count"
    )
    deleted = await connection.fetch(statement, slot, listeners)
    carried: dict[tuple[int, int, int], int] = {}
    for listener, counter, count in deleted:
        key = (0, listener, int(model.Counter.carried))
        carried[key] = carried.get(key, 0) + books.OPEN_SIGNS.get(counter, 0) * count
    await meters.add(connection, {key: count for key, count in carried.items() if count})
    return len(deleted)
