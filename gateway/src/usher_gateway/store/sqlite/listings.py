"""Listings: pages of the ledger and of the deliveries as JSON, one body or answer, and the arrivals of a person.

Listings contain no bodies and no person keys.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Filter, ListingPage
from usher_gateway.store.sqlite import database, filters
from usher_gateway.store.sqlite.transaction import (
    FLAG_LATE,
    FLAG_RELEASED,
    FLAG_TRUSTED,
    FLAG_UNACKNOWLEDGED,
    persons_folded_to,
    split_person_keys,
)

JSONRow = dict[str, object]

_decode = msgspec.msgpack.decode


def visits(connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """See the interface."""
    scope = filters.arrivals_scope(connection, where)
    keys, below = filters.newest_page(connection, scope, cursor, limit)
    return ListingPage(_arrival_rows(connection, keys), filters.cursor_of(below))


def deliveries(connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """See the interface."""
    keys, below = filters.delivery_keys(connection, where, cursor, limit)
    return ListingPage(_delivery_rows(connection, keys), filters.cursor_of(below))


def _arrival_rows(connection: sqlite3.Connection, keys: list[int]) -> list[JSONRow]:
    statement = (
        "select a.key, a.id, a.received_at, a.visit_time, a.counted_as, a.flags, a.reason, a.hops, a.body_size,"
        " a.verdicts, l.namespace, l.tenant, l.listener,"
        " (select body is not null from bodies b where b.key = a.key)"
        " from arrivals a join listeners l on l.number = a.listener where a.key in ({})"
    )
    found = database.rows_by_key(connection, statement, keys)
    verdicts = {key: _decode(found[key][9]) for key in found}
    names = _route_names(connection, {route for one in verdicts.values() for route, _, _ in one})
    made = [delivery for one in verdicts.values() for _, _, delivery in one if delivery]
    states = database.rows_by_key(connection, "select key, id, state, hold from deliveries where key in ({})", made)
    return [_arrival_row(found[key], verdicts[key], names, states) for key in keys if key in found]


def _arrival_row(
    columns: tuple[Any, ...],
    verdicts: list[tuple[int, int, int]],
    names: dict[int, tuple[Any, ...]],
    states: dict[int, tuple[Any, ...]],
) -> JSONRow:
    _, identifier, received_at, visit_time, counted_as, flags, reason, hops, size, _, *rest = columns
    namespace, tenant, listener, has_body = rest
    return {
        "id": model.format_id(identifier),
        "namespace": namespace,
        "tenant": tenant,
        "listener": listener,
        "receivedAt": model.format_time(received_at),
        "visitTime": model.format_time(visit_time),
        "timeTrusted": bool(flags & FLAG_TRUSTED),
        "late": bool(flags & FLAG_LATE),
        "countedAs": model.CountedAs(counted_as).name,
        "reason": model.QuarantineReason(reason).name if reason else None,
        "released": bool(flags & FLAG_RELEASED),
        "unacknowledged": bool(flags & FLAG_UNACKNOWLEDGED),
        "hops": hops,
        "bodyBytes": size,
        "bodyKept": bool(has_body),
        "verdicts": [_verdict_row(verdict, names, states) for verdict in verdicts],
    }


def _verdict_row(
    verdict: tuple[int, int, int], names: dict[int, tuple[Any, ...]], states: dict[int, tuple[Any, ...]]
) -> JSONRow:
    route, skipped, delivery = verdict
    _, _, _, _, name, destination = names[route]
    row: JSONRow = {"route": name, "destination": destination}
    if skipped:
        row["skipped"] = model.SkipReason(skipped).name
    elif delivery in states:
        _, identifier, state, hold = states[delivery]
        row["delivery"] = model.format_id(identifier)
        row["state"] = _state_name(state)
        row["held"] = model.HoldReason(hold).name if hold else None
    return row


def _delivery_rows(connection: sqlite3.Connection, keys: list[int]) -> list[JSONRow]:
    statement = (
        "select d.key, d.id, d.route, d.state, d.hold, d.waiting, d.attempts, d.due_at, d.created_at, d.started_at,"
        " d.expires_at, d.settled_at, d.origin, d.cancel, d.status, d.error, length(d.answer), a.id"
        " from deliveries d join arrivals a on a.key = d.arrival where d.key in ({})"
    )
    found = database.rows_by_key(connection, statement, keys)
    names = _route_names(connection, {row[2] for row in found.values()})
    return [_delivery_row(found[key], names[found[key][2]]) for key in keys if key in found]


def _delivery_row(columns: tuple[Any, ...], names: tuple[Any, ...]) -> JSONRow:
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
        "state": _state_name(state),
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
    """Return number -> (number, namespace, tenant, listener, route, destination)."""
    statement = (
        "select r.number, l.namespace, l.tenant, l.listener, r.name, d.key from routes r"
        " join listeners l on l.number = r.listener join destinations d on d.number = r.destination"
        " where r.number in ({})"
    )
    return database.rows_by_key(connection, statement, sorted(numbers))


def _state_name(state: int) -> str:
    return model.DeliveryState(state).name.lower()


def _time_or_none(instant: int) -> str | None:
    return model.format_time(instant) if instant else None


# One row's content


def body(connection: sqlite3.Connection, arrival: bytes) -> tuple[bytes, bytes]:
    """See the interface."""
    statement = (
        "select b.body, b.content_type from bodies b join arrivals a on a.key = b.key"
        " where b.key = ? and a.id = ? and b.body is not null"
    )
    row = connection.execute(statement, (model.key_of(arrival), arrival)).fetchone()
    if row is None:
        raise model.NotFoundError("there is no such arrival, or its body was deleted")
    return row[0], row[1] or b""


def answer(connection: sqlite3.Connection, delivery: bytes) -> bytes:
    """See the interface."""
    statement = "select answer from deliveries where key = ? and id = ? and answer is not null"
    row = connection.execute(statement, (model.key_of(delivery), delivery)).fetchone()
    if row is None:
        raise model.NotFoundError("there is no such delivery, or it has no answer")
    return bytes(row[0])


# Persons


def arrivals_of_person(connection: sqlite3.Connection, keys: Sequence[bytes]) -> set[int]:
    """Return the row keys of arrivals with one of the person keys, from all segments and from the newest arrivals."""
    statement = "select p.arrival from person_segments s join persons p on p.segment = s.segment where p.person = ?"
    found = {arrival for key in keys for (arrival,) in connection.execute(statement, (key,))}
    wanted = set(keys)
    newest = connection.execute("select key, persons from arrivals where key > ?", (persons_folded_to(connection),))
    return found | {arrival for arrival, packed in newest if wanted.intersection(split_person_keys(packed))}


def person_ids(
    connection: sqlite3.Connection, arrivals: set[int], tenant: tuple[str, str], keys: Sequence[bytes]
) -> list[bytes]:
    """Return the ids of those arrivals that belong to a tenant (namespace, name) and have one of the keys.

    arrivals_of_person() searches all tenants, so this checks each row again. The newest arrival comes first.
    """
    numbers = filters.listener_numbers(connection, *tenant, None) or set()
    statement = "select key, id, listener, persons from arrivals where key in ({})"
    found = database.rows_by_key(connection, statement, list(arrivals))
    wanted = set(keys)
    return [
        found[key][1]
        for key in sorted(found, reverse=True)
        if found[key][2] in numbers and wanted.intersection(split_person_keys(found[key][3]))
    ]
