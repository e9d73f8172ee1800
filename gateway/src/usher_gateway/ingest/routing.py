"""What each route would do with an arrival, if it is a visit and if it is a repeat (pure).

The store decides which of the two it is; so both are planned here, and only what it decides depends on what came before
(repeats, once-per marks, quota).
"""

import datetime
import zoneinfo
from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from usher_gateway import documents, expressions, model
from usher_gateway.ingest import identity

SLOW_SECONDS = 0.005
"""CPU time of one evaluation from which it counts as slow."""
SLOW_IN_A_ROW = 3
"""So many slow evaluations in a row hold the route."""

_DAY = 86_400 * model.MICROSECONDS
_MARK_KEPT = 8 * _DAY
"""A mark outlives its period, and the visit that made it, by this: late visits may still come."""

_TEXT_FIELDS = {
    "user": "userId",
    "venue": "venueId",
    "company": "companyId",
    "firstName": "firstName",
    "lastName": "lastName",
    "email": "email",
    "mobile": "mobile",
    "gender": "gender",
    "dateOfBirth": "dateOfBirth",
    "source": "source",
    "device": "mac",
    "venueName": "venueName",
}
"""Field of documents.DEFAULT_FIELDS -> its name in expressions."""

Plans = tuple[model.RoutePlan, ...]

_NOBODY = identity.Identity(b"", b"", (), 0, time_trusted=False)


class ExpressionWatcher(Protocol):
    """Who is told what expressions do: counts for metrics and conditions."""

    def expression_failed(self, listener: str, route: str, code: str) -> None:
        """An evaluation failed."""

    def expression_held(self, listener: str, route: str) -> None:
        """A route is held because its expression is too slow."""


class RoutingContext(msgspec.Struct, frozen=True, gc=False):
    """What a route may look at, beside the body."""

    body: dict[str, object]
    fields: dict[str, object]
    identity: identity.Identity
    received_at: int
    late: bool
    hold: model.HoldReason | None
    """A hold that comes from the address, the listener or the tenant."""


class Normaliser:
    """Makes ``visit`` for the expressions of one listener."""

    def __init__(self, fields: Mapping[str, Iterable[str]]) -> None:
        self._extractor = identity.Extractor(fields, [*_TEXT_FIELDS, "visitCount"])

    def visit(self, body: object, occurred_at: int | None) -> model.Visit:
        """The visit in a body; ``occurred_at`` (microseconds) where its time can be trusted."""
        found = self._extractor.extract(body)
        texts = {name: identity.as_text(found.get(field)) for field, name in _TEXT_FIELDS.items()}
        return model.Visit(**texts, visitCount=_count(found.get("visitCount")), occurredAt=occurred_at)


def _count(value: object) -> int | None:
    text = identity.as_text(value)
    return int(text) if text.isdecimal() and len(text) < 19 else None


class Planner:
    """The routes of one listener. Keeps how its expressions behave; all else follows from the documents."""

    def __init__(
        self,
        listener: documents.ListenerDocument,
        destinations: Mapping[str, documents.DestinationDocument],
        identifier: identity.Identifier,
        watcher: ExpressionWatcher,
    ) -> None:
        self._normaliser = Normaliser(listener.fields)
        self._routes = [_PlannedRoute(listener, route, destinations, identifier, watcher) for route in listener.routes]
        self.has_marks = any(route.once_per is not None for route in listener.routes)
        self.is_constant = all(route.is_constant for route in self._routes)
        """Whether the plans are the same for every body: constant() has them."""
        self._constants: dict[model.HoldReason | None, tuple[Plans, Plans]] = {}

    def constant(self, hold: model.HoldReason | None) -> tuple[Plans, Plans]:
        """What plan() gives for any body, where all routes are constant."""
        plans = self._constants.get(hold)
        if plans is None:
            context = RoutingContext({}, {}, _NOBODY, 0, late=False, hold=hold)
            plans = self._constants[hold] = self._plan(context, {})
        return plans

    @property
    def too_slow(self) -> set[str]:
        """Names of the routes that are held because their filter is too slow."""
        return {route.name for route in self._routes if route.is_too_slow}

    def plan(self, context: RoutingContext) -> tuple[Plans, Plans]:
        """(plans if it is a visit, plans if it is a repeat), one per route."""
        if self.is_constant:
            return self.constant(context.hold)
        occurred_at = context.identity.visit_time if context.identity.time_trusted else None
        visit = expressions.visit_values(
            self._normaliser.visit(context.body, occurred_at), context.received_at, late=context.late
        )
        return self._plan(context, visit)

    def _plan(self, context: RoutingContext, visit: dict[str, object]) -> tuple[Plans, Plans]:
        if_visit = tuple([route.plan(context, visit) for route in self._routes])
        if_repeat = tuple(
            [
                plan if route.forwards_repeats or plan.skip is model.SkipReason.Paused else route.repeat
                for route, plan in zip(self._routes, if_visit, strict=True)
            ]
        )
        return if_visit, if_repeat


class _PlannedRoute:
    def __init__(
        self,
        listener: documents.ListenerDocument,
        route: documents.Route,
        destinations: Mapping[str, documents.DestinationDocument],
        identifier: identity.Identifier,
        watcher: ExpressionWatcher,
    ) -> None:
        self._route, self._identifier, self._watcher = route, identifier, watcher
        self._zone = zoneinfo.ZoneInfo(listener.tenant.time_zone)
        self._definition = definition_of(listener, route)
        self._name = self._definition.listener
        self._destination_hold = destination_hold(destinations.get(route.destination), listener.tenant.name)
        self._when = expressions.compile_expression(route.when, "when") if route.when else None
        self._slow_in_a_row = 0
        self.forwards_repeats = route.repeats == "Forward"
        self.repeat = self._skip(model.SkipReason.Repeat)
        self.is_constant = (
            self._when is None
            and route.once_per is None
            and not route.deliver_within_seconds
            and not (route.transform and route.state == "Shadow")
        )

    @property
    def name(self) -> str:
        return self._route.name

    @property
    def is_too_slow(self) -> bool:
        return self._slow_in_a_row >= SLOW_IN_A_ROW

    def plan(self, context: RoutingContext, visit: dict[str, object]) -> model.RoutePlan:
        """The verdict in design §3's order: paused, filter, stale, once-per, shadow."""
        if self._route.state == "Paused":
            return self._skip(model.SkipReason.Paused)
        hold = context.hold or self._destination_hold
        passes, filter_hold = self._filter(visit, context.body)
        if not passes:
            return self._skip(model.SkipReason.Filter)
        expires_at = 0
        if self._route.deliver_within_seconds:
            expires_at = context.identity.visit_time + self._route.deliver_within_seconds * model.MICROSECONDS
            if expires_at <= context.received_at:
                return self._skip(model.SkipReason.Stale)
        if self._route.state == "Shadow":
            self._render_shadow(visit, context.body)
            return self._skip(model.SkipReason.Shadow)
        mark, until = self._mark(context)
        return model.RoutePlan(
            self._definition, hold=filter_hold or hold, once_key=mark, once_until=until, expires_at=expires_at
        )

    def _skip(self, reason: model.SkipReason) -> model.RoutePlan:
        return model.RoutePlan(self._definition, skip=reason)

    def _filter(self, visit: dict[str, object], body: object) -> tuple[bool, model.HoldReason | None]:
        """(passes, why it cannot be decided): what cannot be decided becomes a held delivery, never a skip."""
        if self._when is None:
            return True, None
        if self.is_too_slow:
            return True, model.HoldReason.ExpressionTooSlow
        evaluation = self._when.evaluate(visit, body)
        self._note_duration(evaluation.cpu_seconds)
        if not evaluation.error_code:
            return bool(evaluation.value), None
        self._watcher.expression_failed(self._name.key, self._route.name, evaluation.error_code)
        return True, model.HoldReason.FilterError

    def _note_duration(self, cpu_seconds: float) -> None:
        if cpu_seconds < SLOW_SECONDS:
            self._slow_in_a_row = 0
            return
        self._slow_in_a_row += 1
        if self._slow_in_a_row == SLOW_IN_A_ROW:
            self._watcher.expression_held(self._name.key, self._route.name)

    def _render_shadow(self, visit: dict[str, object], body: object) -> None:
        """A shadow route shows whether its transform works, and sends nothing."""
        if self._route.transform:
            evaluation = expressions.compile_expression(self._route.transform, "transform").evaluate(visit, body)
            if evaluation.error_code:
                self._watcher.expression_failed(self._name.key, self._route.name, evaluation.error_code)

    def _mark(self, context: RoutingContext) -> tuple[bytes, int]:
        rule = self._route.once_per
        if rule is None:
            return b"", 0
        period, ends_at = period_of(context.identity.visit_time, rule.every, self._zone)
        fields = dict(context.fields)
        for part in rule.per:
            # An id that is missing must not make one person of everybody without it.
            if not identity.as_text(fields.get(identity.FIELD_OF[part])):
                fields[identity.FIELD_OF[part]] = context.identity.fingerprint.hex()
        return self._identifier.once_key(self._route.name, rule.per, fields, period), max(
            ends_at, context.received_at
        ) + _MARK_KEPT


def definition_of(listener: documents.ListenerDocument, route: documents.Route) -> model.RouteDefinition:
    """What a delivery keeps of its route."""
    name = model.ListenerName(listener.namespace, listener.tenant.name, listener.name)
    needs_fields = bool(route.transform) and listener.fields != documents.DEFAULT_FIELDS
    fields = tuple(sorted((field, tuple(paths)) for field, paths in listener.fields.items())) if needs_fields else ()
    return model.RouteDefinition(name, route.name, route.destination, route.when, route.transform, fields)


def destination_hold(destination: documents.DestinationDocument | None, tenant: str) -> model.HoldReason | None:
    """Why a tenant's deliveries to a destination must wait for a person. Another tenant's destination is not there."""
    if destination is None or destination.tenant not in {"", tenant}:
        return model.HoldReason.DestinationNotFound
    if destination.state == "Paused":
        return model.HoldReason.DestinationPaused
    return model.HoldReason.SecretNotFound if destination.unresolved else None


def period_of(instant: int, every: str, zone: zoneinfo.ZoneInfo) -> tuple[str, int]:
    """(name, end) of the period that an instant lies in, in a time zone; a day may have 23 or 25 hours."""
    local = datetime.datetime.fromtimestamp(instant // model.MICROSECONDS, zone)
    day = local.date()
    if every == "Day":
        return day.isoformat(), _start_of(day + datetime.timedelta(days=1), zone)
    if every == "Week":
        year, week, weekday = day.isocalendar()
        return f"{year}-W{week:02d}", _start_of(day + datetime.timedelta(days=8 - weekday), zone)
    return f"{day:%Y-%m}", month_of(instant, zone)[1]


def month_of(instant: int, zone: zoneinfo.ZoneInfo) -> tuple[int, int]:
    """First instant of the month that an instant lies in, and of the next, in a time zone (microseconds)."""
    day = datetime.datetime.fromtimestamp(instant // model.MICROSECONDS, zone).date().replace(day=1)
    return _start_of(day, zone), _start_of((day + datetime.timedelta(days=32)).replace(day=1), zone)


def _start_of(day: datetime.date, zone: zoneinfo.ZoneInfo) -> int:
    return int(datetime.datetime.combine(day, datetime.time(), zone).timestamp()) * model.MICROSECONDS
