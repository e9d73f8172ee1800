"""The writer's open transaction, and the encodings that all its steps share.

One transaction holds everything that a group commit writes. Its steps (accept.py, ``store/jobs/settle.py``) and the
jobs (``store/jobs/``, prune.py, meters.py) get a Transaction: the connection, the caches that they may read, and the
meters to which they add.
"""

import hashlib
import sqlite3
from collections.abc import Sequence
from typing import Literal

import msgspec

from usher_gateway import model
from usher_gateway.store import session
from usher_gateway.store.acceptance import RouteNumbers
from usher_gateway.store.sqlite.recent_index import RecentIndex
from usher_gateway.store.sqlite.session import SqliteSession

SEGMENT_ARRIVALS = 1_024
"""Arrivals per segment of person keys: one statement sorts and appends their keys in a few milliseconds."""

_ROUTE_CACHE_SIZE = 100_000


class NameNumbers:
    """Looks up the numbers of listeners, destinations and route definitions, and adds new ones.

    The store keeps each name once, so that its rows stay small. For the writer's thread only, in an open transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._listeners: dict[model.ListenerName, int] = {}
        self._destinations: dict[str, int] = {}
        self._routes: dict[int, tuple[model.RouteDefinition, RouteNumbers]] = {}
        self._listener_of_route: dict[int, int] = {}
        self._tenants: dict[int, tuple[str, str]] = {}
        self._used_key = 0
        """Arrivals up to this row key may refer to the routes of the cache."""
        self.definitions: dict[int, model.RouteDefinition] = {
            number: msgspec.json.decode(packed, type=model.RouteDefinition)
            for number, packed in connection.execute("select number, definition from routes")
        }
        """Every definition by number. Other threads may read it."""

    def use_until(self, key: int) -> None:
        """Let arrivals up to a row key refer to the routes that are looked up from now on.

        Retention deletes a definition when all arrivals have higher row keys than its column ``used_key``. A day is
        added to it, so that a definition is written once a day.
        """
        if key > self._used_key:
            self._used_key = key + model.KEYS_PER_DAY
            self._routes.clear()

    def drop(self, routes: Sequence[int]) -> None:
        """Forget definitions that retention has deleted."""
        for number in routes:
            self.definitions.pop(number, None)
            self._listener_of_route.pop(number, None)

    def forget(self) -> None:
        """Clear the caches after a rollback, because the transaction may have added numbers."""
        self._listeners.clear()
        self._destinations.clear()
        self._routes.clear()
        self._listener_of_route.clear()
        self._tenants.clear()

    def listener(self, name: model.ListenerName) -> int:
        """Return the number of a listener."""
        number = self._listeners.get(name)
        if number is None:
            values = (name.namespace, name.tenant, name.listener)
            self._connection.execute(
                "insert or ignore into listeners (namespace, tenant, listener) values (?, ?, ?)", values
            )
            (number,) = self._connection.execute(
                "select number from listeners where namespace = ? and tenant = ? and listener = ?", values
            ).fetchone()
            self._listeners[name] = number
        return number

    def tenant_of(self, listener: int) -> tuple[str, str]:
        """Return namespace and name of the tenant that a listener belongs to."""
        tenant = self._tenants.get(listener)
        if tenant is None:
            statement = "select namespace, tenant from listeners where number = ?"
            namespace, name = self._connection.execute(statement, (listener,)).fetchone()
            tenant = self._tenants[listener] = (namespace, name)
        return tenant

    def listeners_of(self, namespace: str, tenant: str) -> set[int]:
        """Return the numbers of all listeners that a tenant ever had."""
        statement = "select number from listeners where namespace = ? and tenant = ?"
        return {row[0] for row in self._connection.execute(statement, (namespace, tenant))}

    def destination(self, key: str) -> int:
        """Return the number of a destination."""
        number = self._destinations.get(key)
        if number is None:
            self._connection.execute("insert or ignore into destinations (key) values (?)", (key,))
            (number,) = self._connection.execute("select number from destinations where key = ?", (key,)).fetchone()
            self._destinations[key] = number
        return number

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """Return the numbers of a route definition.

        The cache compares objects by identity (the configuration keeps them alive), because hashing the fields for
        every arrival would cost more than the rest of its verdict.
        """
        cached = self._routes.get(id(definition))
        if cached is not None and cached[0] is definition:
            return cached[1]
        if len(self._routes) > _ROUTE_CACHE_SIZE:
            self._routes.clear()
        numbers = self._store(definition)
        self._routes[id(definition)] = (definition, numbers)
        return numbers

    def listener_of_route(self, route: int) -> int:
        """Return the number of the listener that a route belongs to."""
        listener = self._listener_of_route.get(route)
        if listener is None:
            (listener,) = self._connection.execute("select listener from routes where number = ?", (route,)).fetchone()
            self._listener_of_route[route] = listener
        return int(listener)

    def _store(self, definition: model.RouteDefinition) -> RouteNumbers:
        packed = msgspec.json.encode(definition)
        digest = hashlib.blake2b(packed, digest_size=16).digest()
        listener, destination = self.listener(definition.listener), self.destination(definition.destination)
        self._connection.execute(
            "insert or ignore into routes (hash, listener, name, destination, definition, used_key)"
            " values (?, ?, ?, ?, ?, ?)",
            (digest, listener, definition.route, destination, packed, self._used_key),
        )
        statement = "update routes set used_key = ? where hash = ? and used_key < ?"
        self._connection.execute(statement, (self._used_key, digest, self._used_key))
        (number,) = self._connection.execute("select number from routes where hash = ?", (digest,)).fetchone()
        self.definitions[number] = definition
        return RouteNumbers(number, listener, destination)


class Transaction(session.Transaction):
    """One open transaction on SQLite."""

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        ids: model.IdFactory,
        names: NameNumbers,
        recent_index: RecentIndex,
        month_visits: dict[tuple[str, str, int], int],
        claimed: set[int],
        lanes_from: int,
    ) -> None:
        self.connection = connection
        self.session = SqliteSession(connection)
        self.ids = ids
        self.owner = 0  # the lock of the folder proves that all claimed deliveries are this process's
        self.names: NameNumbers = names
        self.meters = {}
        self.recent_index = recent_index
        self.month_visits = month_visits
        """See DedupeFacts.month_visits."""
        self._claimed_before = claimed
        self.lanes_from = lanes_from
        """Claimed deliveries have this row key or a higher one."""
        self.claimed: list[int] = []
        """Keys of the deliveries that this transaction claims for the lanes of this process."""
        self.returned: list[int] = []
        """Keys of the claimed deliveries that this transaction returns to the backlog, or ends."""
        self.deleted_routes: list[int] = []
        """Numbers of the definitions that this transaction deletes."""
        self.checkpoint: Literal["passive", "truncate"] | None = None
        """The checkpoint of the write-ahead log that the writer does after the commit."""

    def destination_of_route(self, route: int) -> int:
        """Return the number of a route's destination."""
        return self.names.destination(self.names.definitions[route].destination)

    def listener(self, name: model.ListenerName) -> int:
        """Return the number of a listener."""
        return self.names.listener(name)

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """Return the numbers of a route definition."""
        return self.names.route(definition)

    async def meter_routes(self, routes: Sequence[int], at: int, counter: int) -> None:
        """Count one for the listener of each of some routes."""
        for route in routes:
            self.meter(self.names.listener_of_route(route), model.slot_of(at), counter)

    def add_claimed(self, keys: Sequence[int]) -> None:
        """Record that this process claims deliveries, so that a start after a crash finds them."""
        if keys:
            self.claimed += keys
            if min(keys) < self.lanes_from:
                self._set_lanes_from(min(keys))

    def remove_claimed(self, keys: Sequence[int]) -> None:
        """Record that deliveries are not claimed any more."""
        self.returned += keys

    def note_oldest_claimed(self) -> None:
        """Record the lowest key of a claimed delivery; recovery skips the rows below it."""
        self._set_lanes_from(min(self._claimed_before, default=self.ids.next_key()))

    def note_time(self, now: int) -> None:
        """Record the time, so that a start notices that the clock was set back."""
        self.connection.execute("insert or replace into meta values ('noted_at', ?)", (str(now),))

    def _set_lanes_from(self, key: int) -> None:
        self.lanes_from = key
        self.connection.execute("insert or replace into meta values ('lanes_from', ?)", (str(key),))


# Person keys: 8-byte keyed hashes. The table `persons` gets them in segments of about a thousand arrivals; those of
# newer arrivals are only in the ledger. Segments are appended, because random inserts would write one page each.

_FOLD_PERSONS = """
    insert or ignore into persons
    select ?1, substr(persons, 1 + 8 * position.number, 8), key
    from arrivals, (select 0 number union all select 1 union all select 2 union all select 3) position
    where key > ?2 and key <= ?3 and length(persons) > 8 * position.number
    order by 2, 3
"""
"""Append the person keys of arrivals in (?2, ?3] to the segment ?1. An arrival has at most four."""


def fold_persons(connection: sqlite3.Connection) -> None:
    """Append the person keys of all arrivals that are not in a segment yet as a new segment."""
    folded_to = persons_folded_to(connection)
    first, last = connection.execute("select min(key), max(key) from arrivals where key > ?", (folded_to,)).fetchone()
    if last is None:
        return
    connection.execute(_FOLD_PERSONS, (first, folded_to, last))
    connection.execute("insert into person_segments values (?, ?, ?)", (first, first, last))
    connection.execute("insert or replace into meta values ('persons_to', ?)", (str(last),))


def segment_of(connection: sqlite3.Connection, arrival: int) -> int:
    """Return the segment with the person keys of an arrival; 0 if there is none."""
    statement = "select segment from person_segments where segment <= ? order by segment desc limit 1"
    row = connection.execute(statement, (arrival,)).fetchone()
    return int(row[0]) if row else 0


def persons_folded_to(connection: sqlite3.Connection) -> int:
    """Return the key of the last arrival whose person keys are in a segment."""
    row = connection.execute("select value from meta where name = 'persons_to'").fetchone()
    return int(row[0]) if row else 0
