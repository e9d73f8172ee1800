"""Months and changes of the page of usage."""

import pytest

from usher_gateway.pages import usage
from usher_gateway.pages.api import ApiProblemError


@pytest.mark.parametrize(
    ("now", "then", "text"),
    [(112, 100, "+12 %"), (50, 100, "-50 %"), (100, 100, "+0 %"), (3, 0, "new"), (0, 0, "-"), (0, 9, "-100 %")],
)
def test_change_is_in_percent_of_the_earlier_count(now: int, then: int, text: str) -> None:
    assert usage.change(now, then) == text


def test_months_are_counted_over_the_ends_of_years() -> None:
    assert str(usage.Month(2026, 1).plus(-1)) == "2025-12"
    assert str(usage.Month(2025, 12).plus(1)) == "2026-01"
    assert str(usage.Month(2026, 3).plus(-15)) == "2024-12"


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-1", "1999-01", "2026-01-01", "\u0662\u0660\u0662\u0666-01"]
)
def test_text_that_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ApiProblemError, match="not a month"):
        usage.parse_month(text)
