"""Rows of listings as JSON, their cursors, and the names in filters. Pure."""

import base64
import binascii
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.encodings import FLAG_LATE, FLAG_RELEASED, FLAG_TRUSTED, FLAG_UNACKNOWLEDGED

JSONRow = dict[str, object]

LONGEST_PAGE = 1_000
"""The most rows of one page, whatever the caller asks for."""

RELEASED, UNRELEASED = "released", "unreleased"
"""States of quarantined arrivals."""

HELD = "held"
"""The state of pending deliveries that wait for a cause to end."""

PAGE_SECONDS = 1.5
"""A page ends after this time, with the rows found so far and a cursor."""

SLACK = 60 * model.MICROSECONDS
"""Instants of neighbouring rows may be out of order by the time that an arrival waits for its commit."""

_decode = msgspec.msgpack.decode


def arrival_row(
    columns: tuple[Any, ...],
    verdicts: list[tuple[int, int, int]],
    names: dict[int, tuple[Any, ...]],
    states: dict[int, tuple[Any, ...]],
    replays: dict[tuple[int, int], tuple[Any, ...]],
) -> JSONRow:
    """Return an arrival as JSON.

    Args:
        columns: key, id, received_at, visit_time, counted_as, flags, reason, hops, body_size, verdicts, namespace,
            tenant, listener, has_body.
        verdicts: (route, skip reason or 0, delivery key or 0).
        names: route -> (route, namespace, tenant, listener, route's name, destination).
        states: delivery -> (key, id, state, hold).
        replays: (arrival, route) -> (arrival, route, id, state, hold, created_at).
    """
    key, identifier, received_at, visit_time, counted_as, flags, reason, hops, size, _, *rest = columns
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
        "verdicts": [_verdict_row(verdict, names, states, replays.get((key, verdict[0]))) for verdict in verdicts],
    }


def _verdict_row(
    verdict: tuple[int, int, int],
    names: dict[int, tuple[Any, ...]],
    states: dict[int, tuple[Any, ...]],
    replay: tuple[Any, ...] | None,
) -> JSONRow:
    route, skipped, delivery = verdict
    _, _, _, _, name, destination = names[route]
    row: JSONRow = {"route": name, "destination": destination}
    if skipped:
        row["skipped"] = model.SkipReason(skipped).name
        if replay is not None:
            _, _, identifier, state, hold, created_at = replay
            row["replayed"] = model.format_time(created_at)
            row["delivery"] = model.format_id(identifier)
            row["state"] = _state_name(state)
            row["held"] = model.HoldReason(hold).name if hold else None
    elif delivery in states:
        _, identifier, state, hold = states[delivery]
        row["delivery"] = model.format_id(identifier)
        row["state"] = _state_name(state)
        row["held"] = model.HoldReason(hold).name if hold else None
    return row


def delivery_row(columns: tuple[Any, ...], names: tuple[Any, ...]) -> JSONRow:
    """Return a delivery as JSON.

    Args:
        columns: key, id, route, state, hold, waiting, attempts, due_at, created_at, started_at, expires_at,
            settled_at, origin, cancel, status, error, length of the answer, id of the arrival.
        names: (route, namespace, tenant, listener, route's name, destination).
    """
    _, identifier, _, state, hold, in_backlog, attempts, due_at, created_at, started_at, *rest = columns
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
        "dueAt": model.format_time(due_at) if is_open and in_backlog else None,
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


def _state_name(state: int) -> str:
    return model.DeliveryState(state).name.lower()


def _time_or_none(instant: int) -> str | None:
    return model.format_time(instant) if instant else None


def matching_verdicts(
    verdicts: bytes, routes: set[int] | None, skip: model.SkipReason | None, *, any_skip: bool
) -> list[tuple[int, int, int]]:
    """Return the verdicts (route, skip reason or 0, delivery key or 0) with one of the routes and the skip reason.

    None selects any route or reason; ``any_skip`` leaves out verdicts that created a delivery.
    """
    return [
        (route, skipped, delivery)
        for route, skipped, delivery in _decode(verdicts)
        if (routes is None or route in routes) and (skip is None or skipped == skip) and (not any_skip or skipped)
    ]


def member(kind: Any, name: str | None, field: str, *others: str) -> Any:
    """Return a member by its name, with either case of its first letter; None for None. The message adds ``others``."""
    if name is None:
        return None
    chosen = kind.__members__.get(name[:1].upper() + name[1:])
    if chosen is None:
        raise ValueError(f"{field} must be one of {', '.join((*kind.__members__, *others))}")
    return chosen


def cursor_of(key: int | None) -> str | None:
    """Return a row key as a cursor (opaque text)."""
    return None if key is None else base64.urlsafe_b64encode(key.to_bytes(8)).decode().rstrip("=")


def key_of_cursor(cursor: str) -> int:
    """Return the row key of a cursor.

    Raises:
        ValueError: the cursor is invalid.
    """
    try:
        packed = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the cursor is not one of this gateway") from error
    if len(packed) != 8:
        raise ValueError("the cursor is not one of this gateway")
    return int.from_bytes(packed)
