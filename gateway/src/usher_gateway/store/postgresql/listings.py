"""Listings: pages of the ledger and of the deliveries as JSON, one body or answer, and the arrivals of a person.

A filter becomes a ``RowScope``, and a walk finds its rows, also for changes that people request. The walk goes from the
newest row down, in windows. If a filter matches few rows, the page ends early with a cursor, so that no query lasts
long.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord, Filter, ListingPage, VisitBody
from usher_gateway.store.encodings import FLAG_RELEASED, split_person_keys, unpack_attempts, unpack_body
from usher_gateway.store.listing_rows import (
    HELD,
    LONGEST_PAGE,
    PAGE_SECONDS,
    RELEASED,
    SLACK,
    UNRELEASED,
    JSONRow,
    arrival_row,
    cursor_of,
    delivery_row,
    key_of_cursor,
    matching_verdicts,
    member,
)
from usher_gateway.store.postgresql.connections import Connection
from usher_gateway.store.postgresql.names import unknown_route

_WINDOW = 10_000
"""Rows per window; the walk checks the clock after each window."""

_HIGHEST = (1 << 63) - 1

_ARRIVALS = """
    select a.key, a.id, a.received_at, a.visit_time, a.counted_as, a.flags, a.reason, a.hops, a.body_size,
        a.verdicts, coalesce(l.namespace, '?'), coalesce(l.tenant, '?'), coalesce(l.listener, '#' || a.listener),
        (select body is not null from bodies b where b.key = a.key)
    from arrivals a left join listeners l on l.number = a.listener where a.key = any($1)
"""
_DELIVERIES = """
    select d.key, d.id, d.route, d.state, d.hold, d.waiting, d.attempts, d.due_at, d.created_at, d.started_at,
        d.expires_at, d.settled_at, d.origin, d.cancel, d.status, d.error, length(d.answer), a.id
    from deliveries d join arrivals a on a.key = d.arrival where d.key = any($1)
"""
_REPLAYS = """
    select arrival, route, id, state, hold, created_at from deliveries
    where origin > 0 and origin = 2 and arrival = any($1)
"""
_ROUTE_NAMES = """
    select r.number, l.namespace, l.tenant, l.listener, r.name, d.key from routes r
    join listeners l on l.number = r.listener join destinations d on d.number = r.destination
    where r.number = any($1)
"""

_decode = msgspec.msgpack.decode


async def visits(connection: Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """Return a page of arrivals with their verdicts, newest first (``Store.visits``)."""
    scope = await arrivals_scope(connection, where)
    keys, below = await newest_page(connection, scope, cursor, limit)
    return ListingPage(await _arrival_rows(connection, keys), cursor_of(below))


async def deliveries(connection: Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """Return a page of deliveries, newest first (``Store.deliveries``)."""
    keys, below = await delivery_keys(connection, where, cursor, limit)
    found = {row[0]: row for row in await connection.fetch(_DELIVERIES, keys)}
    names = await _route_names(connection, {row[2] for row in found.values()})
    rows = [delivery_row(tuple(found[key]), names[found[key][2]]) for key in keys if key in found]
    return ListingPage(rows, cursor_of(below))


async def _arrival_rows(connection: Connection, keys: list[int]) -> list[JSONRow]:
    found = {row[0]: tuple(row) for row in await connection.fetch(_ARRIVALS, keys)}
    verdicts = {key: _decode(row[9]) for key, row in found.items()}
    names = await _route_names(connection, {route for one in verdicts.values() for route, _, _ in one})
    made = [delivery for one in verdicts.values() for _, _, delivery in one if delivery]
    statement = "select key, id, state, hold from deliveries where key = any($1)"
    states = {row[0]: tuple(row) for row in await connection.fetch(statement, made)}
    replays = {(row[0], row[1]): tuple(row) for row in await connection.fetch(_REPLAYS, list(found))}
    return [arrival_row(found[key], verdicts[key], names, states, replays) for key in keys if key in found]


async def _route_names(connection: Connection, numbers: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """Return number -> (number, namespace, tenant, listener, route, destination)."""
    ordered = list(numbers)
    names = {row[0]: tuple(row) for row in await connection.fetch(_ROUTE_NAMES, ordered)}
    for number in ordered:
        if number not in names:
            route = unknown_route(number)
            names[number] = (number, *msgspec.structs.astuple(route.listener), route.route, route.destination)
    return names


# One row's content


async def visit_bodies(connection: Connection, where: Filter, limit: int, after: int) -> list[VisitBody]:
    """Return the bodies of visits and repeats (``Store.visit_bodies``)."""
    scope = await arrivals_scope(connection, where)
    scope.add("counted_as = any({}::smallint[])", [int(model.CountedAs.Visit), int(model.CountedAs.Repeat)])
    scope.low = max(scope.low, after + 1)
    statement = f"""
        select a.key, l.namespace, l.tenant, l.listener, a.counted_as, b.content_type, b.body
        from (select key, listener, counted_as from arrivals where {scope.condition()} order by key limit {limit}) a
        join listeners l on l.number = a.listener left join bodies b on b.key = a.key order by a.key
    """  # noqa: S608 - numbered values
    return [
        VisitBody(
            key,
            model.ListenerName(namespace, tenant, listener),
            model.CountedAs(counted_as),
            content_type or b"",
            unpack_body(body) if body is not None else None,
        )
        for key, namespace, tenant, listener, counted_as, content_type, body in await connection.fetch(
            statement, *scope.all_values()
        )
    ]


async def body(connection: Connection, arrival: bytes) -> tuple[bytes, bytes]:
    """Return body and content type of an arrival (``Store.body``)."""
    statement = """
        select b.body, b.content_type from bodies b join arrivals a on a.key = b.key
        where b.key = $1 and a.id = $2 and b.body is not null
    """
    row = await connection.fetchrow(statement, model.key_of(arrival), arrival)
    if row is None:
        raise model.NotFoundError("there is no such arrival, or its body was deleted")
    return unpack_body(row[0]), row[1] or b""


async def answer(connection: Connection, delivery: bytes) -> bytes:
    """Return the last answer to a dead delivery (``Store.answer``)."""
    statement = "select answer from deliveries where key = $1 and id = $2 and answer is not null"
    found = await connection.fetchval(statement, model.key_of(delivery), delivery)
    if found is None:
        raise model.NotFoundError("there is no such delivery, or it has no answer")
    return bytes(found)


async def attempts(connection: Connection, delivery: bytes) -> list[AttemptRecord]:
    """Return the last attempts of a delivery, the oldest first (``Store.attempts``)."""
    key = model.key_of(delivery)
    if await connection.fetchval("select 1 from deliveries where key = $1 and id = $2", key, delivery) is None:
        raise model.NotFoundError("there is no such delivery")
    return unpack_attempts(await connection.fetchval("select log from attempts where delivery = $1", key) or b"")


async def person_ids(connection: Connection, namespace: str, tenant: str, keys: Sequence[bytes]) -> list[bytes]:
    """Return the ids of a tenant's arrivals that have any of these person keys, newest first."""
    statement = """
        select a.id, a.persons from arrivals a join listeners l on l.number = a.listener
        where a.key in (select arrival from persons where person = any($1::bytea[]))
        and l.namespace = $2 and l.tenant = $3 order by a.key desc
    """
    wanted = set(keys)
    found = await connection.fetch(statement, list(keys), namespace, tenant)
    return [identifier for identifier, packed in found if wanted.intersection(split_person_keys(packed))]


# From a filter to a scope


class RowScope(msgspec.Struct):
    """The rows of a table that a filter selects."""

    table: str
    terms: list[str] = msgspec.field(default_factory=list)
    """Conditions, joined by ``and``; constants and numbered values only."""
    values: list[object] = msgspec.field(default_factory=list)
    low: int = 0
    high: int = _HIGHEST
    """Only keys in [low, high)."""
    keys: list[int] | None = None
    """The only keys to consider; None: any."""
    routes: set[int] | None = None
    """Arrivals: only those with a verdict of one of these routes."""
    skip: model.SkipReason | None = None
    """Arrivals: only those with a verdict that skipped for this reason."""

    def add(self, term: str, *values: object) -> None:
        """Add a condition, with ``{}`` for each value."""
        first = len(self.values) + 3  # 1 and 2 are the bounds of the key
        self.terms.append(term.format(*[f"${first + number}" for number in range(len(values))]))
        self.values += values

    def add_ids(self, ids: tuple[bytes, ...]) -> None:
        """Require one of some ids, if there are any; compare also their random bits, which a key does not have."""
        if ids:
            self.keys = [model.key_of(identifier) for identifier in ids]
            self.add("id = any({}::bytea[])", list(ids))

    async def add_period(self, connection: Connection, column: str, since: int | None, until: int | None) -> None:
        """Require an instant in [since, until)."""
        if since is not None:
            self.low = max(self.low, await key_at(connection, self.table, column, since - SLACK))
            self.add(f"{column} >= {{}}", since)
        if until is not None:
            self.high = min(self.high, await key_at(connection, self.table, column, until + SLACK))
            self.add(f"{column} < {{}}", until)

    def condition(self) -> str:
        """Return all conditions, with those on the key."""
        keys = ["key >= $1", "key < $2"]
        return " and ".join([*keys, *self.terms])

    def all_values(self, high: int | None = None) -> list[object]:
        """Return the values of all conditions; ``high`` overrides the upper bound of the key."""
        return [self.low, self.high if high is None else high, *self.values]


async def delivery_keys(
    connection: Connection, where: Filter, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Return the keys of the deliveries that a filter selects, newest first, and the key below which to go on."""
    return await newest_page(connection, await deliveries_scope(connection, where), cursor, limit)


async def newest_page(
    connection: Connection, scope: RowScope, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Return a page of keys below a cursor: the keys, newest first, and the key below which to go on."""
    if cursor is not None:
        scope.high = min(scope.high, key_of_cursor(cursor))
    return await newest(connection, scope, min(max(limit, 1), LONGEST_PAGE))


async def arrivals_scope(connection: Connection, where: Filter) -> RowScope:
    """Return the scope of the arrivals that a filter selects.

    Raises:
        ValueError: the filter has an unknown name of a reason or a state, or selects deliveries of a visit.
    """
    if where.visit is not None:
        raise ValueError("visit selects deliveries; select visits with their ids")
    scope = RowScope("arrivals")
    scope.add_ids(where.ids)
    counted_as = member(model.CountedAs, where.counted_as, "countedAs")
    if where.reason is not None:
        if where.reason in model.QuarantineReason.__members__:
            counted_as = model.CountedAs.Quarantined
            scope.add("reason = {}", int(model.QuarantineReason[where.reason]))
        else:
            scope.skip = member(model.SkipReason, where.reason, "reason", *model.QuarantineReason.__members__)
    if counted_as is not None:
        scope.add(f"counted_as = {int(counted_as)}")  # a literal, for the partial index
    if where.state is not None:
        if where.state not in {RELEASED, UNRELEASED}:
            raise ValueError(f"state must be {RELEASED} or {UNRELEASED}")
        scope.add(f"flags & {FLAG_RELEASED} {'>' if where.state == RELEASED else '='} 0")
    listeners = await listener_numbers(connection, where.namespace, where.tenant, where.listener)
    if listeners is not None:
        scope.add("listener = any({}::integer[])", sorted(listeners))
    scope.routes = await route_numbers(connection, None, where.route, where.destination)
    await scope.add_period(connection, "received_at", where.since, where.until)
    return scope


async def deliveries_scope(connection: Connection, where: Filter) -> RowScope:
    """Return the scope of the deliveries that a filter selects.

    Raises:
        ValueError: the filter has an unknown name of a state.
        NotFoundError: the visit does not exist.
    """
    scope = RowScope("deliveries")
    scope.add_ids(where.ids)
    if where.visit is not None:
        made = await deliveries_of_visit(connection, where.visit)
        scope.keys = [key for key in made if scope.keys is None or key in scope.keys]
    if where.state == HELD:
        scope.add("hold > 0")
    elif where.state is not None:
        state = int(member(model.DeliveryState, where.state, "state", HELD))
        scope.add(f"state = {state}{' and state >= 2' if state >= model.DeliveryState.Dead else ''}")
    if where.reason is not None:
        _add_delivery_reason(scope, where.reason)
    listeners = await listener_numbers(connection, where.namespace, where.tenant, where.listener)
    routes = await route_numbers(connection, listeners, where.route, where.destination)
    if routes is not None:
        scope.add("route = any({}::integer[])", sorted(routes))
    await scope.add_period(connection, "created_at", where.since, where.until)
    return scope


def _add_delivery_reason(scope: RowScope, reason: str) -> None:
    if reason in model.HoldReason.__members__:
        scope.add("hold = {}", int(model.HoldReason[reason]))
    elif reason in model.CancelReason.__members__:
        scope.add("cancel = {}", int(model.CancelReason[reason]))
    else:
        scope.add("error = {}", reason)


async def deliveries_of_visit(connection: Connection, visit: bytes) -> list[int]:
    """Return the keys of the deliveries of an arrival, also of those that a release or a replay created.

    Raises:
        NotFoundError: the arrival does not exist.
    """
    arrival = model.key_of(visit)
    verdicts = await connection.fetchval("select verdicts from arrivals where key = $1 and id = $2", arrival, visit)
    if verdicts is None:
        raise model.NotFoundError("there is no such visit", "use an id from `usher visits list`")
    later = await connection.fetch("select key from deliveries where origin > 0 and arrival = $1", arrival)
    return [*(delivery for _, _, delivery in _decode(verdicts) if delivery), *(key for (key,) in later)]


async def listener_numbers(
    connection: Connection, namespace: str | None, tenant: str | None, listener: str | None
) -> set[int] | None:
    """Return the numbers of the listeners with these names; None if all names are None."""
    if namespace is None and tenant is None and listener is None:
        return None
    statement = """
        select number from listeners where ($1::text is null or namespace = $1)
        and ($2::text is null or tenant = $2) and ($3::text is null or listener = $3)
    """
    return {number for (number,) in await connection.fetch(statement, namespace, tenant, listener)}


async def route_numbers(
    connection: Connection, listeners: set[int] | None, route: str | None, destination: str | None
) -> set[int] | None:
    """Return the numbers of the selected route definitions; None means all of them."""
    if listeners is None and route is None and destination is None:
        return None
    statement = """
        select r.number from routes r join destinations d on d.number = r.destination
        where ($1::text is null or r.name = $1) and ($2::text is null or d.key = $2)
        and ($3::integer[] is null or r.listener = any($3))
    """
    numbers = None if listeners is None else sorted(listeners)
    return {number for (number,) in await connection.fetch(statement, route, destination, numbers)}


# From a scope to the keys of its rows


async def newest(connection: Connection, scope: RowScope, limit: int) -> tuple[list[int], int | None]:
    """Return at most ``limit`` keys of a scope, newest first, and the key below which to go on (None: at the end)."""
    if scope.keys is not None:
        scope.add("key = any({}::bigint[])", scope.keys)
        found = await _matching(connection, scope, scope.high, len(scope.keys))
        return found[:limit], found[limit - 1] if len(found) > limit else None
    found = []
    high, end = scope.high, time.monotonic() + PAGE_SECONDS
    low = scope.low
    while high > low:
        scope.low = await _window_end(connection, scope.table, low, high)
        found += await _matching(connection, scope, high, limit + 1 - len(found))
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        high = scope.low
        if time.monotonic() > end:
            return found, high if high > low else None
    return found, None


async def _window_end(connection: Connection, table: str, low: int, high: int) -> int:
    statement = f"select key from {table} where key >= $1 and key < $2 order by key desc limit 1 offset $3"  # noqa: S608
    return int(await connection.fetchval(statement, low, high, _WINDOW - 1) or low)


async def _matching(connection: Connection, scope: RowScope, high: int, limit: int) -> list[int]:
    """Return at most ``limit`` keys of a window, newest first."""
    if scope.routes is None and scope.skip is None:
        statement = f"select key from {scope.table} where {scope.condition()} order by key desc limit {limit}"  # noqa: S608
        return [key for (key,) in await connection.fetch(statement, *scope.all_values(high))]
    statement = f"select key, verdicts from {scope.table} where {scope.condition()} order by key desc"  # noqa: S608
    found = await connection.fetch(statement, *scope.all_values(high))
    return [key for key, packed in found if matching_verdicts(packed, scope.routes, scope.skip, any_skip=False)][:limit]


async def key_at(connection: Connection, table: str, column: str, instant: int) -> int:
    """Return the first key whose row has at least this instant, by binary search.

    Row keys grow with time, but the clocks of earlier processes made them.
    """
    low, high = await connection.fetchrow(f"select coalesce(min(key), 0), coalesce(max(key), 0) + 1 from {table}")  # noqa: S608
    statement = f"select key, {column} from {table} where key >= $1 and key < $2 order by key limit 1"  # noqa: S608
    while low < high:
        middle = (low + high) // 2
        row = await connection.fetchrow(statement, middle, high)
        if row is None or row[1] >= instant:
            high = middle
        else:
            low = row[0] + 1
    return int(low)
