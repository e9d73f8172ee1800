"""The numbers of listeners, destinations and route definitions: each name is stored once, so that rows stay small.

A number is a keyed digest of its name, so all gateways compute the same one, in both engines. A database that failed
over or was restored may lack a name that a gateway has written, but it never has the number for another name. So the
last step in a transaction adds names for the numbers that it wrote, if the database lacks them (``add_names``).
SQLite's writer remembers which names its file has, and PostgreSQL's commit looks them up in the statement that inserts
its rows (``LACKS_NONE``).

Nothing deletes a name. An edited route adds a definition of about 1 KB.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.encodings import unknown_listener, unknown_route
from usher_gateway.store.session import Session, columns

_ADD_LISTENERS = """
    insert into listeners (number, namespace, tenant, listener)
    select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) where true on conflict do nothing
"""
_ADD_DESTINATIONS = """
    insert into destinations (number, key)
    select * from unnest($1::bigint[], $2::text[]) where true on conflict do nothing
"""
# Each waits for a gateway that adds the same name now, in whichever unique index it meets its row.
_ADD_ROUTES = """
    insert into routes (number, listener, destination, name, definition)
    select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bytea[]) where true
    on conflict do nothing
"""
# A condition on PostgreSQL: the database has the names of `UsedNames.columns()`.
LACKS_NONE = """
    not exists (select from unnest({}::bigint[]) as used (number)
        where not exists (select from listeners where listeners.number = used.number))
    and not exists (select from unnest({}::bigint[]) as used (number)
        where not exists (select from routes where routes.number = used.number))
"""

_CACHED_ROUTES = 100_000


class RouteNumbers(msgspec.Struct, frozen=True):
    """The numbers of a route definition, its listener and its destination."""

    number: int
    listener: int
    destination: int


class UsedNames:
    """The names whose numbers a transaction writes."""

    def __init__(self) -> None:
        self.listeners: dict[model.ListenerName, int] = {}
        self.routes: dict[int, tuple[model.RouteDefinition, RouteNumbers]] = {}  # By the identity of the definition

    def columns(self) -> list[object]:
        """Return the values of ``LACKS_NONE``.

        A route's listener needs no check, because the transaction that added the route added it too.
        """
        with_route = {numbers.listener for _, numbers in self.routes.values()}
        listeners = [number for number in self.listeners.values() if number not in with_route]
        return [listeners, list({numbers.number for _, numbers in self.routes.values()})]


class NameNumbers:
    """The names that this gateway has met, and their numbers.

    A number has 62 bits: among a million names two get the same one with a chance of 1 to 9 million. A search
    for such names needs the key, which is the same at all gateways that use a store.
    """

    def __init__(self, key: bytes = b"") -> None:
        self._key = key
        self._numbers: dict[model.ListenerName, int] = {}
        self._routes: dict[int, tuple[model.RouteDefinition, RouteNumbers]] = {}
        """By a definition's identity, because hashing its fields for every arrival would cost too much. The
        configuration keeps the definitions alive."""
        self.listeners: dict[int, model.ListenerName] = {}  # Every known listener by number
        self.definitions: dict[int, model.RouteDefinition] = {}
        """Every known definition by number. Other threads may read it."""
        self.routes: set[model.RouteDefinition] = set()
        """Every known definition's listener, name and destination, without the rest: few, however many edits."""
        self._stored_routes = 0

    def listener(self, name: model.ListenerName) -> int:
        """Return a listener's number."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = self._number_of(name)
            self.listeners[number] = name
        return number

    def route(self, definition: model.RouteDefinition) -> tuple[model.RouteDefinition, RouteNumbers]:
        """Return a route definition with its numbers."""
        cached = self._routes.get(id(definition))
        if cached is not None and cached[0] is definition:
            return cached
        number, destination = self._number_of(definition), self._number_of(definition.destination)
        if number not in self.definitions:
            self._add_definition(number, definition)
        numbers = RouteNumbers(number, self.listener(definition.listener), destination)
        if len(self._routes) > _CACHED_ROUTES:
            self._routes.clear()
        self._routes[id(definition)] = (definition, numbers)
        return definition, numbers

    def _add_definition(self, number: int, definition: model.RouteDefinition) -> None:
        self.definitions[number] = definition
        self.routes.add(model.RouteDefinition(definition.listener, definition.route, definition.destination))

    def _number_of(self, name: model.ListenerName | model.RouteDefinition | str) -> int:
        digest = hashlib.blake2b(msgspec.json.encode(name), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest) >> 2

    def definition(self, number: int) -> model.RouteDefinition:
        """Return a route's definition."""
        return self.definitions.get(number) or unknown_route(number)

    def by_tenant(self, counts: Mapping[int, int]) -> Counter[tuple[str, str]]:
        """Add up counts by listener; return them by the tenant's namespace and name."""
        totals = Counter[tuple[str, str]]()
        for number, count in counts.items():
            name = self.listeners.get(number) or unknown_listener(number)
            totals[name.namespace, name.tenant] += count
        return totals

    async def load_listeners(self, session: Session) -> None:
        """Read the listeners that other gateways added."""
        for number, *names in await session.fetch("select number, namespace, tenant, listener from listeners"):
            self.listeners[number] = model.ListenerName(*names)

    async def load_routes(self, session: Session) -> None:
        """Read the definitions that other gateways added. The table only grows, so an equal count means no new row."""
        ((count,),) = await session.fetch("select count(*) from routes")
        if count == self._stored_routes:
            return
        stored = {number for (number,) in await session.fetch("select number from routes")}
        new = sorted(stored - self.definitions.keys())
        statement = "select number, definition from routes where number = any($1::bigint[])"
        for number, packed in await session.fetch(statement, new):
            self._add_definition(number, msgspec.json.decode(packed, type=model.RouteDefinition))
        self._stored_routes = count


async def add_names(session: Session, used: UsedNames) -> None:
    """Add names that the database lacks."""
    routes = {numbers.number: (definition, numbers) for definition, numbers in used.routes.values()}
    listeners = {number: name for name, number in used.listeners.items()}
    listeners |= {numbers.listener: definition.listener for definition, numbers in routes.values()}
    destinations = {numbers.destination: definition.destination for definition, numbers in routes.values()}
    # In number order, so that no two gateways wait for each other in a circle.
    rows: list[tuple[object, ...]] = [
        (number, *msgspec.structs.astuple(listeners[number])) for number in sorted(listeners)
    ]
    if rows:
        await session.execute(_ADD_LISTENERS, *columns(rows, 4))
    if not routes:
        return
    await session.execute(_ADD_DESTINATIONS, *columns(sorted(destinations.items()), 2))
    rows = []
    for number in sorted(routes):
        definition, numbers = routes[number]
        packed = msgspec.json.encode(definition)
        rows.append((number, numbers.listener, numbers.destination, definition.route, packed))
    await session.execute(_ADD_ROUTES, *columns(rows, 5))
