"""Plans, people and bodies are reproducible: a listener that dedupes by the design counts what the plan says."""

import itertools
import json
from collections import defaultdict

import hypothesis
import pytest
from hypothesis import strategies

from usher_gateway import documents, model, simulator
from usher_gateway.simulator import schedule

BASE = 1_790_000_000 * model.MICROSECONDS
COMPANY = schedule.Company(id="77", seed=4)
EVENTS = schedule.plan(schedule.Pattern(authentications=400, repeats=0.4), COMPANY.seed)

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


@hypothesis.given(patterns, strategies.integers(0, 9))
def test_plan_is_reproducible_with_exact_shares(pattern: schedule.Pattern, seed: int) -> None:
    events = schedule.plan(pattern, seed)
    assert schedule.plan(pattern, seed) == events
    total = pattern.authentications
    visits = [event for event in events if event.kind is schedule.AuthenticationKind.Visit]
    hang_ups = min(len(visits), round(total * pattern.hang_ups))
    assert len(events) == total
    assert total - len(visits) == schedule.repeats_of(pattern)
    assert sum(event.hang_up for event in events) == hang_ups
    assert sum(event.redeliver for event in events) == min(len(visits) - hang_ups, round(total * pattern.redeliveries))
    assert not any(event.redeliver and event.hang_up for event in events)
    assert all(earlier.send <= later.send for earlier, later in itertools.pairwise(events))
    assert all(0 <= event.send <= pattern.duration_seconds * model.MICROSECONDS for event in events)


def test_plan_has_every_form_of_id_time_and_text() -> None:
    assert {event.shape for event in EVENTS} == set(schedule.TimeShape)
    by_person = defaultdict(set)
    for event in EVENTS:
        by_person[event.person].add(event.id_as_text)
    assert {True, False} in by_person.values()
    assert max(event.visit_count for event in EVENTS) > 1
    assert len({event.person for event in EVENTS}) < len(
        {(event.person, event.venue, event.visit_count) for event in EVENTS}
    )
    assert {schedule.body_of(event, COMPANY, BASE).isascii() for event in EVENTS[:50]} == {True, False}
    assert any(earlier.occurred > later.occurred for earlier, later in itertools.pairwise(EVENTS))
    assert schedule.plan(schedule.Pattern(), 1) != schedule.plan(schedule.Pattern(), 2)


@hypothesis.given(patterns, strategies.integers(0, 9))
def test_dedupe_by_the_design_counts_what_the_plan_says(pattern: schedule.Pattern, seed: int) -> None:
    """Dedupe as in design.md: by content, then by user and venue within an hour of the visit's time."""
    events = schedule.plan(pattern, seed)
    company = schedule.Company(seed=seed)
    visits: dict[tuple[int, int], list[int]] = defaultdict(list)
    bodies: set[bytes] = set()
    repeats = 0
    for event in events:
        body = schedule.body_of(event, company, BASE)
        trusted = event.shape in schedule.TRUSTED_SHAPES
        assert not (trusted and body in bodies), "identical content with a trusted time would be a redelivery"
        bodies.add(body)
        moment = event.occurred if trusted else event.send
        visit_times = visits[event.person, event.venue]
        if any(abs(moment - other) < model.HOUR for other in visit_times):
            repeats += 1
        else:
            visit_times.append(moment)
    assert repeats == schedule.repeats_of(pattern)


def test_people_of_different_seeds_share_no_mark_or_id() -> None:
    everybody = [schedule.person(seed, index) for seed in (1, 2) for index in range(300)]
    assert len({person.user_id for person in everybody}) == 600
    assert len({person.email for person in everybody}) == 600
    assert len({person.first_name for person in everybody}) == 600


def test_every_value_of_a_person_contains_a_mark() -> None:
    for index in range(200):
        person = schedule.person(3, index)
        values = (person.first_name, person.last_name, person.email, person.mobile, person.mac)
        assert all(any(mark in value for mark in simulator.MARKS) for value in values)


def _at(document: object, pointer: str) -> object:
    for part in pointer.split("/")[1:]:
        document = document.get(part) if isinstance(document, dict) else None
    return document


def test_body_has_every_default_field() -> None:
    event = next(each for each in EVENTS if each.shape is schedule.TimeShape.Epoch and not each.id_as_text)
    document = json.loads(schedule.body_of(event, COMPANY, BASE))
    fields = {
        name: next((value for pointer in pointers if (value := _at(document, pointer)) is not None), None)
        for name, pointers in documents.DEFAULT_FIELDS.items()
    }
    visitor = schedule.person(COMPANY.seed, event.person)
    assert None not in fields.values()
    assert (fields["user"], fields["email"], fields["device"]) == (visitor.user_id, visitor.email, visitor.mac)
    assert (fields["company"], fields["venue"]) == (77, COMPANY.first_venue + event.venue)
    assert fields["occurredAt"] == (BASE + event.occurred) // model.MICROSECONDS
    document = json.loads(schedule.body_of(event, schedule.Company(id="acme"), BASE))
    assert document["user"]["venue"]["company"]["id"] == "acme", "letters stay text"


def test_marker_is_equal_for_equal_contents_only() -> None:
    contents: dict[str, set[bytes]] = {}
    for event in EVENTS:
        body = schedule.body_of(event, COMPANY, BASE)
        contents.setdefault(schedule.marker(body), set()).add(body)
    assert all(len(same) == 1 for same in contents.values())
    assert len(contents) > 300


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"user": 1}', b'{"user": {}}', b"\xff"])
def test_foreign_body_has_no_marker(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a body of the simulator"):
        schedule.marker(body)
