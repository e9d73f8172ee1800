"""Knows which routes hold deliveries: from each new hold on, and after each review what the store still holds."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog

from usher_gateway import model
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.ingest.counters import ExpressionCounters
from usher_gateway.store.base import HeldGroup
from usher_gateway.store.store import Store

_MAX_LOGGED = 8  # Routes that a line of the log names

_log = structlog.get_logger(__name__)

_Hold = tuple[str, model.HoldReason]  # The name of a route, and why it holds deliveries


class HeldRoute(NamedTuple):
    """A route whose deliveries are held."""

    route: str
    reason: str
    missing: str
    """Which Secret must have what, or how the expression failed last; ``""`` for other reasons."""
    since: str = ""
    """Since when the route holds deliveries for this reason, as far as this gateway knows (RFC 3339)."""


class HeldRoutes:
    """Knows which routes hold deliveries, and logs each reason that is new or has ended for a listener."""

    def __init__(self, *, store: Store, route_documents: RouteDocuments, expressions: ExpressionCounters) -> None:
        self._store, self._documents, self._expressions = store, route_documents, expressions
        self._held: dict[model.ListenerName, dict[_Hold, int]] = {}  # Listener -> its holds -> since when
        self._new: dict[model.ListenerName, dict[_Hold, int]] = {}  # The holds that are new since `begin_review`
        self._changed: set[str] = set()

    def note(self, holds: Iterable[model.Hold]) -> None:
        """Note new holds."""
        for number, reason, since in holds:
            definition = self._store.route(number)
            name, hold = definition.listener, (definition.route, reason)
            if hold in self._held.get(name, {}):
                continue
            is_new_reason = all(reason is not other for _, other in self._held.get(name, ()))
            for held in (self._held, self._new):
                held.setdefault(name, {}).setdefault(hold, since)
            self._changed.add(name.key)
            if is_new_reason:
                self._log_held(name, reason, 1)

    def begin_review(self) -> bool:
        """Forget which holds are new; returns whether some were, so that the store may not have committed them yet."""
        has_new, self._new = bool(self._new), {}
        return has_new

    def end_review(self, groups: Sequence[HeldGroup]) -> None:
        """Take what the store holds after a review."""
        previously_held, self._held = self._held, {}
        counts: dict[tuple[model.ListenerName, model.HoldReason], int] = {}
        for group in groups:
            definition = self._store.route(group.route)
            name = definition.listener
            held_since = self._held.setdefault(name, {})
            key = (definition.route, group.reason)
            since = previously_held.get(name, {}).get(key, group.since)
            held_since[key] = min(group.since, since, held_since.get(key, since))
            counts[name, group.reason] = counts.get((name, group.reason), 0) + group.count
        for name, new_holds in self._new.items():  # they may not be in the groups, which were read meanwhile
            self._held[name] = new_holds | self._held.get(name, {})
        for (name, reason), count in counts.items():
            if all(reason is not held_reason for _, held_reason in previously_held.get(name, ())):
                self._log_held(name, reason, count)
        for name, held in previously_held.items():
            present_reasons = {reason for _, reason in self._held.get(name, ())}
            for reason in sorted({reason for _, reason in held} - present_reasons):
                _log.info("hold_ended", listener=name.key, tenant=name.tenant, reason=reason.name)
        for name in previously_held.keys() | self._held.keys():
            if previously_held.get(name) != self._held.get(name):
                self._changed.add(name.key)

    def take_changed(self) -> set[str]:
        """Return the listeners (``namespace/name``) whose holds changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def of(self, listener: model.ListenerName) -> list[HeldRoute]:
        """Return the routes of a listener whose deliveries are held, sorted."""
        held = self._held.get(listener, {})
        return sorted(
            HeldRoute(route, reason.name, self._missing(listener, route, reason), model.format_time(since))
            for (route, reason), since in held.items()
        )

    def _missing(self, listener: model.ListenerName, route: str, reason: model.HoldReason) -> str:
        """Return which Secret a route waits for, or how its expression failed last; ``""`` for other reasons."""
        if reason in {model.HoldReason.FilterError, model.HoldReason.TransformError}:
            return self._expressions.last_failure(listener.key, route)
        key = self._documents.destination_of(listener, route)
        destination = self._documents.destination(key) if key is not None else None
        return destination.missing if destination is not None and reason is model.HoldReason.SecretNotFound else ""

    def _log_held(self, name: model.ListenerName, reason: model.HoldReason, count: int) -> None:
        routes = sorted(route for route, held_reason in self._held[name] if held_reason is reason)
        missing = sorted({self._missing(name, route, reason) for route in routes} - {""})
        _log.warning(
            "deliveries_held",
            listener=name.key,
            tenant=name.tenant,
            reason=reason.name,
            routes=routes[:_MAX_LOGGED],
            missing=missing[:_MAX_LOGGED],
            count=count,
            since=model.format_time(min(self._held[name][route, reason] for route in routes)),
        )
