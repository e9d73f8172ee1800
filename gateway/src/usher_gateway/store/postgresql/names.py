"""The numbers of listeners, destinations and route definitions: each name is stored once, so that rows stay small.

New names are written in statements of their own before the transaction that uses them. So a rollback does not take back
a number that is cached, and no transaction waits for the names of another one.
"""

import hashlib
from collections.abc import Collection, Iterable

import msgspec

from usher_gateway import model
from usher_gateway.store.acceptance import RouteNumbers
from usher_gateway.store.postgresql.connections import Connection

_ADD_LISTENERS = """
    insert into listeners (namespace, tenant, listener) select * from unnest($1::text[], $2::text[], $3::text[])
    on conflict do nothing
"""
_FIND_LISTENERS = """
    select number, namespace, tenant, listener from listeners
    where (namespace, tenant, listener) in (select * from unnest($1::text[], $2::text[], $3::text[]))
"""
_ADD_DESTINATIONS = "insert into destinations (key) select unnest($1::text[]) on conflict do nothing"
_FIND_DESTINATIONS = "select number, key from destinations where key = any($1::text[])"
_ADD_ROUTES = """
    insert into routes (hash, listener, name, destination, definition)
    select * from unnest($1::bytea[], $2::integer[], $3::text[], $4::integer[], $5::bytea[]) on conflict do nothing
"""
_FIND_ROUTES = "select number, hash from routes where hash = any($1::bytea[])"
_ALL_ROUTES = """
    select r.number, r.listener, r.destination, r.definition, d.key from routes r
    join destinations d on d.number = r.destination
"""

_ROUTE_CACHE_SIZE = 100_000


class NameNumbers:
    """The numbers of all names that this gateway has met."""

    def __init__(self) -> None:
        self._listeners: dict[model.ListenerName, int] = {}
        self._tenants: dict[int, tuple[str, str]] = {}
        self._destinations: dict[str, int] = {}
        self._routes: dict[int, tuple[model.RouteDefinition, RouteNumbers]] = {}
        """Numbers by the identity of a definition, because hashing the fields for every arrival would cost more."""
        self._numbers: dict[int, RouteNumbers] = {}
        self.definitions: dict[int, model.RouteDefinition] = {}
        """Every known definition by number."""

    # For transactions: everything was prepared before

    def listener(self, name: model.ListenerName) -> int:
        """Return the number of a listener that was prepared."""
        return self._listeners[name]

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """Return the numbers of a route definition that was prepared."""
        return self._routes[id(definition)][1]

    def tenant_of(self, listener: int) -> tuple[str, str]:
        """Return namespace and name of the tenant of a listener."""
        return self._tenants[listener]

    def listener_of_route(self, route: int) -> int:
        """Return the number of the listener that a route belongs to."""
        return self._numbers[route].listener

    def destination_of_route(self, route: int) -> int:
        """Return the number of the destination that a route belongs to."""
        return self._numbers[route].destination

    def destination(self, key: str) -> int:
        """Return the number of a destination; 0 if no delivery was ever made for it."""
        return self._destinations.get(key, 0)

    # Preparing

    async def load(self, connection: Connection) -> None:
        """Read all names."""
        await self._load_listeners(connection)
        await self.load_routes(connection)

    async def load_listeners(self, connection: Connection, needed: Collection[int]) -> None:
        """Read the listeners that other gateways added, if one of these is unknown."""
        if not all(number in self._tenants for number in needed):
            await self._load_listeners(connection)

    async def _load_listeners(self, connection: Connection) -> None:
        for number, *names in await connection.fetch("select number, namespace, tenant, listener from listeners"):
            self._add_listener(number, model.ListenerName(*names))

    async def load_routes(self, connection: Connection, needed: Collection[int] | None = None) -> None:
        """Read the definitions that other gateways added; ``needed``: only if one of these is unknown."""
        if needed is not None and all(number in self._numbers for number in needed):
            return
        found = await connection.fetch(f"{_ALL_ROUTES} where r.number <> all($1::integer[])", list(self._numbers))
        for number, listener, destination, packed, key in found:
            self._destinations[key] = destination
            self._numbers[number] = RouteNumbers(number, listener, destination)
            self.definitions[number] = msgspec.json.decode(packed, type=model.RouteDefinition)

    async def prepare(
        self,
        connection: Connection,
        listeners: Iterable[model.ListenerName],
        definitions: Iterable[model.RouteDefinition] = (),
    ) -> None:
        """Make sure that names have numbers."""
        new = {}
        for definition in definitions:
            cached = self._routes.get(id(definition))
            if cached is None or cached[0] is not definition:
                new[id(definition)] = definition
        wanted = {name for name in listeners if name not in self._listeners}
        wanted.update(one.listener for one in new.values() if one.listener not in self._listeners)
        if wanted:
            await self._prepare_listeners(connection, sorted(wanted))
        if new:
            await self._prepare_routes(connection, list(new.values()))

    async def _prepare_listeners(self, connection: Connection, names: list[model.ListenerName]) -> None:
        columns = [[getattr(name, field) for name in names] for field in ("namespace", "tenant", "listener")]
        await connection.execute(_ADD_LISTENERS, *columns)
        for number, *parts in await connection.fetch(_FIND_LISTENERS, *columns):
            self._add_listener(number, model.ListenerName(*parts))

    def _add_listener(self, number: int, name: model.ListenerName) -> None:
        self._listeners[name] = number
        self._tenants[number] = (name.namespace, name.tenant)

    async def _prepare_routes(self, connection: Connection, definitions: list[model.RouteDefinition]) -> None:
        destinations = sorted({one.destination for one in definitions} - self._destinations.keys())
        if destinations:
            await connection.execute(_ADD_DESTINATIONS, destinations)
            for number, key in await connection.fetch(_FIND_DESTINATIONS, destinations):
                self._destinations[key] = number
        rows = {}
        digests = {}
        for one in definitions:
            packed = msgspec.json.encode(one)
            digest = digests[id(one)] = hashlib.blake2b(packed, digest_size=16).digest()
            listener, destination = self._listeners[one.listener], self._destinations[one.destination]
            rows[digest] = (digest, listener, one.route, destination, packed)
        await connection.execute(_ADD_ROUTES, *zip(*[rows[digest] for digest in sorted(rows)], strict=True))
        numbers = {digest: number for number, digest in await connection.fetch(_FIND_ROUTES, list(rows))}
        if len(self._routes) > _ROUTE_CACHE_SIZE:
            self._routes.clear()
        for one in definitions:
            _, listener, _, destination, _ = rows[digests[id(one)]]
            number = numbers[digests[id(one)]]
            found = self._numbers[number] = RouteNumbers(number, listener, destination)
            self._routes[id(one)] = (one, found)
            self.definitions.setdefault(number, one)
