"""Erasures: everything stored about a person is deleted, in small steps. Counts stay, so the books still balance.

A step deletes some arrivals with all their rows, as retention does when their time is over, and counts them in the
erasure's row, in one transaction. So an erasure goes on after a crash at any point, and erases nothing twice. One step
serves many erasures, because each search and each commit costs about as much for one as for many.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Erasure, ErasureReport, ErasureRequest, ErasureState, SentTo
from usher_gateway.store.copy import COLUMNS
from usher_gateway.store.jobs import changes, claims, creation, listings, retention
from usher_gateway.store.jobs.retention import ExpiredArrival
from usher_gateway.store.session import Row, Session, newest
from usher_gateway.store.transaction import Transaction

STEP = 20  # Arrivals that one transaction erases; other arrivals wait for it
PAGE = 500  # Running erasures that are read at once
_SLICE = 1_000  # Arrivals that one statement reads
LISTED = 100  # How many erasures a list has, the newest ones

_ARRIVALS = """
    select a.key, coalesce(b.expires_day, 0), length(b.body), a.received_at, a.verdicts, a.persons, a.fingerprint,
        a.visitor, a.visit_time, a.listener, l.namespace, l.tenant
    from arrivals a left join bodies b on b.key = a.key left join listeners l on l.number = a.listener
    where a.key = any($1::bigint[]) order by a.key
"""
# A claimed delivery's attempt may run; a redrive forgets how many attempts there were, but not their log.
_DELIVERIES = """
    select d.key, d.state, d.settled_at, n.key, d.attempts > 0 or (d.state = 0 and d.hold <= 0 and not d.waiting)
        or exists (select 1 from attempts t where t.delivery = d.key)
    from deliveries d left join destinations n on n.number = d.destination
    where d.key = any($1::bigint[]) order by d.key
"""
_VERDICTS = "select key, verdicts from arrivals where key = any($1::bigint[])"
_PENDING = "select key from deliveries where key = any($1::bigint[]) and state = 0"
_ERASURES = f"select {COLUMNS['erasures']} from erasures"  # noqa: S608
_RUNNING = f"state in ({ErasureState.Pending:d}, {ErasureState.InProgress:d})"
_LOCK = f"""
    select key, report from erasures where key = any($1::bigint[]) and {_RUNNING} order by key for no key update
"""  # noqa: S608 - numbers
_INSERT = f"insert into erasures ({COLUMNS['erasures']}) values ($1, $2, $3, $4, $5, 0, $6)"  # noqa: S608
_COUNT = "update erasures set state = $2, report = $3 where key = $1"
_FORGET_PERSONS = f"update erasures set request = $2 where key = $1 and {_RUNNING}"  # noqa: S608
_END = f"update erasures set state = $2, ended_at = $3, request = $4 where key = $1 and {_RUNNING}"  # noqa: S608


class _Delivery(NamedTuple):
    """A person's delivery."""

    key: int
    state: int
    settled_at: int
    destination: str | None
    may_be_sent: bool
    """Its destination may have got it."""


async def start(transaction: Transaction, request: ErasureRequest, now: int, store_time: int) -> Erasure:
    """Write an erasure."""
    key = transaction.ids.next_key()
    state, report = ErasureState.Pending, ErasureReport(changed_at=store_time)
    erasure = Erasure(key, transaction.ids.id_of(key), request, state, created_at=now, ended_at=0, report=report)
    request_json, report_json = msgspec.json.encode(request), msgspec.json.encode(report)
    await transaction.session.execute(_INSERT, key, erasure.id, request_json, int(state), now, report_json)
    return erasure


async def left_to_erase(
    session: Session, erasures: Sequence[Erasure], *, only_before_request: bool
) -> dict[int, list[int]]:
    """Return an erasure's row key -> the row keys of the arrivals that it has to erase, the oldest first.

    ``only_before_request``: without those that came after the request.
    """
    persons = frozenset().union(*[erasure.request.persons for erasure in erasures])
    arrivals_of_person = await listings.arrivals_of_persons(session, persons)
    arrivals_of_erasure = {}
    for erasure in erasures:
        keys = set().union(*[arrivals_of_person.get(person, ()) for person in erasure.request.persons])
        arrivals_of_erasure[erasure.key] = sorted([key for key in keys if not only_before_request or key < erasure.key])
    return arrivals_of_erasure


async def routes_of(session: Session, keys: Sequence[int]) -> dict[int, list[int]]:
    """Return an arrival's row key -> the numbers of the routes that have a verdict on it."""
    rows = await session.fetch(_VERDICTS, sorted(keys))
    return {key: [route for route, _, _ in msgspec.msgpack.decode(packed)] for key, packed in rows}


async def erase(
    transaction: Transaction,
    arrivals_of: Mapping[int, Sequence[int]],
    now: int,
    *,
    store_time: int,
    marks: Mapping[int, Collection[bytes]],
    forget: retention.Forget,
) -> list[int] | None:
    """Erase some arrivals and their once-per marks; return the pending deliveries that were cancelled, by key.

    Returns None if all the erasures have ended.

    Args:
        transaction: the transaction.
        arrivals_of: an erasure's row key -> arrivals' row keys; an ended erasure's arrivals stay.
        now: microseconds.
        store_time: microseconds by the store's clock.
        marks: an arrival's row key -> its once-per marks.
        forget: deletes the arrivals.
    """
    session = transaction.session
    reports = await _locked_reports(session, arrivals_of)
    if not reports:
        return None
    # An arrival that two erasures have to erase counts for one.
    report_of = {arrival: report for key, report in reports.items() for arrival in arrivals_of[key]}
    await session.fetch(creation.LOCK_ARRIVALS, sorted(report_of))  # then read: retention may have emptied a body
    arrivals, tenants = await _arrivals(session, sorted(report_of))
    await transaction.load_listeners([arrival.listener for arrival in arrivals])
    deliveries = await retention.deliveries_of(session, {arrival.key: arrival.verdicts for arrival in arrivals})
    delivery_keys = sorted(set().union(*deliveries.values()))
    rows = await session.fetch(f"{_DELIVERIES} for update of d", delivery_keys)
    locked_deliveries = {delivery.key: delivery for delivery in itertools.starmap(_Delivery, rows)}
    pending = [key for key, delivery in locked_deliveries.items() if delivery.state == model.DeliveryState.Pending]
    await claims.cancel(transaction, pending, now, model.CancelReason.Erased)
    await session.execute(changes.DELETE_MARKS, sorted({mark for key in report_of for mark in marks.get(key, ())}))
    await forget(transaction, arrivals, deliveries)
    for arrival in arrivals:
        retention.release_bytes(transaction, arrival)
        report, tenant = report_of[arrival.key], tenants[arrival.key]
        report.arrivals[tenant] = report.arrivals.get(tenant, 0) + 1
        for key in deliveries[arrival.key] & locked_deliveries.keys():
            _count_delivery(report, locked_deliveries[key])
            if locked_deliveries[key].state == model.DeliveryState.Pending:
                report.changed_at = store_time
    for key, report in reports.items():
        await session.execute(_COUNT, key, int(ErasureState.InProgress), msgspec.json.encode(report))
    return pending


async def _locked_reports(session: Session, erasures: Iterable[int]) -> dict[int, ErasureReport]:
    """Lock the erasures among some row keys that have not ended; return their reports."""
    rows = await session.fetch(_LOCK, sorted(erasures))
    return {key: msgspec.json.decode(report, type=ErasureReport) for key, report in rows}


async def _arrivals(session: Session, keys: Sequence[int]) -> tuple[list[ExpiredArrival], dict[int, str]]:
    """Return arrivals, and their tenants (``namespace/name``) by row key."""
    rows = await session.fetch(_ARRIVALS, keys)
    tenants = {key: f"{namespace or '?'}/{tenant or '?'}" for key, *_, namespace, tenant in rows}
    return [ExpiredArrival(*arrival) for *arrival, _, _ in rows], tenants


def _count_delivery(report: ErasureReport, delivery: _Delivery) -> None:
    """Count a delivery by the state that it had, and what its destination has got."""
    name = model.DeliveryState(delivery.state).name.lower()
    report.deliveries[name] = report.deliveries.get(name, 0) + 1
    if not delivery.may_be_sent:
        return
    sent = report.sent_to.setdefault(delivery.destination or model.UNKNOWN_DESTINATION, SentTo())
    if delivery.state == model.DeliveryState.Delivered:
        sent.delivered += 1
        sent.first_at = min(sent.first_at or delivery.settled_at, delivery.settled_at)
        sent.last_at = max(sent.last_at, delivery.settled_at)
    else:
        sent.attempted += 1


async def preview(session: Session, persons: Collection[bytes]) -> ErasureReport:
    """Return what an erasure for these person keys would erase now."""
    report = ErasureReport()
    keys = sorted(await listings.keys_of_person(session, frozenset(persons)))
    for begin in range(0, len(keys), _SLICE):
        arrivals, tenants = await _arrivals(session, keys[begin : begin + _SLICE])
        for tenant in tenants.values():
            report.arrivals[tenant] = report.arrivals.get(tenant, 0) + 1
        deliveries = await retention.deliveries_of(session, {arrival.key: arrival.verdicts for arrival in arrivals})
        for row in await session.fetch(_DELIVERIES, sorted(set().union(*deliveries.values()))):
            _count_delivery(report, _Delivery(*row))
    return report


async def pending_deliveries(session: Session, persons: Collection[bytes]) -> list[int]:
    """Return the row keys of a person's pending deliveries."""
    arrivals = sorted(await listings.keys_of_person(session, frozenset(persons)))
    pending: list[int] = []
    for begin in range(0, len(arrivals), _SLICE):
        verdicts = dict(await session.fetch(_VERDICTS, arrivals[begin : begin + _SLICE]))
        deliveries = await retention.deliveries_of(session, verdicts)
        pending += [key for (key,) in await session.fetch(_PENDING, sorted(set().union(*deliveries.values())))]
    return sorted(pending)


async def forget_persons(transaction: Transaction, erasures: Sequence[Erasure], settling: range) -> list[Erasure]:
    """Forget whose data some erasures erase, once nothing is left; return them.

    Leaves out those that another gateway ended, or that cancelled a delivery at a ``settling`` time.
    """
    by_key = {erasure.key: erasure for erasure in erasures}
    reports = await _locked_reports(transaction.session, by_key)
    settled = [by_key[key] for key, report in reports.items() if report.changed_at not in settling]
    for erasure in settled:
        await transaction.session.execute(_FORGET_PERSONS, erasure.key, _without_persons(erasure))
    return settled


def _without_persons(erasure: Erasure) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(erasure.request, persons=()))


async def end(transaction: Transaction, erasures: Sequence[Erasure], state: ErasureState, now: int) -> int:
    """End some erasures, and forget whose they were; return how many ran."""
    ended = 0
    for erasure in erasures:
        ended += await transaction.session.execute(_END, erasure.key, int(state), now, _without_persons(erasure))
    return ended


async def cancel(transaction: Transaction, erasure: Erasure, now: int) -> bool:
    """End an erasure that runs; return whether it ran. Erased visits stay erased."""
    return await end(transaction, [erasure], ErasureState.Cancelled, now) > 0


async def running(session: Session, after: int = 0) -> list[Erasure]:
    """Return erasures that have not ended, the oldest first, from a row key on; at most ``PAGE``."""
    where = f"where {_RUNNING} and key > $1 order by key limit {PAGE}"
    return [_erasure(row) for row in await session.fetch(f"{_ERASURES} {where}", after)]


async def listed(session: Session, select: Callable[[Erasure], bool]) -> list[Erasure]:
    """Return the newest erasures that are selected, at most ``LISTED``."""
    return [_erasure(row) for row in await newest(session, _ERASURES, LISTED, lambda row: select(_erasure(row)))]


async def find(session: Session, identifier: bytes) -> Erasure:
    """Return an erasure.

    Raises:
        NotFoundError: it does not exist.
    """
    rows = await session.fetch(f"{_ERASURES} where key = $1 and id = $2", model.key_of(identifier), identifier)
    if not rows:
        raise model.NotFoundError("there is no such erasure", "use an id from `usher person requests`")
    return _erasure(rows[0])


def _erasure(row: Row) -> Erasure:
    key, identifier, request, state, created_at, ended_at, report = row
    return Erasure(
        key,
        bytes(identifier),
        msgspec.json.decode(request, type=ErasureRequest),
        ErasureState(state),
        created_at,
        ended_at,
        msgspec.json.decode(report, type=ErasureReport),
    )
