"""Plans what each route does with an arrival, once for a visit and once for a repeat (pure).

The store decides whether an arrival is a visit or a repeat, and it applies once-per marks and the quota, because these
depend on earlier arrivals. The planner therefore prepares both results and never looks at earlier arrivals.
"""

import datetime
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from usher_gateway import documents, expressions, model
from usher_gateway.ingest import identity
from usher_gateway.ingest.counters import ExpressionCounters
from usher_gateway.ingest.cpu_limits import ArrivalBudget, RouteCost, TenantBudgets

# A once-per mark is kept this long after its period and its delivery, because late visits may still arrive.
_MARK_KEPT = 8 * model.DAY

# Field of documents.DEFAULT_FIELDS -> its name in expressions.
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

Plans = tuple[model.RoutePlan, ...]

# Makes the once-per mark from (fields of the body, arrival, present time); also returns until when it is kept.
Marker = Callable[[Mapping[str, object], model.Arrival, int], tuple[bytes, int]]


class RoutingContext(msgspec.Struct, frozen=True, gc=False):
    """A plan's input."""

    body: dict[str, object]
    fields: dict[str, object]
    arrival: model.Arrival
    confirmed: int
    """``arrival.received_at``, or earlier if the clock jumped ahead: a visit is stale only by this time."""
    hold: model.HoldReason | None
    """The hold of the address, the listener or the tenant."""


class Normaliser:
    """Builds ``visit``, the normalised body that expressions see, for one listener."""

    def __init__(self, fields: Mapping[str, Iterable[str]]) -> None:
        self._extractor = identity.Extractor(fields, [*_TEXT_FIELDS, "visitCount"])

    def visit(self, body: object, occurred_at: int | None) -> model.Visit:
        """Build the visit of a body. ``occurred_at``: microseconds; None if the body's time cannot be trusted."""
        values = self._extractor.extract(body)
        texts = {name: identity.as_text(values.get(field)) for field, name in _TEXT_FIELDS.items()}
        return model.Visit(**texts, visitCount=_count(values.get("visitCount")), occurredAt=occurred_at)


def _count(value: object) -> int | None:
    text = identity.as_text(value)
    return int(text) if text.isdecimal() and len(text) < 19 else None


class Planner:
    """Plans one listener's routes. Its only state is what evaluating each expression cost."""

    def __init__(
        self,
        listener: documents.ListenerDocument,
        *,
        destinations: Mapping[str, documents.DestinationDocument],
        identifier: identity.Identifier,
        watcher: ExpressionCounters,
        budgets: TenantBudgets,
    ) -> None:
        self._listener = listener.listener_name
        self._budgets = budgets
        self._normaliser = Normaliser(listener.fields)
        self._routes = [_PlannedRoute(listener, route, destinations, identifier, watcher) for route in listener.routes]
        self.has_marks = any(route.once_per is not None for route in listener.routes)
        self.is_constant = all(route.is_constant for route in self._routes)
        """True if the plans are the same for every body, so that `constant` returns them."""
        self._constants: dict[model.HoldReason | None, tuple[Plans, Plans]] = {}

    def constant(self, hold: model.HoldReason | None) -> tuple[Plans, Plans]:
        """Return what `plan` returns for any body, if all routes are constant."""
        plans = self._constants.get(hold)
        if plans is None:
            plans = self._constants[hold] = self._with_repeats([route.constant(hold) for route in self._routes])
        return plans

    @property
    def programs(self) -> tuple[expressions.Program, ...]:
        """The compiled filters."""
        return tuple(route.filter for route in self._routes if route.filter is not None)

    @property
    def too_slow(self) -> set[str]:
        """Names of the routes whose filter, or transform in a shadow route, is too slow to be evaluated."""
        return {route.name for route in self._routes if route.is_too_slow}

    def marker(self, route: str) -> Marker | None:
        """Return how a route's once-per marks are made; None if it has no such rule."""
        return next((planned.mark for planned in self._routes if planned.name == route and planned.has_marks), None)

    def plan(self, context: RoutingContext) -> tuple[Plans, Plans]:
        """Return (plans for a visit, plans for a repeat), with one plan per route."""
        if self.is_constant:
            return self.constant(context.hold)
        arrival = context.arrival
        occurred_at = arrival.visit_time if arrival.time_trusted else None
        visit = expressions.visit_values(
            self._normaliser.visit(context.body, occurred_at), arrival.received_at, self._listener, late=arrival.late
        )
        budget = ArrivalBudget(self._listener, self._budgets)
        if_visit = [route.plan(context, visit, budget) for route in self._routes]
        budget.close()
        return self._with_repeats(if_visit)

    def _with_repeats(self, if_visit: Sequence[model.RoutePlan]) -> tuple[Plans, Plans]:
        if_repeat = [
            plan if route.forwards_repeats or plan.skip is model.SkipReason.Paused else route.repeat
            for route, plan in zip(self._routes, if_visit, strict=True)
        ]
        return tuple(if_visit), tuple(if_repeat)


class _PlannedRoute:
    def __init__(
        self,
        listener: documents.ListenerDocument,
        route: documents.Route,
        destinations: Mapping[str, documents.DestinationDocument],
        identifier: identity.Identifier,
        watcher: ExpressionCounters,
    ) -> None:
        self._route = route
        self._identifier = identifier
        self._watcher = watcher
        self._zone = zoneinfo.ZoneInfo(listener.tenant.time_zone)
        destination = destinations.get(route.destination)
        self._definition = definition_of(listener, route, destination)
        self._name = self._definition.listener
        self._transform = route.transform or (destination.transform if destination is not None else "")
        self._destination_hold = destination_hold(destination, listener.tenant.name, route.destination_uid)
        self._when = expressions.compile_expression(route.when, "when") if route.when else None
        self._filter_cost = RouteCost()
        self._shadow_cost = RouteCost()
        self.forwards_repeats = route.repeats == "Forward"
        self.repeat = self._skip(model.SkipReason.Repeat)
        self.is_constant = (
            self._when is None
            and route.once_per is None
            and not route.deliver_within_seconds
            and not (self._transform and route.state == "Shadow")
        )

    @property
    def name(self) -> str:
        return self._route.name

    @property
    def filter(self) -> expressions.Program | None:
        return self._when

    @property
    def has_marks(self) -> bool:
        return self._route.once_per is not None

    @property
    def is_too_slow(self) -> bool:
        return self._filter_cost.is_too_slow or self._shadow_cost.is_too_slow

    def constant(self, hold: model.HoldReason | None) -> model.RoutePlan:
        """Return what `plan` returns for any body, if the route is constant."""
        if self._route.state in {"Paused", "Shadow"}:
            return self._skip(model.SkipReason[self._route.state])
        return model.RoutePlan(self._definition, hold=hold or self._destination_hold)

    def plan(self, context: RoutingContext, visit: dict[str, object], budget: ArrivalBudget) -> model.RoutePlan:
        """Decide in this order: paused, filter, stale, once-per, shadow."""
        if self._route.state == "Paused":
            return self._skip(model.SkipReason.Paused)
        hold = context.hold or self._destination_hold
        passes, filter_hold = self._filter(visit, context.body, budget)
        if not passes:
            return self._skip(model.SkipReason.Filter)
        expires_at = 0
        if self._route.deliver_within_seconds:
            expires_at = context.arrival.visit_time + self._route.deliver_within_seconds * model.MICROSECONDS
            if expires_at <= context.confirmed:
                return self._skip(model.SkipReason.Stale)
        if self._route.state == "Shadow":
            self._render_shadow(visit, context.body, budget)
            return self._skip(model.SkipReason.Shadow)
        mark, until = self.mark(context.fields, context.arrival, context.arrival.received_at)
        return model.RoutePlan(
            self._definition, hold=filter_hold or hold, once_key=mark, once_until=until, expires_at=expires_at
        )

    def _skip(self, reason: model.SkipReason) -> model.RoutePlan:
        return model.RoutePlan(self._definition, skip=reason)

    def _filter(
        self, visit: dict[str, object], body: object, budget: ArrivalBudget
    ) -> tuple[bool, model.HoldReason | None]:
        """Return (passes, hold). If the filter cannot be evaluated, the delivery is held. It is never skipped."""
        if self._when is None:
            return True, None
        hold = model.HoldReason.ExpressionTooSlow
        if self._filter_cost.is_too_slow:
            return True, hold
        if budget.is_spent:
            self._watcher.expression_failed(self._name, self._route.name, hold.name, "")
            return True, hold
        evaluation = self._when.evaluate(visit, body)
        self._note(evaluation, self._filter_cost, budget)
        if not evaluation.error_code:
            return bool(evaluation.value), None
        return True, model.HoldReason.FilterError

    def _render_shadow(self, visit: dict[str, object], body: object, budget: ArrivalBudget) -> None:
        """Evaluate a shadow route's transform, which sends nothing, to find out whether it works."""
        if self._transform and not self._shadow_cost.is_too_slow and not budget.is_spent:
            evaluation = expressions.compile_expression(self._transform, "transform").evaluate(visit, body)
            self._note(evaluation, self._shadow_cost, budget)

    def _note(self, evaluation: expressions.Evaluation, cost: RouteCost, budget: ArrivalBudget) -> None:
        """Note the cost and the failure of an evaluation."""
        budget.note(evaluation.cpu_seconds)
        cost.note(evaluation.cpu_seconds)
        if cost.is_too_slow:
            self._watcher.expression_held(self._name, self._route.name)
        if evaluation.error_code:
            code, field = evaluation.error_code, evaluation.missing_field
            self._watcher.expression_failed(self._name, self._route.name, code, field)

    def mark(self, fields: Mapping[str, object], arrival: model.Arrival, now: int) -> tuple[bytes, int]:
        """Return the once-per rule's mark and the time after which the store may delete it; empty without a rule."""
        rule = self._route.once_per
        if rule is None:
            return b"", 0
        period, ends_at = period_of(arrival.visit_time, rule.every, self._zone)
        ids = dict(fields)
        for part in rule.per:
            # All visitors without an id would share one mark, so the fingerprint replaces a missing id.
            if not identity.as_text(ids.get(identity.FIELD_OF[part])):
                ids[identity.FIELD_OF[part]] = arrival.fingerprint.hex()
        return self._identifier.once_key(self._route.name, rule, ids, period), max(ends_at, now) + _MARK_KEPT


def definition_of(
    listener: documents.ListenerDocument, route: documents.Route, destination: documents.DestinationDocument | None
) -> model.RouteDefinition:
    """Return the part of a route that its deliveries keep."""
    name = listener.listener_name
    has_default_fields = listener.fields == documents.DEFAULT_FIELDS
    fields = [] if has_default_fields else sorted((field, tuple(paths)) for field, paths in listener.fields.items())
    return model.RouteDefinition(
        name,
        route.name,
        route.destination,
        route.when,
        route.transform,
        tuple(fields),
        route.destination_uid,
        msgspec.UNSET if destination is None else destination.tenant,
    )


def destination_hold(
    destination: documents.DestinationDocument | None, tenant: str, uid: str | msgspec.UnsetType
) -> model.HoldReason | None:
    """Return why a tenant's deliveries to a destination are held.

    Another tenant's destination counts as missing, and so does another object with the name of the one that is meant
    (``uid``).
    """
    if destination is None or destination.tenant not in {"", tenant} or destination.uid != uid:
        return model.HoldReason.DestinationNotFound
    if destination.state == "Paused":
        return model.HoldReason.DestinationPaused
    return model.HoldReason.SecretNotFound if destination.unresolved else None


def period_of(instant: int, every: str, zone: zoneinfo.ZoneInfo) -> tuple[str, int]:
    """Return (name, end) for the period around an instant in a time zone. A day may have 23 or 25 hours."""
    local = datetime.datetime.fromtimestamp(instant // model.MICROSECONDS, zone)
    day = local.date()
    if every == "Day":
        return day.isoformat(), _start_of(day + datetime.timedelta(days=1), zone)
    if every == "Week":
        year, week, weekday = day.isocalendar()
        return f"{year}-W{week:02d}", _start_of(day + datetime.timedelta(days=8 - weekday), zone)
    return f"{day:%Y-%m}", month_of(instant, zone)[1]


def month_of(instant: int, zone: zoneinfo.ZoneInfo) -> tuple[int, int]:
    """Return when the month around an instant and the next month begin, in a time zone (microseconds)."""
    day = datetime.datetime.fromtimestamp(instant // model.MICROSECONDS, zone).date().replace(day=1)
    return _start_of(day, zone), _start_of((day + datetime.timedelta(days=32)).replace(day=1), zone)


def _start_of(day: datetime.date, zone: zoneinfo.ZoneInfo) -> int:
    return int(datetime.datetime.combine(day, datetime.time(), zone).timestamp()) * model.MICROSECONDS
