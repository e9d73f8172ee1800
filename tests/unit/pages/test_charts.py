"""Charts: the heights of bars, their labels, and the description for people who cannot see them."""

import re

import pytest

from usher_gateway.pages.charts import Bar, bar_chart


def test_chart_describes_its_highest_and_last_bar() -> None:
    chart = bar_chart("Visits by hour", "visits", [Bar("10:00", 3), Bar("11:00", 8), Bar("12:00", 0)])
    assert "<title>Visits by hour</title>" in chart
    assert "<desc>Highest: 8 visits at 11:00. Last: 0 visits.</desc>" in chart
    assert "<title>11:00: 8 visits</title>" in chart


@pytest.mark.parametrize(("highest", "top"), [(8, "10"), (1, "1"), (1_200, "2,000"), (0.3, "0.5")])
def test_scale_ends_at_the_next_round_number(highest: float, top: str) -> None:
    scale = re.findall("<span>([^<]+)</span>", bar_chart("Visits", "visits", [Bar("a", highest)]))
    assert (scale[0], scale[-1]) == (top, "0")


def test_bar_is_as_high_as_its_share_of_the_scale() -> None:
    chart = bar_chart("Visits", "visits", [Bar("a", 10), Bar("b", 5), Bar("c", 0)])
    assert re.findall('height="([0-9.]+)"', chart) == ["140.0", "70.0", "0.0"]


def test_labels_are_few_and_outside_of_the_stretched_drawing() -> None:
    chart = bar_chart("Visits", "visits", [Bar(f"h{number}", 1) for number in range(24)], labelled=4)
    stretched, labels = chart.split('<svg class="labels"')
    assert "<text" not in stretched
    assert re.findall('x="([0-9.]+)%" y="13">(h[0-9]+)', labels) == [
        ("0.00", "h0"),
        ("25.00", "h6"),
        ("50.00", "h12"),
        ("75.00", "h18"),
    ]


def test_chart_without_counts_is_a_sentence() -> None:
    assert bar_chart("Visits", "visits", [Bar("a", 0)]) == '<p class="quiet">Visits: none.</p>'


def test_texts_are_escaped() -> None:
    assert "<b>" not in bar_chart("<b>", "<b>", [Bar("<b>", 1)])
