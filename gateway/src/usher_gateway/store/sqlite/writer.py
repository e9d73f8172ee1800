"""The writer: it owns the database, recovers it after a crash, and commits batches, each in one transaction.

All of it runs in the writer's thread (``WriterThread``), except open_writer().
"""

import asyncio
import concurrent.futures
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from usher_gateway import model
from usher_gateway.store.acceptance import Row
from usher_gateway.store.base import OpenReport
from usher_gateway.store.batch_writer import BatchWriter
from usher_gateway.store.copy import COLUMNS, COPIED, UNFINISHED, refuse_unusable
from usher_gateway.store.encodings import FLAG_FIRST, FLAG_UNACKNOWLEDGED
from usher_gateway.store.group_commit import Batch, BatchResult
from usher_gateway.store.jobs import meters, settle
from usher_gateway.store.names import NameNumbers, UsedNames, add_names
from usher_gateway.store.session import run_to_end
from usher_gateway.store.sqlite import accept, database, transaction
from usher_gateway.store.sqlite.recent_index import BUCKETS, RecentIndex, short_key
from usher_gateway.store.sqlite.transaction import PAIR, SqliteSession, Transaction, insert_rows

_CHECKPOINT_BUSY_MILLISECONDS = 20

Finished = Callable[[BatchResult], None]

# The arrivals that are not folded into the lookup tables.
_RECENT_ARRIVALS = f"select {COLUMNS['arrivals']} from arrivals where key > ? order by key"  # noqa: S608

_HIGHEST_KEY = (
    "select max(coalesce((select max(key) from arrivals), 0), coalesce((select max(key) from deliveries), 0),"
    " coalesce((select max(key) from replays), 0), coalesce((select max(key) from erasures), 0),"
    " coalesce((select max(key) from audit_entries), 0))"
)

# Move the deliveries that a dead process had claimed to the backlog, due now even if the clock was set back.
_RECOVER_CLAIMED = (
    "update deliveries set waiting = true, due_at = min(due_at, ?) where state = 0 and hold <= 0 and not waiting"
)


class Writer(BatchWriter):
    """Commits batches to an open database.

    ``recent_index`` changes only after a commit; a rollback leaves it correct.
    """

    data_errors = (
        sqlite3.DataError,
        sqlite3.IntegrityError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
        OverflowError,
        ValueError,
        TypeError,
    )

    def __init__(
        self,
        *,
        owned: database.OwnedDatabase,
        ids: model.IdFactory,
        names: NameNumbers,
        recent_index: RecentIndex,
        report: OpenReport,
    ) -> None:
        self.owned = owned
        self.connection = owned.connection
        self.scrubber = owned.scrubber()
        self.is_purged = False
        """Whether the last checkpoint that had to empty the log did, and the file had nothing left to scrub."""
        self._names = names
        self._stored_listeners: set[int] = set()  # Numbers of listeners that the file has
        self._stored_routes: set[int] = set()  # Numbers of routes that the file has
        self.recent_index = recent_index
        self.report = report
        self.stored_bytes = _read_stored_bytes(owned.connection, names)
        """Tenant -> bytes that it stores; the event loop reads it."""
        self.commit_number = owned.marked  # Number of the last commit
        self._ids = ids
        self._unfolded_persons = 0

    def close(self) -> None:
        """Close the database and give up its ownership."""
        with contextlib.suppress(sqlite3.Error, OSError), self.owned.copying:
            self._checkpoint("truncate")
            if self.is_purged:
                self.owned.mark_scrubbed()
        self.owned.close()

    def _explained(self, error: Exception, batch: Batch) -> Exception:
        if batch.job is not None and isinstance(error, sqlite3.Error):
            return model.StoreUnavailableError(f"the store failed: {type(error).__name__}")
        return error

    # One transaction

    async def _commit_once(self, batch: Batch) -> tuple[list[model.Accepted], object]:
        opened = Transaction(
            connection=self.connection,
            ids=self._ids,
            names=self._names,
            recent_index=self.recent_index,
        )
        accepted: list[model.Accepted] = []
        arrival_rows: list[Row] = []
        job_result: object = None
        self.owned.check_files()
        changes = self.connection.total_changes
        self.connection.execute("begin immediate")
        try:
            if batch.arrivals:
                accepted, arrival_rows = await accept.Acceptance(opened, batch.arrivals, batch.now).run()
            if batch.job is not None:
                job_result = await batch.job(opened)
            await settle.settle(opened, batch.settlements)
            bucket = self._fold_recent()
            self._mark_unacknowledged(opened, batch)  # after folding, because it changes the folded rows
            for listener, slot, counter, count in batch.counts:
                opened.meter(opened.listener(listener), slot, counter, count)
            await meters.add_counts(opened)
            self._fold_persons(len(accepted))
            new_names = self._new_names(opened.used)
            await add_names(opened.session, new_names)
            number = self.commit_number
            if self.connection.total_changes != changes:  # else the commit needs no flush
                number += 1  # OwnedDatabase.mark() writes it outside of the database too
                self.connection.execute(database.SET_META, ("commit_number", number))
            self.connection.execute("commit")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("rollback")
            raise
        self.commit_number = number
        self._stored_listeners.update(new_names.listeners.values())
        self._stored_routes.update([numbers.number for _, numbers in new_names.routes.values()])
        self.owned.mark(number)
        self._update_recent_index(arrival_rows, batch, bucket)
        self.stored_bytes.update(opened.tenant_changes())
        if opened.checkpoint is not None:
            self._checkpoint(opened.checkpoint)
        return accepted, job_result

    def _mark_unacknowledged(self, opened: Transaction, batch: Batch) -> None:
        """From now on this arrival identifies its content, even if an earlier one had the same."""
        for arrival in batch.unacknowledged:
            opened.connection.execute(
                "update arrivals set flags = flags | ? where key = ?",
                (FLAG_UNACKNOWLEDGED | FLAG_FIRST, arrival.key),
            )
            opened.connection.execute(
                "update prints set arrival = ? where print = ?", (arrival.key, short_key(arrival.fingerprint))
            )
            listener, slot = opened.listener(arrival.listener), model.slot_of(arrival.received_at)
            opened.meter(listener, slot, model.Counter.unacknowledged)

    def _new_names(self, used: UsedNames) -> UsedNames:
        """Return the names that the file may lack."""
        new = UsedNames()
        new.listeners = {
            name: number for name, number in used.listeners.items() if number not in self._stored_listeners
        }
        new.routes = {key: route for key, route in used.routes.items() if route[1].number not in self._stored_routes}
        return new

    def _fold_persons(self, arrivals: int) -> None:
        self._unfolded_persons += arrivals
        if self._unfolded_persons >= transaction.SEGMENT_ARRIVALS:
            transaction.fold_persons(self.connection)
            self._unfolded_persons = 0

    def _fold_recent(self) -> int | None:
        """Fold the next bucket of the recent index into the lookup tables; return its number, or None."""
        bucket = self.recent_index.next_bucket()
        if bucket is not None:
            fold_bucket(self.connection, self.recent_index, bucket)
            if bucket == BUCKETS - 1:
                note_folded(self.connection, self.recent_index.round_ends_at)
        return bucket

    def _update_recent_index(self, arrival_rows: list[Row], batch: Batch, bucket: int | None) -> None:
        if bucket is not None:
            self.recent_index.folded(bucket)
        for row in arrival_rows:
            self.recent_index.add(row)
        for arrival in batch.unacknowledged:
            content = self.recent_index.content_of(arrival.fingerprint)
            if content is not None:
                content.arrival = arrival.key
                content.received_at = arrival.received_at
                content.unacknowledged = True

    def _checkpoint(self, mode: Literal["passive", "truncate"]) -> None:
        """Copy the log into the file, scrub the pages that it had, and if the mode is ``truncate`` empty the log."""
        # Arrivals wait for this, so it does not wait long for a reader.
        self.connection.execute(f"pragma busy_timeout = {_CHECKPOINT_BUSY_MILLISECONDS}")
        try:
            frames, copied = self._copy_log("full" if mode == "truncate" else "passive")
            self.scrubber.add_log(frames)
            is_copied = 0 <= frames == copied
            if is_copied:
                self.scrubber.scrub()
            if mode == "truncate":
                self.is_purged = is_copied and self._empty_log() and self.scrubber.is_done
        finally:
            self.connection.execute(f"pragma busy_timeout = {database.BUSY_MILLISECONDS}")

    def _copy_log(self, mode: str) -> tuple[int, int]:
        """Do a checkpoint; return how many frames the log has, and how many of them are in the file."""
        _, frames, copied = self.connection.execute(f"pragma wal_checkpoint({mode})").fetchone()
        return frames, copied

    def _empty_log(self) -> bool:
        """Empty the log, which the file has whole; return False if a reader is in the way."""
        if self.scrubber.has_written:
            self.scrubber.flush()
            # The page cache still has what was scrubbed, and would write it into the log again with its pages.
            self.connection.execute("pragma shrink_memory")
        is_busy, _, _ = self.connection.execute("pragma wal_checkpoint(truncate)").fetchone()
        return not is_busy


class WriterThread:
    """Commits batches in the order in which they come (``group_commit.Committer``)."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="usher-store")

    def submit(self, batch: Batch, finished: Finished) -> None:
        """Hand a batch to the thread; see ``Committer``."""
        self._thread.submit(self._commit, batch, finished)

    async def stop(self) -> None:
        """End the thread after the batch in its hands."""
        await asyncio.to_thread(self._thread.shutdown)

    async def test_write(self, transaction: Transaction) -> None:
        """Find out whether the database can be written again."""
        transaction.connection.execute(database.SET_META, ("write_test", ""))

    def _commit(self, batch: Batch, finished: Finished) -> None:
        result = run_to_end(self._writer.commit(batch))
        with contextlib.suppress(RuntimeError):  # the loop is closed, so no caller waits any more
            self._loop.call_soon_threadsafe(finished, result)


# Opening and recovery


def open_writer(folder: Path, *, key_fingerprint: str, names: NameNumbers, fold_rows: int, now: int) -> Writer:
    """Take ownership of a data folder, migrate its database, and recover the state that a crash left."""
    owned = database.open_database(folder, key_fingerprint)
    try:
        with database.explained_errors(folder):
            meta = dict(owned.connection.execute("select name, value from meta"))
            refuse_unusable(meta.get(COPIED), meta.get(UNFINISHED))
            return recover(owned, names, fold_rows, now)
    except BaseException:
        owned.release()
        raise


def recover(owned: database.OwnedDatabase, names: NameNumbers, fold_rows: int, now: int) -> Writer:
    """Recover the state that a crash left; return a writer for it.

    Raises:
        StoreCorruptError: commits are missing.
    """
    connection = owned.connection
    owned.check_mark(_number(connection, "commit_number"))
    (highest,) = connection.execute(_HIGHEST_KEY).fetchone()
    connection.execute("begin immediate")
    # The lock proves that the previous gateway is dead.
    recovered = connection.execute(_RECOVER_CLAIMED, (now,)).rowcount
    recent_index = RecentIndex(fold_rows)
    for row in connection.execute(_RECENT_ARRIVALS, (_number(connection, "folded_to"),)):
        recent_index.add(row)
    report = OpenReport(recovered, "Local", _number(connection, "confirmed_at"))
    writer = Writer(
        owned=owned, ids=model.IdFactory(floor=highest), names=names, recent_index=recent_index, report=report
    )
    connection.execute("commit")
    return writer


def _number(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that is stored in meta; 0 if there is none."""
    row = connection.execute("select value from meta where name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def _read_stored_bytes(connection: sqlite3.Connection, names: NameNumbers) -> Counter[tuple[str, str]]:
    """Return tenant -> bytes that it stores."""
    session = SqliteSession(connection)
    run_to_end(names.load_listeners(session))
    run_to_end(names.load_routes(session))
    return names.by_tenant(run_to_end(meters.stored_bytes(session)))


def fold_bucket(connection: sqlite3.Connection, recent_index: RecentIndex, bucket: int) -> None:
    """Insert the rows of a bucket into the lookup tables."""
    prints, sightings = recent_index.rows_of(bucket)
    insert_rows(connection, "insert or replace into prints (print, arrival)", PAIR, prints)
    insert_rows(connection, "insert or ignore into sightings (visitor, visit_time)", PAIR, sightings)


def note_folded(connection: sqlite3.Connection, key: int) -> None:
    """Record that the lookup tables have all arrivals up to a key."""
    connection.execute(database.SET_META, ("folded_to", str(key)))
