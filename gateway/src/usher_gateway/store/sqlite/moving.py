"""Export and import of a SQLite store (see store/moving.py)."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store import moving
from usher_gateway.store.moving import COLUMNS, IMPORTED, MOVED, POSITION, TABLES
from usher_gateway.store.sqlite import database, meters
from usher_gateway.store.sqlite.recent_index import BUCKETS, FOLD_ROWS, short_key
from usher_gateway.store.sqlite.transaction import fold_persons
from usher_gateway.store.sqlite.writer import recover

_SLICE = 1_000
_BODIES = 16
"""A slice of bodies is smaller, because they are held in memory together."""

_CHECKPOINT_BYTES = 16 * 1024 * 1024

_DUMPED = {
    "print": "select fingerprint, arrival from prints join arrivals on arrivals.key = prints.arrival",
    "time": "select name, value from meta where name in ('confirmed_at', 'noted_at')",
}
"""Kinds that are only a part of a table."""

_log = structlog.get_logger(__name__)

_SET_META = "insert or replace into meta values (?, ?)"


@contextlib.contextmanager
def unused_store(folder: Path) -> Iterator[None]:
    """Keep a SQLite store in a folder from being served while a gateway on another store uses the folder.

    Otherwise both would send the same deliveries if one store has the data of the other. Warns if the data of the store
    were not exported.

    Raises:
        StoreLockedError: a gateway serves it, or a command uses it.
    """
    path = folder / database.FILE_NAME
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(database.shared_lock(path))
            if not _is_exported(path):
                _log.warning("unused_store_found", file=str(path), hint=_UNUSED_HINT)
        yield


_UNUSED_HINT = (
    "This gateway uses --store. Move the visits and pending deliveries with `usher export`, or move the file away."
)


def _is_exported(path: Path) -> bool:
    try:
        with contextlib.closing(database.connect(path, read_only=True)) as connection:
            return connection.execute("select 1 from meta where name = ?", (MOVED,)).fetchone() is not None
    except sqlite3.Error:
        return False


class SqliteMove:
    """The store in a folder, owned for an export or an import."""

    def __init__(self, folder: Path, key_fingerprint: str, *, may_create: bool) -> None:
        """Take ownership.

        Raises:
            StoreLockedError, StoreCorruptError, InstallKeyError, ConfigurationError: see Store.open().
        """
        if not may_create and not (folder / database.FILE_NAME).exists():
            raise model.ConfigurationError(f"there is no store in {folder}", "Give the --data folder of `usher run`.")
        self._folder = folder
        self._owned = database.open_database(folder, key_fingerprint)
        self._connection = self._owned.connection

    async def close(self) -> None:
        """Give up ownership."""
        self._owned.close()

    async def begin_export(self, now: int) -> None:
        """Mark, recover and fold in two transactions; the second one has the mark."""
        with database.explained_errors(self._folder):
            moving.refuse_moved(None, self._meta(POSITION))
            writer = recover(self._owned, FOLD_ROWS, now)
            with self._transaction():
                generation = writer.recent_index.growing
                for first_byte in BUCKETS:
                    prints, sightings = generation.bucket(first_byte)
                    database.insert_rows(self._connection, "insert or replace into prints", database.PAIR, prints)
                    database.insert_rows(self._connection, "insert or ignore into sightings", database.PAIR, sightings)
                if generation.size:
                    self._connection.execute(_SET_META, ("folded_to", str(generation.last_key)))
                self._fold_meters()
                self._connection.execute("insert or ignore into meta values (?, ?)", (MOVED, model.format_time(now)))

    def _fold_meters(self) -> None:
        sums: dict[tuple[int, int, int], int] = {}
        for (packed,) in self._connection.execute("select counts from meter_batches"):
            for listener, slot, counter, count in msgspec.msgpack.decode(packed):
                key = (slot, listener, counter)
                sums[key] = sums.get(key, 0) + count
        meters.add(self._connection, [(*key, count) for key, count in sorted(sums.items())])
        self._connection.execute("delete from meter_batches")

    async def exported_at(self) -> str | None:
        """Return the mark."""
        with database.explained_errors(self._folder):
            return self._meta(MOVED)

    async def undo_export(self) -> bool:
        """Remove the mark."""
        with self._transaction():
            return self._connection.execute("delete from meta where name = ?", (MOVED,)).rowcount > 0

    async def begin_import(self) -> str:
        """Return or set the position."""
        with database.explained_errors(self._folder):
            position = self._meta(POSITION)
            if position is not None:
                return position
            is_empty = not any(self._has_rows(table) for table in (*TABLES.values(), "meter_batches"))
        if not is_empty:
            raise model.StoreLockedError(
                f"the store in {self._folder} is not empty", "Give --data a folder without a store."
            )
        with self._transaction():
            self._connection.execute(_SET_META, (POSITION, moving.BEGINNING))
        return moving.BEGINNING

    def _has_rows(self, table: str) -> bool:
        return self._connection.execute(f"select 1 from {table} limit 1").fetchone() is not None  # noqa: S608

    async def load(self, kind: str, rows: list[moving.Row], *, before: str, after: str) -> None:
        """Add rows."""
        with self._transaction():
            moved = self._connection.execute(
                "update meta set value = ? where name = ? and value = ?", (after, POSITION, before)
            )
            if moved.rowcount != 1:
                raise model.StoreLockedError("another import uses this store", "Wait until it ends.")
            if kind == "time":
                self._connection.executemany(_SET_META, rows)
            elif kind == "print":
                values = sorted((short_key(fingerprint), arrival) for fingerprint, arrival in rows)
                self._connection.executemany("insert into prints (print, arrival) values (?, ?)", values)
            else:
                placeholders = ",".join("?" * len(rows[0]))
                statement = f"insert into {TABLES[kind]} ({COLUMNS[kind]}) values ({placeholders})"  # noqa: S608
                self._connection.executemany(statement, rows)
            if kind == "arrival":
                self._add_lookups(rows)
        with database.explained_errors(self._folder):
            if self._owned.log_file.stat().st_size > _CHECKPOINT_BYTES:
                self._connection.execute("pragma wal_checkpoint(truncate)")

    def _add_lookups(self, arrivals: list[moving.Row]) -> None:
        """Add sightings and person keys of arrivals, and record that they are folded."""
        sightings = sorted((short_key(row[11]), row[4]) for row in arrivals if row[5] == model.CountedAs.Visit)
        self._connection.executemany("insert or ignore into sightings values (?, ?)", sightings)
        fold_persons(self._connection)
        self._connection.execute(_SET_META, ("folded_to", str(arrivals[-1][0])))

    async def finish_loading(self) -> None:
        """Record that no delivery is claimed, so that a start does not look for one."""
        statement = "select max(coalesce(max(key), 0), (select coalesce(max(key), 0) from arrivals)) from deliveries"
        with self._transaction():
            (highest,) = self._connection.execute(statement).fetchone()
            self._connection.execute(_SET_META, ("lanes_from", str(highest + 1)))
            self._connection.execute("update routes set used_key = ?", (highest + model.KEYS_PER_DAY,))

    async def end_import(self) -> None:
        """Rename the position."""
        with self._transaction():
            self._connection.execute("update meta set name = ? where name = ?", (IMPORTED, POSITION))

    async def imported(self) -> str | None:
        """Return the position of the complete import."""
        with database.explained_errors(self._folder):
            moving.refuse_exported(self._meta(MOVED))
            return self._meta(IMPORTED)

    async def dump(self) -> AsyncIterator[tuple[str, list[moving.Row]]]:
        """Yield all rows."""
        with database.explained_errors(self._folder):
            self._connection.execute("begin")
            try:
                for kind, columns in COLUMNS.items():
                    statement = _DUMPED.get(kind) or f"select {columns} from {TABLES[kind]}"  # noqa: S608
                    cursor = self._connection.execute(statement)
                    size = _BODIES if kind == "body" else _SLICE
                    while rows := cursor.fetchmany(size):
                        yield kind, rows
            finally:
                self._connection.execute("rollback")

    def _meta(self, name: str) -> str | None:
        found = self._connection.execute("select value from meta where name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._connection.execute("rollback")
                raise
            self._connection.execute("commit")
        except sqlite3.Error as error:
            raise model.StoreUnavailableError(
                f"the store in {self._folder} cannot be written: {type(error).__name__}",
                "Check its free space, then run the command again.",
            ) from error
