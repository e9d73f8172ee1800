"""Retention: what may go is deleted in small slices, found by the day on which it may go, never by a scan.

A body goes first. Its row stays, empty, until the ledger row may go too: dedupe looks back 7 days. A body outlives the
pending deliveries that need it; held ones are cancelled then (``Retention``).
"""

import datetime
import sqlite3
from collections.abc import Callable, Mapping, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.sqlite import meters, persons, rows, tail, writer

LEDGER_DAYS = 8
"""The ledger is kept at least this long: dedupe looks back 7 days, in visit time and in received time."""

METER_MONTHS = 25
"""For tenants that the configuration does not name (any more)."""

_SLICE = 64
"""Arrivals (or marks, or meters' slots) of one job: arrivals wait for it."""

_DAY = 86_400 * model.MICROSECONDS

_decode = msgspec.msgpack.decode


class MeterWalk(msgspec.Struct):
    """How far the meters were looked through today; rows that stay need no second look on the same day."""

    day: int = -1
    slot: int = 0


def prune(
    now: int, months: Mapping[str, int], meter_walk: MeterWalk, touched: list[int]
) -> Callable[[writer.Writer], None]:
    """A job that deletes one slice: bodies and ledger, else marks, else meters; ``touched`` gets its rows."""

    def job(batch_writer: writer.Writer) -> None:
        count = _prune_arrivals(batch_writer, now)
        if not count:
            count = _prune_marks(batch_writer.connection, now)
        if not count:
            count = _prune_meters(batch_writer.connection, now, months, meter_walk)
        touched.append(count)

    return job


# bodies, ledger rows and what belongs to them


def _prune_arrivals(batch_writer: writer.Writer, now: int) -> int:
    today = now // _DAY
    statement = (
        "select b.key, b.body is null, a.received_at, a.verdicts, a.persons, a.fingerprint, a.visitor, a.visit_time"
        " from bodies b join arrivals a on a.key = b.key where b.expires_day <= ? order by b.expires_day, b.key limit ?"
    )
    found = batch_writer.connection.execute(statement, (today, _SLICE)).fetchall()
    ending: list[rows.Found] = []
    for row in found:
        if _body_may_go(batch_writer, row, now):
            stays_until = row[2] // _DAY + LEDGER_DAYS + 1
            if stays_until > today:
                _empty(batch_writer.connection, row[0], stays_until)
            else:
                ending.append(row)
        else:
            batch_writer.connection.execute("update bodies set expires_day = ? where key = ?", (today + 1, row[0]))
    _forget(batch_writer, ending)
    return len(found)


def _body_may_go(batch_writer: writer.Writer, row: rows.Found, now: int) -> bool:
    """Cancel what is held; False if deliveries still need the body."""
    deliveries = _deliveries_of(batch_writer.connection, row[0], row[3])
    statement = "select key, hold, route from deliveries where state = 0 and key in ({})"
    pending = list(rows.select_in(batch_writer.connection, statement, deliveries))
    held = [(key, route) for key, hold, route in pending if hold]
    for key, route in held:
        batch_writer.connection.execute(
            "update deliveries set state = ?, hold = 0, cancel = ?, settled_at = ? where key = ?",
            (int(model.DeliveryState.Cancelled), int(model.CancelReason.Retention), now, key),
        )
        listener = batch_writer.names.listener_of_route(route)
        batch_writer.meter(listener, model.slot_of(now), model.Counter.cancelled)
    return len(held) == len(pending)


def _deliveries_of(connection: sqlite3.Connection, arrival: int, verdicts: bytes) -> list[int]:
    """Keys of an arrival's deliveries: those of its verdicts, and those made later."""
    statement = "select key from deliveries where arrival = ? and origin > 0"
    extra = [key for (key,) in connection.execute(statement, (arrival,))]
    return sorted({delivery for _, _, delivery in _decode(verdicts) if delivery}.union(extra))


def _empty(connection: sqlite3.Connection, key: int, expires_day: int) -> None:
    """Delete a body, and nothing else yet."""
    statement = "update bodies set body = null, content_type = null, expires_day = ? where key = ?"
    connection.execute(statement, (expires_day, key))


def _forget(batch_writer: writer.Writer, ending: Sequence[rows.Found]) -> None:
    """Delete arrivals with all that belongs to them, once none of it is only in memory."""
    connection = batch_writer.connection
    folded = connection.execute("select value from meta where name = 'folded_to'").fetchone()
    folded_to = int(folded[0]) if folded else 0
    if any(row[0] > folded_to for row in ending):
        batch_writer.tail.fold_soon()
    for row in ending:
        if row[0] <= folded_to:
            _forget_one(connection, row)
    if ending:
        connection.execute(
            "delete from person_segments where segment = (select min(segment) from person_segments)"
            " and not exists (select 1 from arrivals where key between first_arrival and last_arrival)"
        )


def _forget_one(connection: sqlite3.Connection, row: rows.Found) -> None:
    key, _, _, verdicts, packed, fingerprint, visitor, visit_time = row
    segment = persons.segment_of(connection, key)
    for person in persons.split(packed):
        statement = "delete from persons where segment = ? and person = ? and arrival = ?"
        connection.execute(statement, (segment, person, key))
    connection.execute("delete from prints where print = ? and arrival = ?", (tail.short_key(fingerprint), key))
    connection.execute(
        "delete from sightings where visitor = ? and visit_time = ?", (tail.short_key(visitor), visit_time)
    )
    for delivery in _deliveries_of(connection, key, verdicts):
        connection.execute("delete from deliveries where key = ?", (delivery,))
    connection.execute("delete from bodies where key = ?", (key,))
    connection.execute("delete from arrivals where key = ?", (key,))


# marks and meters


def _prune_marks(connection: sqlite3.Connection, now: int) -> int:
    statement = "delete from once_marks where mark in (select mark from once_marks where until <= ? limit ?)"
    return connection.execute(statement, (now, _SLICE)).rowcount


def _prune_meters(connection: sqlite3.Connection, now: int, months: Mapping[str, int], meter_walk: MeterWalk) -> int:
    """Look through the next slots; 0 only when a day's walk has reached slots that everybody keeps."""
    today = now // _DAY
    if meter_walk.day != today:
        meter_walk.day, meter_walk.slot = today, 0
    cutoffs = {
        number: months_before(now, months.get(f"{name.namespace}/{name.tenant}", METER_MONTHS))
        for number, name in meters.listener_names(connection).items()
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


def _prune_slot(connection: sqlite3.Connection, slot: int, listeners: set[int]) -> int:
    """Delete a slot's meters; what was open at its end is carried over, so that the books still balance."""
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
    counts: list[rows.Row] = [
        (0, listener, int(model.Counter.carried), count) for listener, count in sorted(carried.items()) if count
    ]
    meters.add(connection, counts)
    return deleted


def months_before(now: int, months: int) -> int:
    """First second (UTC) of the month that lies so many whole months before the present one."""
    day = datetime.datetime.fromtimestamp(now // model.MICROSECONDS, datetime.UTC)
    month = day.year * 12 + day.month - 1 - months
    return int(datetime.datetime(month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC).timestamp())
