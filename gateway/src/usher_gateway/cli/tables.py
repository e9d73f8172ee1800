"""Prints rows: a table with one line per row, JSON or CSV for programs."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import rich.cells
import typer

from usher_gateway.words import listings
from usher_gateway.words.listings import Column, Row

_GAP = "  "  # Between two columns
_NARROWEST = 10  # width of a column whose cells go on in further lines
_NARROW_WORDS = 16  # down to this width, words are broken rather than names
_READABLE = 30  # columns after the essential ones are shown if they leave names whole and words this width

NAMES = frozenset({"TENANT", "DESTINATION", "LISTENER", "ROUTE", "WHO"})  # Heads of columns with names

# Column heads whose cells stay on one line, besides times and numbers.
_WHOLE = frozenset({"ID", "VISIT", "PERIOD"})

FIXED_SPACE = "\N{NO-BREAK SPACE}"  # A space at which `wrapped` does not break; it prints an ordinary one
_NO_WIDTH = 1_000_000  # of output that is not a terminal, so that programs get whole lines

_NUMBER = re.compile(r"-|\d+(\.\d+)?[%smhd]?|\d+[/→]\d+")

_PARTS = re.compile(r"[^/-]*[/-]?")  # Parts of a name

OutputFormat = Literal["text", "json", "csv"]


def print_json(value: object) -> None:
    """Print a value, indented, because people read it too."""
    print_lines(json.dumps(value, indent=2, ensure_ascii=False))


def terminal_width() -> int:
    """Return the terminal's columns; COLUMNS overrides it. Output into a pipe or a file has no limit."""
    return shutil.get_terminal_size((_NO_WIDTH, 24)).columns


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    output: OutputFormat,
    nothing: str,
    *,
    essential: int = 1,
    beside: Mapping[str, object] | None = None,
) -> None:
    """Print rows, or the text ``nothing`` if there are none.

    ``essential``: as in `table_rows`. ``beside``: fields that JSON has beside ``rows``.
    """
    if output == "json":
        print_json({"rows": rows, **(beside or {})})
    elif output == "csv":
        print_csv(rows)
    elif not rows:
        typer.echo(nothing)
    else:
        print_table([head for head, _ in columns], [[cell(row) for _, cell in columns] for row in rows], essential)


def print_csv(rows: Sequence[Row]) -> None:
    """Print rows as CSV: a column for each JSON field."""
    typer.echo(listings.csv_text(rows), nl=False)


def width_of(text: str) -> int:
    """Return how many terminal cells a text takes: a Chinese, Japanese or Korean letter takes two."""
    return len(text) if text.isascii() else rich.cells.cell_len(text)


def padded(text: str, width: int, *, is_number: bool = False) -> str:
    """Return a text with spaces up to a width, behind it, or before a number."""
    spaces = " " * (width - width_of(text))
    return spaces + text if is_number else text + spaces


def without_shared_cells(
    columns: Sequence[Column], rows: Sequence[Row], shared: Collection[str] = NAMES
) -> tuple[list[Column], dict[str, str]]:
    """Return a table's columns, and those under the heads ``shared`` that have the same cell in all rows.

    `print_shared_cells` says these below the table. If all rows have the same day, the first column's head shows
    it; if they have the same namespace, the names leave it out.
    """
    columns = [_of_one_day(columns[0], rows), *columns[1:]]
    namespaces = {row["namespace"] for row in rows}
    if len(namespaces) == 1:
        columns = [(head, _without_prefix(cell, f"{''.join(namespaces)}/")) for head, cell in columns]
    names = {head: {cell(row) for row in rows} for head, cell in columns if head in shared}
    same = {head: "".join(cells) for head, cells in names.items() if len(cells) == 1 and len(rows) > 1}
    return [(head, cell) for head, cell in columns if head not in same], same


def _of_one_day(column: Column, rows: Sequence[Row]) -> Column:
    """Return a time column (month, day, time) without the day if it is the same in all rows."""
    head, cell = column
    days = {cell(row)[:5] for row in rows}
    return (f"UTC {''.join(days)}", lambda row: cell(row)[6:]) if len(days) == 1 else (head, cell)


def _without_prefix(cell: Callable[[Row], str], prefix: str) -> Callable[[Row], str]:
    return lambda row: cell(row).removeprefix(prefix)


def print_shared_cells(same: Mapping[str, str]) -> None:
    """Print what all rows in a table have in common (`without_shared_cells`)."""
    names = [f"{head.lower()} {name}" for head, name in same.items() if head in NAMES]
    counted = [f"counted as {same['COUNTED']}"] if "COUNTED" in same else []
    print_text(f"All {'of ' if names else ''}{', '.join([*names, *counted])}.", err=True)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], essential: int = 1) -> None:
    """Print a table as wide as the terminal; if columns have no room there, say which."""
    ((head,), *lines), left_out = table_rows(heads, rows, terminal_width(), essential)
    typer.echo(typer.style(head, bold=True))
    for line in itertools.chain(*lines):
        typer.echo(line)
    if left_out:
        print_text(f"No room for {', '.join(left_out)}: widen the terminal, or use `-o json`.", err=True)


class _TableColumn:
    """A column in a table that is laid out."""

    def __init__(self, head: str, cells: Sequence[str]) -> None:
        self.head = head
        self.cells = [listings.printable(cell) or "-" for cell in cells]
        self.has_numbers = set(self.cells) != {"-"} and all(map(_NUMBER.fullmatch, self.cells))
        self.width = max(map(width_of, [head, *self.cells]))
        is_whole = self.has_numbers or head in _WHOLE or "UTC" in head
        self.has_words = not is_whole and any(" " in cell for cell in self.cells)
        self.narrowest = self.width if is_whole else min(self.width, max(len(head), _NARROWEST))
        self.readable = min(self.width, _READABLE) if self.has_words else self.width

    def lines(self, cell: str) -> list[str]:
        """Return a cell as lines that fit the column; a word that is wider is broken behind a hyphen if it has one."""
        if width_of(cell) <= self.width:
            return [cell]
        parts = [part for word in wrapped(cell, self.width) for part in _filled(_PARTS.findall(word), self.width)]
        return [line for part in parts for line in rich.cells.chop_cells(part, self.width)]

    def padded(self, line: str) -> str:
        """Return a line with spaces up to the column's width."""
        return padded(line, self.width, is_number=self.has_numbers)


def table_rows(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, essential: int
) -> tuple[list[list[str]], Sequence[str]]:
    """Return the lines of each row, the heads first, and the heads of the columns that have no room.

    The columns are in order of importance: the last ones are left out if they have no room, but for the first
    ``essential`` ones. A cell that is wider than its column goes on in further lines. Numbers are right-aligned, and
    ``-`` is an empty cell.
    """
    columns = [_TableColumn(head, [row[index] for row in rows]) for index, head in enumerate(heads)]
    while len(columns) > essential and _room_of([column.readable for column in columns]) > width:
        columns.pop()
    excess = _room_of([column.width for column in columns]) - width
    while excess > 0 and (wide := [column for column in columns if column.width > column.narrowest]):
        # Words are broken before names.
        max(wide, key=lambda column: (column.has_words and column.width > _NARROW_WORDS, column.width)).width -= 1
        excess -= 1
    lines = []
    for row in zip(*[[column.head, *column.cells] for column in columns], strict=True):
        parts = itertools.zip_longest(*map(_TableColumn.lines, columns, row), fillvalue="")
        lines.append([_GAP.join(map(_TableColumn.padded, columns, line)).rstrip() for line in parts])
    return lines, heads[len(columns) :]


def _room_of(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _filled(parts: Sequence[str], width: int) -> list[str]:
    """Join parts, each with the spaces behind it, to lines of at most ``width`` cells; a wider part stays whole."""
    lines = [""]
    for part in parts:
        if lines[-1] and width_of(lines[-1]) + width_of(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines if line]


def duration(seconds: float | None) -> str:
    """Return an age in at most four characters: ``12s``, ``3m``, ``5h``, ``21d``; ``-`` for none."""
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{min(int(seconds // size), 999)}{unit}"
    return f"{max(0, int(seconds))}s"


def print_facts(row: Row) -> None:
    """Print a row's fields, one per line; a long one goes on below, and is broken only between its items.

    A name or a URL stays whole, even if it is wider than a line.
    """
    width = max([len(name) for name in row])
    room = terminal_width() - width - len(_GAP)
    for name, value in row.items():
        facts = [compact(item) for item in value] if isinstance(value, list) else [compact(value)]
        lines = [line for fact in facts for line in _filled(re.findall(r".+?(?:, |$)", fact), room)]
        for index, line in enumerate(lines or ["-"]):
            typer.echo(f"{name if not index else '':<{width}}{_GAP}{line}")


def wrapped(text: str, width: int) -> list[str]:
    """Return a text as lines with at most ``width`` terminal cells, broken between words, but not inside a command.

    A command stands between backticks. On one line, it can be pasted.
    """
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", FIXED_SPACE), listings.printable(text))
    return [line.replace(FIXED_SPACE, " ") for line in _filled(re.findall(" *[^ ]+ *", whole), width)]


def print_lines(text: str) -> None:
    """Print a text's lines as they are, without characters that command a terminal."""
    lines = text.replace("\r\n", "\n").expandtabs().split("\n")
    typer.echo("\n".join(map(listings.printable, lines)))


def print_text(text: str, *, lead: str = "", err: bool = False) -> None:
    """Print a text behind its lead, broken between words to fit the terminal. ``err``: to standard error."""
    room = max(_NARROW_WORDS, terminal_width() - width_of(lead))
    for line in [part for paragraph in text.splitlines() for part in wrapped(paragraph, room)]:
        typer.echo(f"{lead}{line}", err=err)
        lead = " " * width_of(lead)


def print_texts(texts: Sequence[tuple[str, str]]) -> None:
    """Print texts, each after its name or time, broken between words to fit the terminal."""
    width = max([width_of(name) for name, _ in texts]) + len(_GAP)
    for name, text in texts:
        print_text(text, lead=padded(name, width))


def compact(value: object) -> str:
    """Return a JSON value for people, on one line."""
    if isinstance(value, dict):
        return ", ".join([f"{name} {compact(item)}" for name, item in value.items() if item is not None])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(compact, value))
    return "-" if value is None else listings.printable(str(value))
