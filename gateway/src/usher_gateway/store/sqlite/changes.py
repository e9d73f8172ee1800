"""Changes that people request: redrive, cancel, retry, replay, release.

Each job is a short transaction over rows with given keys. A reader selects the rows beforehand, so each job checks the
rows again before it changes them.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import listing_rows
from usher_gateway.store.base import Filter, ReplayReport
from usher_gateway.store.encodings import (
    DELIVERY_BYTES,
    FLAG_LATE,
    FLAG_RELEASED,
    FLAG_TRUSTED,
    first_hold,
    split_person_keys,
    unpack_body,
)
from usher_gateway.store.requests import ENDED, NOT_RELEASABLE, SLICE, Holds, SkippedVerdict
from usher_gateway.store.sqlite import database, listings
from usher_gateway.store.sqlite.transaction import Transaction, add_persons

_ROW = f"({','.join('?' * 19)})"
"""The placeholders of a whole row of deliveries."""

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def redrivable(connection: sqlite3.Connection, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the keys of a slice of the deliveries that a redrive selects, and the cursor of the next slice."""
    state = (where.state or "dead").lower()
    if state not in ENDED:
        raise ValueError("only dead and cancelled deliveries can be redriven")
    keys, below = listings.delivery_keys(connection, msgspec.structs.replace(where, state=state), cursor, SLICE)
    return keys, listing_rows.cursor_of(below)


def routes_of(connection: sqlite3.Connection, keys: Sequence[int]) -> set[int]:
    """Return the route numbers of deliveries."""
    return {
        route for (route,) in database.select_in(connection, "select route from deliveries where key in ({})", keys)
    }


def redrive(transaction: Transaction, keys: Sequence[int], now: int, holds: Holds) -> int:
    """Make dead or cancelled deliveries due again, or held, if they have a body and time left; return how many."""
    find = (
        "select d.route, a.flags from deliveries d join arrivals a on a.key = d.arrival"
        " join bodies b on b.key = d.arrival and b.body is not null"
        " where d.key = ?1 and d.state >= 2 and (d.expires_at = 0 or d.expires_at > ?2)"
    )
    change = (
        "update deliveries set state = 0, hold = ?1, waiting = ?1 = 0, attempts = 0, due_at = ?2, started_at = ?2,"
        " settled_at = 0, cancel = 0, status = 0, error = '', answer = null where key = ?3"
    )
    done = 0
    for key in keys:
        for route, flags in transaction.connection.execute(find, (key, now)).fetchall():
            transaction.connection.execute(change, (first_hold(flags, holds.get(route, ())), now, key))
            listener = transaction.names.listener_of_route(route)
            transaction.meter(listener, model.slot_of(now), model.Counter.redriven)
            done += 1
    return done


def pending(connection: sqlite3.Connection, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the keys of a slice of the pending deliveries that a filter selects, and the cursor of the next slice."""
    state = (where.state or "pending").lower()
    if state not in {"pending", listing_rows.HELD}:
        raise ValueError("only pending deliveries (pending, or held) can be cancelled or retried")
    keys, below = listings.delivery_keys(connection, msgspec.structs.replace(where, state=state), cursor, SLICE)
    return keys, listing_rows.cursor_of(below)


def cancel(transaction: Transaction, keys: Sequence[int], now: int) -> list[int]:
    """Cancel pending deliveries on request; return the keys of those that were still pending."""
    statement = (
        "update deliveries set state = ?, hold = 0, waiting = 0, due_at = 0, settled_at = ?, cancel = ?"
        " where key = ? and state = 0 returning route"
    )
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.OnRequest)
    cancelled: list[int] = []
    for key in keys:
        for (route,) in transaction.connection.execute(statement, (state, now, reason, key)).fetchall():
            listener = transaction.names.listener_of_route(route)
            transaction.meter(listener, model.slot_of(now), model.Counter.cancelled)
            cancelled.append(key)
    transaction.remove_claimed(cancelled)
    return cancelled


def retry(transaction: Transaction, keys: Sequence[int], now: int) -> int:
    """Make deliveries of the backlog due that wait for a later retry; return how many."""
    statement = "update deliveries set due_at = ?1 where key = ?2 and waiting = 1 and due_at > ?1"
    return sum([transaction.connection.execute(statement, (now, key)).rowcount for key in keys])


def replayable(
    connection: sqlite3.Connection, where: Filter, cursor: str | None
) -> tuple[list[SkippedVerdict], str | None]:
    """Return the skipped verdicts that a replay selects in a slice of arrivals, and the cursor of the next slice.

    Raises:
        ValueError: the reason is not a skip reason.
    """
    if where.reason is not None and where.reason not in model.SkipReason.__members__:
        raise ValueError(f"reason must be one of {', '.join(model.SkipReason.__members__)}")
    skip = model.SkipReason[where.reason] if where.reason is not None else None
    routes = listings.route_numbers(connection, None, where.route, where.destination)
    scope = listings.arrivals_scope(connection, where)
    if cursor is not None:
        scope.high = min(scope.high, listing_rows.key_of_cursor(cursor))
    keys, below = listings.newest(connection, scope, SLICE)
    found = database.rows_by_key(connection, "select key, verdicts from arrivals where key in ({})", keys)
    skipped = [
        (key, route)
        for key in sorted(found)
        for route, _, _ in listing_rows.matching_verdicts(found[key][1], routes, skip, any_skip=True)
    ]
    return skipped, listing_rows.cursor_of(below)


def replay(transaction: Transaction, skipped: Sequence[SkippedVerdict], now: int, holds: Holds) -> ReplayReport:
    """Create deliveries for skipped verdicts, once each, and only if there is a body."""
    report, made = ReplayReport(), []
    statement = (
        "select a.flags, b.body is not null,"
        " exists (select 1 from deliveries where arrival = ?1 and route = ?2 and origin > 0)"
        " from arrivals a left join bodies b on b.key = a.key where a.key = ?1"
    )
    for arrival, route in skipped:
        for flags, has_body, has_delivery in transaction.connection.execute(statement, (arrival, route)).fetchall():
            if has_delivery:
                report.replayed_before += 1
            elif not has_body:
                report.without_body += 1
            else:
                hold = first_hold(flags, holds.get(route, ()))
                made.append(_new_row(transaction, arrival, route, now, model.Origin.Replayed, hold=hold)[1])
                listener = transaction.names.listener_of_route(route)
                transaction.meter(listener, model.slot_of(now), model.Counter.replayed)
                report.replayed += 1
    database.insert_rows(transaction.connection, "insert into deliveries", _ROW, made)
    return report


def quarantined(connection: sqlite3.Connection, where: Filter, limit: int, after: int) -> list[model.Arrival]:
    """Return quarantined arrivals that can be released, oldest first (``Store.quarantined``)."""
    scope = listings.arrivals_scope(
        connection, msgspec.structs.replace(where, counted_as="Quarantined", state=listing_rows.UNRELEASED)
    )
    scope.add(f"reason not in ({','.join([str(int(reason)) for reason in NOT_RELEASABLE])})")
    if scope.keys is not None:
        scope.add_numbers("key", scope.keys)
    statement = (
        f"select key from arrivals where {scope.where} and key > ? and key >= ? and key < ?"  # noqa: S608
        " and exists (select 1 from bodies where bodies.key = arrivals.key and body is not null)"
        " order by key limit ?"
    )
    keys = connection.execute(statement, (*scope.values, after, scope.low, scope.high, limit)).fetchall()
    return [_arrival(connection, key) for (key,) in keys]


def _arrival(connection: sqlite3.Connection, key: int) -> model.Arrival:
    statement = (
        "select l.namespace, l.tenant, l.listener, received_at, visit_time, flags, fingerprint, visitor, persons,"
        " b.body, b.content_type, hops, reason, body_size from arrivals a"
        " join listeners l on l.number = a.listener join bodies b on b.key = a.key where a.key = ?"
    )
    namespace, tenant, listener, *rest = connection.execute(statement, (key,)).fetchone()
    received_at, visit_time, flags, fingerprint, visitor, packed, body, content_type, hops, reason, size = rest
    return model.Arrival(
        listener=model.ListenerName(namespace, tenant, listener),
        received_at=received_at,
        visit_time=visit_time,
        time_trusted=bool(flags & FLAG_TRUSTED),
        late=bool(flags & FLAG_LATE),
        fingerprint=fingerprint,
        visitor_key=visitor,
        person_keys=split_person_keys(packed),
        body=unpack_body(body),
        content_type=content_type or b"",
        hops=hops,
        body_days=0,
        window=0,
        redelivery=0,
        if_visit=(),
        if_repeat=(),
        quarantine=model.QuarantineReason(reason),
        body_size=size,
        key=key,
    )


def release(transaction: Transaction, arrivals: Sequence[model.Arrival], now: int) -> int:
    """Create the ``if_visit`` deliveries of quarantined arrivals, once per arrival; return how many.

    Retention may have deleted a body since the arrival was read.
    """
    made: list[database.Row] = []
    for arrival in arrivals:
        made += _release_one(transaction, arrival, now)
    database.insert_rows(transaction.connection, "insert into deliveries", _ROW, made)
    return len(made)


def _release_one(transaction: Transaction, arrival: model.Arrival, now: int) -> list[database.Row]:
    statement = (
        f"update arrivals set flags = flags | {FLAG_RELEASED} where key = ? and counted_as = 5"  # noqa: S608
        f" and flags & {FLAG_RELEASED} = 0 and reason not in (?, ?)"
        " and exists (select 1 from bodies where bodies.key = arrivals.key and body is not null) returning listener"
    )
    values = (arrival.key, *map(int, NOT_RELEASABLE))
    found = transaction.connection.execute(statement, values).fetchall()
    if not found:
        return []
    made: list[database.Row] = []
    verdicts: list[tuple[int, int, int]] = []
    for plan in arrival.if_visit:
        route = transaction.names.route(plan.route).number
        skip = plan.skip or _once_per(transaction, plan)
        if skip is not None:
            verdicts.append((route, int(skip), 0))
            continue
        hold, expires_at = int(plan.hold or 0), plan.expires_at
        key, row = _new_row(
            transaction, arrival.key, route, now, model.Origin.Released, hold=hold, expires_at=expires_at
        )
        made.append(row)
        verdicts.append((route, 0, key))
    if made:
        transaction.meter(found[0][0], model.slot_of(now), model.Counter.released, len(made))
        transaction.add_stored_bytes(found[0][0], DELIVERY_BYTES * len(made))
    _note_released(transaction, arrival, verdicts)
    return made


def _once_per(transaction: Transaction, plan: model.RoutePlan) -> model.SkipReason | None:
    """Write the mark of a once-per rule together with its delivery; return the skip reason if it exists already."""
    if not plan.once_key:
        return None
    statement = "insert or ignore into once_marks (mark, until) values (?, ?)"
    is_new = transaction.connection.execute(statement, (plan.once_key, plan.once_until)).rowcount
    return None if is_new else model.SkipReason.OncePer


def _note_released(transaction: Transaction, arrival: model.Arrival, verdicts: list[tuple[int, int, int]]) -> None:
    """Store the verdicts, and the person keys that the first reading of the body did not find."""
    connection = transaction.connection
    (packed,) = connection.execute("select persons from arrivals where key = ?", (arrival.key,)).fetchone()
    known = split_person_keys(packed)
    new = [person for person in dict.fromkeys(arrival.person_keys) if person not in known]
    connection.execute(
        "update arrivals set verdicts = ?, persons = ? where key = ?",
        (_encode(verdicts), b"".join([*known, *new]), arrival.key),
    )
    add_persons(transaction.connection, arrival.key, new)


def _new_row(
    transaction: Transaction,
    arrival: int,
    route: int,
    now: int,
    origin: model.Origin,
    *,
    hold: int = 0,
    expires_at: int = 0,
) -> tuple[int, database.Row]:
    """Return key and row of a new delivery, due at once or held."""
    key = transaction.ids.next_key()
    identifier = transaction.ids.id_of(key)
    destination = transaction.names.destination(transaction.names.definitions[route].destination)
    state = int(model.DeliveryState.Pending)
    times = (now, now, now, expires_at, 0)
    return key, (
        *(key, identifier, arrival, route, destination, state, hold, int(not hold), 0),
        *times,
        *(int(origin), 0, 0, "", None),
    )
