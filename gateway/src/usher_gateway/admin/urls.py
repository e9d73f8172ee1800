"""The handler that shows a listener's whole URLs, which are credentials."""

from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api
from usher_gateway.admin.parts import Parts
from usher_gateway.store.base import Filter


async def show(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/listeners/{namespace}/{name}/urls`` with the URLs of a listener in force that are not retired.

    A listener that the caller may not see gets the same answer as one that does not exist.
    """
    key = f"{request.match_info['namespace']}/{request.match_info['name']}"
    listener = parts.state.snapshot.listeners.get(key)
    permitted = api.confine(request, Filter())
    if listener is None or not permitted.selects(listener.namespace, listener.tenant.name):
        raise model.NotFoundError("there is no such listener in force", "`usher listeners` shows them")
    looked_at = {"listener": key, "tenant": listener.tenant.name}
    await parts.audit.record_before_answer(api.actor_of(request), "show urls", looked_at, len(listener.live_addresses))
    rows = [
        {"url": address.url, "action": address.action, "until": model.time_or_none(address.until)}
        for address in listener.live_addresses
    ]
    return api.json_response({"rows": rows})
