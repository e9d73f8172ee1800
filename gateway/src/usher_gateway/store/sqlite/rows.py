"""Many rows in few statements: each statement runs as one step, so that the interpreter's lock changes hands seldom.

The sqlite3 module releases the lock for every step; executemany() does so for every row, and on a busy event loop each
of these is a chance to wait. A multi-row VALUES list is one step (measured in docs/performance.md).
"""

import functools
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

Row = tuple[object, ...]
"""What is written."""

PAIR = "(?,?)"
"""How a row of two columns is spelled."""

Found = tuple[Any, ...]
"""What is read: the statement says which columns."""

BUSY_MILLISECONDS = 5_000
"""How long a statement waits for a lock that another process holds."""

_LARGEST = 64


def insert(connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Row], tail: str = "") -> None:
    """Insert rows that are spelled like ``row``, such as ``(?,?,0)``: ``<head> values (…),(…) <tail>``.

    One statement per number of rows up to 64: all of them stay prepared.
    """
    for chunk in _chunks(rows):
        connection.execute(_values(head, row, len(chunk), tail), list(itertools.chain.from_iterable(chunk)))


def from_values(connection: sqlite3.Connection, statement: str, row: str, rows: Sequence[Row]) -> Iterator[Found]:
    """Rows that a statement with ``from (values {})`` returns, for all rows that are spelled like ``row``."""
    for chunk in _chunks(rows):
        yield from connection.execute(
            _from_values(statement, row, len(chunk)), list(itertools.chain.from_iterable(chunk))
        ).fetchall()


def select_in(connection: sqlite3.Connection, statement: str, keys: Sequence[object]) -> Iterator[Found]:
    """Rows of a statement with ``in ({})`` for all keys, however many."""
    for start in range(0, len(keys), _LARGEST):
        part = list(keys[start : start + _LARGEST])
        size = 1 << (len(part) - 1).bit_length()
        part += [None] * (size - len(part))
        yield from connection.execute(_in_list(statement, size), part)


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    if len(rows) <= _LARGEST:
        if rows:
            yield rows
        return
    for start in range(0, len(rows), _LARGEST):
        yield rows[start : start + _LARGEST]


@functools.lru_cache(maxsize=512)
def _values(head: str, row: str, count: int, tail: str) -> str:
    return f"{head} values {','.join([row] * count)} {tail}"


@functools.lru_cache(maxsize=512)
def _in_list(statement: str, count: int) -> str:
    return statement.format(",".join("?" * count))


@functools.lru_cache(maxsize=256)
def _from_values(statement: str, row: str, count: int) -> str:
    return statement.format(",".join([row] * count))
