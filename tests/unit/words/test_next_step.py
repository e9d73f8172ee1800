"""The sentence about the next step of a delivery."""

import re
from typing import Any

import pytest

from usher_gateway import model
from usher_gateway.words import next_step

NOW = 1_795_953_600_000_000  # 2026-11-29 12:00:00 UTC

FAILING = {
    "health": "CircuitOpen",
    "circuit": "Open",
    "isRejecting": False,
    "lastError": {"error": "Status", "status": 503, "since": "2026-11-29T10:12:00.000Z", "recoveredAt": None},
    "nextTrialAt": "2026-11-29T12:00:40.000Z",
    "retryMaxAgeSeconds": 604_800,
}
HEALTHY = {**FAILING, "health": "Healthy", "circuit": "Closed", "lastError": None}


def delivery(**changes: Any) -> dict[str, Any]:
    """Return a pending delivery in the backlog."""
    pending = {
        "id": "01920000-0000-7000-8000-000000000002",
        "state": "pending",
        "held": None,
        "heldSince": None,
        "dueAt": "2026-11-29T12:30:00.000Z",
        "createdAt": "2026-11-29T10:00:00.000Z",
        "startedAt": "2026-11-29T10:00:00.000Z",
        "expiresAt": None,
        "cancelled": None,
    }
    return pending | changes


@pytest.mark.parametrize(
    ("changes", "destination", "text"),
    [
        ({"state": "delivered"}, HEALTHY, "It was delivered. Nothing follows."),
        ({"state": "dead"}, HEALTHY, "usher dead redrive 01920000-0000-7000-80 --yes` starts again."),
        (
            {"state": "dead"},
            FAILING,
            (
                "starts again, but its destination fails now (CircuitOpen with Status 503 since 2026-11-29 10:12:00 "
                "UTC): it may die again."
            ),
        ),
        (
            {"state": "dead"},
            {**FAILING, "health": "Failing", "isRejecting": True},
            "but its destination fails now (Failing with Status 503 since 2026-11-29 10:12:00 UTC): it dies again.",
        ),
        (
            {"state": "dead"},
            {**FAILING, "health": "SecretNotFound", "lastError": {"recoveredAt": "2026-11-29T10:15:00.000Z"}},
            "but its destination fails now (SecretNotFound): it may die again.",
        ),
        ({"state": "dead"}, None, "starts again, but its destination is not in force any more."),
        ({"state": "cancelled", "cancelled": "Expired"}, HEALTHY, "It was cancelled (Expired): no attempt follows."),
        (
            {"held": "DestinationPaused", "heldSince": "2026-11-28T09:00:00.000Z"},
            HEALTHY,
            (
                "It is held since 2026-11-28 09:00:00 UTC because the destination is paused (detail). `state: Active` "
                "of the Destination ends that; a retry does not."
            ),
        ),
        (
            {"held": "FilterError", "heldSince": "2026-11-28T09:00:00.000Z"},
            HEALTHY,
            "because the route's filter `when` failed (detail). A correction of the filter ends",
        ),
        (
            {"held": "FilterError", "heldSince": "2026-11-28T09:00:00.000Z"},
            HEALTHY,
            "It is cancelled when its body's retention ends, about 2026-12-29.",
        ),
        ({}, None, "Its destination is not in force any more"),
        (
            {},
            FAILING,
            (
                "its destination fails with Status 503 since 2026-11-29 10:12:00 UTC: Usher tries one delivery a "
                "minute there, the next at 2026-11-29 12:00:40 UTC. If that succeeds, the others follow. "
                "Usher gives up at 2026-12-06 10:00:00 UTC."
            ),
        ),
        ({}, HEALTHY, "Its next attempt is due at 2026-11-29 12:30:00 UTC; `usher deliveries retry"),
        ({"dueAt": "2026-11-29T11:59:00.000Z"}, HEALTHY, "It is due, and waits for a free slot of its destination"),
        ({"dueAt": None}, HEALTHY, "It is due, and waits for a free slot of its destination"),
        ({"expiresAt": "2026-11-29T13:00:00.000Z"}, HEALTHY, "It expires at 2026-11-29 13:00:00 UTC."),
        ({"expiresAt": "2026-12-29T13:00:00.000Z"}, HEALTHY, "Usher gives up at 2026-12-06 10:00:00 UTC."),
    ],
)
def test_next_step_of_a_delivery(changes: dict[str, Any], destination: dict[str, Any] | None, text: str) -> None:
    step = next_step.next_step(delivery(**changes), destination, NOW, held_detail="detail", body_days=30)
    assert text in step.text
    assert re.findall("`(usher [^`]* --yes)`", step.text) == ([step.command] if step.command else [])


def test_every_hold_reason_says_why_and_what_ends_it() -> None:
    assert set(next_step.HOLDS) == set(model.HoldReason)
