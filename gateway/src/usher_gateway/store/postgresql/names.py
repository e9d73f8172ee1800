"""The numbers of listeners, destinations and route definitions: each name is stored once, so that rows stay small.

A gateway writes new names in statements of their own before the transaction that uses them, and remembers their
numbers. After a failover or a restore the database may lack a name that a gateway remembers. Three rules keep each
stored row under the right name:

- The transaction that writes numbers checks, in the statement that inserts the row of its commit, that the database
  still has each of them with the same name (``NAMES_EXIST``). If it lacks one, the writer rolls back, forgets the
  numbers, writes the names again and repeats the batch. The names come before the commit in the write-ahead log. So
  whatever keeps the commit (a crash, a standby) keeps its names too, although they are written in statements of their
  own whose wait for a standby may be cancelled.
- Numbers are random, so that a lost number is not issued again for another name. So the facts that a gateway remembers
  by number stay true, such as the definition of a route whose deliveries are in lanes.
- A gateway forgets the numbers of names when it connects to another server, or to a server that was restarted.

Retention deletes a route definition when no arrival refers to it. For that the row has the highest row key that an
arrival with it may have (``used_key``). A gateway moves it on by a day before it is reached, and the check of the names
covers it. A definition is first marked by a negative key, so that all gateways forget its number before it is free.

Earlier releases could store rows whose number has no name. Readers show these under ``unknown_listener``, an alert
reports them, and ``usher repair`` gives them names.
"""

import hashlib
import secrets
import time
from collections.abc import Collection, Iterable, Mapping

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store.acceptance import RouteNumbers
from usher_gateway.store.encodings import unknown_listener, unknown_route
from usher_gateway.store.postgresql.connections import Connection

_log = structlog.get_logger(__name__)

_HIGHEST_NUMBER = 2**30
"""Numbers are below this. A column of a number has 31 bits; an import to SQLite continues above its highest number."""

NAME_TRIES = 3
"""How often a batch or a job writes lost names again, before it fails and waits like one during an outage."""

_LOG_AGAIN_SECONDS = 600.0

_MARGIN = model.KEYS_PER_DAY // 24
"""A transaction gets its row keys after the names are prepared."""

_KEEP_UNKNOWN_SECONDS = 3_600.0
"""A number without a name that no reader has met for this long is forgotten, because its rows may be deleted."""

_MOST_UNKNOWN = 1_000

_ADD_LISTENERS = """
    insert into listeners (number, namespace, tenant, listener)
    select * from unnest($4::integer[], $1::text[], $2::text[], $3::text[]) on conflict do nothing
"""
_FIND_LISTENERS = """
    select number, namespace, tenant, listener from listeners
    where (namespace, tenant, listener) in (select * from unnest($1::text[], $2::text[], $3::text[]))
"""
_ADD_DESTINATIONS = """
    insert into destinations (number, key)
    select * from unnest($2::integer[], $1::text[]) on conflict do nothing
"""
_FIND_DESTINATIONS = "select number, key from destinations where key = any($1::text[])"
_ADD_ROUTES = """
    insert into routes (number, hash, listener, name, destination, definition, used_key)
    select new.number, hash, new.listener, name, new.destination, definition, $11
    from unnest($1::integer[], $2::bytea[], $3::integer[], $4::text[], $5::integer[], $6::bytea[], $7::text[],
            $8::text[], $9::text[], $10::text[])
        as new (number, hash, listener, name, destination, definition, namespace, tenant, listener_name, key)
    join listeners l on l.number = new.listener
        and (l.namespace, l.tenant, l.listener) = (new.namespace, new.tenant, new.listener_name)
    join destinations d on d.number = new.destination and d.key = new.key
    on conflict do nothing
"""
"""Add route definitions whose listener and destination the database has under the numbers that the gateway knows."""

_FIND_ROUTES = "select number, hash, used_key < $2 from routes where hash = any($1::bytea[])"
USE_ROUTES = """
    update routes set used_key = $2 where number = any(array(select number from routes
        where number = any($1::integer[]) and used_key < $2 order by number for no key update))
"""
"""Let arrivals up to a row key refer to routes."""

_NEW_ROUTES = """
    select r.number, r.listener, r.destination, r.definition, d.key from routes r
    left join destinations d on d.number = r.destination
    where r.number <> all($1::integer[]) and (r.used_key >= 0 or r.number = any($2::integer[]))
"""
"""Read route definitions that a gateway does not know, except for those that will be deleted."""

_ROUTE_CACHE_SIZE = 100_000

NAMES_EXIST = """
    (select count(*) from unnest({}::integer[], {}::text[], {}::text[], {}::text[])
            as used (number, namespace, tenant, listener) where not exists (select 1 from listeners l
        where l.number = used.number
            and (l.namespace, l.tenant, l.listener) = (used.namespace, used.tenant, used.listener))) = 0
    and (select count(*) from unnest({}::integer[], {}::bytea[]) as used (number, hash) where not exists (select 1
        from routes r where r.number = used.number and r.hash = used.hash and r.used_key >= {})) = 0
"""
"""A condition: the database has all names of ``UsedNames.columns()`` with their numbers, and keeps the routes."""


class NamesLostError(model.StoreUnavailableError):
    """The database lacks a name that a transaction needs. Its caller prepares the names again, and repeats it.

    Either the database lost a name whose number this gateway remembered, or another commit has made the gateway forget
    it, or the random number of a new name was in use.
    """

    def __init__(self) -> None:
        super().__init__("the database lacks names: it failed over, it was restored, or a number was in use")


class PreparedRoute(msgspec.Struct, frozen=True):
    """A route definition whose numbers this gateway remembers."""

    definition: model.RouteDefinition
    numbers: RouteNumbers
    digest: bytes
    used_key: int
    """Arrivals up to this row key may refer to it."""


class UsedNames:
    """The numbers that a transaction writes."""

    def __init__(self) -> None:
        self.listeners: dict[model.ListenerName, int] = {}
        self.routes: dict[int, PreparedRoute] = {}
        """By the identity of the definition."""
        self.highest_key = 0
        """The highest row key of the arrivals that refer to these routes."""

    def route_numbers(self) -> list[int]:
        """Return the numbers of the routes."""
        return sorted({route.numbers.number for route in self.routes.values()})

    def columns(self) -> list[object]:
        """Return the values of ``NAMES_EXIST``.

        The listener of a route needs no second check: a database that has the route also has the listener, because
        listeners are written before their routes and are never deleted.
        """
        routes = list(self.routes.values())
        with_route = {route.numbers.listener for route in routes}
        names = [name for name, number in self.listeners.items() if number not in with_route]
        return [
            [self.listeners[name] for name in names],
            [name.namespace for name in names],
            [name.tenant for name in names],
            [name.listener for name in names],
            [route.numbers.number for route in routes],
            [route.digest for route in routes],
            self.highest_key,
        ]


class UnknownNumbers:
    """Numbers without a name that readers met lately."""

    def __init__(self) -> None:
        self._met_at: dict[tuple[str, int], float] = {}
        self._logged_at = -_LOG_AGAIN_SECONDS

    def __len__(self) -> int:
        return len(self._met_at)

    def note(self, kind: str, number: int) -> None:
        """Note a number of a listener or a route, and log it, at most every 10 minutes."""
        now = time.monotonic()
        if len(self._met_at) < _MOST_UNKNOWN:
            self._met_at[kind, number] = now
        if now - self._logged_at >= _LOG_AGAIN_SECONDS:
            self._logged_at = now
            hint = "The database lost names. Run `usher repair`, see the runbook StoreNamesUnknown."
            _log.error("store_names_missed", kind=kind, number=number, hint=hint)

    def keep(self, listeners: Collection[int], routes: Collection[int]) -> None:
        """Forget the numbers that have a name now, and those that no reader has met for an hour."""
        named, oldest = {"listener": listeners, "route": routes}, time.monotonic() - _KEEP_UNKNOWN_SECONDS
        self._met_at = {
            (kind, number): met_at
            for (kind, number), met_at in self._met_at.items()
            if number not in named[kind] and met_at > oldest
        }


class NameNumbers:
    """The numbers of all names that this gateway has met."""

    def __init__(self) -> None:
        self._server: object = None
        # Numbers by name, until they are forgotten
        self._listeners: dict[model.ListenerName, int] = {}
        self._destinations: dict[str, int] = {}
        self._routes: dict[int, PreparedRoute] = {}
        """By the identity of a definition, because hashing the fields for every arrival would cost more."""
        # Names by number, which stay true
        self._names: dict[int, model.ListenerName] = {}
        self._numbers: dict[int, RouteNumbers] = {}
        self.definitions: dict[int, model.RouteDefinition] = {}
        """Every known definition by number."""
        self.unknown = UnknownNumbers()

    def forget(self) -> None:
        """Forget the numbers of names, because the database may lack them."""
        self._listeners.clear()
        self._destinations.clear()
        self._routes.clear()

    def connected(self, server: object) -> None:
        """Note to which server a connection leads (``connections.require_durable`` returns its identity)."""
        if server != self._server:
            self.forget()
            self._server = server

    # For transactions: everything was prepared before

    def listener(self, name: model.ListenerName) -> int:
        """Return the number of a listener that was prepared.

        Raises:
            NamesLostError: it has no number now.
        """
        number = self._listeners.get(name)
        if number is None:
            raise NamesLostError
        return number

    def route(self, definition: model.RouteDefinition) -> PreparedRoute:
        """Return a route definition that was prepared.

        Raises:
            NamesLostError: it has no number now.
        """
        route = self._routes.get(id(definition))
        if route is None:
            raise NamesLostError
        return route

    def tenant_of(self, listener: int) -> tuple[str, str]:
        """Return namespace and name of the tenant of a listener."""
        name = self.listener_name(listener)
        return (name.namespace, name.tenant)

    def listener_name(self, listener: int, names: Mapping[int, model.ListenerName] | None = None) -> model.ListenerName:
        """Return the name of a listener, from ``names`` if they are given."""
        name = (self._names if names is None else names).get(listener)
        if name is None:
            self.unknown.note("listener", listener)
            return unknown_listener(listener)
        return name

    def listener_of_route(self, route: int) -> int | None:
        """Return the number of the listener that a route belongs to; None if the route has no definition."""
        numbers = self._numbers.get(route)
        return None if numbers is None else numbers.listener

    def destination_of_route(self, route: int) -> int:
        """Return the number of the destination that a route belongs to; 0 if the route has no definition."""
        numbers = self._numbers.get(route)
        return 0 if numbers is None else numbers.destination

    def definition(self, route: int) -> model.RouteDefinition:
        """Return the definition of a route."""
        definition = self.definitions.get(route)
        if definition is None:
            self.unknown.note("route", route)
            return unknown_route(route)
        return definition

    # Preparing

    async def load(self, connection: Connection) -> None:
        """Read all names."""
        await self._load_listeners(connection)
        await self.load_routes(connection)

    async def load_listeners(self, connection: Connection, needed: Collection[int]) -> None:
        """Read the listeners that other gateways added, if one of these is unknown."""
        if not all(number in self._names for number in needed):
            await self._load_listeners(connection)

    async def _load_listeners(self, connection: Connection) -> None:
        for number, *names in await connection.fetch("select number, namespace, tenant, listener from listeners"):
            self._add_listener(number, model.ListenerName(*names))

    async def load_routes(self, connection: Connection, needed: Collection[int] | None = None) -> None:
        """Read the definitions that other gateways added; ``needed``: only if one of these is unknown."""
        if needed is not None and all(number in self._numbers for number in needed):
            return
        rows = await connection.fetch(_NEW_ROUTES, list(self._numbers), list(needed or ()))
        for number, listener, destination, packed, key in rows:
            if key is not None:
                self._destinations[key] = destination
            self._numbers[number] = RouteNumbers(number, listener, destination)
            self.definitions[number] = msgspec.json.decode(packed, type=model.RouteDefinition)

    async def drop_deleted(self, connection: Connection) -> None:
        """Forget the definitions that retention deletes, at this or another gateway."""
        numbers = set(self._numbers)  # before the query, because commits may add others during it
        kept = {number for (number,) in await connection.fetch("select number from routes where used_key >= 0")}
        kept.update(route.numbers.number for route in self._routes.values())  # they may be used again during it
        for number in numbers - kept:
            del self._numbers[number]
            self.definitions.pop(number, None)

    async def review_unknown(self, connection: Connection) -> None:
        """Find out which of the unknown numbers have a name now."""
        if self.unknown:
            await self.load(connection)
            self.unknown.keep(self._names, self._numbers)

    async def prepare(
        self,
        connection: Connection,
        listeners: Iterable[model.ListenerName],
        definitions: Iterable[model.RouteDefinition] = (),
        key: int = 0,
    ) -> None:
        """Make sure that names have numbers, and that arrivals with row keys near ``key`` may refer to the routes.

        Raises:
            NamesLostError: the database lost names meanwhile, or a random number was in use.
        """
        new = {}
        needed = key + _MARGIN
        for definition in definitions:
            cached = self._routes.get(id(definition))
            if cached is None or cached.definition is not definition or cached.used_key < needed:
                new[id(definition)] = definition
        names = {name for name in listeners if name not in self._listeners}
        names.update(route.listener for route in new.values() if route.listener not in self._listeners)
        if names:
            await self._prepare_listeners(connection, sorted(names))
        if new:
            await self._prepare_routes(connection, list(new.values()), key + model.KEYS_PER_DAY)

    async def _prepare_listeners(self, connection: Connection, names: list[model.ListenerName]) -> None:
        columns = [[getattr(name, field) for name in names] for field in ("namespace", "tenant", "listener")]
        await connection.execute(_ADD_LISTENERS, *columns, _new_numbers(len(names)))
        for number, *parts in await connection.fetch(_FIND_LISTENERS, *columns):
            self._add_listener(number, model.ListenerName(*parts))

    def _add_listener(self, number: int, name: model.ListenerName) -> None:
        self._listeners[name] = number
        self._names[number] = name

    async def _prepare_destinations(self, connection: Connection, keys: list[str]) -> None:
        await connection.execute(_ADD_DESTINATIONS, keys, _new_numbers(len(keys)))
        for number, key in await connection.fetch(_FIND_DESTINATIONS, keys):
            self._destinations[key] = number

    async def _prepare_routes(
        self, connection: Connection, definitions: list[model.RouteDefinition], used_key: int
    ) -> None:
        destinations = sorted({route.destination for route in definitions} - self._destinations.keys())
        if destinations:
            await self._prepare_destinations(connection, destinations)
        rows: dict[bytes, tuple[object, ...]] = {}
        digests = {}
        for route in definitions:
            packed = msgspec.json.encode(route)
            digest = digests[id(route)] = hashlib.blake2b(packed, digest_size=16).digest()
            listener, destination = self._listeners.get(route.listener), self._destinations.get(route.destination)
            if listener is None or destination is None:
                raise NamesLostError
            name = route.listener
            identity = (name.namespace, name.tenant, name.listener, route.destination)
            rows[digest] = (digest, listener, route.route, destination, packed, *identity)
        numbers = await self._add_routes(connection, rows, used_key)
        if len(self._routes) > _ROUTE_CACHE_SIZE:
            self._routes.clear()
        for route in definitions:
            digest = digests[id(route)]
            number = numbers[digest]
            listener, destination = self._listeners.get(route.listener), self._destinations.get(route.destination)
            if listener is None or destination is None:
                raise NamesLostError
            route_numbers = self._numbers[number] = RouteNumbers(number, listener, destination)
            self._routes[id(route)] = PreparedRoute(route, route_numbers, digest, used_key)
            self.definitions.setdefault(number, route)

    async def _add_routes(
        self, connection: Connection, rows: Mapping[bytes, tuple[object, ...]], used_key: int
    ) -> dict[bytes, int]:
        """Add the definitions that are new; return the number of each one by its digest."""
        ordered = [rows[digest] for digest in sorted(rows)]
        await connection.execute(_ADD_ROUTES, _new_numbers(len(ordered)), *zip(*ordered, strict=True), used_key)
        existing = await connection.fetch(_FIND_ROUTES, list(rows), used_key)
        if len(existing) < len(rows):
            raise NamesLostError
        ending = [number for number, _, is_ending in existing if is_ending]
        if ending:
            await connection.execute(USE_ROUTES, ending, used_key)
        return {digest: number for number, digest, _ in existing}


def new_number() -> int:
    """Return a random number for a name."""
    return 1 + secrets.randbelow(_HIGHEST_NUMBER - 1)


def _new_numbers(count: int) -> list[int]:
    return [new_number() for _ in range(count)]
