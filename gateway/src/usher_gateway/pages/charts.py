"""Charts as SVG, made on the server. Each has a title and a description for people who cannot see it.

The bars are stretched to the page's width. Their labels are outside the stretched part, so that they keep their
size: the scale is HTML, and the labels below the bars have their own drawing, with positions in percent.
"""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 720, 140


class Bar(NamedTuple):
    """One bar."""

    label: str
    """Below the bar, if there is room; also in its tooltip."""
    value: float


def bar_chart(title: str, unit: str, bars: Sequence[Bar], labelled: int = 6) -> Markup:
    """Return a bar chart.

    Args:
        title: what the chart shows; screen readers read it.
        unit: the values' unit, such as ``visits``.
        bars: from left to right; none give a sentence instead of a chart.
        labelled: how many bars have their label below them; half as many on a phone.
    """
    highest = max((bar.value for bar in bars), default=0.0)
    if highest <= 0:
        return Markup('<p class="quiet">{}: none.</p>').format(title)
    top = _rounded_up(highest)
    step = _WIDTH / len(bars)
    peak = max(bars, key=lambda bar: bar.value)
    described = f"Highest: {_number(peak.value)} {unit} at {peak.label}. Last: {_number(bars[-1].value)} {unit}."
    scale = [f"<span>{_number(top * share)}</span>" for share in (1.0, 0.5, 0.0)]
    lines = [
        '<div class="chart">',
        f'<div class="scale" aria-hidden="true">{"".join(scale)}</div>',
        f'<svg class="plot" role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none">',
        f"<title>{escape(title)}</title><desc>{escape(described)}</desc>",
    ]
    lines += [f'<line x2="{_WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, _HEIGHT // 2, _HEIGHT)]
    for number, bar in enumerate(bars):
        height = _HEIGHT * bar.value / top
        place = f'x="{number * step:.1f}" y="{_HEIGHT - height:.1f}" width="{step * 0.85:.1f}" height="{height:.1f}"'
        lines.append(f"<rect {place}><title>{escape(bar.label)}: {_number(bar.value)} {escape(unit)}</title></rect>")
    every = max(1, -(-len(bars) // labelled))
    labels = [
        f'<text x="{100 * n / len(bars):.2f}%" y="13">{escape(bars[n].label)}</text>'
        for n in range(0, len(bars), every)
    ]
    return Markup("".join([*lines, '</svg><svg class="labels" aria-hidden="true">', *labels, "</svg></div>"]))  # noqa: S704 - every text is escaped


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
