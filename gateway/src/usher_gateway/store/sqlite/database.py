"""The file itself: who owns it, how it is opened, which schema it has."""

import contextlib
import fcntl
import importlib.resources
import os
import sqlite3
import time
from pathlib import Path
from typing import IO

import msgspec

from usher_gateway import model
from usher_gateway.store.base import OpenReport
from usher_gateway.store.sqlite import rows, tail, writer

FILE_NAME = "usher.sqlite3"
"""The store's file inside ``--data``."""

APPLICATION_ID = 0x55736872
"""``Ushr``: tells our files from other SQLite files."""

_SCHEMA_VERSION = 4
_MIN_GATEWAY = "0.1.0"
"""The oldest gateway that can run on the schema of this one."""

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "ceph", "lustre", "gfs2", "ocfs2", "fuse.sshfs", "fuse.gluster")
_SQLITE_OLDEST = (3, 38, 0)
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_CHECK_SECONDS = 1.0
_MARK = b"%019d"


class Opened(msgspec.Struct):
    """An owned, migrated store, ready for its writer."""

    folder: Path
    lock: IO[bytes]
    writer: writer.Writer
    report: OpenReport
    marked: int = 0

    def mark(self) -> None:
        """Note outside of the database how far it goes, so that a lost write-ahead log is noticed at the next start."""
        key = self.writer.highest_arrival
        if key > self.marked:
            os.pwrite(self.lock.fileno(), _MARK % key, 0)
            os.fdatasync(self.lock.fileno())
            self.marked = key

    def close(self) -> None:
        """Close the file and give up ownership, in this order."""
        with contextlib.suppress(sqlite3.Error):
            self.writer.connection.execute("pragma wal_checkpoint(truncate)")
        self.writer.connection.close()
        self.lock.close()


def open_for_writing(folder: Path, key_fingerprint: str, fold_rows: int, now: int) -> Opened:
    """Take ownership of a data folder and make its database ready.

    Raises:
        StoreLockedError, StoreCorruptError, InstallKeyError, ConfigurationError: see Store.open().
    """
    if sqlite3.sqlite_version_info < _SQLITE_OLDEST:
        raise model.ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old", "Use a Python with SQLite 3.38+.")
    with contextlib.ExitStack() as undo:
        lock = undo.enter_context(_own(folder))
        try:
            connection = undo.enter_context(contextlib.closing(connect(folder / FILE_NAME)))
            _check_whole(connection)
            _migrate(connection, key_fingerprint)
            opened = _make_ready(folder, lock, connection, fold_rows, now)
        except sqlite3.DatabaseError as error:
            raise _explained(folder, error) from error
        except OSError as error:
            raise model.ConfigurationError(
                f"{lock.name} cannot be written: {error.strerror}", "Check the folder's rights and free space."
            ) from error
        undo.pop_all()
        return opened


def _explained(folder: Path, error: sqlite3.DatabaseError) -> model.UsherError:
    """What keeps the file from being opened, for a person."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return model.StoreLockedError(
            f"another program writes to {folder / FILE_NAME}",
            "End it (`fuser` tells which one it is), then start again.",
        )
    if code in _CORRUPT:
        return model.StoreCorruptError(
            f"{folder / FILE_NAME} is damaged or no database of Usher: {error}",
            "Move it aside (its visits can often be saved with `sqlite3 FILE .recover`), or restore it from a backup.",
        )
    return model.ConfigurationError(
        f"the store in {folder} cannot be opened: {error}", "Check the folder's rights and free space."
    )


def _check_whole(connection: sqlite3.Connection) -> None:
    """Read the whole file, as far as that goes in a second: damage is met at the start, not in the middle of a day.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    end = time.monotonic() + _CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, 1_000)
    try:
        (found,) = connection.execute("pragma quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    else:
        if found != "ok":
            raise _damaged(str(found).splitlines()[-1])
    finally:
        connection.set_progress_handler(None, 0)


def _damaged(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def checkpoint(folder: Path) -> None:
    """Copy the write-ahead log into the database file, as far as that goes without waiting for anybody."""
    with contextlib.closing(connect(folder / FILE_NAME)) as connection:
        connection.execute("pragma wal_checkpoint(passive)")


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection with the durability that design §4 asks for."""
    uri = f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=1024, timeout=5
    )
    connection.execute(f"pragma busy_timeout = {rows.BUSY_MILLISECONDS}")
    if not read_only:
        connection.execute("pragma page_size = 8192")  # for a new file: bodies of 1 to 2 KB waste less of it
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma secure_delete = on")
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute("pragma journal_size_limit = 67108864")
    connection.execute("pragma cache_size = -65536")
    connection.execute("pragma temp_store = memory")
    return connection


def _own(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file_system = _file_system_of(folder)
        if file_system.startswith(_NETWORK_FILE_SYSTEMS):
            raise model.ConfigurationError(
                f"{folder} is on a network file system ({file_system}), on which SQLite can lose data",
                "Use a local disk or a block volume, or PostgreSQL.",
            )
        # Visits are in it: for nobody but its owner, whatever the umask; SQLite gives its other files the same rights.
        os.close(os.open(folder / FILE_NAME, os.O_CREAT | os.O_RDONLY, 0o600))
        lock = (folder / "lock").open("r+b" if (folder / "lock").exists() else "w+b")
    except OSError as error:
        raise model.ConfigurationError(
            f"the data folder {folder} cannot be used: {error.strerror}", "Give --data a folder that Usher may write."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise model.StoreLockedError(
            f"another gateway runs on {folder}", "Stop it first, or give this one a --data of its own."
        ) from error
    return lock


def _file_system_of(folder: Path) -> str:
    """The type of the file system that a folder lies on, by the longest mount point above it; ``""`` if unknown."""
    real, best, kind = os.path.realpath(folder), "", ""
    with contextlib.suppress(OSError), Path("/proc/self/mounts").open(encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            point, this_kind = line.split(" ")[1:3]
            point = point.replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, this_kind
    return kind


def _migrate(connection: sqlite3.Connection, key_fingerprint: str) -> None:
    """Bring the schema up to this gateway's; migrations only expand, so older gateways go on running on it."""
    (application_id,) = connection.execute("pragma application_id").fetchone()
    (version,) = connection.execute("pragma user_version").fetchone()
    (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
    if application_id != APPLICATION_ID and tables:
        raise _damaged("it belongs to another program")
    folder = importlib.resources.files(__package__) / "migrations"
    for script in sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name):
        number = int(script.name.split("_")[0])
        if number > version:
            connection.executescript(
                f"begin immediate;\n{script.read_text('utf-8')}\n"
                f"pragma user_version = {number}; pragma application_id = {APPLICATION_ID};\ncommit;"
            )
    meta = dict(connection.execute("select name, value from meta"))
    _check_gateway(meta.get("min_gateway", _MIN_GATEWAY))
    is_ours = "key_fingerprint" in meta  # not so after a crash between the schema and this
    if is_ours and meta["key_fingerprint"] != key_fingerprint:
        raise model.InstallKeyError(
            "the install key is not the one that this store was made with",
            "Use the same install.key or USHER_INSTALL_KEY as before: with another, URLs and keyed hashes change.",
        )
    if version < _SCHEMA_VERSION or not is_ours:
        values = [("key_fingerprint", key_fingerprint), ("min_gateway", _MIN_GATEWAY)]
        connection.executemany("insert or replace into meta values (?, ?)", values)


def _check_gateway(oldest: str) -> None:
    from usher_gateway import __version__

    if _numbers(__version__) < _numbers(oldest):
        raise model.ConfigurationError(
            f"the store needs Usher {oldest} or later, this is {__version__}", "Run the newer release again."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def _make_ready(folder: Path, lock: IO[bytes], connection: sqlite3.Connection, fold_rows: int, now: int) -> Opened:
    (highest,) = connection.execute(
        "select max(coalesce((select max(key) from arrivals), 0), coalesce((select max(key) from deliveries), 0),"
        " coalesce((select cast(value as integer) - 1 from meta where name = 'lanes_from'), 0))"
    ).fetchone()
    _check_mark(folder, lock, highest)
    connection.execute("begin immediate")
    _turn_back(connection, now)
    recovered = _recover(connection, now)
    ledger_tail = tail.Tail(fold_rows)
    _read_tail(connection, ledger_tail)
    batch_writer = writer.Writer(connection, model.IdFactory(floor=highest), ledger_tail)
    batch_writer.lanes_from = highest + 1
    connection.execute("insert or replace into meta values ('lanes_from', ?)", (str(highest + 1),))
    connection.execute("commit")
    os.pwrite(lock.fileno(), _MARK % highest, 0)  # room for later marks, also when the disk is full then
    return Opened(folder, lock, batch_writer, OpenReport(highest, recovered, "Local"))


def _check_mark(folder: Path, lock: IO[bytes], highest: int) -> None:
    """Refuse a store that ends before what was once committed: a lost log must not go unnoticed.

    Raises:
        StoreCorruptError: it does.
    """
    noted = os.pread(lock.fileno(), 32, 0)
    if noted.isdigit() and highest < int(noted):
        raise model.StoreCorruptError(
            f"what was committed last is not in {folder / FILE_NAME}: {FILE_NAME}-wal beside it is missing or damaged",
            f"Put both files back as they were. To go on without the visits that are missing, delete {lock.name}.",
        )


def _turn_back(connection: sqlite3.Connection, now: int) -> None:
    """Where the clock was set back since the last start, what waits in the backlog is due earlier by as much."""
    noted = connection.execute("select value from meta where name = 'noted_at'").fetchone()
    behind = int(noted[0]) - now if noted else 0
    if behind > 0:
        connection.execute("update deliveries set due_at = due_at - ? where waiting = 1", (behind,))
    connection.execute("insert or replace into meta values ('noted_at', ?)", (str(now),))


def _recover(connection: sqlite3.Connection, now: int) -> int:
    """Deliveries that were in the lanes of the gateway before go to the backlog: the lock proves that it is dead.

    They are due now, also when the clock was set back meanwhile.
    """
    low = connection.execute("select value from meta where name = 'lanes_from'").fetchone()
    statement = (
        "update deliveries set waiting = 1, due_at = min(due_at, ?)"
        " where key >= ? and state = 0 and hold = 0 and waiting = 0"
    )
    return connection.execute(statement, (now, int(low[0]) if low else 0)).rowcount


def _read_tail(connection: sqlite3.Connection, ledger_tail: tail.Tail) -> None:
    folded = connection.execute("select value from meta where name = 'folded_to'").fetchone()
    statement = (
        "select key, received_at, flags, fingerprint, visitor, visit_time, counted_as"
        " from arrivals where key > ? order by key"
    )
    for key, received_at, flags, fingerprint, visitor, visit_time, counted_as in connection.execute(
        statement, (int(folded[0]) if folded else 0,)
    ):
        row = tail.LedgerRow(
            key=key,
            received_at=received_at,
            unacknowledged=bool(flags & writer.FLAG_UNACKNOWLEDGED),
            fingerprint=fingerprint,
            visitor_key=visitor,
            visit_time=visit_time,
            is_visit=counted_as == model.CountedAs.Visit,
            remembers_print=bool(flags & writer.FLAG_FIRST),
        )
        ledger_tail.growing.add(row)
