"""What the steps of a delivery share: the newest documents, prepared once per document, and the sender."""

import random
from collections.abc import Mapping

import structlog

from usher_gateway import clock as clocks
from usher_gateway import documents, expressions, model
from usher_gateway.delivery import attempt, render, retry
from usher_gateway.destinations import DestinationAnswer, DestinationRequest
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.ingest import identify, normalise, route, validate

_log = structlog.get_logger(__name__)

_UNKNOWN = documents.Destination("", "", "")
_WORDS = {
    model.SettledAs.Delivered: "delivered",
    model.SettledAs.Retry: "retried",
    model.SettledAs.Dead: "dead",
    model.SettledAs.Cancelled: "cancelled",
}


class Books:
    """What attempts came to, for metrics. Plain numbers: they are touched for every attempt."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str, str], int] = {}
        """(namespace, tenant, outcome) -> deliveries"""
        self.errors: dict[str, int] = {}
        self.expression_errors: dict[str, int] = {}

    def add(self, name: model.ListenerName, word: str) -> None:
        """Count what became of a delivery."""
        key = (name.namespace, name.tenant, word)
        self.outcomes[key] = self.outcomes.get(key, 0) + 1


class Desk:
    """Where attempts are prepared and concluded."""

    def __init__(self, sender: DestinationClient, clock: clocks.Clock, keys: model.Keys) -> None:
        self.sender, self.clock = sender, clock
        self.books = Books()
        self.gone: set[str] = set()
        """Destinations that answered 410."""
        self._keys = keys
        self._snapshot = documents.Snapshot({}, {})
        self._routes: dict[tuple[str, str], documents.Route] = {}
        self._editions: dict[tuple[str, str], int] = {}
        """(listener, route) -> how often its expressions were changed since the start."""
        self._targets: dict[str, render.Target | None] = {}
        self._slow: dict[tuple[model.ListenerName, str], int] = {}
        """(listener, route) -> how many evaluations of its transform in a row were slow."""
        self._readers: dict[str, tuple[identify.Identifier, normalise.Normaliser]] = {}

    def apply(self, snapshot: documents.Snapshot) -> None:
        """Use new documents from the next attempt on."""
        before = self._snapshot.destinations
        changed = documents.changed(before, snapshot.destinations).keys()
        for key in changed | (before.keys() - snapshot.destinations.keys()):
            self._targets.pop(key, None)
            self.gone.discard(key)
        listeners, self._snapshot = self._snapshot.listeners, snapshot
        anew = documents.changed(listeners, snapshot.listeners)
        for key in anew.keys() | (listeners.keys() - snapshot.listeners.keys()):
            self._apply_listener(key, listeners.get(key), anew.get(key))

    def _apply_listener(self, key: str, before: documents.Listener | None, now: documents.Listener | None) -> None:
        self._readers.pop(key, None)
        old = {(key, each.name): each for each in before.routes} if before else {}
        for name in old:
            self._routes.pop(name, None)
        if before is not None:
            for each in before.routes:
                self._slow.pop((_name_of(before), each.name), None)
        for each in now.routes if now else ():
            name = (key, each.name)
            self._routes[name] = each
            known = old.get(name)
            if known is not None and (known.when, known.transform) != (each.when, each.transform):
                self._editions[name] = self._editions.get(name, 0) + 1

    @property
    def destinations(self) -> Mapping[str, documents.Destination]:
        """The newest documents of all destinations."""
        return self._snapshot.destinations

    def destination(self, key: str) -> documents.Destination | None:
        """The newest document of a destination."""
        return self._snapshot.destinations.get(key)

    def listener(self, name: model.ListenerName) -> documents.Listener | None:
        """The newest document of a listener; one that another tenant has by that name now is another listener."""
        found = self._snapshot.listeners.get(name.key)
        return found if found is not None and found.tenant.name == name.tenant else None

    def can_send(self, definition: model.RouteDefinition) -> bool:
        """Whether the destination of a route is there, active, and has all that attempts need."""
        hold = route.destination_hold(self.destination(definition.destination), definition.listener.tenant)
        return hold is None and self._target(definition.destination) is not None

    def live_route(self, definition: model.RouteDefinition) -> documents.Route | None:
        """The newest document of a delivery's route; None where route or listener were removed."""
        if self.listener(definition.listener) is None:
            return None
        return self._routes.get((definition.listener.key, definition.route))

    def edition_of(self, definition: model.RouteDefinition) -> int:
        """How often the expressions of a delivery's route were changed since the start."""
        return self._editions.get((definition.listener.key, definition.route), 0)

    def is_too_slow(self, listener: str, route_name: str) -> bool:
        """Whether a route is held because its transform is too slow."""
        document = self._snapshot.listeners.get(listener)
        return document is not None and self._slow.get((_name_of(document), route_name), 0) >= route.SLOW_IN_A_ROW

    def hold_of(self, definition: model.RouteDefinition) -> model.HoldReason | None:
        """Why deliveries of a route must not be attempted now."""
        listener = self.listener(definition.listener)
        if listener is not None and listener.tenant.state == "Suspended":
            return model.HoldReason.TenantSuspended
        if listener is not None and listener.state == "Suspended":
            return model.HoldReason.ListenerSuspended
        return route.destination_hold(self.destination(definition.destination), definition.listener.tenant)

    def prepare(
        self, delivery: model.Delivery, definition: model.RouteDefinition
    ) -> DestinationRequest | model.Settlement:
        """The request of the next attempt; or the settlement in its place: expired, or held."""
        now = self.clock.now()
        if retry.expired(delivery, now):
            return attempt.expired(delivery, now)
        hold = self.hold_of(definition)
        if hold is not None:
            return attempt.held(delivery, hold, now)
        target = self._target(definition.destination)
        if target is None:
            return attempt.held(delivery, model.HoldReason.SecretNotFound, now)
        live = self.live_route(definition)
        transform = live.transform if live is not None else definition.transform
        transformed = render.NOT_TRANSFORMED
        if transform:
            name = (definition.listener, definition.route)
            if self._slow.get(name, 0) >= route.SLOW_IN_A_ROW:
                return attempt.held(delivery, model.HoldReason.ExpressionTooSlow, now)
            evaluation = self.evaluate(transform, "transform", delivery, definition)
            self._slow[name] = self._slow.get(name, 0) + 1 if evaluation.cpu_seconds >= route.SLOW_SECONDS else 0
            if evaluation.error_code:
                self._count_expression_error(definition, evaluation.error_code)
                return attempt.held(delivery, model.HoldReason.TransformError, now)
            transformed = evaluation.value
        rendered = render.render(target, delivery, definition, now, transformed)
        if isinstance(rendered, render.FormatError):
            return attempt.held(delivery, model.HoldReason.FormatError, now)
        return rendered

    async def send(self, request: DestinationRequest, definition: model.RouteDefinition) -> DestinationAnswer:
        """Send one request; never raises but for cancellation."""
        destination = self.destination(definition.destination)
        return await self.sender.send(request, destination.timeout_seconds if destination else 10)

    def conclude(
        self, delivery: model.Delivery, definition: model.RouteDefinition, answer: DestinationAnswer
    ) -> attempt.Ended:
        """What an answer means for the delivery, and for its destination."""
        now = self.clock.now()
        destination = self.destination(definition.destination)
        if destination is None:  # removed while the request was on its way: what came back still counts
            destination = _UNKNOWN
        spread = random.random()  # noqa: S311 - spreads retries, keeps no secret
        ended = attempt.ended(delivery, answer, destination, now, spread)
        result, settled_as = ended.outcome, ended.settlement.settled_as
        self.books.add(definition.listener, _WORDS[settled_as])
        if result.gone:
            self.gone.add(definition.destination)
        if result.error:
            self.books.errors[result.error] = self.books.errors.get(result.error, 0) + 1
        if settled_as is model.SettledAs.Dead:
            identifier = model.format_id(delivery.id)
            _log.warning("delivery_dead", delivery=identifier, error=result.error, status=answer.status)
        return ended

    def evaluate(
        self, source: str, where: expressions.Where, delivery: model.Delivery, definition: model.RouteDefinition
    ) -> expressions.Evaluation:
        """An expression over the stored body, read by the listener's newest document."""
        program = expressions.compile_expression(source, where)
        parsed = validate.parse(delivery.body or b"", delivery.content_type.decode("latin-1"))
        if parsed.body is None:
            return expressions.Evaluation(error_code="NoBody")
        identifier, normaliser = self._reader(definition)
        fields = identifier.extract(parsed.body)
        occurred_at = identifier.occurred_at(fields.get("occurredAt"), delivery.received_at)
        visit = normaliser.visit(parsed.body, occurred_at)
        values = expressions.visit_values(visit, delivery.received_at, late=delivery.late)
        return program.evaluate(values, parsed.body)

    def _reader(self, definition: model.RouteDefinition) -> tuple[identify.Identifier, normalise.Normaliser]:
        """How to read bodies of a listener: by its document, or where it is gone by what the route kept of it."""
        document = self.listener(definition.listener)
        known = self._readers.get(definition.listener.key) if document is not None else None
        if known is None:
            told = document or _document_of(definition)
            known = (identify.Identifier(told, self._keys), normalise.Normaliser(told.fields))
            if document is not None:
                self._readers[definition.listener.key] = known
        return known

    def _target(self, key: str) -> render.Target | None:
        """A destination, ready for attempts; None where its headers or secrets cannot be used."""
        if key not in self._targets:
            destination = self._snapshot.destinations[key]
            try:
                self._targets[key] = render.prepare(destination)
            except model.ConfigurationError as error:
                _log.error("destination_unusable", destination=key, reason=str(error), hint=error.hint)
                self._targets[key] = None
        return self._targets[key]

    def _count_expression_error(self, definition: model.RouteDefinition, code: str) -> None:
        self.books.expression_errors[code] = self.books.expression_errors.get(code, 0) + 1
        _log.warning("transform_failed", listener=definition.listener.key, route=definition.route, error=code)


def _name_of(document: documents.Listener) -> model.ListenerName:
    return model.ListenerName(document.namespace, document.tenant.name, document.name)


def _document_of(definition: model.RouteDefinition) -> documents.Listener:
    name = definition.listener
    fields: Mapping[str, tuple[str, ...]] = dict(definition.fields) or documents.DEFAULT_FIELDS
    return documents.Listener(
        name.namespace, name.listener, documents.Tenant(name.tenant), addresses=(), fields=dict(fields)
    )
