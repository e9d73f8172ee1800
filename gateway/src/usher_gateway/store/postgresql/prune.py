"""Retention: delete expired data in small slices, found by the day of expiry. One gateway at a time does it.

The body goes first. Its row stays, empty, until the ledger row may go too, because dedupe looks back 7 days. A body
stays while a pending delivery needs it; held deliveries are cancelled (``Retention``).
"""

from collections.abc import Mapping, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.encodings import row_bytes, split_person_keys
from usher_gateway.store.postgresql import meters, schema
from usher_gateway.store.postgresql.connections import Connection, Record
from usher_gateway.store.postgresql.transaction import Transaction, columns
from usher_gateway.store.requests import LEDGER_DAYS, METER_MONTHS, MeterWalk, months_before

_SLICE = 64
"""Arrivals, marks or slots of meters that one job deletes; new arrivals wait for it."""

_DAY = 86_400 * model.MICROSECONDS

_EXPIRED = """
    select b.key, length(b.body) length, a.received_at, a.verdicts, a.persons, a.fingerprint, a.visitor, a.visit_time,
        a.listener
    from bodies b join arrivals a on a.key = b.key where b.expires_day <= $1 order by b.expires_day, b.key limit $2
"""
_CANCEL = """
    update deliveries set state = $2, hold = 0, cancel = $3, settled_at = $4, owner = 0
    where key = any($1::bigint[]) and state = 0 and hold > 0 returning key, route
"""
_MOVE = "update bodies set expires_day = $2 where key = any($1::bigint[])"
_EMPTY = """
    update bodies set body = null, content_type = null, expires_day = new.day
    from unnest($1::bigint[], $2::integer[]) as new (key, day) where bodies.key = new.key
"""
_FORGET_TIMES = """
    update sightings set times = array_remove(times, gone.time)
    from (select visitor, time from unnest($1::bytea[], $2::bigint[]) as one (visitor, time) order by visitor) gone
    where sightings.visitor = gone.visitor
"""

_decode = msgspec.msgpack.decode


async def prune(transaction: Transaction, now: int, months: Mapping[str, int], meter_walk: MeterWalk) -> int:
    """Delete one slice: of bodies and ledger, else of marks, else of meters; return the rows touched."""
    connection = transaction.connection
    if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.PRUNE_LOCK):
        return 0
    await schema.set_meta(connection, "confirmed_at", str(now))
    count = await _prune_arrivals(transaction, now)
    if not count:
        count = await _prune_marks(connection, now)
    if not count:
        count = await _prune_meters(connection, now, months, meter_walk)
    return count


# Bodies, ledger rows, and the rows that belong to them


async def _prune_arrivals(transaction: Transaction, now: int) -> int:
    today = now // _DAY
    connection = transaction.connection
    found = await connection.fetch(_EXPIRED, today, _SLICE)
    if not found:
        return 0
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
    """Cancel the held ones of some deliveries; return those of the others that are pending."""
    keys = sorted(set().union(*deliveries.values()))
    connection = transaction.connection
    statement = "select key, hold from deliveries where key = any($1::bigint[]) and state = 0 order by key for update"
    pending = await connection.fetch(statement, keys)
    held = [key for key, hold in pending if hold]
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Retention)
    cancelled = await connection.fetch(_CANCEL, held, state, reason, now)
    await transaction.names.load_routes(connection, [route for _, route in cancelled])
    for _, route in cancelled:
        listener = transaction.names.listener_of_route(route)
        transaction.meter(listener, model.slot_of(now), model.Counter.cancelled)
    return {key for key, hold in pending if not hold}


def _release_bytes(transaction: Transaction, row: Record) -> None:
    """Subtract the bytes of an arrival from its tenant's, once: when its body goes."""
    if row["length"] is not None:
        transaction.add_stored_bytes(row["listener"], -row["length"] - row_bytes(_decode(row["verdicts"])))


async def _forget(connection: Connection, ending: Sequence[Record], deliveries: Mapping[int, set[int]]) -> None:
    """Delete arrivals with all their rows. Keys are locked in the order in which accepting locks them."""
    keys = [row["key"] for row in ending]
    prints = sorted((row["fingerprint"], row["key"]) for row in ending)
    statement = """
        delete from prints using unnest($1::bytea[], $2::bigint[]) as gone (fingerprint, arrival)
        where prints.fingerprint = gone.fingerprint and prints.arrival = gone.arrival
    """
    await connection.execute(statement, *columns(prints, 2))
    for visitor, time in sorted((row["visitor"], row["visit_time"]) for row in ending):
        await connection.execute(_FORGET_TIMES, [visitor], [time])
    visitors = sorted({row["visitor"] for row in ending})
    await connection.execute("delete from sightings where visitor = any($1::bytea[]) and times = '{}'", visitors)
    persons = sorted({person for row in ending for person in split_person_keys(row["persons"])})
    statement = "delete from persons where person = any($1::bytea[]) and arrival = any($2::bigint[])"
    await connection.execute(statement, persons, keys)
    gone = sorted(set().union(*[deliveries[key] for key in keys]))
    await connection.execute("delete from deliveries where key = any($1::bigint[])", gone)
    await connection.execute("delete from attempts where delivery = any($1::bigint[])", gone)
    await connection.execute("delete from bodies where key = any($1::bigint[])", keys)
    await connection.execute("delete from arrivals where key = any($1::bigint[])", keys)


# Marks and meters


async def _prune_marks(connection: Connection, now: int) -> int:
    statement = """
        delete from once_marks where mark in (select mark from once_marks where until <= $1 order by until limit $2)
    """
    return int((await connection.execute(statement, now, _SLICE)).rpartition(" ")[2])


async def _prune_meters(connection: Connection, now: int, months: Mapping[str, int], meter_walk: MeterWalk) -> int:
    """Check the next slots; return 0 only if today's walk has reached slots that all tenants keep."""
    today = now // _DAY
    if meter_walk.day != today:
        meter_walk.day = today
        meter_walk.slot = 0
    cutoffs = {
        number: months_before(now, months.get(f"{name.namespace}/{name.tenant}", METER_MONTHS))
        for number, name in (await meters.listener_names(connection)).items()
    }
    youngest = max(cutoffs.values(), default=0)
    for _ in range(_SLICE):
        statement = "select min(slot) from meters where slot > $1 and slot < $2"
        slot = await connection.fetchval(statement, meter_walk.slot, youngest)
        if slot is None:
            return 0
        meter_walk.slot = slot
        deleted = await _prune_slot(connection, slot, [number for number, cutoff in cutoffs.items() if slot < cutoff])
        if deleted >= _SLICE:
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
