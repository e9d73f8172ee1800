"""The database file: ownership, connections, schema, snapshots for readers, and free disk space."""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from usher_gateway import model
from usher_gateway.store.migrations import MIN_GATEWAY, all_migrations, check_fingerprint, check_version
from usher_gateway.store.sqlite.scrubber import MOST_PAGES, Scrubber

FILE_NAME = "usher.sqlite3"  # The store's file inside `--data`
APPLICATION_ID = 0x55736872  # `Ushr`: distinguishes Usher's files from other SQLite files
SET_META = "insert or replace into meta (name, value) values (?, ?)"
CHECKPOINT_BYTES = 16 * 1024 * 1024  # Size of the write-ahead log from which on it is copied into the file
BUSY_MILLISECONDS = 5_000  # How long a statement waits for a lock that another process holds

# A reader's time limit, because the write-ahead log cannot restart while a reader has a snapshot.
LONGEST_READ_SECONDS = 5.0

T = TypeVar("T")

_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "afs", "ceph", "lustre", "gfs2", "ocfs2", "fuse.sshfs", "fuse.gluster")
_SQLITE_OLDEST = (3, 38, 0)
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_MARK = b"commit %019d\n"
_MARK_FORM = re.compile(rb"commit (\d{19})\n(scrubbed\n)?")
_SCRUBBED = b"scrubbed\n"

_PROGRESS_STEPS = 10_000  # SQLite calls the progress handler of a reader, which checks the clock, after this many steps


class OwnedDatabase(msgspec.Struct):
    """An open database that this process owns, by flock on the file ``lock`` and on the database file itself.

    The second lock holds even if somebody deletes ``lock``. ``lock`` also contains the mark: the last commit's
    number, outside the write-ahead log, so that the next start notices a log that is missing or cut. While no
    process owns the database, the mark also says whether the whole file is scrubbed.
    """

    folder: Path
    lock: IO[bytes]
    file_lock: IO[bytes]
    """Close it after all connections, because closing it ends the locks that SQLite holds on the file."""
    connection: sqlite3.Connection
    files: dict[Path, tuple[int, int]]
    """SQLite's files -> device and inode when they were opened."""
    scrubbed_at: int | None
    """The number of the commit after which the last owner had scrubbed the whole file; None: it had not."""
    marked: int = 0
    syncing: threading.Lock = msgspec.field(default_factory=threading.Lock)
    """Held while the mark is flushed, because a file's lock lasts until the flush ends."""
    copying: threading.Lock = msgspec.field(default_factory=threading.Lock)
    """Held while copy_log() runs, because another checkpoint would fail."""

    @property
    def log_file(self) -> Path:
        """The write-ahead log."""
        return self.folder / f"{FILE_NAME}-wal"

    def check_files(self) -> None:
        """Check that SQLite's files still are the ones at their paths, because commits into a deleted file are lost.

        Raises:
            StoreUnavailableError: a file was deleted, moved or replaced.
        """
        for path, identity in self.files.items():
            if _identity(path) != identity:
                raise model.StoreUnavailableError(
                    f"{path.name} was deleted, moved or replaced", f"Put the original {path} back, or stop Usher."
                )

    def mark(self, commit: int) -> None:
        """Write a commit's number to the mark.

        The mark survives the process at once, and a power loss after sync_mark(). To flush it for every commit would
        double a commit's cost.
        """
        self.marked = commit
        with contextlib.suppress(OSError):  # the commit is durable, and the next one writes the mark again
            os.pwrite(self.lock.fileno(), _MARK % commit, 0)

    def sync_mark(self) -> None:
        """Flush the mark. Any thread may call it."""
        with self.syncing:
            if not self.lock.closed:
                os.fdatasync(self.lock.fileno())

    def check_mark(self, commit: int) -> None:
        """Compare the last commit's number in the database with the mark, then rewrite the mark.

        Raises:
            StoreCorruptError: commits are missing.
        """
        noted = _MARK_FORM.match(os.pread(self.lock.fileno(), 64, 0))
        if noted is not None and commit < int(noted[1]):
            raise model.StoreCorruptError(
                f"{self.folder / FILE_NAME} lacks the last commits ({int(noted[1]) - commit}):"
                f" {self.log_file.name} is missing or damaged",
                f"Restore both files. To continue without the missing visits, delete {self.folder / 'lock'}.",
            )
        self.marked = commit
        os.pwrite(self.lock.fileno(), _MARK % commit, 0)  # so that later marks fit even if the disk is full
        self.sync_mark()

    def scrubber(self) -> Scrubber:
        """Return what scrubs the file."""
        (page_bytes,) = self.connection.execute("pragma page_size").fetchone()
        return Scrubber(self.file_lock, self.log_file, page_bytes, is_swept=self.scrubbed_at == self.marked)

    def mark_scrubbed(self) -> None:
        """Note for the next owner that there is nothing to scrub. No commit may follow."""
        os.pwrite(self.lock.fileno(), _MARK % self.marked + _SCRUBBED, 0)
        self.sync_mark()

    def close(self) -> None:
        """Close the file, then give up ownership."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("pragma wal_checkpoint(truncate)")
        self.release()

    def release(self) -> None:
        """Give up ownership without close()'s work."""
        self.connection.close()
        with self.syncing:
            self.file_lock.close()
            self.lock.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode for the file at a path; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116 - each commit calls this, and Path.stat() costs more
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_database(folder: Path, key_fingerprint: str) -> OwnedDatabase:
    """Take ownership of a data folder, check whose database it is, and migrate the schema."""
    if sqlite3.sqlite_version_info < _SQLITE_OLDEST:
        raise model.ConfigurationError(f"SQLite {sqlite3.sqlite_version} is too old", "Use a Python with SQLite 3.38+.")
    _make_folder(folder)
    with contextlib.ExitStack() as undo:
        lock, file_lock = [undo.enter_context(_lock(folder / name)) for name in ("lock", FILE_NAME)]
        with explained_errors(folder):
            connection = undo.enter_context(contextlib.closing(connect(folder / FILE_NAME)))
            _migrate(connection, key_fingerprint)
            _check_form(folder, connection)
        files = {folder / f"{FILE_NAME}{suffix}" for suffix in ("", "-wal", "-shm")}
        identities = {path: identity for path in files if (identity := _identity(path)) is not None}
        scrubbed_at = _take_scrubbed(lock)
        undo.pop_all()
        return OwnedDatabase(folder, lock, file_lock, connection, identities, scrubbed_at)


def _take_scrubbed(lock: IO[bytes]) -> int | None:
    """Return ``OwnedDatabase.scrubbed_at``, and delete it from the mark, because this process will write."""
    noted = _MARK_FORM.match(os.pread(lock.fileno(), 64, 0))
    if noted is None or noted[2] is None:
        return None
    os.pwrite(lock.fileno(), bytes(len(_SCRUBBED)), noted.start(2))
    os.fdatasync(lock.fileno())
    return int(noted[1])


@contextlib.contextmanager
def explained_errors(folder: Path) -> Iterator[None]:
    """Turn errors from SQLite and the operating system into errors with a hint."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _explained(folder, error) from error
    except OSError as error:
        raise model.ConfigurationError(
            f"{folder / 'lock'} cannot be written: {error.strerror}", "Check the folder's rights and free space."
        ) from error


def _explained(folder: Path, error: sqlite3.DatabaseError) -> model.UsherError:
    """Return the reason why the file cannot be used, with a hint."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return model.StoreLockedError(
            f"another program writes to {folder / FILE_NAME}",
            "Find it with `fuser` and end it, then start again.",
        )
    if code in _CORRUPT:
        return model.StoreCorruptError(
            f"{folder / FILE_NAME} is damaged or not a database of Usher: {error}",
            "Move it aside (its visits can often be saved with `sqlite3 FILE .recover`), or restore it from a backup.",
        )
    return model.ConfigurationError(
        f"the store in {folder} cannot be used: {error}", "Check the folder's rights and free space."
    )


def _damaged(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def copy_log(owned: OwnedDatabase, scrubber: Scrubber) -> None:
    """Copy the write-ahead log into the database file, as far as possible without waiting for readers."""
    path = owned.folder / FILE_NAME
    with (
        owned.copying,
        contextlib.closing(connect(path, read_only=True)) as reader,
        contextlib.closing(connect(path)) as connection,
    ):
        # This snapshot keeps the writer from restarting the log before its pages are noted.
        reader.execute("begin")
        reader.execute("select 1 from meta limit 1").fetchall()
        _, frames, _ = connection.execute("pragma wal_checkpoint(passive)").fetchone()
        scrubber.add_log(frames)


_WRITER_CACHE_KIB = 64 * 1024
# Small, because each commit empties the caches of readers, and the memory that a query took stays with the process.
_READER_CACHE_KIB = 8 * 1024


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Connect with the durability settings. The file must exist."""
    uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, cached_statements=1024, timeout=5
    )
    connection.execute(f"pragma busy_timeout = {BUSY_MILLISECONDS}")
    if not read_only:
        connection.execute("pragma page_size = 8192")  # for a new file: bodies of 1 to 2 KB waste less space
        connection.execute("pragma auto_vacuum = none")  # for a new file
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma secure_delete = on")
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute(f"pragma max_page_count = {MOST_PAGES}")
        connection.execute("pragma journal_size_limit = 67108864")
    connection.execute(f"pragma cache_size = -{_READER_CACHE_KIB if read_only else _WRITER_CACHE_KIB}")
    connection.execute("pragma temp_store = memory")
    return connection


@contextlib.contextmanager
def _explained_folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise model.ConfigurationError(
            f"the data folder {folder} cannot be used: {error.strerror}", "Give --data a folder that Usher may write."
        ) from error


def _make_folder(folder: Path) -> None:
    with _explained_folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file_system = _file_system_of(folder)
    if file_system.startswith(_NETWORK_FILE_SYSTEMS):
        raise model.ConfigurationError(
            f"{folder} is on a network file system ({file_system}), on which SQLite can lose data",
            "Use a local disk or a block volume, or PostgreSQL.",
        )


def _lock(path: Path) -> IO[bytes]:
    """Open a file, which is created if it is missing, and lock it for this process."""
    with _explained_folder_errors(path.parent):
        # The database holds visits, so only its owner may read it, whatever the umask. SQLite gives its other files
        # the same rights.
        file = os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise model.StoreLockedError(
            f"another gateway, or a command, uses {path.parent}", "Stop it first, or give this one another --data."
        ) from error
    return file


def _file_system_of(folder: Path) -> str:
    """Return the type of a folder's file system, by the longest mount point above it; ``""`` if unknown."""
    real, best, kind = os.path.realpath(folder), "", ""
    with contextlib.suppress(OSError), Path("/proc/self/mounts").open(encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            point, this_kind = line.split(" ")[1:3]
            point = point.replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, this_kind
    return kind


def _check_form(folder: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file with pages that the scrubber could mistake for others; another SQLite's defaults make it."""
    (auto_vacuum,) = connection.execute("pragma auto_vacuum").fetchone()
    if auto_vacuum:
        raise model.ConfigurationError(
            f"{folder / FILE_NAME} was made with auto_vacuum",
            "Use a copy of it, which sqlite3 makes with `pragma auto_vacuum = none; vacuum into 'FILE';`.",
        )


def _migrate(connection: sqlite3.Connection, key_fingerprint: str) -> None:
    """Bring the schema up to date, unless another install key made the file."""
    migrations = all_migrations(__package__)
    (application_id,) = connection.execute("pragma application_id").fetchone()
    (version,) = connection.execute("pragma user_version").fetchone()
    (tables,) = connection.execute("select count(*) from sqlite_master").fetchone()
    if application_id != APPLICATION_ID and tables:
        raise _damaged("it belongs to another program")
    is_ours = False  # also after a crash between creating the schema and writing the key
    if version:
        meta = dict(connection.execute("select name, value from meta"))
        check_version(version, meta.get("min_gateway"), first=migrations[0].number)
        check_fingerprint(meta.get("key_fingerprint"), key_fingerprint)
        is_ours = "key_fingerprint" in meta
    for migration in migrations:
        if migration.number > version:
            connection.executescript(
                f"begin immediate;\n{migration.sql}\n"
                f"pragma user_version = {migration.number}; pragma application_id = {APPLICATION_ID};\ncommit;"
            )
    if version < migrations[-1].number or not is_ours:
        values = [("key_fingerprint", key_fingerprint), ("min_gateway", MIN_GATEWAY)]
        connection.executemany(SET_META, values)


# Reading beside the writer


class SnapshotReader:
    """Runs queries in the order in which they come, on read-only connections that each have a thread."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._path = folder / FILE_NAME
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=threads, thread_name_prefix="usher-reader")
        self._connections: list[sqlite3.Connection] = []
        self._own = threading.local()

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Return the result of a query over one snapshot.

        Raises:
            StoreUnavailableError: the query failed or took too long.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)

    async def close(self) -> None:
        """End the threads and their connections."""
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection = getattr(self._own, "connection", None)
            if connection is None:
                connection = self._own.connection = connect(self._path, read_only=True)
                self._connections.append(connection)
            end = time.monotonic() + LONGEST_READ_SECONDS
            connection.set_progress_handler(lambda: time.monotonic() > end, _PROGRESS_STEPS)
            connection.execute("begin")
            try:
                return query(connection)
            finally:
                connection.execute("rollback")
        except sqlite3.Error as error:
            raise model.StoreUnavailableError(f"the store cannot be read: {type(error).__name__}") from error


def reusable_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of the pages that deleted data left in the file, which never shrinks."""
    (pages,) = connection.execute("pragma freelist_count").fetchone()
    (size,) = connection.execute("pragma page_size").fetchone()
    return int(pages) * int(size)


# Free disk space


class DiskBounds(msgspec.Struct, frozen=True):
    """Free space below which work stops; 0 switches a bound off."""

    accept_above_free_bytes: int = 1024**3
    attempts_above_free_bytes: int = 256 * 1024**2


class DiskSpace:
    """The free space in a folder's file system, as of the last measure()."""

    def __init__(self, folder: Path, bounds: DiskBounds) -> None:
        self._folder = folder
        self._bounds = bounds
        self.free_bytes = 0
        self.spare_bytes = 0  # Free space above the bound for accepting
        self.may_accept = True
        self.may_attempt = True

    def measure(self) -> None:
        """Measure the free space (one system call). If that fails, the store accepts nothing."""
        bounds = self._bounds
        try:
            status = os.statvfs(self._folder)
        except OSError:
            self.may_accept = self.may_attempt = False
            return
        self.free_bytes = status.f_bavail * status.f_frsize
        self.spare_bytes = max(0, self.free_bytes - bounds.accept_above_free_bytes)
        self.may_accept = self.free_bytes >= bounds.accept_above_free_bytes
        self.may_attempt = self.free_bytes >= bounds.attempts_above_free_bytes
