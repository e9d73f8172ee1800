"""Incarnations: the runs of gateways that own deliveries in lanes, by heartbeats on the database's clock.

A gateway whose last heartbeat is 60 s old counts as dead, and another one moves its deliveries to the backlog. It may
commit nothing after that, because each commit checks that its incarnation has not ended.
"""

from collections.abc import Collection, Sequence

import msgspec

from usher_gateway.store.base import Replicas
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import Connection

HEARTBEAT_SECONDS = 5.0
"""Interval of the heartbeats."""

DEAD_SECONDS = 60.0
"""A gateway without a heartbeat for this long counts as dead."""

LONGEST_ATTEMPT_SECONDS = 30.0
"""The longest time limit of a destination."""

SEND_SECONDS = DEAD_SECONDS - LONGEST_ATTEMPT_SECONDS - HEARTBEAT_SECONDS
"""A gateway starts attempts only for this long after its last heartbeat, so that they end before it counts as dead."""

SLOTS = 64
"""The most gateways on one database. Their slots make the row keys of all gateways different."""

_FORGET_SECONDS = 600.0
"""An ended incarnation is kept for this long, so that no other one gets its slot soon."""

_END_DEAD = """
    update incarnations set ended_at = clock_timestamp() where number = any(array(select number from incarnations
        where ended_at is null and beat_at < clock_timestamp() - make_interval(secs => $1)
        order by number for no key update skip locked))
"""
"""End the incarnations without a heartbeat. One whose row is locked is left to the next try."""

_TAKE_OVER = """
    update deliveries set waiting = true, owner = 0, due_at = least(due_at, $1)
    where key = any(array(select key from deliveries where state = 0 and hold = 0 and not waiting and key =
        any(array(select key from deliveries where state = 0 and hold = 0 and not waiting and owner =
            any(array(select number from incarnations where ended_at is not null)) limit $2))
        order by key for no key update skip locked))
"""
"""Move a slice of what ended incarnations had claimed to the backlog; what is locked is left to the next try."""

_TAKE_OVER_SLICE = 2_000

_LATEST_WAIT_SECONDS = 8 * 3600.0
"""Longer than a retry waits: the last step is 6 hours with a spread of a fifth."""

_HASTEN_WRONG = f"""
    with recursive clock (now) as (select greatest($1, (extract(epoch from clock_timestamp()) * 1000000)::bigint)),
    used (number) as (
        (select destination from deliveries where waiting order by destination limit 1)
        union all
        select (select destination from deliveries where waiting and destination > used.number
            order by destination limit 1)
        from used where used.number is not null
    ),
    late as (select late.key from used, lateral (select key from deliveries
        where destination = used.number and waiting
            and due_at > (select now from clock) + {_LATEST_WAIT_SECONDS * 1_000_000:.0f}
        order by due_at limit $2) late)
    update deliveries set due_at = (select now from clock) where key = any(array(select key from deliveries
        where key = any(array(select key from late limit $2)) and waiting order by key for no key update skip locked))
"""  # noqa: S608 - a number
"""Make deliveries due that wait for longer than any retry does, because the clock of their gateway was wrong.

It jumps through the index of the backlog from one destination to the next. A time is too far ahead only if it is so by
the clock of the database and by that of this gateway, because one of them may be behind.
"""

_FORGET = """
    delete from incarnations where ended_at < clock_timestamp() - make_interval(secs => $1)
    and not exists (select 1 from deliveries
        where state = 0 and hold = 0 and not waiting and owner = incarnations.number)
    returning noted_at
"""
_FREE_SLOT = """
    select slot from generate_series(0, $1 - 1) slot where slot not in (select slot from incarnations)
    order by slot limit 1
"""
_BEGIN = """
    insert into incarnations (number, slot, beat_at)
    select greatest((extract(epoch from clock_timestamp()) * 1000000)::bigint, (select max(number) + 1
        from incarnations)), $1, clock_timestamp()
    returning number
"""
"""The number is a time, so that a database that went back does not give out the number of a run that it lost. A gateway
with that number would commit as the other one."""

_BEAT = """
    update incarnations set beat_at = clock_timestamp(), seen = $2 where number = $1 and ended_at is null
    returning number
"""
_MEMBERS = """
    select number, seen, beat_at < clock_timestamp() - make_interval(secs => $1) from incarnations
    where ended_at is null order by number
"""
_TELL = """
    insert into known_destinations select number, $2 from incarnations where number = $1
    on conflict (incarnation) do update set destinations = excluded.destinations
"""
_KNOWN = """
    select array(select key from unnest($2::text[]) key where key = any(k.destinations))
    from incarnations i left join known_destinations k on k.incarnation = i.number
    where i.ended_at is null and i.number <> $1
"""
_END = "update incarnations set ended_at = clock_timestamp() where number = $1 and ended_at is null"


class Incarnation(msgspec.Struct, frozen=True):
    """This run of the gateway."""

    number: int
    slot: int


class Member(msgspec.Struct, frozen=True):
    """A run of a gateway that has not ended."""

    number: int
    seen: int
    """The newest run for which it has lowered its shares of the destinations' limits."""
    is_silent: bool
    """Its last heartbeat is so old that it starts no attempts."""


def replicas_of(incarnation: Incarnation, members: Sequence[Member], *, has_joined: bool = False) -> Replicas:
    """Return the gateways that share the limits. This one takes part when all older ones have made room for it.

    The numbers of runs grow in the order of their commits, so each run knows all older ones.
    """
    older = [member for member in members if member.number < incarnation.number]
    has_room = all(member.is_silent or member.seen >= incarnation.number for member in older)
    return Replicas(incarnation.number, tuple(member.number for member in members), has_joined or has_room)


async def end_dead(connection: Connection) -> None:
    """End the incarnations without a heartbeat, and forget those that ended long ago. Needs MIGRATION_LOCK."""
    await connection.execute(_END_DEAD, DEAD_SECONDS)
    forgotten = [noted_at for (noted_at,) in await connection.fetch(_FORGET, _FORGET_SECONDS)]
    noted = await schema.meta(connection, "noted_at")
    if forgotten and max(forgotten) > int(noted or 0):
        await schema.set_meta(connection, "noted_at", str(max(forgotten)))


async def take_over(connection: Connection, now: int) -> int:
    """Move what ended incarnations had claimed to the backlog, due at once; return how many deliveries."""
    total = 0
    while True:
        status = await connection.execute(_TAKE_OVER, now, _TAKE_OVER_SLICE)
        changed = int(status.rpartition(" ")[2])
        total += changed
        if changed < _TAKE_OVER_SLICE:
            return total


async def hasten_wrong(connection: Connection, now: int) -> int:
    """Make a slice of the deliveries due that a wrong clock lets wait for too long; return how many."""
    status = await connection.execute(_HASTEN_WRONG, now, _TAKE_OVER_SLICE)
    return int(status.rpartition(" ")[2])


async def begin(connection: Connection) -> Incarnation | None:
    """Add this run; None if all slots are taken. Needs MIGRATION_LOCK."""
    slot = await connection.fetchval(_FREE_SLOT, SLOTS)
    if slot is None:
        return None
    return Incarnation(await connection.fetchval(_BEGIN, slot), slot)


async def beat(connection: Connection, incarnation: Incarnation, seen: int) -> bool:
    """Write a heartbeat; return False if this incarnation has ended, or the database does not know it."""
    return await connection.fetchval(_BEAT, incarnation.number, seen) is not None


async def members(connection: Connection) -> list[Member]:
    """Return the runs that have not ended, the oldest first."""
    return [Member(*row) for row in await connection.fetch(_MEMBERS, SEND_SECONDS)]


async def end(connection: Connection, incarnation: Incarnation) -> None:
    """End this run, so that others take over its deliveries at once."""
    await connection.execute(_END, incarnation.number)


async def tell_destinations(connection: Connection, incarnation: Incarnation, destinations: Collection[str]) -> None:
    """Replace the destinations that this gateway knows, so that others leave their deliveries to it."""
    await connection.execute(_TELL, incarnation.number, sorted(destinations))


async def destinations_of_others(
    connection: Connection, incarnation: Incarnation, destinations: Collection[str]
) -> list[frozenset[str]]:
    """Return for each other gateway that runs which of some destinations it knows."""
    rows = await connection.fetch(_KNOWN, incarnation.number, list(destinations))
    return [frozenset(keys) for (keys,) in rows]


async def adjust_backlog(connection: Connection, now: int) -> None:
    """If the clock was set back since the last start, make the backlog due earlier by the same amount.

    Not while another gateway runs, because then the times in the backlog are those of its clock too.
    """
    if await connection.fetchval("select exists (select 1 from incarnations where ended_at is null)"):
        return
    noted = int(await schema.meta(connection, "noted_at") or 0)
    noted = max(noted, await connection.fetchval("select coalesce(max(noted_at), 0) from incarnations"))
    if noted > now:
        await connection.execute("update deliveries set due_at = due_at - $1 where waiting", noted - now)
    await connection.execute("update incarnations set noted_at = 0")
    await schema.set_meta(connection, "noted_at", str(now))
