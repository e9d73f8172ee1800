"""Prints rows: a table in a wide terminal, two lines per row in a narrow one, JSON or CSV for programs."""

import csv
import json
import re
import sys
from collections.abc import Sequence
from typing import Literal

import typer

from usher_gateway.admin.listings import Column, Row

_WIDE = 120
"""The terminal width from which a table with ids fits."""

_INDENT = "  "
"""Before the further lines of a row in a narrow terminal."""

_NEW_LINE = "\n"

OutputFormat = Literal["text", "json", "csv"]


def print_json(value: object) -> None:
    """Print a value for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    output: OutputFormat,
    nothing: str,
    cells: Sequence[Column] | None = None,
) -> None:
    """Print rows, or the text ``nothing`` if there are none. ``cells`` replaces the columns for CSV."""
    if output == "json":
        print_json({"rows": rows})
    elif output == "csv":
        writer = csv.writer(sys.stdout)
        cells = cells or columns
        writer.writerow([head.lower() for head, _ in cells])
        writer.writerows([[cell(row) for _, cell in cells] for row in rows])
    elif not rows:
        typer.echo(nothing)
    else:
        _print_text(rows, columns)


def _print_text(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    import rich.console

    console = rich.console.Console(highlight=False)
    if console.width >= _WIDE:
        print_table([head for head, _ in columns], [[cell(row) for _, cell in columns] for row in rows])
        return
    for row in rows:
        cells = [cell(row) for _, cell in columns]
        for line in fill(cells[:2], console.width):
            console.print(line, style="bold", markup=False, soft_wrap=True)
        for line in fill(cells[2:], console.width - len(_INDENT)):
            console.print(_INDENT + line, markup=False, soft_wrap=True)


def fill(cells: Sequence[str], width: int) -> list[str]:
    """Arrange cells in lines of at most ``width`` characters; return the lines.

    A cell that fits into a line stays in one line. A longer one is broken only between the items of its list, so that
    a name or a URL stays whole, even if it is wider than a line.
    """
    pieces: list[tuple[str, str]] = []
    """Each with what separates it from the previous one in a line."""
    for cell in filter(None, cells):
        if len(cell) <= width:
            pieces.append(("  ", cell))
        else:
            first, *rest = re.findall(r".+?(?:, |$)", cell)
            pieces += [(_NEW_LINE, first), *[("", item) for item in rest]]
    lines: list[str] = []
    for gap, text in pieces:
        if lines and gap != _NEW_LINE and len(lines[-1]) + len(gap) + len(text.rstrip()) <= width:
            lines[-1] += gap + text
        else:
            lines.append(text)
    return [line.rstrip() for line in lines]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> None:
    """Print a table; the last ``numbers`` columns are right-aligned."""
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


def print_facts(row: Row) -> None:
    """Print every field of a row, one per line; a long one goes on below, and is broken only between its items."""
    import rich.console

    width = max([len(name) for name in row])
    room = rich.console.Console().width - width - len(_INDENT)
    for name, value in row.items():
        facts = [_fact(item) for item in value] if isinstance(value, list) else [_fact(value)]
        lines = [line for fact in facts for line in fill([fact], room)]
        for index, line in enumerate(lines or ["-"]):
            typer.echo(f"{name if not index else '':<{width}}{_INDENT}{line}")


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join([f"{name} {_fact(item)}" for name, item in value.items() if item is not None])
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
