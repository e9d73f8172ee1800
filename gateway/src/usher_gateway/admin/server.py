"""The admin port: its routes, which role each one needs, the page of metrics, and the HTTP server."""

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Self

import prometheus_client
from aiohttp import web

from usher_gateway import metrics, settings, timing
from usher_gateway.admin import (
    api,
    audit,
    changes,
    erasures,
    links,
    listings,
    persons,
    records,
    replays,
    samples,
    status,
    tenant_rows,
    tries,
    urls,
    usage,
)
from usher_gateway.admin.kubernetes_tokens import KubernetesTokens
from usher_gateway.admin.tokens import OBSERVE, Caller, Scope, TokenBook

_MAX_BODY_BYTES = 64 * 1024

_METRICS_SHARE = 0.1
"""The share of a core that ``/metrics`` may take. With 2,000 tenants a text is kept for about half a second."""


class MetricsPage:
    """The text of ``/metrics``, which needs no token and is expensive with many tenants.

    One text is made at a time, and requests meanwhile and for a while after it get the same one. So the requests of a
    stranger take at most ``_METRICS_SHARE`` of a core from arrivals.

    Args:
        collect: yields families. It runs on the event loop, because other threads could see values change.
        now: returns monotonic seconds.
    """

    def __init__(self, collect: Callable[[], metrics.Metrics], now: Callable[[], float] = time.monotonic) -> None:
        self._collect = collect
        self._now = now
        self._making = asyncio.Lock()
        """Held while the page is made, so that concurrent requests get the same page."""
        self._text = b""
        self._kept_until = 0.0

    async def show(self, _: web.Request) -> web.StreamResponse:
        """Answer ``GET /metrics``."""
        async with self._making:
            if self._now() >= self._kept_until:
                await self._make()
        return web.Response(body=self._text, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    async def _make(self) -> None:
        families: list[metrics.Family] = []
        turns = timing.EventLoopTurns()
        for family in self._collect():
            families.append(family)
            await turns.give_way()
        # with 2,000 tenants this takes 25 ms, in which arrivals must not wait
        self._text, writing = await asyncio.to_thread(_write, families)
        self._kept_until = self._now() + (turns.used_seconds + writing) / _METRICS_SHARE


def _write(families: list[metrics.Family]) -> tuple[bytes, float]:
    """Return the metrics as text, and the seconds of CPU time that this took."""
    started = time.thread_time()
    text = (metrics.process_text() + metrics.write(families)).encode()
    return text, time.thread_time() - started


_TENANTS = frozenset({"namespace", "tenant"})
_LISTENERS = _TENANTS | {"listener"}
_PERIOD = frozenset({"from", "to"})
_IDS = frozenset({"id", "limit"})
_AUDIT = frozenset({"since", "until", "who", "action", "reference", "tenant", "limit", "cursor"})


class AdminRoute(NamedTuple):
    """One request that the admin port answers."""

    method: str
    path: str
    scope: Scope | None
    """The scope that the caller's token must have; None: anybody may call it."""
    handler: api.Handler
    is_confined: bool = False
    """The handler shows and changes only the tenants that the caller's token permits. Others refuse a limited token."""
    parameters: frozenset[str] | None = frozenset()
    """Names that the query of a request with a scope may have; None: any."""


def make_routes(  # noqa: PLR0913 - one argument for each group of requests
    *,
    status: status.GatewayStatus,
    usage: usage.UsageHandlers,
    records: records.RecordHandlers,
    changes: changes.ChangeHandlers,
    replays: replays.ReplayHandlers,
    audit: audit.AuditLog,
    persons: persons.PersonHandlers,
    erasures: erasures.ErasureHandlers,
    samples: samples.SampleHandlers,
    tries: tries.TryHandlers,
    urls: urls.UrlHandlers,
    links: links.LinkHandlers,
    metrics_page: MetricsPage,
) -> tuple[AdminRoute, ...]:
    """Return every route of the admin port. docs/api.md has the same list."""
    return (
        AdminRoute("GET", "/healthz", None, _healthz),
        AdminRoute("GET", "/readyz", None, status.readyz),
        AdminRoute("GET", "/metrics", None, metrics_page.show),
        AdminRoute("GET", "/api/whoami", Scope.StatusRead, _whoami, is_confined=True),
        AdminRoute("GET", "/api/config", Scope.StatusRead, status.config, parameters=frozenset({"since"})),
        AdminRoute(
            "GET", "/api/listeners", Scope.StatusRead, status.listeners, is_confined=True, parameters=_LISTENERS
        ),
        AdminRoute("GET", "/api/listeners/{namespace}/{name}/urls", Scope.UrlsRead, urls.show, is_confined=True),
        AdminRoute(
            "GET",
            "/api/tenants",
            Scope.StatusRead,
            status.tenants,
            is_confined=True,
            parameters=_TENANTS | {*tenant_rows.PARAMETERS},
        ),
        AdminRoute(
            "GET", "/api/destinations", Scope.VisitsRead, status.destinations, is_confined=True, parameters=_TENANTS
        ),
        AdminRoute("POST", "/api/destinations/test", Scope.DeliveriesWrite, samples.test),
        AdminRoute("POST", "/api/try", Scope.VisitsTry, tries.run, is_confined=True),
        AdminRoute(
            "GET",
            "/api/usage",
            Scope.StatusRead,
            usage.usage,
            is_confined=True,
            parameters=_LISTENERS | _PERIOD | {"by", "zone", "format"},
        ),
        AdminRoute(
            "GET",
            "/api/usage/totals",
            Scope.StatusRead,
            usage.totals,
            is_confined=True,
            parameters=_LISTENERS | _PERIOD | {"by", "zone"},
        ),
        AdminRoute(
            "GET",
            "/api/usage/venues",
            Scope.StatusRead,
            usage.venues,
            is_confined=True,
            parameters=_LISTENERS | _PERIOD | {"zone"},
        ),
        AdminRoute("GET", "/api/usage/check", Scope.StatusRead, usage.check, parameters=_PERIOD),
        *[
            AdminRoute(
                "GET",
                listing.path,
                Scope.VisitsRead,
                records.lister(listing),
                is_confined=True,
                parameters=listing.parameters,
            )
            for listing in listings.ENDPOINTS
        ],
        AdminRoute("POST", "/api/persons/find", Scope.PersonsFind, persons.find, is_confined=True),
        AdminRoute("POST", "/api/persons/export", Scope.PersonsExport, persons.export, is_confined=True),
        AdminRoute("POST", "/api/persons/erase", Scope.PersonsErase, erasures.erase, is_confined=True),
        AdminRoute("POST", "/api/persons/suppress", Scope.PersonsErase, persons.suppress, is_confined=True),
        AdminRoute("POST", "/api/persons/unsuppress", Scope.PersonsErase, persons.unsuppress, is_confined=True),
        AdminRoute("GET", "/api/persons/suppressions", Scope.PersonsErase, persons.list_suppressions, is_confined=True),
        AdminRoute(
            "GET", "/api/persons/erasures", Scope.PersonsErase, erasures.list, is_confined=True, parameters=_IDS
        ),
        AdminRoute("GET", "/api/persons/erasures/{id}", Scope.PersonsErase, erasures.show, is_confined=True),
        AdminRoute("POST", "/api/persons/erasures/{id}/cancel", Scope.PersonsErase, erasures.cancel, is_confined=True),
        AdminRoute(
            "GET",
            "/api/deliveries/delivered",
            Scope.StatusRead,
            records.count_delivered,
            is_confined=True,
            parameters=_TENANTS,
        ),
        AdminRoute(
            "GET",
            "/api/visits/initials",
            Scope.VisitsInitials,
            records.list_initials,
            is_confined=True,
            parameters=_LISTENERS,
        ),
        AdminRoute("GET", "/api/visits/{id}/body", Scope.BodiesRead, records.show_body, is_confined=True),
        AdminRoute("GET", "/api/visits/{id}/story", Scope.VisitsRead, records.show_story, is_confined=True),
        AdminRoute("GET", "/api/visits/{id}/reading", Scope.VisitsRead, records.show_reading, is_confined=True),
        AdminRoute("GET", "/api/deliveries/{id}/attempts", Scope.VisitsRead, records.list_attempts, is_confined=True),
        AdminRoute("GET", "/api/deliveries/{id}/answer", Scope.BodiesRead, records.show_answer, is_confined=True),
        AdminRoute("POST", "/api/deliveries/redrive", Scope.DeliveriesWrite, changes.redrive, is_confined=True),
        AdminRoute("POST", "/api/deliveries/cancel", Scope.DeliveriesWrite, changes.cancel, is_confined=True),
        AdminRoute("POST", "/api/deliveries/retry", Scope.DeliveriesWrite, changes.retry, is_confined=True),
        AdminRoute("POST", "/api/quarantine/release", Scope.DeliveriesWrite, changes.release, is_confined=True),
        AdminRoute("GET", "/api/audit", Scope.AuditRead, audit.list_entries, parameters=_AUDIT),
        AdminRoute("GET", "/api/links", Scope.LinksWrite, links.list, is_confined=True),
        AdminRoute("POST", "/api/links", Scope.LinksWrite, links.create, is_confined=True),
        AdminRoute("POST", "/api/links/{id}/revoke", Scope.LinksWrite, links.revoke, is_confined=True),
        AdminRoute("GET", "/api/replays", Scope.VisitsRead, replays.list_replays, is_confined=True, parameters=_IDS),
        AdminRoute("POST", "/api/replays", Scope.DeliveriesWrite, replays.start, is_confined=True),
        AdminRoute("GET", "/api/replays/{id}", Scope.VisitsRead, replays.show, is_confined=True),
        AdminRoute("POST", "/api/replays/{id}/cancel", Scope.DeliveriesWrite, replays.cancel, is_confined=True),
        AdminRoute("POST", "/api/replays/{id}/resume", Scope.DeliveriesWrite, replays.resume, is_confined=True),
    )


def make_waiting_routes(reason: Callable[[], str]) -> tuple[AdminRoute, ...]:
    """Return the routes of a gateway that waits for its database: alive, and not ready for a reason."""

    async def readyz(_: web.Request) -> web.StreamResponse:
        answer = {"ready": False, "reasons": [f"the store is away: {reason()}"], "warnings": []}
        return api.json_response(answer, 503)

    async def refuse(_: web.Request) -> web.StreamResponse:
        hint = "the gateway tries again every few seconds; its log says why it waits"
        raise api.ProblemError(503, "StoreUnavailable", f"the gateway waits for its store: {reason()}", hint)

    return (
        AdminRoute("GET", "/healthz", None, _healthz),
        AdminRoute("GET", "/readyz", None, readyz),
        AdminRoute("*", "/api/{path:.*}", Scope.StatusRead, refuse, is_confined=True, parameters=None),
    )


def _check_sender(request: web.Request) -> None:
    """Refuse what a gateway sends to destinations: somebody who may write one could act here as a trusted proxy does.

    Each request to a destination has this header, and no Destination can set or remove it.

    Raises:
        ProblemError: a gateway sent the request.
    """
    if "webhook-id" in request.headers:
        hint = "let the Destination lead to another port"
        raise api.ProblemError(403, "SentByGateway", "the admin port takes no deliveries", hint)


def _check_encoding(request: web.Request) -> None:
    """Refuse a compressed body: aiohttp would answer 500 to one that does not inflate.

    Raises:
        ProblemError: the body is compressed.
    """
    if "Content-Encoding" in request.headers:
        raise api.ProblemError(400, "BadRequest", "the body has a Content-Encoding", "send it without one")


async def _healthz(_: web.Request) -> web.StreamResponse:
    """Answer that the process is alive. It never touches the store, so that a slow disk does not cause a restart."""
    return web.Response(text="ok\n")


async def _whoami(request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/whoami``: the name, the scopes and the limits of the caller's token."""
    caller = request[api.CALLER]
    is_known, permitted = not caller.has_unknown_scopes, caller.permitted
    answer = {
        "name": caller.name,
        "scopes": sorted(caller.scopes) if is_known else None,
        "permitted": sorted(permitted) if permitted is not None and is_known else None,
    }
    return api.json_response(answer)


class AdminServer:
    """Serves the admin port during an ``async with`` block.

    It answers only requests that name it by an IP address, ``localhost`` or one of ``hosts``. Otherwise a web page
    could point its own name at this port, and read it through the browser of a user (DNS rebinding).
    """

    def __init__(
        self,
        *,
        routes: tuple[AdminRoute, ...],
        tokens: TokenBook,
        endpoint: settings.Endpoint,
        hosts: tuple[str, ...] = (),
        kubernetes_tokens: KubernetesTokens | None = None,
    ) -> None:
        self._routes = routes
        self._tokens, self._kubernetes_tokens = tokens, kubernetes_tokens
        self._endpoint = endpoint
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost"}
        self.port = endpoint.port
        """The configured port; after the start, the port it listens on."""
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The address of the port from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._endpoint.host, self._endpoint.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(self._application(), access_log=None, auto_decompress=False)
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

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[api.map_errors], client_max_size=_MAX_BODY_BYTES)
        for route in self._routes:
            application.router.add_route(route.method, route.path, self._guard(route))
        return application

    def _guard(self, route: AdminRoute) -> api.Handler:
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
        """Check the Host field. A browser always sends it, so a request without it is harmless.

        Raises:
            ProblemError: it names a host that is not allowed.
        """
        host = re.sub(r":\d{0,5}$", "", given) if given.rpartition("]")[2].count(":") == 1 else given
        host = host.removeprefix("[").removesuffix("]").lower()
        try:
            ipaddress.ip_address(host)
        except ValueError:
            if host and host not in self._hosts:
                hint = f"use an IP address, or start the gateway with --admin-host {host}"
                raise api.ProblemError(421, "MisdirectedRequest", "the admin port has another name", hint) from None

    async def _authenticate(self, request: web.Request, scope: Scope, *, is_confined: bool) -> Caller:
        """Return the caller that the request's token proves.

        Raises:
            ProblemError: the request has no valid token, or its token does not permit this.
        """
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
