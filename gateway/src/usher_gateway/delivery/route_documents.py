"""The newest documents that deliveries need: routes, their listeners, and destinations prepared for sending.

A delivery keeps the definition of its route (``model.RouteDefinition``) as it was at acceptance. While the route
exists, attempts and hold reviews use its newest document, which they find here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog

from usher_gateway import documents, expressions, model
from usher_gateway.delivery import payload
from usher_gateway.ingest import body, identity, routing

_log = structlog.get_logger(__name__)


class ChangedKeys(msgspec.Struct, frozen=True):
    """The ``namespace/name`` for each document that an ``apply`` added, changed or removed."""

    listeners: set[str]
    destinations: set[str]


class EvaluatedDelivery(msgspec.Struct, frozen=True):
    """A delivery's expression values, or why an expression failed."""

    document: Any = payload.NOT_TRANSFORMED
    """The transform's value."""
    url_values: Mapping[str, Any] = {}
    """The destination's URL variables: name -> value."""
    error_code: str = ""
    missing_field: str = ""
    """As in ``expressions.Evaluation``."""
    cpu_seconds: float = 0.0


NOTHING_EVALUATED = EvaluatedDelivery()


class RouteDocuments:
    """Finds the newest document of a route, a listener or a destination, and why a route must not send now."""

    def __init__(self, *, keys: model.Keys) -> None:
        self._keys = keys
        self.snapshot = documents.Snapshot({}, {})
        self._routes: dict[tuple[str, str], documents.Route] = {}
        self._expression_editions: dict[tuple[str, str], int] = {}
        """(listener, route), or (destination, ""), -> how often its expressions changed since the start."""
        self._prepared: dict[str, payload.PreparedDestination | None] = {}
        self._readers: dict[str, tuple[identity.Identifier, routing.Normaliser]] = {}

    def apply(self, snapshot: documents.Snapshot) -> ChangedKeys:
        """Use new documents from now on."""
        previous = self.snapshot
        self.snapshot = snapshot
        destinations = documents.changed(previous.destinations, snapshot.destinations).keys() | (
            previous.destinations.keys() - snapshot.destinations.keys()
        )
        for key in destinations:
            self._prepared.pop(key, None)
            previous_document, current_document = previous.destinations.get(key), snapshot.destinations.get(key)
            if (
                previous_document is not None
                and current_document is not None
                and _expressions_of(previous_document) != _expressions_of(current_document)
            ):
                self._note_edition((key, ""))
        changed_listeners = documents.changed(previous.listeners, snapshot.listeners)
        listeners = changed_listeners.keys() | (previous.listeners.keys() - snapshot.listeners.keys())
        for key in listeners:
            self._apply_listener(key, previous.listeners.get(key), changed_listeners.get(key))
        return ChangedKeys(listeners, destinations)

    def destination(self, key: str) -> documents.DestinationDocument | None:
        """Return a destination's newest document."""
        return self.snapshot.destinations.get(key)

    def prepared_destination(self, key: str) -> payload.PreparedDestination | None:
        """Return a destination that is ready for attempts, or None if its headers or secrets cannot be used."""
        if key not in self._prepared:
            try:
                self._prepared[key] = payload.prepare(self.snapshot.destinations[key])
            except model.ConfigurationError as error:
                _log.error("destination_rejected", destination=key, reason=str(error), hint=error.hint)
                self._prepared[key] = None
        return self._prepared[key]

    def listener(self, name: model.ListenerName) -> documents.ListenerDocument | None:
        """Return a listener's newest document. Another tenant's listener with the same name is another one."""
        document = self.snapshot.listeners.get(name.key)
        return document if document is not None and document.tenant.name == name.tenant else None

    def live_route(self, definition: model.RouteDefinition) -> documents.Route | None:
        """Return the newest document of a delivery's route, or None if the route or its listener was removed."""
        if self.listener(definition.listener) is None:
            return None
        return self._routes.get((definition.listener.key, definition.route))

    def is_paused(self, definition: model.RouteDefinition) -> bool:
        """Return whether a route is paused or changed (``store.base.IsPaused``)."""
        route = self.live_route(definition)
        return route is None or route.state != "Active" or route.destination != definition.destination

    def expression_edition(self, definition: model.RouteDefinition) -> int:
        """Return how often the expressions changed since the start that a delivery's route uses."""
        live = self.live_route(definition)
        destination = live.destination if live is not None else definition.destination
        names = (definition.listener.key, definition.route), (destination, "")
        return sum(self._expression_editions.get(name, 0) for name in names)

    def transform_of(self, definition: model.RouteDefinition) -> str:
        """Return a delivery's newest transform: its route's, else its destination's; ``""`` if there is none."""
        live = self.live_route(definition)
        destination = self.destination(definition.destination)
        own = live.transform if live is not None else definition.transform
        return own or (destination.transform if destination is not None else "")

    def filter_of(self, definition: model.RouteDefinition) -> str:
        """Return the newest filter of a delivery's route; ``""`` if there is none."""
        live = self.live_route(definition)
        return live.when if live is not None else definition.when

    def destination_of(self, listener: model.ListenerName, route: str) -> str | None:
        """Return an existing route's destination."""
        live = self._routes.get((listener.key, route))
        return None if live is None else live.destination

    def hold_of(self, definition: model.RouteDefinition) -> model.HoldReason | None:
        """Return why a route's deliveries must not be attempted now, or None."""
        listener = self.listener(definition.listener)
        if listener is not None and listener.tenant.state == "Suspended":
            return model.HoldReason.TenantSuspended
        if listener is not None and listener.state == "Suspended":
            return model.HoldReason.ListenerSuspended
        return self._destination_hold(definition)

    def can_send(self, definition: model.RouteDefinition) -> bool:
        """Return whether a route's destination exists, is active, and has all that attempts need."""
        hold = self._destination_hold(definition)
        return hold is None and self.prepared_destination(definition.destination) is not None

    def _destination_hold(self, definition: model.RouteDefinition) -> model.HoldReason | None:
        """Return why the destination takes no deliveries from a route.

        A route that exists follows a Destination that was made again. A removed route's open deliveries belong to
        the object that they were accepted for, because the namespace and its names may be somebody else's by now.
        Objects from files have no uid, so there another tenantRef means another object.
        """
        live, destination = self.live_route(definition), self.destination(definition.destination)
        if live is not None and live.destination == definition.destination:
            return routing.destination_hold(destination, definition.listener.tenant, live.destination_uid)
        if destination is not None and definition.destination_tenant not in {destination.tenant, msgspec.UNSET}:
            return model.HoldReason.DestinationNotFound
        return routing.destination_hold(destination, definition.listener.tenant, definition.destination_uid)

    def evaluate_delivery(
        self, delivery: model.Delivery, definition: model.RouteDefinition, destination: documents.DestinationDocument
    ) -> EvaluatedDelivery:
        """Evaluate a delivery's transform and its destination's URL variables, if there are any."""
        transform = self.transform_of(definition)
        variables = {variable.name: variable.value for variable in destination.url_variables if variable.value}
        sources: list[expressions.Source] = [(transform, "transform")] if transform else []
        sources += [(source, "variable") for source in variables.values()]
        if not sources:
            return NOTHING_EVALUATED
        evaluations = self.evaluate_all(sources, delivery, definition)
        values = [evaluation.value for evaluation in evaluations]
        document = values.pop(0) if transform else payload.NOT_TRANSFORMED
        failed = next((evaluation for evaluation in evaluations if evaluation.error_code), expressions.Evaluation())
        return EvaluatedDelivery(
            document,
            dict(zip(variables, values, strict=True)),
            failed.error_code,
            failed.missing_field,
            sum([evaluation.cpu_seconds for evaluation in evaluations]),
        )

    def evaluate(
        self, source: str, where: expressions.Where, delivery: model.Delivery, definition: model.RouteDefinition
    ) -> expressions.Evaluation:
        """Evaluate an expression over the stored body."""
        return self.evaluate_all([(source, where)], delivery, definition)[0]

    def evaluate_all(
        self, sources: Sequence[expressions.Source], delivery: model.Delivery, definition: model.RouteDefinition
    ) -> list[expressions.Evaluation]:
        """Evaluate expressions over the stored body, which the listener's newest document tells how to read."""
        parsed = body.parse(delivery.body or b"", delivery.content_type.decode("latin-1"))
        if parsed.document is None:
            return [expressions.Evaluation(error_code="NoBody") for _ in sources]
        identifier, normaliser = self._reader(definition)
        fields = identifier.extract(parsed.document)
        occurred_at = identifier.occurred_at(fields.get("occurredAt"), delivery.received_at)
        visit = normaliser.visit(parsed.document, occurred_at)
        values = expressions.visit_values(
            visit,
            delivery.received_at,
            definition.listener,
            late=delivery.late,
            visit_id=model.format_id(delivery.visit_id),
            is_repeat=delivery.is_repeat,
        )
        programs = [expressions.compile_expression(*source) for source in sources]
        return [program.evaluate(values, parsed.document) for program in programs]

    def _reader(self, definition: model.RouteDefinition) -> tuple[identity.Identifier, routing.Normaliser]:
        """Return how to read a listener's bodies: by its document, or if it is gone by what its route kept."""
        document = self.listener(definition.listener)
        reader = self._readers.get(definition.listener.key) if document is not None else None
        if reader is None:
            used = document or _kept_document(definition)
            reader = (identity.Identifier(used, self._keys), routing.Normaliser(used.fields))
            if document is not None:
                self._readers[definition.listener.key] = reader
        return reader

    def _apply_listener(
        self, key: str, previous: documents.ListenerDocument | None, current: documents.ListenerDocument | None
    ) -> None:
        self._readers.pop(key, None)
        old = {(key, old_route.name): old_route for old_route in previous.routes} if previous else {}
        for name in old:
            self._routes.pop(name, None)
        for route in current.routes if current else ():
            name = (key, route.name)
            self._routes[name] = route
            previous_route = old.get(name)
            if previous_route is not None and (previous_route.when, previous_route.transform) != (
                route.when,
                route.transform,
            ):
                self._note_edition(name)

    def _note_edition(self, name: tuple[str, str]) -> None:
        self._expression_editions[name] = self._expression_editions.get(name, 0) + 1


def _expressions_of(destination: documents.DestinationDocument) -> object:
    return destination.transform, [variable.value for variable in destination.url_variables]


def _kept_document(definition: model.RouteDefinition) -> documents.ListenerDocument:
    """Make a document from what a route definition in the store says about its listener."""
    name = definition.listener
    fields: Mapping[str, tuple[str, ...]] = dict(definition.fields) or documents.DEFAULT_FIELDS
    return documents.ListenerDocument(
        name.namespace, name.listener, documents.TenantDocument(name.tenant), addresses=(), fields=dict(fields)
    )
