"""Prints rows: a table with one line per row, JSON or CSV for programs."""

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import rich.cells
import typer

from usher_gateway.admin import listings
from usher_gateway.admin.listings import Column, Row

_GAP = "  "
"""Between two columns."""

_CUT = "…"

_LEAST_ROOM = 16
"""A column that would be cut below this width is left out."""

_LEAST_NAME, _LEAST_FIRST, _LEAST_LIST, _LEAST_WORD, _LEAST_COUNTED = 12, 20, 18, 12, 7
"""No essential column becomes narrower: names, the first column, lists, DELIVERIES, and why an arrival is what it is.

A column that goes on in further lines also does not become narrower than its longest word.
"""

_LEAST_BROKEN = 40
"""A column that goes on in further lines becomes as narrow as this so that the columns after the essential ones fit."""

_LEFT_OUT_FIRST = "TENANT"
"""The essential column that is left out first, because the listener or the route often has the same name."""

NAMES = frozenset({"TENANT", "DESTINATION", "LISTENER", "ROUTE", "WHO"})
"""Heads of columns with names."""

LISTS = frozenset(
    {"TROUBLES", "VERDICTS", "RESULT", "WHY", "COUNTED", "LAST ERROR", "DELIVERIES", "SELECTION", "LIMITED TO"}
)
"""Heads of columns with lists."""

NUMBERS = frozenset({"VISITS", "WAIT", "QUOTA", "LISTENERS", "FOR", "LAG", "LAST", "VIS/MIN", "TODAY", "HELD", "DEAD"})
"""Heads of columns that are right-aligned even while no row has a number."""

_LEAST_WIDTHS = {
    **dict.fromkeys(NAMES, _LEAST_NAME),
    **dict.fromkeys(("COUNTED", "WHY"), _LEAST_COUNTED),
    "DELIVERIES": _LEAST_WORD,
}

FIXED_SPACE = "\N{NO-BREAK SPACE}"
"""A space at which `wrapped` does not break; it prints an ordinary one."""

_NO_WIDTH = 1_000_000
"""The width of output that is not a terminal, so that programs get whole lines."""

_NUMBER = re.compile(r"-|\d+(\.\d+)?[%smhd]?|\d+[/→]\d+")

_FORMULA = re.compile(r"[=@]|[+-](?!\d+(\.\d+)?$)")
"""The beginning of a cell that a spreadsheet takes for a formula; a number with a sign is none."""

OutputFormat = Literal["text", "json", "csv"]


def print_json(value: object) -> None:
    """Print a value, indented, because people read it too."""
    print_lines(json.dumps(value, indent=2, ensure_ascii=False))


def terminal_width() -> int:
    """Return the columns of the terminal; COLUMNS overrides it. Output into a pipe or a file has no limit."""
    return shutil.get_terminal_size((_NO_WIDTH, 24)).columns


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    output: OutputFormat,
    nothing: str,
    cells: Sequence[Column] | None = None,
    *,
    essential: int = 1,
    broken: Collection[str] = (),
    beside: Mapping[str, object] | None = None,
) -> None:
    """Print rows, or the text ``nothing`` if there are none.

    ``cells`` replaces the columns for CSV, whose heads are the names of the fields in JSON. ``essential`` and
    ``broken``: as in `table_lines`. ``beside``: fields that JSON has beside ``rows``.
    """
    if output == "json":
        print_json({"rows": rows, **(beside or {})})
    elif output == "csv":
        writer = csv.writer(sys.stdout)
        cells = cells or columns
        writer.writerow([head for head, _ in cells])
        writer.writerows([[_csv_cell(cell(row)) for _, cell in cells] for row in rows])
    elif not rows:
        typer.echo(nothing)
    else:
        table = [[cell(row) for _, cell in columns] for row in rows]
        print_table([head for head, _ in columns], table, essential=essential, broken=broken)


def _csv_cell(cell: str) -> str:
    """Return a cell of CSV, behind ``'`` if a spreadsheet would run it: a value from a body may be a formula."""
    text = listings.printable(cell)
    return f"'{text}" if _FORMULA.match(text) else text


def width_of(text: str) -> int:
    """Return how many cells of a terminal a text takes: a letter of Chinese, Japanese or Korean takes two."""
    return len(text) if text.isascii() else rich.cells.cell_len(text)


def padded(text: str, width: int, *, is_number: bool = False) -> str:
    """Return a text with spaces up to a width, behind it, or before a number."""
    spaces = " " * (width - width_of(text))
    return spaces + text if is_number else text + spaces


def _beginning(text: str, width: int) -> str:
    """Return what fits of the beginning of a text."""
    return rich.cells.set_cell_size(text, max(0, min(width, width_of(text))))


def without_shared_cells(
    columns: Sequence[Column], rows: Sequence[Row], shared: Collection[str] = NAMES
) -> tuple[list[Column], dict[str, str]]:
    """Return the columns of a table, and those of the heads ``shared`` that have the same cell in all rows.

    `print_shared_cells` says these below the table. If all rows have the same day, the head of the first column shows
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
    """Return a column of times (month, day, time) without the day if it is the same in all rows."""
    head, cell = column
    days = {cell(row)[:5] for row in rows}
    return (f"UTC {''.join(days)}", lambda row: cell(row)[6:]) if len(days) == 1 else (head, cell)


def _without_prefix(cell: Callable[[Row], str], prefix: str) -> Callable[[Row], str]:
    return lambda row: cell(row).removeprefix(prefix)


def print_shared_cells(same: Mapping[str, str], rows: str = "All") -> None:
    """Print what all rows of a table have in common (`without_shared_cells`); ``rows``: the first words."""
    names = [f"{head.lower()} {name}" for head, name in same.items() if head in NAMES]
    counted = [f"counted as {same['COUNTED']}"] if "COUNTED" in same else []
    print_text(f"{rows} {'of ' if names else ''}{', '.join([*names, *counted])}.", err=True)


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, essential: int = 1, broken: Collection[str] = ()
) -> None:
    """Print a table as wide as the terminal; if columns have no room there, say which."""
    (head, *lines), left_out = table_lines(heads, rows, terminal_width(), essential=essential, broken=broken)
    typer.echo(typer.style(head, bold=True))
    for line in lines:
        typer.echo(line)
    if left_out:
        print_text(f"No room for {', '.join(left_out)}: widen the terminal, or use `-o json`.", err=True)


def table_lines(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, essential: int = 1, broken: Collection[str] = ()
) -> tuple[list[str], Sequence[str]]:
    """Return a table: its heads and one line per row, ``-`` for an empty cell; and the heads that have no room.

    The columns are in the order of their importance: the last ones are left out if the line has no room for them. For
    the first ``essential`` ones, wide cells become narrower: a list is cut between its items, and a name in its middle.
    If that is not enough, TENANT is left out. Without essential columns the first cell is whole, and the last column
    that is shown may be cut. Cells of the columns ``broken`` go on in further lines instead, and these
    columns become narrower before the names do. Numbers are
    right-aligned.
    """
    cells = [[listings.printable(row[index]) or "-" for row in rows] for index in range(len(heads))]
    widths = [max(map(width_of, [head, *column])) for head, column in zip(heads, cells, strict=True)]
    least = [_least_width(*column, broken=broken) for column in zip(heads, cells, strict=True)]
    least[0] = max(least[0], _LEAST_FIRST)
    has_room = _room_of(list(map(min, widths, least))[:essential]) <= width
    if _LEFT_OUT_FIRST in heads[1:essential] and not has_room:
        kept = [index for index, head in enumerate(heads) if head != _LEFT_OUT_FIRST]
        heads, rows = [heads[index] for index in kept], [[row[index] for index in kept] for row in rows]
        lines, left_out = table_lines(heads, rows, width, essential=essential - 1, broken=broken)
        return lines, [_LEFT_OUT_FIRST, *left_out]
    shown = _fitted(heads, widths, least, width, essential, broken)
    columns = []
    for head, column, most in zip(heads, cells, shown, strict=False):
        cuts = [
            [shortened(part, most) for part in wrapped(cell, most)]
            if head in broken
            else [cut(head.rstrip("↓"), cell, most)]
            for cell in column
        ]
        parts = [part for cell in cuts for part in cell]
        is_empty = set(parts) == {"-"}
        has_numbers = head.rstrip("↓") in NUMBERS if is_empty else all(map(_NUMBER.fullmatch, parts))
        widest = max(map(width_of, [head, *parts]))
        columns.append([[padded(part, widest, is_number=has_numbers) for part in cell] for cell in ([head], *cuts)])
    lines = []
    for row in zip(*columns, strict=True):
        spaces = [" " * width_of(cell[0]) for cell in row]
        for index in range(max(map(len, row))):
            line = [cell[index] if index < len(cell) else space for cell, space in zip(row, spaces, strict=True)]
            lines.append(_GAP.join(line).rstrip())
    return lines, heads[len(shown) :]


def _least_width(head: str, cells: Sequence[str], broken: Collection[str]) -> int:
    """Return how narrow an essential column may become; one that does not become narrower is as wide as its cells."""
    if head not in NAMES and head not in LISTS:
        return max(map(width_of, (head, *cells)))
    longest_word = max(width_of(part) for cell in cells for part in wrapped(cell, 1)) if head in broken and cells else 0
    if head in {"VERDICTS", "SELECTION"}:
        longest_word = min(longest_word, _LEAST_LIST)  # the other columns count more than a whole name
    return max(_LEAST_WIDTHS.get(head, _LEAST_LIST), len(head), longest_word)


def _fitted(
    heads: Sequence[str],
    natural: Sequence[int],
    least: Sequence[int],
    width: int,
    essential: int,
    broken: Collection[str],
) -> list[int]:
    """Return the widths of the columns that fit into a line."""
    widths = list(natural[:essential])
    while essential > 1 and _room_of(widths) > width:
        wide = [index for index in range(essential) if widths[index] > least[index]]
        if not wide:
            break
        widths[max(wide, key=lambda index: (heads[index] in broken, widths[index]))] -= 1
    while len(widths) > 1 and _room_of(widths) > width:
        widths.pop()
    for head, needed in zip(heads[len(widths) :], natural[len(widths) :], strict=True):
        room = width - _room_of(widths) - len(_GAP)
        lacking = max(0, needed - room)
        for index in [index for index, shown in enumerate(heads[: len(widths)]) if shown in broken]:
            if room < needed and widths[index] - lacking >= _LEAST_BROKEN:
                widths[index] -= lacking
                room += lacking
        if needed > room:
            if room >= max(_LEAST_ROOM, len(head)):
                widths.append(room)
            break
        widths.append(needed)
    return widths


def _room_of(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def cut(head: str, cell: str, room: int) -> str:
    """Return a cell in at most ``room`` cells of a terminal: a name without its middle, or the first items of a list.

    If not even the first item has room, its beginning is shown. WHY also shows the first words of an item.
    """
    if width_of(cell) <= room:
        return cell
    if head in NAMES:
        return shortened(cell, room)
    items = whole_items(cell, room)
    words = f"{_beginning(cell, room).rpartition(' ')[0]}{_CUT}"
    return words if head == "WHY" and width_of(words) > width_of(items) else items


def whole_items(cell: str, room: int) -> str:
    """Return those of the first items of a list that fit; the beginning of the first one if not even that fits."""
    if width_of(cell) <= room:
        return cell
    items = cell.split(", ")
    while items and width_of(", ".join(items)) + len(", ") + len(_CUT) > room:
        items.pop()
    return ", ".join([*items, _CUT]) if items else _beginning(cell, room - len(_CUT)) + _CUT


def shortened(name: str, length: int) -> str:
    """Return a name with at most ``length`` cells: its beginning, and its end, which often is a number."""
    end = min(6, length // 3)
    if width_of(name) <= length:
        return name
    return f"{_beginning(name, length - end - 1)}{_CUT}{_beginning(name[::-1], end)[::-1]}"


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
    """Print every field of a row, one per line; a long one goes on below, and is broken only between its items.

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
    """Return a text as lines of at most ``width`` cells of a terminal, broken between words, but not inside a command.

    A command stands between backticks. Whole, it can be pasted.
    """
    whole = re.sub("`[^`]*`", lambda command: command[0].replace(" ", FIXED_SPACE), listings.printable(text))
    return [line.replace(FIXED_SPACE, " ") for line in _filled(re.findall(" *[^ ]+ *", whole), width)]


def print_lines(text: str) -> None:
    """Print the lines of a text as they are, without characters that command a terminal."""
    lines = text.replace("\r\n", "\n").expandtabs().split("\n")
    typer.echo("\n".join(map(listings.printable, lines)))


def print_text(text: str, *, lead: str = "", err: bool = False) -> None:
    """Print a text behind its lead, broken between words to fit the terminal. ``err``: to standard error."""
    room = max(_LEAST_ROOM, terminal_width() - width_of(lead))
    for line in [part for paragraph in text.splitlines() for part in wrapped(paragraph, room)]:
        typer.echo(f"{lead}{line}", err=err)
        lead = " " * width_of(lead)


def print_texts(texts: Sequence[tuple[str, str]]) -> None:
    """Print texts, each after its name or time, broken between words to fit the terminal."""
    width = max([width_of(name) for name, _ in texts]) + len(_GAP)
    room = max(_LEAST_ROOM, terminal_width() - width)
    for name, text in texts:
        for index, line in enumerate(wrapped(text, room)):
            typer.echo(f"{padded('' if index else name, width)}{line}")


def compact(value: object) -> str:
    """Return a value of JSON for people, on one line."""
    if isinstance(value, dict):
        return ", ".join([f"{name} {compact(item)}" for name, item in value.items() if item is not None])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(compact, value))
    return "-" if value is None else listings.printable(str(value))
