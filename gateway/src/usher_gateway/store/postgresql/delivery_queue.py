"""The deliveries table as a queue: claim, settle, defer, hold and expire deliveries.

A pending delivery is claimed (in a lane or an attempt of its owner), in the backlog (``waiting``), or held
(``hold > 0``). A settlement takes effect only if its incarnation still owns the delivery. The functions with a
Transaction move at most one slice of 2,000 rows and lock them in the order of their keys; the others are queries.

Several statements find the keys of a slice in ``array(select …)``, because the planner then looks up each row by its
key, whatever it thinks about the limit.
"""

from collections.abc import Sequence
from typing import Any

from usher_gateway import model
from usher_gateway.store.base import Backlog, DueDestination, HeldGroup, OpenCounts, RouteBacklog
from usher_gateway.store.books import SETTLED
from usher_gateway.store.encodings import ATTEMPTS_BYTES, FLAG_LATE, HOLD_FLAGS, pack_attempt, unpack_body
from usher_gateway.store.postgresql.connections import Connection, Record
from usher_gateway.store.postgresql.transaction import Transaction, columns

HOLD_SLICE = 2_000
"""The most rows that one job may change."""

_SETTLE = """
    with new as (select * from unnest($1::bigint[], $2::integer[], $3::smallint[], $4::smallint[], $5::boolean[],
        $6::integer[], $7::bigint[], $8::bigint[], $9::smallint[], $10::smallint[], $11::text[], $12::bytea[])
        as new (key, before, state, hold, waiting, attempts, due_at, settled_at, cancel, status, error, answer)),
    own as materialized (select key from deliveries
        where key = any($1::bigint[]) and owner = $13 order by key for no key update)
    update deliveries d set state = new.state, hold = new.hold, waiting = new.waiting, attempts = new.attempts,
        due_at = new.due_at, settled_at = new.settled_at, cancel = new.cancel, status = new.status, error = new.error,
        answer = new.answer
    from own join new on new.key = own.key
    where d.key = own.key and d.state = 0 and d.attempts = new.before and d.owner = $13
    returning d.key, d.route
"""
"""Settle deliveries, if they are pending with the attempts that the settlements name, and still this gateway's."""

_APPEND_ATTEMPTS = f"""
    insert into attempts as old select * from unnest($1::bigint[], $2::bytea[])
    on conflict (delivery) do update set log = substring(old.log || excluded.log
        from greatest(1, length(old.log) + length(excluded.log) - {ATTEMPTS_BYTES} + 1))
"""  # noqa: S608 - a number

_LOADED = """
    d.key, d.id, d.arrival, d.route, d.attempts, d.created_at, d.started_at, d.expires_at,
    a.received_at, a.visit_time, a.flags, a.hops, b.body, b.content_type
"""
"""The columns of _delivery()."""

_LOCK_DUE = """
    select key from deliveries where destination = (select number from destinations where key = $1)
        and waiting and due_at <= $2
    order by due_at, route limit $3 for no key update skip locked
"""
"""Lock the backlog of a destination, the longest due first; other gateways skip these rows."""

_LOAD = f"""
    select {_LOADED} from deliveries d join arrivals a on a.key = d.arrival join bodies b on b.key = d.arrival
    where d.key = any($1::bigint[])
"""  # noqa: S608 - columns
"""Load deliveries with their bodies."""

_TAKE = "update deliveries set waiting = false, owner = $2 where key = any($1::bigint[])"
"""Claim deliveries."""

_DEFER = """
    update deliveries d set waiting = true, due_at = least(due_at, $3)
    from (select key from deliveries where key = any($1::bigint[]) and state = 0 and hold = 0 and owner = $2
        order by key for no key update) own
    where d.key = own.key
"""
"""Return claimed deliveries to the backlog."""

_LOCK_HELD = """
    select key from deliveries where hold = $1 and hold > 0 and route = $2
    order by key limit $3 for no key update skip locked
"""
"""Lock deliveries of a held group; other gateways skip these rows."""

_TAKE_HELD = """
    update deliveries set hold = 0, route = $2, destination = $3, owner = $4,
        started_at = started_at + greatest(0, $5 - due_at) where key = any($1::bigint[])
"""
"""Move held deliveries to a lane under another route; their retry clock stood still while they were held."""

_CANCEL_HELD = """
    update deliveries set hold = 0, state = $1, cancel = $2, settled_at = $3, owner = 0
    where key = any(array(select key from deliveries where hold = $4 and hold > 0 and route = $5 and due_at < $6
        order by key limit $7 for no key update))
"""
"""Cancel a slice of a held group. The column due_at of a held delivery says since when it is held."""

_EXPIRE_HELD = """
    update deliveries set hold = 0, state = $1, cancel = $2, settled_at = $3, owner = 0
    where key = any(array(select key from deliveries where hold > 0 and expires_at > 0 and expires_at <= $3
        order by expires_at limit $4 for no key update skip locked))
    returning route
"""
"""Cancel a slice of the held deliveries that are past their time limit."""

_LATE = """
    select key from deliveries where destination = (select number from destinations where key = $1)
        and waiting and due_at > $2 order by due_at limit $3
"""
"""Find a slice of a destination's backlog that waits for a later retry."""

_LATE_FORBIDDEN = """
    select key from deliveries where waiting and error = 'AddressForbidden' and due_at > $1
    order by due_at limit $2
"""
"""Find a slice of the deliveries that wait because their address was forbidden."""

_HASTEN = """
    update deliveries set due_at = $1 where key = any(array(select key from deliveries
        where key = any($2::bigint[]) and waiting and due_at > $1 order by key for no key update))
"""
"""Make deliveries of the backlog due."""

_UNHOLD = """
    with held as materialized (select key from deliveries where hold = $2 and hold > 0 and route = $3
        order by key limit $4 for no key update)
    update deliveries d set hold = {still_held}, waiting = {still_held} = 0, owner = 0,
        started_at = case when {still_held} > 0 then started_at else started_at + greatest(0, $1 - due_at) end,
        due_at = case when {still_held} > 0 then due_at else $1 end
    from arrivals a where a.key = d.arrival and d.key = any(array(select key from held))
"""
"""Make a slice of a held group due, except deliveries that another reason still holds."""

_DUE_DESTINATIONS = """
    with recursive found (number) as (
        (select destination from deliveries where waiting order by destination limit 1)
        union all
        select (select destination from deliveries where waiting and destination > found.number
            order by destination limit 1)
        from found where found.number is not null
    )
    select key, (select due_at from deliveries d where d.destination = found.number and waiting
        order by due_at limit 1) from found join destinations on destinations.number = found.number
"""
"""Jump through the index of the backlog from one destination to the next."""


# Settling


async def settle(transaction: Transaction, settlements: Sequence[model.Settlement]) -> None:
    """Write outcomes. A delivery with several settlements in the batch is settled in several rounds, in their order."""
    rounds: list[dict[int, model.Settlement]] = []
    seen: dict[int, int] = {}
    for settlement in settlements:
        number = seen.get(settlement.key, 0)
        seen[settlement.key] = number + 1
        if number == len(rounds):
            rounds.append({})
        rounds[number][settlement.key] = settlement
    for one in rounds:
        await _settle_round(transaction, one)
    waiting = [one.at for one in settlements if one.settled_as is model.SettledAs.Retry]
    if waiting:
        transaction.note_time(max(waiting))  # a start needs to know the clock by which they are due


async def _settle_round(transaction: Transaction, settlements: dict[int, model.Settlement]) -> None:
    rows = [_outcome(settlements[key]) for key in sorted(settlements)]
    found = await transaction.connection.fetch(_SETTLE, *columns(rows, 12), transaction.incarnation)
    logs: list[tuple[int, bytes]] = []
    for key, route in found:
        settlement = settlements[key]
        counter = SETTLED[settlement.settled_as][1]
        if counter:
            await transaction.meter_routes([route], settlement.at, counter)
        if settlement.attempts > settlement.attempts_before:
            await transaction.meter_routes([route], settlement.at, model.Counter.attempts)
            logs.append((key, pack_attempt(settlement)))
    if logs:
        await transaction.connection.execute(_APPEND_ATTEMPTS, *columns(sorted(logs), 2))


def _outcome(settlement: model.Settlement) -> tuple[object, ...]:
    in_backlog = settlement.settled_as is model.SettledAs.Retry
    held = settlement.settled_as is model.SettledAs.Held
    return (
        settlement.key,
        settlement.attempts_before,
        int(SETTLED[settlement.settled_as][0]),
        int(settlement.hold or 0),
        in_backlog,
        settlement.attempts,
        settlement.at if held else settlement.due_at,
        0 if in_backlog or held else settlement.at,
        int(settlement.cancel or 0),
        settlement.status,
        settlement.error,
        settlement.answer or None,
    )


# Backlog and claimed deliveries


async def claim(
    transaction: Transaction, destination: str, limit: int, max_bytes: int, now: int
) -> list[model.Delivery]:
    """Claim due deliveries of a destination from the backlog, the longest due first."""
    claimed: list[model.Delivery] = []
    size = 0
    for delivery in await _load(transaction, await transaction.connection.fetch(_LOCK_DUE, destination, now, limit)):
        size += len(delivery.body or b"")
        if claimed and size > max_bytes:
            break
        claimed.append(delivery)
    if claimed:
        keys = sorted(delivery.key for delivery in claimed)
        await transaction.connection.execute(_TAKE, keys, transaction.incarnation)
        routes = [delivery.route for delivery in claimed]
        await transaction.names.load_routes(transaction.connection, routes)
    return claimed


async def _load(transaction: Transaction, rows: Sequence[Record]) -> list[model.Delivery]:
    """Load the deliveries with the keys in some rows, in their order."""
    keys = [key for (key,) in rows]
    found = {row[0]: row for row in await transaction.connection.fetch(_LOAD, keys)} if keys else {}
    return [_delivery(found[key]) for key in keys]


async def defer(transaction: Transaction, keys: Sequence[int], now: int) -> None:
    """Return claimed deliveries to the backlog, due at once even if the clock was set back since they were due."""
    await transaction.connection.execute(_DEFER, sorted(keys), transaction.incarnation, now)
    transaction.note_time(now)


async def hasten(transaction: Transaction, destination: str, now: int) -> int:
    """Make a slice of a destination's backlog due at once; return how many changed."""
    found = await transaction.connection.fetch(_LATE, destination, now, HOLD_SLICE)
    return _count(await transaction.connection.execute(_HASTEN, now, [key for (key,) in found]))


async def hasten_forbidden(transaction: Transaction, now: int) -> int:
    """Make a slice of the deliveries whose address was forbidden due at once; return how many changed."""
    found = await transaction.connection.fetch(_LATE_FORBIDDEN, now, HOLD_SLICE)
    return _count(await transaction.connection.execute(_HASTEN, now, [key for (key,) in found]))


def _count(status: str) -> int:
    """Return the number of rows in a command's status, such as ``UPDATE 3``."""
    return int(status.rpartition(" ")[2])


# Held deliveries


async def unhold(transaction: Transaction, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
    """Make a slice of a held group due, and move on its retry clock by the time held; return how many left the group.

    If the arrival of a delivery came with one of the reasons in ``lasting``, the delivery stays held for that reason,
    and its clock stays stopped.
    """
    cases = [f"when a.flags & {HOLD_FLAGS[reason]} > 0 then {int(reason)}" for reason in lasting]
    statement = _UNHOLD.format(still_held=f"case {' '.join(cases)} else 0 end" if cases else "0")
    values = (now, int(group.reason), group.route, HOLD_SLICE)
    return _count(await transaction.connection.execute(statement, *values))


async def claim_held(
    transaction: Transaction, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
) -> list[model.Delivery]:
    """Claim held deliveries of a group, under another route definition, which was prepared."""
    route = transaction.route(definition)
    rows = await transaction.connection.fetch(_LOCK_HELD, int(group.reason), group.route, limit)
    claimed = await _load(transaction, rows)
    for delivery in claimed:
        delivery.route = route.number
    await transaction.keep_routes([delivery.arrival for delivery in claimed])
    keys = [delivery.key for delivery in claimed]
    values = (keys, route.number, route.destination, transaction.incarnation, now)
    await transaction.connection.execute(_TAKE_HELD, *values)
    return claimed


async def cancel_held(
    transaction: Transaction, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int
) -> int:
    """Cancel a slice of a held group: deliveries that are held since before an instant; return how many."""
    state = int(model.DeliveryState.Cancelled)
    values = (state, int(cancel), now, int(group.reason), group.route, held_before, HOLD_SLICE)
    count = _count(await transaction.connection.execute(_CANCEL_HELD, *values))
    await transaction.meter_routes([group.route] * count, now, model.Counter.cancelled)
    return count


async def expire_held(transaction: Transaction, now: int) -> int:
    """Cancel a slice of the held deliveries that are past their time limit; return how many."""
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Expired)
    expired = await transaction.connection.fetch(_EXPIRE_HELD, state, reason, now, HOLD_SLICE)
    await transaction.meter_routes([route for (route,) in expired], now, model.Counter.cancelled)
    return len(expired)


def _delivery(row: Record) -> model.Delivery:
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


async def backlogs(connection: Connection) -> list[Backlog]:
    """Return the destinations with deliveries in the backlog, with their number."""
    statement = """
        select d.key, w.number, w.due_at from (select destination, count(*) number, min(due_at) due_at
            from deliveries where waiting group by destination) w
        join destinations d on d.number = w.destination
    """
    return [Backlog(key, count, due_at) for key, count, due_at in await connection.fetch(statement)]


async def due(connection: Connection) -> list[DueDestination]:
    """Return the destinations with deliveries in the backlog, with the time at which the first is due."""
    return [DueDestination(key, due_at) for key, due_at in await connection.fetch(_DUE_DESTINATIONS)]


async def held_groups(connection: Connection) -> list[HeldGroup]:
    """Count the held deliveries by reason and route."""
    statement = "select hold, route, count(*) from deliveries where hold > 0 group by hold, route"
    found: list[Any] = await connection.fetch(statement)
    return [HeldGroup(model.HoldReason(hold), route, count) for hold, route, count in found]


async def backlog_by_route(connection: Connection) -> list[RouteBacklog]:
    """Count the backlog by route."""
    statement = "select route, count(*), min(created_at) from deliveries where waiting group by route"
    return [RouteBacklog(*row) for row in await connection.fetch(statement)]


async def dead_by_route(connection: Connection) -> dict[int, int]:
    """Count the dead deliveries by route."""
    found: list[Any] = await connection.fetch("select route, count(*) from deliveries where state = 2 group by route")
    return dict(found)


async def open_counts(connection: Connection) -> OpenCounts:
    """Count the backlog and the held deliveries. The lowest row key is the oldest row."""
    count, oldest = await connection.fetchrow("select count(*), min(key) from deliveries where waiting")
    found: list[Any] = await connection.fetch("select hold, count(*) from deliveries where hold > 0 group by hold")
    held = {model.HoldReason(hold).name: number for hold, number in found}
    identifier = await connection.fetchval("select id from deliveries where key = $1", oldest)
    return OpenCounts(count, held, identifier or b"")
