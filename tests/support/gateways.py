"""Run a real `usher run` for tests: its manifests, process, connections and store file."""

import asyncio
import collections
import contextlib
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec

from local_cluster import ports
from support import databases, leaks, waiting
from usher_gateway import model

HOST = "hooks.example"
TENANT = {"apiVersion": "usher.dev/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"}, "spec": {}}

Manifest = dict[str, Any]


def listener(name: str, routes: Sequence[Manifest], **spec: Any) -> Manifest:
    """Build a listener at ``hooks.example/<name>``."""
    return {
        "apiVersion": "usher.dev/v1alpha1",
        "kind": "Listener",
        "metadata": {"name": name},
        "spec": {
            "tenantRef": {"name": "acme"},
            "addresses": [{"name": "a", "hostname": HOST, "path": f"/{name}"}],
            "authentication": {"type": "None"},
            "routes": list(routes),
            **spec,
        },
    }


def route(name: str, destination: str, **spec: Any) -> Manifest:
    return {"name": name, "destinationRef": {"name": destination}, **spec}


def destination(name: str, url: str, http: Manifest | None = None, **spec: Any) -> Manifest:
    """Build a destination without a tenant, which every tenant of the namespace may use."""
    return {
        "apiVersion": "usher.dev/v1alpha1",
        "kind": "Destination",
        "metadata": {"name": name},
        "spec": {"type": "HTTP", "http": {"url": url, **(http or {})}, **spec},
    }


def one_route(url: str, http: Manifest | None = None) -> list[Manifest]:
    """Return a tenant with a listener whose only route leads to ``/crm`` below a URL."""
    return [TENANT, listener("wifi", [route("crm", "crm")]), destination("crm", f"{url}/crm", http)]


def secret(name: str, **values: str) -> Manifest:
    labels = {"usher.dev/watch": "true"}
    metadata = {"name": name, "labels": labels}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def write_manifests(file: Path, manifests: Sequence[Manifest]) -> None:
    """Replace a file of manifests at once, as an editor does (JSON is YAML)."""
    draft = file.with_name(f".{file.name}.new")
    draft.write_text("\n---\n".join(json.dumps(manifest) for manifest in manifests))
    draft.replace(file)


class Gateway:
    """An `usher run` process that keeps its ports and data over restarts."""

    def __init__(
        self,
        folder: Path,
        manifests: Sequence[Manifest],
        *flags: str,
        data: Path | None = None,
        database: str | None = None,
    ) -> None:
        self.data = data or folder / "data"
        self.file = folder / "usher.yaml"
        self.configuration = [str(self.file)]  # Arguments for the configuration: its own file, or `--from-cluster …`
        self.program = ["-m", "usher_gateway"]  # The program to start: the gateway, or a wrapper around it
        self.log = folder / "gateway.log"
        self.stderr: int | None = None  # Target of its log: the file, or a pipe or device
        self.port, self.admin = ports.free(), ports.free()
        self.flags = ["--accept-min-free-mib", "1", "--attempts-min-free-mib", "1"]
        self.flags += flags
        self._database = database
        if database is not None:
            self.flags += ["--store", databases.gateway_dsn(database), "--no-migrate"]
        self.process: asyncio.subprocess.Process | None = None
        self.configure(manifests)

    def configure(self, manifests: Sequence[Manifest]) -> None:
        """Write the manifests; a running gateway applies them within a second."""
        write_manifests(self.file, manifests)

    async def launch(self, **environment: str) -> None:
        """Start the process without waiting until it is ready."""
        assert self.process is None
        arguments = ["run", *self.configuration, "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"]
        arguments += ["--admin", f"127.0.0.1:{self.admin}", "--log-format", "json", *self.flags]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.program,
                *arguments,
                stdout=log,
                stderr=log if self.stderr is None else self.stderr,
                env={**os.environ, **environment},
            )

    async def start(self, **environment: str) -> None:
        """Start the process and wait until it is configured."""
        await self.launch(**environment)
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Wait until the process is configured and answers."""
        await waiting.wait_until(self._is_ready, 60, "an answer of the gateway")

    async def _is_ready(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log_tail()}")
        with contextlib.suppress(OSError):
            return (await post(self.port, "/nowhere", b"{}")).status == 404
        return False

    async def wait_for_store_report(self) -> str:
        """Wait until ``/readyz`` of a gateway whose store is away says so; return what it says."""

        async def report() -> str:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                status, text = await self.readiness()
                assert status == 503
                return text
            return ""

        return await waiting.until(report, lambda text: "the store is away" in text)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        self.process = None

    async def terminate(self, seconds: float = 30.0) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.exit_code(seconds)

    async def exit_code(self, seconds: float = 30.0) -> int:
        """Wait until the process ends by itself; return the exit code."""
        process = self.process
        assert process is not None
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self.process = None

    async def close(self) -> None:
        """Kill the process if it still runs."""
        if self.process is not None and self.process.returncode is None:
            await self.kill()
        self.process = None
        if self.log.exists():
            told = self.log.read_text(errors="replace")
            leaks.PERSONAL_DATA.search("log of a gateway", told)
            leaks.SECRETS.search("log of a gateway", told)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def readiness(self) -> tuple[int, str]:
        """Return status and body of ``/readyz``."""
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.admin}/readyz") as answer:
            return answer.status, await answer.text()

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    @property
    def resident_bytes(self) -> int:
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def store(self) -> "StoreData":
        """The content of the store, in its file or in its database."""
        return StoreFile(self.data / "usher.sqlite3") if self._database is None else StoreDatabase(self._database)


class Reply(msgspec.Struct, frozen=True):
    """An answer of the gateway; ``status`` is 0 if there was none."""

    status: int
    has_header: bool = False
    seconds: float = 0.0

    @property
    def is_acknowledgement(self) -> bool:
        """Whether Purple accepts the answer as an acknowledgement."""
        return self.status == 200 and self.has_header


class Connection:
    """A keep-alive connection that posts bodies in sequence."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, limit_seconds: float = 15.0) -> Reply:
        """Post a body.

        Raises:
            OSError: there was no (whole) answer.
        """
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit_seconds):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = self._streams
                head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                head_lines = (await reader.readuntil(b"\r\n\r\n")).lower()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            self.close()
            raise ConnectionError("no answer") from error
        if b"connection: close" in head_lines:
            self.close()
        header = b"\r\nwifiwebhooklistener: 1\r\n" in head_lines
        return Reply(int(head_lines.split(b" ", 2)[1]), header, time.monotonic() - started)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def post(port: int, path: str, body: bytes) -> Reply:
    """Post once on a new connection."""
    connection = Connection(port)
    try:
        return await connection.post(path, body)
    finally:
        connection.close()


def visit(number: int, user: int | None = None, **fields: Any) -> bytes:
    """Build a distinct body per number; ``user`` defaults to a different one per number."""
    person = number if user is None else user
    document = {
        "user": {"id": person, "email": f"v{person}@example.org", "venue": {"id": 7}, **fields},
        "number": number,
    }
    return json.dumps(document).encode()


class StoreData:
    """The content of a store, read through a separate connection."""

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        raise NotImplementedError

    def counted(self) -> list[tuple[int, int, int, int]]:
        """Return (number of the listener, slot, counter, count), folded or not, of one snapshot."""
        raise NotImplementedError

    def count(self, table_and_condition: str) -> int:
        return int(self.rows(f"select count(*) from {table_and_condition}")[0][0])

    def meters(self, listener: str = "") -> collections.Counter[model.Counter]:
        """Return the meters of a listener or of all, over all slots, folded or not; 0 for what was never counted."""
        names = dict(self.rows("select number, listener from listeners"))
        sums: collections.Counter[model.Counter] = collections.Counter()
        for number, slot, counter, count in self.counted():
            if slot >= 0 and (not listener or names[number] == listener):  # stored bytes are in another slot
                sums[model.Counter(counter)] += count
        return sums

    def open_deliveries(self) -> int:
        """Return the number of deliveries that are not delivered, dead or cancelled."""
        return self.count("deliveries where state = 0")

    def delivered_ids(self) -> Iterator[str]:
        """Return the ids of delivered deliveries in the form that receivers get."""
        for (identifier,) in self.rows("select id from deliveries where state = 1"):
            yield model.format_id(identifier)


class StoreFile(StoreData):
    """The content of an SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()

    def counted(self) -> list[tuple[int, int, int, int]]:
        return self.rows("select listener, slot, counter, count from meters")


class StoreDatabase(StoreData):
    """The content of a PostgreSQL database."""

    def __init__(self, name: str) -> None:
        self._name = name

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        assert not values
        return [tuple(row) for row in databases.server().rows(statement, self._name)]

    def counted(self) -> list[tuple[int, int, int, int]]:
        query = """
            select listener, slot, counter, count, ''::bytea from meters
            union all select 0, 0, 0, 0, counts from commits where counts <> ''
        """
        counts: list[tuple[int, int, int, int]] = []
        for *counted, packed in self.rows(query):
            counts += msgspec.msgpack.decode(packed) if packed else [tuple(counted)]
        return counts


def know_each_other(store: StoreData) -> bool:
    """Return whether every gateway has sent a heartbeat since the newest one began, which its number says."""
    newest = "(select to_timestamp(max(number) / 1000000.0) from incarnations)"
    return store.rows(f"select count(*) from incarnations where beat_at < {newest}") == [(0,)]


def balance(meters: collections.Counter[model.Counter]) -> int:
    """Return the number of open deliveries according to the meters."""
    counter = model.Counter
    opened = sum(meters[each] for each in (counter.created, counter.released, counter.replayed, counter.redriven))
    return opened - sum(meters[each] for each in (counter.delivered, counter.died, counter.cancelled))
