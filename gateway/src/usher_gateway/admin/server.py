"""The admin port: who may ask what, and where it is answered."""

from collections.abc import Awaitable, Callable
from typing import Self

import prometheus_client
from aiohttp import web

from usher_gateway import settings
from usher_gateway.admin import audit, changes, listings, problems, state, usage
from usher_gateway.admin import context as contexts
from usher_gateway.admin.tokens import Role

_MAX_BODY_BYTES = 64 * 1024

_Answer = Callable[[contexts.AdminContext, web.Request], Awaitable[web.StreamResponse]]


async def _healthz(_: contexts.AdminContext, __: web.Request) -> web.StreamResponse:
    """Alive: never touches the store, so that a slow disk gets nobody killed."""
    return web.Response(text="ok\n")


async def _readyz(context: contexts.AdminContext, _: web.Request) -> web.StreamResponse:
    reasons = context.ready()
    return problems.answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


async def _metrics(context: contexts.AdminContext, _: web.Request) -> web.StreamResponse:
    body = prometheus_client.generate_latest(context.registry)
    return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})


ROUTES: tuple[tuple[str, str, Role, _Answer], ...] = (
    ("GET", "/healthz", Role.Anybody, _healthz),
    ("GET", "/readyz", Role.Anybody, _readyz),
    ("GET", "/metrics", Role.Anybody, _metrics),
    ("GET", "/api/config", Role.Observe, state.config),
    ("GET", "/api/listeners", Role.Observe, state.listeners),
    ("GET", "/api/destinations", Role.Observe, state.destinations),
    ("GET", "/api/usage", Role.Observe, usage.usage),
    ("GET", "/api/usage/check", Role.Observe, usage.check),
    ("GET", "/api/visits", Role.Observe, listings.visits),
    ("GET", "/api/visits/{id}/body", Role.Operate, listings.body),
    ("POST", "/api/visits/replay", Role.Operate, changes.replay),
    ("GET", "/api/deliveries", Role.Observe, listings.deliveries),
    ("GET", "/api/deliveries/{id}/answer", Role.Operate, listings.answer),
    ("POST", "/api/deliveries/redrive", Role.Operate, changes.redrive),
    ("GET", "/api/quarantine", Role.Observe, listings.quarantine),
    ("POST", "/api/quarantine/release", Role.Operate, changes.release),
)
"""Method, path, who may ask, who answers. docs/api.md has the same list."""


def make_application(context: contexts.AdminContext) -> web.Application:
    """The admin port's application."""
    application = web.Application(middlewares=[problems.map_errors], client_max_size=_MAX_BODY_BYTES)
    for method, path, role, answer in ROUTES:
        application.router.add_route(method, path, _guard(context, role, answer))
    return application


def _guard(context: contexts.AdminContext, role: Role, answer: _Answer) -> problems.Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        if role is not Role.Anybody:
            proven = context.tokens.role_of(request.headers.get("Authorization", ""))
            if proven is Role.Anybody:
                raise problems.ProblemError(
                    401,
                    "Unauthenticated",
                    "a bearer token is needed",
                    "it is in observe.token or operate.token in --data",
                )
            if proven < role:
                raise problems.ProblemError(
                    403, "Forbidden", "the observe token may only look", "use the one in operate.token"
                )
            request[audit.WHO] = proven.name.lower()
        return await answer(context, request)

    return handle


class AdminServer:
    """The admin port, for the time of an ``async with`` block."""

    def __init__(self, context: contexts.AdminContext, host: str, port: int) -> None:
        self._context, self._host = context, host
        self.port = port
        """As asked for; once started, the one that is listened on."""
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(make_application(self._context), access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise settings.cannot_listen("--admin", settings.Endpoint(self._host, self.port), error) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
