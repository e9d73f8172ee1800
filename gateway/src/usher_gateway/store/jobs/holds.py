"""Held deliveries: groups of them by reason and route, which a job releases, claims or cancels.

Some conditions say ``hold > 0`` next to ``hold = $1``, because an engine uses a partial index only if a query repeats
the condition of the index. The column ``due_at`` of a held delivery says since when it is held.
"""

from collections.abc import Sequence

from usher_gateway import model
from usher_gateway.store.base import HeldGroup
from usher_gateway.store.encodings import HOLD_FLAGS
from usher_gateway.store.jobs import claims
from usher_gateway.store.session import SLICE_ROWS, Session, Transaction

_LOCK_GROUP = """
    select key from deliveries where hold = $1 and hold > 0 and route = $2
    order by key limit $3 for no key update skip locked
"""
"""Lock deliveries of a held group; other gateways skip these rows."""

_CLAIM = """
    update deliveries set hold = 0, route = $2, destination = $3, owner = $4,
        started_at = started_at + greatest(0, $5 - due_at) where key = any($1::bigint[])
"""
"""Move held deliveries to a lane under another route; their retry clock stood still while they were held."""

_CANCEL = """
    update deliveries set hold = 0, state = $1, cancel = $2, settled_at = $3, owner = 0
    where key = any(array(select key from deliveries where hold = $4 and hold > 0 and route = $5 and due_at < $6
        order by key limit $7 for no key update))
"""

_EXPIRE = """
    update deliveries set hold = 0, state = $1, cancel = $2, settled_at = $3, owner = 0
    where key = any(array(select key from deliveries where hold > 0 and expires_at > 0 and expires_at <= $3
        order by expires_at limit $4 for no key update skip locked))
    returning route
"""

_UNHOLD = """
    update deliveries as d set hold = {still_held}, waiting = {still_held} = 0, owner = 0,
        started_at = case when {still_held} > 0 then started_at else started_at + greatest(0, $1 - due_at) end,
        due_at = case when {still_held} > 0 then due_at else $1 end
    from arrivals a where a.key = d.arrival and d.key = any(array(select key from deliveries
        where hold = $2 and hold > 0 and route = $3 order by key limit $4 for no key update))
"""
"""Make a slice of a held group due, except deliveries that another reason still holds."""


async def held_groups(session: Session) -> list[HeldGroup]:
    """Count the held deliveries by reason and route, in the index alone."""
    rows = await session.fetch("select hold, route, count(*) from deliveries where hold > 0 group by hold, route")
    return [HeldGroup(model.HoldReason(hold), route, count) for hold, route, count in rows]


async def unhold(transaction: Transaction, group: HeldGroup, now: int, lasting: Sequence[model.HoldReason] = ()) -> int:
    """Make a slice of a held group due, and move on its retry clock by the time held; return how many left the group.

    If the arrival of a delivery came with one of the reasons in ``lasting``, the delivery stays held for that reason,
    and its clock stays stopped.
    """
    cases = [f"when a.flags & {HOLD_FLAGS[reason]} > 0 then {int(reason)}" for reason in lasting]
    statement = _UNHOLD.format(still_held=f"case {' '.join(cases)} else 0 end" if cases else "0")
    return await transaction.session.execute(statement, now, int(group.reason), group.route, SLICE_ROWS)


async def claim_held(
    transaction: Transaction, group: HeldGroup, definition: model.RouteDefinition, limit: int, now: int
) -> list[model.Delivery]:
    """Claim held deliveries of a group, under another route definition, which was given to the transaction."""
    session = transaction.session
    route = transaction.route(definition)
    keys = [key for (key,) in await session.fetch(_LOCK_GROUP, int(group.reason), group.route, limit)]
    claimed = await claims.load(session, keys)
    for delivery in claimed:
        delivery.route = route.number
    await transaction.keep_routes([delivery.arrival for delivery in claimed])
    await session.execute(_CLAIM, keys, route.number, route.destination, transaction.owner, now)
    transaction.add_claimed(keys)
    return claimed


async def cancel_held(
    transaction: Transaction, group: HeldGroup, cancel: model.CancelReason, held_before: int, now: int
) -> int:
    """Cancel a slice of a held group: deliveries that are held since before an instant; return how many."""
    state = int(model.DeliveryState.Cancelled)
    values = (state, int(cancel), now, int(group.reason), group.route, held_before, SLICE_ROWS)
    count = await transaction.session.execute(_CANCEL, *values)
    await transaction.meter_routes([group.route] * count, now, model.Counter.cancelled)
    return count


async def expire_held(transaction: Transaction, now: int) -> int:
    """Cancel a slice of the held deliveries that are past their time limit; return how many."""
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Expired)
    expired = await transaction.session.fetch(_EXPIRE, state, reason, now, SLICE_ROWS)
    await transaction.meter_routes([route for (route,) in expired], now, model.Counter.cancelled)
    return len(expired)
