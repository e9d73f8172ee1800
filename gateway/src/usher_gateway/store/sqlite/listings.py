"""Listings: pages of the ledger and of the deliveries as JSON, one body or answer, and the arrivals of a person.

Listings contain no bodies and no person keys. The second half of the module selects the rows, also for meters and for
changes that people request.

A filter becomes a ``RowScope``, and a walk finds its rows. The walk goes from the newest row down, in windows. If a
filter matches few rows, the page ends early with a cursor, so that no reader lasts long. Row keys grow with time, so a
period is a range of keys. It is found by binary search, because clocks of earlier processes made the keys.
"""

import heapq
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Filter, ListingPage, VisitBody
from usher_gateway.store.encodings import (
    FLAG_RELEASED,
    split_person_keys,
    unpack_body,
)
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
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.transaction import persons_folded_to

_WINDOW = 10_000
"""Rows per window; the walk checks the clock after each window."""

_HIGHEST = (1 << 63) - 1

_decode = msgspec.msgpack.decode


def visits(connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """Return a page of arrivals with their verdicts, newest first (``Store.visits``)."""
    scope = arrivals_scope(connection, where)
    keys, below = newest_page(connection, scope, cursor, limit)
    return ListingPage(_arrival_rows(connection, keys), cursor_of(below))


def deliveries(connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int) -> ListingPage:
    """Return a page of deliveries, newest first (``Store.deliveries``)."""
    keys, below = delivery_keys(connection, where, cursor, limit)
    return ListingPage(_delivery_rows(connection, keys), cursor_of(below))


def _arrival_rows(connection: sqlite3.Connection, keys: list[int]) -> list[JSONRow]:
    statement = (
        "select a.key, a.id, a.received_at, a.visit_time, a.counted_as, a.flags, a.reason, a.hops, a.body_size,"
        " a.verdicts, l.namespace, l.tenant, l.listener,"
        " (select body is not null from bodies b where b.key = a.key)"
        " from arrivals a join listeners l on l.number = a.listener where a.key in ({})"
    )
    found = database.rows_by_key(connection, statement, keys)
    verdicts = {key: _decode(found[key][9]) for key in found}
    names = _route_names(connection, {route for one in verdicts.values() for route, _, _ in one})
    made = [delivery for one in verdicts.values() for _, _, delivery in one if delivery]
    states = database.rows_by_key(connection, "select key, id, state, hold from deliveries where key in ({})", made)
    replays = _replays(connection, list(found))
    return [arrival_row(found[key], verdicts[key], names, states, replays) for key in keys if key in found]


def _replays(connection: sqlite3.Connection, arrivals: list[int]) -> dict[tuple[int, int], tuple[Any, ...]]:
    """Return (arrival, route) -> (…, id, state, hold, creation) of the deliveries that replays created."""
    statement = (
        "select arrival, route, id, state, hold, created_at from deliveries"
        " where origin > 0 and origin = 2 and arrival in ({})"
    )
    return {(row[0], row[1]): row for row in database.select_in(connection, statement, arrivals)}


def _delivery_rows(connection: sqlite3.Connection, keys: list[int]) -> list[JSONRow]:
    statement = (
        "select d.key, d.id, d.route, d.state, d.hold, d.waiting, d.attempts, d.due_at, d.created_at, d.started_at,"
        " d.expires_at, d.settled_at, d.origin, d.cancel, d.status, d.error, length(d.answer), a.id"
        " from deliveries d join arrivals a on a.key = d.arrival where d.key in ({})"
    )
    found = database.rows_by_key(connection, statement, keys)
    names = _route_names(connection, {row[2] for row in found.values()})
    return [delivery_row(found[key], names[found[key][2]]) for key in keys if key in found]


def _route_names(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, tuple[Any, ...]]:
    """Return number -> (number, namespace, tenant, listener, route, destination)."""
    statement = (
        "select r.number, l.namespace, l.tenant, l.listener, r.name, d.key from routes r"
        " join listeners l on l.number = r.listener join destinations d on d.number = r.destination"
        " where r.number in ({})"
    )
    return database.rows_by_key(connection, statement, sorted(numbers))


# One row's content


def visit_bodies(connection: sqlite3.Connection, where: Filter, limit: int, after: int) -> list[VisitBody]:
    """Return the bodies of visits and repeats (``Store.visit_bodies``)."""
    scope = arrivals_scope(connection, where)
    scope.add(f"counted_as in ({int(model.CountedAs.Visit)}, {int(model.CountedAs.Repeat)})")
    rows = f"select key, listener, counted_as from arrivals where {scope.where} and key > ? and key >= ? and key < ?"  # noqa: S608
    statement = (
        "select a.key, l.namespace, l.tenant, l.listener, a.counted_as, b.content_type, b.body"  # noqa: S608
        f" from ({rows} order by key limit ?) a join listeners l on l.number = a.listener"
        " left join bodies b on b.key = a.key order by a.key"
    )
    found = connection.execute(statement, (*scope.values, after, scope.low, scope.high, limit))
    return [
        VisitBody(
            key,
            model.ListenerName(namespace, tenant, listener),
            model.CountedAs(counted_as),
            content_type or b"",
            unpack_body(body) if body is not None else None,
        )
        for key, namespace, tenant, listener, counted_as, content_type, body in found
    ]


def body(connection: sqlite3.Connection, arrival: bytes) -> tuple[bytes, bytes]:
    """Return body and content type of an arrival (``Store.body``)."""
    statement = (
        "select b.body, b.content_type from bodies b join arrivals a on a.key = b.key"
        " where b.key = ? and a.id = ? and b.body is not null"
    )
    row = connection.execute(statement, (model.key_of(arrival), arrival)).fetchone()
    if row is None:
        raise model.NotFoundError("there is no such arrival, or its body was deleted")
    return unpack_body(row[0]), row[1] or b""


def answer(connection: sqlite3.Connection, delivery: bytes) -> bytes:
    """Return the last answer to a dead delivery (``Store.answer``)."""
    statement = "select answer from deliveries where key = ? and id = ? and answer is not null"
    row = connection.execute(statement, (model.key_of(delivery), delivery)).fetchone()
    if row is None:
        raise model.NotFoundError("there is no such delivery, or it has no answer")
    return bytes(row[0])


# Persons


def arrivals_of_person(connection: sqlite3.Connection, keys: Sequence[bytes]) -> set[int]:
    """Return the row keys of arrivals with one of the person keys, from all segments and from the newest arrivals."""
    statement = "select p.arrival from person_segments s join persons p on p.segment = s.segment where p.person = ?"
    found = {arrival for key in keys for (arrival,) in connection.execute(statement, (key,))}
    wanted = set(keys)
    rows = connection.execute("select key, persons from arrivals where key > ?", (persons_folded_to(connection),))
    return found | {arrival for arrival, packed in rows if wanted.intersection(split_person_keys(packed))}


def person_ids(
    connection: sqlite3.Connection, arrivals: set[int], tenant: tuple[str, str], keys: Sequence[bytes]
) -> list[bytes]:
    """Return the ids of those arrivals that belong to a tenant (namespace, name) and have one of the keys.

    arrivals_of_person() searches all tenants, so this checks each row again. The newest arrival comes first.
    """
    numbers = listener_numbers(connection, *tenant, None) or set()
    statement = "select key, id, listener, persons from arrivals where key in ({})"
    found = database.rows_by_key(connection, statement, list(arrivals))
    wanted = set(keys)
    return [
        found[key][1]
        for key in sorted(found, reverse=True)
        if found[key][2] in numbers and wanted.intersection(split_person_keys(found[key][3]))
    ]


# From a filter to a scope


class RowScope(msgspec.Struct):
    """The rows of a table that a filter selects."""

    table: str
    terms: list[str] = msgspec.field(default_factory=list)
    """Conditions, joined by ``and``; constants and ``?`` only."""
    values: list[object] = msgspec.field(default_factory=list)
    index_terms: str = "true"
    """Conditions that select a partial index; then the walk goes over that index and not over the table."""
    low: int = 0
    high: int = _HIGHEST
    """Only keys in [low, high)."""
    keys: list[int] | None = None
    """The only keys to consider; None: any."""

    def add(self, term: str, *values: object) -> None:
        """Add a condition."""
        self.terms.append(term)
        self.values += values

    def add_ids(self, ids: tuple[bytes, ...]) -> None:
        """Require one of some ids, if there are any; compare also their random bits, which a key does not have."""
        if ids:
            self.keys = [model.key_of(identifier) for identifier in ids]
            self.add(f"id in ({','.join('?' * len(ids))})", *ids)

    def add_numbers(self, column: str, numbers: "list[int] | set[int]") -> None:
        """Require that a column has one of some numbers."""
        self.terms.append(f"{column} in ({','.join([str(int(number)) for number in sorted(numbers)])})")

    def add_period(self, connection: sqlite3.Connection, column: str, since: int | None, until: int | None) -> None:
        """Require an instant in [since, until)."""
        if since is not None:
            self.low = max(self.low, key_at(connection, self.table, column, since - SLACK))
            self.add(f"{column} >= ?", since)
        if until is not None:
            self.high = min(self.high, key_at(connection, self.table, column, until + SLACK))
            self.add(f"{column} < ?", until)

    @property
    def where(self) -> str:
        """All conditions except those on the key."""
        return " and ".join([self.index_terms, *self.terms])


def delivery_keys(
    connection: sqlite3.Connection, where: Filter, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Return the keys of the deliveries that a filter selects, newest first, and the key below which to go on."""
    scope = deliveries_scope(connection, where)
    if where.state == HELD and scope.keys is None:
        return _newest_held(connection, scope, cursor, limit)
    return newest_page(connection, scope, cursor, limit)


def newest_page(
    connection: sqlite3.Connection, scope: RowScope, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Return a page of keys below a cursor: the keys, newest first, and the key below which to go on."""
    if cursor is not None:
        scope.high = min(scope.high, key_of_cursor(cursor))
    return newest(connection, scope, min(max(limit, 1), LONGEST_PAGE))


def arrivals_scope(connection: sqlite3.Connection, where: Filter) -> RowScope:
    """Return the scope of the arrivals that a filter selects.

    Raises:
        ValueError: the filter has an unknown name of a reason or a state, or selects deliveries of a visit.
    """
    if where.visit is not None:
        raise ValueError("visit selects deliveries; select visits with their ids")
    scope = RowScope("arrivals")
    scope.add_ids(where.ids)
    counted_as = member(model.CountedAs, where.counted_as, "countedAs")
    skip = None
    if where.reason is not None:
        if where.reason in model.QuarantineReason.__members__:
            counted_as = model.CountedAs.Quarantined
            scope.add("reason = ?", int(model.QuarantineReason[where.reason]))
        else:
            skip = member(model.SkipReason, where.reason, "reason", *model.QuarantineReason.__members__)
    if counted_as is model.CountedAs.Quarantined:
        scope.index_terms = "counted_as = 5"
    elif counted_as is not None:
        scope.add("counted_as = ?", int(counted_as))
    if where.state is not None:
        _require_released(scope, where.state)
    listeners = listener_numbers(connection, where.namespace, where.tenant, where.listener)
    if listeners is not None:
        scope.add_numbers("listener", listeners)
    _require_verdict(connection, scope, where, skip)
    scope.add_period(connection, "received_at", where.since, where.until)
    return scope


def _require_released(scope: RowScope, state: str) -> None:
    if state not in {RELEASED, UNRELEASED}:
        raise ValueError(f"state must be {RELEASED} or {UNRELEASED}")
    scope.add(f"flags & {FLAG_RELEASED} {'>' if state == RELEASED else '='} 0")


def _require_verdict(
    connection: sqlite3.Connection, scope: RowScope, where: Filter, skip: model.SkipReason | None
) -> None:
    """Require a verdict with one of the selected routes and with the selected skip reason."""
    routes = route_numbers(connection, None, where.route, where.destination)
    if routes is None and skip is None:
        return

    def fits(verdicts: bytes) -> bool:
        return bool(matching_verdicts(verdicts, routes, skip, any_skip=False))

    connection.create_function("verdict_fits", 1, fits, deterministic=True)
    scope.add("verdict_fits(verdicts)")


def deliveries_scope(connection: sqlite3.Connection, where: Filter) -> RowScope:
    """Return the scope of the deliveries that a filter selects.

    Raises:
        ValueError: the filter has an unknown name of a state.
        NotFoundError: the visit does not exist.
    """
    scope = RowScope("deliveries")
    scope.add_ids(where.ids)
    if where.visit is not None:
        made = deliveries_of_visit(connection, where.visit)
        scope.keys = [key for key in made if scope.keys is None or key in scope.keys]
    if where.state == HELD:
        scope.add("hold > 0")
    elif where.state is not None:
        state = member(model.DeliveryState, where.state, "state", HELD)
        assert state is not None
        if state >= model.DeliveryState.Dead:
            scope.index_terms = f"state >= 2 and state = {int(state)}"
        else:
            scope.add("state = ?", int(state))
    if where.reason is not None:
        _require_delivery_reason(scope, where.reason)
    listeners = listener_numbers(connection, where.namespace, where.tenant, where.listener)
    routes = route_numbers(connection, listeners, where.route, where.destination)
    if routes is not None:
        scope.add_numbers("route", routes)
    scope.add_period(connection, "created_at", where.since, where.until)
    return scope


def deliveries_of_visit(connection: sqlite3.Connection, visit: bytes) -> list[int]:
    """Return the keys of the deliveries of an arrival, also of those that a release or a replay created.

    Raises:
        NotFoundError: the arrival does not exist.
    """
    arrival = model.key_of(visit)
    row = connection.execute("select verdicts from arrivals where key = ? and id = ?", (arrival, visit)).fetchone()
    if row is None:
        raise model.NotFoundError("there is no such visit", "use an id from `usher visits list`")
    later = connection.execute("select key from deliveries where origin > 0 and arrival = ?", (arrival,))
    return [*(delivery for _, _, delivery in _decode(row[0]) if delivery), *(key for (key,) in later)]


def _require_delivery_reason(scope: RowScope, reason: str) -> None:
    if reason in model.HoldReason.__members__:
        scope.add("hold = ?", int(model.HoldReason[reason]))
    elif reason in model.CancelReason.__members__:
        scope.add("cancel = ?", int(model.CancelReason[reason]))
    else:
        scope.add("error = ?", reason)


def _newest_held(
    connection: sqlite3.Connection, scope: RowScope, cursor: str | None, limit: int
) -> tuple[list[int], int | None]:
    """Merge the held deliveries from their groups, because the index is sorted by group."""
    high = scope.high if cursor is None else min(scope.high, key_of_cursor(cursor))
    limit = min(max(limit, 1), LONGEST_PAGE)
    statement = (
        f"select key from deliveries where hold = ? and route = ? and {scope.where} and key >= ? and key < ?"  # noqa: S608
        " order by key desc limit ?"
    )
    found: list[int] = []
    for hold, route in held_pairs(connection):
        values = (hold, route, *scope.values, scope.low, high, limit + 1)
        found = heapq.nlargest(limit + 1, [*found, *[key for (key,) in connection.execute(statement, values)]])
    return found[:limit], found[limit - 1] if len(found) > limit else None


def held_pairs(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """Return the (hold reason, route) of all held deliveries; jumps through the index from one pair to the next."""
    statement = (
        "select hold, route from deliveries where hold > 0 and (hold, route) > (?, ?) order by hold, route limit 1"
    )
    found: list[tuple[int, int]] = []
    while (row := connection.execute(statement, found[-1] if found else (0, 0)).fetchone()) is not None:
        found.append(row)
    return found


def listener_numbers(
    connection: sqlite3.Connection, namespace: str | None, tenant: str | None, listener: str | None
) -> set[int] | None:
    """Return the numbers of the listeners with these names; None if all names are None."""
    names = {"namespace": namespace, "tenant": tenant, "listener": listener}
    given = {column: name for column, name in names.items() if name is not None}
    if not given:
        return None
    statement = f"select number from listeners where {' and '.join([f'{column} = ?' for column in given])}"  # noqa: S608
    return {number for (number,) in connection.execute(statement, tuple(given.values()))}


def route_numbers(
    connection: sqlite3.Connection, listeners: set[int] | None, route: str | None, destination: str | None
) -> set[int] | None:
    """Return the numbers of the selected route definitions; None means all of them."""
    if listeners is None and route is None and destination is None:
        return None
    statement = (
        "select r.number, r.listener from routes r join destinations d on d.number = r.destination"
        " where (?1 is null or r.name = ?1) and (?2 is null or d.key = ?2)"
    )
    found = connection.execute(statement, (route, destination))
    return {number for number, listener in found if listeners is None or listener in listeners}


# From a scope to the keys of its rows


def newest(connection: sqlite3.Connection, scope: RowScope, limit: int) -> tuple[list[int], int | None]:
    """Return at most ``limit`` keys of a scope, newest first, and the key below which to go on (None: at the end)."""
    if scope.keys is not None:
        return _named(connection, scope, limit)
    found: list[int] = []
    high, end = scope.high, time.monotonic() + PAGE_SECONDS
    while high > scope.low:
        low = _window_end(connection, scope, high)
        statement = (
            f"select key from {scope.table} where {scope.where} and key >= ? and key < ? order by key desc limit ?"  # noqa: S608
        )
        values = (*scope.values, low, high, limit + 1 - len(found))
        found += [key for (key,) in connection.execute(statement, values)]
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        high = low
        if time.monotonic() > end:
            return found, high if high > scope.low else None
    return found, None


def _window_end(connection: sqlite3.Connection, scope: RowScope, high: int) -> int:
    statement = (
        f"select key from {scope.table} where {scope.index_terms} and key >= ? and key < ?"  # noqa: S608
        " order by key desc limit 1 offset ?"
    )
    row = connection.execute(statement, (scope.low, high, _WINDOW - 1)).fetchone()
    return int(row[0]) if row else scope.low


def _named(connection: sqlite3.Connection, scope: RowScope, limit: int) -> tuple[list[int], int | None]:
    wanted = sorted([key for key in scope.keys or () if scope.low <= key < scope.high], reverse=True)
    statement = f"select key from {scope.table} where {scope.where} and key = ?"  # noqa: S608
    found = [key for key in wanted if connection.execute(statement, (*scope.values, key)).fetchone()]
    return found[:limit], found[limit - 1] if len(found) > limit else None


def key_at(connection: sqlite3.Connection, table: str, column: str, instant: int) -> int:
    """Return the first key whose row has at least this instant, by binary search."""
    # Two statements, because SQLite looks up one extreme, but walks the table for both.
    (low,) = connection.execute(f"select coalesce(min(key), 0) from {table}").fetchone()  # noqa: S608
    (high,) = connection.execute(f"select coalesce(max(key), 0) + 1 from {table}").fetchone()  # noqa: S608
    statement = f"select key, {column} from {table} where key >= ? and key < ? order by key limit 1"  # noqa: S608
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(statement, (middle, high)).fetchone()
        if row is None or row[1] >= instant:
            high = middle
        else:
            low = row[0] + 1
    return int(low)
