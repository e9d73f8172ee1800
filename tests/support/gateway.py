"""Run a real gateway in this process, with free ports, a new data folder, and manifests that a test can edit."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from support import command_line, databases, gateways, leaks, waiting, wire
from usher_gateway import app, metrics, model
from usher_gateway import settings as all_settings
from usher_gateway.access import tokens
from usher_gateway.ingest import server
from usher_gateway.store.sqlite import database as sqlite

HOST = "hooks.test"

CLASS = """
apiVersion: usher.dev/v1alpha1
kind: ListenerClass
metadata: {name: public}
spec:
  controllerName: usher.dev/usher
  hostname: hooks.test
  allowedHostnames: [{hostname: "*.test"}]
  maximums: {requestsPerSecond: 100000}
---
"""

TENANT = """
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme, namespace: agency}
spec: {displayName: Acme}
---
"""

LISTENER = """
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: wifi, namespace: agency}
spec:
  tenantRef: {name: acme}
  routes: []
---
"""

MANIFESTS = CLASS + TENANT + LISTENER


def one_route(url: str) -> str:
    """Return manifests whose only route leads to ``/crm`` below a URL."""
    listener = LISTENER.replace("routes: []", "routes: [{name: crm, destinationRef: {name: crm}}]")
    return (
        CLASS
        + TENANT
        + listener
        + f"""
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {{name: crm, namespace: agency}}
spec: {{type: HTTP, http: {{url: "{url}/crm"}}}}
"""
    )


def visit(user: int) -> bytes:
    """Return the smallest body of a visit."""
    return json.dumps({"user": {"id": user, "venue": {"id": 9}}}).encode()


class RunningGateway:
    """A running gateway with access to its state."""

    def __init__(self, gateway: app.Gateway, manifests: Path) -> None:
        self.gateway = gateway
        self.manifests = manifests

    @property
    def port(self) -> int:
        return int(self.gateway.port)

    def target(self, listener: str = "agency/wifi", address: int = 0) -> str:
        """Return the path (and query) of a listener's address."""
        return self.gateway.snapshot.listeners[listener].addresses[address].path

    async def post(self, body: bytes, listener: str = "agency/wifi", **headers: str) -> wire.Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await wire.exchange(self.port, wire.request(self.target(listener), body, headers=named))

    def write(self, manifests: str) -> None:
        """Replace the manifests by a rename, as an editor does."""
        draft = self.manifests.with_suffix(".new")
        draft.write_text(manifests)
        draft.replace(self.manifests)

    def configure(self, manifests: Sequence[gateways.Manifest]) -> None:
        """Replace the manifests, given as objects."""
        gateways.write_manifests(self.manifests, manifests)

    @property
    def file(self) -> Path:
        """The database file, if the store is SQLite."""
        return self.gateway.settings.data / sqlite.FILE_NAME

    @property
    def store(self) -> gateways.StoreData:
        """The content of the store, in its file or in its database."""
        dsn = self.gateway.settings.store
        return gateways.StoreFile(self.file) if dsn is None else gateways.StoreDatabase(databases.name_in(dsn))

    async def wait_configured(self, listener: str = "agency/wifi") -> None:
        await waiting.wait_until(lambda: listener in self.gateway.snapshot.listeners)

    def counted(self) -> dict[str, int]:
        """Return the counts of arrivals by kind, and of refusals as ``refused:Reason``."""
        counters = self.gateway.counters
        counts: dict[str, int] = {}
        for counted_as in set(model.CountedAs) - {model.CountedAs.Refused}:
            count = sum(counts[counted_as] for counts in counters.counted.values())
            if count:
                counts[counted_as.name.lower()] = count
        for reason, count in counters.refused.items():
            counts[f"refused:{reason}"] = count
        for reason, count in counters.quarantined.items():
            counts[f"quarantined:{reason}"] = count
        if counters.unacknowledged:
            counts["unacknowledged"] = counters.unacknowledged
        return counts

    async def meters(self, listener: str = "wifi") -> dict[str, int]:
        """Read the meters of a listener from the database file."""
        await self.gateway.store.flush()
        return {counter.name: count for counter, count in self.store.meters(listener).items()}

    @property
    def token(self) -> str:
        """The operate token."""
        return (self.gateway.settings.data / tokens.OPERATE_FILE).read_text("ascii").strip()

    async def ask(self, method: str, path: str, **body: Any) -> Any:
        """Send a request to the API, which must succeed; return the answer."""
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {self.token}"}) as session,
            session.request(method, self.gateway.admin.url + path, json=body or None) as answer,
        ):
            assert answer.status < 300, await answer.text()
            return await answer.json()

    async def command(self, *arguments: object, **environment: str) -> command_line.CommandRun:
        """Run a command of `usher` that asks this gateway."""
        own = {"USHER_ADMIN": self.gateway.admin.url, "USHER_DATA": str(self.gateway.settings.data)}
        return await command_line.usher(*arguments, **own, **environment)

    async def readiness(self) -> tuple[int, str]:
        """Return status and body of ``/readyz``."""
        url = f"{self.gateway.admin.url}/readyz"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    def exposition(self) -> str:
        return metrics.write(self.gateway.metrics.collect())


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    manifests: str | Sequence[gateways.Manifest] = MANIFESTS,
    limits: server.ServerLimits | None = None,
    environment: Mapping[str, str] | None = None,
    database: str | None = None,
    **settings: Any,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway for the duration of a ``with`` block; then search its metrics and store for personal data.

    Args:
        database: Name of its PostgreSQL database. Without one, its store is SQLite.
    """
    file = folder / "manifests.yaml"
    if isinstance(manifests, str):
        file.write_text(manifests)
    else:
        gateways.write_manifests(file, manifests)
    given: dict[str, Any] = {
        "files": (file,),
        "data": folder / "data",
        "listen": all_settings.Endpoint("127.0.0.1", 0),
        "admin": all_settings.Endpoint("127.0.0.1", 0),
        "accept_min_free_bytes": 0,
        "attempts_min_free_bytes": 0,
        "drain_seconds": 2.0,
    } | settings
    if database is not None:
        given |= {"store": databases.gateway_dsn(database), "migrate": False}
    if limits is not None:
        given["limits"] = limits
    gateway = app.Gateway(all_settings.Settings(**given), dict(environment or {}))
    running_gateway = RunningGateway(gateway, file)
    task = asyncio.create_task(gateway.run(), name="gateway")
    try:
        await _wait_started(gateway, task)
        if manifests:
            await waiting.wait_until(lambda: gateway.snapshot.listeners)
        yield running_gateway
        leaks.PERSONAL_DATA.search("metrics", running_gateway.exposition())
    finally:
        gateway.stop()
        async with asyncio.timeout(60):
            await task
        _search_stored_texts(running_gateway.store)


async def _wait_started(gateway: app.Gateway, task: "asyncio.Task[None]") -> None:
    started = asyncio.create_task(gateway.started.wait())
    await asyncio.wait({started, task}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    started.cancel()
    if task.done():
        task.result()
    assert gateway.started.is_set()


def _search_stored_texts(store: gateways.StoreData) -> None:
    for (text,) in store.rows("select distinct error from deliveries"):
        leaks.PERSONAL_DATA.search("a delivery's error", text)
    for table, column in (("listeners", "listener"), ("destinations", "key"), ("meta", "value")):
        for (text,) in store.rows(f"select {column} from {table}"):
            leaks.PERSONAL_DATA.search(f"{table}.{column}", str(text))
