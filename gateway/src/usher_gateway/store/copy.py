"""Copies all data from a store to another one, of any engine.

Both engines give and take the same rows (COLUMNS). Numbers of names and row keys stay the same, so rows refer to each
other as before. From these rows, an engine builds its indexes for dedupe and persons.

The source is marked as copied before its first row is read. Gateways refuse it from then on, and so does another copy,
so a delivery is never sent from two stores. The target is marked as unfinished until all its rows are equal to the
source's, and gateways refuse it until then. After an interruption a person undoes the source's mark, empties the
target, and copies again.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

import msgspec

from usher_gateway import model
from usher_gateway.store.base import DestinationActivity

# Table -> its columns, in the order in which the tables are copied; the migrations make the same columns.
# Arrivals come in key order, because SQLite indexes persons up to a key. `waiting` is 0 or 1, and a
# pending delivery is in the backlog or held. A row of `prints` is a content with the arrival by which dedupe knows it.
# From `meta` only the times are copied.
COLUMNS = {
    "listeners": "number, namespace, tenant, listener",
    "destinations": "number, key",
    "routes": "number, listener, destination, name, definition",
    "arrivals": "key, id, listener, received_at, visit_time, counted_as, flags, reason, hops, body_size, fingerprint,"
    " visitor, persons, verdicts",
    "bodies": "key, expires_day, content_type, body",
    "deliveries": "key, id, arrival, route, destination, state, hold, waiting, attempts, due_at, created_at,"
    " started_at, expires_at, settled_at, origin, cancel, status, error, answer, replay",
    "attempts": "delivery, log",
    "replays": "key, id, request, state, created_at, ended_at, place, next_at, report, requester",
    "erasures": "key, id, request, state, created_at, ended_at, report",
    "suppressed": "person, tenant, since",
    "links": "id, tenant, digest, created_at, expires_at, shows_visits, opened_at, used_at, revoked_at",
    "audit_entries": "key, id, at, who, action, selection, count, peer",
    "prints": "fingerprint, arrival",
    "once_marks": "mark, until",
    "activity": "listener, last_arrival_at, first_visits, retired_arrivals",
    "destination_activity": ", ".join(["destination", *DestinationActivity.__struct_fields__]),
    "meters": "listener, slot, counter, count",
    "meta": "name, value",
}

COPIED = "copied"  # The name in the table meta that marks a store as copied to another one; its value is the time
UNFINISHED = "copy_unfinished"  # The name in the table meta that marks a store to which a copy is unfinished
Row = Sequence[Any]  # A row of a table

_encode = msgspec.msgpack.Encoder().encode


class CopyableStore(Protocol):
    """A store that no gateway serves, opened to be copied or to be filled."""

    async def copied_at(self) -> str | None:
        """Return when the store was marked as copied; None if it is not."""

    async def begin_reading(self, now: int) -> None:
        """Mark the store as copied, move what gateways had claimed to the backlog, and fold the counts.

        Raises:
            StoreLockedError: a gateway serves the store, it was copied before, or a copy to it is unfinished.
        """

    async def undo(self) -> bool:
        """Remove the mark; return False if the store is not marked as copied."""

    async def begin_writing(self) -> None:
        """Mark the store as unfinished.

        Raises:
            StoreLockedError: a gateway serves the store, it has data, or it was copied to another one.
        """

    def dump(self) -> AsyncGenerator[tuple[str, list[Row]], None]:
        """Yield the rows of all tables, in slices, from one snapshot. Whoever reads only a part has to close it."""

    async def load(self, table: str, rows: list[Row]) -> None:
        """Add rows."""

    async def end_writing(self) -> None:
        """Remove the mark, so that gateways may serve the store."""


def refuse_unusable(copied_at: str | None, unfinished: str | None) -> None:
    """Check that a gateway may serve a store with these values in its table meta.

    Raises:
        StoreLockedError: it may not.
    """
    if unfinished is not None:
        raise model.StoreLockedError(
            "a copy to this store is unfinished",
            "Empty it, run `usher copy --undo` for the store that was copied, and copy again.",
        )
    if copied_at is not None:
        raise model.StoreLockedError(
            f"the data of this store were copied to another one at {copied_at}",
            "Serve the other one. If no gateway ran on it yet, you can run `usher copy --undo` for this one.",
        )


class Tally(msgspec.Struct):
    """Each table's number of rows, and a digest that does not depend on their order."""

    counts: dict[str, int] = {}
    digests: dict[str, int] = {}

    def add(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows from a table."""
        digests = [int.from_bytes(hashlib.blake2b(_encode(row), digest_size=16).digest()) for row in rows]
        self.counts[table] = self.counts.get(table, 0) + len(rows)
        self.digests[table] = (self.digests.get(table, 0) + sum(digests)) % (1 << 128)


class Comparison(msgspec.Struct, frozen=True):
    """The rows in both stores."""

    source: Tally
    target: Tally

    def is_equal(self, table: str) -> bool:
        """Return whether all rows of a table are equal."""
        pairs = [(tally.counts.get(table), tally.digests.get(table)) for tally in (self.source, self.target)]
        return pairs[0] == pairs[1]

    @property
    def is_complete(self) -> bool:
        """True if both stores have the same rows."""
        return all(self.is_equal(table) for table in COLUMNS)


# Receives what is done (`copied` or `compared`), a table, and how many of its rows are done.
Progress = Callable[[str, str, int], None]


async def copy(source: CopyableStore, target: CopyableStore, *, now: int, progress: Progress) -> Comparison:
    """Copy all rows to an empty store, then compare both. If they differ, the target keeps the mark.

    Raises:
        StoreLockedError: a gateway serves one store, the source was copied before, or the target has data.
    """
    refuse_unusable(await source.copied_at(), None)
    await target.begin_writing()
    try:
        await source.begin_reading(now)
    except model.UsherError:
        if await source.copied_at() is None:  # else the source is out of service, and an empty target may not serve
            await target.end_writing()
        raise
    tally = Tally()
    async with contextlib.aclosing(source.dump()) as slices:
        async for table, rows in slices:
            await target.load(table, rows)
            tally.add(table, rows)
            progress("copied", table, tally.counts[table])
            await asyncio.sleep(0)  # an interruption takes effect here, because SQLite's statements never wait
    comparison = Comparison(tally, await _count(target, progress))
    if comparison.is_complete:
        await target.end_writing()
    return comparison


async def _count(store: CopyableStore, progress: Progress) -> Tally:
    tally = Tally()
    async with contextlib.aclosing(store.dump()) as slices:
        async for table, rows in slices:
            tally.add(table, rows)
            progress("compared", table, tally.counts[table])
            await asyncio.sleep(0)
    return tally


def not_empty() -> model.StoreLockedError:
    """Return the error for a target that has data."""
    return model.StoreLockedError("the store of --to has other data", "Name a new folder or an empty database.")
