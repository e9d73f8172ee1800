"""Pending deliveries: the backlog and the held ones, which a job claims, releases or cancels.

A pending delivery is claimed (in a lane or an attempt of its owner), in the backlog (``waiting``), or held
(``hold > 0``); the column ``due_at`` of a held one says since when. With a negative ``hold`` its next attempt evaluates
the filter first (`encodings.FILTER_HOLDS`). A job that moves many rows moves at most a slice of 2,000 and locks them in
key order, because arrivals wait for its transaction, and other gateways may move them too.

Several statements find a slice's keys in ``array(select …)``, because PostgreSQL's planner then looks up each
row by its key, whatever it thinks about the limit. Some conditions say ``hold > 0`` next to ``hold = $1``, because an
engine uses a partial index only if a query repeats the index's condition.
"""

import itertools
from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.base import HeldGroup, RouteBacklog
from usher_gateway.store.encodings import FILTER_HOLDS, FLAG_LATE, HOLD_FLAGS
from usher_gateway.store.session import Row, Session
from usher_gateway.store.transaction import SLICE_ROWS, Transaction

# Lock the backlog of a destination, the longest due first; other gateways skip these rows.
_LOCK_DUE = """
    select key from deliveries where destination = (select number from destinations where key = $1)
        and waiting and due_at <= $2
    order by due_at, route limit $3 for no key update skip locked
"""

# Load deliveries with their bodies.
_LOAD = """
    select d.key, d.id, d.arrival, d.route, d.attempts, d.created_at, d.started_at, d.expires_at,
        a.id, a.counted_as, a.received_at, a.visit_time, a.flags, a.hops, b.body, b.content_type, r.id, d.hold
    from deliveries d join arrivals a on a.key = d.arrival join bodies b on b.key = d.arrival
        left join replays r on r.key = d.replay
    where d.key = any($1::bigint[])
"""

_BODY_SIZES = """
    select d.key, length(b.body) from deliveries d join bodies b on b.key = d.arrival where d.key = any($1::bigint[])
"""

_CLAIM = "update deliveries set waiting = false, owner = $2 where key = any($1::bigint[])"

_DEFER = """
    update deliveries set waiting = true, due_at = least(due_at, $3)
    where key = any(array(select key from deliveries
        where key = any($1::bigint[]) and state = 0 and hold <= 0 and owner = $2 order by key for no key update))
"""

_CLAIMED = "select key from deliveries where state = 0 and hold <= 0 and not waiting and owner = $1"

# Find a slice of a destination's backlog that waits for a later retry.
_LATE = """
    select key from deliveries where destination = (select number from destinations where key = $1)
        and waiting and due_at > $2 order by due_at limit $3
"""

# Find a slice of the deliveries that wait because their address was forbidden.
_LATE_FORBIDDEN = """
    select key from deliveries where waiting and error = 'AddressForbidden' and due_at > $1
    order by due_at limit $2
"""

_HASTEN = """
    update deliveries set due_at = $1 where key = any(array(select key from deliveries
        where key = any($2::bigint[]) and waiting and due_at > $1 order by key for no key update))
"""

# Jump through the backlog's index from one destination to the next.
_DUE_DESTINATIONS = """
    with recursive waiting_at (number) as (
        select * from (select destination from deliveries where waiting order by destination limit 1) lowest
        union all
        select (select destination from deliveries where waiting and destination > waiting_at.number
            order by destination limit 1)
        from waiting_at where waiting_at.number is not null
    )
    select key, (select due_at from deliveries d where d.destination = waiting_at.number and waiting
        order by due_at limit 1) from waiting_at join destinations on destinations.number = waiting_at.number
"""

# Count in index order (SQLite), without sorting the whole backlog. The lowest row key of a route is its
# oldest row.
_BACKLOG_BY_ROUTE = """
    select w.route, w.number, d.created_at from (select route, count(*) as number, min(key) as oldest
        from deliveries where waiting group by route) w
    join deliveries d on d.key = w.oldest
"""

LOCK = "select key from deliveries where key = any($1::bigint[]) order by key for no key update"

_CANCEL = f"""
    update deliveries set state = $2,
        hold = case when abs(hold) in ({", ".join(map(str, FILTER_HOLDS))}) then -abs(hold) else 0 end, waiting = false,
        owner = 0, due_at = 0, settled_at = $3, cancel = $4
    where key = any($1::bigint[]) and state = 0 returning key, route
"""  # noqa: S608 - constants

# Lock deliveries of a held group that are held since before an instant.
_LOCK_HELD = """
    select key from deliveries where hold = $1 and hold > 0 and route = $2 and due_at < $3
    order by key limit $4 for no key update
"""

# Lock held deliveries that are past their time limit; other gateways skip these rows.
_LOCK_EXPIRED = """
    select key from deliveries where hold > 0 and expires_at > 0 and expires_at <= $1
    order by expires_at limit $2 for no key update skip locked
"""

_HELD_GROUPS = """
    select held.hold, held.route, held.count, oldest.due_at from (
        select hold, route, count(*) as count, min(key) as key from deliveries where hold > 0 group by hold, route
    ) held join deliveries oldest on oldest.key = held.key
"""

# Make a slice of a held group due, except deliveries that another reason still holds. Their retry clock stood still.
_UNHOLD = """
    update deliveries as d set hold = {hold}, waiting = {hold} <= 0, owner = 0,
        route = coalesce($5, d.route), destination = coalesce($6, d.destination),
        started_at = case when {hold} > 0 then started_at else started_at + greatest(0, $1 - due_at) end,
        due_at = case when {hold} > 0 then due_at else $1 end
    from arrivals a where a.key = d.arrival and d.key = any(array(select key from deliveries
        where hold = $2 and hold > 0 and route = $3 order by key limit $4 for no key update))
"""


async def claim(
    transaction: Transaction, destination: str, limit: int, max_bytes: int, now: int
) -> list[model.Delivery]:
    """Claim a destination's due deliveries from the backlog, the longest due first.

    Claims at most ``limit`` deliveries, with bodies up to ``max_bytes`` together, but at least one.
    """
    due_keys = [key for (key,) in await transaction.session.fetch(_LOCK_DUE, destination, now, limit)]
    sizes = dict(await transaction.session.fetch(_BODY_SIZES, due_keys)) if due_keys else {}
    # Load only what is claimed, because the bodies of all due deliveries may take gigabytes.
    totals = itertools.accumulate(sizes[key] or 0 for key in due_keys)
    count = sum(total <= max_bytes for total in totals) or 1
    claimed = await load(transaction.session, due_keys[:count])
    keys = sorted([delivery.key for delivery in claimed])
    if keys:
        await transaction.session.execute(_CLAIM, keys, transaction.owner)
        await transaction.load_routes([delivery.route for delivery in claimed])
    return claimed


async def load(session: Session, keys: Sequence[int]) -> list[model.Delivery]:
    """Return deliveries with their bodies, in key order."""
    rows = {row[0]: row for row in await session.fetch(_LOAD, keys)} if keys else {}
    return [_delivery(rows[key]) for key in keys]


def _delivery(row: Row) -> model.Delivery:
    key, identifier, arrival, route, attempts, created_at, started_at, expires_at, *rest = row
    visit_id, counted_as, received_at, visit_time, flags, hops, body, content_type, replay, hold = rest
    return model.Delivery(
        key=key,
        id=identifier,
        arrival=arrival,
        visit_id=visit_id,
        is_repeat=counted_as == model.CountedAs.Repeat,
        route=route,
        created_at=created_at,
        received_at=received_at,
        visit_time=visit_time,
        late=bool(flags & FLAG_LATE),
        hops=hops,
        attempts=attempts,
        started_at=started_at,
        expires_at=expires_at,
        body=body,
        content_type=content_type,
        arrival_holds=tuple([reason for reason, flag in HOLD_FLAGS.items() if flags & flag]),
        replay=replay or b"",
        filter_hold=model.HoldReason(-hold) if hold < 0 else None,
    )


async def defer(transaction: Transaction, keys: Sequence[int], now: int) -> None:
    """Return claimed deliveries to the backlog, due at once even if the clock was set back since they were due."""
    await transaction.session.execute(_DEFER, sorted(keys), transaction.owner, now)


async def claimed(session: Session, owner: int) -> list[int]:
    """Return the keys of the deliveries that an incarnation has claimed (PostgreSQL)."""
    return [key for (key,) in await session.fetch(_CLAIMED, owner)]


async def hasten(transaction: Transaction, destination: str, now: int) -> int:
    """Make a slice of a destination's backlog due at once, because its cause may be gone; return how many changed."""
    rows = await transaction.session.fetch(_LATE, destination, now, SLICE_ROWS)
    return await make_due(transaction, [key for (key,) in rows], now)


async def hasten_forbidden(transaction: Transaction, now: int) -> int:
    """Make due at once a slice of the backlog whose last attempt met a forbidden address; return how many changed."""
    rows = await transaction.session.fetch(_LATE_FORBIDDEN, now, SLICE_ROWS)
    return await make_due(transaction, [key for (key,) in rows], now)


async def make_due(transaction: Transaction, keys: Sequence[int], now: int) -> int:
    """Make deliveries due that wait in the backlog for a later retry; return how many."""
    return await transaction.session.execute(_HASTEN, now, keys)


async def due(session: Session) -> dict[str, int]:
    """Return each destination (``namespace/name``) with a backlog -> when its first delivery is due."""
    return {key: due_at for key, due_at in await session.fetch(_DUE_DESTINATIONS)}  # noqa: C416 - as in dead_by_route()


async def backlog_by_route(session: Session) -> list[RouteBacklog]:
    """Count the backlog by route."""
    return [RouteBacklog(*row) for row in await session.fetch(_BACKLOG_BY_ROUTE)]


async def dead_by_route(session: Session) -> dict[int, int]:
    """Count the dead deliveries by route, in the index alone."""
    rows = await session.fetch("select route, count(*) from deliveries where state = 2 group by route")
    return {route: count for route, count in rows}  # noqa: C416 - a row is not a tuple in every engine


async def held_groups(session: Session) -> list[HeldGroup]:
    """Count the held deliveries by reason and route, in the index alone, and look up each group's oldest."""
    rows = await session.fetch(_HELD_GROUPS)
    return [HeldGroup(model.HoldReason(hold), route, count, since) for hold, route, count, since in rows]


async def unhold(
    transaction: Transaction,
    group: HeldGroup,
    now: int,
    lasting: Sequence[model.HoldReason] = (),
    newest: model.RouteDefinition | None = None,
) -> int:
    """Make a slice of a held group due, and move on its retry clock by the time held; return how many left the group.

    The deliveries move to their route's ``newest`` definition. If a delivery's arrival came with a
    reason in ``lasting``, the delivery stays held for that reason, and its clock stays stopped. The group's own
    reason does not count, although it can hold again by now: otherwise the next slice would be the same one.
    """
    other_reasons = [reason for reason in lasting if reason is not group.reason]
    cases = [f"when a.flags & {HOLD_FLAGS[reason]} > 0 then {int(reason)}" for reason in other_reasons]
    released = -int(group.reason) if group.reason in FILTER_HOLDS else 0
    statement = _UNHOLD.format(hold=f"case {' '.join(cases)} else {released} end" if cases else str(released))
    route = transaction.route(newest) if newest is not None else None
    moved = (route.number, route.destination) if route is not None else (None, None)
    return await transaction.session.execute(statement, now, int(group.reason), group.route, SLICE_ROWS, *moved)


async def cancel(
    transaction: Transaction, keys: Sequence[int], now: int, reason: model.CancelReason = model.CancelReason.OnRequest
) -> list[int]:
    """Cancel pending deliveries; return the keys of those that were still pending."""
    await transaction.session.fetch(LOCK, keys)
    state = int(model.DeliveryState.Cancelled)
    rows = await transaction.session.fetch(_CANCEL, keys, state, now, int(reason))
    await transaction.meter_routes([route for _, route in rows], now, model.Counter.cancelled)
    return [key for key, _ in rows]


async def cancel_held(
    transaction: Transaction, group: HeldGroup, reason: model.CancelReason, held_before: int, now: int
) -> int:
    """Cancel a slice of a held group: deliveries that are held since before an instant; return how many."""
    rows = await transaction.session.fetch(_LOCK_HELD, int(group.reason), group.route, held_before, SLICE_ROWS)
    return len(await cancel(transaction, [key for (key,) in rows], now, reason))


async def expire_held(transaction: Transaction, now: int) -> int:
    """Cancel a slice of the held deliveries that are past their time limit (``Expired``); return how many."""
    rows = await transaction.session.fetch(_LOCK_EXPIRED, now, SLICE_ROWS)
    return len(await cancel(transaction, [key for (key,) in rows], now, model.CancelReason.Expired))
