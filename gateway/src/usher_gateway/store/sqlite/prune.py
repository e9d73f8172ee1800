"""Retention: delete expired data in small slices, found by the day of expiry without a scan.

The body goes first. Its row stays, empty, until the ledger row may go too, because dedupe looks back 7 days. A body
stays while a pending delivery needs it; held deliveries are cancelled (``Retention``).
"""

import sqlite3
from collections.abc import Mapping, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.encodings import row_bytes, split_person_keys
from usher_gateway.store.jobs import meters as job_meters
from usher_gateway.store.requests import LEDGER_DAYS, METER_MONTHS, MeterWalk, months_before
from usher_gateway.store.session import run_to_end
from usher_gateway.store.sqlite import database, meters
from usher_gateway.store.sqlite.recent_index import short_key
from usher_gateway.store.sqlite.session import SqliteSession
from usher_gateway.store.sqlite.transaction import Transaction, segment_of

_SLICE = 64
"""Arrivals, marks or slots of meters that one job deletes; new arrivals wait for it."""

_DAY = 86_400 * model.MICROSECONDS

_decode = msgspec.msgpack.decode


def prune(transaction: Transaction, now: int, months: Mapping[str, int], meter_walk: MeterWalk) -> int:
    """Delete one slice: of bodies and ledger, else of marks, meters or routes; return the rows touched."""
    transaction.connection.execute("insert or replace into meta values ('confirmed_at', ?)", (now,))
    count = _prune_arrivals(transaction, now)
    if not count:
        count = _prune_marks(transaction.connection, now)
    if not count:
        count = _prune_meters(transaction.connection, now, months, meter_walk)
    if not count:
        count = _prune_routes(transaction)
    return count


# Bodies, ledger rows, and the rows that belong to them


def _prune_arrivals(transaction: Transaction, now: int) -> int:
    today = now // _DAY
    statement = (
        "select b.key, length(b.body), a.received_at, a.verdicts, a.persons, a.fingerprint, a.visitor, a.visit_time,"
        " a.listener"
        " from bodies b join arrivals a on a.key = b.key where b.expires_day <= ? order by b.expires_day, b.key limit ?"
    )
    found = transaction.connection.execute(statement, (today, _SLICE)).fetchall()
    ending: list[database.FoundRow] = []
    for row in found:
        if _body_may_go(transaction, row, now):
            stays_until = row[2] // _DAY + LEDGER_DAYS + 1
            if stays_until > today:
                _release_bytes(transaction, row)
                _empty(transaction.connection, row[0], stays_until)
            else:
                ending.append(row)
        else:
            transaction.connection.execute("update bodies set expires_day = ? where key = ?", (today + 1, row[0]))
    _forget(transaction, ending)
    return len(found)


def _body_may_go(transaction: Transaction, row: database.FoundRow, now: int) -> bool:
    """Cancel held deliveries; return False if other deliveries still need the body."""
    deliveries = _deliveries_of(transaction.connection, row[0], row[3])
    statement = "select key, hold, route from deliveries where state = 0 and key in ({})"
    pending = list(database.select_in(transaction.connection, statement, deliveries))
    held = [(key, route) for key, hold, route in pending if hold]
    for key, route in held:
        transaction.connection.execute(
            "update deliveries set state = ?, hold = 0, cancel = ?, settled_at = ? where key = ?",
            (int(model.DeliveryState.Cancelled), int(model.CancelReason.Retention), now, key),
        )
        listener = transaction.names.listener_of_route(route)
        transaction.meter(listener, model.slot_of(now), model.Counter.cancelled)
    return len(held) == len(pending)


def _deliveries_of(connection: sqlite3.Connection, arrival: int, verdicts: bytes) -> list[int]:
    """Return the keys of an arrival's deliveries: of its verdicts, of releases and of replays."""
    statement = "select key from deliveries where arrival = ? and origin > 0"
    extra = [key for (key,) in connection.execute(statement, (arrival,))]
    return sorted({delivery for _, _, delivery in _decode(verdicts) if delivery}.union(extra))


def _empty(connection: sqlite3.Connection, key: int, expires_day: int) -> None:
    """Delete a body, and keep its row."""
    statement = "update bodies set body = null, content_type = null, expires_day = ? where key = ?"
    connection.execute(statement, (expires_day, key))


def _release_bytes(transaction: Transaction, row: database.FoundRow) -> None:
    """Subtract the bytes of an arrival from its tenant's, once: when its body goes."""
    length, verdicts, listener = row[1], row[3], row[8]
    if length is not None:
        transaction.add_stored_bytes(listener, -length - row_bytes(_decode(verdicts)))


def _forget(transaction: Transaction, ending: Sequence[database.FoundRow]) -> None:
    """Delete arrivals with all their rows, once they are folded into the lookup tables."""
    connection = transaction.connection
    folded = connection.execute("select value from meta where name = 'folded_to'").fetchone()
    folded_to = int(folded[0]) if folded else 0
    if any(row[0] > folded_to for row in ending):
        transaction.recent_index.fold_soon()
    for row in ending:
        if row[0] <= folded_to:
            _release_bytes(transaction, row)
            _forget_one(connection, row)
    if ending:
        connection.execute(
            "delete from person_segments where segment = (select min(segment) from person_segments)"
            " and not exists (select 1 from arrivals where key between first_arrival and last_arrival)"
        )


def _forget_one(connection: sqlite3.Connection, row: database.FoundRow) -> None:
    key, _, _, verdicts, packed, fingerprint, visitor, visit_time, _ = row
    segment = segment_of(connection, key)
    for person in split_person_keys(packed):
        statement = "delete from persons where segment = ? and person = ? and arrival = ?"
        connection.execute(statement, (segment, person, key))
    connection.execute("delete from prints where print = ? and arrival = ?", (short_key(fingerprint), key))
    connection.execute("delete from sightings where visitor = ? and visit_time = ?", (short_key(visitor), visit_time))
    for delivery in _deliveries_of(connection, key, verdicts):
        connection.execute("delete from deliveries where key = ?", (delivery,))
        connection.execute("delete from attempts where delivery = ?", (delivery,))
    connection.execute("delete from bodies where key = ?", (key,))
    connection.execute("delete from arrivals where key = ?", (key,))


# Marks and meters


def _prune_marks(connection: sqlite3.Connection, now: int) -> int:
    statement = "delete from once_marks where mark in (select mark from once_marks where until <= ? limit ?)"
    return connection.execute(statement, (now, _SLICE)).rowcount


def _prune_meters(connection: sqlite3.Connection, now: int, months: Mapping[str, int], meter_walk: MeterWalk) -> int:
    """Check the next slots; return 0 only if today's walk has reached slots that all tenants keep."""
    today = now // _DAY
    if meter_walk.day != today:
        meter_walk.day = today
        meter_walk.slot = 0
    cutoffs = {
        number: months_before(now, months.get(f"{name.namespace}/{name.tenant}", METER_MONTHS))
        for number, name in run_to_end(job_meters.listener_names(SqliteSession(connection))).items()
    }
    youngest = max(cutoffs.values(), default=0)
    for _ in range(_SLICE):
        statement = "select min(slot) from meters where slot > ? and slot < ?"
        (slot,) = connection.execute(statement, (meter_walk.slot, youngest)).fetchone()
        if slot is None:
            return 0
        meter_walk.slot = slot
        deleted = _prune_slot(connection, slot, {number for number, cutoff in cutoffs.items() if slot < cutoff})
        if deleted >= _SLICE:
            return deleted
    return 1


def _prune_routes(transaction: Transaction) -> int:
    """Delete route definitions to which no arrival refers; return how many.

    The highest number stays, because SQLite would use it again.
    """
    statement = (
        "select number from routes where used_key < (select coalesce(min(key), ?) from arrivals)"
        " and number < (select max(number) from routes) limit ?"
    )
    values = (transaction.ids.last - model.KEYS_PER_DAY, _SLICE)
    transaction.deleted_routes = [number for (number,) in transaction.connection.execute(statement, values)]
    transaction.connection.executemany(
        "delete from routes where number = ?", [(number,) for number in transaction.deleted_routes]
    )
    return len(transaction.deleted_routes)


def _prune_slot(connection: sqlite3.Connection, slot: int, listeners: set[int]) -> int:
    """Delete a slot's meters, and carry over the open deliveries at its end, so that the books still balance."""
    carried: dict[int, int] = {}
    deleted = 0
    statement = "select listener, counter, count from meters where slot = ?"
    for listener, counter, count in connection.execute(statement, (slot,)).fetchall():
        if listener in listeners:
            carried[listener] = carried.get(listener, 0) + books.OPEN_SIGNS.get(counter, 0) * count
            connection.execute(
                "delete from meters where slot = ? and listener = ? and counter = ?", (slot, listener, counter)
            )
            deleted += 1
    counts: list[database.Row] = [
        (0, listener, int(model.Counter.carried), count) for listener, count in sorted(carried.items()) if count
    ]
    meters.add(connection, counts)
    return deleted
