"""The admin port's routes: which scope and which parameters each one has, and the function that answers it."""

import functools
from collections.abc import Awaitable, Callable

from aiohttp import web

from usher_gateway.access.problem import ProblemError
from usher_gateway.access.tokens import Scope
from usher_gateway.admin import (
    api,
    changes,
    erasures,
    links,
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
from usher_gateway.admin.parts import Parts
from usher_gateway.admin.server import AdminRoute
from usher_gateway.words import listings

PartsHandler = Callable[[Parts, web.Request], Awaitable[web.StreamResponse]]

_TENANTS = frozenset({"namespace", "tenant"})
_LISTENERS = _TENANTS | {"listener"}
_PERIOD = frozenset({"from", "to"})
_IDS = frozenset({"id", "limit"})
_AUDIT = frozenset({"since", "until", "who", "action", "reference", "tenant", "limit", "cursor"})


async def _show_health(*_: object) -> web.StreamResponse:
    """Answer that the process is alive. It never touches the store, so that a slow disk does not cause a restart."""
    return web.Response(text="ok\n")


async def _show_caller(_: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/whoami``: the name, the scopes and the limits of the caller's token."""
    caller = request[api.CALLER]
    is_known, permitted = not caller.has_unknown_scopes, caller.permitted
    answer = {
        "name": caller.name,
        "scopes": sorted(caller.scopes) if is_known else None,
        "permitted": sorted(permitted) if permitted is not None and is_known else None,
    }
    return api.json_response(answer)


# Every route except the pages' routes. docs/api.md has the same list.
ROUTES: tuple[AdminRoute[PartsHandler], ...] = (
    AdminRoute("GET", "/healthz", None, _show_health),
    AdminRoute("GET", "/readyz", None, status.readyz),
    AdminRoute("GET", "/metrics", None, lambda parts, request: parts.metrics_page.show(request)),
    AdminRoute("GET", "/api/whoami", Scope.StatusRead, _show_caller, is_confined=True),
    AdminRoute("GET", "/api/config", Scope.StatusRead, status.show_config, parameters=frozenset({"since"})),
    AdminRoute(
        "GET", "/api/listeners", Scope.StatusRead, status.list_listeners, is_confined=True, parameters=_LISTENERS
    ),
    AdminRoute("GET", "/api/listeners/{namespace}/{name}/urls", Scope.UrlsRead, urls.show, is_confined=True),
    AdminRoute(
        "GET",
        "/api/tenants",
        Scope.StatusRead,
        status.list_tenants,
        is_confined=True,
        parameters=_TENANTS | {*tenant_rows.PARAMETERS},
    ),
    AdminRoute(
        "GET", "/api/destinations", Scope.VisitsRead, status.list_destinations, is_confined=True, parameters=_TENANTS
    ),
    AdminRoute("POST", "/api/destinations/test", Scope.DeliveriesWrite, samples.send_sample),
    AdminRoute("POST", "/api/try", Scope.VisitsTry, tries.run, is_confined=True),
    AdminRoute(
        "GET",
        "/api/usage",
        Scope.StatusRead,
        usage.show_usage,
        is_confined=True,
        parameters=_LISTENERS | _PERIOD | {"by", "zone", "together"},
    ),
    AdminRoute("GET", "/api/usage/check", Scope.StatusRead, usage.check_books, parameters=_PERIOD),
    *[
        AdminRoute[PartsHandler](
            "GET",
            listing.path,
            Scope.VisitsRead,
            functools.partial(records.list_rows, listing),
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
        "GET", "/api/persons/erasures", Scope.PersonsErase, erasures.list_erasures, is_confined=True, parameters=_IDS
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
    AdminRoute("GET", "/api/audit", Scope.AuditRead, records.list_audit_entries, parameters=_AUDIT),
    AdminRoute("GET", "/api/links", Scope.LinksWrite, links.list_links, is_confined=True),
    AdminRoute("POST", "/api/links", Scope.LinksWrite, links.create, is_confined=True),
    AdminRoute("POST", "/api/links/{id}/revoke", Scope.LinksWrite, links.revoke, is_confined=True),
    AdminRoute("GET", "/api/replays", Scope.VisitsRead, replays.list_replays, is_confined=True, parameters=_IDS),
    AdminRoute("POST", "/api/replays", Scope.DeliveriesWrite, replays.start, is_confined=True),
    AdminRoute("GET", "/api/replays/{id}", Scope.VisitsRead, replays.show, is_confined=True),
    AdminRoute("POST", "/api/replays/{id}/cancel", Scope.DeliveriesWrite, replays.cancel, is_confined=True),
    AdminRoute("POST", "/api/replays/{id}/resume", Scope.DeliveriesWrite, replays.resume, is_confined=True),
)


def make_routes(parts: Parts) -> tuple[AdminRoute[api.Handler], ...]:
    """Return the routes with handlers that take only the request."""
    return tuple(
        [
            AdminRoute(method, path, scope, functools.partial(handler, parts), is_confined, parameters)
            for method, path, scope, handler, is_confined, parameters in ROUTES
        ]
    )


def make_waiting_routes(reason: Callable[[], str]) -> tuple[AdminRoute[api.Handler], ...]:
    """Return the routes for a gateway that waits for its database: alive, and not ready for a reason."""

    async def readyz(_: web.Request) -> web.StreamResponse:
        answer = {"ready": False, "reasons": [f"the store is away: {reason()}"], "warnings": []}
        return api.json_response(answer, 503)

    async def refuse(_: web.Request) -> web.StreamResponse:
        hint = "the gateway tries again every few seconds; its log says why it waits"
        raise ProblemError(503, "StoreUnavailable", f"the gateway waits for its store: {reason()}", hint)

    return (
        AdminRoute("GET", "/healthz", None, _show_health),
        AdminRoute("GET", "/readyz", None, readyz),
        AdminRoute("*", "/api/{path:.*}", Scope.StatusRead, refuse, is_confined=True, parameters=None),
    )
