"""The report of a benchmark: a table of measurements and goals."""

import statistics
from collections.abc import Iterable

import msgspec
import rich.console
import rich.table

console = rich.console.Console()


class Result(msgspec.Struct):
    """One line of the report."""

    name: str
    value: str
    goal: str
    met: bool | None = None


def latency(what: str, milliseconds: list[float], goal: float) -> Result:
    """Return the line of latencies in milliseconds."""
    milliseconds = sorted(milliseconds)
    half, most = statistics.median(milliseconds), milliseconds[-(-len(milliseconds) * 99 // 100) - 1]
    measured = f"p50 {half:.0f} ms, p99 {most:.0f} ms, at most {milliseconds[-1]:.0f} ms ({len(milliseconds)} edits)"
    return Result(what, measured, f"p99 <= {goal:.0f} ms", most <= goal)


def progress(text: str) -> None:
    """Print the current step."""
    console.print(f"{text} ...", style="dim")


def show(title: str, results: Iterable[Result]) -> int:
    """Print the table; return 1 if a goal is missed."""
    table = rich.table.Table(title=title)
    for column in ("what", "measured", "goal", ""):
        table.add_column(column)
    missed = 0
    for result in results:
        mark = "" if result.met is None else "[green]met[/]" if result.met else "[red]missed[/]"
        missed += result.met is False
        table.add_row(result.name, result.value, result.goal, mark)
    console.print(table)
    return 1 if missed else 0
