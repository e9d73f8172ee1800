"""Knows which routes hold deliveries, and ends the holds whose cause is gone.

The gateway reviews all held deliveries after each configuration change and every 30 seconds. The store keeps held
deliveries in groups by reason and route, so a review costs little however many deliveries are held.
"""

import zoneinfo
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import structlog

from usher_gateway import documents, model
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.ingest import routing
from usher_gateway.ingest.counters import ExpressionCounters
from usher_gateway.store.base import HeldGroup
from usher_gateway.store.encodings import FILTER_HOLDS
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)

# How long a Destination may be missing before its held deliveries are cancelled.
DELETED_AFTER = 7 * model.DAY

_EXPRESSION_HOLDS = {
    model.HoldReason.FilterError,
    model.HoldReason.TransformError,
    model.HoldReason.ExpressionTooSlow,
    model.HoldReason.FormatError,
}
# Reasons that come with the arrival. The worker checks all others against the documents before each attempt.
_ARRIVAL_HOLDS = (model.HoldReason.TokenHeld, model.HoldReason.QuotaExceeded)

_DESTINATION_HOLDS = {
    model.HoldReason.DestinationNotFound,
    model.HoldReason.DestinationPaused,
    model.HoldReason.SecretNotFound,
}

_MAX_LOGGED = 8  # Routes that a line of the log names

_Hold = tuple[str, model.HoldReason]  # The name of a route, and why it holds deliveries


class HeldRoute(NamedTuple):
    """A route whose deliveries are held."""

    route: str
    reason: str
    missing: str
    """The value that a Secret lacks, or how the expression failed last; ``""`` for other reasons."""
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
            for holds_by_listener in (self._held, self._new):
                holds_by_listener.setdefault(name, {}).setdefault(hold, since)
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
        for name, previous_holds in previously_held.items():
            present_reasons = {reason for _, reason in self._held.get(name, ())}
            for reason in sorted({reason for _, reason in previous_holds} - present_reasons):
                _log.info("hold_ended", listener=name.key, tenant=name.tenant, reason=reason.name)
        for name in previously_held.keys() | self._held.keys():
            if previously_held.get(name) != self._held.get(name):
                self._changed.add(name.key)

    def take_changed(self) -> set[str]:
        """Return the listeners (``namespace/name``) whose holds changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def of(self, listener: model.ListenerName) -> list[HeldRoute]:
        """Return a listener's routes whose deliveries are held, sorted."""
        holds = self._held.get(listener, {})
        return sorted(
            HeldRoute(route, reason.name, self._missing(listener, route, reason), model.format_time(since))
            for (route, reason), since in holds.items()
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


class QuotaCounter:
    """Knows which share of its quota each tenant has used.

    If a tenant is over a quota with ``whenExceeded: Hold``, the store holds the deliveries from its later visits. So
    what comes between two counts, up to 30 s of visits, may still be forwarded.
    """

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.used: dict[tuple[str, str], float] = {}
        """(namespace, tenant) -> visits in the present month as a share of the quota, for tenants with a quota."""

    async def count(self, listeners: Iterable[documents.ListenerDocument]) -> None:
        """Count the visits to all tenants with a quota, and tell the store which tenants are over it."""
        tenants = {(listener.namespace, listener.tenant.name): listener.tenant for listener in listeners}
        quotas = {key: tenant.visits_per_month for key, tenant in tenants.items() if tenant.visits_per_month}
        now = self._clock.confirmed()
        months: dict[tuple[int, int], set[tuple[str, str]]] = {}
        for key in quotas:
            months.setdefault(routing.month_of(now, zoneinfo.ZoneInfo(tenants[key].time_zone)), set()).add(key)
        visits: Counter[tuple[str, str]] = Counter()
        for month, keys in months.items():
            visits.update(await self._store.visits_of_tenants(keys, *month))
        for key, quota in quotas.items():
            if visits[key] >= quota and self.used.get(key, 0.0) < 1:
                _log.warning("quota_exceeded", namespace=key[0], tenant=key[1], visits=visits[key], quota=quota)
        self.used.clear()
        self.used.update({key: visits[key] / quota for key, quota in quotas.items()})
        self._store.hold_visits_of(
            {key for key, share in self.used.items() if share > 1 and tenants[key].when_exceeded == "Hold"}
        )

    def is_over(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant was over its quota at the last count."""
        return self.used.get((namespace, tenant), 0.0) > 1


class HoldReviewer:
    """Reviews every group of held deliveries and releases those that may continue."""

    def __init__(
        self,
        *,
        store: Store,
        route_documents: RouteDocuments,
        clock: Clock,
        has_slow_expression: Callable[[model.ListenerName, str], bool],
        held_routes: HeldRoutes,
        quotas: QuotaCounter,
    ) -> None:
        """``has_slow_expression`` returns whether a route's attempts are held because its expressions are too slow."""
        self._store = store
        self._documents = route_documents
        self._clock = clock
        self._has_slow_expression = has_slow_expression
        self._held_routes = held_routes
        self._quotas = quotas
        self._last_editions: dict[tuple[model.HoldReason, int], int] = {}
        """(reason, route) -> the edition of the route's expressions that was last applied to the group."""

    async def review(self) -> None:
        """Expire, release or cancel each group of held deliveries."""
        await self._quotas.count(self._documents.snapshot.listeners.values())
        has_new = self._held_routes.begin_review()
        expired = await self._store.expire_held(self._clock.confirmed())
        if expired:
            _log.info("held_deliveries_expired", deliveries=expired)
        groups = await self._store.held_groups()
        existing = {(group.reason, group.route) for group in groups}
        self._last_editions = {key: edition for key, edition in self._last_editions.items() if key in existing}
        for group in groups:
            definition = self._store.route(group.route)
            if group.reason in _EXPRESSION_HOLDS:
                await self._release_edited(group, definition)
            elif self._has_ended(group.reason, definition):
                await self._store.unhold(group, self._clock.now(), self._lasting(definition))
            elif group.reason is model.HoldReason.DestinationNotFound:
                now = self._clock.confirmed()
                await self._store.cancel_held(group, model.CancelReason.DestinationDeleted, now - DELETED_AFTER, now)
        if has_new:
            await self._store.flush()  # else what is held since the last review may be in no group yet
        self._held_routes.end_review(await self._store.held_groups())

    def current_holds(self, definition: model.RouteDefinition) -> list[model.HoldReason]:
        """Return the reasons that hold a route's deliveries now (``store.base.HoldsOf``)."""
        hold = self._documents.hold_of(definition)
        return [*([hold] if hold is not None else []), *self._lasting(definition)]

    def _lasting(self, definition: model.RouteDefinition) -> list[model.HoldReason]:
        """Return the reasons of arrivals that still hold, for deliveries that another reason held first."""
        return [reason for reason in _ARRIVAL_HOLDS if not self._has_ended(reason, definition)]

    def _has_ended(self, reason: model.HoldReason, definition: model.RouteDefinition) -> bool:
        if reason in _DESTINATION_HOLDS:
            return self._documents.can_send(definition)
        listener = self._documents.listener(definition.listener)
        if listener is None:
            return False  # the listener was removed, so no user can have lifted the hold
        if reason is model.HoldReason.TenantSuspended:
            return listener.tenant.state == "Active"
        if reason is model.HoldReason.ListenerSuspended:
            return listener.state == "Active" and listener.tenant.state == "Active"
        if reason is model.HoldReason.TokenHeld:
            return all(address.action == "Accept" for address in listener.live_addresses)
        tenant = listener.tenant
        return tenant.when_exceeded == "Forward" or not self._quotas.is_over(listener.namespace, tenant.name)

    async def _release_edited(self, group: HeldGroup, definition: model.RouteDefinition) -> None:
        """Make a group due whose expressions have changed: its next attempts evaluate them.

        This happens once per edition of the expressions. It also happens if the expressions are again those at
        acceptance, because an edit that a user took back may have held the deliveries. It happens at every review for
        a route whose own expressions are fast: other routes had spent the time of its arrivals.
        """
        live = self._documents.live_route(definition)
        listener = self._documents.listener(definition.listener)
        if live is None or listener is None:
            return
        key, edition = (group.reason, group.route), self._documents.expression_edition(definition)
        is_as_accepted = (live.when, live.transform) == (definition.when, definition.transform)
        is_fast = group.reason is model.HoldReason.ExpressionTooSlow and not self._has_slow_expression(
            definition.listener, definition.route
        )
        if is_as_accepted and not is_fast and self._last_editions.get(key) == edition:
            return
        self._last_editions[key] = edition
        newest = routing.definition_of(listener, live, self._documents.destination(live.destination))
        # The attempt finds out what still holds a delivery whose filter it evaluates.
        lasting = [] if group.reason in FILTER_HOLDS else self._lasting(newest)
        await self._store.unhold(group, self._clock.now(), lasting, newest)
