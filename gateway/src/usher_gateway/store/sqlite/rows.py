"""Many rows in few statements: each statement runs as one step, so that the interpreter's lock changes hands seldom.

The sqlite3 module releases the lock for every step; executemany() does so for every row, and on a busy event loop each
of these is a chance to wait. A multi-row VALUES list is one step (measured in docs/performance.md).
"""

import functools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

Row = tuple[object, ...]
"""What is written."""

Found = tuple[Any, ...]
"""What is read: the statement says which columns."""

_LARGEST = 64


def insert(connection: sqlite3.Connection, head: str, width: int, rows: Sequence[Row], tail: str = "") -> None:
    """Insert rows of ``width`` columns: ``<head> values (…),(…) <tail>``.

    In chunks of powers of two, so that few distinct statements are prepared and all stay cached.
    """
    for chunk in _chunks(rows):
        flat: list[object] = []
        for row in chunk:
            flat += row
        connection.execute(_values(head, width, len(chunk), tail), flat)


def select_in(connection: sqlite3.Connection, statement: str, keys: Sequence[object]) -> Iterator[Found]:
    """Rows of a statement with ``in ({})`` for all keys, however many."""
    for start in range(0, len(keys), _LARGEST):
        part = list(keys[start : start + _LARGEST])
        size = 1 << (len(part) - 1).bit_length()
        part += [None] * (size - len(part))
        yield from connection.execute(_in_list(statement, size), part)


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    start, left = 0, len(rows)
    while left:
        size = min(_LARGEST, 1 << (left.bit_length() - 1))
        yield rows[start : start + size] if left != size or start else rows
        start += size
        left -= size


@functools.lru_cache(maxsize=512)
def _values(head: str, width: int, count: int, tail: str) -> str:
    row = f"({','.join('?' * width)})"
    return f"{head} values {','.join([row] * count)} {tail}"


@functools.lru_cache(maxsize=512)
def _in_list(statement: str, count: int) -> str:
    return statement.format(",".join("?" * count))
