"""Selects rows: a filter becomes a ``RowScope``, and a walk finds its rows' keys.

The walk goes from the newest row down, in windows. If a filter matches few rows, the walk ends early, so that no query
lasts long. Row keys grow with time, so a period is a key range. It is found by binary search, because the clocks in
earlier processes made the keys. A page ends with a cursor, from which the next one goes on.
"""

import base64
import binascii
import heapq
import time
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import LONGEST_PAGE, RELEASED, UNRELEASED, Filter
from usher_gateway.store.encodings import FLAG_OTHER_COMPANY, FLAG_RELEASED, FLAG_UNTRUSTED_TIME
from usher_gateway.store.session import Session

_BEHIND = model.HOUR  # One gateway's clock may be behind another's by this time
HELD = "held"  # The state of pending deliveries that wait for a cause to end
NOT_TRIED = "NotTried"  # The reason of pending deliveries without an attempt, unless they are held
_PAGE_SECONDS = 1.5  # A page ends after this time, with the rows found so far and a cursor

# Instants of neighbouring rows may be out of order by the time that an arrival waits for its commit.
_SLACK = 60 * model.MICROSECONDS

_WINDOW = 10_000  # Rows per window; the walk checks the clock after each window

_HIGHEST = (1 << 63) - 1

_LISTENER_NUMBERS = """
    select number, namespace, tenant from listeners where ($1::text is null or namespace = $1)
    and ($2::text is null or tenant = $2) and ($3::text is null or listener = $3)
"""
_ROUTE_NUMBERS = """
    select r.number, l.namespace, l.tenant from routes r join destinations d on d.number = r.destination
    join listeners l on l.number = r.listener
    where ($1::text is null or l.namespace = $1) and ($2::text is null or l.tenant = $2)
    and ($3::text is null or l.listener = $3) and ($4::text is null or r.name = $4)
    and ($5::text is null or d.key = $5)
"""
_NEXT_HELD_GROUP = """
    select hold, route from deliveries where hold > 0 and (hold, route) > ($1, $2) order by hold, route limit 1
"""

_decode = msgspec.msgpack.decode


class RowScope(msgspec.Struct):
    """The rows in a table that a filter selects."""

    table: str
    index_terms: str = "true"
    """Conditions that select a partial index; then the walk goes over that index and not over the table."""
    terms: list[str] = msgspec.field(default_factory=list)
    """More conditions, with numbered values."""
    values: list[object] = msgspec.field(default_factory=list)
    low: int = 0
    high: int = _HIGHEST
    """Only keys in [low, high)."""
    keys: list[int] | None = None
    """The only keys to consider; None: any."""
    routes: set[int] | None = None
    """Arrivals: only those with a verdict from one of these routes."""
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
            self.add(f"id in ({', '.join(['{}'] * len(ids))})", *ids)

    def add_id_range(self, id_range: tuple[bytes, bytes] | None) -> None:
        """Require an id in a range, both ends included."""
        if id_range is not None:
            lowest, highest = id_range
            self.low, self.high = max(self.low, model.key_of(lowest)), min(self.high, model.key_of(highest) + 1)
            self.add("id >= {} and id <= {}", lowest, highest)

    def add_numbers(self, column: str, numbers: Collection[int]) -> None:
        """Require that a column has one of some numbers."""
        self.terms.append(f"{column} in ({', '.join(map(str, sorted(numbers)))})" if numbers else "false")

    async def add_period(self, session: Session, column: str, since: int | None, until: int | None) -> None:
        """Require an instant in [since, until)."""
        if since is not None:
            self.low = max(self.low, await key_at(session, self.table, column, since - _SLACK))
            self.add(f"{column} >= {{}}", since)
        if until is not None:
            self.high = min(self.high, await key_at(session, self.table, column, until + _SLACK))
            self.add(f"{column} < {{}}", until)

    def condition(self) -> str:
        """Return all conditions, with those on the key."""
        return " and ".join([self.index_terms, "key >= $1", "key < $2", *self.terms])

    def all_values(self, low: int | None = None, high: int | None = None) -> list[object]:
        """Return the values of all conditions; ``low`` and ``high`` override the key's bounds."""
        return [self.low if low is None else low, self.high if high is None else high, *self.values]


async def arrivals_scope(session: Session, where: Filter) -> RowScope:
    """Return the scope for the arrivals that a filter selects.

    Raises:
        ValueError: the filter has an unknown reason or state, or selects a visit's deliveries.
    """
    if where.visit is not None or where.replay is not None:
        raise ValueError("visit and replay select deliveries; select visits with their ids")
    scope = RowScope("arrivals")
    scope.add_ids(where.ids)
    scope.add_id_range(where.id_range)
    counted_as = _member(model.CountedAs, where.counted_as, "countedAs")
    if where.reason is not None:
        if where.reason == model.QuarantineReason.CompanyMismatch.name:  # some tenants have such visits accepted
            scope.add(
                "(reason = {} or flags & {} > 0)", int(model.QuarantineReason.CompanyMismatch), FLAG_OTHER_COMPANY
            )
        elif where.reason == "TimesUntrusted":
            scope.add(f"flags & {FLAG_UNTRUSTED_TIME} > 0")
        elif where.reason in model.QuarantineReason.__members__:
            counted_as = model.CountedAs.Quarantined
            scope.add("reason = {}", int(model.QuarantineReason[where.reason]))
        else:
            scope.skip = _member(model.SkipReason, where.reason, "reason", *model.QuarantineReason.__members__)
    if counted_as is model.CountedAs.Quarantined:
        scope.index_terms = "counted_as = 5"
    elif counted_as is not None:
        scope.add("counted_as = {}", int(counted_as))
    if where.state is not None:
        if where.state not in {RELEASED, UNRELEASED}:
            raise ValueError(f"state must be {RELEASED} or {UNRELEASED}")
        scope.add(f"flags & {FLAG_RELEASED} {'>' if where.state == RELEASED else '='} 0")
    listeners = await listener_numbers(session, where)
    if listeners is not None:
        scope.add_numbers("listener", listeners)
    scope.routes = await route_numbers(session, Filter(route=where.route, destination=where.destination))
    await scope.add_period(session, "received_at", where.since, where.until)
    return scope


async def deliveries_scope(session: Session, where: Filter) -> RowScope:
    """Return the scope for the deliveries that a filter selects.

    Raises:
        ValueError: the filter has an unknown state.
        NotFoundError: the visit does not exist.
    """
    scope = RowScope("deliveries")
    scope.add_ids(where.ids)
    scope.add_id_range(where.id_range)
    if where.visit is not None:
        deliveries = await deliveries_of_visit(session, where.visit, where.permitted)
        scope.keys = [key for key in deliveries if scope.keys is None or key in scope.keys]
    if where.state == HELD:
        scope.add("hold > 0")
    elif where.state is not None:
        state = int(_member(model.DeliveryState, where.state, "state", HELD))
        if state >= model.DeliveryState.Dead:
            scope.index_terms = f"state >= 2 and state = {state}"
        else:
            scope.add("state = {}", state)
    if where.reason is not None:
        _add_delivery_reason(scope, where.reason)
    if where.replay is not None:
        # Its deliveries came after it, but perhaps from a gateway whose clock is behind.
        scope.low = max(scope.low, model.key_before(model.key_of(where.replay), _BEHIND))
        scope.add("replay = {}", model.key_of(where.replay))
    routes = await route_numbers(session, where)
    if routes is not None:
        scope.add_numbers("route", routes)
    await scope.add_period(session, "created_at", where.since, where.until)
    return scope


def _add_delivery_reason(scope: RowScope, reason: str) -> None:
    if reason in model.HoldReason.__members__:
        scope.add("hold = {}", int(model.HoldReason[reason]))
    elif reason in model.CancelReason.__members__:
        scope.add("cancel = {}", int(model.CancelReason[reason]))
    elif reason == NOT_TRIED:
        scope.terms.append("state = 0 and hold <= 0 and error = ''")
    else:
        scope.add("error = {}", reason)


_VERDICTS = """
    select a.verdicts, l.namespace, l.tenant from arrivals a left join listeners l on l.number = a.listener
    where a.key = $1 and a.id = $2
"""


async def deliveries_of_visit(session: Session, visit: bytes, permitted: frozenset[str] | None) -> list[int]:
    """Return an arrival's delivery keys, also those that a release or a replay created.

    Raises:
        NotFoundError: the arrival does not exist, or its tenant is not permitted.
    """
    arrival = model.key_of(visit)
    rows = await session.fetch(_VERDICTS, arrival, visit)
    packed = [row[0] for row in rows if Filter(permitted=permitted).selects(row[1] or "", row[2] or "")]
    if not packed:
        raise model.NotFoundError("there is no such visit", "use an id from `usher visits list`")
    later = await session.fetch("select key from deliveries where origin > 0 and arrival = $1", arrival)
    return [*[delivery for _, _, delivery in _decode(packed[0]) if delivery], *[key for (key,) in later]]


async def listener_numbers(session: Session, where: Filter) -> set[int] | None:
    """Return the numbers of the listeners that a filter selects by names and permits; None: all."""
    names = (where.namespace, where.tenant, where.listener)
    if names == (None, None, None) and where.permitted is None:
        return None
    rows = await session.fetch(_LISTENER_NUMBERS, *names)
    return {number for number, namespace, tenant in rows if where.selects(namespace, tenant)}


async def route_numbers(session: Session, where: Filter) -> set[int] | None:
    """Return the numbers of the route definitions that a filter selects by names and permits; None: all."""
    names = (where.namespace, where.tenant, where.listener, where.route, where.destination)
    if not any(name is not None for name in names) and where.permitted is None:
        return None
    rows = await session.fetch(_ROUTE_NUMBERS, *names)
    return {number for number, namespace, tenant in rows if where.selects(namespace, tenant)}


# From a scope to the keys of its rows


async def delivery_keys(
    session: Session, where: Filter, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Return the keys of the deliveries that a filter selects, newest first, and the key below which to go on."""
    scope = await deliveries_scope(session, where)
    if where.state == HELD and scope.keys is None:
        return await _newest_held(session, scope, cursor, limit)
    return await newest(session, scope, cursor, limit)


async def newest(session: Session, scope: RowScope, cursor: str | None, limit: int) -> tuple[list[int], int | None]:
    """Return a page with keys below a cursor, newest first, and the key below which to go on.

    The second value is None at the end.
    """
    limit = min(max(limit, 1), LONGEST_PAGE)
    high = scope.high if cursor is None else min(scope.high, key_of_cursor(cursor))
    if scope.keys is not None:
        scope.add_numbers("key", scope.keys)
        keys = await _matching(session, scope, scope.low, high, len(scope.keys))
        return keys[:limit], keys[limit - 1] if len(keys) > limit else None
    keys = []
    end = time.monotonic() + _PAGE_SECONDS
    while high > scope.low:
        low = await _window_end(session, scope, high)
        keys += await _matching(session, scope, low, high, limit + 1 - len(keys))
        if len(keys) > limit:
            return keys[:limit], keys[limit - 1]
        high = low
        if time.monotonic() > end:
            return keys, high if high > scope.low else None
    return keys, None


def page_of(keys: Iterable[int], cursor: str | None, limit: int) -> tuple[list[int], int | None]:
    """Return a page from given keys below a cursor, newest first, and the key below which to go on; None at the end."""
    high = _HIGHEST if cursor is None else key_of_cursor(cursor)
    newest_keys = heapq.nlargest(limit + 1, [key for key in keys if key < high])
    return newest_keys[:limit], newest_keys[limit - 1] if len(newest_keys) > limit else None


async def _window_end(session: Session, scope: RowScope, high: int) -> int:
    statement = f"""
        select key from {scope.table} where {scope.index_terms} and key >= $1 and key < $2
        order by key desc limit 1 offset $3
    """  # noqa: S608 - constants
    rows = await session.fetch(statement, scope.low, high, _WINDOW - 1)
    return int(rows[0][0]) if rows else scope.low


async def _matching(session: Session, scope: RowScope, low: int, high: int, limit: int) -> list[int]:
    """Return at most ``limit`` keys in a window, newest first."""
    values = scope.all_values(low, high)
    if scope.routes is None and scope.skip is None:
        statement = f"select key from {scope.table} where {scope.condition()} order by key desc limit {limit}"  # noqa: S608
        return [key for (key,) in await session.fetch(statement, *values)]
    statement = f"select key, verdicts from {scope.table} where {scope.condition()} order by key desc"  # noqa: S608
    return [key for key, packed in await session.fetch(statement, *values) if has_verdict(packed, scope)][:limit]


def has_verdict(verdicts: bytes, scope: RowScope) -> bool:
    """Return whether an arrival has a verdict with a route and a skip reason that a scope selects."""
    if scope.routes is None and scope.skip is None:
        return True
    return bool(matching_verdicts(verdicts, scope.routes, scope.skip))


async def _newest_held(
    session: Session, scope: RowScope, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Merge the held deliveries from their groups, because the index is sorted by group."""
    high = scope.high if cursor is None else min(scope.high, key_of_cursor(cursor))
    limit = min(max(limit, 1), LONGEST_PAGE)
    keys: list[int] = []
    group = (0, 0)
    while rows := await session.fetch(_NEXT_HELD_GROUP, *group):
        group = tuple(rows[0])
        terms = f"hold = {group[0]} and route = {group[1]} and {scope.condition()}"
        statement = f"select key from deliveries where {terms} order by key desc limit {limit + 1}"  # noqa: S608
        group_keys = [key for (key,) in await session.fetch(statement, *scope.all_values(scope.low, high))]
        keys = heapq.nlargest(limit + 1, [*keys, *group_keys])
    return keys[:limit], keys[limit - 1] if len(keys) > limit else None


async def key_at(session: Session, table: str, column: str, instant: int) -> int:
    """Return the first key whose row has at least this instant, by binary search."""
    # Two statements, because SQLite looks up one extreme, but walks the table for both.
    ((low,),) = await session.fetch(f"select coalesce(min(key), 0) from {table}")  # noqa: S608
    ((high,),) = await session.fetch(f"select coalesce(max(key), 0) + 1 from {table}")  # noqa: S608
    statement = f"select key, {column} from {table} where key >= $1 and key < $2 order by key limit 1"  # noqa: S608
    while low < high:
        middle = (low + high) // 2
        rows = await session.fetch(statement, middle, high)
        if not rows or rows[0][1] >= instant:
            high = middle
        else:
            low = rows[0][0] + 1
    return int(low)


# Names in filters, verdicts and cursors


def _member(kind: Any, name: str | None, field: str, *others: str) -> Any:
    """Return a member by its name, with its first letter in either case; None for None. The message adds ``others``."""
    if name is None:
        return None
    chosen = kind.__members__.get(name[:1].upper() + name[1:])
    if chosen is None:
        names = [f"{member[:1].lower()}{member[1:]}" for member in kind.__members__]
        raise ValueError(f"{field} must be one of {', '.join([*names, *others])}")
    return chosen


def matching_verdicts(
    verdicts: bytes, routes: set[int] | None, skip: model.SkipReason | None
) -> list[tuple[int, int, int]]:
    """Return the verdicts (route, skip reason or 0, delivery key or 0) with one of the routes and the skip reason.

    None selects any route or reason.
    """
    return [
        (route, skipped, delivery)
        for route, skipped, delivery in _decode(verdicts)
        if (routes is None or route in routes) and (skip is None or skipped == skip)
    ]


def cursor_of(key: int | None) -> str | None:
    """Return a row key as a cursor (opaque text)."""
    return None if key is None else base64.urlsafe_b64encode(key.to_bytes(8)).decode().rstrip("=")


def key_of_cursor(cursor: str) -> int:
    """Return a cursor's row key.

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
