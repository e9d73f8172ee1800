"""Erasures: everything that is stored of a person is deleted, in small steps. Counts stay, so the books still balance.

A step deletes some arrivals with all their rows, as retention does when their time is over, and counts them in the row
of the erasure, in one transaction. So an erasure goes on after a crash at any point, and erases nothing twice.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Erasure, ErasureReport, ErasureRequest, ErasureState, SentTo
from usher_gateway.store.jobs import changes, creation, listings, retention
from usher_gateway.store.jobs.retention import ExpiredArrival
from usher_gateway.store.session import Row, Session
from usher_gateway.store.transaction import Transaction

STEP = 20
"""Arrivals that one transaction erases; other arrivals wait for it."""

LOOKED_UP = 1_000
"""Arrivals that one search for what is left returns."""

_SLICE = 1_000
"""Arrivals that one statement reads."""

LISTED = 100
"""How many erasures a list has, the newest ones."""

_ARRIVALS = """
    select a.key, b.expires_day, length(b.body), a.received_at, a.verdicts, a.persons, a.fingerprint, a.visitor,
        a.visit_time, a.listener, l.namespace, l.tenant
    from arrivals a left join bodies b on b.key = a.key left join listeners l on l.number = a.listener
    where a.key = any($1::bigint[]) order by a.key
"""
_DELIVERIES = """
    select d.key, d.state, d.settled_at, n.key, d.attempts > 0 or (d.state = 0 and d.hold = 0 and not d.waiting)
        or exists (select 1 from attempts t where t.delivery = d.key)
    from deliveries d left join destinations n on n.number = d.destination
    where d.key = any($1::bigint[]) order by d.key
"""
"""The last value: its destination may have got it. An attempt of a claimed delivery may run; a redrive forgets the
number of attempts, but not their log.
"""
_CANCEL = """
    update deliveries set state = $2, hold = 0, waiting = false, owner = 0, due_at = 0, settled_at = $3, cancel = $4
    where key = any($1::bigint[]) and state = 0 returning key, route
"""
_VERDICTS = "select key, verdicts from arrivals where key = any($1::bigint[])"
_PENDING = "select key from deliveries where key = any($1::bigint[]) and state = 0"
_ERASURES = "select key, id, request, state, created_at, ended_at, report from erasures"
_LOCK = "select state, report from erasures where key = $1 for no key update"
_INSERT = "insert into erasures values ($1, $2, $3, $4, $5, 0, $6)"
_COUNT = "update erasures set state = $2, report = $3 where key = $1"
_FORGET_PERSONS = "update erasures set request = $2 where key = $1 and state in (1, 2)"
_END = "update erasures set state = $2, ended_at = $3, request = $4 where key = $1 and state in (1, 2)"

Forget = Callable[[Transaction, Sequence[ExpiredArrival], Mapping[int, set[int]]], Awaitable[None]]
"""Deletes arrivals with all their rows. The last value: the keys of their deliveries."""


async def start(transaction: Transaction, request: ErasureRequest, now: int, store_time: int) -> Erasure:
    """Write an erasure."""
    key = transaction.ids.next_key()
    state, report = ErasureState.Pending, ErasureReport(changed_at=store_time)
    erasure = Erasure(
        key=key,
        id=transaction.ids.id_of(key),
        request=request,
        state=state,
        created_at=now,
        ended_at=0,
        report=report,
    )
    encoded = msgspec.json.encode(request), msgspec.json.encode(report)
    await transaction.session.execute(_INSERT, key, erasure.id, encoded[0], int(state), now, encoded[1])
    return erasure


async def left_to_erase(session: Session, persons: Collection[bytes], before: int | None) -> list[int]:
    """Return row keys of arrivals that have any of these person keys, the oldest first.

    ``before``: only those with lower row keys; None: all.
    """
    keys = await listings.keys_of_person(session, frozenset(persons))
    return sorted([key for key in keys if before is None or key < before])[:LOOKED_UP]


async def routes_of(session: Session, keys: Sequence[int]) -> dict[int, list[int]]:
    """Return row key of an arrival -> the numbers of the routes that have a verdict on it."""
    rows = await session.fetch(_VERDICTS, sorted(keys))
    return {key: [route for route, _, _ in msgspec.msgpack.decode(packed)] for key, packed in rows}


async def erase(
    transaction: Transaction,
    erasure: Erasure,
    keys: Sequence[int],
    now: int,
    *,
    store_time: int,
    marks: Collection[bytes],
    forget: Forget,
) -> list[int]:
    """Erase some arrivals and their once-per marks; return the keys of the pending deliveries that were cancelled."""
    session = transaction.session
    rows = await session.fetch(_LOCK, erasure.key)
    if not rows or rows[0][0] not in {ErasureState.Pending, ErasureState.InProgress}:
        return []
    report = msgspec.json.decode(rows[0][1], type=ErasureReport)
    await session.fetch(creation.LOCK_ARRIVALS, sorted(keys))  # then read: retention may have emptied a body meanwhile
    found = await session.fetch(_ARRIVALS, sorted(keys))
    tenants = {row[0]: f"{row[10] or '?'}/{row[11] or '?'}" for row in found}
    arrivals = [ExpiredArrival(row[0], row[1] or 0, *row[2:10]) for row in found]
    await transaction.load_listeners([arrival.listener for arrival in arrivals])
    deliveries = await retention.deliveries_of(session, {arrival.key: arrival.verdicts for arrival in arrivals})
    delivery_keys = sorted(set().union(*deliveries.values()))
    states = {row[0]: row for row in await session.fetch(f"{_DELIVERIES} for update of d", delivery_keys)}
    pending = [key for key, row in states.items() if row[1] == model.DeliveryState.Pending]
    state, reason = int(model.DeliveryState.Cancelled), int(model.CancelReason.Erased)
    cancelled = await session.fetch(_CANCEL, pending, state, now, reason)
    await transaction.meter_routes([route for _, route in cancelled], now, model.Counter.cancelled)
    transaction.remove_claimed(pending)
    if pending:
        report.changed_at = store_time
    await session.execute(changes.DELETE_MARKS, sorted(marks))
    await forget(transaction, arrivals, deliveries)
    for arrival in arrivals:
        retention.release_bytes(transaction, arrival)
        tenant = tenants[arrival.key]
        report.arrivals[tenant] = report.arrivals.get(tenant, 0) + 1
        for key in deliveries[arrival.key] & states.keys():
            _count_delivery(report, states[key])
    await session.execute(_COUNT, erasure.key, int(ErasureState.InProgress), msgspec.json.encode(report))
    return pending


def _count_delivery(report: ErasureReport, row: Row) -> None:
    """Count a delivery by the state that it had, and what its destination has got."""
    _, state, settled_at, destination, may_be_sent = row
    name = model.DeliveryState(state).name.lower()
    report.deliveries[name] = report.deliveries.get(name, 0) + 1
    if not may_be_sent:
        return
    sent = report.sent_to.setdefault(destination or model.UNKNOWN_DESTINATION, SentTo())
    if state == model.DeliveryState.Delivered:
        sent.delivered += 1
        sent.first_at = min(sent.first_at or settled_at, settled_at)
        sent.last_at = max(sent.last_at, settled_at)
    else:
        sent.attempted += 1


async def preview(session: Session, persons: Collection[bytes]) -> ErasureReport:
    """Return what an erasure would erase now."""
    report = ErasureReport()
    keys = sorted(await listings.keys_of_person(session, frozenset(persons)))
    for begin in range(0, len(keys), _SLICE):
        rows = await session.fetch(_ARRIVALS, keys[begin : begin + _SLICE])
        arrivals = [ExpiredArrival(row[0], row[1] or 0, *row[2:10]) for row in rows]
        for row in rows:
            tenant = f"{row[10] or '?'}/{row[11] or '?'}"
            report.arrivals[tenant] = report.arrivals.get(tenant, 0) + 1
        deliveries = await retention.deliveries_of(session, {arrival.key: arrival.verdicts for arrival in arrivals})
        for row in await session.fetch(_DELIVERIES, sorted(set().union(*deliveries.values()))):
            _count_delivery(report, row)
    return report


async def pending_deliveries(session: Session, persons: Collection[bytes]) -> list[int]:
    """Return the row keys of the pending deliveries of a person."""
    arrivals = sorted(await listings.keys_of_person(session, frozenset(persons)))
    pending: list[int] = []
    for begin in range(0, len(arrivals), _SLICE):
        verdicts = dict(await session.fetch(_VERDICTS, arrivals[begin : begin + _SLICE]))
        deliveries = await retention.deliveries_of(session, verdicts)
        pending += [key for (key,) in await session.fetch(_PENDING, sorted(set().union(*deliveries.values())))]
    return sorted(pending)


async def forget_persons(transaction: Transaction, erasure: Erasure) -> None:
    """Forget whose data an erasure erases, once nothing of it is left."""
    await transaction.session.execute(_FORGET_PERSONS, erasure.key, _without_persons(erasure))


def _without_persons(erasure: Erasure) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(erasure.request, persons=()))


async def end(transaction: Transaction, erasure: Erasure, state: ErasureState, now: int) -> bool:
    """End an erasure, and forget whose it was; return whether it ran."""
    values = (int(state), now, _without_persons(erasure))
    return bool(await transaction.session.execute(_END, erasure.key, *values))


async def running(session: Session) -> list[Erasure]:
    """Return the erasures that have not ended, the oldest first."""
    return [_erasure(row) for row in await session.fetch(f"{_ERASURES} where state in (1, 2) order by key")]


async def listed(session: Session, identifier: bytes | None = None) -> list[Erasure]:
    """Return the newest erasures, or one."""
    if identifier is not None:
        rows = await session.fetch(f"{_ERASURES} where key = $1 and id = $2", model.key_of(identifier), identifier)
    else:
        rows = await session.fetch(f"{_ERASURES} order by key desc limit {LISTED}")
    return [_erasure(row) for row in rows]


def _erasure(row: Row) -> Erasure:
    key, identifier, request, state, created_at, ended_at, report = row
    return Erasure(
        key=key,
        id=bytes(identifier),
        request=msgspec.json.decode(request, type=ErasureRequest),
        state=ErasureState(state),
        created_at=created_at,
        ended_at=ended_at,
        report=msgspec.json.decode(report, type=ErasureReport),
    )
