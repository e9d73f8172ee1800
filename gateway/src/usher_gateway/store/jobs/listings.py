"""Listings: pages from the ledger and deliveries as JSON, one body or answer, and a person's arrivals.

Listings contain no bodies and no person keys. ``jobs/scopes.py`` selects their rows.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord, Filter, ListingPage, VisitBody
from usher_gateway.store.encodings import (
    FLAG_LATE,
    FLAG_OTHER_COMPANY,
    FLAG_RELEASED,
    FLAG_TRUSTED,
    FLAG_UNACKNOWLEDGED,
    split_person_keys,
    unknown_route,
    unpack_attempts,
)
from usher_gateway.store.jobs import scopes
from usher_gateway.store.session import Row, Session, Statement

_ARRIVALS = """
    select a.key, a.id, a.received_at, a.visit_time, a.counted_as, a.flags, a.reason, a.hops, a.body_size,
        a.verdicts, coalesce(l.namespace, '?'), coalesce(l.tenant, '?'), coalesce(l.listener, '#' || a.listener),
        (select body is not null from bodies b where b.key = a.key)
    from arrivals a left join listeners l on l.number = a.listener where a.key = any($1::bigint[])
"""
_DELIVERIES = """
    select d.key, d.id, d.route, d.state, d.hold, d.waiting, d.attempts, d.due_at, d.created_at, d.started_at,
        d.expires_at, d.settled_at, d.origin, d.cancel, d.status, d.error, length(d.answer), a.id, r.id
    from deliveries d join arrivals a on a.key = d.arrival left join replays r on r.key = d.replay
    where d.key = any($1::bigint[])
"""
_DELIVERY_STATES = "select key, id, state, hold from deliveries where key = any($1::bigint[])"
_REPLAYS = """
    select arrival, route, id, state, hold, created_at from deliveries
    where origin > 0 and origin = 2 and arrival = any($1::bigint[]) order by key
"""
_ROUTE_NAMES = """
    select r.number, l.namespace, l.tenant, l.listener, r.name, d.key from routes r
    join listeners l on l.number = r.listener join destinations d on d.number = r.destination
    where r.number = any($1::bigint[])
"""
_VISIT_BODIES = """
    select a.key, l.namespace, l.tenant, l.listener, a.counted_as, b.content_type, b.body
    from (select key, listener, counted_as from arrivals where {} order by key limit {}) a
    join listeners l on l.number = a.listener left join bodies b on b.key = a.key order by a.key
"""
_BODY = """
    select b.body, b.content_type from bodies b join arrivals a on a.key = b.key
    where b.key = $1 and a.id = $2 and b.body is not null
"""
# Find the person keys in a range, with their arrivals. The cross join makes SQLite look up each segment; otherwise it
# walks over the whole table.
_ARRIVALS_OF_PERSON = Statement(
    postgresql="select person, arrival from persons where person >= $1 and person < $2",
    sqlite="""
        select person, arrival from person_segments segments cross join persons on persons.segment = segments.segment
        where person >= $1 and person < $2
    """,
)

_FEW_KEYS = 8  # Up to this many person keys with the same start are looked up one by one

# The arrivals whose person keys are in the ledger only: on SQLite the newest ones.
_NEWEST_PERSONS = Statement(
    postgresql="select key, persons from arrivals where false",
    sqlite="""
        select key, persons from arrivals
        where key > coalesce((select cast(value as integer) from meta where name = 'persons_to'), 0)
    """,
)

# A visitor's last visit among some arrivals.
_VISITS_OF_VISITOR = """
    select id from arrivals where key = any($1::bigint[]) and visitor = $2 and counted_as = 1 order by key desc limit 1
"""

_JSONRow = dict[str, object]

_decode = msgspec.msgpack.decode


async def visits(session: Session, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """Return a page of the ledger's arrivals with their verdicts.

    If few rows match, a page ends early with a cursor. ``reason`` is a quarantine or skip reason; ``state`` is
    ``released`` or ``unreleased`` (quarantined arrivals).

    Raises:
        ValueError: the filter or the cursor is invalid.
    """
    keys, below = await scopes.newest(session, await scopes.arrivals_scope(session, where), cursor, limit)
    return ListingPage(await _arrival_rows(session, keys), scopes.cursor_of(below))


async def deliveries(session: Session, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """Return a page of deliveries in every state; the state ``held`` selects pending deliveries that are held.

    ``reason`` is a hold or cancel reason, or an error code. Pages end early as in visits().

    Raises:
        ValueError: the filter or the cursor is invalid.
    """
    keys, below = await scopes.delivery_keys(session, where, cursor, limit)
    rows = _by_key(await session.fetch(_DELIVERIES, keys))
    names = await _route_names(session, {row[2] for row in rows.values()})
    return ListingPage(
        [_delivery_row(rows[key], names[rows[key][2]]) for key in keys if key in rows], scopes.cursor_of(below)
    )


async def _arrival_rows(session: Session, keys: list[int]) -> list[_JSONRow]:
    rows = _by_key(await session.fetch(_ARRIVALS, keys))
    verdicts = {key: _decode(row[9]) for key, row in rows.items()}
    names = await _route_names(session, {route for listed in verdicts.values() for route, _, _ in listed})
    created = [delivery for listed in verdicts.values() for _, _, delivery in listed if delivery]
    states = _by_key(await session.fetch(_DELIVERY_STATES, created))
    replays = {(row[0], row[1]): tuple(row) for row in await session.fetch(_REPLAYS, list(rows))}
    return [_arrival_row(rows[key], verdicts[key], names, states, replays) for key in keys if key in rows]


async def _route_names(session: Session, numbers: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """Return number -> (number, namespace, tenant, listener, route, destination)."""
    ordered = sorted(numbers)
    names = _by_key(await session.fetch(_ROUTE_NAMES, ordered))
    for number in ordered:
        if number not in names:
            route = unknown_route(number)
            names[number] = (number, *msgspec.structs.astuple(route.listener), route.route, route.destination)
    return names


def _by_key(rows: Iterable[Row]) -> dict[int, tuple[Any, ...]]:
    return {row[0]: tuple(row) for row in rows}


def _arrival_row(
    columns: tuple[Any, ...],
    verdicts: list[tuple[int, int, int]],
    names: dict[int, tuple[Any, ...]],
    states: dict[int, tuple[Any, ...]],
    replays: dict[tuple[int, int], tuple[Any, ...]],
) -> _JSONRow:
    """Return an ``_ARRIVALS`` row as JSON. ``names``, ``states`` and ``replays``: rows from the other statements."""
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
        "isOtherCompany": bool(flags & FLAG_OTHER_COMPANY) or reason == model.QuarantineReason.CompanyMismatch,
        "otherCompany": None,  # only the body has it
        "expectedCompany": None,
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
) -> _JSONRow:
    route, skipped, delivery = verdict
    _, _, _, _, name, destination = names[route]
    row: _JSONRow = {"route": name, "destination": destination}
    if skipped:
        row["skipped"] = model.SkipReason(skipped).name
        if replay is not None:
            _, _, identifier, state, hold, created_at = replay
            row["replayed"] = model.format_time(created_at)
            row["delivery"] = model.format_id(identifier)
            row["state"] = _state_name(state)
            row["held"] = model.HoldReason(hold).name if hold > 0 else None
    elif delivery in states:
        _, identifier, state, hold = states[delivery]
        row["delivery"] = model.format_id(identifier)
        row["state"] = _state_name(state)
        row["held"] = model.HoldReason(hold).name if hold > 0 else None
    return row


def _delivery_row(columns: tuple[Any, ...], names: tuple[Any, ...]) -> _JSONRow:
    """Return a row from ``_DELIVERIES`` as JSON. ``names``: the route's row from ``_ROUTE_NAMES``."""
    _, identifier, _, state, hold, in_backlog, attempts, due_at, created_at, started_at, *rest = columns
    expires_at, settled_at, origin, cancel, status, error, answer_bytes, arrival, replay = rest
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
        "held": model.HoldReason(hold).name if hold > 0 else None,
        "heldSince": model.format_time(due_at) if hold > 0 else None,
        "dueAt": model.format_time(due_at) if is_open and in_backlog else None,
        "attempts": attempts,
        "createdAt": model.format_time(created_at),
        "startedAt": model.format_time(started_at),
        "expiresAt": model.time_or_none(expires_at),
        "settledAt": model.time_or_none(settled_at),
        "origin": model.Origin(origin).name,
        "replay": model.format_id(replay) if replay is not None else None,
        "cancelled": model.CancelReason(cancel).name if cancel else None,
        "status": status or None,
        "error": error or None,
        "answerBytes": answer_bytes or 0,
    }


def _state_name(state: int) -> str:
    return model.DeliveryState(state).name.lower()


# One row's content


async def visit_bodies(session: Session, where: Filter, limit: int, after: int = 0) -> list[VisitBody]:
    """Return the bodies that came with visits and repeats, oldest first, after a row key.

    Uses the filter's names and period.
    """
    scope = await scopes.arrivals_scope(session, where)
    scope.add_numbers("counted_as", [int(model.CountedAs.Visit), int(model.CountedAs.Repeat)])
    scope.low = max(scope.low, after + 1)
    return [
        VisitBody(
            key,
            model.ListenerName(namespace, tenant, listener),
            model.CountedAs(counted_as),
            content_type or b"",
            body,
        )
        for key, namespace, tenant, listener, counted_as, content_type, body in await session.fetch(
            _VISIT_BODIES.format(scope.condition(), limit), *scope.all_values()
        )
    ]


async def body(session: Session, arrival: bytes) -> tuple[bytes, bytes]:
    """Return an arrival's body and content type.

    Raises:
        NotFoundError: the arrival does not exist, or its body's retention has ended.
    """
    rows = await session.fetch(_BODY, model.key_of(arrival), arrival)
    if not rows:
        raise model.NotFoundError("there is no such arrival, or its body was deleted")
    return rows[0][0], rows[0][1] or b""


async def answer(session: Session, delivery: bytes) -> bytes:
    """Return the destination's last answer to a dead delivery (at most 256 bytes).

    Raises:
        NotFoundError: the delivery does not exist, or it has no answer.
    """
    statement = "select answer from deliveries where key = $1 and id = $2 and answer is not null"
    rows = await session.fetch(statement, model.key_of(delivery), delivery)
    if not rows:
        raise model.NotFoundError("there is no such delivery, or it has no answer")
    return bytes(rows[0][0])


async def attempts(session: Session, delivery: bytes) -> list[AttemptRecord]:
    """Return the last 10 attempts at a delivery, the oldest first. A redrive keeps those before it.

    Raises:
        NotFoundError: the delivery does not exist.
    """
    statement = """
        select log from deliveries left join attempts on attempts.delivery = deliveries.key
        where deliveries.key = $1 and deliveries.id = $2
    """
    rows = await session.fetch(statement, model.key_of(delivery), delivery)
    if not rows:
        raise model.NotFoundError("there is no such delivery")
    return unpack_attempts(rows[0][0] or b"")


async def verdicts(session: Session, arrival: bytes) -> list[tuple[int, int]]:
    """Return (route, skip reason or 0) for each verdict on an arrival."""
    rows = await session.fetch(
        "select verdicts from arrivals where key = $1 and id = $2", model.key_of(arrival), arrival
    )
    if not rows:
        raise model.NotFoundError("there is no such visit", "use an id from `usher visits list`")
    return [(route, skip) for route, skip, _ in _decode(rows[0][0])]


async def earlier_visit(session: Session, arrival: bytes) -> bytes | None:
    """Return the id of the visit that the same visitor made before a repeat; None if the body had no person ids."""
    key = model.key_of(arrival)
    rows = await session.fetch("select visitor, persons from arrivals where key = $1 and id = $2", key, arrival)
    for visitor, packed in rows:
        candidates = [
            other_key
            for other_key in await keys_of_person(session, frozenset(split_person_keys(packed)))
            if other_key < key
        ]
        earlier = await session.fetch(_VISITS_OF_VISITOR, candidates, visitor)
        if earlier:
            return bytes(earlier[0][0])
    return None


# Arrivals among which some listeners' oldest one is searched, because no index leads to it.
_OLDEST_LOOKED_AT = 10_000

_OLDEST = f"""
    select received_at
    from (select key, listener, received_at from arrivals order by key limit {_OLDEST_LOOKED_AT}) as a
    where listener = any($1::bigint[]) order by key limit 1
"""  # noqa: S608 - constants


async def oldest_arrival(session: Session, where: Filter) -> int | None:
    """Return when the oldest arrival came at the listeners that a filter selects by names and permits.

    None: there is none, or only arrivals newer than the store's oldest 10,000.
    """
    numbers = await scopes.listener_numbers(session, where)
    if not numbers and numbers is not None:
        return None
    if numbers is None:
        rows = await session.fetch("select received_at from arrivals order by key limit 1")
    else:
        rows = await session.fetch(_OLDEST, sorted(numbers))
    return min([int(received_at) for (received_at,) in rows], default=None)


async def of_person(session: Session, persons: Collection[bytes], cursor: str | None, limit: int) -> ListingPage:
    """Return a page of arrivals that have any of these person keys, newest first, as visits() does.

    Raises:
        ValueError: the cursor is invalid.
    """
    page, below = scopes.page_of(await keys_of_person(session, frozenset(persons)), cursor, limit)
    return ListingPage(await _arrival_rows(session, page), scopes.cursor_of(below))


async def keys_of_person(session: Session, persons: frozenset[bytes]) -> set[int]:
    """Return the row keys of the arrivals that have any of these person keys."""
    return set().union(*(await arrivals_of_persons(session, persons)).values())


async def arrivals_of_persons(session: Session, persons: frozenset[bytes]) -> dict[bytes, set[int]]:
    """Return person key -> its arrivals' row keys, for each person key that has any."""
    arrivals: dict[bytes, set[int]] = {}
    for start, keys in itertools.groupby(sorted(persons), lambda person: person[: model.PERSON_KEY_START]):
        for first, end in _ranges(start, list(keys)):
            rows = await session.fetch(_ARRIVALS_OF_PERSON, first, end)
            for person, arrival in rows:
                if person in persons:
                    arrivals.setdefault(person, set()).add(arrival)
    for arrival, packed in await session.fetch(_NEWEST_PERSONS):
        for person in persons.intersection(split_person_keys(packed)):
            arrivals.setdefault(person, set()).add(arrival)
    return arrivals


def _ranges(start: bytes, keys: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the ranges that contain some person keys with the same start.

    Few keys are read one by one, so that a person with millions of visits at one tenant delays no other search.
    """
    if len(keys) <= _FEW_KEYS:
        return [(key, key + b"\0") for key in keys]
    return [(start, start + b"\xff" * 8)]
