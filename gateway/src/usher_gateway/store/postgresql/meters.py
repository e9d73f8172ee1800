"""Meters: fold the counts of commits into the table, and read usage: folded and unfolded counts in one snapshot.

No two commits write the same row. A background task sums the rows of commits and adds the sums to ``meters``; an
advisory lock lets one gateway at a time do so.
"""

import datetime
from collections.abc import Iterator

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import Filter, Period
from usher_gateway.store.encodings import STORED_SLOT
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.connections import Connection
from usher_gateway.store.postgresql.listings import listener_numbers
from usher_gateway.store.postgresql.names import unknown_listener
from usher_gateway.store.postgresql.transaction import COMMIT_STEP, columns

_GATHERED_COMMITS = 1_024
"""Commits to sum in one transaction: many counts of a listener become a few meters."""

_GATHER = "select incarnation, number, counts from commits where counts <> '' limit $1"
_EMPTY = """
    update commits set counts = '' from unnest($1::bigint[], $2::bigint[]) as folded (incarnation, number)
    where commits.incarnation = folded.incarnation and commits.number = folded.number
"""
_CLEAN = f"""
    delete from commits using
        (select incarnation, number % {COMMIT_STEP} as line, max(number) as newest from commits group by 1, 2) last
    where counts = '' and number < newest
        and commits.incarnation = last.incarnation and commits.number % {COMMIT_STEP} = line
"""  # noqa: S608
"""Delete folded rows, except the last one of each line: after a lost connection its gateway asks for it."""

_CLEAN_ENDED = """
    delete from commits where counts = '' and not exists
        (select 1 from incarnations where incarnations.number = commits.incarnation)
"""
_ADD = """
    insert into meters (slot, listener, counter, count)
    select * from unnest($1::bigint[], $2::integer[], $3::smallint[], $4::bigint[])
    on conflict (slot, listener, counter) do update set count = meters.count + excluded.count
"""
_USAGE = """
    select listener, slot, counter, count from meters
    where slot >= $1 and slot < $2 and ($3::integer[] is null or listener = any($3))
"""
_PENDING = """
    select r.listener, count(*) from (
        select route from deliveries where waiting
        union all select route from deliveries where hold > 0
        union all select route from deliveries where state = 0 and hold = 0 and not waiting
    ) open join routes r on r.number = open.route group by r.listener
"""
"""Count the pending deliveries: in the backlog, held, and claimed; each in an index alone."""

_decode = msgspec.msgpack.decode

Counted = tuple[int, int, int, int]
"""(listener number, slot, counter, count)."""


async def fold(connection: Connection) -> bool:
    """Fold some commits into the meters, in one transaction; return False if there are no more.

    If another gateway folds now, this leaves the work to it.
    """
    async with connection.transaction():
        if not await connection.fetchval("select pg_try_advisory_xact_lock($1)", schema.FOLD_LOCK):
            return False
        found = await connection.fetch(_GATHER, _GATHERED_COMMITS)
        sums: dict[tuple[int, int, int], int] = {}
        for _, _, packed in found:
            for listener, slot, counter, count in _decode(packed):
                key = (slot, listener, counter)
                sums[key] = sums.get(key, 0) + count
        if found:
            await add(connection, sums)
            await connection.execute(_EMPTY, *columns([(row[0], row[1]) for row in found], 2))
        await connection.execute(_CLEAN)
        await connection.execute(_CLEAN_ENDED)
    return len(found) == _GATHERED_COMMITS


async def add(connection: Connection, sums: dict[tuple[int, int, int], int]) -> None:
    """Add (slot, listener, counter) -> count to the meters."""
    await connection.execute(_ADD, *columns([(*key, sums[key]) for key in sorted(sums)], 4))


async def usage(
    connection: Connection, since: int, until: int, where: Filter, period: Period, zone: datetime.tzinfo
) -> dict[tuple[int, int], model.Counts]:
    """Return (first second of the period, listener number) -> counts, for the slots in [since, until) (seconds)."""
    listeners = await listener_numbers(connection, where.namespace, where.tenant, where.listener)
    counted: list[Counted] = [
        (listener, slot, counter, count)
        for listener, slot, counter, count in await unfolded(connection)
        if since <= slot < until and (listeners is None or listener in listeners)
    ]
    numbers = None if listeners is None else sorted(listeners)
    counted += [tuple(row) for row in await connection.fetch(_USAGE, since, until, numbers)]
    found: dict[tuple[int, int], model.Counts] = {}
    for listener, slot, counter, count in counted:
        if slot >= 0:
            counts = found.setdefault((books.first_second(slot, period, zone), listener), {})
            counts[counter] = counts.get(counter, 0) + count
    return found


async def unfolded(connection: Connection) -> Iterator[Counted]:
    """Return the counts of commits that are not folded yet."""
    found = await connection.fetch("select counts from commits where counts <> ''")
    return (counted for (packed,) in found for counted in _decode(packed))


async def stored_bytes(connection: Connection) -> dict[int, int]:
    """Return listener number -> bytes that it stores."""
    found: dict[int, int] = {}
    statement = "select listener, count from meters where slot = $1 and counter = $2"
    for listener, count in await connection.fetch(statement, STORED_SLOT, int(model.Counter.stored_bytes)):
        found[listener] = found.get(listener, 0) + count
    for listener, _, counter, count in await unfolded(connection):
        if counter == model.Counter.stored_bytes:
            found[listener] = found.get(listener, 0) + count
    return found


async def listener_names(connection: Connection) -> dict[int, model.ListenerName]:
    """Return every listener by number."""
    found = await connection.fetch("select number, namespace, tenant, listener from listeners")
    return {number: model.ListenerName(*names) for number, *names in found}


async def open_deliveries(connection: Connection, at: int) -> dict[model.ListenerName, int]:
    """Count the deliveries open at a slot border: the pending rows without the changes since then, by the meters."""
    found: dict[int, int] = dict(await connection.fetch(_PENDING))
    border = model.slot_of(at)
    statement = "select listener, counter, sum(count)::bigint from meters where slot >= $1 group by listener, counter"
    counted = [tuple(row) for row in await connection.fetch(statement, border)]
    counted += [
        (listener, counter, count) for listener, slot, counter, count in await unfolded(connection) if slot >= border
    ]
    for listener, counter, count in counted:
        found[listener] = found.get(listener, 0) - books.OPEN_SIGNS.get(counter, 0) * count
    names = await listener_names(connection)
    return {names.get(listener) or unknown_listener(listener): count for listener, count in found.items() if count}
