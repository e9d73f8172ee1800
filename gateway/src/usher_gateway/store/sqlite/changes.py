"""Changes that people request: redrive, cancel, retry, replay, release.

Each job is a short transaction over rows with given keys. A reader selects the rows beforehand, so each job checks the
rows again before it changes them.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store import listing_rows
from usher_gateway.store.base import Change, Filter, ReplayReport
from usher_gateway.store.encodings import (
    DELIVERY_BYTES,
    FLAG_LATE,
    FLAG_RELEASED,
    FLAG_TRUSTED,
    first_hold,
    split_person_keys,
    unpack_body,
)
from usher_gateway.store.requests import (
    ENDED,
    NOT_RELEASABLE,
    SLICE,
    Holds,
    OnceMarks,
    ReplayCandidate,
    SkippedVerdict,
    choose_replays,
    reason_name,
)
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


_CHANGEABLE: Mapping[Change, str] = {
    "redrive": "state >= 2 and (expires_at = 0 or expires_at > :now)"
    " and exists (select 1 from bodies b where b.key = d.arrival and b.body is not null)",
    "cancel": "state = 0",
    "retry": "waiting = 1 and due_at > :now",
}
"""The conditions of redrive(), cancel() and retry()."""


def count_changeable(connection: sqlite3.Connection, change: Change, keys: Sequence[int], now: int) -> Counter[str]:
    """Count by reason the deliveries with given keys that a change would change."""
    statement = f"select hold, cancel, error from deliveries d where d.key = :key and {_CHANGEABLE[change]}"  # noqa: S608
    rows = [row for key in keys for row in connection.execute(statement, {"key": key, "now": now})]
    return Counter([reason_name(*row) for row in rows])


def replayable(
    connection: sqlite3.Connection, where: Filter, cursor: str | None, reasons: Collection[model.SkipReason]
) -> tuple[list[SkippedVerdict], str | None]:
    """Return the skipped verdicts that a replay selects in a slice of arrivals, and the cursor of the next slice."""
    routes = listings.route_numbers(connection, None, where.route, where.destination)
    scope = listings.arrivals_scope(connection, where)
    if cursor is not None:
        scope.high = min(scope.high, listing_rows.key_of_cursor(cursor))
    keys, below = listings.newest(connection, scope, SLICE)
    found = database.rows_by_key(connection, "select key, verdicts from arrivals where key in ({})", keys)
    skipped = [
        (key, route, reason)
        for key in sorted(found)
        for route, reason, _ in listing_rows.matching_verdicts(found[key][1], routes, None, any_skip=True)
        if reason in reasons
    ]
    return skipped, listing_rows.cursor_of(below)


def stored_arrivals(connection: sqlite3.Connection, keys: Collection[int]) -> list[model.Arrival]:
    """Return the arrivals with given keys that have a body, without plans."""
    return [arrival for key in sorted(keys) if (arrival := _arrival(connection, key)) is not None]


def preview_replay(
    connection: sqlite3.Connection, skipped: Sequence[SkippedVerdict], marks: OnceMarks, taken: set[bytes]
) -> ReplayReport:
    """Count what replay() would do. ``taken``: the marks of earlier slices."""
    report = ReplayReport()
    taken |= _existing_marks(connection, marks)
    choose_replays(_candidates(connection, skipped), marks, taken, report)
    return report


def replay(
    transaction: Transaction, skipped: Sequence[SkippedVerdict], now: int, holds: Holds, marks: OnceMarks
) -> ReplayReport:
    """Create deliveries for skipped verdicts, once each, and only if there is a body."""
    report, made = ReplayReport(), []
    connection = transaction.connection
    candidates = _candidates(connection, skipped)
    for chosen in choose_replays(candidates, marks, _existing_marks(connection, marks), report):
        hold = first_hold(chosen.flags, holds.get(chosen.route, ()))
        made.append(_new_row(transaction, chosen.arrival, chosen.route, now, model.Origin.Replayed, hold=hold)[1])
        listener = transaction.names.listener_of_route(chosen.route)
        transaction.meter(listener, model.slot_of(now), model.Counter.replayed)
        _add_mark(transaction, *marks.get((chosen.arrival, chosen.route), (b"", 0)))
    database.insert_rows(connection, "insert into deliveries", _ROW, made)
    return report


def _candidates(connection: sqlite3.Connection, skipped: Sequence[SkippedVerdict]) -> list[ReplayCandidate]:
    statement = (
        "select a.flags, b.body is not null,"
        " exists (select 1 from deliveries where arrival = ?1 and route = ?2 and origin > 0)"
        " from arrivals a left join bodies b on b.key = a.key where a.key = ?1"
    )
    return [
        ReplayCandidate(arrival, route, reason, flags, bool(has_body), bool(is_replayed))
        for arrival, route, reason in skipped
        for flags, has_body, is_replayed in connection.execute(statement, (arrival, route)).fetchall()
    ]


def _existing_marks(connection: sqlite3.Connection, marks: OnceMarks) -> set[bytes]:
    keys = sorted({mark for mark, _ in marks.values()})
    return {mark for (mark,) in database.select_in(connection, "select mark from once_marks where mark in ({})", keys)}


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
    return stored_arrivals(connection, [key for (key,) in keys])


def _arrival(connection: sqlite3.Connection, key: int) -> model.Arrival | None:
    statement = (
        "select l.namespace, l.tenant, l.listener, received_at, visit_time, flags, fingerprint, visitor, persons,"
        " b.body, b.content_type, hops, reason, body_size from arrivals a"
        " join listeners l on l.number = a.listener"
        " join bodies b on b.key = a.key and b.body is not null where a.key = ?"
    )
    row = connection.execute(statement, (key,)).fetchone()
    if row is None:
        return None
    namespace, tenant, listener, *rest = row
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
        quarantine=model.QuarantineReason(reason) if reason else None,
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
    if not plan.once_key or _add_mark(transaction, plan.once_key, plan.once_until):
        return None
    return model.SkipReason.OncePer


def _add_mark(transaction: Transaction, mark: bytes, until: int) -> bool:
    """Write the mark of a once-per rule, if there is a rule; return whether the mark is new."""
    statement = "insert or ignore into once_marks (mark, until) values (?, ?)"
    return bool(mark and transaction.connection.execute(statement, (mark, until)).rowcount)


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
