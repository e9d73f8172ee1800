"""Requests to the API server: get, list in pages, watch, server-side apply, create, replace, delete.

Errors name the method and the path, never a body, because bodies hold secrets. A list that ends without an error is
complete; after an error, objects that were not listed may still exist. The client decodes items directly into the type
that the caller names, so that it does not parse fields without a reader.

Source: Kubernetes API concepts, Retrieving large results sets in chunks, and Efficient detection of changes.
"""

import asyncio
import random
import re
import ssl
import types
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Generic, Literal, Self, TypeVar

import aiohttp
import msgspec
import yarl

from usher_gateway import model
from usher_gateway.kube.access import Access, ApiConnection

_ATTEMPTS = 4
_RETRIED = frozenset({429, 500, 502, 503, 504})
_FIRST_BACKOFF_SECONDS = 0.4
# Refusals of these may quote the path of a URL, which is a credential: an admission check names what it refuses.
_WITH_PATHS = ("/ingresses", "/httproutes")
_PATH = re.compile(r"/[^\s\"'`,;]+")

_NO_STATUS = 0  # The status of an error that is not a response of the server

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_METADATA_LIST = f"{_JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

JsonObject = dict[str, Any]
Item = TypeVar("Item")


class ClientLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Request sizes and waiting times."""

    connections: int = 32
    page_rows: int = 500
    first_page_rows: int = 500
    """Rows in the first page. Where objects may be large, a small number avoids reading a page that is too long."""
    page_bytes: int = 64 * 1024 * 1024
    """A page that is longer is requested again with half as many rows. After a page of less than a quarter, the next
    one has twice as many."""
    line_bytes: int = 16 * 1024 * 1024
    """Longest line in a watch. An object has at most 1.5 MiB in etcd; its JSON is longer."""
    connect_seconds: float = 5.0
    request_seconds: float = 30.0
    """From a request's start to its response's last byte; a watch takes longer."""
    stall_seconds: float = 70.0
    """A watch that sends nothing for this long has failed: bookmarks come every minute."""
    watch_seconds: int = 300
    """The server ends a watch after this time, or up to twice as long."""
    longest_retry_after_seconds: float = 10.0


class ApiError(model.UsherError):
    """The API server refused a request, or did not answer it (`status` 0)."""

    code = "Api"

    def __init__(
        self, status: int, reason: str, request: str, message: str = "", retry_after_seconds: float = 0.0
    ) -> None:
        super().__init__(f"{request}: {status} {reason}" + (f" ({message})" if message else ""))
        self.status = status
        self.reason = reason
        """The server's word, such as `Conflict` or `Forbidden`, or the error type where it did not answer."""
        self.retry_after_seconds = retry_after_seconds


class UnreadableAnswerError(ApiError):
    """The response is not what an API server sends."""

    def __init__(self, request: str, problem: str) -> None:
        super().__init__(_NO_STATUS, "Unreadable", request, problem)


class ListPage(msgspec.Struct, Generic[Item], frozen=True):
    """Some objects in a list."""

    items: list[Item]
    resource_version: str
    """The whole list's version; a watch can continue from the last page's version."""


class WatchEvent(msgspec.Struct, Generic[Item], frozen=True):
    """One watch event; in a bookmark, `item` holds only the version."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    item: Item
    resource_version: str


class _Request(msgspec.Struct, frozen=True):
    verb: str
    """How metrics and errors name the request."""
    method: str
    path: str
    query: Mapping[str, str] = {}
    body: JsonObject | None = None
    attempts: int = _ATTEMPTS
    is_fenced: bool = False
    """Whether `may_write` must allow it."""
    accept: str = _JSON
    content_type: str = _JSON

    def __str__(self) -> str:
        return f"{self.verb} {self.path}"


class _ListMetadata(msgspec.Struct, rename={"resource_version": "resourceVersion", "token": "continue"}):
    resource_version: str
    token: str = ""


class _List(msgspec.Struct, Generic[Item]):
    kind: str
    metadata: _ListMetadata
    items: list[Item] | None = None


class _WatchLine(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: msgspec.Raw


class _Metadata(msgspec.Struct, rename="camel"):
    name: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct):
    metadata: _Metadata


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


_decode = msgspec.json.Decoder(JsonObject).decode
_decode_line = msgspec.json.Decoder(_WatchLine).decode
_decode_named = msgspec.json.Decoder(_Named).decode
_decode_status = msgspec.json.Decoder(_Status).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _ResponseTooLongError(Exception):
    pass


class Client:
    """A client for one API server. Use it inside `async with`."""

    def __init__(
        self,
        access: Access,
        *,
        field_manager: str = "",
        limits: ClientLimits | None = None,
        count_request: Callable[[str, int], None] = lambda _, __: None,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """`count_request` is called with each response's verb and status; status 0: there was none.

        `may_write` is called before each write that only a leader may send; if it returns False, nothing is sent.
        """
        self._access = access
        self._field_manager = field_manager
        self._limits = limits if limits is not None else ClientLimits()
        self._count_request = count_request
        self._may_write = may_write
        self._page_rows = min(self._limits.first_page_rows, self._limits.page_rows)
        self._session: aiohttp.ClientSession | None = None
        self._tls: tuple[ApiConnection, ssl.SSLContext | None] | None = None

    async def __aenter__(self) -> Self:
        limits = self._limits
        connected = aiohttp.TraceConfig()
        connected.on_connection_create_end.append(self._on_connected)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=limits.connections, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[connected],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, *, missing_ok: bool = False, attempts: int = _ATTEMPTS) -> JsonObject | None:
        """One object; None if `missing_ok` and it does not exist."""
        try:
            return await self._request_object(_Request("get", "GET", path, attempts=attempts))
        except ApiError as error:
            if error.status == 404 and missing_ok:
                return None
            raise

    async def pages(
        self,
        path: str,
        item_type: type[Item],
        *,
        selector: str = "",
        field_selector: str = "",
        is_metadata_only: bool = False,
        attempts: int = _ATTEMPTS,
    ) -> AsyncGenerator[ListPage[Item], None]:
        """All objects in a collection, page by page. A list that ends without an error is complete.

        A page's items are removed from it before the next page is requested.

        Raises:
            ApiError: possibly after some pages. Then objects that were not listed may still exist.
        """
        query = _selectors(selector, field_selector)
        accept = _METADATA_LIST if is_metadata_only else _JSON
        decode = msgspec.json.Decoder(_List[item_type]).decode  # type: ignore[valid-type]
        while True:
            query["limit"] = str(self._page_rows)
            request = _Request("list", "GET", path, dict(query), attempts=attempts, accept=accept)
            try:
                content = await self._request_with_retries(request)
            except _ResponseTooLongError:
                if self._page_rows == 1:
                    raise UnreadableAnswerError(str(request), "a list of one object is too long") from None
                self._page_rows = max(1, self._page_rows // 2)
                continue
            if len(content) < self._limits.page_bytes // 4:
                self._page_rows = min(self._limits.page_rows, self._page_rows * 2)
            try:
                page = decode(content)
            except _UNREADABLE as error:
                raise UnreadableAnswerError(str(request), type(error).__name__) from None
            token, items = page.metadata.token, page.items or []
            if not page.kind.endswith("List") or not page.metadata.resource_version:
                raise UnreadableAnswerError(str(request), "it is not a list with a resourceVersion")
            if token and (token == query.get("continue") or not items):
                raise UnreadableAnswerError(str(request), "the pages of the list do not end")
            yield ListPage(items, page.metadata.resource_version)
            items.clear()  # decoded objects may need ten times the memory of their JSON
            if not token:
                return
            query["continue"] = token

    async def collection_version(self, path: str, *, selector: str = "", field_selector: str = "") -> str:
        """A collection's present resourceVersion, from a list with one object.

        Raises:
            ApiError: the server did not answer, or refused.
        """
        query = {"limit": "1", **_selectors(selector, field_selector)}
        listing = await self._request_object(_Request("list", "GET", path, query, attempts=1, accept=_METADATA_LIST))
        return str((listing.get("metadata") or {}).get("resourceVersion") or "")

    async def watch(
        self, path: str, item_type: type[Item], *, resource_version: str, selector: str = "", field_selector: str = ""
    ) -> AsyncGenerator[WatchEvent[Item], None]:
        """Events after a resourceVersion, bookmarks too, until the server ends the watch.

        Raises:
            ApiError: the watch failed; status 410: that version is too old, so list again.
        """
        seconds = self._limits.watch_seconds
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(random.randint(seconds, 2 * seconds)),  # noqa: S311 - spreads load
            **_selectors(selector, field_selector),
        }
        request, lines = _Request("watch", "GET", path, query), LineSplitter(self._limits.line_bytes)
        decode = msgspec.json.Decoder(item_type).decode
        timeout = aiohttp.ClientTimeout(
            sock_connect=self._limits.connect_seconds, sock_read=self._limits.stall_seconds, total=2 * seconds + 10
        )
        try:
            connection = await self._access.connection()
            async with self._start_request(request, connection, timeout) as response:
                self._count_request("watch", response.status)
                if response.status != 200:
                    raise await self._refusal(request, response)
                async for piece in response.content.iter_any():
                    for line in lines.feed(piece):
                        yield _event(line, decode)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(_NO_STATUS, type(error).__name__, str(request)) from None
        except _UnreadableLineError as error:
            raise UnreadableAnswerError(str(request), str(error)) from None

    async def apply(self, path: str, body: JsonObject, *, is_status: bool = False) -> JsonObject:
        """Apply an object with server-side apply. This client owns the fields; equal content changes nothing."""
        verb, path = ("apply_status", f"{path}/status") if is_status else ("apply", path)
        query = {"fieldManager": self._field_manager, "force": "true"}
        return await self._request_object(
            _Request(verb, "PATCH", path, query, body, is_fenced=True, content_type=_APPLY)
        )

    async def merge_status(self, path: str, body: JsonObject) -> JsonObject:
        """Merge a body into the status of the version that it names; status 409 if there is a newer one."""
        query = {"fieldManager": self._field_manager}
        return await self._request_object(
            _Request("merge_status", "PATCH", f"{path}/status", query, body, is_fenced=True, content_type=_MERGE)
        )

    async def create(
        self,
        path: str,
        body: JsonObject,
        *,
        attempts: int = _ATTEMPTS,
        is_fenced: bool = True,
        is_dry_run: bool = False,
    ) -> JsonObject:
        """Create an object; status 409 if it exists. A dry run goes through admission and stores nothing."""
        query = {"fieldManager": self._field_manager, **({"dryRun": "All"} if is_dry_run else {})}
        return await self._request_object(_Request("create", "POST", path, query, body, attempts, is_fenced))

    async def replace(self, path: str, body: JsonObject, *, attempts: int = _ATTEMPTS) -> JsonObject:
        """Replace the object version that the body names; status 409 if there is a newer one."""
        query = {"fieldManager": self._field_manager}
        return await self._request_object(_Request("replace", "PUT", path, query, body, attempts))

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object with this uid. If it is gone, or another with the same name replaced it, do nothing."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        try:
            await self._request_object(_Request("delete", "DELETE", path, {}, body, is_fenced=True))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def _request_object(self, request: _Request) -> JsonObject:
        """Decode a request's response as one object."""
        try:
            return _decode(await self._request_with_retries(request))
        except _ResponseTooLongError:
            raise UnreadableAnswerError(str(request), "the response is too long") from None
        except _UNREADABLE as error:
            raise UnreadableAnswerError(str(request), type(error).__name__) from None

    async def _request_with_retries(self, request: _Request) -> bytes:
        """Request up to ``request.attempts`` times, until the server answers with success or with a lasting error."""
        for attempt in range(1, request.attempts + 1):
            connection = await self._access.connection()
            self._check_fence(request)
            try:
                return await self._request_once(request, connection)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._count_request(request.verb, _NO_STATUS)
                failure = ApiError(_NO_STATUS, type(error).__name__, str(request))
            except ApiError as error:
                if error.status not in {401, *_RETRIED}:
                    raise
                failure = error
            if attempt == request.attempts:
                raise failure
            backoff = _FIRST_BACKOFF_SECONDS * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
            await asyncio.sleep(
                max(backoff, min(failure.retry_after_seconds, self._limits.longest_retry_after_seconds))
            )
        raise AssertionError("unreachable")

    async def _request_once(self, request: _Request, connection: ApiConnection) -> bytes:
        """Return a successful response's body; raise ApiError for any other status."""
        limits = self._limits
        timeout = aiohttp.ClientTimeout(total=limits.request_seconds, sock_connect=limits.connect_seconds)
        async with self._start_request(request, connection, timeout) as response:
            if not 200 <= response.status < 300:
                self._count_request(request.verb, response.status)
                raise await self._refusal(request, response)
            content = await self._read_bounded(response)
            self._count_request(request.verb, response.status)
            return content

    async def _read_bounded(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for part in response.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > self._limits.page_bytes:
                raise _ResponseTooLongError
        return b"".join(parts)

    async def _refusal(self, request: _Request, response: aiohttp.ClientResponse) -> ApiError:
        if response.status == 401:
            self._access.reject()
        try:
            status = _decode_status(await response.read())
        except _UNREADABLE:
            status = _Status()
        message = "" if "/secrets" in request.path else status.message[:500]  # it may quote the data of a Secret
        if any(plural in request.path for plural in _WITH_PATHS):
            message = _PATH.sub("/…", message)
        text = response.headers.get("Retry-After", "")
        seconds = float(text) if text.isdecimal() and len(text) < 9 else 0.0
        return ApiError(response.status, status.reason, str(request), message, seconds)

    def _check_fence(self, request: _Request) -> None:
        if request.is_fenced and not self._may_write():
            raise ApiError(_NO_STATUS, "NotLeader", str(request), "the Lease is not held")

    async def _on_connected(self, _: object, context: types.SimpleNamespace, __: object) -> None:
        """Check again for a request that had to wait for its connection."""
        self._check_fence(context.trace_request_ctx)

    def _start_request(self, request: _Request, connection: ApiConnection, timeout: aiohttp.ClientTimeout) -> Any:
        """Return a response's context manager: the request with its credentials and this connection's TLS."""
        assert self._session is not None
        headers = {
            "Accept": request.accept,
            "Accept-Encoding": "identity",
            "Content-Type": request.content_type,
            **connection.headers(),
        }
        context = self._ssl_context(connection)
        return self._session.request(
            request.method,
            yarl.URL(f"{connection.server}{request.path}").with_query(dict(request.query)),
            data=msgspec.json.encode(request.body) if request.body is not None else None,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            ssl=context if context is not None else True,
            server_hostname=connection.server_name or None,
            trace_request_ctx=request,
        )

    def _ssl_context(self, connection: ApiConnection) -> ssl.SSLContext | None:
        """This connection's context, kept until its certificates change, so that sockets are reused."""
        identity = msgspec.structs.replace(connection, authorization="")
        if self._tls is None or self._tls[0] != identity:
            self._tls = identity, connection.ssl_context()
        return self._tls[1]


class _UnreadableLineError(Exception):
    pass


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in selectors.items() if value}


class LineSplitter:
    """Cuts a stream into lines; aiohttp's own iterator limits a line's length."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._parts: list[bytes] = []
        self._length = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are now complete, without their ends and without empty ones.

        Raises:
            _UnreadableLineError: a line is too long.
        """
        first, *rest = piece.split(b"\n")
        self._parts.append(first)
        self._length += len(first)
        if self._length > self._max_line_bytes:
            raise _UnreadableLineError(f"a line of the watch has more than {self._max_line_bytes} bytes")
        if not rest:
            return []
        lines = [b"".join(self._parts), *rest[:-1]]
        self._parts = [rest[-1]]
        self._length = len(rest[-1])
        return [line for line in lines if line.strip()]


def _event(line: bytes, decode: Callable[[msgspec.Raw], Item]) -> WatchEvent[Item]:
    """One line of a watch.

    Raises:
        ApiError: the server ends the watch.
        _UnreadableLineError: it is not an event.
    """
    try:
        event = _decode_line(line)
        if event.type == "ERROR":
            status = _decode_status(event.object)
            raise ApiError(status.code, status.reason, "watch")
        metadata = _decode_named(event.object).metadata
        item = decode(event.object)
    except _UNREADABLE as error:
        raise _UnreadableLineError(type(error).__name__) from None
    if not metadata.resource_version or (not metadata.name and event.type != "BOOKMARK"):
        raise _UnreadableLineError("an event of the watch has no name or version")
    return WatchEvent(event.type, item, metadata.resource_version)
