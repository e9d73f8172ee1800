"""Ends the holds whose cause is gone.

The gateway reviews all held deliveries after each change of configuration and every 30 seconds. The store keeps held
deliveries in groups by reason and route, so a review costs little however many deliveries are held.
"""

import zoneinfo
from collections.abc import Callable, Sequence

import structlog

from usher_gateway import documents, model
from usher_gateway.delivery import outcome
from usher_gateway.delivery.held_routes import HeldRoutes
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.ingest import routing
from usher_gateway.ingest.cpu_limits import ArrivalBudget, CpuBudgets, RouteCost
from usher_gateway.store.base import Filter, HeldGroup
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

# How long a Destination may be missing before its held deliveries are cancelled.
DELETED_AFTER = 7 * 86_400 * model.MICROSECONDS

_CLAIM_ROWS = 200
_FILTER_ROWS = 20  # Rows of a claim whose filter is evaluated, because the event loop stops for all of them

_log = structlog.get_logger(__name__)

_FILTER_HOLDS = {model.HoldReason.FilterError, model.HoldReason.ExpressionTooSlow}
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
        offer: Callable[[Sequence[model.Delivery]], None],
        has_slow_transform: Callable[[model.ListenerName, str], bool],
        held_routes: HeldRoutes,
        budgets: CpuBudgets,
    ) -> None:
        """Take the parts that a review needs.

        Args:
            store: The store.
            route_documents: The newest documents.
            clock: The clock.
            offer: Puts deliveries into lanes.
            has_slow_transform: Returns whether a route is held because its transform is too slow.
            held_routes: Learns what is held after each review.
            budgets: The CPU time that namespaces have for expressions.
        """
        self._store = store
        self._documents = route_documents
        self._clock = clock
        self._offer = offer
        self._has_slow_transform = has_slow_transform
        self._held_routes = held_routes
        self._budgets = budgets
        self._last_editions: dict[tuple[model.HoldReason, int], int] = {}
        """(reason, route) -> the edition of the route's expressions that was last applied to the group."""
        self._visits_of_month: dict[tuple[str, str], tuple[int, int]] = {}
        """(namespace, tenant) -> the start of a month, and the visits of that month when they were last counted."""

    async def review(self) -> None:
        """Expire, release, cancel or reevaluate each group of held deliveries."""
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
                await self._reevaluate(group, definition)
            elif await self._has_ended(group.reason, definition):
                lasting = await self._lasting(definition)
                await self._store.unhold(group, self._clock.now(), lasting)
            elif group.reason is model.HoldReason.DestinationNotFound:
                now = self._clock.confirmed()
                await self._store.cancel_held(group, model.CancelReason.DestinationDeleted, now - DELETED_AFTER, now)
        if has_new or any(group.reason in _EXPRESSION_HOLDS for group in groups):
            await self._store.flush()  # else what is held again, or since the last review, may be in no group yet
        self._held_routes.end_review(await self._store.held_groups(), groups)

    async def current_holds(self, definition: model.RouteDefinition) -> list[model.HoldReason]:
        """Return the reasons that hold deliveries of a route now (``store.base.HoldsOf``)."""
        hold = self._documents.hold_of(definition)
        return [*([hold] if hold is not None else []), *await self._lasting(definition)]

    async def _lasting(self, definition: model.RouteDefinition) -> list[model.HoldReason]:
        """Return the reasons of arrivals that still hold, for deliveries that another reason held first."""
        return [reason for reason in _ARRIVAL_HOLDS if not await self._has_ended(reason, definition)]

    async def _has_ended(self, reason: model.HoldReason, definition: model.RouteDefinition) -> bool:
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
        return await self._is_under_quota(listener)

    async def _is_under_quota(self, listener: documents.ListenerDocument) -> bool:
        tenant = listener.tenant
        if not tenant.visits_per_month or tenant.when_exceeded == "Forward":
            return True
        now, key = self._clock.now(), (listener.namespace, tenant.name)
        since, until = routing.month_of(now, zoneinfo.ZoneInfo(tenant.time_zone))
        month, visits = self._visits_of_month.get(key, (since, 0))
        # Visits of a month only grow, so a tenant over its quota stays over. Counting can take a second.
        if month != since or visits <= tenant.visits_per_month:
            where = Filter(namespace=listener.namespace, tenant=tenant.name)
            rows = await self._store.usage(since, until, where, "month")
            visits = sum(row.counts.get(model.Counter.visits, 0) for row in rows)
            self._visits_of_month[key] = (since, visits)
        return visits <= tenant.visits_per_month

    async def _reevaluate(self, group: HeldGroup, definition: model.RouteDefinition) -> None:
        """Apply a route's changed expressions to a group: filter again, and release the rest for another transform.

        This happens once per edition of the expressions. It also happens if the expressions are again those of the
        acceptance, because an edit that a user took back may have held the deliveries. It happens at every review for
        a route whose own expressions are fast: other routes had spent the time of its arrivals. Once the namespace has
        used up its time for evaluations, the rest waits for the next review.
        """
        live = self._documents.live_route(definition)
        listener = self._documents.listener(definition.listener)
        if live is None or listener is None:
            return
        key, edition = (group.reason, group.route), self._documents.expression_edition(definition)
        is_as_accepted = (live.when, live.transform) == (definition.when, definition.transform)
        if is_as_accepted and self._last_editions.get(key) == edition:
            return
        self._last_editions[key] = edition
        newest = routing.definition_of(listener, live, self._documents.destination(live.destination))
        left = group.count
        is_filtered, namespace = group.reason in _FILTER_HOLDS, listener.namespace
        rerun = _FilterRerun(self._documents, self._clock, RouteCost(namespace, self._budgets))
        lasting = await self._lasting(newest)
        # At most ``group.count``: a delivery that this edition cannot decide either returns to the same group.
        rows = _FILTER_ROWS if is_filtered else _CLAIM_ROWS
        while left > 0 and not (is_filtered and self._budgets.is_spent(namespace)):
            claimed = await self._store.claim_held(group, newest, rows, self._clock.now())
            if not claimed:
                break
            left -= len(claimed)
            budget = ArrivalBudget(namespace, self._budgets)
            # No await until each claimed delivery is settled or offered, because no other part knows of it.
            passed: list[model.Delivery] = []
            for delivery in claimed:
                settlement = rerun.settlement(delivery, newest, budget) if is_filtered else None
                other = next((reason for reason in delivery.arrival_holds if reason in lasting), None)
                if settlement is None and other is not None:
                    settlement = outcome.held(delivery, other, self._clock.now()).settlement
                if settlement is None:
                    passed.append(delivery)
                else:
                    self._store.settle(settlement)
            self._offer(passed)
            budget.close()
        is_slow = rerun.is_too_slow or self._has_slow_transform(newest.listener, newest.route)
        if group.reason is model.HoldReason.ExpressionTooSlow and not is_slow:
            del self._last_editions[key]


class _FilterRerun:
    """The filter of one route, for deliveries that were held because the filter had failed."""

    def __init__(self, route_documents: RouteDocuments, clock: Clock, cost: RouteCost) -> None:
        self._documents = route_documents
        self._clock = clock
        self._cost = cost

    @property
    def is_too_slow(self) -> bool:
        """True if the filter was too slow to be evaluated for every delivery."""
        return self._cost.is_too_slow

    def settlement(
        self, delivery: model.Delivery, newest: model.RouteDefinition, budget: ArrivalBudget
    ) -> model.Settlement | None:
        """Return the settlement of a delivery that the filter rejects or cannot decide, or None if it passes."""
        if not newest.when:
            return None
        now, attempts = self._clock.now(), delivery.attempts
        reason = model.HoldReason.ExpressionTooSlow
        if not self._cost.is_too_slow:
            evaluation = self._documents.evaluate(newest.when, "when", delivery, newest)
            self._cost.note(evaluation.cpu_seconds)
            budget.note(evaluation.cpu_seconds)
            reason = model.HoldReason.FilterError
            if not evaluation.error_code and evaluation.value:
                return None
            if not evaluation.error_code:
                end = model.CancelReason.Filter
                return model.Settlement(delivery.key, model.SettledAs.Cancelled, now, attempts, attempts, cancel=end)
        return model.Settlement(delivery.key, model.SettledAs.Held, now, attempts, attempts, hold=reason)
