"""Tries another configuration of a listener on its stored arrivals: what would its routes do, and what do they do now?

Both configurations take an arrival's and a delivery's path, with the code that serves them: the planner decides
as it would have decided when the arrival came, and the worker's steps make the request. Nothing is sent, stored or
counted.

A try does not decide again what depends on earlier arrivals: a visit stays a visit, and a repeat a repeat. Once-per
marks start empty with the oldest arrival that is tried, in both configurations. Quotas are ignored.
"""

import asyncio
import collections
import functools
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from usher_gateway import documents, model, timing
from usher_gateway.delivery import payload
from usher_gateway.delivery.masked_diff import ShownRequest, ValueMask, diff_lines
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.destinations import DestinationRequest
from usher_gateway.expressions.turns import PAUSE_FACTOR
from usher_gateway.ingest import body
from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
from usher_gateway.ingest.cpu_limits import TenantBudgets
from usher_gateway.ingest.pipeline import rebuild_arrival
from usher_gateway.ingest.registry import LiveListener

_EXAMPLES = 5  # Most visits that a result names for each kind of change
_LONG_STEP_SECONDS = 0.005  # A step of a try that takes more CPU time causes a pause

_Made = TypeVar("_Made")

# Every route's skip reason if the listener does not take the body for a visit any more.
_QUARANTINED = "Quarantined"

# Holds without a request: a user has to correct something first.
_ERRORS = frozenset(
    {model.HoldReason.FilterError, model.HoldReason.ExpressionTooSlow, model.HoldReason.DestinationNotFound}
)


class RouteOutcome(msgspec.Struct, frozen=True):
    """An arrival's outcome at a route: a request, or the reason for none."""

    skip: str = ""
    """A skip reason."""
    error: str = ""
    """Why the delivery is held until somebody corrects the route; perhaps with a missing field in brackets."""
    hold: str = ""
    """Another hold, such as a pause. It ends without a change to the route."""
    once_key: bytes = b""
    request: ShownRequest | None = None
    cpu_seconds: float = 0.0
    """CPU time for the filter, the transform, the URL variables, and making the request."""

    @property
    def is_sent(self) -> bool:
        """True if the destination gets the visit, at once or after a hold."""
        return not self.skip and not self.error


class _Failures(ExpressionCounters):
    """Keeps each route's last failure, and logs none, because nothing happens to a visit."""

    def __init__(self) -> None:
        super().__init__()
        self.last: dict[str, str] = {}

    def expression_failed(self, name: model.ListenerName, route: str, code: str, missing_field: str) -> None:  # noqa: ARG002
        self.last[route] = _with_field(code, missing_field)

    def expression_held(self, name: model.ListenerName, route: str) -> None:
        pass


class ConfiguredListener:
    """A listener in one configuration. Its destination documents have no credentials."""

    def __init__(
        self,
        document: documents.ListenerDocument,
        destinations: Mapping[str, documents.DestinationDocument],
        keys: model.Keys,
    ) -> None:
        used = {route.destination for route in document.routes}
        own_destinations = {key: destinations[key] for key in sorted(used & destinations.keys())}
        self.routes = {route.name: route.destination for route in document.routes}
        self._failures = _Failures()
        self._live = LiveListener(
            document,
            destinations=own_destinations,
            keys=keys,
            expressions=self._failures,
            counters=ArrivalCounters(),
            budgets=TenantBudgets(),
            now=0.0,
        )
        self._documents = RouteDocuments(keys=keys)
        self._documents.apply(documents.Snapshot({document.key: document}, own_destinations))

    def plan(self, stored: model.Arrival, visit_id: bytes, *, is_repeat: bool) -> dict[str, Callable[[], RouteOutcome]]:
        """Plan a stored arrival. Returns for each route how to make its outcome, until the next arrival is planned."""
        self._failures.last.clear()
        rebuilt = rebuild_arrival(self._live, stored, stored.received_at)
        if isinstance(rebuilt, model.QuarantineReason):
            return dict.fromkeys(self.routes, functools.partial(RouteOutcome, skip=_QUARANTINED))
        delivery = _delivery(stored, rebuilt, visit_id, is_repeat=is_repeat)
        plans = rebuilt.if_repeat if is_repeat else rebuilt.if_visit
        return {plan.route.route: functools.partial(self._outcome, plan, delivery) for plan in plans}

    def _outcome(self, plan: model.RoutePlan, delivery: model.Delivery) -> RouteOutcome:
        failure = self._failures.last.get(plan.route.route, "")
        filter_seconds = 0.0
        if plan.route.when:  # again, because the plan does not say how long the filter took
            filter_seconds = self._documents.evaluate(plan.route.when, "when", delivery, plan.route).cpu_seconds
        if plan.skip is not None:
            # A shadow route's transform is evaluated. A filter's failure does not matter to a skipped repeat.
            error = failure if plan.skip is model.SkipReason.Shadow else ""
            return RouteOutcome(skip=plan.skip.name, error=error, cpu_seconds=filter_seconds)
        if plan.hold in _ERRORS:
            return RouteOutcome(error=failure or plan.hold.name, once_key=plan.once_key, cpu_seconds=filter_seconds)
        outcome = self._rendered(plan.route, delivery)
        return msgspec.structs.replace(
            outcome,
            hold=plan.hold.name if plan.hold is not None else "",
            once_key=plan.once_key,
            cpu_seconds=outcome.cpu_seconds + filter_seconds,
        )

    def _rendered(self, route: model.RouteDefinition, delivery: model.Delivery) -> RouteOutcome:
        """Make a delivery's request, as `DeliveryWorker.attempt` does."""
        prepared = self._documents.prepared_destination(route.destination)
        assert prepared is not None, "a document without credentials has no header that could be wrong"
        evaluated = self._documents.evaluate_delivery(delivery, route, prepared.destination)
        if evaluated.error_code:
            error = _with_field(evaluated.error_code, evaluated.missing_field)
            return RouteOutcome(error=error, cpu_seconds=evaluated.cpu_seconds)
        received_at, started = delivery.received_at, time.thread_time()
        request = payload.render(prepared, delivery, route, received_at, evaluated.document, evaluated.url_values)
        cpu_seconds = evaluated.cpu_seconds + time.thread_time() - started
        if isinstance(request, payload.FormatError):
            return RouteOutcome(error=request.code, cpu_seconds=cpu_seconds)
        shown_request = ShownRequest(request, documents.shorten_url(prepared.destination.url), evaluated.url_values)
        return RouteOutcome(request=shown_request, cpu_seconds=cpu_seconds)


def _with_field(code: str, missing_field: str) -> str:
    return f"{code} ({missing_field})" if missing_field else code


def _delivery(stored: model.Arrival, rebuilt: model.Arrival, visit_id: bytes, *, is_repeat: bool) -> model.Delivery:
    """Return a delivery for a stored arrival, with the arrival's id."""
    return model.Delivery(
        key=stored.key,
        id=visit_id,
        arrival=stored.key,
        visit_id=visit_id,
        is_repeat=is_repeat,
        route=0,
        created_at=stored.received_at,
        received_at=stored.received_at,
        visit_time=rebuilt.visit_time,
        late=rebuilt.late,
        hops=stored.hops,
        attempts=0,
        started_at=stored.received_at,
        expires_at=0,
        body=stored.body,
        content_type=stored.content_type,
    )


class OutcomeCounts(msgspec.Struct):
    """A route's outcomes in one configuration: sent, skipped or failed. A shadow route may be both last."""

    sent: int = 0
    held: dict[str, int] = msgspec.field(default_factory=dict)
    """How many sent ones first wait, by hold reason."""
    skipped: dict[str, int] = msgspec.field(default_factory=dict)
    """By skip reason."""
    errors: dict[str, int] = msgspec.field(default_factory=dict)
    """By error code."""

    def add(self, outcome: RouteOutcome) -> None:
        """Count an outcome."""
        self.sent += outcome.is_sent
        _count(self.held, outcome.hold if outcome.is_sent else "")
        _count(self.skipped, outcome.skip)
        _count(self.errors, outcome.error)


def _count(counts: dict[str, int], name: str) -> None:
    if name:
        counts[name] = counts.get(name, 0) + 1


class ExampleVisits(msgspec.Struct, rename="camel"):
    """Ids of visits, the newest first."""

    newly_sent: list[str] = msgspec.field(default_factory=list)
    newly_skipped: list[str] = msgspec.field(default_factory=list)
    changed_requests: list[str] = msgspec.field(default_factory=list, name="changed")
    errors: list[str] = msgspec.field(default_factory=list)


class VisitDiff(msgspec.Struct, frozen=True):
    """How one visit's request changes, as unified diff lines."""

    visit: str
    lines: list[str]


class RouteResult(msgspec.Struct, rename="camel"):
    """A change's effect on one route."""

    route: str
    destination: str
    """The changed route's destination, or the present one's if the change removes the route."""
    in_force: OutcomeCounts | None = msgspec.field(name="before")
    """None: the route is new."""
    changed: OutcomeCounts | None = msgspec.field(name="now")
    """None: the change removes the route."""
    newly_sent: int = 0
    newly_skipped: dict[str, int] = msgspec.field(default_factory=dict)
    """Sent by the configuration in force and skipped by the changed one, by the reason."""
    changed_requests: int = msgspec.field(default=0, name="changed")
    """Sent in both configurations, with different requests."""
    mean_milliseconds: float = 0.0
    """CPU time that the changed expressions take per visit on this gateway."""
    longest_milliseconds: float = 0.0
    examples: ExampleVisits = msgspec.field(default_factory=ExampleVisits)
    diffs: list[VisitDiff] = msgspec.field(default_factory=list)


class _OutcomePair(msgspec.Struct):
    """One route's outcomes for one visit."""

    in_force: RouteOutcome
    changed: RouteOutcome
    is_different: bool
    lines: list[str]


def _absent() -> RouteOutcome:
    return RouteOutcome(skip="NoRoute")


class DiffBudget(msgspec.Struct):
    """How many differences may still be made for all listeners in a try; each may take some hundredths of a second."""

    left: int


class ListenerComparison:
    """Compares two configurations of a listener.

    ``diffs``: for how many visits to each route to make the difference between requests. ``budget``: for all
    listeners' differences. ``mask`` hides values in differences; None shows them.
    """

    def __init__(
        self,
        *,
        in_force: ConfiguredListener | None,
        changed: ConfiguredListener,
        diffs: int = 0,
        budget: DiffBudget,
        mask: ValueMask | None,
    ) -> None:
        self._in_force, self._changed = in_force, changed
        self._diffs_left = collections.Counter(dict.fromkeys(changed.routes, diffs))
        self._budget, self._mask = budget, mask
        self._turns = timing.EventLoopTurns()
        self._visits: list[tuple[str, dict[str, _OutcomePair]]] = []

    @property
    def tried(self) -> int:
        """How many arrivals were tried."""
        return len(self._visits)

    async def take(self, stored: model.Arrival, visit_id: bytes, *, is_repeat: bool, end: float) -> bool:
        """Try an arrival, which is older than the last one.

        Returns:
            False if the time (``end``, by ``time.monotonic``) was over before the last route. The arrival does not
            count as tried then.
        """
        in_force, changed = [
            await self._run(functools.partial(side.plan, stored, visit_id, is_repeat=is_repeat))
            if side is not None
            else {}
            for side in (self._in_force, self._changed)
        ]
        pairs = {}
        for route in {**changed, **in_force}:
            if time.monotonic() > end:
                return False
            pairs[route] = await self._pair(route, in_force.get(route, _absent), changed.get(route, _absent), stored)
        self._visits.append((model.format_id(visit_id), pairs))
        return True

    async def _run(self, step: Callable[[], _Made]) -> _Made:
        """Run a step. After a long one, pause so that a try uses at most a quarter of the event loop."""
        started = time.thread_time()
        made = step()
        seconds = time.thread_time() - started
        if seconds > _LONG_STEP_SECONDS:
            await asyncio.sleep(seconds * PAUSE_FACTOR)
        else:
            await self._turns.give_way()
        return made

    async def _pair(
        self,
        route: str,
        make_in_force: Callable[[], RouteOutcome],
        make_changed: Callable[[], RouteOutcome],
        stored: model.Arrival,
    ) -> _OutcomePair:
        """Make and compare a route's outcomes. Forget the requests before the next route: each may be large."""
        in_force, changed = await self._run(make_in_force), await self._run(make_changed)
        is_different, lines = False, list[str]()
        if in_force.request is not None and changed.request is not None:
            is_different = _sent_parts(in_force.request.request) != _sent_parts(changed.request.request)
            if is_different and self._diffs_left[route] and self._budget.left:
                self._diffs_left[route] -= 1
                self._budget.left -= 1
                lines = await asyncio.to_thread(_difference, in_force.request, changed.request, self._mask, stored)
        return _OutcomePair(
            msgspec.structs.replace(in_force, request=None),
            msgspec.structs.replace(changed, request=None),
            is_different,
            lines,
        )

    async def results(self) -> list[RouteResult]:
        """Return what the change does to each route, the changed listener's last."""
        await self._use_marks()
        routes_in_force = self._in_force.routes if self._in_force is not None else {}
        results = {
            route: RouteResult(
                route=route,
                destination=destination,
                in_force=OutcomeCounts() if route in routes_in_force else None,
                changed=OutcomeCounts() if route in self._changed.routes else None,
            )
            for route, destination in {**routes_in_force, **self._changed.routes}.items()
        }
        milliseconds = dict.fromkeys(results, 0.0)
        for visit, pairs in self._visits:
            for route, pair in pairs.items():
                _add(results[route], visit, pair)
                milliseconds[route] += pair.changed.cpu_seconds * 1000
            await self._turns.give_way()
        for route, result in results.items():
            result.mean_milliseconds = round(milliseconds[route] / max(1, self.tried), 3)
        return list(results.values())

    async def _use_marks(self) -> None:
        """Let once-per rules skip what they would skip, the oldest visit first."""
        marks_in_force, marks_changed = set[bytes](), set[bytes]()
        for _, pairs in reversed(self._visits):
            for pair in pairs.values():
                pair.in_force = _with_mark(pair.in_force, marks_in_force)
                pair.changed = _with_mark(pair.changed, marks_changed)
            await self._turns.give_way()


def _difference(
    in_force: ShownRequest, changed: ShownRequest, mask: ValueMask | None, stored: model.Arrival
) -> list[str]:
    """Return a difference's lines. It takes too long for the event loop."""
    document = body.parse(stored.body, stored.content_type.decode("latin-1")).document
    return diff_lines(in_force, changed, mask, document)


def _sent_parts(request: DestinationRequest) -> tuple[object, ...]:
    return request.method, request.url, request.headers, request.body


def _with_mark(outcome: RouteOutcome, marks: set[bytes]) -> RouteOutcome:
    """Return an outcome after the once-per rule of its route. As in the store, a held delivery uses its mark too."""
    if outcome.skip or not outcome.once_key:
        return outcome
    if outcome.once_key in marks:
        return RouteOutcome(skip=model.SkipReason.OncePer.name, cpu_seconds=outcome.cpu_seconds)
    marks.add(outcome.once_key)
    return outcome


def _add(result: RouteResult, visit: str, pair: _OutcomePair) -> None:
    """Add the outcomes for a visit to the result of their route."""
    for counts, outcome in ((result.in_force, pair.in_force), (result.changed, pair.changed)):
        if counts is not None:
            counts.add(outcome)
    result.longest_milliseconds = max(result.longest_milliseconds, round(pair.changed.cpu_seconds * 1000, 3))
    examples = result.examples
    if pair.changed.is_sent and not pair.in_force.is_sent:
        result.newly_sent += 1
        _add_example(examples.newly_sent, visit)
    elif pair.in_force.is_sent and pair.changed.skip:
        _count(result.newly_skipped, pair.changed.skip)
        _add_example(examples.newly_skipped, visit)
    elif pair.in_force.is_sent and pair.changed.is_sent and pair.is_different:
        result.changed_requests += 1
        _add_example(examples.changed_requests, visit)
        if pair.lines:
            result.diffs.append(VisitDiff(visit, pair.lines))
    if pair.changed.error:
        _add_example(examples.errors, visit)


def _add_example(visits: list[str], visit: str) -> None:
    if len(visits) < _EXAMPLES:
        visits.append(visit)
