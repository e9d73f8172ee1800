"""A delivery's path, top to bottom: ``DeliveryWorker.attempt`` makes one attempt at one delivery.

The worker reads the newest documents (``RouteDocuments``) when an attempt starts, so a change is in force from the next
attempt on.
"""

import functools
import random
import time
from collections.abc import Callable

import structlog

from usher_gateway import documents, model
from usher_gateway.delivery import outcome, payload
from usher_gateway.delivery.activity import ActivityRecorder
from usher_gateway.delivery.outcome import AttemptResult
from usher_gateway.delivery.request_memory import RequestMemory
from usher_gateway.delivery.route_documents import NOTHING_EVALUATED, RouteDocuments
from usher_gateway.destinations import HINTS, DestinationAnswer, DestinationRequest, SendError
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.destinations.sending import Sender
from usher_gateway.ingest.counters import ExpressionCounters
from usher_gateway.ingest.cpu_limits import (
    ATTEMPTS_BURST_SECONDS,
    ATTEMPTS_SHARE,
    ORDINARY_SECONDS,
    RouteCost,
    TenantBudgets,
)
from usher_gateway.store.store import DeliveryQueue
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)

OUTCOME_LABELS = {
    model.SettledAs.Delivered: "delivered",
    model.SettledAs.Retry: "retried",
    model.SettledAs.Dead: "dead",
    model.SettledAs.Cancelled: "cancelled",
}


class DeliveryCounters:
    """Results of attempts, for metrics."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str, str], int] = {}
        """(namespace, tenant, destination's name, outcome) -> deliveries."""
        self.errors: dict[str, int] = {}  # Error code of an attempt -> attempts

    def count(self, definition: model.RouteDefinition, settled_as: model.SettledAs, error: str) -> None:
        """Count the result of an attempt that was sent."""
        tenant = definition.listener
        name = definition.destination.rpartition("/")[2]
        key = (tenant.namespace, tenant.tenant, name, OUTCOME_LABELS[settled_as])
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        if error:
            self.errors[error] = self.errors.get(error, 0) + 1


class DeliveryWorker:
    """Makes attempts. Keeps no delivery: the dispatcher chooses them and hands their results to the store."""

    def __init__(
        self,
        *,
        store: DeliveryQueue,
        client: DestinationClient,
        clock: Clock,
        route_documents: RouteDocuments,
        activity: ActivityRecorder,
        expressions: ExpressionCounters | None = None,
        budgets: TenantBudgets | None = None,
    ) -> None:
        self.counters = DeliveryCounters()
        self.forbidden: set[str] = set()  # Destinations whose URL names a forbidden address
        self.activity = activity
        self._store = store
        self._client = client
        self._sender = Sender(client)
        self._clock = clock
        self._documents = route_documents
        self._expressions = expressions or ExpressionCounters()
        self._budgets = budgets or TenantBudgets(share=ATTEMPTS_SHARE, burst_seconds=ATTEMPTS_BURST_SECONDS)
        self._costs: dict[tuple[model.ListenerName, str], RouteCost] = {}
        """(listener, route) -> what evaluating its expressions costs, after the first one."""

    async def attempt(
        self,
        delivery: model.Delivery,
        may_send: Callable[[], bool] | None = None,
        request_memory: RequestMemory | None = None,
    ) -> AttemptResult | None:
        """Make one attempt. Return its result for the store; if the destination fails, that is a result too.

        Args:
            delivery: with its body.
            may_send: asked right before the request is written.
            request_memory: asked right before the request is made, and again when its length is known.

        Returns:
            None if ``may_send`` or ``request_memory`` allows no request. Nothing was sent then.
        """
        definition = self._store.route(delivery.route)
        owner = (definition.listener.namespace, definition.listener.tenant)

        # Wait first, so that all that follows uses the newest documents.
        if self._budgets.is_spent(*owner):
            await self._budgets.wait(*owner)

        # Check expiry before anything else, so that a hold does not outlive the route's time limit.
        now = self._clock.now()
        if outcome.is_expired(delivery, now):
            is_certain = outcome.is_expired(delivery, self._clock.confirmed())
            expired = model.CancelReason.Expired
            return outcome.cancelled(delivery, expired, now) if is_certain else outcome.postponed(delivery, now)

        # If the filter had failed, evaluate it before a hold for another reason hides that.
        if delivery.filter_hold is not None:
            result = self._filter(delivery, definition, now)
            if result is not None:
                return result

        # Hold the delivery while something stops the route.
        hold = self._documents.hold_of(definition)
        if hold is not None:
            return outcome.held(delivery, hold, now)
        prepared = self._documents.prepared_destination(definition.destination)
        if prepared is None:
            return outcome.held(delivery, model.HoldReason.SecretNotFound, now)

        if request_memory is not None and not request_memory.may_make(delivery.key):
            return None
        request = self._make_request(delivery, definition, prepared, now)
        if isinstance(request, model.HoldReason):
            return outcome.held(delivery, request, now)
        if request_memory is not None and not request_memory.may_keep(delivery.key, len(request.body)):
            return None

        # Send it, and classify the answer.
        request.charge, request.may_send = functools.partial(self._budgets.spend, *owner), may_send
        request.tenant = definition.listener.tenant
        started = time.monotonic()
        answer = await self._sender.send(request, prepared.destination)
        milliseconds = int((time.monotonic() - started) * 1000)
        if answer.is_withdrawn:
            return None
        # All a tenant's running attempts may be answered at once, and a rule may take 50 ms for an answer.
        if prepared.destination.answers and self._budgets.is_spent(*owner):
            await self._budgets.wait(*owner)
        return self._classify(delivery, definition, prepared.destination, answer, milliseconds)

    def apply(self, snapshot: documents.Snapshot) -> None:
        """Use new documents from the next attempt on."""
        changed = self._documents.apply(snapshot)
        self.activity.keep_only(snapshot.destinations)
        self._sender.tokens.keep_only(snapshot.destinations)
        self.forbidden -= changed.destinations
        for key in changed.destinations & snapshot.destinations.keys():
            reason = self._client.literal_refusal(snapshot.destinations[key].url)
            if reason is not None:
                self.forbidden.add(key)
                hint = HINTS[SendError.AddressForbidden]
                _log.warning("forbidden_address_found", destination=key, reason=reason, hint=hint)
        self._costs = {
            (listener, route): cost
            for (listener, route), cost in self._costs.items()
            if listener.key not in changed.listeners
            and self._documents.destination_of(listener, route) not in changed.destinations
        }

    def is_too_slow(self, listener: model.ListenerName, route_name: str) -> bool:
        """Return whether a route is held because its expressions are too slow."""
        cost = self._costs.get((listener, route_name))
        return cost is not None and cost.is_too_slow

    def _filter(self, delivery: model.Delivery, definition: model.RouteDefinition, now: int) -> AttemptResult | None:
        """Evaluate a delivery's filter if it has not decided yet; return None if the attempt may go on."""
        when = self._documents.filter_of(definition)
        if when:
            if self.is_too_slow(definition.listener, definition.route):
                return outcome.held(delivery, model.HoldReason.ExpressionTooSlow, now)
            started = time.thread_time()
            evaluation = self._documents.evaluate(when, "when", delivery, definition)
            self._note_cost(definition, evaluation.cpu_seconds, time.thread_time() - started)
            if evaluation.error_code:
                code, field = evaluation.error_code, evaluation.missing_field
                self._expressions.expression_failed(definition.listener, definition.route, code, field)
                return outcome.held(delivery, model.HoldReason.FilterError, now)
            if not evaluation.value:
                return outcome.cancelled(delivery, model.CancelReason.Filter, now)
        delivery.filter_hold = None
        # The next review ends this hold if its cause is gone.
        return outcome.held(delivery, delivery.arrival_holds[0], now) if delivery.arrival_holds else None

    def _make_request(
        self,
        delivery: model.Delivery,
        definition: model.RouteDefinition,
        prepared: payload.PreparedDestination,
        now: int,
    ) -> DestinationRequest | model.HoldReason:
        """Evaluate the transform and the URL's variables, render and sign; or return why the delivery is held.

        All this runs on the event loop, so its CPU time is charged to the tenant.
        """
        listener = definition.listener
        if self.is_too_slow(listener, definition.route):
            return model.HoldReason.ExpressionTooSlow
        started = time.thread_time()
        evaluated = self._documents.evaluate_delivery(delivery, definition, prepared.destination)
        evaluated_at = started if evaluated is NOTHING_EVALUATED else time.thread_time()
        request: DestinationRequest | payload.FormatError | None = None
        if not evaluated.error_code:
            request = payload.render(prepared, delivery, definition, now, evaluated.document, evaluated.url_values)
        ended = time.thread_time()
        if evaluated is not NOTHING_EVALUATED:
            self._note_cost(definition, evaluated.cpu_seconds + ended - evaluated_at, ended - started)
        elif ended - started > ORDINARY_SECONDS:
            self._budgets.spend(listener.namespace, listener.tenant, ended - started)
        if request is None:
            code, field = evaluated.error_code, evaluated.missing_field
            self._expressions.transform_failed(listener, definition.route, code, field)
            return model.HoldReason.TransformError
        return model.HoldReason.FormatError if isinstance(request, payload.FormatError) else request

    def _note_cost(self, definition: model.RouteDefinition, evaluation_seconds: float, cpu_seconds: float) -> None:
        """Note what a route's expressions cost, and what all the work on a delivery cost."""
        listener = definition.listener
        self._budgets.spend(listener.namespace, listener.tenant, cpu_seconds)
        cost = self._costs.get((listener, definition.route))
        if cost is None:
            cost = self._costs[listener, definition.route] = RouteCost()
        cost.note(evaluation_seconds)

    def _classify(
        self,
        delivery: model.Delivery,
        definition: model.RouteDefinition,
        destination: documents.DestinationDocument,
        answer: DestinationAnswer,
        milliseconds: int,
    ) -> AttemptResult:
        """Classify an answer by the document from which the request was made, and count it."""
        randomness = random.random()  # noqa: S311 - spreads retries, keeps no secret
        now, confirmed = self._clock.now(), self._clock.confirmed()
        started = time.thread_time() if destination.answers else 0.0
        result = outcome.conclude(delivery, answer, destination, now, randomness, confirmed, milliseconds=milliseconds)
        if destination.answers:
            self._budgets.spend(definition.listener.namespace, definition.listener.tenant, time.thread_time() - started)
        assert result.outcome is not None
        settled_as, error = result.settlement.settled_as, result.outcome.error
        self.counters.count(definition, settled_as, error)
        newest = self._documents.destination(definition.destination)
        if newest is not None and newest.url == destination.url:
            self.activity.note(newest, result.outcome, answer.status, now)
        if settled_as is model.SettledAs.Dead:
            _log.warning(
                "delivery_died",
                delivery=model.format_id(delivery.id),
                listener=definition.listener.key,
                tenant=definition.listener.tenant,
                destination=definition.destination,
                error=error,
                status=answer.status,
            )
        return result
