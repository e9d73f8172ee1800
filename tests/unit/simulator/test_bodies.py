"""The bodies that the simulator posts, and their markers."""

import json

import pytest

from usher_gateway import documents, model
from usher_gateway.simulator import bodies, schedule

BASE = 1_790_000_000 * model.MICROSECONDS
COMPANY = bodies.Company(id="77", seed=4)
EVENTS = schedule.plan(schedule.Pattern(authentications=400, repeats=0.4), COMPANY.seed)


def _at(document: object, pointer: str) -> object:
    for part in pointer.split("/")[1:]:
        document = document.get(part) if isinstance(document, dict) else None
    return document


def test_body_has_every_default_field() -> None:
    event = next(each for each in EVENTS if each.shape is schedule.TimeShape.Epoch and not each.id_as_text)
    document = json.loads(bodies.body_of(event, COMPANY, BASE))
    found = {
        name: next((value for pointer in pointers if (value := _at(document, pointer)) is not None), None)
        for name, pointers in documents.DEFAULT_FIELDS.items()
    }
    visitor = bodies.person(COMPANY.seed, event.person)
    assert None not in found.values()
    assert (found["user"], found["email"], found["device"]) == (visitor.user_id, visitor.email, visitor.mac)
    assert (found["company"], found["venue"]) == (77, COMPANY.first_venue + event.venue)
    assert found["occurredAt"] == (BASE + event.occurred) // model.MICROSECONDS


def test_marker_is_equal_for_equal_contents_only() -> None:
    contents: dict[str, set[bytes]] = {}
    for event in EVENTS:
        body = bodies.body_of(event, COMPANY, BASE)
        contents.setdefault(bodies.marker(body), set()).add(body)
    assert all(len(same) == 1 for same in contents.values())
    assert len(contents) > 300


def test_some_repeats_have_identical_content() -> None:
    by_group: dict[tuple[int, int], list[bytes]] = {}
    for event in EVENTS:
        if event.shape in schedule.UNTRUSTED_SHAPES:
            by_group.setdefault((event.person, event.venue), []).append(bodies.body_of(event, COMPANY, BASE))
    repeated = [same for same in by_group.values() if len(same) > 1]
    assert any(len(set(same)) == 1 for same in repeated)
    assert any(len(set(same)) > 1 for same in repeated)


def test_bodies_are_sent_escaped_and_in_utf_8() -> None:
    all_of_them = [bodies.body_of(event, COMPANY, BASE) for event in EVENTS[:50]]
    assert {body.isascii() for body in all_of_them} == {True, False}


def test_no_plan_contains_the_person_of_the_sample_visit() -> None:
    sample = bodies.marker(bodies.sample_body(COMPANY, BASE)).partition("@")[0]
    assert sample not in {str(COMPANY.person(event.person).user_id) for event in EVENTS}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"user": 1}', b'{"user": {}}', b"\xff"])
def test_foreign_body_has_no_marker(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a body of the simulator"):
        bodies.marker(body)


def test_company_id_with_letters_stays_text() -> None:
    event = next(each for each in EVENTS if not each.id_as_text)
    document = json.loads(bodies.body_of(event, bodies.Company(id="acme"), BASE))
    assert document["user"]["venue"]["company"]["id"] == "acme"
