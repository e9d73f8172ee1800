"""Runs the statements of a job on a connection to SQLite, without ever suspending the job.

Each statement with many rows runs as one step, because the sqlite3 module releases the interpreter's lock for every
step (executemany() does so for every row), and on a busy event loop each release is a chance to wait for it
(docs/decisions/0014).
"""

import functools
import itertools
import sqlite3
from collections.abc import Iterator, Sequence

from usher_gateway.store.session import Row, SqliteStatement, Statement, for_sqlite

_MOST_ROWS = 64  # Rows or keys per execution of a statement
PAIR = "(?,?)"  # The placeholders of a row with two columns, for insert_rows()


class SqliteSession:
    """The statements of one transaction, or over one snapshot (``store.session.Session``)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str | Statement, *values: object) -> list[Row]:
        """Return the rows of a statement."""
        translated = for_sqlite(statement)
        if not translated.lists:
            return self._connection.execute(translated.text, values).fetchall()
        return [row for cursor in self._run_parts(translated, values) for row in cursor.fetchall()]

    async def execute(self, statement: str | Statement, *values: object) -> int:
        """Run a statement; return how many rows it changed."""
        translated = for_sqlite(statement)
        if not translated.lists:
            return self._connection.execute(translated.text, values).rowcount
        return sum([cursor.rowcount for cursor in self._run_parts(translated, values)])

    def _run_parts(self, statement: SqliteStatement, values: Sequence[object]) -> Iterator[sqlite3.Cursor]:
        """Run a statement for 64 rows at a time."""
        single = [
            None if number in statement.lists else value
            for number, value in enumerate(values[: statement.first_number - 1], 1)
        ]
        lists: list[Sequence[object]] = [values[number - 1] for number in statement.lists]  # type: ignore[misc]
        rows = list(zip(*lists, strict=True))
        for start in range(0, len(rows), _MOST_ROWS):
            part = rows[start : start + _MOST_ROWS]
            if not statement.is_rows:
                # Repeat the last key, so that there are only seven forms of the statement to prepare.
                part += [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))
            flat = itertools.chain.from_iterable(part)
            yield self._connection.execute(statement.with_rows(len(part)), [*single, *flat])


def insert_rows(connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows with placeholders like ``row``, such as ``(?,?,0)``: ``<head> values (…),(…)``.

    There is one statement per number of rows up to 64, so that all of them stay prepared.
    """
    for start in range(0, len(rows), _MOST_ROWS):
        part = rows[start : start + _MOST_ROWS]
        connection.execute(_values(head, row, len(part)), list(itertools.chain.from_iterable(part)))


@functools.lru_cache(maxsize=512)
def _values(head: str, row: str, count: int) -> str:
    return f"{head} values {','.join([row] * count)}"
