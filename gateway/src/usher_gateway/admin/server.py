"""The admin port's HTTP server, which checks each request's token before its handler.

The port limits what its callers can take from the gateway:

- Connections: the one that has waited longest for a request gives way to a new one (`ConnectionLimit`).
- Memory for answers: requests with a token take turns, shared fairly among the tenants that their tokens permit.
- Time: a reader that does not take its answer within ``_WRITE_SECONDS`` is disconnected.
"""

import asyncio
import contextlib
import gzip
import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import structlog
from aiohttp import web

from usher_gateway import model, settings
from usher_gateway.access.kubernetes_tokens import KubernetesTokens
from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import OBSERVE, Caller, Scope, TokenBook
from usher_gateway.admin import api
from usher_gateway.fair_pool import FairPool
from usher_gateway.ingest.connection_limit import ConnectionLimit, source_of

_log = structlog.get_logger(__name__)

_MAX_BODY_BYTES = 64 * 1024
_LEAST_COMPRESSED_BYTES = 4 * 1024

_CONNECTIONS, _CONNECTIONS_PER_SOURCE = 512, 256

_ANSWER_BYTES = 256 * 1024 * 1024  # Memory of all requests with a token that are at work

# Memory that a request may need: a list of 1,000 visits has 4 MB as JSON, and a body of 8 MiB may become 48 MiB. A try
# may take a minute, and its answer is small.
_REQUEST_BYTES = 16 * 1024 * 1024
_BYTES_BY_SCOPE = {
    Scope.VisitsTry: 2 * 1024 * 1024,
    Scope.BodiesRead: 32 * 1024 * 1024,
    Scope.PersonsExport: 128 * 1024 * 1024,
}

_TURN_SECONDS = 10.0  # How long a request waits for its turn
_WRITE_SECONDS = 30.0

HandlerT = TypeVar("HandlerT", bound=Callable[..., Awaitable[web.StreamResponse]])


class AdminRoute(NamedTuple, Generic[HandlerT]):
    """One request that the admin port answers."""

    method: str
    path: str
    scope: Scope | None
    """The scope that the caller's token must have; None: anybody may call it."""
    handler: HandlerT
    is_confined: bool = False
    """The handler shows and changes only the tenants that the caller's token permits. Others refuse a limited token."""
    parameters: frozenset[str] | None = frozenset()
    """Names that the query of a request with a scope may have; None: any."""


def _check_sender(request: web.Request) -> None:
    """Refuse what a gateway sends to destinations: somebody who may write one could act here as a trusted proxy does.

    Each request to a destination has this header, and no Destination can set or remove it.
    """
    if "webhook-id" in request.headers:
        hint = "let the Destination lead to another port"
        raise ProblemError(403, "SentByGateway", "the admin port takes no deliveries", hint)


def _check_encoding(request: web.Request) -> None:
    """Refuse a compressed body: aiohttp would answer 500 to one that does not inflate."""
    if "Content-Encoding" in request.headers:
        raise ProblemError(400, "BadRequest", "the body has a Content-Encoding", "send it without one")


async def _send(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Send an answer here and not after the handler, so that the limits hold until the reader has taken it."""
    if answer.content_type == "application/json" and isinstance(answer, web.Response) and api.accepts_gzip(request):
        await _compress(answer)
    try:
        async with asyncio.timeout(_WRITE_SECONDS):
            await answer.prepare(request)
            await answer.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return answer


async def _compress(answer: web.Response) -> None:
    """Compress a long answer, in a thread because 4 MB take 20 ms in which arrivals must not wait."""
    body = answer.body
    if isinstance(body, bytes) and len(body) >= _LEAST_COMPRESSED_BYTES:
        answer.body = await asyncio.to_thread(gzip.compress, body, 1)
        answer.headers["Content-Encoding"] = "gzip"


async def _drop_server_header(_: web.BaseRequest, answer: web.StreamResponse) -> None:
    """Name no versions of Python and aiohttp."""
    answer.headers.popall("Server", None)


class _Connection(web.RequestHandler):
    """aiohttp's connection, counted."""

    def __init__(self, limit: "ConnectionLimit[_Connection]", manager: web.Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._limit = limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count a new connection. If there are too many, the longest waiting one gives way; if none waits, this one."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        source = source_of(str(peer[0]) if peer else "")
        if self._limit.is_full(source):
            displaced = self._limit.longest_waiting(source)
            if displaced is None:
                self.force_close()
                return
            self._limit.remove(displaced)
            displaced.force_close()
        self._limit.add(self, source)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it may quote the request
    ) -> web.StreamResponse:
        """Answer what aiohttp cannot parse as a problem, and close the connection."""
        if status >= 500:
            _log.error("admin_request_failed", path="", error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is sent already")
        phrase = HTTPStatus(status).phrase
        answer = api.problem_response(ProblemError(status, phrase.replace(" ", ""), phrase))
        answer.headers["Server"] = "usher"  # without one, aiohttp adds its own to answers outside of its application
        answer.force_close()
        return answer

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._limit.remove(self)
        super().connection_lost(exc)


class AdminServer:
    """Serves the admin port during an ``async with`` block.

    It answers only requests that name it by an IP address, ``localhost`` or one of ``hosts``. Otherwise a web page
    could point its own name at this port, and read it through a user's browser (DNS rebinding).
    """

    def __init__(
        self,
        *,
        routes: tuple[AdminRoute[api.Handler], ...],
        tokens: TokenBook,
        endpoint: settings.Endpoint,
        hosts: tuple[str, ...] = (),
        kubernetes_tokens: KubernetesTokens | None = None,
    ) -> None:
        self._routes = routes
        self._tokens, self._kubernetes_tokens = tokens, kubernetes_tokens
        self._endpoint = endpoint
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost"}
        self.port = endpoint.port  # The configured port; after the start, the port it listens on
        self._limit: ConnectionLimit[_Connection] = ConnectionLimit(
            connections=_CONNECTIONS, per_source=_CONNECTIONS_PER_SOURCE
        )
        self._memory = FairPool(_ANSWER_BYTES)
        self._memory_freed = asyncio.Condition()
        self._stack = contextlib.AsyncExitStack()

    @property
    def url(self) -> str:
        """The port's address from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._endpoint.host, self._endpoint.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        application = web.Application(middlewares=[api.map_errors], client_max_size=_MAX_BODY_BYTES)
        application.on_response_prepare.append(_drop_server_header)
        for route in self._routes:
            application.router.add_route(route.method, route.path, self._guard(route))
        runner = web.AppRunner(application)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        manager, loop = runner.server, asyncio.get_running_loop()
        assert manager is not None

        def connection() -> _Connection:
            return _Connection(self._limit, manager, loop=loop, access_log=cast("Any", None), auto_decompress=False)

        try:
            listening = await loop.create_server(connection, self._endpoint.host, self._endpoint.port)
        except OSError as error:
            await self._stack.aclose()
            raise settings.cannot_listen("--admin", self._endpoint, error) from error
        self._stack.callback(listening.close)
        self.port = listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def _guard(self, route: AdminRoute[api.Handler]) -> api.Handler:
        """Return a handler that checks the caller's token before it calls the route's handler."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self._check_host(model.without_surrogates(request.headers.get("Host", "")))
            _check_sender(request)
            _check_encoding(request)
            if route.scope is None:
                return await _send(request, await route.handler(request))
            caller = request[api.CALLER] = await self._authenticate(request, route.scope, is_confined=route.is_confined)
            if route.parameters is not None:
                api.check_parameters(request, route.parameters)
            async with self._turn(caller, _BYTES_BY_SCOPE.get(route.scope, _REQUEST_BYTES)):
                return await _send(request, await route.handler(request))

        async def handle(request: web.Request) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, _Connection)
            self._limit.work(connection)
            try:
                return await answer(request)
            finally:
                self._limit.wait(connection, is_known=True)

        return handle

    @contextlib.asynccontextmanager
    async def _turn(self, caller: Caller, size: int) -> AsyncIterator[None]:
        """Wait until there is memory for the answer, and take it."""
        tenants = caller.tenants
        try:
            async with asyncio.timeout(_TURN_SECONDS), self._memory_freed:
                await self._memory_freed.wait_for(lambda: self._memory.admits(tenants, caller.name))
                self._memory.take(tenants, caller.name, size)
        except TimeoutError:
            detail = f"too many requests with the token `{caller.name}`, or for the same tenants, are at work"
            raise ProblemError(429, "TooManyRequests", detail, "send them one after the other") from None
        try:
            yield
        finally:
            self._memory.give_back(tenants, caller.name, size)
            async with self._memory_freed:
                self._memory_freed.notify_all()

    def _check_host(self, host_header: str) -> None:
        """Refuse a host that is not allowed. A browser always sends its name, so a request without it is harmless."""
        host = re.sub(r":\d{0,5}$", "", host_header) if host_header.rpartition("]")[2].count(":") == 1 else host_header
        host = host.removeprefix("[").removesuffix("]").lower()
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if host and host not in self._hosts:
                hint = f"use an IP address, or start the gateway with --admin-host {host}"
                raise ProblemError(421, "MisdirectedRequest", "the admin port has another name", hint) from None

    async def _authenticate(self, request: web.Request, scope: Scope, *, is_confined: bool) -> Caller:
        """Return the caller that the request's token proves, if the token permits the request."""
        authorization = request.headers.get("Authorization", "")
        caller = self._tokens.caller_of(authorization)
        if caller is None and self._kubernetes_tokens is not None:
            caller = await self._kubernetes_tokens.caller_of(authorization, scope)
        if caller is None:
            hint = "use the one in observe.token or operate.token in --data, or one of `usher tokens create`"
            if self._kubernetes_tokens is not None:
                hint += ", or one of Kubernetes that has not expired (`kubectl create token`)"
            raise ProblemError(401, "Unauthenticated", "a valid bearer token is needed", hint)
        if scope not in caller.scopes:
            detail = f"the token `{caller.name}` may not do this: it lacks the scope {scope.value}"
            hint = f"ask who gave you this token for one with the scope {scope.value}"
            if caller.name == OBSERVE:
                hint = "use the one in operate.token"
            raise ProblemError(403, "Forbidden", detail, hint)
        if caller.permitted is not None and not is_confined:
            detail = f"the token `{caller.name}` is limited to some tenants, and this request is about all"
            raise ProblemError(403, "Forbidden", detail, "use a token without a limit")
        return caller
