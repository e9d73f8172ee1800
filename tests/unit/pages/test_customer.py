"""Sentences of the page of a customer."""

import datetime
from typing import Any

import pytest

from usher_gateway.pages import customer

NOW = datetime.datetime(2026, 11, 30, 12, 0, tzinfo=datetime.UTC)
TENANT: dict[str, Any] = {
    "state": "Active",
    "lastArrival": "2026-11-30T11:58:00Z",
    "silentListeners": 0,
    "refusingListeners": 0,
    "destinations": [],
    "held": {},
    "dead": 0,
    "retention": {"bodyDays": 30},
}


@pytest.mark.parametrize(
    ("held", "sentences"),
    [
        ({"FilterError": 80, "SecretNotFound": 7}, ["87 deliveries are held until a setting is corrected."]),
        ({"TenantSuspended": 1}, ["1 delivery is held until the suspension ends."]),
        (
            {"QuotaExceeded": 2, "DestinationPaused": 3},
            [
                "2 deliveries are held until the next month or a higher quota.",
                "3 deliveries are held until the pause ends.",
            ],
        ),
    ],
)
def test_held_deliveries_have_their_number_and_the_end_of_the_hold(held: dict[str, int], sentences: list[str]) -> None:
    _, *shown = customer.sentences(TENANT | {"held": held}, NOW)
    assert shown == [*sentences, "Held deliveries are kept for at most 30 days."]


def test_page_without_held_deliveries_says_nothing_of_holds() -> None:
    assert customer.sentences(TENANT, NOW) == ["Visits arrive; the last one 2 min ago."]
