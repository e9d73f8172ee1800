"""Retention: delete expired data in small slices, found by the day on which they expire, without a scan.

The body goes first. Its row stays, empty, until the ledger row may go too, because dedupe looks back 7 days. A body
stays while a pending delivery needs it; held deliveries are cancelled (``Retention``).

A slice locks contents and visitors in the order in which accepting locks them. It skips arrivals and deliveries that
another transaction has locked: a person may just be replaying the arrival or redriving the delivery.
"""

import datetime
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import KeptTimes
from usher_gateway.store.encodings import row_bytes
from usher_gateway.store.jobs import audit, claims, links, meters, replays
from usher_gateway.store.session import Session, columns
from usher_gateway.store.transaction import Transaction

LEAST_SLICE = 64  # Arrivals, or marks, that the first slice deletes
_METER_SLICE = 64  # Slots of meters that a transaction walks over

# The ledger is kept at least this long, because dedupe looks back 7 days, in visit time and in received time.
LEDGER_DAYS = 8

METER_MONTHS = 25  # Months that meters are kept for tenants that are not (any more) in the configuration


_EXPIRED = """
    select b.key, b.expires_day, length(b.body), a.received_at, a.verdicts, a.persons, a.fingerprint, a.visitor,
        a.visit_time, a.listener
    from bodies b join arrivals a on a.key = b.key
    where b.expires_day <= $1 and (b.expires_day, b.key) > ($2, $3)
    order by b.expires_day, b.key limit $4 for update of a skip locked
"""
_NOTE_CONFIRMED = """
    insert into meta (name, value) values ('confirmed_at', $1) on conflict (name) do update set value = excluded.value
"""
_CREATED_LATER = "select arrival, key from deliveries where arrival = any($1::bigint[]) and origin > 0"

_UNDELIVERED = "select key from deliveries where key = any($1::bigint[]) and state <> 1"

# Lock what is pending, or what a redrive could make pending again (1: Delivered).
_LOCK_UNDELIVERED = """
    select key, state, hold from deliveries where key = any($1::bigint[]) and state <> 1
    order by key for update skip locked
"""

_KEEP_UNTIL = "update bodies set expires_day = $2 where key = any($1::bigint[])"

_EMPTY = """
    update bodies set body = null, content_type = null, expires_day = new.day
    from unnest($1::bigint[], $2::integer[]) as new (key, day) where bodies.key = new.key
"""
_DELETE_MARKS = """
    delete from once_marks where mark in (select mark from once_marks where until <= $1 order by until limit $2)
"""
_DELETE_RECEIPTS = """
    delete from erasures
    where key in (select key from erasures where ended_at > 0 and ended_at < $1 order by key limit $2)
"""
_NEXT_SLOT = "select min(slot) from meters where slot > $1 and slot < $2"

_DELETE_SLOT = "delete from meters where slot = $1 and listener = any($2::bigint[]) returning listener, counter, count"

_decode = msgspec.msgpack.decode


class ExpiredArrival(msgspec.Struct, frozen=True):
    """An arrival whose body may go."""

    key: int
    expires_day: int
    body_length: int | None
    """None: the body is gone already."""
    received_at: int
    verdicts: bytes
    persons: bytes
    fingerprint: bytes
    visitor: bytes
    visit_time: int
    listener: int


class RetentionWalk(msgspec.Struct):
    """How far retention has come. It does not check kept meters twice a day."""

    size: int = LEAST_SLICE
    """Arrivals, or marks, that the next slice deletes."""
    after: tuple[int, int] = (0, 0)
    """The last arrival's expiry day and key."""
    meters_day: int = -1
    meters_slot: int = 0

    def start_over(self) -> None:
        """Begin again with a small slice, because the last one failed: it may have been too large for a time limit."""
        self.size, self.after = LEAST_SLICE, (0, 0)


# Deletes arrivals with all their rows. The last value: the keys of their deliveries.
Forget = Callable[[Any, Sequence[ExpiredArrival], Mapping[int, set[int]]], Awaitable[None]]


async def prune(transaction: Transaction, now: int, kept: KeptTimes, walk: RetentionWalk, forget: Forget) -> int:
    """Delete one slice from bodies and ledger, or else from the other tables; return the rows touched."""
    await transaction.session.execute(_NOTE_CONFIRMED, str(now))
    count = await _prune_arrivals(transaction, now, walk, forget)
    if not count:
        count = await transaction.session.execute(_DELETE_MARKS, now, walk.size)
    if not count:
        count = await _prune_meters(transaction.session, now, kept.meter_months, walk)
    if not count:
        count = await replays.delete_old(transaction.session, now, walk.size)
    if not count:
        count = await audit.delete_old(transaction.session, now, walk.size)
    if not count:
        count = await links.revoke_of_gone(transaction.session, now, kept.meter_months)
    if not count:
        count = await links.delete_old(transaction.session, now, walk.size)
    if not count:
        count = await transaction.session.execute(_DELETE_RECEIPTS, now - kept.receipt_days * model.DAY, walk.size)
    return count


# Bodies, ledger rows, and the rows that belong to them


async def _prune_arrivals(transaction: Transaction, now: int, walk: RetentionWalk, forget: Forget) -> int:
    today, session = now // model.DAY, transaction.session
    rows = await session.fetch(_EXPIRED, today, *walk.after, walk.size)
    expired = [ExpiredArrival(*row) for row in rows]
    walk.after = (expired[-1].expires_day, expired[-1].key) if len(expired) == walk.size else (0, 0)
    if not expired:
        return 0
    await transaction.load_listeners([arrival.listener for arrival in expired])
    deliveries = await deliveries_of(session, {arrival.key: arrival.verdicts for arrival in expired})
    needed = await _cancel_held(transaction, deliveries, now)
    later: list[int] = []
    emptied: list[tuple[int, int]] = []
    ending: list[ExpiredArrival] = []
    for arrival in expired:
        stays_until = arrival.received_at // model.DAY + LEDGER_DAYS + 1
        if needed.intersection(deliveries[arrival.key]):
            later.append(arrival.key)
        elif stays_until > today:
            release_bytes(transaction, arrival)
            emptied.append((arrival.key, stays_until))
        else:
            ending.append(arrival)
    await session.execute(_KEEP_UNTIL, later, today + 1)
    await session.execute(_EMPTY, *columns(emptied, 2))
    if ending:
        await forget(transaction, ending, deliveries)
        for arrival in ending:
            release_bytes(transaction, arrival)
    return len(expired)


async def deliveries_of(session: Session, verdicts: Mapping[int, bytes]) -> dict[int, set[int]]:
    """Return each arrival's delivery keys: from its verdicts, releases and replays.

    ``verdicts``: an arrival's row key -> its verdicts as MessagePack.
    """
    deliveries = {key: {delivery for _, _, delivery in _decode(packed) if delivery} for key, packed in verdicts.items()}
    for arrival, key in await session.fetch(_CREATED_LATER, list(deliveries)):
        deliveries[arrival].add(key)
    return deliveries


async def _cancel_held(transaction: Transaction, deliveries: Mapping[int, set[int]], now: int) -> set[int]:
    """Cancel the held ones among some deliveries; return those that need their bodies: pending or locked."""
    session, keys = transaction.session, sorted(set().union(*deliveries.values()))
    undelivered = {key for (key,) in await session.fetch(_UNDELIVERED, keys)}
    if not undelivered:
        return undelivered
    locked: list[Any] = await session.fetch(_LOCK_UNDELIVERED, sorted(undelivered))
    held_keys = sorted([key for key, _, hold in locked if hold > 0])
    await claims.cancel(transaction, held_keys, now, model.CancelReason.Retention)
    return undelivered - {key for key, state, hold in locked if state or hold > 0}


def release_bytes(transaction: Transaction, arrival: ExpiredArrival) -> None:
    """Subtract an arrival's bytes from its tenant's, once: when its body goes."""
    if arrival.body_length is not None:
        transaction.add_stored_bytes(arrival.listener, -arrival.body_length - row_bytes(_decode(arrival.verdicts)))


# Meters


async def _prune_meters(session: Session, now: int, months: Mapping[str, int], walk: RetentionWalk) -> int:
    """Check the next slots; return 0 only if today's walk has reached slots that all tenants keep."""
    today = now // model.DAY
    if walk.meters_day != today:
        walk.meters_day, walk.meters_slot = today, 0
    cutoffs = {
        number: months_before(now, months.get(name.tenant_key, METER_MONTHS))
        for number, name in (await meters.listener_names(session)).items()
    }
    youngest = max(cutoffs.values(), default=0)
    for _ in range(_METER_SLICE):
        ((slot,),) = await session.fetch(_NEXT_SLOT, walk.meters_slot, youngest)
        if slot is None:
            return 0
        walk.meters_slot = slot
        deleted = await _prune_slot(session, slot, [number for number, cutoff in cutoffs.items() if slot < cutoff])
        if deleted >= _METER_SLICE:
            return deleted
    return 1


async def _prune_slot(session: Session, slot: int, listeners: list[int]) -> int:
    """Delete a slot's meters, and carry over the open deliveries at its end, so that the books still balance."""
    deleted = await session.fetch(_DELETE_SLOT, slot, listeners)
    carried: dict[tuple[int, int, int], int] = {}
    for listener, counter, count in deleted:
        key = (0, listener, int(model.Counter.carried))
        carried[key] = carried.get(key, 0) + books.OPEN_SIGNS.get(counter, 0) * count
    await meters.add(session, {key: count for key, count in carried.items() if count})
    return len(deleted)


def months_before(now: int, months: int) -> int:
    """Return the first second (UTC) in the month that is ``months`` months before the current one."""
    day = datetime.datetime.fromtimestamp(now // model.MICROSECONDS, datetime.UTC)
    month = day.year * 12 + day.month - 1 - months
    return int(datetime.datetime(month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC).timestamp())
