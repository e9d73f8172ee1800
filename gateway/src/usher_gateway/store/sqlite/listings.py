"""Pages of the ledger and of deliveries: which rows a filter means, and how they look. No body, no person key."""

import heapq
import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Filter, ListingPage
from usher_gateway.store.sqlite import walk, writer

LONGEST_PAGE = 1_000
"""Most rows of one page, whatever is asked for."""

Row = dict[str, object]

_decode = msgspec.msgpack.decode

RELEASED, UNRELEASED = "released", "unreleased"
"""States of quarantined arrivals."""

HELD = "held"
"""The part of ``pending`` that waits for a person or a date."""


def visits(connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """See the interface."""
    scope = arrivals_scope(connection, where)
    keys, below = _newest(connection, scope, cursor, limit)
    return ListingPage(_arrival_rows(connection, keys), walk.cursor_of(below))


def deliveries(connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """See the interface."""
    keys, below = delivery_keys(connection, where, cursor, limit)
    return ListingPage(_delivery_rows(connection, keys), walk.cursor_of(below))


def delivery_keys(
    connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Keys of the deliveries that a filter means, newest first, and below which key there may be more."""
    scope = deliveries_scope(connection, where)
    if where.state == HELD and scope.keys is None:
        return _newest_held(connection, scope, cursor, limit)
    return _newest(connection, scope, cursor, limit)


def _newest(
    connection: sqlite3.Connection, scope: walk.Scope, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    if cursor is not None:
        scope.high = min(scope.high, walk.key_of_cursor(cursor))
    return walk.newest(connection, scope, min(max(limit, 1), LONGEST_PAGE))


# which rows


def arrivals_scope(connection: sqlite3.Connection, where: Filter) -> walk.Scope:
    """The arrivals that a filter means.

    Raises:
        ValueError: it names what there is not.
    """
    scope = walk.Scope("arrivals", keys=_keys(where.ids))
    counted_as = _member(model.CountedAs, where.counted_as, "countedAs")
    skip = None
    if where.reason is not None:
        if where.reason in model.QuarantineReason.__members__:
            counted_as = model.CountedAs.Quarantined
            scope.add("reason = ?", int(model.QuarantineReason[where.reason]))
        else:
            skip = _member(model.SkipReason, where.reason, "reason")
    if counted_as is model.CountedAs.Quarantined:
        scope.index_terms = "counted_as = 5"
    elif counted_as is not None:
        scope.add("counted_as = ?", int(counted_as))
    if where.state is not None:
        _demand_released(scope, where.state)
    listeners = walk.listener_numbers(connection, where.namespace, where.tenant, where.listener)
    if listeners is not None:
        scope.add_numbers("listener", listeners)
    _demand_verdict(connection, scope, where, skip)
    scope.add_period(connection, "received_at", where.since, where.until)
    return scope


def _demand_released(scope: walk.Scope, state: str) -> None:
    if state not in {RELEASED, UNRELEASED}:
        raise ValueError(f"state must be {RELEASED} or {UNRELEASED}")
    scope.add(f"flags & {writer.FLAG_RELEASED} {'>' if state == RELEASED else '='} 0")


def _demand_verdict(
    connection: sqlite3.Connection, scope: walk.Scope, where: Filter, skip: model.SkipReason | None
) -> None:
    """Demand that one verdict is of a route that is meant, with a skip reason that is meant."""
    routes = walk.route_numbers(connection, None, where.route, where.destination)
    if routes is None and skip is None:
        return

    def fits(verdicts: bytes) -> bool:
        return bool(matching_verdicts(verdicts, routes, skip, any_skip=False))

    connection.create_function("verdict_fits", 1, fits, deterministic=True)
    scope.add("verdict_fits(verdicts)")


def matching_verdicts(
    verdicts: bytes, routes: set[int] | None, skip: model.SkipReason | None, *, any_skip: bool
) -> list[tuple[int, int, int]]:
    """Verdicts (route, skip reason or 0, delivery key or 0) of routes, with a skip reason (or with any)."""
    return [
        (route, skipped, delivery)
        for route, skipped, delivery in _decode(verdicts)
        if (routes is None or route in routes) and (skip is None or skipped == skip) and (not any_skip or skipped)
    ]


def deliveries_scope(connection: sqlite3.Connection, where: Filter) -> walk.Scope:
    """The deliveries that a filter means.

    Raises:
        ValueError: it names what there is not.
    """
    scope = walk.Scope("deliveries", keys=_keys(where.ids))
    if where.state == HELD:
        scope.add("hold > 0")
    elif where.state is not None:
        state = _member(model.DeliveryState, where.state, "state", HELD)
        assert state is not None
        if state >= model.DeliveryState.Dead:
            scope.index_terms = f"state >= 2 and state = {int(state)}"
        else:
            scope.add("state = ?", int(state))
    if where.reason is not None:
        _demand_delivery_reason(scope, where.reason)
    listeners = walk.listener_numbers(connection, where.namespace, where.tenant, where.listener)
    routes = walk.route_numbers(connection, listeners, where.route, where.destination)
    if routes is not None:
        scope.add_numbers("route", routes)
    scope.add_period(connection, "created_at", where.since, where.until)
    return scope


def _demand_delivery_reason(scope: walk.Scope, reason: str) -> None:
    if reason in model.HoldReason.__members__:
        scope.add("hold = ?", int(model.HoldReason[reason]))
    elif reason in model.CancelReason.__members__:
        scope.add("cancel = ?", int(model.CancelReason[reason]))
    else:
        scope.add("error = ?", reason)


def _newest_held(
    connection: sqlite3.Connection, scope: walk.Scope, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Held deliveries: merged from their groups, because their index is sorted by group."""
    high = scope.high if cursor is None else min(scope.high, walk.key_of_cursor(cursor))
    limit = min(max(limit, 1), LONGEST_PAGE)
    statement = (
        f"select key from deliveries where hold = ? and route = ? and {scope.where} and key >= ? and key < ?"  # noqa: S608
        " order by key desc limit ?"
    )
    found: list[int] = []
    for hold, route in held_pairs(connection):
        values = (hold, route, *scope.values, scope.low, high, limit + 1)
        found = heapq.nlargest(limit + 1, [*found, *[key for (key,) in connection.execute(statement, values)]])
    return found[:limit], found[limit - 1] if len(found) > limit else None


def held_pairs(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """(hold reason, route) of all held deliveries: jumps through the index from one pair to the next."""
    statement = (
        "select hold, route from deliveries where hold > 0 and (hold, route) > (?, ?) order by hold, route limit 1"
    )
    found: list[tuple[int, int]] = []
    while (row := connection.execute(statement, found[-1] if found else (0, 0)).fetchone()) is not None:
        found.append(row)
    return found


def _keys(ids: tuple[bytes, ...]) -> list[int] | None:
    return [model.key_of(identifier) for identifier in ids] if ids else None


def _member(kind: Any, name: str | None, field: str, *others: str) -> Any:
    """A member by its name, whatever the case of its first letter; None for None. ``others`` are fine too."""
    if name is None:
        return None
    found = kind.__members__.get(name[:1].upper() + name[1:])
    if found is None:
        raise ValueError(f"{field} must be one of {', '.join((*kind.__members__, *others))}")
    return found


# how rows look


def _arrival_rows(connection: sqlite3.Connection, keys: list[int]) -> list[Row]:
    statement = (
        "select a.key, a.id, a.received_at, a.visit_time, a.counted_as, a.flags, a.reason, a.hops, a.body_size,"
        " a.verdicts, l.namespace, l.tenant, l.listener,"
        " (select body is not null from bodies b where b.key = a.key)"
        " from arrivals a join listeners l on l.number = a.listener where a.key in ({})"
    )
    found = walk.columns_by_key(connection, statement, keys)
    verdicts = {key: _decode(found[key][9]) for key in found}
    names = _route_names(connection, {route for one in verdicts.values() for route, _, _ in one})
    made = [delivery for one in verdicts.values() for _, _, delivery in one if delivery]
    states = walk.columns_by_key(connection, "select key, id, state, hold from deliveries where key in ({})", made)
    return [_arrival_row(found[key], verdicts[key], names, states) for key in keys if key in found]


def _arrival_row(
    columns: tuple[Any, ...],
    verdicts: list[tuple[int, int, int]],
    names: dict[int, tuple[Any, ...]],
    states: dict[int, tuple[Any, ...]],
) -> Row:
    _, identifier, received_at, visit_time, counted_as, flags, reason, hops, size, _, *rest = columns
    namespace, tenant, listener, has_body = rest
    return {
        "id": model.format_id(identifier),
        "namespace": namespace,
        "tenant": tenant,
        "listener": listener,
        "receivedAt": model.format_time(received_at),
        "visitTime": model.format_time(visit_time),
        "timeTrusted": bool(flags & writer.FLAG_TRUSTED),
        "late": bool(flags & writer.FLAG_LATE),
        "countedAs": model.CountedAs(counted_as).name,
        "reason": model.QuarantineReason(reason).name if reason else None,
        "released": bool(flags & writer.FLAG_RELEASED),
        "unacknowledged": bool(flags & writer.FLAG_UNACKNOWLEDGED),
        "hops": hops,
        "bodyBytes": size,
        "bodyKept": bool(has_body),
        "verdicts": [_verdict_row(verdict, names, states) for verdict in verdicts],
    }


def _verdict_row(
    verdict: tuple[int, int, int], names: dict[int, tuple[Any, ...]], states: dict[int, tuple[Any, ...]]
) -> Row:
    route, skipped, delivery = verdict
    _, _, _, _, name, destination = names[route]
    row: Row = {"route": name, "destination": destination}
    if skipped:
        row["skipped"] = model.SkipReason(skipped).name
    elif delivery in states:
        _, identifier, state, hold = states[delivery]
        row["delivery"] = model.format_id(identifier)
        row["state"] = _state_word(state)
        row["held"] = model.HoldReason(hold).name if hold else None
    return row


def _delivery_rows(connection: sqlite3.Connection, keys: list[int]) -> list[Row]:
    statement = (
        "select d.key, d.id, d.route, d.state, d.hold, d.waiting, d.attempts, d.due_at, d.created_at, d.started_at,"
        " d.expires_at, d.settled_at, d.origin, d.cancel, d.status, d.error, length(d.answer), a.id"
        " from deliveries d join arrivals a on a.key = d.arrival where d.key in ({})"
    )
    found = walk.columns_by_key(connection, statement, keys)
    names = _route_names(connection, {row[2] for row in found.values()})
    return [_delivery_row(found[key], names[found[key][2]]) for key in keys if key in found]


def _delivery_row(columns: tuple[Any, ...], names: tuple[Any, ...]) -> Row:
    _, identifier, _, state, hold, waiting, attempts, due_at, created_at, started_at, *rest = columns
    expires_at, settled_at, origin, cancel, status, error, answer_bytes, arrival = rest
    _, namespace, tenant, listener, route, destination = names
    is_open = state == model.DeliveryState.Pending
    return {
        "id": model.format_id(identifier),
        "visit": model.format_id(arrival),
        "namespace": namespace,
        "tenant": tenant,
        "listener": listener,
        "route": route,
        "destination": destination,
        "state": _state_word(state),
        "held": model.HoldReason(hold).name if hold else None,
        "heldSince": model.format_time(due_at) if hold else None,
        "dueAt": model.format_time(due_at) if is_open and waiting else None,
        "attempts": attempts,
        "createdAt": model.format_time(created_at),
        "startedAt": model.format_time(started_at),
        "expiresAt": _time_or_none(expires_at),
        "settledAt": _time_or_none(settled_at),
        "origin": model.Origin(origin).name,
        "cancelled": model.CancelReason(cancel).name if cancel else None,
        "status": status or None,
        "error": error or None,
        "answerBytes": answer_bytes or 0,
    }


def _route_names(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """Number -> (number, namespace, tenant, listener, route, destination)."""
    statement = (
        "select r.number, l.namespace, l.tenant, l.listener, r.name, d.key from routes r"
        " join listeners l on l.number = r.listener join destinations d on d.number = r.destination"
        " where r.number in ({})"
    )
    return walk.columns_by_key(connection, statement, sorted(numbers))


def _state_word(state: int) -> str:
    return model.DeliveryState(state).name.lower()


def _time_or_none(instant: int) -> str | None:
    return model.format_time(instant) if instant else None


# one row's content


def body(connection: sqlite3.Connection, arrival: bytes) -> tuple[bytes, bytes]:
    """See the interface."""
    statement = (
        "select b.body, b.content_type from bodies b join arrivals a on a.key = b.key"
        " where b.key = ? and a.id = ? and b.body is not null"
    )
    row = connection.execute(statement, (model.key_of(arrival), arrival)).fetchone()
    if row is None:
        raise model.NotFoundError("no such arrival, or its body is not kept any more")
    return row[0], row[1] or b""


def answer(connection: sqlite3.Connection, delivery: bytes) -> bytes:
    """See the interface."""
    statement = "select answer from deliveries where key = ? and id = ? and answer is not null"
    row = connection.execute(statement, (model.key_of(delivery), delivery)).fetchone()
    if row is None:
        raise model.NotFoundError("no such delivery, or it has no answer")
    return bytes(row[0])
