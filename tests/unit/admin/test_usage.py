from typing import Any

import pytest

from usher_gateway import model
from usher_gateway.admin import usage

NOON = 1_764_072_000 * model.MICROSECONDS  # 2025-11-25T12:00:00Z


def test_usage_range_defaults_to_this_month_by_day() -> None:
    asked = usage.parse_range({}, NOON + 1)
    assert model.format_time(asked.since) == "2025-11-01T00:00:00.000Z"
    assert model.format_time(asked.until) == "2025-11-25T12:15:00.000Z"
    assert asked.period == "day"


@pytest.mark.parametrize(
    "query", [{"by": "year"}, {"from": "2025-11-25", "to": "2025-11-25"}, {"from": "2025-11-25", "to": "2025-11-24"}]
)
def test_empty_range_and_unknown_period_are_rejected(query: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"by must|from must"):
        usage.parse_range(query, NOON)


def test_range_that_begins_in_the_future_says_what_its_end_is() -> None:
    with pytest.raises(ValueError, match="which by default is the end of this quarter of an hour"):
        usage.parse_range({"from": "2025-12"}, NOON)


def test_range_is_widened_to_slot_borders() -> None:
    asked = usage.parse_range({"from": "2025-11-25T11:59:59Z", "to": "2025-11-25T12:00:01Z"}, NOON)
    assert (asked.since, asked.until) == (NOON - 900 * model.MICROSECONDS, NOON + 900 * model.MICROSECONDS)
