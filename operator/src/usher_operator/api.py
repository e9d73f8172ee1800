"""The API server, as far as the operator speaks to it itself: reading in chunks, watching, server-side apply, deleting.

Kopf watches; everything that must be told apart (a page that fails in the middle, a precondition, a refused field) goes
through here. Errors name method and path, never a body: bodies hold secrets.
"""

import asyncio
import random
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Self

import aiohttp
import kopf
import msgspec
import yarl

from usher_gateway import model
from usher_operator import connection

FIELD_MANAGER = "usher-operator"
"""Who owns the fields that the operator applies."""

CHUNK = 500
"""Objects per page of a list."""

_ATTEMPTS = 4
_RETRIED = frozenset({429, 500, 502, 503, 504})
_MOST_WAIT_SECONDS = 10.0
_TOKEN_SECONDS = 60.0
_CONNECTIONS = 32
_EVENT_BYTES = 16 * 1024 * 1024
"""Longest event of a watch. Objects have at most 1.5 MiB; what tells of one has more."""
_LIMITS = aiohttp.ClientTimeout(total=30, sock_connect=5)
_WATCH_LIMITS = aiohttp.ClientTimeout(total=310, sock_connect=5, sock_read=75)
_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_JSON = {"Content-Type": "application/json"}
_UNREACHABLE = 0

Raw = dict[str, Any]
Parameters = Mapping[str, str]


class ApiError(model.UsherError):
    """The API server said no, or could not be reached (``status`` 0)."""

    code = "Api"

    def __init__(self, status: int, reason: str, what: str, message: str = "") -> None:
        super().__init__(f"{what}: {status} {reason}" + (f" ({message})" if message else ""))
        self.status = status
        self.reason = reason
        """Word of the API server, such as ``Conflict`` or ``Forbidden``; the kind of fault where it did not answer."""


class Page(msgspec.Struct, frozen=True):
    """Some objects of a list."""

    items: list[Raw]
    resource_version: str
    is_last: bool


class _Call(msgspec.Struct, frozen=True):
    """One request; ``verb`` is how it is counted and named."""

    verb: str
    method: str
    path: str
    parameters: Parameters = {}
    body: Raw | None = None
    attempts: int = _ATTEMPTS
    is_fenced: bool = False
    """Whether only the leader may send it."""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[Raw] | None = None


class _Status(msgspec.Struct):
    reason: str = ""
    message: str = ""


_decode = msgspec.json.Decoder().decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_status = msgspec.json.Decoder(_Status).decode


class Api:
    """A client, for the time of an ``async with`` block.

    ``load``: gives the connection anew, because tokens are rotated. ``count``: told verb and answer of each request.
    """

    def __init__(
        self, load: Callable[[], kopf.ConnectionInfo], count: Callable[[str, int], None] = lambda _, __: None
    ) -> None:
        self._load, self._count = load, count
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before anything is changed; where it says no, nothing is sent."""
        self._read_at = 0.0
        self._headers: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None
        self._server = ""

    async def __aenter__(self) -> Self:
        info = self._load()
        self._server = info.server
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=connection.tls_context(info), keepalive_timeout=30)
        connected = aiohttp.TraceConfig()
        connected.on_connection_create_end.append(self._on_connected)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=_LIMITS, auto_decompress=True, trace_configs=[connected]
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def get(self, path: str, *, missing_ok: bool = False, attempts: int = _ATTEMPTS) -> Raw | None:
        """One object; None where there is none and that is fine."""
        try:
            return await self._json(_Call("get", "GET", path, attempts=attempts))
        except ApiError as error:
            if error.status == 404 and missing_ok:
                return None
            raise

    async def pages(self, path: str, selector: str = "") -> AsyncIterator[Page]:
        """Every object of a collection, in pages. A list that ends without an error is complete.

        Raises:
            ApiError: also in the middle: what has come until then says nothing of what is missing.
        """
        parameters = {"limit": str(CHUNK)}
        if selector:
            parameters["labelSelector"] = selector
        while True:
            content = await self._request(_Call("list", "GET", path, parameters))
            found = _decode_list(content)
            parameters["continue"] = found.metadata.continue_
            yield Page(found.items or [], found.metadata.resource_version, not found.metadata.continue_)
            if not found.metadata.continue_:
                return

    async def watch(self, path: str, parameters: Parameters) -> AsyncGenerator[Raw, None]:
        """Events of a collection from a resourceVersion on, until the server ends the stream.

        Raises:
            ApiError: it cannot be watched from there; 410 where that is too long ago.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "300", **parameters}
        try:
            async with self._open(_Call("watch", "GET", path, query), None, _WATCH_LIMITS) as response:
                self._count("watch", response.status)
                if response.status >= 400:
                    raise _refused("watch", path, response.status, await response.read())
                while line := await response.content.readline(max_line_length=_EVENT_BYTES):
                    event = _decode(line)
                    if event["type"] == "ERROR":
                        raise ApiError(event["object"].get("code", 500), event["object"].get("reason", ""), path)
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
            raise ApiError(_UNREACHABLE, type(error).__name__, f"watch {path}") from None

    async def apply(self, path: str, body: Raw, *, is_status: bool = False) -> Raw:
        """Server-side apply of an object: its fields become ours. Equal content changes nothing."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        where = f"{path}/status" if is_status else path
        return await self._json(
            _Call("apply_status" if is_status else "apply", "PATCH", where, query, body, is_fenced=True)
        )

    async def create(self, path: str, body: Raw, *, attempts: int = _ATTEMPTS, is_fenced: bool = True) -> Raw:
        """A new object; 409 where it is there."""
        query = {"fieldManager": FIELD_MANAGER}
        return await self._json(_Call("create", "POST", path, query, body, attempts, is_fenced))

    async def replace(self, path: str, body: Raw, *, attempts: int = _ATTEMPTS) -> Raw:
        """An object anew, of the ``resourceVersion`` in the body; 409 where that is not the newest."""
        return await self._json(_Call("replace", "PUT", path, {"fieldManager": FIELD_MANAGER}, body, attempts))

    async def delete(self, path: str, uid: str) -> None:
        """Delete this very object; one that is gone, or another one of its name, is left alone."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}}
        try:
            await self._json(_Call("delete", "DELETE", path, {}, body, is_fenced=True))
        except ApiError as error:
            if error.status not in {404, 409}:
                raise

    async def _json(self, call: _Call) -> Raw:
        found = _decode(await self._request(call))
        assert isinstance(found, dict)
        return found

    async def _request(self, call: _Call) -> bytes:
        verb, path, attempts = call.verb, call.path, call.attempts
        content = msgspec.json.encode(call.body) if call.body is not None else None
        for attempt in range(1, attempts + 1):
            self._refuse_unless_leader(call)
            try:
                async with self._open(call, content, _LIMITS) as response:
                    answer: bytes = await response.read()
                    self._count(verb, response.status)
                    if response.status < 400:
                        return answer
                    failure = _refused(verb, path, response.status, answer)
                    wait = _retry_after(response.headers)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._count(verb, _UNREACHABLE)
                failure, wait = ApiError(_UNREACHABLE, type(error).__name__, f"{verb} {path}"), 0.0
            if failure.status == 401:
                self._read_at = 0.0
            elif failure.status not in _RETRIED and failure.status != _UNREACHABLE:
                raise failure
            if attempt == attempts:
                raise failure
            backoff = 0.2 * 2.0**attempt * (0.5 + random.random())  # noqa: S311 - jitter
            await asyncio.sleep(max(backoff, min(wait, _MOST_WAIT_SECONDS)))
        raise AssertionError("unreachable")

    def _refuse_unless_leader(self, call: _Call) -> None:
        if call.is_fenced and not self.may_write():
            raise ApiError(_UNREACHABLE, "NotLeader", f"{call.verb} {call.path}", "the Lease is not held")

    async def _on_connected(self, _: object, context: types.SimpleNamespace, __: object) -> None:
        """A request that had to wait for its connection is asked once more before it is sent."""
        self._refuse_unless_leader(context.trace_request_ctx)

    def _open(self, call: _Call, content: bytes | None, limits: aiohttp.ClientTimeout) -> Any:
        assert self._session is not None
        now = asyncio.get_running_loop().time()
        if not self._read_at or now - self._read_at > _TOKEN_SECONDS:
            self._headers = self._load().as_http_headers()
            self._read_at = now
        headers = {**self._headers, **(_APPLY if call.method == "PATCH" else _JSON)}
        url = yarl.URL(f"{self._server}{call.path}").with_query(dict(call.parameters))
        return self._session.request(
            call.method, url, data=content, headers=headers, timeout=limits, trace_request_ctx=call
        )


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else 0.0


def _refused(verb: str, path: str, status: int, answer: bytes) -> ApiError:
    """Of Secrets the server's words are not repeated."""
    try:
        told = _decode_status(answer)
    except msgspec.MsgspecError:
        told = _Status()
    message = "" if "/secrets" in path else told.message[:500]
    return ApiError(status, told.reason, f"{verb} {path}", message)
