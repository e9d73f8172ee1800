"""``/api/config``, ``/api/listeners``, ``/api/destinations``: what runs, without secrets."""

from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.admin import context as contexts
from usher_gateway.admin import problems, usage
from usher_gateway.ingest import find
from usher_gateway.store.base import Filter

_DAY = 86_400 * model.MICROSECONDS


async def config(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/config``: everything, or what changed ``since`` an earlier answer's cursor."""
    return problems.answer(context.config_state(request.query.get("since")))


async def listeners(context: contexts.AdminContext, _: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/listeners``: each listener in force, with what it counted today (UTC)."""
    today = context.now() // _DAY * _DAY
    found = await context.store.usage(today, today + _DAY, Filter(), "day")
    counts = {row.listener: usage.total_of([row]) for row in found}
    states = context.listeners_state()
    rows = [
        {**listener_row(live), **states.get(key, {}), "today": counts.get(live.name, usage.total_of([]))}
        for key, live in sorted(context.listeners().items())
    ]
    return problems.answer({"rows": rows})


def listener_row(live: find.LiveListener) -> dict[str, object]:
    """What may be shown of a listener: its URLs are credentials, so their secret parts are cut."""
    document = live.document
    return {
        "namespace": document.namespace,
        "name": document.name,
        "tenant": document.tenant.name,
        "state": "Suspended" if document.tenant.state == "Suspended" else document.state,
        "generation": document.generation,
        "addresses": [documents.shorten_url(one.url).removeprefix("https://") for one in document.addresses],
        "routes": [
            {"name": route.name, "destination": route.destination, "state": route.state} for route in document.routes
        ],
    }


async def destinations(context: contexts.AdminContext, _request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/destinations``: those in force, and those that deliveries still wait for."""
    store = context.store
    backlogs = {backlog.destination: backlog for backlog in await store.backlogs()}
    held: dict[str, dict[str, int]] = {}
    for group in await store.held_groups():
        reasons = held.setdefault(store.route(group.route).destination, {})
        reasons[group.reason.name] = reasons.get(group.reason.name, 0) + group.count
    states = context.destinations_state()
    rows = []
    for key in sorted(states.keys() | backlogs.keys() | held.keys()):
        namespace, _, name = key.partition("/")
        waiting = backlogs.get(key)
        rows.append(
            {
                "namespace": namespace,
                "name": name,
                **states.get(key, {"state": "NotFound"}),
                "backlog": waiting.count if waiting else 0,
                "nextDueAt": model.format_time(waiting.next_due_at) if waiting else None,
                "held": held.get(key, {}),
            }
        )
    return problems.answer({"rows": rows})
