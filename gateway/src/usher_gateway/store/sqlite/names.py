"""Numbers for names: listeners, destinations and route definitions stand once each in the store."""

import hashlib
import sqlite3

import msgspec

from usher_gateway import model

_CACHE_LIMIT = 100_000


class RouteNumbers(msgspec.Struct, frozen=True):
    """The numbers that belong to a route definition."""

    number: int
    listener: int
    destination: int


class Names:
    """Looks names up, and adds new ones inside the running transaction. The writer's thread only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._listeners: dict[model.ListenerName, int] = {}
        self._destinations: dict[str, int] = {}
        self._routes: dict[int, tuple[model.RouteDefinition, RouteNumbers]] = {}
        self._listener_of_route: dict[int, int] = {}
        self.definitions: dict[int, model.RouteDefinition] = {
            number: msgspec.json.decode(packed, type=model.RouteDefinition)
            for number, packed in connection.execute("select number, definition from routes")
        }
        """Every definition by number; other threads may look here."""

    def forget(self) -> None:
        """Drop everything cached: a transaction that may have added numbers was rolled back."""
        self._listeners.clear()
        self._destinations.clear()
        self._routes.clear()
        self._listener_of_route.clear()

    def listener(self, name: model.ListenerName) -> int:
        """The number of a listener."""
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

    def listeners_of(self, namespace: str, tenant: str) -> set[int]:
        """The numbers of all listeners that a tenant ever had."""
        statement = "select number from listeners where namespace = ? and tenant = ?"
        return {row[0] for row in self._connection.execute(statement, (namespace, tenant))}

    def destination(self, key: str) -> int:
        """The number of a destination."""
        number = self._destinations.get(key)
        if number is None:
            self._connection.execute("insert or ignore into destinations (key) values (?)", (key,))
            (number,) = self._connection.execute("select number from destinations where key = ?", (key,)).fetchone()
            self._destinations[key] = number
        return number

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """The numbers of a route definition.

        Cached by the object's identity, which the configuration keeps alive: hashing its fields for every arrival
        would cost more than all the rest of its verdict.
        """
        cached = self._routes.get(id(definition))
        if cached is not None and cached[0] is definition:
            return cached[1]
        if len(self._routes) > _CACHE_LIMIT:
            self._routes.clear()
        numbers = self._store(definition)
        self._routes[id(definition)] = (definition, numbers)
        return numbers

    def listener_of_route(self, route: int) -> int:
        """The number of the listener that a route belongs to."""
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
            "insert or ignore into routes (hash, listener, name, destination, definition) values (?, ?, ?, ?, ?)",
            (digest, listener, definition.route, destination, packed),
        )
        (number,) = self._connection.execute("select number from routes where hash = ?", (digest,)).fetchone()
        self.definitions[number] = definition
        return RouteNumbers(number, listener, destination)
