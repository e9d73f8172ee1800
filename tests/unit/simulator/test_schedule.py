"""Plans are reproducible and exact: a listener that dedupes by the design counts what the plan says."""

import itertools
from collections import defaultdict

import hypothesis
from hypothesis import strategies

from usher_gateway import model
from usher_gateway.simulator import bodies, schedule

HOUR = 3600 * model.MICROSECONDS
BASE = 1_790_000_000 * model.MICROSECONDS

patterns = strategies.builds(
    schedule.Pattern,
    authentications=strategies.integers(0, 150),
    duration_seconds=strategies.sampled_from([0.5, 60.0, 7_200.0, schedule.DAY_SECONDS]),
    curve=strategies.sampled_from([schedule.HOTEL, schedule.CAFE, schedule.STADIUM, schedule.FLAT]),
    venues=strategies.integers(1, 4),
    repeats=strategies.sampled_from([0.0, 0.15, 0.8]),
    redeliveries=strategies.sampled_from([0.0, 0.1]),
    lates=strategies.sampled_from([0.0, 0.1, 1.0]),
    hang_ups=strategies.sampled_from([0.0, 0.1, 1.0]),
    untimed=strategies.sampled_from([0.0, 0.3, 1.0]),
    returning=strategies.sampled_from([0.0, 0.9]),
)
few = hypothesis.settings(max_examples=60, deadline=None)


@few
@hypothesis.given(patterns, strategies.integers(0, 9))
def test_same_seed_gives_the_same_plan(pattern: schedule.Pattern, seed: int) -> None:
    assert schedule.plan(pattern, seed) == schedule.plan(pattern, seed)


def test_another_seed_gives_another_plan() -> None:
    assert schedule.plan(schedule.Pattern(), 1) != schedule.plan(schedule.Pattern(), 2)


@few
@hypothesis.given(patterns, strategies.integers(0, 9))
def test_shares_of_the_plan_are_exact(pattern: schedule.Pattern, seed: int) -> None:
    events = schedule.plan(pattern, seed)
    total = pattern.authentications
    visits = [event for event in events if event.kind is schedule.AuthenticationKind.Visit]
    hang_ups = min(len(visits), round(total * pattern.hang_ups))
    assert len(events) == total
    assert total - len(visits) == schedule.repeats_of(pattern)
    assert sum(event.hang_up for event in events) == hang_ups
    assert sum(event.redeliver for event in events) == min(len(visits) - hang_ups, round(total * pattern.redeliveries))
    assert not any(event.redeliver and event.hang_up for event in events)


def test_every_repeat_has_a_visit() -> None:
    events = schedule.plan(schedule.Pattern(authentications=3, repeats=1.0), 1)
    assert [event.kind for event in events].count(schedule.AuthenticationKind.Visit) == 1


def test_share_of_lates_is_exact_except_for_identical_content() -> None:
    events = schedule.plan(schedule.Pattern(authentications=1_000, lates=0.1, untimed=0.0), 1)
    late = [event for event in events if event.late]
    assert len(late) == 100
    assert all(event.send - event.occurred >= 60 * model.MICROSECONDS for event in late)
    assert any(event.send - event.occurred >= HOUR for event in late)
    assert all(event.send - event.occurred <= 60 * model.MICROSECONDS for event in events if not event.late)


@few
@hypothesis.given(patterns, strategies.integers(0, 9))
def test_plan_is_sorted_and_within_its_duration(pattern: schedule.Pattern, seed: int) -> None:
    events = schedule.plan(pattern, seed)
    assert all(before.send <= after.send for before, after in itertools.pairwise(events))
    assert all(0 <= event.send <= pattern.duration_seconds * model.MICROSECONDS for event in events)


def test_plan_with_lates_has_visits_out_of_order() -> None:
    events = schedule.plan(schedule.Pattern(), 1)
    assert any(before.occurred > after.occurred for before, after in itertools.pairwise(events))


@few
@hypothesis.given(patterns, strategies.integers(0, 9))
def test_dedupe_by_the_design_counts_what_the_plan_says(pattern: schedule.Pattern, seed: int) -> None:
    """Dedupe as in design.md: by content, then by user and venue within an hour of the visit's time."""
    events = schedule.plan(pattern, seed)
    company = bodies.Company(seed=seed)
    visits: dict[tuple[int, int], list[int]] = defaultdict(list)
    seen: set[bytes] = set()
    repeats = 0
    for event in events:
        body = bodies.body_of(event, company, BASE)
        trusted = event.shape in schedule.TRUSTED_SHAPES
        assert not (trusted and body in seen), "identical content with a trusted time would be a redelivery"
        seen.add(body)
        moment = event.occurred if trusted else event.send
        known = visits[event.person, event.venue]
        if any(abs(moment - other) < HOUR for other in known):
            repeats += 1
        else:
            known.append(moment)
    assert repeats == schedule.repeats_of(pattern)


def test_returning_visitors_are_counted() -> None:
    events = schedule.plan(schedule.Pattern(authentications=500, venues=1), 1)
    assert max(event.visit_count for event in events) > 1
    assert schedule.people_needed(events) < sum(event.kind is schedule.AuthenticationKind.Visit for event in events)


def test_day_is_busier_at_its_peaks_than_at_night() -> None:
    events = schedule.plan(schedule.Pattern(authentications=2_000, curve=schedule.CAFE), 1)
    hours = [event.send // HOUR for event in events]
    assert hours.count(12) > 100
    assert sum(hour < 6 for hour in hours) == 0


def test_plan_has_every_form_of_id_and_time() -> None:
    events = schedule.plan(schedule.Pattern(authentications=300), 1)
    assert {event.shape for event in events} == set(schedule.TimeShape)
    assert {event.id_as_text for event in events} == {True, False}
    by_person = defaultdict(set)
    for event in events:
        by_person[event.person].add(event.id_as_text)
    assert {True, False} in by_person.values()
