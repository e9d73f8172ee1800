"""Columns of tables: how a row of the API is shown to people. Pure."""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
"""One row of an answer of the admin port."""

Column = tuple[str, Callable[[Row], str]]
"""Heading and cell function. The first two columns are the headline of a row in a narrow terminal."""


def time_cell(name: str) -> Callable[[Row], str]:
    """Return a cell function for a time (UTC, to the second)."""
    return lambda row: str(row.get(name) or "").replace("T", " ")[:19]


def text_cell(name: str) -> Callable[[Row], str]:
    """Return a cell function for a value; None is an empty cell."""
    return lambda row: "" if row.get(name) is None else str(row[name])


def counted(count: int, noun: str) -> str:
    """Return a number with its noun in singular or plural."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"
