"""Meters: fold the counts of commits into the table, and read usage: folded and unfolded counts in one snapshot.

Every commit appends one row with its counts to ``meter_batches``, because updating a meter per arrival would cost more.
A background task sums these batches and adds the sums to ``meters``.
"""

import datetime
import sqlite3
from collections.abc import Iterable, Iterator

import msgspec

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.base import Filter, Period
from usher_gateway.store.encodings import STORED_SLOT
from usher_gateway.store.sqlite import database, listings
from usher_gateway.store.sqlite.transaction import Transaction

_GATHERED_BATCHES = 1_024
"""Rows of meter_batches to sum at a time: many counts of a listener become a few meters."""

_PART_KEYS = 1_024
"""Meters that one job updates; arrivals wait for it."""

_DAY_SECONDS = 86_400
_FEW_LISTENERS = 200
"""Up to this many listeners are looked up slot by slot; for more, a query reads all meters of a day."""

_decode = msgspec.msgpack.decode
_encode = msgspec.msgpack.encode

Counted = tuple[int, int, int, int]
"""(listener number, slot, counter, count)."""


class GatheredCounts(msgspec.Struct):
    """The sums of the oldest batches."""

    last: int
    """The number of the last batch."""
    batches: int
    parts: list[list[database.Row]]
    """(slot, listener, counter, count) in the order of the table meters, cut into parts for one job each."""

    @property
    def is_everything(self) -> bool:
        """True if there were no more batches."""
        return self.batches < _GATHERED_BATCHES


CountsPart = tuple[int, list[database.Row]]
"""(batch number, rows): a part that fold() stored as a separate batch."""


def gather(connection: sqlite3.Connection) -> GatheredCounts:
    """Sum the oldest batches. A reader does this, so that arrivals do not wait for it."""
    statement = "select number, counts from meter_batches order by number limit ?"
    batches = connection.execute(statement, (_GATHERED_BATCHES,)).fetchall()
    sums: dict[tuple[int, int, int], int] = {}
    for _, packed in batches:
        for listener, slot, counter, count in _decode(packed):
            key = (slot, listener, counter)
            sums[key] = sums.get(key, 0) + count
    counts: list[database.Row] = [(*key, sums[key]) for key in sorted(sums)]
    parts = [counts[start : start + _PART_KEYS] for start in range(0, len(counts), _PART_KEYS)]
    return GatheredCounts(batches[-1][0] if batches else 0, len(batches), parts)


def fold(transaction: Transaction, gathered: GatheredCounts) -> list[CountsPart]:
    """Replace the gathered batches: add the first part to the meters, and store the others as separate batches.

    All in one transaction, so that a crash neither loses nor doubles a count.

    Returns:
        The other parts, for fold_part().
    """
    connection = transaction.connection
    deleted = connection.execute("delete from meter_batches where number <= ?", (gathered.last,)).rowcount
    if deleted != gathered.batches:
        raise model.StoreUnavailableError("the batches of counts have changed since they were gathered")
    rest: list[CountsPart] = []
    for part in gathered.parts[1:]:
        packed = _encode([(listener, slot, counter, count) for slot, listener, counter, count in part])
        statement = "insert into meter_batches (counts) values (?) returning number"
        (number,) = connection.execute(statement, (packed,)).fetchone()
        rest.append((number, part))
    add(connection, gathered.parts[0])
    return rest


def fold_part(transaction: Transaction, part: CountsPart) -> None:
    """Add a part that fold() returned to the meters, and delete its batch."""
    number, counts = part
    transaction.connection.execute("delete from meter_batches where number = ?", (number,))
    add(transaction.connection, counts)


def add(connection: sqlite3.Connection, counts: list[database.Row]) -> None:
    """Add (slot, listener, counter, count) rows to the meters."""
    head = "insert into meters (slot, listener, counter, count)"
    database.insert_rows(
        connection, head, "(?,?,?,?)", counts, "on conflict do update set count = count + excluded.count"
    )


def days(since: int, until: int) -> Iterator[tuple[int, int]]:
    """Yield [since, until) (seconds), cut at midnights UTC."""
    while since < until:
        end = min(until, (since // _DAY_SECONDS + 1) * _DAY_SECONDS)
        yield since, end
        since = end


def bounds(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the first slot with counts and the end of the last one (seconds); (0, 0) if there are none."""
    (first,) = connection.execute("select min(slot) from meters where slot > 0").fetchone()
    (last,) = connection.execute("select max(slot) from meters where slot > 0").fetchone()
    slots = [slot for slot in (first, last) if slot is not None]
    slots += [slot for _, slot, _, _ in _unfolded(connection) if slot > 0]
    return (min(slots), max(slots) + model.SLOT_SECONDS) if slots else (0, 0)


def usage(
    connection: sqlite3.Connection, since: int, until: int, where: Filter, period: Period, zone: datetime.tzinfo
) -> dict[tuple[int, int], model.Counts]:
    """Return (first second of the period, listener number) -> counts, for the slots in [since, until) (seconds)."""
    listeners = listings.listener_numbers(connection, where.namespace, where.tenant, where.listener)
    found: dict[tuple[int, int], model.Counts] = {}
    for listener, slot, counter, count in _all(connection, since, until, listeners):
        counts = found.setdefault((books.first_second(slot, period, zone), listener), {})
        counts[counter] = counts.get(counter, 0) + count
    return found


def stored_bytes(connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Yield (listener number, bytes) pairs, which add up to what each listener stores."""
    statement = "select listener, count from meters where slot = ? and counter = ?"
    yield from connection.execute(statement, (STORED_SLOT, int(model.Counter.stored_bytes)))
    for listener, _, counter, count in _unfolded(connection):
        if counter == model.Counter.stored_bytes:
            yield listener, count


def listener_names(connection: sqlite3.Connection) -> dict[int, model.ListenerName]:
    """Return every listener by number."""
    found = connection.execute("select number, namespace, tenant, listener from listeners")
    return {number: model.ListenerName(*names) for number, *names in found}


def open_deliveries(connection: sqlite3.Connection, at: int) -> dict[model.ListenerName, int]:
    """Count the deliveries open at a slot border: the pending rows without the changes since then, by the meters."""
    found = _pending_by_listener(connection)
    border = model.slot_of(at)
    statement = "select listener, counter, sum(count) from meters where slot >= ? group by listener, counter"
    counted = list(connection.execute(statement, (border,)))
    counted += [
        (listener, counter, count) for listener, slot, counter, count in _unfolded(connection) if slot >= border
    ]
    for listener, counter, count in counted:
        found[listener] = found.get(listener, 0) - books.OPEN_SIGNS.get(counter, 0) * count
    names = listener_names(connection)
    return {names[listener]: count for listener, count in found.items() if count}


def _pending_by_listener(connection: sqlite3.Connection) -> dict[int, int]:
    """Count the pending deliveries in the backlog, held, and claimed; each by an index and without a scan."""
    row = connection.execute("select value from meta where name = 'lanes_from'").fetchone()
    lanes_from = int(row[0]) if row else 0
    statement = """
        select listener, sum(n) from (
            select route, count(*) as n from deliveries where waiting = 1 group by route
            union all
            select route, count(*) from deliveries where hold > 0 group by route
            union all
            select route, count(*) from deliveries
            where key >= ? and state = 0 and hold = 0 and waiting = 0 group by route
        ) join routes on routes.number = route group by listener
    """
    return dict(connection.execute(statement, (lanes_from,)))


def _all(connection: sqlite3.Connection, since: int, until: int, listeners: set[int] | None) -> Iterator[Counted]:
    if listeners is None or len(listeners) > _FEW_LISTENERS:
        statement = "select listener, slot, counter, count from meters where slot >= ? and slot < ?"
        folded: Iterable[Counted] = connection.execute(statement, (since, until))
    else:
        folded = _of_few(connection, since, until, sorted(listeners))
    for counted in folded:
        if listeners is None or counted[0] in listeners:
            yield counted
    for counted in _unfolded(connection):
        if since <= counted[1] < until and (listeners is None or counted[0] in listeners):
            yield counted


def _of_few(connection: sqlite3.Connection, since: int, until: int, listeners: list[int]) -> Iterator[Counted]:
    statement = "select listener, slot, counter, count from meters where slot = ? and listener = ?"
    first = -(-since // model.SLOT_SECONDS) * model.SLOT_SECONDS
    for slot in range(first, until, model.SLOT_SECONDS):
        for listener in listeners:
            yield from connection.execute(statement, (slot, listener))


def _unfolded(connection: sqlite3.Connection) -> Iterator[Counted]:
    for (packed,) in connection.execute("select counts from meter_batches"):
        yield from _decode(packed)
