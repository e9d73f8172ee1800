"""Checks the names in a question, because a mistyped tenant would otherwise give an empty bill.

A name exists if it is in the configuration in force or in the store, whose rows outlive their resources.
"""

from collections.abc import Iterable

import msgspec

from usher_gateway import model
from usher_gateway.access.problem import ProblemError
from usher_gateway.admin.parts import Parts
from usher_gateway.resources import conditions
from usher_gateway.store.base import Filter

_SHOWN_CANDIDATES = 5


async def check_names(parts: Parts, where: Filter) -> Filter:
    """Check that every name in a filter exists, or existed; return it with the destination's ``namespace/name``.

    Raises:
        ProblemError: 404; the hint has the name that was probably meant. 400: several destinations have the name.
    """
    if not (where.namespace or where.tenant or where.listener or where.route or where.destination):
        return where
    permitted = Filter(permitted=where.permitted)
    snapshot = parts.state.snapshot
    routes = [route for route in parts.store.routes() if _is_permitted(permitted, route.listener)]
    in_force = {document.listener_name: document for document in snapshot.listeners.values()}
    names = {*in_force, *await parts.store.listener_names()}
    listeners = {name for name in names if _is_permitted(permitted, name)}
    destinations = {route.destination for route in routes}
    destinations |= {route.destination for name in listeners & in_force.keys() for route in in_force[name].routes}
    if where.permitted is None:
        destinations |= snapshot.destinations.keys()
    namespaces = {listener.namespace for listener in listeners} | {key.partition("/")[0] for key in destinations}
    _check_name("namespace", where.namespace, namespaces)
    inside = {listener for listener in listeners if where.namespace in {None, listener.namespace}}
    _check_name("tenant", where.tenant, {listener.tenant for listener in inside})
    inside = {listener for listener in inside if where.tenant in {None, listener.tenant}}
    _check_name("listener", where.listener, {listener.listener for listener in inside})
    route_names = {route.route for route in routes}
    route_names |= {route.name for name in listeners & in_force.keys() for route in in_force[name].routes}
    _check_name("route", where.route, route_names)
    destination = _with_namespace(where.destination, destinations)
    if destination is not None and "/" not in destination:  # no destination has this name without a namespace
        destinations = {key.partition("/")[2] for key in destinations}
    _check_name("destination", destination, destinations)
    return msgspec.structs.replace(where, destination=destination)


def _is_permitted(permitted: Filter, listener: model.ListenerName) -> bool:
    return permitted.selects(listener.namespace, listener.tenant)


def _with_namespace(destination: str | None, existing: Iterable[str]) -> str | None:
    """Return the ``namespace/name`` for the only destination that has a name; other names as they are."""
    if destination is None or "/" in destination:
        return destination
    candidates = sorted(key for key in existing if key.partition("/")[2] == destination)
    if len(candidates) > 1:
        hint = f"give one of {', '.join(candidates[:_SHOWN_CANDIDATES])}"
        raise ProblemError(400, "BadRequest", f"{len(candidates)} destinations have the name `{destination}`", hint)
    return candidates[0] if candidates else destination


_LISTED_BY = {what: f"`usher {what}s` lists them" for what in ("tenant", "listener", "destination")}


def _check_name(what: str, name: str | None, existing: Iterable[str]) -> None:
    if name is None or name in existing:
        return
    hint = conditions.did_you_mean(name, existing) or _LISTED_BY.get(what, "")
    raise ProblemError(404, "UnknownName", f"there is no {what} `{name}`", hint)
