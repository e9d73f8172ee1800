"""Rows of listings in words."""

from typing import Any

import pytest

from usher_gateway.admin import listings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "pending", "held": "DestinationPaused"}, "held DestinationPaused"),
        ({"state": "dead", "error": "Rejected", "status": 400}, "dead Rejected 400"),
        ({"state": "cancelled", "cancelled": "Expired"}, "cancelled Expired"),
    ],
)
def test_result_says_why_a_delivery_is_not_delivered(changes: dict[str, Any], words: str) -> None:
    delivery = {"held": None, "cancelled": None, "error": None, "status": None} | changes
    assert listings.delivery_result(delivery) == words
