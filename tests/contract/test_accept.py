"""accept(): visit, repeat or redelivery, the winner among equal arrivals, and the verdicts of routes."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import engines, samples
from usher_gateway import model

SECOND, HOUR, DAY, NOW = samples.SECOND, samples.HOUR, samples.DAY, samples.NOW


async def test_one_of_identical_arrivals_in_a_batch_is_the_visit(bench: engines.Bench) -> None:
    words = await bench.words(*[samples.arrival("a") for _ in range(50)])
    assert sorted(words) == ["Repeat"] * 49 + ["Visit"]


async def test_visit_creates_one_delivery_and_lists_it_in_its_verdict(bench: engines.Bench) -> None:
    delivery = await bench.deliver("a")
    (visit,) = await bench.visits()
    assert visit["verdicts"] == [
        {
            "route": "crm",
            "destination": "agency/crm",
            "delivery": model.format_id(delivery.id),
            "state": "pending",
            "held": None,
        }
    ]


async def test_verdicts_keep_the_order_of_the_routes(bench: engines.Bench) -> None:
    plans = (samples.skip(model.SkipReason.Filter, samples.MAILER), samples.plan(), samples.plan(samples.MAILER))
    await bench.accept(samples.arrival("a", if_visit=plans))
    (visit,) = await bench.visits()
    assert [(verdict["route"], verdict.get("skipped")) for verdict in visit["verdicts"]] == [
        ("welcome", "Filter"),
        ("crm", None),
        ("welcome", None),
    ]


@pytest.mark.parametrize("gap", [-HOUR + 1, 0, HOUR - 1])
async def test_visitor_inside_the_window_is_a_repeat_in_either_order(bench: engines.Bench, gap: int) -> None:
    first = samples.arrival("a", time_trusted=True)
    second = samples.arrival(
        "b", visitor_key=first.visitor_key, visit_time=NOW + gap, time_trusted=True, received_at=NOW + 1
    )
    assert await bench.words(first) == ["Visit"]
    assert await bench.words(second) == ["Repeat"]


@pytest.mark.parametrize("gap", [-HOUR, HOUR])
async def test_visitor_outside_the_window_is_a_visit_again(bench: engines.Bench, gap: int) -> None:
    first = samples.arrival("a", time_trusted=True)
    second = samples.arrival("b", visitor_key=first.visitor_key, visit_time=NOW + gap, time_trusted=True)
    assert await bench.words(first, second) == ["Visit", "Visit"]


async def test_window_does_not_slide(bench: engines.Bench) -> None:
    key = samples.digest("somebody")
    words = [
        (await bench.words(samples.arrival(f"{number}", NOW + number * HOUR // 2, visitor_key=key)))[0]
        for number in range(5)
    ]
    assert words == ["Visit", "Repeat", "Visit", "Repeat", "Visit"]


async def test_zero_window_makes_every_authentication_a_visit(bench: engines.Bench) -> None:
    assert await bench.words(*[samples.arrival("a", window=0) for _ in range(3)]) == ["Visit"] * 3


@pytest.mark.parametrize(
    ("age", "word"),
    [
        (HOUR, "Visit"),
        (10_000 * SECOND - 1, "Visit"),
        (10_000 * SECOND, "Redelivery"),
        (12_600 * SECOND - 1, "Redelivery"),
        (12_600 * SECOND, "Visit"),
    ],
)
async def test_untrusted_content_is_a_redelivery_while_retries_are_due(
    bench: engines.Bench, age: int, word: str
) -> None:
    assert await bench.words(samples.arrival("a")) == ["Visit"]
    assert await bench.words(samples.arrival("a", NOW + age)) == [word]


@pytest.mark.parametrize(("age", "word"), [(1, "Redelivery"), (7 * DAY - 1, "Redelivery"), (7 * DAY, "Visit")])
async def test_trusted_content_is_a_redelivery_for_seven_days(bench: engines.Bench, age: int, word: str) -> None:
    assert await bench.words(samples.arrival("a", time_trusted=True)) == ["Visit"]
    # A window of 0 excludes repeats.
    assert await bench.words(samples.arrival("a", NOW + age, time_trusted=True, window=0)) == [word]


@pytest.mark.parametrize(
    ("told", "word", "reopen"),
    [
        (NOW, "Redelivery", True),
        (NOW + 120 * SECOND, "Redelivery", False),
        (NOW + 121 * SECOND, "Visit", True),
    ],
)
async def test_time_trusted_before_a_clock_change_proves_a_redelivery(
    bench: engines.Bench, told: int, word: str, *, reopen: bool
) -> None:
    """A body whose time was in the future from the start proves nothing."""
    assert await bench.words(samples.arrival("a", time_trusted=told <= NOW + 120 * SECOND, window=0)) == ["Visit"]
    if reopen:
        await bench.reopen()
    again = samples.arrival("a", NOW - DAY, visit_time=NOW - DAY, future_time=told, window=0)
    assert await bench.words(again) == [word]


async def test_redelivery_seconds_come_from_the_listener(bench: engines.Bench) -> None:
    assert await bench.words(samples.arrival("a")) == ["Visit"]
    assert await bench.words(samples.arrival("a", NOW + 5 * HOUR, redelivery=6 * HOUR)) == ["Redelivery"]


@pytest.mark.parametrize(
    ("age", "word", "reopen"),
    [(1, "Redelivery", False), (7 * DAY - 1, "Redelivery", True), (7 * DAY, "Visit", False)],
)
async def test_unacknowledged_content_is_a_redelivery_for_seven_days(
    bench: engines.Bench, age: int, word: str, reopen: bool
) -> None:
    arrival = samples.arrival("a")
    await bench.accept(arrival)
    bench.store.unacknowledged(arrival)
    await bench.store.flush()
    if reopen:
        await bench.reopen()
    assert await bench.words(samples.arrival("a", NOW + age, window=0)) == [word]
    assert (await bench.counts())["unacknowledged"] == 1


@pytest.mark.parametrize("reopen", [False, True])
async def test_unacknowledged_repeat_comes_back_as_a_redelivery(folding_engine: engines.Engine, reopen: bool) -> None:
    async with engines.opened(folding_engine) as bench:
        await bench.accept(samples.arrival("a"))
        await folding_engine.fold(bench.store)
        second = samples.arrival("a", NOW + 3 * HOUR)
        assert await bench.words(second) == ["Redelivery"]
        bench.store.unacknowledged(second)
        await bench.store.flush()
        if reopen:
            await bench.reopen()
        assert await bench.words(samples.arrival("a", NOW + 6 * HOUR, window=0)) == ["Redelivery"]


async def test_listeners_do_not_share_dedupe_keys(bench: engines.Bench) -> None:
    other = samples.arrival("other", listener=samples.BAR, if_visit=(samples.plan(samples.route("x", samples.BAR)),))
    assert await bench.words(samples.arrival("a"), other) == ["Visit", "Visit"]
    assert (await bench.counts(samples.BAR))["visits"] == 1


async def test_quarantined_arrival_is_kept_without_deliveries(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.quarantined("q"))
    assert (accepted.counted_as.name, accepted.deliveries) == ("Quarantined", ())
    (row,) = await bench.visits(counted_as="quarantined")
    assert (row["reason"], row["verdicts"]) == ("NoUser", [])
    assert await bench.counts() == {"quarantined": 1}


async def test_quarantined_content_that_returns_is_a_redelivery(bench: engines.Bench) -> None:
    await bench.accept(samples.quarantined("q"))
    assert await bench.words(samples.quarantined("q", NOW + 3 * HOUR)) == ["Redelivery"]


# Once per


def once(content: str, mark: str, at: int = NOW, **changes: Any) -> model.Arrival:
    plan = samples.plan(once_key=samples.digest(mark), once_until=at + DAY)
    return samples.arrival(content, at, if_visit=(plan,), **changes)


@pytest.mark.parametrize("together", [False, True])
async def test_once_per_mark_allows_one_delivery(bench: engines.Bench, together: bool) -> None:
    arrivals = [once(f"{number}", "today") for number in range(3)]
    for batch in [arrivals] if together else [[arrival] for arrival in arrivals]:
        await bench.accept(*batch)
    verdicts = [row["verdicts"][0].get("skipped") for row in await bench.visits()]
    assert sorted(verdicts, key=str) == [None, "OncePer", "OncePer"]
    counts = await bench.counts()
    assert (counts["created"], counts["skipped_once_per"], counts["routed"]) == (1, 2, 3)


async def test_skipped_visit_leaves_the_once_per_mark_unused(bench: engines.Bench) -> None:
    plan = samples.plan(skip=model.SkipReason.Filter, once_key=samples.digest("today"), once_until=NOW + DAY)
    await bench.accept(samples.arrival("a", if_visit=(plan,)))
    (accepted,) = await bench.accept(once("b", "today"))
    assert len(accepted.deliveries) == 1


async def test_repeat_leaves_the_mark_of_the_visit_plan_unused(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"))
    await bench.accept(once("b", "today", visitor_key=samples.digest("visitor a")))
    (accepted,) = await bench.accept(once("c", "today"))
    assert len(accepted.deliveries) == 1


# Quota


async def test_deliveries_of_tenants_over_their_quota_are_held(bench: engines.Bench) -> None:
    paused = (samples.plan(hold=model.HoldReason.DestinationPaused),)
    bench.store.hold_visits_of({("agency", "acme")})
    await bench.accept(samples.arrival("a"), samples.arrival("b", if_visit=paused), samples.quarantined("q"))
    (other,) = await bench.accept(samples.arrival("c", listener=samples.BAR))
    assert len(other.deliveries) == 1
    bench.store.hold_visits_of(())
    (later,) = await bench.accept(samples.arrival("d"))
    assert len(later.deliveries) == 1
    assert [row["held"] for row in await bench.deliveries(state="held")] == ["DestinationPaused", "QuotaExceeded"]
    (group,) = [group for group in await bench.store.held_groups() if group.reason.name == "DestinationPaused"]
    assert await bench.store.unhold(group, NOW, [model.HoldReason.QuotaExceeded]) == 1
    assert [row["held"] for row in await bench.deliveries(state="held")] == ["QuotaExceeded"] * 2


@pytest.mark.parametrize("is_folded", [False, True])
async def test_visits_of_a_month_are_counted_by_tenant_without_repeats(bench: engines.Bench, is_folded: bool) -> None:
    for content, listener in (("a", samples.LOBBY), ("a", samples.LOBBY), ("b", samples.POOL), ("c", samples.BAR)):
        await bench.accept(samples.arrival(content, listener=listener))
    await bench.accept(samples.arrival("later", NOW + 2 * DAY))
    if is_folded:
        await bench.engine.upkeep(bench.store)
    tenants = {("agency", "acme"), ("agency", "none")}
    assert await bench.store.visits_of_tenants(tenants, NOW - DAY, NOW + DAY) == {("agency", "acme"): 2}


# Comparison with an independent implementation of the rules


class Rules:
    """A second, slow implementation of the dedupe rules, with plain lists."""

    def __init__(self) -> None:
        self.firsts: list[tuple[str, int, bool]] = []
        self.visits: list[tuple[str, int]] = []

    def counted_as(self, content: str, visitor: str, at: int, visit_time: int, trusted: bool) -> str:
        earlier_arrivals = [
            (first_at, unacknowledged) for text, first_at, unacknowledged in self.firsts if text == content
        ]
        if earlier_arrivals:
            first_at, unacknowledged = earlier_arrivals[-1]
            age = at - first_at
            seven_days = unacknowledged or trusted
            if age < 7 * DAY if seven_days else 10_000 * SECOND <= age < 12_600 * SECOND:
                return "Redelivery"
        if not earlier_arrivals or at - earlier_arrivals[-1][0] >= 12_600 * SECOND:
            self.firsts.append((content, at, False))
        if any(abs(time - visit_time) < HOUR for who, time in self.visits if who == visitor):
            return "Repeat"
        self.visits.append((visitor, visit_time))
        return "Visit"

    def unacknowledged(self, content: str, at: int) -> None:
        self.firsts.append((content, at, True))


gaps = st.sampled_from(
    [0, 1, SECOND, HOUR // 2, HOUR - 1, HOUR, 9_999 * SECOND, 10_000 * SECOND, 3 * HOUR, 12_600 * SECOND, 2 * DAY]
)
steps = st.lists(
    st.tuples(
        gaps,
        st.sampled_from("abc"),
        st.sampled_from("xy"),
        st.sampled_from([None, 0, HOUR // 2, HOUR, 5 * HOUR]),
        st.sampled_from(["", "", "", "commit", "commit", "reopen", "crash", "unacknowledged"]),
    ),
    min_size=1,
    max_size=14,
)


def test_random_arrivals_are_counted_as_the_rules_say(folding_engine: engines.Engine) -> None:
    @settings(max_examples=12)
    @given(steps)
    def run(script: list[tuple[int, str, str, int | None, str]]) -> None:
        asyncio.run(_follow(folding_engine, script))

    run()


async def _follow(engine: engines.Engine, script: list[tuple[int, str, str, int | None, str]]) -> None:
    rules, at = Rules(), NOW
    async with engines.opened(engine) as bench:
        for together in _batches(script):
            arrivals, expected = [], []
            for gap, content, visitor, ago, _ in together:
                at += gap
                trusted, visit_time = ago is not None, at - (ago or 0)
                # A trusted time is part of the content: the same content always has the same one.
                text = f"{content} {visit_time}" if trusted else content
                arrivals.append(
                    samples.arrival(
                        text, at, visitor_key=samples.digest(visitor), visit_time=visit_time, time_trusted=trusted
                    )
                )
                expected.append(rules.counted_as(text, visitor, at, visit_time, trusted))
            assert await bench.words(*arrivals) == expected
            match together[-1][4]:
                case "unacknowledged":
                    bench.store.unacknowledged(arrivals[-1])
                    await bench.store.flush()
                    rules.unacknowledged(text, at)
                case "reopen" | "crash" as how:
                    await bench.reopen(crash=how == "crash")


def _batches(script: list[Any]) -> list[list[Any]]:
    """Split the steps after every step with an action."""
    groups: list[list[Any]] = []
    for is_last, steps in itertools.groupby(script, key=lambda step: bool(step[4])):
        group = list(steps)
        groups += [[step] for step in group] if is_last else [group]
    return groups
