"""The destinations that each gateway knows, so that the others leave deliveries to it."""

from collections.abc import Collection

from usher_gateway.store.postgresql.connections import Connection

_TELL = """
    insert into known_destinations select number, $2 from incarnations where number = $1
    on conflict (incarnation) do update set destinations = excluded.destinations
"""
_KNOWN = """
    select array(select key from unnest($2::text[]) key where key = any(k.destinations))
    from incarnations i left join known_destinations k on k.incarnation = i.number
    where i.ended_at is null and i.number <> $1
"""


async def tell(connection: Connection, gateway: int, destinations: Collection[str]) -> None:
    """Replace the destinations that a gateway knows."""
    await connection.execute(_TELL, gateway, sorted(destinations))


async def known(connection: Connection, gateway: int, destinations: Collection[str]) -> list[frozenset[str]]:
    """Return for each other gateway that runs which of some destinations it knows."""
    return [frozenset(keys) for (keys,) in await connection.fetch(_KNOWN, gateway, list(destinations))]
