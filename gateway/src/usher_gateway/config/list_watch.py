"""Lists and watches the config Secrets of one namespace, for as long as the gateway runs, whatever the server does.

A watch that breaks goes on from the last version that was seen; only where the server has forgotten that version, or
sends what cannot be read, everything is listed anew.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Protocol

import aiohttp
import msgspec
import structlog

from usher_gateway import config_secret, model
from usher_gateway.config import cluster_access, published, watch_stream

_log = structlog.get_logger(__name__)

_HEALTHY_SECONDS = 30.0
"""A watch that lived so long is no failure, though nothing came."""

_HINTS = {
    401: "the token is not accepted: see --kubeconfig, or the pod's service account",
    403: "the account needs `list` and `watch` on Secrets in this namespace",
    404: "the server is no Kubernetes API server: see --kubeconfig",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of what is asked, and how long is waited."""

    page_rows: int = 500
    page_bytes: int = 64 * 1024 * 1024
    """A longer page is asked for again with half as many rows."""
    connect_seconds: float = 10.0
    page_seconds: float = 60.0
    stall_seconds: float = 70.0
    """A watch on which nothing came for so long (bookmarks come every minute) is dead."""
    watch_seconds: int = 300
    """The server ends a watch after this, or up to twice as long."""
    first_pause_seconds: float = 0.2
    longest_pause_seconds: float = 10.0
    longest_retry_after_seconds: float = 120.0


class Sink(Protocol):
    """Who takes what is read."""

    async def listed(self, secrets: list[published.Secret]) -> None:
        """All there is at one moment."""

    def happened(self, event: watch_stream.Event) -> None:
        """One change after that, or a sign of life."""


class _PageTooLargeError(Exception):
    pass


class ListWatch:
    """The reading side of the API server."""

    def __init__(self, access: cluster_access.Access, namespace: str, sink: Sink, limits: Limits) -> None:
        self._access, self._sink, self._limits = access, sink, limits
        self._url = f"{access.server}/api/v1/namespaces/{namespace}/secrets"
        self._namespace = namespace
        self._rows = limits.page_rows
        self._version: str | None = None
        """What to go on from; None: list first."""
        self._failures = 0

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            least = 0.0
            try:
                async with self._session() as session:
                    await self._follow(session)
            except watch_stream.ExpiredError:
                self._version = None
                _log.info("configuration_is_listed_anew", namespace=self._namespace)
            except watch_stream.AnswerError as error:
                least = min(error.retry_after_seconds, self._limits.longest_retry_after_seconds)
                self._tell(str(error), error.hint)
            except watch_stream.FeedError as error:
                self._version = None
                self._tell(str(error), "")
            except model.UsherError as error:
                self._tell(str(error), error.hint)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._tell(type(error).__name__, f"{self._access.server} must be up, and be reached from here")
            except Exception as error:  # noqa: BLE001 - the task's top: whatever it is, the watch must go on
                self._version = None
                self._tell(f"internal error: {type(error).__name__}", "report it, please")
            await asyncio.sleep(max(least, self._pause()))

    def _tell(self, what: str, hint: str) -> None:
        _log.warning(
            "configuration_not_read", namespace=self._namespace, error=what, hint=hint, failures=self._failures
        )

    def _pause(self) -> float:
        """Twice as long for every failure in a row, and never the same for two gateways."""
        limits = self._limits
        longest = min(limits.longest_pause_seconds, limits.first_pause_seconds * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, keeps no secret

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A session of its own for every try: a rotated authority is read anew."""
        limits, context = self._limits, self._access.ssl_context()
        connector = aiohttp.TCPConnector(ssl=context if context is not None else True, limit=2)
        timeout = aiohttp.ClientTimeout(
            total=None,
            sock_connect=limits.connect_seconds,
            connect=limits.connect_seconds,
            sock_read=limits.stall_seconds,
        )
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield session

    @contextlib.asynccontextmanager
    async def _get(
        self, session: aiohttp.ClientSession, query: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; raises for every answer but 200."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", **self._access.headers()}
        query = {"labelSelector": config_secret.SELECTOR, **query}
        async with session.get(
            self._url,
            params=query,
            headers=headers,
            allow_redirects=False,
            server_hostname=self._access.server_name or None,
        ) as response:
            if response.status == 410:
                raise watch_stream.ExpiredError("the version is too old")
            if response.status != 200:
                text = response.headers.get("Retry-After", "")
                after = float(text) if text.isdecimal() and len(text) < 9 else 0.0
                raise watch_stream.AnswerError(response.status, after, _HINTS.get(response.status, ""))
            yield response

    async def _follow(self, session: aiohttp.ClientSession) -> None:
        if self._version is None:
            await self._list(session)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            was_alive = await self._watch(session) or loop.time() - began >= _HEALTHY_SECONDS
            if not was_alive:
                return
            self._failures = 0

    async def _list(self, session: aiohttp.ClientSession) -> None:
        """Read all pages; what is half read counts for nothing."""
        while True:
            try:
                secrets, version = await self._read_pages(session)
                break
            except _PageTooLargeError:
                if self._rows == 1:
                    raise watch_stream.FeedError("a list of one Secret is too long") from None
                self._rows = max(1, self._rows // 2)
        await self._sink.listed(secrets)
        self._version = version

    async def _read_pages(self, session: aiohttp.ClientSession) -> tuple[list[published.Secret], str]:
        secrets: list[published.Secret] = []
        more = ""
        while True:
            query = {"limit": str(self._rows), **({"continue": more} if more else {})}
            async with asyncio.timeout(self._limits.page_seconds), self._get(session, query) as response:
                content = await self._read_bounded(response)
            page = watch_stream.read_page(content)
            secrets += page.secrets
            if not page.more:
                return secrets, page.version
            if page.more == more or not page.secrets:
                raise watch_stream.FeedError("the pages of a list have no end")
            more = page.more

    async def _read_bounded(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > self._limits.page_bytes:
                raise _PageTooLargeError
        return b"".join(parts)

    async def _watch(self, session: aiohttp.ClientSession) -> bool:
        """Follow changes until the server ends the watch, as it does now and then; whether anything came."""
        assert self._version is not None
        seconds = self._limits.watch_seconds
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(seconds, 2 * seconds)),  # noqa: S311 - spreads load
        }
        lines, before = watch_stream.Lines(), self._version
        async with self._get(session, query) as response:
            async for piece in response.content.iter_any():
                for line in lines.feed(piece):
                    event = watch_stream.read_event(line)
                    self._sink.happened(event)
                    self._version = event.secret.version
                    self._failures = 0
        return self._version != before
