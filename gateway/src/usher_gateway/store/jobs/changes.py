"""Changes that people request: redrive, cancel, retry, release.

Each job is a short transaction over rows with given keys. A query selects the rows beforehand, so each job locks the
rows in key order and checks them again before it changes them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import UNRELEASED, Change, Filter
from usher_gateway.store.encodings import (
    DELIVERY_BYTES,
    FLAG_RELEASED,
    first_hold,
    split_person_keys,
)
from usher_gateway.store.jobs import claims, creation, scopes, suppressions
from usher_gateway.store.session import Session, Statement, columns
from usher_gateway.store.transaction import Transaction

SLICE = 100  # Deliveries that one job creates or changes; arrivals wait for it

# Route number -> the reasons that hold its deliveries now (`store.base.HoldsOf`).
Holds = dict[int, Sequence[model.HoldReason]]

_NOT_RELEASABLE = (model.QuarantineReason.Truncated, model.QuarantineReason.Unstorable)

# It is the newest delivery of its route for the visit, for a dead one apart from cancelled ones.
_NOT_REPLAYED = """not exists (
    select 1 from deliveries n
    where n.origin > 0 and n.arrival = d.arrival and n.route = d.route and n.key > d.key
    and (n.state < 3 or d.state = 3)
)"""

_REDRIVABLE = f"""
    select d.key, d.route, a.flags, d.arrival, d.id, d.hold from deliveries d join arrivals a on a.key = d.arrival
    join bodies b on b.key = d.arrival and b.body is not null
    where d.key = any($1::bigint[]) and d.state = $3 and (d.expires_at = 0 or d.expires_at > $2)
    and {_NOT_REPLAYED} order by d.key
"""  # noqa: S608 - constants
_REDRIVE = """
    update deliveries as d set state = 0, hold = new.hold, waiting = new.hold <= 0, owner = 0, attempts = 0,
        due_at = $3, started_at = $3, settled_at = 0, cancel = 0, status = 0, error = '', answer = null
    from unnest($1::bigint[], $2::smallint[]) as new (key, hold) where d.key = new.key
"""
# The conditions of redrive(), cancel() and retry().
_CHANGEABLE: Mapping[Change, str] = {
    "redrive": f"""state >= 2 and (expires_at = 0 or expires_at > $2)
        and exists (select 1 from bodies b where b.key = d.arrival and b.body is not null) and {_NOT_REPLAYED}""",  # noqa: S608
    "cancel": "state = 0 and $2::bigint is not null",
    "retry": "waiting and due_at > $2",
}

DELETE_MARKS = "delete from once_marks where mark = any($1::bytea[])"

_RELEASABLE = f"reason not in ({', '.join(str(int(reason)) for reason in _NOT_RELEASABLE)})"

_QUARANTINED = f"""
    select key, verdicts from arrivals where {{}} and {_RELEASABLE}
    and exists (select 1 from bodies where bodies.key = arrivals.key and body is not null)
    order by key limit {{}}
"""  # noqa: S608 - constants

_RELEASE = f"""
    update arrivals set flags = flags | {FLAG_RELEASED} where key = $1 and counted_as = 5
    and flags & {FLAG_RELEASED} = 0 and {_RELEASABLE}
    and exists (select 1 from bodies where bodies.key = arrivals.key and body is not null) returning listener, persons
"""  # noqa: S608 - constants

_NOTE_RELEASED = "update arrivals set verdicts = $2, persons = $3 where key = $1"

# Add an arrival's person keys. SQLite has the newest arrivals' keys in the ledger only.
_ADD_PERSONS = Statement(
    postgresql="""
        insert into persons (person, arrival) select person, $1 from unnest($2::bytea[]) as new (person)
        on conflict do nothing
    """,
    sqlite="""
        insert or ignore into persons (segment, person, arrival)
        select (select segment from person_segments where segment <= $1 order by segment desc limit 1), person, $1
        from unnest($2::bytea[]) as new (person)
        where $1 <= coalesce((select cast(value as integer) from meta where name = 'persons_to'), 0)
    """,
)

_encode = msgspec.msgpack.encode


# Deliveries: redrive, cancel, retry


async def redrivable(session: Session, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the keys for a slice of the deliveries that a redrive selects, and the next slice's cursor."""
    chosen = msgspec.structs.replace(where, state=redriven_state(where).name.lower())
    keys, below = await scopes.delivery_keys(session, chosen, cursor, SLICE)
    return keys, scopes.cursor_of(below)


def redriven_state(where: Filter) -> model.DeliveryState:
    """Return which delivery state a redrive selects."""
    for state in (model.DeliveryState.Dead, model.DeliveryState.Cancelled):
        if (where.state or "dead").lower() == state.name.lower():
            return state
    raise ValueError("only dead and cancelled deliveries can be redriven")


async def routes_of(session: Session, keys: Sequence[int]) -> set[int]:
    """Return the route numbers of deliveries."""
    rows = await session.fetch("select distinct route from deliveries where key = any($1::bigint[])", keys)
    return {route for (route,) in rows}


async def redrive(
    transaction: Transaction, keys: Sequence[int], now: int, holds: Holds, state: model.DeliveryState
) -> list[bytes]:
    """Make deliveries that still have a state due again, or held, if they have a body and time left; return their ids.

    A dead one that another request redrove and cancelled since it was selected may have been sent. Leaves out
    suppressed persons' deliveries. If a delivery's filter had not decided, the next attempt evaluates it.
    """
    session = transaction.session
    await session.fetch(claims.LOCK, keys)
    rows = await session.fetch(_REDRIVABLE, keys, now, int(state))
    suppressed = await suppressions.suppressed_arrivals(session, {row[3] for row in rows})
    rows = [row for row in rows if row[3] not in suppressed]
    new_holds = [
        (key, min(0, hold) or first_hold(flags, holds.get(route, ()))) for key, route, flags, _, _, hold in rows
    ]
    await session.execute(_REDRIVE, *columns(new_holds, 2), now)
    await transaction.meter_routes([route for _, route, *_ in rows], now, model.Counter.redriven)
    return [bytes(row[4]) for row in rows]


async def pending(session: Session, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the keys for a slice of the pending deliveries that a filter selects, and the next slice's cursor."""
    state = (where.state or "pending").lower()
    if state not in {"pending", scopes.HELD}:
        raise ValueError("only pending deliveries (pending, or held) can be cancelled or retried")
    chosen = msgspec.structs.replace(where, state=state)
    keys, below = await scopes.delivery_keys(session, chosen, cursor, SLICE)
    return keys, scopes.cursor_of(below)


async def count_changeable(session: Session, change: Change, keys: Sequence[int], now: int) -> Counter[tuple[str, int]]:
    """Count the deliveries with given keys that a change would change, by reason and route."""
    statement = f"""
        select arrival, route, hold, cancel, error from deliveries d
        where d.key = any($1::bigint[]) and {_CHANGEABLE[change]}
    """  # noqa: S608 - constants
    rows = await session.fetch(statement, keys, now)
    suppressed: set[int] = set()
    if change == "redrive":
        suppressed = await suppressions.suppressed_arrivals(session, {row[0] for row in rows})
    return Counter(
        [
            (_reason_name(hold, cancel, error), route)
            for arrival, route, hold, cancel, error in rows
            if arrival not in suppressed
        ]
    )


def _reason_name(hold: int, cancel: int, error: str) -> str:
    """Return the reason by which a preview counts a delivery."""
    if hold > 0:
        return model.HoldReason(hold).name
    return model.CancelReason(cancel).name if cancel else error or scopes.NOT_TRIED


# Quarantined arrivals: release


async def quarantined(session: Session, where: Filter, limit: int, after: int = 0) -> list[model.Arrival]:
    """Return quarantined arrivals that can be released, oldest first, with bodies but without plans.

    ``after`` is the last arrival's row key in the previous call. ``Truncated`` and ``Unstorable`` arrivals are
    never returned.
    """
    scope = await scopes.arrivals_scope(
        session, msgspec.structs.replace(where, counted_as="Quarantined", state=UNRELEASED)
    )
    if scope.keys is not None:
        scope.add_numbers("key", scope.keys)
    scope.low = max(scope.low, after + 1)
    rows = await session.fetch(_QUARANTINED.format(scope.condition(), limit), *scope.all_values())
    return await creation.stored_arrivals(session, [key for key, packed in rows if scopes.has_verdict(packed, scope)])


async def release(transaction: Transaction, arrivals: Sequence[model.Arrival], now: int) -> int:
    """Create the ``if_visit`` deliveries of quarantined arrivals, once per arrival; return how many.

    Retention may have deleted a body since the arrival was read. The arrival of a suppressed person stays in
    quarantine, whether its first reading found the person or this one.
    """
    session = transaction.session
    suppressed = await suppressions.among(session, [person for released in arrivals for person in released.person_keys])
    left_out = await suppressions.suppressed_arrivals(session, [arrival.key for arrival in arrivals])
    arrivals = [
        arrival for arrival in arrivals if arrival.key not in left_out and suppressed.isdisjoint(arrival.person_keys)
    ]
    deliveries: list[tuple[Any, ...]] = []
    await session.fetch(creation.LOCK_ARRIVALS, sorted([arrival.key for arrival in arrivals]))
    plans = [plan for arrival in arrivals for plan in arrival.if_visit]
    # All marks at once, because two gateways that write them in different orders could wait for each other.
    marks = await creation.add_marks(
        session, {plan.once_key: plan.once_until for plan in plans if plan.once_key and plan.skip is None}
    )
    for arrival in sorted(arrivals, key=lambda arrival: arrival.key):
        deliveries += await _release_arrival(transaction, arrival, now, marks)
    await session.execute(DELETE_MARKS, sorted(marks))
    await session.execute(creation.INSERT, *columns(deliveries, 7), int(model.Origin.Released), now, None)
    return len(deliveries)


async def _release_arrival(
    transaction: Transaction, arrival: model.Arrival, now: int, marks: set[bytes]
) -> list[tuple[Any, ...]]:
    """Return the rows of an arrival's deliveries, and take their marks from the new ones."""
    rows = await transaction.session.fetch(_RELEASE, arrival.key)
    if not rows:
        return []
    ((listener, persons),) = rows
    deliveries: list[tuple[Any, ...]] = []
    verdicts: list[tuple[int, int, int]] = []
    for plan in arrival.if_visit:
        route = transaction.route(plan.route).number
        skip = plan.skip or _once_per(plan, marks)
        if skip is not None:
            verdicts.append((route, int(skip), 0))
            continue
        delivery = creation.new_delivery(
            transaction, arrival.key, route, hold=int(plan.hold or 0), expires_at=plan.expires_at
        )
        deliveries.append(delivery)
        verdicts.append((route, 0, delivery[0]))
    if deliveries:
        transaction.meter(listener, model.slot_of(now), model.Counter.released, len(deliveries))
        transaction.add_stored_bytes(listener, DELIVERY_BYTES * len(deliveries))
    await _note_released(transaction.session, arrival, persons, verdicts)
    return deliveries


def _once_per(plan: model.RoutePlan, marks: set[bytes]) -> model.SkipReason | None:
    """Use a once-per rule's mark for its delivery; return the skip reason if it was used already."""
    if plan.once_key and plan.once_key not in marks:
        return model.SkipReason.OncePer
    marks.discard(plan.once_key)
    return None


async def _note_released(
    session: Session, arrival: model.Arrival, packed: bytes, verdicts: list[tuple[int, int, int]]
) -> None:
    """Store the verdicts, and the person keys that the body's first reading did not find."""
    stored = split_person_keys(packed)
    new = [person for person in dict.fromkeys(arrival.person_keys) if person not in stored]
    await session.execute(_NOTE_RELEASED, arrival.key, _encode(verdicts), b"".join([*stored, *new]))
    await session.execute(_ADD_PERSONS, arrival.key, sorted(new))
