"""Rows for people: one table where the terminal is wide, two lines per row where it is narrow. And CSV for programs."""

import csv
import json
import sys
from collections.abc import Callable, Sequence

import typer

from usher_gateway.cli import ask

_WIDE = 120
"""Columns from which a table with ids fits."""

Column = tuple[str, Callable[[ask.Row], str]]
"""Head and cell. The first two columns are the headline of a row where there is little room."""


def print_rows(
    rows: Sequence[ask.Row],
    columns: Sequence[Column],
    output: ask.Output,
    nothing: str,
    cells: Sequence[Column] | None = None,
) -> None:
    """Print rows; ``nothing`` is said to people when there are none; ``cells`` are the columns of CSV, if others."""
    if output is ask.Output.json:
        typer.echo(json.dumps({"rows": rows}, indent=2, ensure_ascii=False))
    elif output is ask.Output.csv:
        writer = csv.writer(sys.stdout)
        cells = cells or columns
        writer.writerow([head.lower() for head, _ in cells])
        writer.writerows([[cell(row) for _, cell in cells] for row in rows])
    elif not rows:
        typer.echo(nothing)
    else:
        _print_text(rows, columns)


def _print_text(rows: Sequence[ask.Row], columns: Sequence[Column]) -> None:
    import rich.console
    import rich.markup
    import rich.padding
    import rich.text

    console = rich.console.Console(highlight=False)
    if console.width >= _WIDE:
        print_table([head for head, _ in columns], [[cell(row) for _, cell in columns] for row in rows])
        return
    for row in rows:
        cells = [cell(row) for _, cell in columns]
        console.print(rich.text.Text("  ".join(cells[:2]), style="bold"))
        rest = "  ".join([text for text in cells[2:] if text])
        console.print(rich.padding.Padding(rich.text.Text(rest), (0, 0, 0, 2)))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> None:
    """Print a table; the last ``numbers`` columns are numbers."""
    import rich.box
    import rich.console
    import rich.table
    import rich.text

    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, head in enumerate(heads):
        if index >= len(heads) - numbers:
            table.add_column(head, justify="right", no_wrap=True)
        else:
            table.add_column(head, overflow="fold", no_wrap=head == "ID")
    for row in rows:
        table.add_row(*[rich.text.Text(cell) for cell in row])
    rich.console.Console(highlight=False).print(table)


def print_facts(row: ask.Row) -> None:
    """Print one row in full, a line per fact."""
    width = max([len(name) for name in row])
    for name, value in row.items():
        lines = [_fact(item) for item in value] if isinstance(value, list) else [_fact(value)]
        for index, line in enumerate(lines or ["-"]):
            typer.echo(f"{name if not index else '':<{width}}  {line}")


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join([f"{name} {_fact(item)}" for name, item in value.items() if item is not None])
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)


def when(name: str) -> Callable[[ask.Row], str]:
    """A cell with a time, to the second, UTC."""
    return lambda row: str(row.get(name) or "").replace("T", " ")[:19]


def text(name: str) -> Callable[[ask.Row], str]:
    """A cell with a value as it is; empty where there is none."""
    return lambda row: "" if row.get(name) is None else str(row[name])


def listener_of(row: ask.Row) -> str:
    """Tenant and listener in one cell."""
    return f"{row['namespace']}/{row['tenant']}/{row['listener']}"


VISIT_COLUMNS: Sequence[Column] = (
    ("RECEIVED", when("receivedAt")),
    ("ID", text("id")),
    ("LISTENER", listener_of),
    ("COUNTED AS", lambda row: f"{row['countedAs']}{' late' if row['late'] else ''}"),
    ("REASON", lambda row: f"{row['reason'] or ''}{' released' if row['released'] else ''}"),
    ("VERDICTS", lambda row: ", ".join([verdict(one) for one in row["verdicts"]])),
)
"""How arrivals are listed."""


def _why(row: ask.Row) -> list[str]:
    return [str(row[name]) for name in ("cancelled", "error", "status") if row[name]]


def _due(row: ask.Row) -> list[str]:
    """When it is tried next, if it waits: later than due means that its destination's circuit is open or it is full."""
    return [f"due {when('dueAt')(row)}"] if row.get("dueAt") else []


DELIVERY_COLUMNS: Sequence[Column] = (
    ("CREATED", when("createdAt")),
    ("ID", text("id")),
    ("LISTENER", listener_of),
    ("ROUTE", text("route")),
    ("DESTINATION", text("destination")),
    ("STATE", lambda row: f"{row['state']}{' held: ' + row['held'] if row['held'] else ''}"),
    ("WHY", lambda row: " ".join([*_why(row), *_due(row)])),
    ("ATTEMPTS", lambda row: counted(row["attempts"], "attempt")),
)
"""How deliveries are listed."""

DELIVERY_CELLS: Sequence[Column] = (*DELIVERY_COLUMNS[:-1], ("ATTEMPTS", text("attempts")))
"""The same for programs: a number is a number."""


def counted(count: int, noun: str) -> str:
    """A number with its noun."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"


def verdict(one: ask.Row) -> str:
    """A verdict in few words: route, and what it came to."""
    if "skipped" in one:
        return f"{one['route']}: skipped {one['skipped']}"
    held = f" held {one['held']}" if one.get("held") else ""
    return f"{one['route']}: {one.get('state', 'gone')}{held}"
