"""The HTTP server of the admin port, which checks the token of each request before its handler."""

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, Self, TypeVar

from aiohttp import web

from usher_gateway import settings
from usher_gateway.admin import api
from usher_gateway.admin.kubernetes_tokens import KubernetesTokens
from usher_gateway.admin.tokens import OBSERVE, Caller, Scope, TokenBook

_MAX_BODY_BYTES = 64 * 1024

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
        raise api.ProblemError(403, "SentByGateway", "the admin port takes no deliveries", hint)


def _check_encoding(request: web.Request) -> None:
    """Refuse a compressed body: aiohttp would answer 500 to one that does not inflate."""
    if "Content-Encoding" in request.headers:
        raise api.ProblemError(400, "BadRequest", "the body has a Content-Encoding", "send it without one")


class AdminServer:
    """Serves the admin port during an ``async with`` block.

    It answers only requests that name it by an IP address, ``localhost`` or one of ``hosts``. Otherwise a web page
    could point its own name at this port, and read it through the browser of a user (DNS rebinding).
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
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The address of the port from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._endpoint.host, self._endpoint.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        application = web.Application(middlewares=[api.map_errors], client_max_size=_MAX_BODY_BYTES)
        for route in self._routes:
            application.router.add_route(route.method, route.path, self._guard(route))
        self._runner = web.AppRunner(application, access_log=None, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._endpoint.host, self._endpoint.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise settings.cannot_listen("--admin", self._endpoint, error) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _guard(self, route: AdminRoute[api.Handler]) -> api.Handler:
        """Return a handler that checks the caller's token before it calls the route's handler."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self._check_host(request.headers.get("Host", ""))
            _check_sender(request)
            _check_encoding(request)
            if route.scope is not None:
                request[api.CALLER] = await self._authenticate(request, route.scope, is_confined=route.is_confined)
                if route.parameters is not None:
                    api.check_parameters(request, route.parameters)
            return await route.handler(request)

        return handle

    def _check_host(self, given: str) -> None:
        """Refuse a host that is not allowed. A browser always sends its name, so a request without it is harmless."""
        host = re.sub(r":\d{0,5}$", "", given) if given.rpartition("]")[2].count(":") == 1 else given
        host = host.removeprefix("[").removesuffix("]").lower()
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if host and host not in self._hosts:
                hint = f"use an IP address, or start the gateway with --admin-host {host}"
                raise api.ProblemError(421, "MisdirectedRequest", "the admin port has another name", hint) from None

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
            raise api.ProblemError(401, "Unauthenticated", "a valid bearer token is needed", hint)
        if scope not in caller.scopes:
            detail = f"the token `{caller.name}` may not do this: it lacks the scope {scope.value}"
            hint = f"ask who gave you this token for one with the scope {scope.value}"
            if caller.name == OBSERVE:
                hint = "use the one in operate.token"
            raise api.ProblemError(403, "Forbidden", detail, hint)
        if caller.permitted is not None and not is_confined:
            detail = f"the token `{caller.name}` is limited to some tenants, and this request is about all"
            raise api.ProblemError(403, "Forbidden", detail, "use a token without a limit")
        return caller
