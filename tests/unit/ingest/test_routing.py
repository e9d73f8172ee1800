import datetime
import itertools
import re
import zoneinfo
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import ingest_samples, source
from usher_gateway import documents, expressions, model
from usher_gateway.expressions import syntax
from usher_gateway.ingest import routing
from usher_gateway.ingest.cpu_limits import TenantBudgets

SECOND = model.MICROSECONDS
HOUR = 3600 * SECOND
Skip, Hold = model.SkipReason, model.HoldReason
BODY: dict[str, Any] = {"user": {"id": 7, "email": "a@example.test", "venue": {"id": 9}}}


def crm(**changes: Any) -> documents.Route:
    return documents.Route("crm", "agency/crm", **changes)


def at(hours_ago: float) -> dict[str, Any]:
    return {**BODY, "timestamp": ingest_samples.NOON // SECOND - int(hours_ago * 3600)}


def once(every: str, *per: str) -> documents.OncePer:
    return documents.OncePer(per or ("User",), every)  # type: ignore[arg-type]


# The order of verdicts


def test_visit_is_delivered_and_repeat_is_skipped() -> None:
    routes = (crm(), crm(repeats="Forward"), crm(state="Paused"))
    if_visit, if_repeat = ingest_samples.planner(*routes).plan(BODY)
    assert [plan.skip for plan in if_visit] == [None, None, Skip.Paused]
    assert [plan.skip for plan in if_repeat] == [Skip.Repeat, None, Skip.Paused]


FALSE, TRUE, FAILING = "visit.email == ''", "visit.email != ''", "body.missing.x == 1"


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        (Skip.Paused, {"state": "Paused", "when": FALSE, "deliver_within_seconds": 60}),
        (Skip.Filter, {"state": "Shadow", "when": FALSE, "deliver_within_seconds": 60}),
        (Skip.Stale, {"state": "Shadow", "when": TRUE, "deliver_within_seconds": 60}),
        (Skip.Shadow, {"state": "Shadow", "when": TRUE, "deliver_within_seconds": 86_400}),
        (None, {"when": TRUE, "deliver_within_seconds": 86_400}),
    ],
)
def test_first_reason_to_skip_is_recorded(reason: model.SkipReason | None, changes: dict[str, Any]) -> None:
    plan = ingest_samples.planner(crm(once_per=once("Day"), **changes)).first(at(hours_ago=1))
    assert plan.skip is reason
    assert bool(plan.once_key) is (reason is None), "a visit that is skipped does not use its period up"


@pytest.mark.parametrize(("hours", "skip"), [(0.99, None), (1.0, Skip.Stale), (5, Skip.Stale)])
def test_old_visit_is_stale_by_its_own_time(hours: float, skip: model.SkipReason | None) -> None:
    plan = ingest_samples.planner(crm(deliver_within_seconds=3600)).first(at(hours))
    assert plan.skip is skip
    if skip is None:
        assert plan.expires_at == ingest_samples.NOON - int(hours * 3600) * SECOND + HOUR


def test_arrival_without_a_trusted_time_is_not_stale() -> None:
    plan = ingest_samples.planner(crm(deliver_within_seconds=60)).first({**BODY, "timestamp": "2025-11-20 10:00:00"})
    assert (plan.skip, plan.expires_at) == (None, ingest_samples.NOON + 60 * SECOND)


# Holds


def test_hold_of_the_listener_holds_every_route() -> None:
    if_visit, if_repeat = ingest_samples.planner(crm(), crm(repeats="Forward")).plan(BODY, hold=Hold.TenantSuspended)
    assert [plan.hold for plan in if_visit] == [Hold.TenantSuspended] * 2
    assert [plan.hold for plan in if_repeat] == [None, Hold.TenantSuspended]


@pytest.mark.parametrize(
    ("destination", "hold"),
    [
        (None, Hold.DestinationNotFound),
        (ingest_samples.destination(uid="of-another-object"), Hold.DestinationNotFound),
        (ingest_samples.destination(tenant="other"), Hold.DestinationNotFound),
        (ingest_samples.destination(tenant="acme"), None),
        (ingest_samples.destination(state="Paused"), Hold.DestinationPaused),
        (ingest_samples.destination(unresolved="SecretNotFound"), Hold.SecretNotFound),
        (ingest_samples.destination(unresolved="SecretKeyNotFound"), Hold.SecretNotFound),
        (ingest_samples.destination(), None),
    ],
)
def test_unusable_destination_holds_the_delivery(destination: documents.DestinationDocument | None, hold: Any) -> None:
    assert routing.destination_hold(destination, "acme", msgspec.UNSET) is hold


def test_missing_destination_holds_and_does_not_skip() -> None:
    plan = ingest_samples.planner(documents.Route("gone", "agency/gone")).first(BODY)
    assert (plan.skip, plan.hold) == (None, Hold.DestinationNotFound)


@pytest.mark.parametrize("when", [FAILING, "visit.email", "int(visit.userId + 'x') == 1"])
def test_failed_filter_holds_and_is_reported(when: str) -> None:
    watch = ingest_samples.RecordingWatcher()
    plan = ingest_samples.planner(crm(when=when), watcher=watch).first(BODY)
    assert (plan.skip, plan.hold) == (None, Hold.FilterError)
    assert [(listener, name) for listener, name, _ in watch.failed] == [("agency/wifi", "crm")]


def test_shadow_route_reports_a_failed_transform() -> None:
    watch = ingest_samples.RecordingWatcher()
    plan = ingest_samples.planner(crm(state="Shadow", transform="body.missing.x"), watcher=watch).first(BODY)
    assert plan.skip is Skip.Shadow
    assert len(watch.failed) == 1


class _Evaluated:
    """An expression whose cost is given."""

    def __init__(self, costs: list[float]) -> None:
        self.costs = costs
        self.calls = 0

    def evaluate(self, *_: object) -> expressions.Evaluation:
        self.calls += 1
        return expressions.Evaluation(value=False, cpu_seconds=self.costs.pop(0))


Evaluate = Callable[[list[float]], _Evaluated]


@pytest.fixture
def evaluate_at(monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Let every expression that is compiled from now on cost these CPU seconds."""

    def costs_of_next(costs: list[float]) -> _Evaluated:
        expression = _Evaluated(costs)
        monkeypatch.setattr(expressions, "compile_expression", lambda *_: expression)
        return expression

    return costs_of_next


FILTERS = [documents.Route(f"r{number}", "agency/crm", when=FALSE) for number in range(32)]


@pytest.mark.parametrize(
    ("costs", "evaluated"),
    [
        pytest.param([0.006, 0.005, 0.007], 3, id="three in a row"),
        pytest.param([0.006, 0.006, 0.0001] * 4, 4, id="fast ones between"),
        pytest.param(([0.006] + [0.0001] * 49) * 4, 200, id="rare ones"),
    ],
)
def test_route_is_held_after_slow_evaluations(evaluate_at: Evaluate, costs: list[float], evaluated: int) -> None:
    watch, expression = ingest_samples.RecordingWatcher(), evaluate_at(costs)
    planning = ingest_samples.planner(crm(when=FALSE), watcher=watch)
    plans = [planning.first(BODY) for _ in range(200)]
    assert [plan.skip for plan in plans] == [Skip.Filter] * evaluated + [None] * (200 - evaluated)
    assert [plan.hold for plan in plans] == [None] * evaluated + [Hold.ExpressionTooSlow] * (200 - evaluated)
    assert expression.calls == evaluated
    assert watch.held == ([("agency/wifi", "crm")] if evaluated < 200 else [])


def test_arrival_stops_evaluating_after_20_ms_and_holds_the_other_routes(evaluate_at: Evaluate) -> None:
    watch = ingest_samples.RecordingWatcher()
    evaluate_at([0.004] * 33)
    planning = ingest_samples.planner(*FILTERS, watcher=watch)
    plans, _ = planning.plan(BODY)
    assert [plan.skip for plan in plans] == [Skip.Filter] * 5 + [None] * 27
    assert [plan.hold for plan in plans] == [None] * 5 + [Hold.ExpressionTooSlow] * 27
    assert watch.failed == [("agency/wifi", f"r{number}", "ExpressionTooSlow") for number in range(5, 32)]
    assert watch.held == [], "the routes are evaluated again for the next arrival"
    assert planning.first(BODY).skip is Skip.Filter


def test_tenant_may_use_half_a_second_at_once_for_expensive_evaluations(evaluate_at: Evaluate) -> None:
    watch, route = ingest_samples.RecordingWatcher(), crm(when=FALSE)
    evaluate_at([0.003] * 300)
    budgets = TenantBudgets(now=lambda: 0.0)
    lobby = ingest_samples.planner(route, budgets=budgets)
    guests = ingest_samples.planner(route, watcher=watch, budgets=budgets, name="guests")
    neighbour = ingest_samples.planner(route, budgets=budgets, namespace="other")
    holds = [planning.first(BODY).hold for _ in range(100) for planning in (lobby, guests, neighbour)]
    assert holds[0::3] == [None] * 84 + [Hold.ExpressionTooSlow] * 16
    assert holds[1::3] == [None] * 83 + [Hold.ExpressionTooSlow] * 17
    assert holds[2::3] == [None] * 100
    assert watch.held == [], "no evaluation was slow"
    document = ingest_samples.listener(routes=(route,))
    document = msgspec.structs.replace(document, tenant=documents.TenantDocument("globex"))
    assert ingest_samples.Planning(document, watch, budgets).first(BODY).hold is None


def evaluations_of(planning: ingest_samples.Planning, expression: _Evaluated) -> int:
    calls_before = expression.calls
    planning.plan(BODY)
    return expression.calls - calls_before


def test_nothing_is_evaluated_for_a_tenant_without_time(evaluate_at: Evaluate) -> None:
    now = 0.0
    expression = evaluate_at([0.0009] * 10_000)
    planning = ingest_samples.planner(*FILTERS, budgets=TenantBudgets(now=lambda: now))
    counts = [evaluations_of(planning, expression) for _ in range(30)]
    assert counts == [23] * 25 + [0] * 5  # 20 ms each until half a second is spent
    assert planning.planner.too_slow == set(), "no evaluation was slow"
    now = 60.0
    assert evaluations_of(planning, expression) == 23


def test_cheap_filters_do_not_use_the_budget_of_their_tenant(evaluate_at: Evaluate) -> None:
    expression = evaluate_at([0.00003] * 10_000)
    planning = ingest_samples.planner(*FILTERS, budgets=TenantBudgets(now=lambda: 0.0))
    assert [evaluations_of(planning, expression) for _ in range(300)] == [32] * 300


def test_shadow_route_stops_evaluating_a_slow_transform(evaluate_at: Evaluate) -> None:
    watch, expression = ingest_samples.RecordingWatcher(), evaluate_at([0.006] * 3)
    planning = ingest_samples.planner(crm(state="Shadow", transform="visit.email"), watcher=watch)
    assert [planning.first(BODY).skip for _ in range(5)] == [Skip.Shadow] * 5
    assert expression.calls == 3
    assert watch.held == [("agency/wifi", "crm")]
    assert planning.planner.too_slow == {"crm"}


# Plans that need no body


# Once per


def instant(text: str, zone: str) -> int:
    moment = datetime.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone))
    return int(moment.timestamp()) * SECOND


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/London", "2025-03-30", 23),
        ("Europe/London", "2025-10-26", 25),
        ("America/New_York", "2025-03-09", 23),
        ("America/New_York", "2025-11-02", 25),
        ("Australia/Lord_Howe", "2025-10-05", 23.5),
        ("Africa/Cairo", "2025-04-25", 23),
        ("Asia/Kolkata", "2025-03-30", 24),
        ("UTC", "2025-10-26", 24),
    ],
)
def test_day_period_follows_daylight_saving(zone: str, day: str, hours: float) -> None:
    info = zoneinfo.ZoneInfo(zone)
    noon = instant(f"{day}T12:00:00", zone)
    name, end = routing.period_of(noon, "Day", info)
    _, start = routing.period_of(noon - 24 * HOUR, "Day", info)
    assert name == day
    assert (end - start) / HOUR == hours
    assert routing.period_of(start, "Day", info)[0] == routing.period_of(end - 1, "Day", info)[0] == day
    assert routing.period_of(start - 1, "Day", info)[0] != day
    assert routing.period_of(end, "Day", info)[0] != day


@pytest.mark.parametrize(
    ("day", "week"),
    [
        ("2024-12-29", "2024-W52"),
        ("2024-12-30", "2025-W01"),
        ("2025-12-31", "2026-W01"),
        ("2026-12-31", "2026-W53"),
        ("2027-01-03", "2026-W53"),
        ("2027-01-04", "2027-W01"),
    ],
)
def test_week_period_crosses_the_end_of_a_year(day: str, week: str) -> None:
    zone = zoneinfo.ZoneInfo("Europe/Paris")
    name, end = routing.period_of(instant(f"{day}T12:00:00", "Europe/Paris"), "Week", zone)
    assert name == week
    assert datetime.datetime.fromtimestamp(end / SECOND, zone).strftime("%a %H:%M") == "Mon 00:00"


@pytest.mark.parametrize(
    ("day", "month", "end"),
    [
        ("2025-01-31", "2025-01", "2025-02-01"),
        ("2024-02-29", "2024-02", "2024-03-01"),
        ("2025-12-31", "2025-12", "2026-01-01"),
    ],
)
def test_month_period_ends_after_the_last_day(day: str, month: str, end: str) -> None:
    zone = "America/New_York"
    noon = instant(f"{day}T23:59:59", zone)
    assert routing.period_of(noon, "Month", zoneinfo.ZoneInfo(zone)) == (month, instant(f"{end}T00:00:00", zone))
    first, following = routing.month_of(noon, zoneinfo.ZoneInfo(zone))
    assert first == instant(f"{month}-01T00:00:00", zone)
    assert following == instant(f"{end}T00:00:00", zone)


ZONES = (
    "UTC",
    "Europe/London",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Apia",
    "Africa/Cairo",
    "America/Sao_Paulo",
)
INSTANTS = st.integers(946_684_800, 1_900_000_000).map(lambda seconds: seconds * SECOND)


@given(INSTANTS, st.sampled_from(ZONES), st.sampled_from(["Day", "Week", "Month"]))
def test_periods_cover_every_instant_without_overlap(now: int, zone: str, every: str) -> None:
    info = zoneinfo.ZoneInfo(zone)
    name, end = routing.period_of(now, every, info)
    assert now < end <= now + 32 * 24 * HOUR
    assert routing.period_of(end - 1, every, info) == (name, end)
    following, later = routing.period_of(end, every, info)
    assert following != name
    assert later > end


def marks(
    planning: ingest_samples.Planning, bodies: list[dict[str, Any]], received_at: int = ingest_samples.NOON
) -> list[bytes]:
    return [planning.first(body, received_at).once_key for body in bodies]


def test_once_per_mark_depends_on_user_and_period() -> None:
    planning = ingest_samples.planner(crm(once_per=once("Day")))
    today, earlier, yesterday = marks(planning, [at(0), at(11), at(13)])
    assert today == earlier != yesterday
    other = planning.first({"user": {"id": 8, "venue": {"id": 9}}}).once_key
    assert other != today
    assert planning.first({"user": {"id": "7", "venue": {"id": 1}}}).once_key == today


@pytest.mark.parametrize("every", ["Day", "Week", "Month"])
def test_once_per_marks_of_other_routes_and_periods_differ(every: str) -> None:
    once_keys = [
        ingest_samples.planner(documents.Route(name, "agency/crm", once_per=once(kind))).first(BODY).once_key
        for name, kind in itertools.product(("a", "b"), {"Day", "Week", "Month", every})
    ]
    assert len(set(once_keys)) == 6


def test_once_per_rules_of_one_name_share_their_marks_within_a_tenant() -> None:
    def mark(listener: str, tenant: str, route: str, name: str, every: str = "Day", *per: str) -> bytes:
        rule = msgspec.structs.replace(once(every, *per), name=name)
        document = ingest_samples.listener(name=listener, routes=(documents.Route(route, "agency/crm", once_per=rule),))
        document = msgspec.structs.replace(document, tenant=documents.TenantDocument(tenant))
        planning = ingest_samples.Planning(document, ingest_samples.RecordingWatcher(), TenantBudgets())
        return planning.first(BODY).once_key

    shared = mark("wifi", "acme", "mail", "daily-mail")
    assert mark("events", "acme", "welcome", "daily-mail") == shared
    others = [
        mark("wifi", "acme", "mail", "weekly-mail"),
        mark("wifi", "globex", "mail", "daily-mail"),
        mark("wifi", "acme", "daily-mail", ""),
        mark("wifi", "acme", "mail", "daily-mail", "Week"),
        mark("wifi", "acme", "mail", "daily-mail", "Day", "User", "Venue"),
    ]
    assert len({shared, *others}) == 6
    page = (source.DOCS / "reference" / "listener.md").read_text("utf-8")
    (said,) = re.findall(r"^\| `spec.routes\[\].oncePer.name` \|.*", page, re.MULTILINE)
    assert "Routes of one tenant with the same name share one limit, also those of other listeners" in said
    assert "need the same `every`, and share nothing with a route that has another `per`. Without it, each" in said


def test_once_per_period_uses_the_tenant_time_zone() -> None:
    late_evening = ingest_samples.NOON + 11 * HOUR + HOUR // 2  # 23:30 UTC
    utc = ingest_samples.planner(crm(once_per=once("Day")))
    paris = ingest_samples.planner(crm(once_per=once("Day")), tenant={"time_zone": "Europe/Paris"})
    assert utc.first(BODY, late_evening).once_key == utc.first(BODY, ingest_samples.NOON).once_key
    assert paris.first(BODY, late_evening).once_key != paris.first(BODY, ingest_samples.NOON).once_key


def test_visitors_without_an_id_do_not_share_a_mark() -> None:
    planning = ingest_samples.planner(crm(once_per=once("Day")))
    nobody = [{"user": {"firstName": name, "venue": {"id": 9}}} for name in ("A", "B")]
    assert len(set(marks(planning, nobody))) == 2


def test_once_per_mark_outlives_late_visits() -> None:
    for body in (BODY, at(hours_ago=24 * 20)):
        plan = ingest_samples.planner(crm(once_per=once("Day"))).first(body)
        assert plan.once_until >= ingest_samples.NOON + 7 * 24 * HOUR


def visit(body: dict[str, Any], **fields: tuple[str, ...]) -> model.Visit:
    return routing.Normaliser(documents.DEFAULT_FIELDS | fields).visit(body, None)


def test_normalised_visit_has_every_field() -> None:
    empty = visit({})
    assert all(
        getattr(empty, name) == "" for name in model.Visit.__struct_fields__ if name not in {"visitCount", "occurredAt"}
    )
    assert (empty.visitCount, empty.occurredAt) == (None, None)
    values = expressions.visit_values(empty, 0, model.ListenerName("agency", "acme", "lobby"), late=False)
    assert set(values) == syntax.DELIVERY_FIELDS


def test_normalised_ids_are_texts() -> None:
    variables = visit({"user": {"id": 7, "venue": {"id": 9.0, "company": {"id": "77"}}}})
    assert (variables.userId, variables.venueId, variables.companyId) == ("7", "9", "77")


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (1, 1),
        ("3", 3),
        (2.0, 2),
        (0, 0),
        (-1, None),
        ("x", None),
        (1.5, None),
        (None, None),
        (True, None),
        ([], None),
        (10**400, None),
        ("²", None),
    ],
)
def test_visit_count_is_a_number_or_none(value: Any, count: int | None) -> None:
    assert visit({"user": {"visitCountsForVenue": value}}).visitCount == count


def test_fields_follow_the_mapping_of_the_listener() -> None:
    variables = visit(
        {"guest": {"mail": "a@example.test"}, "user": {"email": "b@example.test"}}, email=("/guest/mail",)
    )
    assert variables.email == "a@example.test"


@pytest.mark.parametrize("value", [[], {}, True, {"x": 1}])
def test_value_that_is_not_text_becomes_empty(value: Any) -> None:
    assert visit({"user": {"firstName": value}}).firstName == ""
