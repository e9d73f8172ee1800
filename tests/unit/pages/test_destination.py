"""Values of the page about a destination."""

from typing import Any

import pytest

from usher_gateway.pages import destination
from usher_gateway.words import states

LIMITS = {
    "timeoutSeconds": 10,
    "concurrency": 1,
    "requests": None,
    "perSeconds": 1,
    "sharedBy": None,
    "retryMaxAgeSeconds": 604_800,
}


def test_limits_are_said_in_words() -> None:
    assert destination.limit_sentences(LIMITS) == [
        "At most 1 attempt at the same time.",
        "No limit of requests by time.",
        "An attempt may take 10 s. Usher tries a delivery for 7 days.",
    ]


def test_shared_rate_limit_names_its_group() -> None:
    limits = LIMITS | {"requests": 10, "perSeconds": 2, "sharedBy": "klaviyo", "retryMaxAgeSeconds": 3600}
    assert destination.limit_sentences(limits)[1:] == [
        "At most 10 requests in 2 s, together with others that share `klaviyo`.",
        "An attempt may take 10 s. Usher tries a delivery for 1 hour.",
    ]


@pytest.mark.parametrize(
    ("changes", "effect"),
    [
        ({"state": "delivered", "status": 200}, ""),
        ({"state": "delivered", "status": 409}, "A rule of `http.answers` says: delivered."),
        ({"state": "dead", "status": 200, "error": "RejectedByRule"}, "A rule of `http.answers` says: dead."),
        ({"state": "dead", "status": 400, "error": "Rejected"}, ""),
    ],
)
def test_effect_of_an_answer_rule_is_named(changes: dict[str, Any], effect: str) -> None:
    delivery = {"status": None, "error": None} | changes
    assert destination.rule_effect(delivery) == effect


def test_every_health_and_outcome_has_a_sentence() -> None:
    assert destination.HEALTH.keys() == {*states.DestinationHealth}
    assert states.SAMPLE_OUTCOMES.keys() == {"Delivered", "Retry", "Dead"}
