"""Ends holds whose cause has gone (design §3, Time limits of a route): after a change, and now and then."""

import zoneinfo
from collections.abc import Callable, Sequence

import structlog

from usher_gateway import clock as clocks
from usher_gateway import documents, model
from usher_gateway.delivery import desk as desks
from usher_gateway.ingest import route
from usher_gateway.store import port

DELETED_AFTER = 7 * 86_400 * model.MICROSECONDS
"""Deliveries whose Destination is missing for so long are cancelled."""

_CLAIM_ROWS = 200

_log = structlog.get_logger(__name__)

_EXPRESSION_HOLDS = {
    model.HoldReason.FilterError,
    model.HoldReason.TransformError,
    model.HoldReason.ExpressionTooSlow,
    model.HoldReason.FormatError,
}
_DESTINATION_HOLDS = {
    model.HoldReason.DestinationNotFound,
    model.HoldReason.DestinationPaused,
    model.HoldReason.SecretNotFound,
}


class Holds:
    """Looks at every group of held deliveries and decides whether it may go on."""

    def __init__(
        self,
        store: port.Store,
        desk: desks.Desk,
        clock: clocks.Clock,
        offer: Callable[[Sequence[model.Delivery]], None],
    ) -> None:
        """``offer`` takes deliveries into lanes."""
        self._store, self._desk, self._clock, self._offer = store, desk, clock, offer

    async def review(self) -> None:
        """Release what may go on; what must be decided anew is claimed, decided, and offered if it passes."""
        expired = await self._store.expire_held(self._clock.now())
        if expired:
            _log.info("held_deliveries_expired", deliveries=expired)
        for group in await self._store.held_groups():
            definition = self._store.route(group.route)
            if group.reason in _EXPRESSION_HOLDS:
                await self._decide_anew(group, definition)
            elif await self._has_ended(group.reason, definition):
                count = await self._store.unhold(group, self._clock.now())
                _log.info("hold_ended", reason=group.reason.name, route=definition.route, deliveries=count)
            elif group.reason is model.HoldReason.DestinationNotFound:
                now = self._clock.now()
                await self._store.cancel_held(group, model.CancelReason.DestinationDeleted, now - DELETED_AFTER, now)

    async def _has_ended(self, reason: model.HoldReason, definition: model.RouteDefinition) -> bool:
        if reason in _DESTINATION_HOLDS:
            return self._desk.can_send(definition)
        listener = self._desk.listener(definition.listener.key)
        if listener is None:
            return False  # nobody said that what was stopped may go on
        if reason is model.HoldReason.TenantSuspended:
            return listener.tenant.state == "Active"
        if reason is model.HoldReason.ListenerSuspended:
            return listener.state == "Active" and listener.tenant.state == "Active"
        if reason is model.HoldReason.TokenHeld:
            return all(address.action == "Accept" for address in listener.addresses)
        return await self._is_under_quota(listener)

    async def _is_under_quota(self, listener: documents.Listener) -> bool:
        tenant = listener.tenant
        if not tenant.visits_per_month or tenant.when_exceeded == "Forward":
            return True
        now = self._clock.now()
        since, until = route.month_of(now, zoneinfo.ZoneInfo(tenant.time_zone))
        visits = sum(
            row.counts.get(model.Counter.visits, 0)
            for row in await self._store.usage(since, until)
            if (row.listener.namespace, row.listener.tenant) == (listener.namespace, tenant.name)
        )
        return visits <= tenant.visits_per_month

    async def _decide_anew(self, group: port.HeldGroup, definition: model.RouteDefinition) -> None:
        """Where the route's expressions were changed: filter again, and let the others try their transform again."""
        live = self._desk.live_route(definition)
        listener = self._desk.listener(definition.listener.key)
        if live is None or listener is None or (live.when, live.transform) == (definition.when, definition.transform):
            return
        newest = route.definition_of(listener, live)
        while found := await self._store.claim_held(group, newest, _CLAIM_ROWS, self._clock.now()):
            # No await before all are settled or offered: what is claimed is in nobody else's hands.
            passed: list[model.Delivery] = []
            for delivery in found:
                settlement = self._filter_again(delivery, newest) if group.reason in _FILTER_HOLDS else None
                if settlement is None:
                    passed.append(delivery)
                else:
                    self._store.settle(settlement)
            self._offer(passed)
            if len(found) < _CLAIM_ROWS:
                break

    def _filter_again(self, delivery: model.Delivery, newest: model.RouteDefinition) -> model.Settlement | None:
        """The settlement of a delivery that its mended filter refuses, or cannot decide either; None if it passes."""
        if not newest.when:
            return None
        now = self._clock.now()
        evaluation = self._desk.evaluate(newest.when, "when", delivery, newest)
        attempts = delivery.attempts
        if evaluation.error_code:
            reason = model.HoldReason.FilterError
            return model.Settlement(delivery.key, model.SettledAs.Held, now, attempts, attempts, hold=reason)
        if evaluation.value:
            return None
        reason_of_end = model.CancelReason.Filter
        return model.Settlement(delivery.key, model.SettledAs.Cancelled, now, attempts, attempts, cancel=reason_of_end)


_FILTER_HOLDS = {model.HoldReason.FilterError, model.HoldReason.ExpressionTooSlow}
