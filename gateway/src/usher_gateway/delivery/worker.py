"""A delivery's path, top to bottom: ``DeliveryWorker.attempt`` makes one attempt of one delivery.

The worker holds what the steps need: the newest documents, destinations prepared for sending, and the client. It reads
documents when an attempt starts, so a change is in force from the next attempt on.
"""

import random
from collections.abc import Mapping
from typing import Any

import structlog

from usher_gateway import documents, expressions, model
from usher_gateway.clock import Clock
from usher_gateway.delivery import outcome, payload, retry
from usher_gateway.delivery.outcome import AttemptResult
from usher_gateway.destinations import DestinationAnswer
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.ingest import body, identity, routing
from usher_gateway.store import base

_log = structlog.get_logger(__name__)

_REMOVED_DESTINATION = documents.DestinationDocument("", "", "")
_OUTCOME_LABELS = {
    model.SettledAs.Delivered: "delivered",
    model.SettledAs.Retry: "retried",
    model.SettledAs.Dead: "dead",
    model.SettledAs.Cancelled: "cancelled",
}


class DeliveryCounters:
    """Results of attempts, for metrics."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], int] = {}
        """(namespace, tenant, outcome) -> deliveries."""
        self.errors: dict[str, int] = {}
        """Error code of an attempt -> attempts."""
        self.expression_errors: dict[str, int] = {}
        """Error code of a transform -> attempts."""

    def count(self, name: model.ListenerName, settled_as: model.SettledAs, error: str) -> None:
        """Count the result of an attempt that was sent."""
        key = (name.namespace, name.tenant, _OUTCOME_LABELS[settled_as])
        self.outcomes[key] = self.outcomes.get(key, 0) + 1
        if error:
            self.errors[error] = self.errors.get(error, 0) + 1

    def count_expression_error(self, code: str) -> None:
        """Count a transform that failed."""
        self.expression_errors[code] = self.expression_errors.get(code, 0) + 1


class DeliveryWorker:
    """Makes attempts. Keeps no delivery: the dispatcher chooses them and hands their results to the store."""

    def __init__(self, *, store: base.Store, client: DestinationClient, clock: Clock, keys: model.Keys) -> None:
        self.counters = DeliveryCounters()
        self.gone: set[str] = set()
        """Destinations that answered 410."""
        self._store, self._client, self._clock, self._keys = store, client, clock, keys
        self._snapshot = documents.Snapshot({}, {})
        self._routes: dict[tuple[str, str], documents.Route] = {}
        self._expression_editions: dict[tuple[str, str], int] = {}
        """(listener, route) -> how often its expressions changed since the start."""
        self._prepared: dict[str, payload.PreparedDestination | None] = {}
        self._slow_in_a_row: dict[tuple[model.ListenerName, str], int] = {}
        """(listener, route) -> how many evaluations of its transform in a row were slow."""
        self._readers: dict[str, tuple[identity.Identifier, routing.Normaliser]] = {}

    async def attempt(self, delivery: model.Delivery) -> AttemptResult:
        """Make one attempt. The result is for the store; nothing is raised for what a destination does."""
        definition = self._store.route(delivery.route)

        # Check expiry before anything else, so that a hold does not outlive the route's time limit.
        now = self._clock.now()
        if retry.is_expired(delivery, now):
            return outcome.expired(delivery, now)

        # Hold the delivery while something stops the route.
        hold = self.hold_of(definition)
        if hold is not None:
            return outcome.held(delivery, hold, now)
        prepared = self._prepared_destination(definition.destination)
        if prepared is None:
            return outcome.held(delivery, model.HoldReason.SecretNotFound, now)

        # Transform the body.
        transformed = self._transform(delivery, definition)
        if isinstance(transformed, model.HoldReason):
            return outcome.held(delivery, transformed, now)

        # Render and sign the request.
        request = payload.render(prepared, delivery, definition, now, transformed)
        if isinstance(request, payload.FormatError):
            return outcome.held(delivery, model.HoldReason.FormatError, now)

        # Send it, and classify the answer.
        answer = await self._client.send(request, prepared.destination.timeout_seconds)
        return self._conclude(delivery, definition, answer)

    def apply(self, snapshot: documents.Snapshot) -> None:
        """Use new documents from the next attempt on."""
        before, self._snapshot = self._snapshot, snapshot
        changed = documents.changed(before.destinations, snapshot.destinations).keys()
        for key in changed | (before.destinations.keys() - snapshot.destinations.keys()):
            self._prepared.pop(key, None)
            self.gone.discard(key)
        changed_listeners = documents.changed(before.listeners, snapshot.listeners)
        for key in changed_listeners.keys() | (before.listeners.keys() - snapshot.listeners.keys()):
            self._apply_listener(key, before.listeners.get(key), changed_listeners.get(key))

    @property
    def destinations(self) -> Mapping[str, documents.DestinationDocument]:
        """The newest documents of all destinations."""
        return self._snapshot.destinations

    def destination(self, key: str) -> documents.DestinationDocument | None:
        """Return the newest document of a destination."""
        return self._snapshot.destinations.get(key)

    def listener(self, name: model.ListenerName) -> documents.ListenerDocument | None:
        """Return the newest document of a listener. A listener of another tenant with the same name is another one."""
        found = self._snapshot.listeners.get(name.key)
        return found if found is not None and found.tenant.name == name.tenant else None

    def live_route(self, definition: model.RouteDefinition) -> documents.Route | None:
        """Return the newest document of a delivery's route, or None if the route or its listener was removed."""
        if self.listener(definition.listener) is None:
            return None
        return self._routes.get((definition.listener.key, definition.route))

    def expression_edition(self, definition: model.RouteDefinition) -> int:
        """Return how often the expressions of a delivery's route changed since the start."""
        return self._expression_editions.get((definition.listener.key, definition.route), 0)

    def is_too_slow(self, listener: str, route_name: str) -> bool:
        """Return whether a route is held because its transform is too slow."""
        document = self._snapshot.listeners.get(listener)
        if document is None:
            return False
        return self._slow_in_a_row.get((_name_of(document), route_name), 0) >= routing.SLOW_IN_A_ROW

    def can_send(self, definition: model.RouteDefinition) -> bool:
        """Return whether the destination of a route exists, is active, and has all that attempts need."""
        hold = routing.destination_hold(self.destination(definition.destination), definition.listener.tenant)
        return hold is None and self._prepared_destination(definition.destination) is not None

    def hold_of(self, definition: model.RouteDefinition) -> model.HoldReason | None:
        """Return why deliveries of a route must not be attempted now, or None."""
        listener = self.listener(definition.listener)
        if listener is not None and listener.tenant.state == "Suspended":
            return model.HoldReason.TenantSuspended
        if listener is not None and listener.state == "Suspended":
            return model.HoldReason.ListenerSuspended
        return routing.destination_hold(self.destination(definition.destination), definition.listener.tenant)

    def evaluate(
        self, source: str, where: expressions.Where, delivery: model.Delivery, definition: model.RouteDefinition
    ) -> expressions.Evaluation:
        """Evaluate an expression over the stored body, which the listener's newest document tells how to read."""
        program = expressions.compile_expression(source, where)
        parsed = body.parse(delivery.body or b"", delivery.content_type.decode("latin-1"))
        if parsed.document is None:
            return expressions.Evaluation(error_code="NoBody")
        identifier, normaliser = self._reader(definition)
        fields = identifier.extract(parsed.document)
        occurred_at = identifier.occurred_at(fields.get("occurredAt"), delivery.received_at)
        visit = normaliser.visit(parsed.document, occurred_at)
        values = expressions.visit_values(visit, delivery.received_at, late=delivery.late)
        return program.evaluate(values, parsed.document)

    def _transform(self, delivery: model.Delivery, definition: model.RouteDefinition) -> Any:
        """Return the transform's value, ``NOT_TRANSFORMED`` if the route has none, or why the delivery is held."""
        live = self.live_route(definition)
        transform = live.transform if live is not None else definition.transform
        if not transform:
            return payload.NOT_TRANSFORMED
        name = (definition.listener, definition.route)
        if self._slow_in_a_row.get(name, 0) >= routing.SLOW_IN_A_ROW:
            return model.HoldReason.ExpressionTooSlow
        evaluation = self.evaluate(transform, "transform", delivery, definition)
        is_slow = evaluation.cpu_seconds >= routing.SLOW_SECONDS
        self._slow_in_a_row[name] = self._slow_in_a_row.get(name, 0) + 1 if is_slow else 0
        if evaluation.error_code:
            self.counters.count_expression_error(evaluation.error_code)
            _log.warning(
                "transform_failed",
                listener=definition.listener.key,
                route=definition.route,
                error=evaluation.error_code,
            )
            return model.HoldReason.TransformError
        return evaluation.value

    def _conclude(
        self, delivery: model.Delivery, definition: model.RouteDefinition, answer: DestinationAnswer
    ) -> AttemptResult:
        """Classify an answer and count it. It counts too if the destination was removed meanwhile."""
        destination = self.destination(definition.destination) or _REMOVED_DESTINATION
        randomness = random.random()  # noqa: S311 - spreads retries, keeps no secret
        result = outcome.conclude(delivery, answer, destination, self._clock.now(), randomness)
        assert result.outcome is not None
        settled_as, error = result.settlement.settled_as, result.outcome.error
        self.counters.count(definition.listener, settled_as, error)
        if result.outcome.gone:
            self.gone.add(definition.destination)
        if settled_as is model.SettledAs.Dead:
            _log.warning("delivery_died", delivery=model.format_id(delivery.id), error=error, status=answer.status)
        return result

    def _prepared_destination(self, key: str) -> payload.PreparedDestination | None:
        """Return a destination that is ready for attempts, or None if its headers or secrets cannot be used."""
        if key not in self._prepared:
            try:
                self._prepared[key] = payload.prepare(self._snapshot.destinations[key])
            except model.ConfigurationError as error:
                _log.error("destination_rejected", destination=key, reason=str(error), hint=error.hint)
                self._prepared[key] = None
        return self._prepared[key]

    def _reader(self, definition: model.RouteDefinition) -> tuple[identity.Identifier, routing.Normaliser]:
        """Return how to read bodies of a listener: by its document, or if it is gone by what its route kept of it."""
        document = self.listener(definition.listener)
        known = self._readers.get(definition.listener.key) if document is not None else None
        if known is None:
            used = document or _kept_document(definition)
            known = (identity.Identifier(used, self._keys), routing.Normaliser(used.fields))
            if document is not None:
                self._readers[definition.listener.key] = known
        return known

    def _apply_listener(
        self, key: str, before: documents.ListenerDocument | None, now: documents.ListenerDocument | None
    ) -> None:
        self._readers.pop(key, None)
        old = {(key, each.name): each for each in before.routes} if before else {}
        for name in old:
            self._routes.pop(name, None)
        if before is not None:
            for each in before.routes:
                self._slow_in_a_row.pop((_name_of(before), each.name), None)
        for each in now.routes if now else ():
            name = (key, each.name)
            self._routes[name] = each
            known = old.get(name)
            if known is not None and (known.when, known.transform) != (each.when, each.transform):
                self._expression_editions[name] = self._expression_editions.get(name, 0) + 1


def _name_of(document: documents.ListenerDocument) -> model.ListenerName:
    return model.ListenerName(document.namespace, document.tenant.name, document.name)


def _kept_document(definition: model.RouteDefinition) -> documents.ListenerDocument:
    """Make a document from what a route definition in the store says of its listener."""
    name = definition.listener
    fields: Mapping[str, tuple[str, ...]] = dict(definition.fields) or documents.DEFAULT_FIELDS
    return documents.ListenerDocument(
        name.namespace, name.listener, documents.TenantDocument(name.tenant), addresses=(), fields=dict(fields)
    )
