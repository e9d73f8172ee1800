"""Charts as SVG, made on the server. Each has a title and a description for people who cannot see it."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 720, 160
_LEFT, _BOTTOM, _TOP = 44, 20, 8


class Bar(NamedTuple):
    """One bar."""

    label: str
    """Below the bar, if there is room; also in its tooltip."""
    value: float


def bar_chart(title: str, unit: str, bars: Sequence[Bar], labelled: int = 6) -> Markup:
    """Return a bar chart.

    Args:
        title: what the chart shows; screen readers read it.
        unit: of the values, such as ``visits``.
        bars: from left to right; none give a sentence instead of a chart.
        labelled: how many bars have their label below them.
    """
    highest = max((bar.value for bar in bars), default=0.0)
    if highest <= 0:
        return Markup('<p class="quiet">{}: none.</p>').format(title)
    top = _rounded_up(highest)
    plot_width, plot_height = _WIDTH - _LEFT, _HEIGHT - _BOTTOM - _TOP
    step = plot_width / len(bars)
    peak = max(bars, key=lambda bar: bar.value)
    described = f"Highest: {_number(peak.value)} {unit} at {peak.label}. Last: {_number(bars[-1].value)} {unit}."
    lines = [
        f'<svg class="chart" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none">',
        f"<title>{escape(title)}</title><desc>{escape(described)}</desc>",
    ]
    for share in (0.0, 0.5, 1.0):
        y = _TOP + plot_height * (1 - share)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(
            f'<text class="axis" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(top * share)}</text>'
        )
    every = max(1, -(-len(bars) // labelled))
    for number, bar in enumerate(bars):
        height = plot_height * bar.value / top
        x, y = _LEFT + number * step, _TOP + plot_height - height
        lines.append(
            f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{max(1.0, step - 1):.1f}" height="{height:.1f}">'
            f"<title>{escape(bar.label)}: {_number(bar.value)} {escape(unit)}</title></rect>"
        )
        if number % every == 0:
            lines.append(f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - 5}">{escape(bar.label)}</text>')
    return Markup("".join([*lines, "</svg>"]))  # noqa: S704 - every text is escaped


def _rounded_up(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next((factor * power for factor in (1, 2, 5) if factor * power >= value), 10 * power)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
