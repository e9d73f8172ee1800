"""Ends holds whose cause has gone (design §3, Time limits of a route): after a change, and now and then."""

import zoneinfo
from collections.abc import Callable, Sequence

import structlog

from usher_gateway import documents, model
from usher_gateway.clock import Clock
from usher_gateway.delivery import outcome
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.ingest import routing
from usher_gateway.store.base import Filter, HeldGroup, Store

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
_ARRIVAL_HOLDS = (model.HoldReason.TokenHeld, model.HoldReason.QuotaExceeded)
"""What the arrival itself brought with it; all others are asked of the documents before each attempt."""

_DESTINATION_HOLDS = {
    model.HoldReason.DestinationNotFound,
    model.HoldReason.DestinationPaused,
    model.HoldReason.SecretNotFound,
}


class HoldReviewer:
    """Looks at every group of held deliveries and decides whether it may go on."""

    def __init__(
        self,
        *,
        store: Store,
        worker: DeliveryWorker,
        clock: Clock,
        offer: Callable[[Sequence[model.Delivery]], None],
    ) -> None:
        """``offer`` takes deliveries into lanes."""
        self._store, self._worker, self._clock, self._offer = store, worker, clock, offer
        self._tried: dict[tuple[model.HoldReason, int], int] = {}
        """(reason, route) -> by which edition of its expressions a group was decided last."""
        self._visits: dict[tuple[str, str], tuple[int, int]] = {}
        """(namespace, tenant) -> a month's first instant, and how many visits that month had when they were counted."""

    async def review(self) -> None:
        """Release what may go on; what must be decided anew is claimed, decided, and offered if it passes."""
        expired = await self._store.expire_held(self._clock.now())
        if expired:
            _log.info("held_deliveries_expired", deliveries=expired)
        groups = await self._store.held_groups()
        there = {(group.reason, group.route) for group in groups}
        self._tried = {key: edition for key, edition in self._tried.items() if key in there}
        for group in groups:
            definition = self._store.route(group.route)
            if group.reason in _EXPRESSION_HOLDS:
                await self._decide_anew(group, definition)
            elif await self._has_ended(group.reason, definition):
                lasting = await self._lasting(definition)
                count = await self._store.unhold(group, self._clock.now(), lasting)
                _log.info("hold_ended", reason=group.reason.name, route=definition.route, deliveries=count)
            elif group.reason is model.HoldReason.DestinationNotFound:
                now = self._clock.now()
                await self._store.cancel_held(group, model.CancelReason.DestinationDeleted, now - DELETED_AFTER, now)

    async def _lasting(self, definition: model.RouteDefinition) -> list[model.HoldReason]:
        """What goes on holding those whose arrival brought it, whatever else held them first."""
        return [reason for reason in _ARRIVAL_HOLDS if not await self._has_ended(reason, definition)]

    async def _has_ended(self, reason: model.HoldReason, definition: model.RouteDefinition) -> bool:
        if reason in _DESTINATION_HOLDS:
            return self._worker.can_send(definition)
        listener = self._worker.listener(definition.listener)
        if listener is None:
            return False  # nobody said that what was stopped may go on
        if reason is model.HoldReason.TenantSuspended:
            return listener.tenant.state == "Active"
        if reason is model.HoldReason.ListenerSuspended:
            return listener.state == "Active" and listener.tenant.state == "Active"
        if reason is model.HoldReason.TokenHeld:
            return all(address.action == "Accept" for address in listener.addresses)
        return await self._is_under_quota(listener)

    async def _is_under_quota(self, listener: documents.ListenerDocument) -> bool:
        tenant = listener.tenant
        if not tenant.visits_per_month or tenant.when_exceeded == "Forward":
            return True
        now, key = self._clock.now(), (listener.namespace, tenant.name)
        since, until = routing.month_of(now, zoneinfo.ZoneInfo(tenant.time_zone))
        month, visits = self._visits.get(key, (since, 0))
        # Visits only become more: what was over stays over, and to count them takes a second while much is not folded.
        if month != since or visits <= tenant.visits_per_month:
            where = Filter(namespace=listener.namespace, tenant=tenant.name)
            rows = await self._store.usage(since, until, where, "month")
            visits = sum(row.counts.get(model.Counter.visits, 0) for row in rows)
            self._visits[key] = (since, visits)
        return visits <= tenant.visits_per_month

    async def _decide_anew(self, group: HeldGroup, definition: model.RouteDefinition) -> None:
        """Where the route's expressions were changed: filter again, and let the others try their transform again.

        Once for each edition, also where they are again what they were at acceptance: an edit that was taken back may
        have held what was waiting.
        """
        live = self._worker.live_route(definition)
        listener = self._worker.listener(definition.listener)
        if live is None or listener is None:
            return
        key, edition = (group.reason, group.route), self._worker.expression_edition(definition)
        is_as_accepted = (live.when, live.transform) == (definition.when, definition.transform)
        if is_as_accepted and self._tried.get(key) == edition:
            return
        self._tried[key] = edition
        newest, left, decision = (
            routing.definition_of(listener, live),
            group.count,
            _FilterRerun(self._worker, self._clock),
        )
        lasting = await self._lasting(newest)
        # No more than there were: what cannot be decided by this edition either comes into the same group again.
        while left > 0 and (found := await self._store.claim_held(group, newest, _CLAIM_ROWS, self._clock.now())):
            left -= len(found)
            # No await before all are settled or offered: what is claimed is in nobody else's hands.
            passed: list[model.Delivery] = []
            for delivery in found:
                settlement = decision.settlement(delivery, newest) if group.reason in _FILTER_HOLDS else None
                other = next((reason for reason in delivery.arrival_holds if reason in lasting), None)
                if settlement is None and other is not None:
                    settlement = outcome.held(delivery, other, self._clock.now()).settlement
                if settlement is None:
                    passed.append(delivery)
                else:
                    self._store.settle(settlement)
            self._offer(passed)


class _FilterRerun:
    """The filter of one route, asked again for deliveries that were held without its verdict."""

    def __init__(self, worker: DeliveryWorker, clock: Clock) -> None:
        self._worker, self._clock = worker, clock
        self._slow_in_a_row = 0

    def settlement(self, delivery: model.Delivery, newest: model.RouteDefinition) -> model.Settlement | None:
        """For a delivery that the filter refuses, or cannot decide either; None if it passes."""
        if not newest.when:
            return None
        now, attempts = self._clock.now(), delivery.attempts
        reason = model.HoldReason.ExpressionTooSlow
        if self._slow_in_a_row < routing.SLOW_IN_A_ROW:
            evaluation = self._worker.evaluate(newest.when, "when", delivery, newest)
            is_slow = evaluation.cpu_seconds >= routing.SLOW_SECONDS
            self._slow_in_a_row = self._slow_in_a_row + 1 if is_slow else 0
            reason = model.HoldReason.FilterError
            if not evaluation.error_code and evaluation.value:
                return None
            if not evaluation.error_code:
                end = model.CancelReason.Filter
                return model.Settlement(delivery.key, model.SettledAs.Cancelled, now, attempts, attempts, cancel=end)
        return model.Settlement(delivery.key, model.SettledAs.Held, now, attempts, attempts, hold=reason)


_FILTER_HOLDS = {model.HoldReason.FilterError, model.HoldReason.ExpressionTooSlow}
