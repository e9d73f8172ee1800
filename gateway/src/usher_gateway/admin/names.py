"""Checks the names and reasons in a question, because a mistyped tenant would otherwise give an empty bill."""

from collections.abc import Awaitable, Callable, Iterable

from usher_gateway import documents, model
from usher_gateway.admin import api
from usher_gateway.resources import conditions
from usher_gateway.store.base import Filter
from usher_gateway.store.records import Records

CheckNames = Callable[[Filter], Awaitable[None]]
"""Raises ProblemError if a name of the filter does not exist and never did."""


class NameCheck:
    """Knows the names in the configuration in force and those in the store, whose rows outlive their resources.

    Args:
        store: the store.
        snapshot: returns the configuration in force.
    """

    def __init__(self, *, store: Records, snapshot: Callable[[], documents.Snapshot]) -> None:
        self._store = store
        self._snapshot = snapshot

    async def check(self, where: Filter) -> None:
        """Check that every name of a filter exists, or existed.

        Raises:
            ProblemError: 404; the hint has the name that was probably meant.
        """
        if not (where.namespace or where.tenant or where.listener or where.route or where.destination):
            return
        snapshot, routes = self._snapshot(), self._store.routes()
        listeners = {
            *(
                model.ListenerName(document.namespace, document.tenant.name, document.name)
                for document in snapshot.listeners.values()
            ),
            *await self._store.listener_names(),
        }
        destinations = snapshot.destinations.keys() | {route.destination for route in routes}
        _check(
            "namespace",
            where.namespace,
            {listener.namespace for listener in listeners} | set(_namespaces(destinations)),
        )
        inside = {listener for listener in listeners if where.namespace in {None, listener.namespace}}
        _check("tenant", where.tenant, {listener.tenant for listener in inside})
        inside = {listener for listener in inside if where.tenant in {None, listener.tenant}}
        _check("listener", where.listener, {listener.listener for listener in inside})
        route_names = {route.route for route in routes}
        route_names |= {route.name for document in snapshot.listeners.values() for route in document.routes}
        _check("route", where.route, route_names)
        _check("destination", where.destination, destinations)


def _namespaces(keys: Iterable[str]) -> Iterable[str]:
    return (key.partition("/")[0] for key in keys)


def _check(what: str, name: str | None, existing: Iterable[str]) -> None:
    if name is None or name in existing:
        return
    hint = conditions.did_you_mean(name, existing)
    raise api.ProblemError(404, "UnknownName", f"there is no {what} `{name}`", hint)


def check_reason(reason: str | None, reasons: frozenset[str]) -> None:
    """Check a reason in a filter; None selects any.

    Raises:
        ProblemError: 400; the hint has the reason that was probably meant.
    """
    if reason is not None and reason not in reasons:
        hint = conditions.did_you_mean(reason, reasons) or "docs/reasons.md and docs/deliveries.md explain the reasons"
        raise api.ProblemError(400, "UnknownName", f"there is no reason `{reason}` here", hint)
