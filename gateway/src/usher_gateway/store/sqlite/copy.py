"""A SQLite store as the source or the target of a copy (see store/copy.py)."""

import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from usher_gateway import model
from usher_gateway.store.copy import COLUMNS, COPIED, UNFINISHED, Row, not_empty, refuse_unusable
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.recent_index import BUCKETS, FOLD_ROWS, short_key
from usher_gateway.store.sqlite.transaction import fold_persons
from usher_gateway.store.sqlite.writer import fold_bucket, note_folded, recover

_SLICE = 1_000
_BODIES = 16  # A slice of bodies is smaller, because they are held in memory together

# Tables that are not copied as they are.
_DUMPED = {
    "prints": "select fingerprint, arrival from prints join arrivals on arrivals.key = prints.arrival",
    "meta": "select name, value from meta where name = 'confirmed_at'",
}

_TABLE_NAMES = "select name from sqlite_master where type = 'table' and name <> 'meta'"

_FORGET_LOADED = "delete from meta where name in ('confirmed_at', 'folded_to', 'persons_to')"


class SqliteCopy:
    """The store in a folder, owned to be copied or filled (``store.copy.CopyableStore``)."""

    def __init__(self, folder: Path, key_fingerprint: str, *, may_create: bool) -> None:
        """Take ownership."""
        if not may_create and not (folder / database.FILE_NAME).exists():
            raise model.ConfigurationError(f"there is no store in {folder}", "Name the data folder of `usher run`.")
        self._folder = folder
        self._owned = database.open_database(folder, key_fingerprint)
        self._connection = self._owned.connection

    async def close(self) -> None:
        self._owned.close()

    async def copied_at(self) -> str | None:
        with database.explained_errors(self._folder):
            return self._meta(COPIED)

    async def begin_reading(self, now: int) -> None:
        """Mark, recover and fold in two transactions; the second one has the mark."""
        with database.explained_errors(self._folder):
            refuse_unusable(self._meta(COPIED), self._meta(UNFINISHED))
            writer = recover(self._owned, NameNumbers(), FOLD_ROWS, now)
            with self._transaction():
                for bucket in range(BUCKETS):
                    fold_bucket(self._connection, writer.recent_index, bucket)
                if writer.recent_index.last_key:
                    note_folded(self._connection, writer.recent_index.last_key)
                self._connection.execute(database.SET_META, (COPIED, model.format_time(now)))

    async def undo(self) -> bool:
        with self._transaction():
            return self._connection.execute("delete from meta where name = ?", (COPIED,)).rowcount > 0

    async def begin_writing(self) -> None:
        with database.explained_errors(self._folder):
            refuse_unusable(self._meta(COPIED), self._meta(UNFINISHED))
            tables = self._connection.execute(_TABLE_NAMES).fetchall()
            if any(self._has_rows(table) for (table,) in tables):
                raise not_empty()
            with self._transaction():
                self._connection.execute(_FORGET_LOADED)
                self._connection.execute(database.SET_META, (UNFINISHED, "1"))

    def _has_rows(self, table: str) -> bool:
        return self._connection.execute(f"select 1 from {table} limit 1").fetchone() is not None  # noqa: S608

    async def load(self, table: str, rows: list[Row]) -> None:
        with self._transaction():
            if table == "meta":
                self._connection.executemany(database.SET_META, rows)
            elif table == "prints":
                values = sorted((short_key(fingerprint), arrival) for fingerprint, arrival in rows)
                self._connection.executemany("insert into prints (print, arrival) values (?, ?)", values)
            else:
                placeholders = ",".join("?" * len(rows[0]))
                statement = f"insert into {table} ({COLUMNS[table]}) values ({placeholders})"  # noqa: S608
                self._connection.executemany(statement, rows)
            if table == "arrivals":
                self._add_lookups(rows)
        with database.explained_errors(self._folder):
            if self._owned.log_file.stat().st_size > database.CHECKPOINT_BYTES:
                self._connection.execute("pragma wal_checkpoint(truncate)")

    def _add_lookups(self, arrivals: list[Row]) -> None:
        """Add sightings and person keys of arrivals, and record that they are folded."""
        sightings = sorted((short_key(row[11]), row[4]) for row in arrivals if row[5] == model.CountedAs.Visit)
        self._connection.executemany("insert or ignore into sightings (visitor, visit_time) values (?, ?)", sightings)
        fold_persons(self._connection)
        self._connection.execute(database.SET_META, ("folded_to", str(arrivals[-1][0])))

    async def end_writing(self) -> None:
        with self._transaction():
            self._connection.execute("delete from meta where name = ?", (UNFINISHED,))

    async def dump(self) -> AsyncGenerator[tuple[str, list[Row]], None]:
        with database.explained_errors(self._folder):
            self._connection.execute("begin")
            try:
                for table, columns in COLUMNS.items():
                    statement = _DUMPED.get(table) or f"select {columns} from {table}"  # noqa: S608
                    cursor = self._connection.execute(statement)
                    size = _BODIES if table == "bodies" else _SLICE
                    while rows := cursor.fetchmany(size):
                        yield table, rows
            finally:
                self._connection.execute("rollback")

    def _meta(self, name: str) -> str | None:
        row = self._connection.execute("select value from meta where name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

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
                "Check its free space. See docs/moving-between-stores.md: a copy begins again with an empty store.",
            ) from error
