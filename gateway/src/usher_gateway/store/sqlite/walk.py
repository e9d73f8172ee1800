"""Walking a table from its newest row down, in windows: a filter that matches little ends a page, never a reader.

Keys grow with time, so a period of time is a range of keys; it is found by halving, whatever clock made the keys.
"""

import base64
import binascii
import sqlite3
import time

import msgspec

from usher_gateway import model
from usher_gateway.store.sqlite import rows

PAGE_SECONDS = 1.5
"""A page that has looked for this long ends with what it has found, and a cursor."""

_WINDOW = 10_000
"""Rows between two looks at the clock."""

_SLACK = 60 * model.MICROSECONDS
"""Rows may be younger than their neighbours by the time that an arrival waits for its commit."""

_HIGHEST = (1 << 63) - 1


class Scope(msgspec.Struct):
    """Which rows of a table are meant."""

    table: str
    terms: list[str] = msgspec.field(default_factory=list)
    """Conditions, joined by ``and``; constants and ``?`` only."""
    values: list[object] = msgspec.field(default_factory=list)
    index_terms: str = "true"
    """Conditions that pick a partial index: the walk goes over that index then, not over the table."""
    low: int = 0
    high: int = _HIGHEST
    """Keys in [low, high)."""
    keys: list[int] | None = None
    """The only keys that can be meant; None: any."""

    def add(self, term: str, *values: object) -> None:
        """Demand one thing more."""
        self.terms.append(term)
        self.values += values

    def add_numbers(self, column: str, numbers: "list[int] | set[int]") -> None:
        """Demand that a column is one of some numbers."""
        self.terms.append(f"{column} in ({','.join([str(int(number)) for number in sorted(numbers)])})")

    def add_period(self, connection: sqlite3.Connection, column: str, since: int | None, until: int | None) -> None:
        """Demand an instant in [since, until)."""
        if since is not None:
            self.low = max(self.low, key_at(connection, self.table, column, since - _SLACK))
            self.add(f"{column} >= ?", since)
        if until is not None:
            self.high = min(self.high, key_at(connection, self.table, column, until + _SLACK))
            self.add(f"{column} < ?", until)

    @property
    def where(self) -> str:
        """All conditions but the keys."""
        return " and ".join([self.index_terms, *self.terms])


def newest(connection: sqlite3.Connection, scope: Scope, limit: int) -> tuple[list[int], int | None]:
    """Keys of a scope, newest first, at most ``limit``; and below which key there may be more (None: nowhere)."""
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


def _window_end(connection: sqlite3.Connection, scope: Scope, high: int) -> int:
    statement = (
        f"select key from {scope.table} where {scope.index_terms} and key >= ? and key < ?"  # noqa: S608
        " order by key desc limit 1 offset ?"
    )
    row = connection.execute(statement, (scope.low, high, _WINDOW - 1)).fetchone()
    return int(row[0]) if row else scope.low


def _named(connection: sqlite3.Connection, scope: Scope, limit: int) -> tuple[list[int], int | None]:
    wanted = sorted([key for key in scope.keys or () if scope.low <= key < scope.high], reverse=True)
    statement = f"select key from {scope.table} where {scope.where} and key = ?"  # noqa: S608
    found = [key for key in wanted if connection.execute(statement, (*scope.values, key)).fetchone()]
    return found[:limit], found[limit - 1] if len(found) > limit else None


def key_at(connection: sqlite3.Connection, table: str, column: str, instant: int) -> int:
    """The key from which on rows have an instant of at least this; found by halving."""
    # Each in a statement of its own: SQLite looks up one extreme, but walks the table for two.
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


def listener_numbers(
    connection: sqlite3.Connection, namespace: str | None, tenant: str | None, listener: str | None
) -> set[int] | None:
    """Numbers of the listeners with these names; None if no name is given."""
    names = {"namespace": namespace, "tenant": tenant, "listener": listener}
    given = {column: name for column, name in names.items() if name is not None}
    if not given:
        return None
    statement = f"select number from listeners where {' and '.join([f'{column} = ?' for column in given])}"  # noqa: S608
    return {number for (number,) in connection.execute(statement, tuple(given.values()))}


def route_numbers(
    connection: sqlite3.Connection, listeners: set[int] | None, route: str | None, destination: str | None
) -> set[int] | None:
    """Numbers of the route definitions that are meant; None if every one is."""
    if listeners is None and route is None and destination is None:
        return None
    statement = (
        "select r.number, r.listener from routes r join destinations d on d.number = r.destination"
        " where (?1 is null or r.name = ?1) and (?2 is null or d.key = ?2)"
    )
    found = connection.execute(statement, (route, destination))
    return {number for number, listener in found if listeners is None or listener in listeners}


def cursor_of(key: int | None) -> str | None:
    """A row key as a cursor: opaque text."""
    return None if key is None else base64.urlsafe_b64encode(key.to_bytes(8)).decode().rstrip("=")


def key_of_cursor(cursor: str) -> int:
    """The row key of a cursor.

    Raises:
        ValueError: it is none of ours.
    """
    try:
        packed = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("the cursor is none of this gateway's") from error
    if len(packed) != 8:
        raise ValueError("the cursor is none of this gateway's")
    return int.from_bytes(packed)


def columns_by_key(connection: sqlite3.Connection, statement: str, keys: "list[int]") -> dict[int, rows.Found]:
    """Rows of a statement with ``in ({})``, by their first column."""
    return {row[0]: row for row in rows.select_in(connection, statement, sorted(keys))}
