"""The handler that sends a sample visit to a destination."""

import msgspec
from aiohttp import web

from usher_gateway import documents
from usher_gateway.access.problem import ProblemError
from usher_gateway.admin import api, name_check
from usher_gateway.admin.parts import Parts
from usher_gateway.delivery import sample
from usher_gateway.ingest import routing
from usher_gateway.store.base import Filter


class _SampleQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    destination: str
    """``namespace/name``."""
    listener: str | None = None
    route: str | None = None
    body: str | None = None
    """The body to send; None: a visit by a person who does not exist."""


async def send_sample(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``POST /api/destinations/test``: send a sample, and return the request and the answer."""
    with api.parsing():
        question = api.decode(await request.read(), _SampleQuestion, "a question with a destination")
        where = api.filter_from_selection(
            api.Selection(destination=question.destination, listener=question.listener, route=question.route)
        )
    where = await name_check.check_names(parts, where)
    destination = str(where.destination)
    document = parts.state.snapshot.destinations.get(destination)
    if document is None:
        detail = f"the destination `{destination}` is not in force any more"
        raise ProblemError(404, "NotInForce", detail, "apply it again, or choose another one")
    listener_and_route = _find_route(parts, where)
    if listener_and_route is None and (question.listener or question.route):
        detail = f"no such route leads to the destination `{destination}`"
        raise ProblemError(404, "NotInForce", detail, "`usher listeners` shows the routes")
    definition = routing.definition_of(*listener_and_route, document) if listener_and_route is not None else None
    body = sample.VISIT if question.body is None else question.body.encode()
    await parts.audit.record_before_answer(api.actor_of(request), "test destination", {"destination": destination}, 1)
    try:
        result = await parts.sample_sender.send(destination, definition, body)
    except sample.SampleError as error:
        raise ProblemError(409, "NotSent", str(error), error.hint) from error
    reasons = _not_sent_because(parts, *listener_and_route) if listener_and_route is not None else []
    return api.json_response({**msgspec.to_builtins(result), "notSentBecause": reasons})


def _not_sent_because(parts: Parts, listener: documents.ListenerDocument, route: documents.Route) -> list[str]:
    """Return why a route sends no visits now: its state, and why its deliveries are held."""
    name = listener.listener_name
    states = [] if route.state == "Active" else [route.state]
    return [
        *states,
        *[held_route.reason for held_route in parts.held_routes.of(name) if held_route.route == route.name],
    ]


def _find_route(parts: Parts, where: Filter) -> tuple[documents.ListenerDocument, documents.Route] | None:
    """Return the first route to the destination, of a listener and with a name if they are given."""
    for _, listener in sorted(parts.state.snapshot.listeners.items()):
        if where.listener not in {None, listener.name}:
            continue
        for route in listener.routes:
            if route.destination == where.destination and where.route in {None, route.name}:
                return listener, route
    return None
