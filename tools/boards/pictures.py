"""Draws a board from a Prometheus, for docs/boards: `make pictures`.

The pictures are not screenshots of Grafana. They show the same panels, from the same queries, in the same places.
"""

import io
import math
import re
import textwrap
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import rich.console
import rich.text
from matplotlib import axes, figure, gridspec, transforms
from PIL import Image

from prometheus import server

_COLUMN_INCHES, _ROW_INCHES, _DPI = 0.62, 0.36, 72
_MOST_SERIES = 10
_LINE_INCHES, _CHARACTER_INCHES = 0.24, 0.064  # Of the text of a table
_GREEN, _RED, _GREY = "#2a7d3f", "#c4162a", "#6b6b6b"
# Labels of tables from left to right.
_ORDER = (
    *("tenant_namespace", "tenant", "listener", "destination", "counted_as"),
    *("hostname", "kind", "ready"),
)
_TIMES = ((86_400, "d"), (3600, "h"), (60, "min"))


def shown(value: float, unit: str) -> str:
    """Return a value with its unit, as short as Grafana does."""
    if math.isnan(value):
        return "-"
    match unit:
        case "percentunit":
            return f"{value:.1%}"
        case "bytes":
            power = min(4, int(math.log(max(abs(value), 1), 1024)))
            return f"{value / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
        case "s":
            return _duration(value)
        case "locale":
            return f"{value:,.0f}"
        case "cpm":
            return f"{value:,.3g} /min" if value < 100 else f"{value:,.0f} /min"
        case "reqps" | "ops":
            return f"{value:.3g} /s"
        case "bool_yes_no":
            return "yes" if value else "no"
        case _:
            return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    for size, unit in _TIMES:
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s" if abs(seconds) >= 1 or not seconds else f"{seconds * 1000:.3g} ms"


_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def draw_terminal(printed: str, title: str, file: Path) -> None:
    """Draw what a program printed, with its colours, as a terminal of 80 columns (SVG)."""
    console = rich.console.Console(record=True, width=80, file=io.StringIO(), highlight=False)
    console.print(rich.text.Text.from_ansi(printed.rstrip("\n")))
    # The reader's own fonts, because a page should load none from elsewhere.
    file.write_text(_FONTS.sub("", console.export_svg(title=title, unique_id="usher")), "utf-8")


class Drawing:
    """Draws a board from a Prometheus, over a time from ``begun`` until now. ``values``: of the board's variables."""

    def __init__(self, prometheus: server.Prometheus, begun: float, **values: str) -> None:
        self._prometheus = prometheus
        self._begun, self._ended = begun, time.time()
        self._values = values

    async def draw(self, board: dict[str, Any], file: Path) -> None:
        """Draw a board into a file."""
        places = [panel["gridPos"] for panel in board["panels"]]
        rows = max(place["y"] + place["h"] for place in places)
        picture = figure.Figure(figsize=(24 * _COLUMN_INCHES, rows * _ROW_INCHES + 0.6), dpi=_DPI, facecolor="white")
        picture.suptitle(board["title"], x=0.02, y=0.995, ha="left", va="top", fontsize=15, fontweight="bold")
        top = 1 - 0.5 / (rows * _ROW_INCHES + 0.6)
        grid = gridspec.GridSpec(
            rows, 24, figure=picture, left=0.01, right=0.99, top=top, bottom=0.01, wspace=0, hspace=0
        )
        for panel in board["panels"]:
            place = panel["gridPos"]
            cell = grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]]
            await self._draw_panel(picture.add_subplot(cell), panel)
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        picture.savefig(drawn)
        # half of the bytes; the method keeps a colour that few points have
        Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(file, optimize=True)

    async def _draw_panel(self, whole: axes.Axes, panel: dict[str, Any]) -> None:
        whole.set_xticks([])
        whole.set_yticks([])
        for spine in whole.spines.values():
            spine.set_color("#d8d8d8")
        unit = panel["fieldConfig"]["defaults"]["unit"]
        title = textwrap.shorten(panel["title"], int(panel["gridPos"]["w"] * 7), placeholder=" ...")
        size = 9 if panel["type"] == "stat" else 10
        whole.text(0.02, 1 - 0.22 / panel["gridPos"]["h"], title, transform=whole.transAxes, fontsize=size, va="top")
        match panel["type"]:
            case "stat":
                await self._draw_number(whole, panel, unit)
            case "timeseries":
                await self._draw_graph(whole, panel, unit)
            case _:
                await self._draw_table(whole, panel, unit)

    async def _draw_number(self, whole: axes.Axes, panel: dict[str, Any], unit: str) -> None:
        samples = await self._prometheus.query(filled(panel["targets"][0]["expr"], **self._values))
        value = float(samples[0]["value"][1]) if samples else math.nan
        defaults = panel["fieldConfig"]["defaults"]
        steps = defaults["thresholds"]["steps"]
        colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
        drawn = {"green": _GREEN, "red": _RED}[colour[-1] if samples else "green"]
        words = {
            key: word["text"] for mapping in defaults.get("mappings", ()) for key, word in mapping["options"].items()
        }
        text = words.get(f"{value:g}", shown(value, unit))
        whole.text(0.5, 0.36, text, transform=whole.transAxes, fontsize=19, color=drawn, ha="center", va="center")

    async def _draw_graph(self, whole: axes.Axes, panel: dict[str, Any], unit: str) -> None:
        inner = whole.inset_axes((0.13, 0.32, 0.84, 0.50))
        lines: list[tuple[str, list[float], list[float]]] = []
        for target in panel["targets"]:
            expr = filled(target["expr"], **self._values)
            for series in await self._prometheus.query_range(expr, self._begun, self._ended, 1.0):
                times = [float(at) - self._begun for at, _ in series["values"]]
                lines.append(
                    (_legend(target["legendFormat"], series["metric"]), times, [float(v) for _, v in series["values"]])
                )
        lines.sort(key=lambda line: -max((v for v in line[2] if not math.isnan(v)), default=0))
        colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
        for number, (name, times, values) in enumerate(lines[:_MOST_SERIES]):
            inner.plot(
                times,
                values,
                linewidth=1.4,
                label=_shorten(name, 38),
                color=colours[number % 10],
            )
        inner.set_xlim(0, self._ended - self._begun)
        has_values = any(value > 0 for _, _, values in lines for value in values)
        inner.set_ylim(bottom=0, top=None if has_values else 1)
        inner.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=unit == "locale"))
        inner.yaxis.set_major_formatter(lambda value, _: shown(value, unit))
        inner.xaxis.set_major_formatter(lambda value, _: f"{value:.0f} s")
        inner.tick_params(labelsize=7, colors=_GREY, length=2)
        inner.grid(visible=True, color="#ececec", linewidth=0.6)
        inner.spines[["top", "right"]].set_visible(False)
        if len(lines) > _MOST_SERIES:
            note = f"{_MOST_SERIES} of {len(lines)} lines shown"
            inner.text(1, 1.02, note, transform=inner.transAxes, color=_GREY, fontsize=6.5, ha="right", va="bottom")
        if lines:
            columns = 2 if panel["gridPos"]["w"] <= 8 else 4
            whole.legend(
                *inner.get_legend_handles_labels(),
                loc="lower left",
                bbox_to_anchor=(0.01, -0.01),
                ncols=columns,
                fontsize=6.5,
                frameon=False,
                handlelength=1.2,
                columnspacing=1.0,
                labelspacing=0.25,
            )
        else:
            inner.text(0.5, 0.5, "no data", transform=inner.transAxes, color=_GREY, ha="center")

    async def _draw_table(self, whole: axes.Axes, panel: dict[str, Any], unit: str) -> None:
        legends = [target["legendFormat"] for target in panel["targets"]]
        units = {
            override["matcher"]["options"]: change["value"]
            for override in panel["fieldConfig"].get("overrides", ())
            for change in override["properties"]
            if change["id"] == "unit"
        }
        rows: dict[tuple[str, ...], dict[str, float]] = {}
        names: tuple[str, ...] = ()
        for target in panel["targets"]:
            for sample in await self._prometheus.query(filled(target["expr"], **self._values)):
                names = tuple(sorted(sample["metric"], key=_ORDER.index))
                rows.setdefault(tuple(sample["metric"][name] for name in names), {})[target["legendFormat"]] = float(
                    sample["value"][1]
                )
        if not rows:
            empty = panel["fieldConfig"]["defaults"].get("noValue", "none")
            whole.text(0.5, 0.5, empty, transform=whole.transAxes, color=_GREY, ha="center")
            return
        smallest_first = not panel["options"]["sortBy"][0]["desc"]
        ordered = sorted(
            rows.items(),
            key=lambda row: [row[1].get(legend, -math.inf) for legend in legends],
            reverse=not smallest_first,
        )
        head = [
            name.rpartition("_")[2] if "namespace" in name else name.replace("_", " ") for name in (*names, *legends)
        ]
        cells = [
            [
                *labels,
                *(shown(values[legend], units.get(legend, unit)) if legend in values else "" for legend in legends),
            ]
            for labels, values in ordered
        ]
        place = panel["gridPos"]
        height_inches = place["h"] * _ROW_INCHES
        fitting = int((height_inches - 0.75) / _LINE_INCHES)
        if len(cells) > fitting:
            note = f"{fitting} of {len(cells)} rows shown; Grafana scrolls"
            whole.text(0.98, 0.03, note, transform=whole.transAxes, color=_GREY, fontsize=7, ha="right")
        drawn = [head, *cells[:fitting]]
        widths = _column_widths(drawn, int(place["w"] * _COLUMN_INCHES * 0.96 / _CHARACTER_INCHES))
        height = _LINE_INCHES * len(drawn) / height_inches
        table = whole.table(
            [[_shorten(text, width) for text, width in zip(row, widths, strict=True)] for row in drawn],
            colWidths=[width / sum(widths) for width in widths],
            bbox=transforms.Bbox.from_bounds(0.02, 1 - 0.42 / height_inches - height, 0.96, height),
            cellLoc="left",
            edges="horizontal",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(7.5)
        for (row, _), cell in table.get_celld().items():
            cell.PAD = 0.02
            cell.set_edgecolor("#e2e2e2")
            cell.get_text().set_color(_GREY if row == 0 else "black")


def _column_widths(rows: list[list[str]], characters: int) -> list[int]:
    """Return how many characters each column gets: what it needs, or less for the widest if there is too little."""
    widths = [max(len(text) for text in column) + 2 for column in zip(*rows, strict=True)]
    while sum(widths) > characters:
        widths[widths.index(max(widths))] -= 1
    return widths


def _shorten(text: str, width: int) -> str:
    """Cut the middle of a text, because names of one kind begin alike, until it is shorter than ``width``."""
    if len(text) < width:
        return text
    kept = width - 2
    return f"{text[: kept - kept // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - kept // 2 :]}"


def filled(expr: str, **values: str) -> str:
    """Return a query with the values of its variables; a variable without a value selects everything."""
    all_values = {"__rate_interval": "15s", **values}
    return re.sub(r"\$(\w+)", lambda variable: all_values.get(variable[1], ".+"), expr)


def _legend(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda variable: labels.get(variable[1], ""), form)
