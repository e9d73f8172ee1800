"""Changes that people request: redrive, cancel, retry, replay, release.

Each job is a short transaction over rows with given keys. A query selects the rows beforehand, so each job locks the
rows in the order of their keys and checks them again before it changes them.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Change, Filter, ReplayReport
from usher_gateway.store.encodings import (
    DELIVERY_BYTES,
    FLAG_LATE,
    FLAG_RELEASED,
    FLAG_TRUSTED,
    first_hold,
    split_person_keys,
    unpack_body,
)
from usher_gateway.store.listing_rows import HELD, UNRELEASED, cursor_of, key_of_cursor, matching_verdicts
from usher_gateway.store.postgresql import listings
from usher_gateway.store.postgresql.accept import ADD_MARKS, DROP_MARKS
from usher_gateway.store.postgresql.connections import Connection, Record
from usher_gateway.store.postgresql.transaction import Transaction, columns
from usher_gateway.store.requests import (
    ENDED,
    NOT_RELEASABLE,
    SLICE,
    Holds,
    OnceMarks,
    ReplayCandidate,
    SkippedVerdict,
    choose_replays,
    reason_name,
)

_LOCK = "select key from deliveries where key = any($1::bigint[]) order by key for no key update"

_REDRIVABLE = """
    select d.key, d.route, a.flags from deliveries d join arrivals a on a.key = d.arrival
    join bodies b on b.key = d.arrival and b.body is not null
    where d.key = any($1::bigint[]) and d.state >= 2 and (d.expires_at = 0 or d.expires_at > $2) order by d.key
"""
_REDRIVE = """
    update deliveries d set state = 0, hold = new.hold, waiting = new.hold = 0, owner = 0, attempts = 0, due_at = $3,
        started_at = $3, settled_at = 0, cancel = 0, status = 0, error = '', answer = null
    from unnest($1::bigint[], $2::smallint[]) as new (key, hold) where d.key = new.key
"""
_CANCEL = """
    update deliveries set state = $2, hold = 0, waiting = false, owner = 0, due_at = 0, settled_at = $3, cancel = $4
    where key = any($1::bigint[]) and state = 0 returning key, route
"""
_RETRY = "update deliveries set due_at = $2 where key = any($1::bigint[]) and waiting and due_at > $2 returning key"

_CHANGEABLE: Mapping[Change, str] = {
    "redrive": """state >= 2 and (expires_at = 0 or expires_at > $2)
        and exists (select 1 from bodies b where b.key = d.arrival and b.body is not null)""",
    "cancel": "state = 0",
    "retry": "waiting and due_at > $2",
}
"""The conditions of redrive(), cancel() and retry()."""

_CANDIDATES = """
    select a.key, new.route, new.reason, a.flags, b.body is not null,
        exists (select 1 from deliveries where arrival = a.key and route = new.route and origin > 0)
    from unnest($1::bigint[], $2::integer[], $3::smallint[]) with ordinality as new (key, route, reason, number)
    join arrivals a on a.key = new.key left join bodies b on b.key = a.key order by new.number
"""
_LOCK_ARRIVALS = "select key from arrivals where key = any($1::bigint[]) order by key for no key update"

_INSERT = """
    insert into deliveries
        (key, id, arrival, route, destination, hold, waiting, owner, due_at, created_at, started_at, expires_at, origin)
    select key, id, arrival, route, destination, hold, hold = 0, 0, $9, $9, $9, expires_at, $8
    from unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::integer[], $5::integer[], $6::smallint[], $7::bigint[])
        as new (key, id, arrival, route, destination, hold, expires_at)
"""
_ARRIVAL = """
    select a.key, l.namespace, l.tenant, l.listener, received_at, visit_time, flags, fingerprint, visitor, persons,
        b.body, b.content_type, hops, reason, body_size
    from arrivals a join listeners l on l.number = a.listener
    join bodies b on b.key = a.key and b.body is not null
    where a.key = any($1::bigint[]) order by a.key
"""
_RELEASE = f"""
    update arrivals set flags = flags | {FLAG_RELEASED} where key = $1 and counted_as = 5
    and flags & {FLAG_RELEASED} = 0 and reason <> all($2::smallint[])
    and exists (select 1 from bodies where bodies.key = arrivals.key and body is not null) returning listener, persons
"""  # noqa: S608 - a number

_encode = msgspec.msgpack.encode


async def redrivable(connection: Connection, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the keys of a slice of the deliveries that a redrive selects, and the cursor of the next slice."""
    state = (where.state or "dead").lower()
    if state not in ENDED:
        raise ValueError("only dead and cancelled deliveries can be redriven")
    chosen = msgspec.structs.replace(where, state=state)
    keys, below = await listings.delivery_keys(connection, chosen, cursor, SLICE)
    return keys, cursor_of(below)


async def routes_of(connection: Connection, keys: Sequence[int]) -> set[int]:
    """Return the route numbers of deliveries."""
    found = await connection.fetch("select distinct route from deliveries where key = any($1::bigint[])", keys)
    return {route for (route,) in found}


async def redrive(transaction: Transaction, keys: Sequence[int], now: int, holds: Holds) -> int:
    """Make dead or cancelled deliveries due again, or held, if they have a body and time left; return how many."""
    await transaction.connection.execute(_LOCK, keys)
    found = await transaction.connection.fetch(_REDRIVABLE, keys, now)
    rows = [(key, first_hold(flags, holds.get(route, ()))) for key, route, flags in found]
    await transaction.connection.execute(_REDRIVE, *columns(rows, 2), now)
    await transaction.meter_routes([route for _, route, _ in found], now, model.Counter.redriven)
    return len(rows)


async def pending(connection: Connection, where: Filter, cursor: str | None) -> tuple[list[int], str | None]:
    """Return the keys of a slice of the pending deliveries that a filter selects, and the cursor of the next slice."""
    state = (where.state or "pending").lower()
    if state not in {"pending", HELD}:
        raise ValueError("only pending deliveries (pending, or held) can be cancelled or retried")
    chosen = msgspec.structs.replace(where, state=state)
    keys, below = await listings.delivery_keys(connection, chosen, cursor, SLICE)
    return keys, cursor_of(below)


async def cancel(transaction: Transaction, keys: Sequence[int], now: int) -> list[int]:
    """Cancel pending deliveries on request; return the keys of those that were still pending."""
    await transaction.connection.execute(_LOCK, keys)
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.OnRequest)
    found = await transaction.connection.fetch(_CANCEL, keys, state, now, reason)
    await transaction.meter_routes([route for _, route in found], now, model.Counter.cancelled)
    return [key for key, _ in found]


async def retry(transaction: Transaction, keys: Sequence[int], now: int) -> int:
    """Make deliveries of the backlog due that wait for a later retry; return how many."""
    await transaction.connection.execute(_LOCK, keys)
    return len(await transaction.connection.fetch(_RETRY, keys, now))


async def count_changeable(connection: Connection, change: Change, keys: Sequence[int], now: int) -> Counter[str]:
    """Count by reason the deliveries with given keys that a change would change."""
    condition = _CHANGEABLE[change]
    statement = f"select hold, cancel, error from deliveries d where d.key = any($1::bigint[]) and {condition}"  # noqa: S608
    rows = await connection.fetch(statement, keys, *([now] if "$2" in condition else []))
    return Counter([reason_name(*row) for row in rows])


async def replayable(
    connection: Connection, where: Filter, cursor: str | None, reasons: Collection[model.SkipReason]
) -> tuple[list[SkippedVerdict], str | None]:
    """Return the skipped verdicts that a replay selects in a slice of arrivals, and the cursor of the next slice."""
    scope = await listings.arrivals_scope(connection, where)
    if cursor is not None:
        scope.high = min(scope.high, key_of_cursor(cursor))
    keys, below = await listings.newest(connection, scope, SLICE)
    found = await connection.fetch(
        "select key, verdicts from arrivals where key = any($1::bigint[]) order by key", keys
    )
    skipped = [
        (key, route, reason)
        for key, packed in found
        for route, reason, _ in matching_verdicts(packed, scope.routes, None, any_skip=True)
        if reason in reasons
    ]
    return skipped, cursor_of(below)


async def stored_arrivals(connection: Connection, keys: Collection[int]) -> list[model.Arrival]:
    """Return the arrivals with given keys that have a body, without plans."""
    return [_arrival(row) for row in await connection.fetch(_ARRIVAL, list(keys))]


async def preview_replay(
    connection: Connection, skipped: Sequence[SkippedVerdict], marks: OnceMarks, taken: set[bytes]
) -> ReplayReport:
    """Count what replay() would do. ``taken``: the marks of earlier slices."""
    report = ReplayReport()
    statement = "select mark from once_marks where mark = any($1::bytea[])"
    taken |= {mark for (mark,) in await connection.fetch(statement, [mark for mark, _ in marks.values()])}
    choose_replays(await _candidates(connection, skipped), marks, taken, report)
    return report


async def replay(
    transaction: Transaction, skipped: Sequence[SkippedVerdict], now: int, holds: Holds, marks: OnceMarks
) -> ReplayReport:
    """Create deliveries for skipped verdicts, once each, and only if there is a body."""
    report = ReplayReport()
    connection = transaction.connection
    await connection.execute(_LOCK_ARRIVALS, [key for key, _, _ in skipped])  # two replays cannot both find none
    await transaction.names.load_routes(connection, [route for _, route, _ in skipped])
    # Nothing could deliver a verdict whose route has no definition any more.
    skipped = [verdict for verdict in skipped if transaction.names.destination_of_route(verdict[1])]
    candidates = await _candidates(connection, skipped)
    verdicts = [(candidate.arrival, candidate.route) for candidate in candidates if candidate.can_be_replayed]
    # Every new mark gets a delivery: choose_replays() takes the first of the verdicts that share it.
    until = dict([marks[verdict] for verdict in verdicts if verdict in marks and marks[verdict][0]])
    added = await connection.fetch(ADD_MARKS, *columns(sorted(until.items()), 2)) if until else []
    chosen = choose_replays(candidates, marks, until.keys() - {mark for (mark,) in added}, report)
    rows = []
    for candidate in chosen:
        hold = first_hold(candidate.flags, holds.get(candidate.route, ()))
        rows.append(_new_row(transaction, candidate.arrival, candidate.route, hold=hold))
    await connection.execute(_INSERT, *columns(rows, 7), int(model.Origin.Replayed), now)
    await transaction.meter_routes([candidate.route for candidate in chosen], now, model.Counter.replayed)
    return report


async def _candidates(connection: Connection, skipped: Sequence[SkippedVerdict]) -> list[ReplayCandidate]:
    return [ReplayCandidate(*row) for row in await connection.fetch(_CANDIDATES, *columns(skipped, 3))]


async def quarantined(connection: Connection, where: Filter, limit: int, after: int) -> list[model.Arrival]:
    """Return quarantined arrivals that can be released, oldest first (``Store.quarantined``)."""
    chosen = msgspec.structs.replace(where, counted_as="Quarantined", state=UNRELEASED)
    scope = await listings.arrivals_scope(connection, chosen)
    scope.add("reason <> all({}::smallint[])", [int(reason) for reason in NOT_RELEASABLE])
    if scope.keys is not None:
        scope.add("key = any({}::bigint[])", scope.keys)
    scope.low = max(scope.low, after + 1)
    statement = f"""
        select key, verdicts from arrivals where {scope.condition()}
        and exists (select 1 from bodies where bodies.key = arrivals.key and body is not null)
        order by key limit {limit}
    """  # noqa: S608 - numbered values
    found = await connection.fetch(statement, *scope.all_values())
    keys = [key for key, packed in found if _fits(packed, scope)]
    return await stored_arrivals(connection, keys)


def _fits(verdicts: bytes, scope: listings.RowScope) -> bool:
    if scope.routes is None and scope.skip is None:
        return True
    return bool(matching_verdicts(verdicts, scope.routes, scope.skip, any_skip=False))


def _arrival(row: Record) -> model.Arrival:
    key, namespace, tenant, listener, received_at, visit_time, flags, fingerprint, visitor, packed, *rest = row
    body, content_type, hops, reason, size = rest
    return model.Arrival(
        listener=model.ListenerName(namespace, tenant, listener),
        received_at=received_at,
        visit_time=visit_time,
        time_trusted=bool(flags & FLAG_TRUSTED),
        late=bool(flags & FLAG_LATE),
        fingerprint=fingerprint,
        visitor_key=visitor,
        person_keys=split_person_keys(packed),
        body=unpack_body(body),
        content_type=content_type or b"",
        hops=hops,
        body_days=0,
        window=0,
        redelivery=0,
        if_visit=(),
        if_repeat=(),
        quarantine=model.QuarantineReason(reason) if reason else None,
        body_size=size,
        key=key,
    )


async def release(transaction: Transaction, arrivals: Sequence[model.Arrival], now: int) -> int:
    """Create the ``if_visit`` deliveries of quarantined arrivals, once per arrival; return how many.

    The routes were prepared. Retention may have deleted a body since the arrival was read.
    """
    made: list[tuple[Any, ...]] = []
    await transaction.connection.execute(_LOCK_ARRIVALS, [arrival.key for arrival in arrivals])
    marks = await _add_marks(transaction, arrivals)
    for arrival in sorted(arrivals, key=lambda one: one.key):
        made += await _release_one(transaction, arrival, now, marks)
    await transaction.keep_routes([arrival.key for arrival in arrivals])
    if marks:
        await transaction.connection.execute(DROP_MARKS, sorted(marks))
    await transaction.connection.execute(_INSERT, *columns(made, 7), int(model.Origin.Released), now)
    return len(made)


async def _add_marks(transaction: Transaction, arrivals: Sequence[model.Arrival]) -> set[bytes]:
    """Write all once-per marks that the arrivals may need, in the order of accepting; return those that are new."""
    plans = [plan for arrival in arrivals for plan in arrival.if_visit]
    until = {plan.once_key: plan.once_until for plan in plans if plan.once_key and plan.skip is None}
    found = await transaction.connection.fetch(ADD_MARKS, *columns(sorted(until.items()), 2)) if until else []
    return {mark for (mark,) in found}


async def _release_one(
    transaction: Transaction, arrival: model.Arrival, now: int, marks: set[bytes]
) -> list[tuple[Any, ...]]:
    """Return the rows of an arrival's deliveries, and take their marks from the new ones."""
    row = await transaction.connection.fetchrow(_RELEASE, arrival.key, [int(reason) for reason in NOT_RELEASABLE])
    if row is None:
        return []
    listener, persons = row
    made: list[tuple[Any, ...]] = []
    verdicts: list[tuple[int, int, int]] = []
    for plan in arrival.if_visit:
        route = transaction.route(plan.route).number
        skip = plan.skip or _once_per(plan, marks)
        if skip is not None:
            verdicts.append((route, int(skip), 0))
            continue
        new = _new_row(transaction, arrival.key, route, hold=int(plan.hold or 0), expires_at=plan.expires_at)
        made.append(new)
        verdicts.append((route, 0, new[0]))
    if made:
        transaction.meter(listener, model.slot_of(now), model.Counter.released, len(made))
        transaction.add_stored_bytes(listener, DELIVERY_BYTES * len(made))
    await _note_released(transaction, arrival, persons, verdicts)
    return made


def _once_per(plan: model.RoutePlan, marks: set[bytes]) -> model.SkipReason | None:
    """Use the mark of a once-per rule for its delivery; return the skip reason if it was used already."""
    if plan.once_key and plan.once_key not in marks:
        return model.SkipReason.OncePer
    marks.discard(plan.once_key)
    return None


async def _note_released(
    transaction: Transaction, arrival: model.Arrival, packed: bytes, verdicts: list[tuple[int, int, int]]
) -> None:
    """Store the verdicts, and the person keys that the first reading of the body did not find."""
    known = split_person_keys(packed)
    new = [person for person in dict.fromkeys(arrival.person_keys) if person not in known]
    statement = "update arrivals set verdicts = $2, persons = $3 where key = $1"
    await transaction.connection.execute(statement, arrival.key, _encode(verdicts), b"".join([*known, *new]))
    statement = "insert into persons select unnest($1::bytea[]), $2 on conflict do nothing"
    await transaction.connection.execute(statement, sorted(new), arrival.key)


def _new_row(
    transaction: Transaction, arrival: int, route: int, *, hold: int = 0, expires_at: int = 0
) -> tuple[Any, ...]:
    """Return the row of a new delivery for _INSERT."""
    key = transaction.ids.next_key()
    destination = transaction.names.destination_of_route(route)
    return (key, transaction.ids.id_of(key), arrival, route, destination, hold, expires_at)
