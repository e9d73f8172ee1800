"""Move all data of a store into a file, and from the file into another store, of any engine.

Both engines give and take the same rows (COLUMNS). Numbers of names and row keys stay the same, so rows refer to each
other as before. From these rows, an engine builds its indexes for dedupe and persons.

A store is marked as moved before its first row is written to the file, and a gateway refuses it from then on. So a
delivery is never sent from both stores. An import commits its position in the file together with the rows before it.
"""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, BinaryIO, Protocol

import msgspec

from usher_gateway import __version__, model
from usher_gateway.store.export_file import FORMAT, Chunk, ExportReader, ExportWriter, Start

COLUMNS = {
    "listener": "number, namespace, tenant, listener",
    "destination": "number, key",
    "route": "number, hash, listener, name, destination, definition",
    "arrival": "key, id, listener, received_at, visit_time, counted_as, flags, reason, hops, body_size, fingerprint,"
    " visitor, persons, verdicts",
    "body": "key, expires_day, content_type, body",
    "delivery": "key, id, arrival, route, destination, state, hold, waiting, attempts, due_at, created_at, started_at,"
    " expires_at, settled_at, origin, cancel, status, error, answer",
    "attempt": "delivery, log",
    "print": "fingerprint, arrival",
    "mark": "mark, until",
    "activity": "listener, last_arrival_at, first_visits, retired_arrivals",
    "meter": "listener, slot, counter, count",
    "time": "name, value",
}
"""Kind -> the columns of its rows, in the order in which the kinds are moved.

The columns are those of the tables in the migrations. Arrivals come in the order of their keys, because SQLite indexes
persons up to a key. ``waiting`` is 0 or 1, and a pending delivery is in the backlog
or held. ``print``: the arrival by which dedupe knows a content. ``time``: the times in the table meta.
"""

TABLES = {
    "listener": "listeners",
    "destination": "destinations",
    "route": "routes",
    "arrival": "arrivals",
    "body": "bodies",
    "delivery": "deliveries",
    "attempt": "attempts",
    "print": "prints",
    "mark": "once_marks",
    "activity": "activity",
    "meter": "meters",
}
"""Kind -> its table, in both engines."""

TIMES = ("confirmed_at", "noted_at")
"""The names of the kind ``time``."""

MOVED = "moved"
"""The name in the table meta that marks a store as exported; its value is the time."""

POSITION = "import_position"
"""The name in the table meta of the position of an unfinished import: ``CHUNKS:DIGEST``."""

IMPORTED = "imported"
"""The name in the table meta of the last position of a complete import. It shows that a file need not be imported again
if the command was killed at its end."""

BEGINNING = "0:"
"""The position of an import that has loaded nothing."""

Row = Sequence[Any]
"""A row of a kind."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, ...]).decode


class MovableStore(Protocol):
    """A store that no gateway serves, opened for an export or an import."""

    async def begin_export(self, now: int) -> None:
        """Mark the store as moved, move what gateways had claimed to the backlog, and fold the counts.

        Raises:
            StoreLockedError: a gateway serves the store, or it has an unfinished import.
        """

    async def exported_at(self) -> str | None:
        """Return when the store was marked as moved; None if it is not."""

    async def undo_export(self) -> bool:
        """Remove the mark; return False if there is none."""

    async def begin_import(self) -> str:
        """Return the position of an unfinished import, else mark the store as having one (BEGINNING).

        Raises:
            StoreLockedError: a gateway serves the store, or the store is not empty.
        """

    async def load(self, kind: str, rows: list[Row], *, before: str, after: str) -> None:
        """Add rows and replace the position, in one transaction.

        Raises:
            StoreLockedError: the position is not ``before``, because another import runs.
        """

    async def finish_loading(self) -> None:
        """Prepare the store for new rows. Idempotent."""

    async def end_import(self) -> None:
        """Rename the position to IMPORTED, so that gateways may serve the store."""

    async def imported(self) -> str | None:
        """Return the last position of the import that filled this store, if it is complete.

        Raises:
            StoreLockedError: the data of the store were exported since.
        """

    def dump(self) -> AsyncIterator[tuple[str, list[Row]]]:
        """Yield the rows of all kinds, in slices, from one snapshot."""


def refuse_moved(moved: str | None, position: str | None) -> None:
    """Check that a gateway may serve a store with these values in its table meta.

    Raises:
        StoreLockedError: it may not.
    """
    if position is not None:
        raise model.StoreLockedError(
            "the store has an unfinished import", "Run `usher import` again with the same file, or use an empty store."
        )
    if moved is not None:
        raise model.StoreLockedError(
            f"the data of this store were exported at {moved}",
            "Serve the store that they were imported into. If there is none, run `usher export --undo` first.",
        )


def refuse_exported(moved: str | None) -> None:
    """Check that a file may be imported into a store with this value in its table meta.

    Raises:
        StoreLockedError: it may not.
    """
    if moved is not None:
        raise model.StoreLockedError(f"the data of this store were exported at {moved}", "Import into an empty store.")


class Tally(msgspec.Struct):
    """The number of rows of each kind, and a digest that does not depend on their order."""

    counts: dict[str, int] = {}
    digests: dict[str, int] = {}
    listeners: dict[int, str] = {}
    """Number -> ``namespace/tenant/listener``."""
    books: dict[int, int] = {}
    """Listener number -> digest of its meters in all quarter hours."""

    def add(self, kind: str, packed: bytes, row: Row) -> None:
        """Add a row, which is given as MessagePack and decoded."""
        digest = int.from_bytes(hashlib.blake2b(packed, digest_size=16).digest())
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.digests[kind] = (self.digests.get(kind, 0) + digest) % (1 << 128)
        if kind == "meter":
            self.books[row[0]] = (self.books.get(row[0], 0) + digest) % (1 << 128)
        elif kind == "listener":
            self.listeners[row[0]] = "/".join(row[1:])


class Comparison(msgspec.Struct, frozen=True):
    """The rows in a file and in a store."""

    file: Tally
    store: Tally

    @property
    def different_books(self) -> list[str]:
        """The listeners whose books differ in any quarter of an hour."""
        file, store = self.file, self.store
        names = store.listeners | file.listeners
        return sorted(
            names.get(number, str(number))
            for number in file.books.keys() | store.books.keys()
            if file.books.get(number) != store.books.get(number)
        )

    def is_equal(self, kind: str) -> bool:
        """Return whether all rows of a kind are equal."""
        pairs = [(tally.counts.get(kind), tally.digests.get(kind)) for tally in (self.file, self.store)]
        return pairs[0] == pairs[1]

    @property
    def is_complete(self) -> bool:
        """True if file and store have the same rows."""
        return all(self.is_equal(kind) for kind in COLUMNS)


Progress = Callable[[str, int], None]
"""Receives a kind and how many of its rows are done."""


async def export_store(
    store: MovableStore, file: BinaryIO, *, key_fingerprint: str, now: int, progress: Progress
) -> Tally:
    """Write all data of a store to a file; return what it contains."""
    await store.begin_export(now)
    writer = ExportWriter(file, Start(FORMAT, key_fingerprint, __version__))
    tally = Tally()
    async for kind, rows in store.dump():
        for row in rows:
            packed = _encode(row)
            tally.add(kind, packed, row)
            writer.add(kind, packed)
        progress(kind, tally.counts[kind])
    writer.end()
    return tally


async def import_file(store: MovableStore, reader: ExportReader, *, progress: Progress) -> Comparison | None:
    """Load a file into an empty store, or go on with its unfinished import; then compare both.

    Returns None if this file was imported before, and equal then. If file and store differ, the store keeps the mark of
    an unfinished import, so that no gateway serves it.

    Raises:
        ExportFileError: the file is damaged, or it is not the file of the unfinished import.
        StoreLockedError: see imported() and begin_import().
    """
    imported = await store.imported()
    if imported is not None:
        if imported != _last_position(reader):
            raise model.StoreLockedError("another file was imported into this store", "Import into an empty store.")
        return None
    position = await store.begin_import()
    done, _, digest = position.partition(":")
    tally = Tally()
    number = 0
    for chunk in reader.chunks():
        number = chunk.number
        rows = [_decode(row) for row in chunk.rows]
        for packed, row in zip(chunk.rows, rows, strict=True):
            tally.add(chunk.kind, packed, row)
        if number > int(done):
            after = _position(chunk)
            await store.load(chunk.kind, [*rows], before=position, after=after)
            position = after
            progress(chunk.kind, tally.counts[chunk.kind])
        elif number == int(done) and chunk.digest != digest:
            raise _another_file()
    if number < int(done):
        raise _another_file()
    await store.finish_loading()
    comparison = Comparison(tally, await _count(store))
    if comparison.is_complete:
        await store.end_import()
    return comparison


def _position(chunk: Chunk) -> str:
    return f"{chunk.number}:{chunk.digest}"


def _last_position(reader: ExportReader) -> str:
    position = BEGINNING
    for chunk in reader.chunks():
        position = _position(chunk)
    return position


async def _count(store: MovableStore) -> Tally:
    tally = Tally()
    async for kind, rows in store.dump():
        for row in rows:
            tally.add(kind, _encode(row), row)
    return tally


def _another_file() -> model.ExportFileError:
    return model.ExportFileError(
        "the store has an unfinished import of another file",
        "Run `usher import` with that file, or use an empty store.",
    )
