"""Jobs that a person asks for: redrive, replay, release. Each is a short transaction over rows named by their keys.

What is meant was looked up beside the writer; so each job looks again at the rows themselves before it changes them.
"""

import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Filter
from usher_gateway.store.sqlite import listings, persons, rows, walk, writer

_ROW = f"({','.join('?' * 19)})"
"""How a whole row of deliveries is spelled."""

SLICE = 100
"""Deliveries that one job makes or changes: arrivals wait for it (docs/performance.md)."""

Job = Callable[[writer.Writer], None]

Skipped = tuple[int, int]
"""(arrival, route number) of a skipped verdict."""

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode

_ENDED = frozenset({model.DeliveryState.Dead.name.lower(), model.DeliveryState.Cancelled.name.lower()})
_NOT_RELEASABLE = (model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable)


def redrivable(connection: sqlite3.Connection, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Keys of deliveries that a redrive means, a slice of them, and where the next slice starts."""
    state = (where.state or "dead").lower()
    if state not in _ENDED:
        raise ValueError("only dead and cancelled deliveries can be redriven")
    keys, below = listings.delivery_keys(connection, msgspec.structs.replace(where, state=state), cursor, SLICE)
    return keys, walk.cursor_of(below)


def redrive(keys: Sequence[int], now: int, changed: list[int]) -> Job:
    """A job that makes dead or cancelled deliveries due again, where there is a body and time left."""

    def job(batch_writer: writer.Writer) -> None:
        statement = (
            "update deliveries set state = 0, hold = 0, waiting = 1, attempts = 0, due_at = ?1, started_at = ?1,"
            " settled_at = 0, cancel = 0, status = 0, error = '', answer = null"
            " where key = ?2 and state >= 2 and (expires_at = 0 or expires_at > ?1)"
            " and exists (select 1 from bodies where bodies.key = arrival and body is not null) returning route"
        )
        done = 0
        for key in keys:
            for (route,) in batch_writer.connection.execute(statement, (now, key)).fetchall():
                listener = batch_writer.names.listener_of_route(route)
                batch_writer.meter(listener, model.slot_of(now), model.Counter.redriven)
                done += 1
        changed.append(done)

    return job


def replayable(connection: sqlite3.Connection, where: Filter, cursor: str | None) -> tuple[list[Skipped], str | None]:
    """Skipped verdicts that a replay means, of a slice of arrivals, and where the next slice starts.

    Raises:
        ValueError: the reason is no skip reason.
    """
    if where.reason is not None and where.reason not in model.SkipReason.__members__:
        raise ValueError(f"reason must be one of {', '.join(model.SkipReason.__members__)}")
    skip = model.SkipReason[where.reason] if where.reason is not None else None
    routes = walk.route_numbers(connection, None, where.route, where.destination)
    scope = listings.arrivals_scope(connection, where)
    if cursor is not None:
        scope.high = min(scope.high, walk.key_of_cursor(cursor))
    keys, below = walk.newest(connection, scope, SLICE)
    found = walk.columns_by_key(connection, "select key, verdicts from arrivals where key in ({})", keys)
    skipped = [
        (key, route)
        for key in sorted(found)
        for route, _, _ in listings.matching_verdicts(found[key][1], routes, skip, any_skip=True)
    ]
    return skipped, walk.cursor_of(below)


def replay(skipped: Sequence[Skipped], now: int, changed: list[int]) -> Job:
    """A job that makes deliveries of skipped verdicts: once each, and only where there is a body."""

    def job(batch_writer: writer.Writer) -> None:
        made = []
        statement = (
            "select exists (select 1 from bodies where key = ?1 and body is not null) and not exists"
            " (select 1 from deliveries where arrival = ?1 and route = ?2 and origin > 0)"
        )
        for arrival, route in skipped:
            (is_wanted,) = batch_writer.connection.execute(statement, (arrival, route)).fetchone()
            if is_wanted:
                made.append(_new_row(batch_writer, arrival, route, now)[1])
                listener = batch_writer.names.listener_of_route(route)
                batch_writer.meter(listener, model.slot_of(now), model.Counter.replayed)
        rows.insert(batch_writer.connection, "insert into deliveries", _ROW, made)
        changed.append(len(made))

    return job


def quarantined(connection: sqlite3.Connection, where: Filter, limit: int, after: int) -> list[model.Arrival]:
    """See the interface."""
    scope = listings.arrivals_scope(
        connection, msgspec.structs.replace(where, counted_as="Quarantined", state=listings.UNRELEASED)
    )
    scope.add(f"reason not in ({','.join([str(int(reason)) for reason in _NOT_RELEASABLE])})")
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
        time_trusted=bool(flags & writer.FLAG_TRUSTED),
        late=bool(flags & writer.FLAG_LATE),
        fingerprint=fingerprint,
        visitor_key=visitor,
        person_keys=persons.split(packed),
        body=body,
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


def release(arrivals: Sequence[model.Arrival], now: int, changed: list[int]) -> Job:
    """A job that makes the ``if_visit`` deliveries of quarantined arrivals, once."""

    def job(batch_writer: writer.Writer) -> None:
        made: list[rows.Row] = []
        for arrival in arrivals:
            made += _release_one(batch_writer, arrival, now)
        rows.insert(batch_writer.connection, "insert into deliveries", _ROW, made)
        changed.append(len(made))

    return job


def _release_one(batch_writer: writer.Writer, arrival: model.Arrival, now: int) -> list[rows.Row]:
    statement = (
        f"update arrivals set flags = flags | {writer.FLAG_RELEASED} where key = ? and counted_as = 5"  # noqa: S608
        f" and flags & {writer.FLAG_RELEASED} = 0 and reason not in (?, ?) returning listener"
    )
    values = (arrival.key, *map(int, _NOT_RELEASABLE))
    found = batch_writer.connection.execute(statement, values).fetchall()
    if not found:
        return []
    made: list[rows.Row] = []
    verdicts: list[tuple[int, int, int]] = []
    for plan in arrival.if_visit:
        route = batch_writer.names.route(plan.route).number
        skip = plan.skip or _once_per(batch_writer, plan)
        if skip is not None:
            verdicts.append((route, int(skip), 0))
            continue
        key, row = _new_row(batch_writer, arrival.key, route, now, plan)
        made.append(row)
        verdicts.append((route, 0, key))
    if made:
        batch_writer.meter(found[0][0], model.slot_of(now), model.Counter.released, len(made))
    _note_released(batch_writer, arrival, verdicts)
    return made


def _once_per(batch_writer: writer.Writer, plan: model.RoutePlan) -> model.SkipReason | None:
    """The mark of a once-per rule, written together with its delivery."""
    if not plan.once_key:
        return None
    statement = "insert or ignore into once_marks (mark, until) values (?, ?)"
    is_new = batch_writer.connection.execute(statement, (plan.once_key, plan.once_until)).rowcount
    return None if is_new else model.SkipReason.OncePer


def _note_released(batch_writer: writer.Writer, arrival: model.Arrival, verdicts: list[tuple[int, int, int]]) -> None:
    """Keep the verdicts, and the persons that were not understood before."""
    connection = batch_writer.connection
    (packed,) = connection.execute("select persons from arrivals where key = ?", (arrival.key,)).fetchone()
    known = persons.split(packed)
    new = [person for person in dict.fromkeys(arrival.person_keys) if person not in known]
    connection.execute(
        "update arrivals set verdicts = ?, persons = ? where key = ?",
        (_encode(verdicts), b"".join([*known, *new]), arrival.key),
    )
    persons.add(batch_writer, arrival.key, new)


def _new_row(
    batch_writer: writer.Writer, arrival: int, route: int, now: int, plan: model.RoutePlan | None = None
) -> tuple[int, rows.Row]:
    """Key and row of a delivery that goes to the backlog: released with a plan (that may hold it), or replayed."""
    key = batch_writer.ids.next_key()
    identifier = batch_writer.ids.id_of(key)
    destination = batch_writer.names.destination(batch_writer.names.definitions[route].destination)
    hold = int(plan.hold or 0) if plan is not None else 0
    expires_at = plan.expires_at if plan is not None else 0
    origin = model.Origin.Replayed if plan is None else model.Origin.Released
    state = int(model.DeliveryState.Pending)
    times = (now, now, now, expires_at, 0)
    return key, (
        *(key, identifier, arrival, route, destination, state, hold, int(not hold), 0),
        *times,
        *(int(origin), 0, 0, "", None),
    )
