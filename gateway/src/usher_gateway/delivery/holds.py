"""Ends the holds whose cause is gone.

The gateway reviews all held deliveries after each change of configuration and every 30 seconds. The store keeps held
deliveries in groups by reason and route, so a review costs little however many deliveries are held.
"""

from collections.abc import Callable

import structlog

from usher_gateway import model
from usher_gateway.delivery.held_routes import HeldRoutes
from usher_gateway.delivery.quotas import QuotaCounter
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.ingest import routing
from usher_gateway.store.base import HeldGroup
from usher_gateway.store.encodings import FILTER_HOLDS
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

# How long a Destination may be missing before its held deliveries are cancelled.
DELETED_AFTER = 7 * 86_400 * model.MICROSECONDS

_log = structlog.get_logger(__name__)

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
        """``has_slow_expression`` returns whether attempts of a route are held because its expressions are too slow."""
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
        await self._quotas.count(self._documents.listeners.values())
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
        """Return the reasons that hold deliveries of a route now (``store.base.HoldsOf``)."""
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

        This happens once per edition of the expressions. It also happens if the expressions are again those of the
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
