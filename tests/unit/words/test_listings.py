"""Rows of listings in words."""

from typing import Any

import pytest

from usher_gateway.words import listings


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


@pytest.mark.parametrize("character", "\n\t\x1b\x7f\x9b\u00ad\u061c\u200e\u2028\u2029\u202e\u2066\ufeff\U000e0041")
def test_printable_replaces_controls_marks_and_line_breaks(character: str) -> None:
    assert listings.printable(f"a{character}b") == "a\ufffdb"


@pytest.mark.parametrize("text", ["", "東京", "a\u00a0b", "a\u200cb\u200dc", "e\u0301", "🏨", "\ue000", "\ufffd"])
def test_printable_keeps_letters_marks_and_spaces(text: str) -> None:
    assert listings.printable(text) == text


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (1, "redelivery", "1 redelivery"),
        (2, "redelivery", "2 redeliveries"),
        (0, "day", "0 days"),
        (1_200, "visit", "1,200 visits"),
    ],
)
def test_counted_noun_agrees_with_its_number(count: int, noun: str, text: str) -> None:
    assert listings.counted(count, noun) == text
