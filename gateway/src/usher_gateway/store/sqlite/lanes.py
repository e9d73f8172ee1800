"""Jobs that move deliveries between the backlog, the lanes of this process, and holds. The writer's thread only."""

from collections.abc import Callable, Sequence

from usher_gateway import model
from usher_gateway.store.base import HeldGroup
from usher_gateway.store.sqlite import accepting, rows, writer

HOLD_SLICE = 2_000
"""Rows that one job may change: a transaction must stay short, because arrivals wait for it."""

# `hold > 0` stands beside `hold = ?` below, because SQLite uses a partial index only where its very condition is asked.

_COLUMNS = (
    "d.key, d.id, d.arrival, d.route, d.attempts, d.created_at, d.started_at, d.expires_at,"
    " a.received_at, a.visit_time, a.flags, a.hops, b.body, b.content_type"
)


def claim(
    destination: str, limit: int, max_bytes: int, now: int, found: list[model.Delivery]
) -> Callable[[writer.Writer], None]:
    """A job that takes due deliveries of a destination out of the backlog into ``found``, oldest due first."""

    def job(batch_writer: writer.Writer) -> None:
        number = batch_writer.names.destination(destination)
        statement = (
            f"select {_COLUMNS} from deliveries d"  # noqa: S608 - constants
            " join arrivals a on a.key = d.arrival join bodies b on b.key = d.arrival"
            " where d.destination = ? and d.waiting = 1 and d.due_at <= ? order by d.due_at limit ?"
        )
        size = 0
        for row in batch_writer.connection.execute(statement, (number, now, limit)):
            delivery = _delivery(row)
            size += len(delivery.body or b"")
            if found and size > max_bytes:
                break
            found.append(delivery)
        _set_waiting(batch_writer, [delivery.key for delivery in found], waiting=0)

    return job


def defer(keys: Sequence[int]) -> Callable[[writer.Writer], None]:
    """A job that gives deliveries of this process's lanes back to the backlog, due at once."""

    def job(batch_writer: writer.Writer) -> None:
        _set_waiting(batch_writer, list(keys), waiting=1)

    return job


def unhold(
    group: HeldGroup, now: int, changed: list[int], lasting: Sequence[model.HoldReason] = ()
) -> Callable[[writer.Writer], None]:
    """A job that makes a slice of a held group due; the clock of retrying stood still meanwhile.

    What another reason holds, one that its arrival brought with it, is held by that: its clock stands still on.
    """
    flags = [(accepting.HOLD_FLAGS[reason], int(reason)) for reason in lasting]
    held_on = f"case {' '.join([f'when a.flags & {flag} then {reason}' for flag, reason in flags])} else 0 end"
    statement = (
        "update deliveries set hold = held_on, waiting = held_on = 0,"  # noqa: S608 - numbers
        " started_at = case when held_on then started_at else started_at + max(0, ?1 - due_at) end,"
        " due_at = case when held_on then due_at else ?1 end"
        f" from (select d.key as held_key, {held_on if flags else 0} as held_on from deliveries d"
        f" {'join arrivals a on a.key = d.arrival' if flags else ''}"
        " where d.hold > 0 and d.hold = ?2 and d.route = ?3 limit ?4) where key = held_key"
    )

    def job(batch_writer: writer.Writer) -> None:
        values = (now, int(group.reason), group.route, HOLD_SLICE)
        changed.append(batch_writer.connection.execute(statement, values).rowcount)

    return job


def cancel_held(
    group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int, changed: list[int]
) -> Callable[[writer.Writer], None]:
    """A job that cancels a slice of a held group: those held since before an instant."""

    def job(batch_writer: writer.Writer) -> None:
        statement = (
            "update deliveries set hold = 0, state = ?1, cancel = ?2, settled_at = ?3 where key in"
            " (select key from deliveries where hold > 0 and hold = ?4 and route = ?5 and due_at < ?6 limit ?7)"
        )
        state = int(model.DeliveryState.Cancelled)
        values = (state, int(cancel), now, int(group.reason), group.route, held_before, HOLD_SLICE)
        count = batch_writer.connection.execute(statement, values).rowcount
        if count:
            listener = batch_writer.names.listener_of_route(group.route)
            batch_writer.meter(listener, model.slot_of(now), model.Counter.cancelled, count)
        changed.append(count)

    return job


def expire_held(now: int, changed: list[int]) -> Callable[[writer.Writer], None]:
    """A job that cancels a slice of the held deliveries whose time limit is over."""

    def job(batch_writer: writer.Writer) -> None:
        statement = (
            "update deliveries set hold = 0, state = ?1, cancel = ?2, settled_at = ?3 where key in"
            " (select key from deliveries where hold > 0 and expires_at > 0 and expires_at <= ?3"
            " order by expires_at limit ?4) returning route"
        )
        state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Expired)
        expired = batch_writer.connection.execute(statement, (state, reason, now, HOLD_SLICE)).fetchall()
        for (route,) in expired:
            listener = batch_writer.names.listener_of_route(route)
            batch_writer.meter(listener, model.slot_of(now), model.Counter.cancelled)
        changed.append(len(expired))

    return job


def claim_held(
    group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int, found: list[model.Delivery]
) -> Callable[[writer.Writer], None]:
    """A job that takes held deliveries of a group into ``found``, as deliveries of another route definition."""

    def job(batch_writer: writer.Writer) -> None:
        statement = (
            f"select {_COLUMNS} from deliveries d"  # noqa: S608 - constants
            " join arrivals a on a.key = d.arrival join bodies b on b.key = d.arrival"
            " where d.hold > 0 and d.hold = ? and d.route = ? limit ?"
        )
        values = (int(group.reason), group.route, limit)
        found.extend(_delivery(row) for row in batch_writer.connection.execute(statement, values))
        route = batch_writer.names.route(definition)
        statement = (
            "update deliveries set hold = 0, route = ?, destination = ?, started_at = started_at + max(0, ? - due_at)"
            " where key = ?"
        )
        for delivery in found:
            delivery.route = route.number
            batch_writer.connection.execute(statement, (route.number, route.destination, now, delivery.key))
        batch_writer.lend([delivery.key for delivery in found])

    return job


def note(now: int) -> Callable[[writer.Writer], None]:
    """A job that notes what a start needs: how old the oldest delivery in a lane is, and what time it is."""

    def job(batch_writer: writer.Writer) -> None:
        batch_writer.raise_lanes_from()
        batch_writer.note_time(now)

    return job


def hasten(destination: str, now: int, changed: list[int]) -> Callable[[writer.Writer], None]:
    """A job that makes a slice of a destination's backlog due at once."""

    def job(batch_writer: writer.Writer) -> None:
        statement = (
            "update deliveries set due_at = ?1 where key in"
            " (select key from deliveries where destination = ?2 and waiting = 1 and due_at > ?1 limit ?3)"
        )
        values = (now, batch_writer.names.destination(destination), HOLD_SLICE)
        changed.append(batch_writer.connection.execute(statement, values).rowcount)

    return job


def _set_waiting(batch_writer: writer.Writer, keys: list[int], waiting: int) -> None:
    statement = f"update deliveries set waiting = {waiting} where state = 0 and hold = 0 and key in ({{}})"  # noqa: S608 - 0 or 1
    for _ in rows.select_in(batch_writer.connection, statement, sorted(keys)):
        pass
    if waiting:
        batch_writer.take_back(keys)
    else:
        batch_writer.lend(keys)


def _delivery(row: rows.Found) -> model.Delivery:
    key, identifier, arrival, route, attempts, created_at, started_at, expires_at, *rest = row
    received_at, visit_time, flags, hops, body, content_type = rest
    return model.Delivery(
        key=key,
        id=identifier,
        arrival=arrival,
        route=route,
        created_at=created_at,
        received_at=received_at,
        visit_time=visit_time,
        late=bool(flags & writer.FLAG_LATE),
        hops=hops,
        attempts=attempts,
        started_at=started_at,
        expires_at=expires_at,
        hold=None,
        body=body,
        content_type=content_type,
        arrival_holds=tuple([reason for reason, flag in accepting.HOLD_FLAGS.items() if flags & flag]),
    )
