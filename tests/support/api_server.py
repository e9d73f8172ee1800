"""A small API server for Secrets. It is as strict as the real one, and fails, lies or hangs on command."""

import asyncio
import collections
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

import msgspec
from aiohttp import web

from usher_gateway import config_secret

TOKEN = "token-of-the-gateway"
NAMESPACE = "usher-config"


class Answer(msgspec.Struct, frozen=True):
    """The answer that a request gets in place of the normal one."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}
    hangs: bool = False


class ApiServer:
    """Serves lists and watches of the Secrets of one namespace. ``port`` stays the same over stop() and start()."""

    def __init__(self) -> None:
        self.port = 0
        self.token = TOKEN
        self.version = 100
        self.secrets: dict[str, dict[str, Any]] = {}
        self.faults: collections.deque[Answer | None] = collections.deque()
        """Answers of the next requests; None: the normal answer."""
        self.watch_faults: collections.deque[Answer | None] = collections.deque()  # Answers of the next watches
        self.lists: list[dict[str, str]] = []
        self.version_reads: list[dict[str, str]] = []  # Lists of one object, which read only the version
        self.checks: list[dict[str, str]] = []  # Lists of metadata
        self.watches: list[dict[str, str]] = []
        self.refused: list[str] = []  # Requests that no client may send
        self._history: list[tuple[int, bytes]] = []
        self._oldest = 100
        self._pages: dict[str, tuple[list[dict[str, Any]], int]] = {}
        self._open: dict[asyncio.Queue[bytes | None], int] = {}
        """Open watches, and the version after which each reports events."""
        self._held: set[asyncio.Event] = set()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/api/v1/namespaces/{namespace}/secrets", self._handle)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self.cut()
        for held in self._held:
            held.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def open_watches(self) -> int:
        return len(self._open)

    # the operator's writes

    def put(self, envelope: config_secret.Envelope) -> str:
        """Write a document or tombstone; return the name of its Secret."""
        name = config_secret.secret_name(*envelope.identity)
        self.put_raw(name, config_secret.secret_data(envelope), envelope.owner.key)
        return name

    def put_mark(self, listeners: int = 0) -> None:
        """Say that everything was published once, and how many Listeners have a document."""
        self.put_raw(config_secret.mark_name("install"), {}, "", {config_secret.LISTENERS_ANNOTATION: str(listeners)})

    def put_raw(
        self, name: str, data: dict[str, str], owner: str, annotations: Mapping[str, str] | None = None
    ) -> None:
        self.version += 1
        kind = "MODIFIED" if name in self.secrets else "ADDED"
        self.secrets[name] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "resourceVersion": str(self.version),
                "labels": {config_secret.CONFIG_LABEL: "true"},
                "annotations": {config_secret.OWNER_ANNOTATION: owner, **(annotations or {})},
            },
            "type": "Opaque",
            "data": data,
        }
        self._tell(kind, self.secrets[name])

    def delete(self, name: str) -> None:
        self.version += 1
        secret = self.secrets.pop(name)
        gone = {**secret, "metadata": {**secret["metadata"], "resourceVersion": str(self.version)}}
        self._tell("DELETED", gone)

    def _tell(self, kind: str, secret: dict[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": secret}).encode() + b"\n"
        self._history.append((self.version, line))
        self._send(line)

    def _send(self, line: bytes) -> None:
        """Send what belongs to the present version. The real server is silent to a watch from a later version."""
        for queue, since in self._open.items():
            if since < self.version:
                queue.put_nowait(line)

    def back_up(self) -> dict[str, Any]:
        """Return the state for ``restore``."""
        return {"version": self.version, "secrets": dict(self.secrets)}

    def restore(self, backup: dict[str, Any]) -> None:
        """Go back to an earlier state and end every watch, as a restore of etcd does."""
        self.version, self.secrets = backup["version"], dict(backup["secrets"])
        self._history = [(version, line) for version, line in self._history if version <= self.version]
        self.cut()

    # faults

    def say(self, line: bytes) -> None:
        """Write a line of any content to every open watch."""
        for queue in self._open:
            queue.put_nowait(line)

    def bookmark(self) -> None:
        metadata = {"resourceVersion": str(self.version), "creationTimestamp": None}
        line = json.dumps({"type": "BOOKMARK", "object": {"kind": "Secret", "metadata": metadata}}).encode() + b"\n"
        self._send(line)

    def cut(self) -> None:
        for queue in self._open:
            queue.put_nowait(None)

    def forget_watches(self) -> None:
        """Keep every watch open, and send nothing more to it."""
        self._open = dict.fromkeys(self._open, 1 << 62)

    def compact(self) -> None:
        """Forget the history, so that watches from earlier versions and further pages of lists get 410."""
        self._history.clear()
        self._oldest = self.version
        self._pages.clear()

    # requests

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        is_watch = query.get("watch") == "true"
        self._list_of(request, query).append(query)
        faults = self.watch_faults if is_watch and self.watch_faults else self.faults
        fault = faults.popleft() if faults else None
        if fault is not None:
            if fault.hangs:
                await self._hang()
            return web.Response(status=fault.status, body=fault.body, headers=fault.headers)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401)
        if request.match_info["namespace"] != NAMESPACE:
            return _status(403)
        if query.get("labelSelector") != config_secret.SELECTOR:
            self.refused.append("a list or watch without the label selector")
            return _status(403)
        return await self._watch(request, query) if is_watch else self._list(query)

    def _list_of(self, request: web.Request, query: dict[str, str]) -> list[dict[str, str]]:
        """Return the list that records requests of this type."""
        if query.get("watch") == "true":
            return self.watches
        if query.get("limit") == "1":
            return self.version_reads
        return self.checks if "PartialObjectMetadataList" in request.headers.get("Accept", "") else self.lists

    async def _hang(self) -> None:
        held = asyncio.Event()
        self._held.add(held)
        await held.wait()

    def _list(self, query: dict[str, str]) -> web.Response:
        limit, token = int(query.get("limit", "0")), query.get("continue", "")
        if token and token not in self._pages:
            return _status(410)
        items, version = self._pages.pop(token) if token else (list(self.secrets.values()), self.version)
        page, left = (items[:limit], items[limit:]) if limit else (items, [])
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if left:
            metadata |= {"continue": f"{version}-{len(left)}", "remainingItemCount": len(left)}
            self._pages[metadata["continue"]] = (left, version)
        return web.json_response({"kind": "SecretList", "apiVersion": "v1", "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        if not query.get("resourceVersion", "").isdecimal() or not query.get("timeoutSeconds", "").isdecimal():
            self.refused.append(f"a watch with {sorted(query)}")
            return _status(400)
        since = int(query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if since < self._oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired"}
            await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return response
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        for version, line in self._history:
            if version > since:
                queue.put_nowait(line)
        self._open[queue] = since
        try:
            with contextlib.suppress(ConnectionError):
                while (line := await queue.get()) is not None:  # type: ignore[assignment]
                    for start in range(0, len(line), 1000):
                        await response.write(line[start : start + 1000])
        finally:
            del self._open[queue]
        return response


def _status(code: int) -> web.Response:
    return web.json_response({"kind": "Status", "status": "Failure", "code": code}, status=code)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[ApiServer]:
    """Run a server, and check at the end that no client sent a forbidden request."""
    server = ApiServer()
    async with server:
        yield server
    assert server.refused == []


def kubeconfig(server: ApiServer) -> str:
    """Build a kubeconfig file for the server (JSON is YAML)."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
        }
    )
