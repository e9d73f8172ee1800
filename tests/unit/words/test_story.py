"""The way of an arrival in sentences."""

from typing import Any

import pytest

from usher_gateway import model
from usher_gateway.store.base import AttemptRecord
from usher_gateway.words import story
from usher_gateway.words.next_step import Step

LOBBY = model.ListenerName("agency", "acme", "lobby")
CRM = model.RouteDefinition(LOBBY, "crm", "agency/crm", when="visit.visitCount > 2")
SECOND = model.MICROSECONDS
NOW = 1_795_953_600 * SECOND  # 2026-11-29 12:00:00 UTC


def arrival(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "0193",
        "namespace": "agency",
        "tenant": "acme",
        "listener": "lobby",
        "countedAs": "Visit",
        "reason": None,
        "receivedAt": "2026-11-29T12:00:00.000Z",
        "visitTime": "2026-11-29T11:59:58.000Z",
        "timeTrusted": True,
        "late": False,
        "isOtherCompany": False,
        "otherCompany": None,
        "unacknowledged": False,
        "released": False,
        "bodyKept": True,
        "bodyBytes": 412,
    }
    return row | changes


def delivery(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "01920000-0000-7000-8000-000000000002",
        "route": "crm",
        "destination": "agency/crm",
        "origin": "Accepted",
        "replay": None,
        "state": "delivered",
        "held": None,
        "heldSince": None,
        "dueAt": None,
        "attempts": 2,
        "createdAt": "2026-11-29T12:00:00.000Z",
        "startedAt": "2026-11-29T12:00:00.000Z",
        "settledAt": "2026-11-29T12:00:09.000Z",
        "expiresAt": None,
        "cancelled": None,
    }
    return row | changes


def texts(told: story.Story) -> list[tuple[str, str]]:
    """Return (time of day, text) of each event."""
    return [(event.at[11:19], event.text) for event in told.events]


def test_story_of_a_delivered_visit_has_every_step_in_order() -> None:
    attempts = [
        AttemptRecord(NOW + SECOND, 503, "Status", 120),
        AttemptRecord(NOW + 9 * SECOND, 200, "", 40),
    ]
    part = story.DeliveryPart(delivery(), attempts, Step("It was delivered. Nothing follows."))
    told = story.tell(arrival(), [(CRM, None)], [part])
    assert texts(told) == [
        ("12:00:00", "A visit arrived at agency/lobby (412 bytes)."),
        ("12:00:00", "The visitor authenticated at 2026-11-29 11:59:58 UTC."),
        ("12:00:00", "Route crm: a delivery to agency/crm."),
        ("12:00:01", "Route crm: agency/crm answered 503 after 120 ms."),
        ("12:00:09", "Route crm: agency/crm answered 200 after 40 ms."),
        ("12:00:09", "Route crm: the delivery was delivered."),
    ]
    (step,) = told.next
    assert (step.route, step.text) == ("crm", "It was delivered. Nothing follows.")


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("NoUser", "`usher quarantine release 0193 --yes` reads it again. "),
        ("NotJSON", "`usher listeners --tenant agency/acme` has the address that sent the last one. "),
    ],
)
def test_quarantined_arrival_says_whether_it_can_be_released(reason: str, text: str) -> None:
    (step,) = story.tell(arrival(countedAs="Quarantined", reason=reason), [], []).next
    assert step.text.endswith(f"{text}Purple got its 200, so it does not send this again.")
    assert (step.command == "usher quarantine release 0193 --yes") is (reason == "NoUser")
    assert story.tell(arrival(countedAs="Quarantined", reason=reason, released=True), [], []).next == []


@pytest.mark.parametrize(
    ("skip", "text"),
    [
        (model.SkipReason.Filter, "Route crm: skipped, because its filter was false: `visit.visitCount > 2`."),
        (model.SkipReason.Repeat, "Route crm: skipped, because it takes no repeats."),
        (model.SkipReason.Paused, "Route crm: skipped, because it was paused."),
    ],
)
def test_skipped_route_has_its_reason_and_its_filter(skip: model.SkipReason, text: str) -> None:
    assert text in [event.text for event in story.tell(arrival(), [(CRM, skip)], []).events]


def test_every_skip_reason_and_every_stored_kind_has_a_sentence() -> None:
    for skip in model.SkipReason:
        assert story.tell(arrival(), [(CRM, skip)], []).events
    not_stored = {model.CountedAs.Probe, model.CountedAs.Refused, model.CountedAs.Suppressed}
    for counted_as in set(model.CountedAs) - not_stored:
        assert story.tell(arrival(countedAs=counted_as.name), [], []).events


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"countedAs": "Repeat"},
            "the same visitor came inside the dedupe window (3600 s now), after visit 0192 of 2026-11-29 11:30:00 UTC.",
        ),
        ({"countedAs": "Quarantined", "reason": "NoUser"}, "was set aside as NoUser."),
        ({"timeTrusted": False}, "The body has no time that Usher trusts, so the time of the arrival counts."),
        ({"late": True}, "The visitor authenticated at 2026-11-29 11:59:58 UTC, so it is late."),
        ({"isOtherCompany": True}, "The body names another company than the tenant."),
        ({"isOtherCompany": True, "otherCompany": "8"}, "The body names another company than the tenant: 8."),
        ({"unacknowledged": True}, "Purple was gone before the answer, so it sends this again."),
        ({"released": True}, "A person released it later."),
        ({"bodyKept": False}, "Its body has been deleted since, because its retention ended."),
    ],
)
def test_unusual_arrival_says_what_is_unusual(changes: dict[str, Any], text: str) -> None:
    earlier = arrival(id="0192", visitTime="2026-11-29T11:30:00.000Z")
    told = story.tell(arrival(**changes), [], [], earlier, window_seconds=3_600)
    assert any(event.text.endswith(text) for event in told.events)
    assert told.events[0].visit == "0192"


@pytest.mark.parametrize(
    ("changes", "attempts", "text"),
    [
        ({"origin": "Released"}, [], "Route crm: released, a delivery to agency/crm."),
        ({"origin": "Replayed", "replay": "0199"}, [], "Route crm: replayed by replay 0199, a delivery to agency/crm."),
        ({"attempts": 12}, [AttemptRecord(NOW, 0, "Timeout", 10)], "11 earlier attempts are not kept one by one."),
        ({}, [AttemptRecord(NOW, 0, "Timeout", 10_000)], "agency/crm gave no answer after 10000 ms (Timeout)."),
        (
            {"held": "DestinationPaused", "heldSince": "2026-11-29T12:00:01.000Z"},
            [],
            "is held, because the destination is paused (DestinationPaused).",
        ),
        ({"state": "cancelled", "cancelled": "Expired"}, [], "Route crm: the delivery was cancelled (Expired)."),
        ({"state": "dead"}, [], "Route crm: the delivery was given up: it is dead."),
    ],
)
def test_delivery_tells_what_happened_with_it(
    changes: dict[str, Any], attempts: list[AttemptRecord], text: str
) -> None:
    told = story.tell(arrival(), [], [story.DeliveryPart(delivery(**changes), attempts, Step(""))])
    assert any(event.text.endswith(text) for event in told.events)
