"""Meters: usage, stored bytes and open deliveries, from folded and unfolded counts in one snapshot.

Each commit on SQLite adds its counts to ``meters``. On PostgreSQL gateways would wait for each other there, so a commit
adds a row with its counts, and a background task sums these rows and adds the sums to ``meters`` (it *folds* them).
"""

import datetime
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import ANY, Filter, Period
from usher_gateway.store.encodings import STORED_SLOT, unknown_listener
from usher_gateway.store.jobs.scopes import listener_numbers
from usher_gateway.store.session import Session, Statement, columns
from usher_gateway.store.transaction import Transaction

# Up to this many listeners are looked up slot by slot; for more, a query reads all meters of the period.
_FEW_LISTENERS = 200

_UNFOLDED = Statement(postgresql="select counts from commits where counts <> ''", sqlite="select x'' where false")
_BOUNDS = """
    select (select min(slot) from meters where slot > 0), (select max(slot) from meters where slot > 0)
"""
_USAGE = "select listener, slot, counter, count from meters where slot >= $1 and slot < $2"

_TOTALS = """
    select slot, counter, sum(count)::bigint from meters where slot >= $1 and slot < $2 group by slot, counter
"""

_SUMS = """
    select listener, counter, sum(count)::bigint from meters where slot >= $1 and slot < $2 group by listener, counter
"""

# Jump through the meters' index, which is sorted by slot and then by listener.
_USAGE_OF_FEW = f"""
    with recursive slots (slot) as (
        select $1::bigint where $1::bigint < $2::bigint
        union all select slot + {model.SLOT_SECONDS} from slots where slot + {model.SLOT_SECONDS} < $2
    )
    select m.listener, m.slot, m.counter, m.count from slots join meters m on m.slot = slots.slot
    where m.listener = any($3::bigint[])
"""  # noqa: S608 - constants

# Visits by listener. The planner uses the index of the meters only if the counter is a literal.
_VISITS = """
    select listener, sum(count)::bigint from meters
    where listener = any($1::bigint[]) and slot >= $2 and slot < $3 and counter = 1 group by listener
"""

_STORED_BYTES = "select listener, count from meters where slot = $1 and counter = $2"

# Count the pending deliveries: in the backlog, held, and claimed; each by an index and without a scan.
_PENDING = """
    select r.listener, sum(open.number)::bigint from (
        select route, count(*) as number from deliveries where waiting group by route
        union all select route, count(*) from deliveries where hold > 0 group by route
        union all select route, count(*) from deliveries where state = 0 and hold <= 0 and not waiting group by route
    ) open join routes r on r.number = open.route group by r.listener
"""

_ADD = """
    insert into meters (slot, listener, counter, count)
    select * from unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::bigint[]) where true
    on conflict (slot, listener, counter) do update set count = meters.count + excluded.count
"""

_decode = msgspec.msgpack.decode

Counted = tuple[int, int, int, int]  # (listener number, slot, counter, count)


def parts(since: int, until: int, seconds: int, period: Period, zone: datetime.tzinfo) -> Iterator[tuple[int, int]]:
    """Yield [since, until), cut at each multiple of some seconds, and where a day or month begins."""
    while since < until:
        end = min(until, (since // seconds + 1) * seconds)
        if period != "slot":
            while (begin := books.first_second(end - 1, period, zone)) > since:
                end = begin
        yield since, end
        since = end


async def bounds(session: Session) -> tuple[int, int]:
    """Return where the first slot with counts begins and the last one ends (seconds); (0, 0) if there are none."""
    ((first, last),) = await session.fetch(_BOUNDS)
    slots = [slot for slot in (first, last) if slot is not None]
    slots += [slot for _, slot, _, _ in await unfolded(session) if slot > 0]
    return (min(slots), max(slots) + model.SLOT_SECONDS) if slots else (0, 0)


async def usage(
    session: Session, since: int, until: int, where: Filter, period: Period, zone: datetime.tzinfo
) -> dict[tuple[int, int], model.Counts]:
    """Return (the period's first second, listener number) -> counts, for a part of [since, until) (seconds)."""
    listeners = await listener_numbers(session, where)
    if period != "slot":
        first = books.first_second(since, period, zone)
        sums = await sums_by_listener(session, since, until, listeners)
        return {(first, listener): counts for listener, counts in sums.items()}
    if _are_few(listeners):
        rows = await session.fetch(_USAGE_OF_FEW, _first_slot(since), until, sorted(listeners or ()))
    else:
        rows = await session.fetch(_USAGE, since, until)
    counted = [tuple(row) for row in rows]
    counted += [row for row in await unfolded(session) if since <= row[1] < until]
    totals: dict[tuple[int, int], model.Counts] = {}
    for listener, slot, counter, count in counted:
        if slot >= 0 and (listeners is None or listener in listeners):
            counts = totals.setdefault((slot, listener), {})
            counts[counter] = counts.get(counter, 0) + count
    return totals


def _are_few(listeners: AbstractSet[int] | None) -> bool:
    return listeners is not None and len(listeners) <= _FEW_LISTENERS


def _first_slot(since: int) -> int:
    return -(-since // model.SLOT_SECONDS) * model.SLOT_SECONDS


async def sums_by_listener(
    session: Session, since: int, until: int, listeners: AbstractSet[int] | None
) -> dict[int, model.Counts]:
    """Return listener number -> counts, for the slots in [since, until) (seconds). ``listeners``: None: all."""
    if _are_few(listeners):
        rows = await session.fetch(_USAGE_OF_FEW, _first_slot(since), until, sorted(listeners or ()))
        counted = [(listener, counter, count) for listener, _, counter, count in rows]
    else:
        counted = [tuple(row) for row in await session.fetch(_SUMS, since, until)]
    counted += [
        (listener, counter, count)
        for listener, slot, counter, count in await unfolded(session)
        if since <= slot < until
    ]
    by_listener: dict[int, model.Counts] = {}
    for listener, counter, count in counted:
        if listeners is None or listener in listeners:
            counts = by_listener.setdefault(listener, {})
            counts[counter] = counts.get(counter, 0) + count
    return by_listener


async def visits(session: Session, since: int, until: int, listeners: AbstractSet[int]) -> Counter[int]:
    """Return listener number -> visits, for the slots in [since, until) (seconds)."""
    counts = Counter[int](dict(await session.fetch(_VISITS, sorted(listeners), since, until)))
    for listener, slot, counter, count in await unfolded(session):
        if counter == model.Counter.visits and since <= slot < until and listener in listeners:
            counts[listener] += count
    return counts


async def totals(session: Session, since: int, until: int) -> dict[int, model.Counts]:
    """Return slot -> counts for all listeners together, in the slots in [since, until) (seconds)."""
    counted = [tuple(row) for row in await session.fetch(_TOTALS, since, until)]
    counted += [(slot, counter, count) for _, slot, counter, count in await unfolded(session) if since <= slot < until]
    by_slot: dict[int, model.Counts] = {}
    for slot, counter, count in counted:
        counts = by_slot.setdefault(slot, {})
        counts[counter] = counts.get(counter, 0) + count
    return by_slot


Sums = dict[tuple[int, int, int], int]  # (slot, listener, counter) -> count


def sums(packed_counts: Iterable[bytes]) -> Sums:
    """Return the sums of some commits' counts."""
    totals: Sums = {}
    for packed in packed_counts:
        for listener, slot, counter, count in _decode(packed):
            key = (slot, listener, counter)
            totals[key] = totals.get(key, 0) + count
    return totals


async def add(session: Session, counts: Sums) -> None:
    """Add sums to the meters, in the table's order."""
    await session.execute(_ADD, *columns([(*key, counts[key]) for key in sorted(counts)], 4))


async def add_counts(transaction: Transaction) -> None:
    """Add a transaction's counts to the meters."""
    counts = {(slot, listener, counter): count for (listener, slot, counter), count in transaction.meters.items()}
    await add(transaction.session, counts)


async def unfolded(session: Session) -> Iterator[Counted]:
    """Return the counts from commits that are not folded yet."""
    rows = await session.fetch(_UNFOLDED)
    return (counted for (packed,) in rows for counted in _decode(packed))


async def stored_bytes(session: Session) -> dict[int, int]:
    """Return listener number -> bytes that it stores."""
    counter = int(model.Counter.stored_bytes)
    totals: dict[int, int] = dict(await session.fetch(_STORED_BYTES, STORED_SLOT, counter))
    for listener, _, counted_as, count in await unfolded(session):
        if counted_as == counter:
            totals[listener] = totals.get(listener, 0) + count
    return totals


async def listener_names(session: Session) -> dict[int, model.ListenerName]:
    """Return every listener by number."""
    rows = await session.fetch("select number, namespace, tenant, listener from listeners")
    return {number: model.ListenerName(*names) for number, *names in rows}


async def open_deliveries(session: Session, at: int, where: Filter = ANY) -> dict[model.ListenerName, int]:
    """Count the deliveries that were open at a slot border, by listener; listeners without any are left out.

    Uses only the filter's ``namespace``, ``tenant`` and ``listener``. Counts the pending rows, and subtracts the
    changes since the border according to the meters. So the result for the instant 0 is empty, unless the meters and
    the rows disagree.
    """
    listeners = await listener_numbers(session, where)
    totals: dict[int, int] = dict(await session.fetch(_PENDING))
    border, (oldest, youngest) = model.slot_of(at), await bounds(session)
    times = [(max(border, oldest), youngest)]
    if border <= 0:
        times.append((0, 1))  # the slot of what retention carries on
    for since, until in times:
        for listener, counts in (await sums_by_listener(session, since, until, listeners)).items():
            changed = sum(books.OPEN_SIGNS.get(counter, 0) * count for counter, count in counts.items())
            totals[listener] = totals.get(listener, 0) - changed
    names = await listener_names(session)
    return {
        names.get(listener) or unknown_listener(listener): count
        for listener, count in totals.items()
        if count and (listeners is None or listener in listeners)
    }
