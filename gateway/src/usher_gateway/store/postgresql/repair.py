"""Give names to the rows of a database that lost names (``usher repair``).

A number without a name gets the name that other rows prove: that of the routes in the verdicts of its arrivals, or that
of the arrivals of a route. Without proof it gets a name under the tenant ``?``, which no resource has, so that nothing
is lost and no tenant sees it.

A number can also have been given out again, to another name. Then visits have a listener and routes that do not belong
together, and no row says which of them is wrong. Such visits move to the listener ``mixed`` of the tenant ``?``, and
their open deliveries to a route without a destination, where they are held.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store.encodings import unknown_listener, unknown_route
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import UNAVAILABLE, Connection, PoolBounds, describe, open_pool
from usher_gateway.store.postgresql.names import new_number
from usher_gateway.store.session import columns

_SLICE = 10_000
_SECONDS = 3_600.0

MIXED = model.ListenerName("?", "?", "mixed")
_MIXED_ROUTE = model.RouteDefinition(MIXED, "mixed", model.UNKNOWN_DESTINATION)

_USED_LISTENERS = """
    select distinct listener from arrivals union select listener from meters union select listener from activity
    union select listener from routes
"""
_USED_ROUTES = "select distinct route from deliveries where route <> all($1::integer[])"
_USED_DESTINATIONS = """
    select distinct destination from deliveries union select destination from routes
"""


class Repair(msgspec.Struct):
    """The names that a database lacks, and what shall be written."""

    listeners: dict[int, model.ListenerName] = msgspec.field(default_factory=dict)
    routes: dict[int, model.RouteDefinition] = msgspec.field(default_factory=dict)
    destinations: dict[int, str] = msgspec.field(default_factory=dict)
    mixed: list[int] = msgspec.field(default_factory=list)
    """Arrivals whose routes belong to another listener."""

    @property
    def is_needed(self) -> bool:
        """True if anything is to be written."""
        return bool(self.listeners or self.routes or self.destinations or self.mixed)


async def repair(dsn: str, password: str | None, *, may_write: bool) -> Repair:
    """Find the names that a database lacks, and write them if that is allowed.

    Raises:
        UsherError: StoreUnavailableError if the database cannot be reached or read, ConfigurationError if the flags or
            the user's rights are wrong.
    """
    pool = await open_pool(dsn, password, PoolBounds(1, 1))
    try:
        async with pool.acquire() as connection, connection.transaction():
            await schema.require_newest(connection)
            await connection.execute("set local statement_timeout = 0")
            await connection.execute("set local idle_in_transaction_session_timeout = 0")
            missing = await _find(connection)
            if may_write:
                await _write(connection, missing)
            return missing
    except UNAVAILABLE as error:
        raise model.StoreUnavailableError(f"the repair failed: {describe(error)}") from None
    finally:
        pool.terminate()


class _Evidence:
    """Collects the names that the rows of a database prove for numbers without a name."""

    def __init__(self, names: dict[int, model.ListenerName], definitions: dict[int, model.RouteDefinition]) -> None:
        self.names = names
        self.definitions = definitions
        self.names_of: dict[int, set[model.ListenerName]] = {}
        """Listener without a name -> the listeners of the routes with which its arrivals were decided."""
        self.listeners_of: dict[int, set[int]] = {}
        """Route without a definition -> the listeners of the arrivals that it decided."""
        self.mixed: list[int] = []
        """Arrivals whose routes belong to another listener."""

    def note_listener(self, listener: int) -> None:
        """Note that rows use a listener."""
        if listener not in self.names:
            self.names_of.setdefault(listener, set())

    def note_arrival(self, key: int, listener: int, verdicts: bytes) -> None:
        """Note what an arrival proves about its listener and its routes."""
        self.note_listener(listener)
        for route, _, _ in msgspec.msgpack.decode(verdicts):
            definition = self.definitions.get(route)
            if definition is None:
                self.listeners_of.setdefault(route, set()).add(listener)
            elif listener in self.names_of:
                self.names_of[listener].add(definition.listener)
            elif definition.listener != self.names[listener]:
                self.mixed.append(key)
                return


async def _find(connection: Connection) -> Repair:
    rows: Any = await connection.fetch("select number, namespace, tenant, listener from listeners")
    names = {number: model.ListenerName(*parts) for number, *parts in rows}
    rows = await connection.fetch("select number, definition from routes")
    definitions = {number: msgspec.json.decode(packed, type=model.RouteDefinition) for number, packed in rows}
    evidence = _Evidence(names, definitions)
    for (listener,) in await connection.fetch(_USED_LISTENERS, timeout=_SECONDS):
        evidence.note_listener(listener)
    for (packed,) in await connection.fetch("select counts from commits where counts <> ''", timeout=_SECONDS):
        for listener, *_ in msgspec.msgpack.decode(packed):
            evidence.note_listener(listener)
    cursor: Any = await connection.cursor("select key, listener, verdicts from arrivals")
    while rows := await cursor.fetch(_SLICE, timeout=_SECONDS):
        for row in rows:
            evidence.note_arrival(*row)
    for (route,) in await connection.fetch(_USED_ROUTES, list(definitions), timeout=_SECONDS):
        evidence.listeners_of.setdefault(route, set())
    for number, listener in await connection.fetch("select number, listener from routes"):
        if listener in evidence.names_of:
            evidence.names_of[listener].add(definitions[number].listener)
    return await _with_destinations(connection, _repair(evidence))


def _repair(evidence: _Evidence) -> Repair:
    """Choose the names (pure)."""
    missing = Repair(mixed=evidence.mixed)
    taken = set(evidence.names.values())
    for number in sorted(evidence.names_of):
        missing.listeners[number] = name = _proven_name(number, evidence.names_of[number], taken)
        taken.add(name)
    names = evidence.names | missing.listeners
    for route, listeners in evidence.listeners_of.items():
        missing.routes[route] = definition = unknown_route(route)
        if len(listeners) == 1:
            name = names[min(listeners)]
            missing.routes[route] = msgspec.structs.replace(definition, listener=name)
    return missing


async def _with_destinations(connection: Connection, missing: Repair) -> Repair:
    keys = {number for (number,) in await connection.fetch("select number from destinations")}
    for (number,) in await connection.fetch(_USED_DESTINATIONS, timeout=_SECONDS):
        if number and number not in keys:
            missing.destinations[number] = f"?/#{number}"
    return missing


def _proven_name(
    number: int, candidates: Iterable[model.ListenerName], taken: set[model.ListenerName]
) -> model.ListenerName:
    """Return the name of a listener if all rows prove the same one."""
    proven = list(candidates)
    if len(proven) != 1:
        return unknown_listener(number)
    (name,) = proven
    if name in taken:  # it got another number later; a resource cannot have a name with #
        return msgspec.structs.replace(name, listener=f"{name.listener}#{number}")
    return name


async def _write(connection: Connection, missing: Repair) -> None:
    listeners = [(number, name.namespace, name.tenant, name.listener) for number, name in missing.listeners.items()]
    await connection.execute(
        """
        insert into listeners (number, namespace, tenant, listener) overriding system value
        select * from unnest($1::integer[], $2::text[], $3::text[], $4::text[])
        """,
        *columns(listeners, 4),
    )
    await connection.execute(
        """
        insert into destinations (number, key) overriding system value
        select * from unnest($1::integer[], $2::text[])
        """,
        *columns(list(missing.destinations.items()), 2),
    )
    numbers = {name: number for number, name in missing.listeners.items()}
    for number, *parts in await connection.fetch("select number, namespace, tenant, listener from listeners"):
        numbers[model.ListenerName(*parts)] = number
    for number, definition in missing.routes.items():
        listener = numbers.get(definition.listener)
        if listener is None:
            listener = await _add_listener(connection, definition.listener)
        await _add_route(connection, number, listener, definition)
    if missing.mixed:
        await _separate(connection, missing.mixed)


async def _separate(connection: Connection, arrivals: list[int]) -> None:
    """Move arrivals whose listener and routes do not belong together away from all tenants."""
    listener = await _add_listener(connection, MIXED)
    route = await _add_route(connection, new_number(), listener, _MIXED_ROUTE)
    statement = "update arrivals set listener = $1 where key = any($2::bigint[]) returning verdicts"
    moved = await connection.fetch(statement, listener, arrivals, timeout=_SECONDS)
    deliveries = [delivery for (packed,) in moved for _, _, delivery in msgspec.msgpack.decode(packed) if delivery]
    statement = """
        update deliveries set route = $1 where state = 0
        and (key = any($2::bigint[]) or (origin > 0 and arrival = any($3::bigint[])))
    """
    await connection.execute(statement, route, deliveries, arrivals, timeout=_SECONDS)


async def _add_listener(connection: Connection, name: model.ListenerName) -> int:
    values = (name.namespace, name.tenant, name.listener)
    statement = """
        insert into listeners (number, namespace, tenant, listener) overriding system value values ($1, $2, $3, $4)
        on conflict (namespace, tenant, listener) do update set listener = excluded.listener returning number
    """
    return int(await connection.fetchval(statement, new_number(), *values))


async def _add_route(connection: Connection, number: int, listener: int, definition: model.RouteDefinition) -> int:
    """Add a route definition, whose destination does not exist; return its number."""
    statement = """
        insert into destinations (number, key) overriding system value values ($1, $2)
        on conflict (key) do update set key = excluded.key returning number
    """
    destination = await connection.fetchval(statement, new_number(), definition.destination)
    packed = msgspec.json.encode(definition)
    digest = hashlib.blake2b(packed, digest_size=16).digest()
    statement = """
        insert into routes (number, hash, listener, name, destination, definition, used_key) overriding system value
        values ($1, $2, $3, $4, $5, $6, coalesce((select max(key) from arrivals), 0))
        on conflict (hash) do update set name = excluded.name returning number
    """
    return int(await connection.fetchval(statement, number, digest, listener, definition.route, destination, packed))
