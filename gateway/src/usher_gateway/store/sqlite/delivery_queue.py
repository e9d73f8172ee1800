"""The deliveries table as a queue: claim, settle, defer, hold and expire deliveries.

A pending delivery is claimed (in a lane or an attempt of this process), in the backlog (``waiting = 1``), or held
(``hold > 0``). The functions with a Transaction run in the writer's thread; those that move many rows move at most one
slice of 2,000, because arrivals wait for the transaction. The functions with a connection are queries.
"""

import collections
import sqlite3
from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.base import Backlog, DueDestination, HeldGroup, OpenCounts, RouteBacklog
from usher_gateway.store.books import SETTLED
from usher_gateway.store.encodings import FLAG_LATE, HOLD_FLAGS, pack_attempt, unpack_body
from usher_gateway.store.sqlite import attempt_log, database
from usher_gateway.store.sqlite.transaction import Transaction

HOLD_SLICE = 2_000
"""The most rows that one job may change."""

# Some conditions below say `hold > 0` next to `hold = ?`, because SQLite uses a partial index only if a query repeats
# the condition of the index.

_SETTLE_DELIVERED = (
    "update deliveries set state = 1, hold = 0, waiting = 0, attempts = done.column4, due_at = 0,"
    " settled_at = done.column2, cancel = 0, status = done.column5, error = '', answer = null"
    " from (values {}) done"
    " where deliveries.key = done.column1 and deliveries.state = 0 and deliveries.attempts = done.column3"
    " returning deliveries.key, deliveries.route"
)
"""Settle many successes. Columns of the values (column1 …): key, time, attempts before and after, HTTP status."""

_SETTLE_ONE = (
    "update deliveries set state = ?, hold = ?, waiting = ?, attempts = ?, due_at = ?, settled_at = ?,"
    " cancel = ?, status = ?, error = ?, answer = ? where key = ? and state = 0 and attempts = ?"
    " returning route"
)
"""Settle any outcome, if the delivery is pending with the attempts that the settlement names."""

_LOAD = (
    "select d.key, d.id, d.arrival, d.route, d.attempts, d.created_at, d.started_at, d.expires_at,"
    " a.received_at, a.visit_time, a.flags, a.hops, b.body, b.content_type from deliveries d"
    " join arrivals a on a.key = d.arrival join bodies b on b.key = d.arrival"
)
"""Load deliveries with their bodies; see _delivery()."""

_CLAIM = f"{_LOAD} where d.destination = ? and d.waiting = 1 and d.due_at <= ? order by d.due_at limit ?"
"""Load the backlog of a destination, the longest due first."""

_TAKE_FROM_BACKLOG = "update deliveries set waiting = 0 where state = 0 and hold = 0 and key in ({})"
"""Claim deliveries."""

_DEFER = (
    "update deliveries set waiting = 1, due_at = min(due_at, deferred.column2) from (values {}) deferred"
    " where key = deferred.column1 and state = 0 and hold = 0 returning key"
)
"""Return claimed deliveries to the backlog. Columns of the values: key, time."""

_LOAD_HELD = f"{_LOAD} where d.hold > 0 and d.hold = ? and d.route = ? limit ?"
"""Load deliveries of a held group."""

_TAKE_HELD = (
    "update deliveries set hold = 0, route = ?, destination = ?, started_at = started_at + max(0, ? - due_at)"
    " where key = ?"
)
"""Move a held delivery to a lane under another route; its retry clock stood still while it was held."""

_CANCEL_HELD = (
    "update deliveries set hold = 0, state = ?1, cancel = ?2, settled_at = ?3 where key in"
    " (select key from deliveries where hold > 0 and hold = ?4 and route = ?5 and due_at < ?6 limit ?7)"
)
"""Cancel a slice of a held group. The column due_at of a held delivery says since when it is held."""

_EXPIRE_HELD = (
    "update deliveries set hold = 0, state = ?1, cancel = ?2, settled_at = ?3 where key in"
    " (select key from deliveries where hold > 0 and expires_at > 0 and expires_at <= ?3"
    " order by expires_at limit ?4) returning route"
)
"""Cancel a slice of the held deliveries that are past their time limit."""

_HASTEN = (
    "update deliveries set due_at = ?1 where key in"
    " (select key from deliveries where destination = ?2 and waiting = 1 and due_at > ?1 limit ?3)"
)
"""Make a slice of a destination's backlog due."""

_DUE_DESTINATIONS = """
    with recursive found (number) as (
        select min(destination) from deliveries where waiting = 1
        union all
        select (select min(destination) from deliveries where waiting = 1 and destination > number)
        from found where number is not null
    )
    select key, (select min(due_at) from deliveries d where d.destination = found.number and waiting = 1)
    from found join destinations on destinations.number = found.number
"""
"""Jump through the index of the backlog from one destination to the next."""


# Settling


def settle(transaction: Transaction, settlements: Sequence[model.Settlement]) -> None:
    """Write outcomes, each only if its delivery is pending with the attempts that the settlement names.

    Nearly all outcomes are successes at the first attempt, and one statement settles many of them. All others, and
    deliveries with several settlements in the batch, are settled one by one in their order.
    """
    per_delivery = collections.Counter([settlement.key for settlement in settlements])
    delivered: dict[int, model.Settlement] = {}
    for settlement in settlements:
        if settlement.settled_as is model.SettledAs.Delivered and per_delivery[settlement.key] == 1:
            delivered[settlement.key] = settlement
        else:
            _settle_one(transaction, settlement)
    retried_at = [each.at for each in settlements if each.settled_as is model.SettledAs.Retry]
    if retried_at:
        transaction.note_time(max(retried_at))  # a start needs to know the clock by which they are due
    values = [
        (key, each.at, each.attempts_before, each.attempts, each.status) for key, each in sorted(delivered.items())
    ]
    found = database.select_from_values(transaction.connection, _SETTLE_DELIVERED, "(?,?,?,?,?)", values)
    records: dict[int, bytes] = {}
    for key, route in found:
        _count_settled(transaction, delivered[key], route, model.Counter.delivered)
        records[key] = pack_attempt(delivered[key])
    attempt_log.append(transaction.connection, records)


def _settle_one(transaction: Transaction, settlement: model.Settlement) -> None:
    state, counter = SETTLED[settlement.settled_as]
    in_backlog = settlement.settled_as is model.SettledAs.Retry
    held = settlement.settled_as is model.SettledAs.Held
    row = transaction.connection.execute(
        _SETTLE_ONE,
        (
            int(state),
            int(settlement.hold or 0),
            int(in_backlog),
            settlement.attempts,
            settlement.at if held else settlement.due_at,
            0 if in_backlog or held else settlement.at,
            int(settlement.cancel or 0),
            settlement.status,
            settlement.error,
            settlement.answer or None,
            settlement.key,
            settlement.attempts_before,
        ),
    ).fetchone()
    if row is not None:
        _count_settled(transaction, settlement, row[0], counter)
        if settlement.attempts > settlement.attempts_before:
            attempt_log.append(transaction.connection, {settlement.key: pack_attempt(settlement)})


def _count_settled(
    transaction: Transaction, settlement: model.Settlement, route: int, counter: model.Counter | None
) -> None:
    listener, slot = transaction.names.listener_of_route(route), model.slot_of(settlement.at)
    if counter:
        transaction.meter(listener, slot, counter)
    if settlement.attempts > settlement.attempts_before:
        transaction.meter(listener, slot, model.Counter.attempts)


# Backlog and claimed deliveries


def claim(transaction: Transaction, destination: str, limit: int, max_bytes: int, now: int) -> list[model.Delivery]:
    """Claim due deliveries of a destination from the backlog, the longest due first."""
    number = transaction.names.destination(destination)
    claimed: list[model.Delivery] = []
    size = 0
    for row in transaction.connection.execute(_CLAIM, (number, now, limit)):
        delivery = _delivery(row)
        size += len(delivery.body or b"")
        if claimed and size > max_bytes:
            break
        claimed.append(delivery)
    keys = [delivery.key for delivery in claimed]
    for _ in database.select_in(transaction.connection, _TAKE_FROM_BACKLOG, sorted(keys)):
        pass
    transaction.add_claimed(keys)
    return claimed


def defer(transaction: Transaction, keys: Sequence[int], now: int) -> None:
    """Return claimed deliveries to the backlog, due at once even if the clock was set back since they were due."""
    values = [(key, now) for key in sorted(keys)]
    for _ in database.select_from_values(transaction.connection, _DEFER, database.PAIR, values):
        pass
    transaction.remove_claimed(keys)
    transaction.note_time(now)


_HASTEN_FORBIDDEN = (
    "update deliveries set due_at = ?1 where key in"
    " (select key from deliveries where waiting = 1 and error = 'AddressForbidden' and due_at > ?1 limit ?2)"
)


def hasten_forbidden(transaction: Transaction, now: int) -> int:
    """Make a slice of the deliveries whose address was forbidden due at once; return how many changed."""
    return transaction.connection.execute(_HASTEN_FORBIDDEN, (now, HOLD_SLICE)).rowcount


def hasten(transaction: Transaction, destination: str, now: int) -> int:
    """Make a slice of a destination's backlog due at once; return how many changed."""
    values = (now, transaction.names.destination(destination), HOLD_SLICE)
    return transaction.connection.execute(_HASTEN, values).rowcount


# Held deliveries


def unhold(transaction: Transaction, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
    """Make a slice of a held group due, and move on its retry clock by the time held; return how many left the group.

    If the arrival of a delivery came with one of the reasons in ``lasting``, the delivery stays held for that reason,
    and its clock stays stopped.
    """
    flags = [(HOLD_FLAGS[reason], int(reason)) for reason in lasting]
    still_held = f"case {' '.join([f'when a.flags & {flag} then {reason}' for flag, reason in flags])} else 0 end"
    statement = (
        "update deliveries set hold = held_on, waiting = held_on = 0,"  # noqa: S608 - numbers
        " started_at = case when held_on then started_at else started_at + max(0, ?1 - due_at) end,"
        " due_at = case when held_on then due_at else ?1 end"
        f" from (select d.key as held_key, {still_held if flags else 0} as held_on from deliveries d"
        f" {'join arrivals a on a.key = d.arrival' if flags else ''}"
        " where d.hold > 0 and d.hold = ?2 and d.route = ?3 limit ?4) where key = held_key"
    )
    values = (now, int(group.reason), group.route, HOLD_SLICE)
    return transaction.connection.execute(statement, values).rowcount


def claim_held(
    transaction: Transaction, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
) -> list[model.Delivery]:
    """Claim held deliveries of a group, under another route definition."""
    found = transaction.connection.execute(_LOAD_HELD, (int(group.reason), group.route, limit))
    claimed = [_delivery(row) for row in found]
    route = transaction.names.route(definition)
    for delivery in claimed:
        delivery.route = route.number
        transaction.connection.execute(_TAKE_HELD, (route.number, route.destination, now, delivery.key))
    transaction.add_claimed([delivery.key for delivery in claimed])
    return claimed


def cancel_held(
    transaction: Transaction, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int
) -> int:
    """Cancel a slice of a held group: deliveries that are held since before an instant; return how many."""
    state = int(model.DeliveryState.Cancelled)
    values = (state, int(cancel), now, int(group.reason), group.route, held_before, HOLD_SLICE)
    count = transaction.connection.execute(_CANCEL_HELD, values).rowcount
    if count:
        listener = transaction.names.listener_of_route(group.route)
        transaction.meter(listener, model.slot_of(now), model.Counter.cancelled, count)
    return count


def expire_held(transaction: Transaction, now: int) -> int:
    """Cancel a slice of the held deliveries that are past their time limit; return how many."""
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Expired)
    expired = transaction.connection.execute(_EXPIRE_HELD, (state, reason, now, HOLD_SLICE)).fetchall()
    for (route,) in expired:
        listener = transaction.names.listener_of_route(route)
        transaction.meter(listener, model.slot_of(now), model.Counter.cancelled)
    return len(expired)


def _delivery(row: database.FoundRow) -> model.Delivery:
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
        late=bool(flags & FLAG_LATE),
        hops=hops,
        attempts=attempts,
        started_at=started_at,
        expires_at=expires_at,
        hold=None,
        body=unpack_body(body) if body is not None else None,
        content_type=content_type,
        arrival_holds=tuple([reason for reason, flag in HOLD_FLAGS.items() if flags & flag]),
    )


# Queries


def backlogs(connection: sqlite3.Connection) -> list[Backlog]:
    """Return the destinations with deliveries in the backlog, with their number."""
    backlog = "from deliveries where destination = number and waiting = 1"
    statement = f"select key, (select count(*) {backlog}), (select min(due_at) {backlog}) from destinations"  # noqa: S608
    return [Backlog(key, count, due) for key, count, due in connection.execute(statement) if count]


def due(connection: sqlite3.Connection) -> list[DueDestination]:
    """Return the destinations with deliveries in the backlog, with the time at which the first is due."""
    return [DueDestination(key, due_at) for key, due_at in connection.execute(_DUE_DESTINATIONS)]


def held_groups(connection: sqlite3.Connection) -> list[HeldGroup]:
    """Count the held deliveries by reason and route, in the index alone."""
    statement = "select hold, route, count(*) from deliveries where hold > 0 group by hold, route"
    return [HeldGroup(model.HoldReason(hold), route, count) for hold, route, count in connection.execute(statement)]


def backlog_by_route(connection: sqlite3.Connection) -> list[RouteBacklog]:
    """Count the backlog by route in the index alone. The lowest row key of a route is its oldest row."""
    counts = "select route, count(*) number, min(key) oldest from deliveries where waiting = 1 group by route"
    statement = f"select c.route, c.number, d.created_at from ({counts}) c join deliveries d on d.key = c.oldest"  # noqa: S608
    return [RouteBacklog(*row) for row in connection.execute(statement)]


def dead_by_route(connection: sqlite3.Connection) -> dict[int, int]:
    """Count the dead deliveries by route, in the index alone."""
    return dict(connection.execute("select route, count(*) from deliveries where state = 2 group by route").fetchall())


def open_counts(connection: sqlite3.Connection) -> OpenCounts:
    """Count the backlog and the held deliveries in the partial indexes alone. The lowest row key is the oldest row."""
    statement = "select count(*), min(key) from deliveries where waiting = 1"
    backlog, oldest = connection.execute(statement).fetchone()
    found = connection.execute("select hold, count(*) from deliveries where hold > 0 group by hold")
    held = {model.HoldReason(hold).name: count for hold, count in found}
    row = connection.execute("select id from deliveries where key = ?", (oldest,)).fetchone()
    return OpenCounts(backlog, held, row[0] if row else b"")
