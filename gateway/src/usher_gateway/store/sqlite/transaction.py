"""The writer's open transaction, and the session that runs a job's statements without ever suspending it.

One transaction holds everything that a group commit writes. Its steps (accept.py, ``store/jobs/settle.py``) and the
jobs (``store/jobs/``, prune.py, meters.py) get a Transaction: the connection, the caches that they may read, and the
meters to which they add.

Each statement with many rows runs as one step, because the sqlite3 module releases the interpreter's lock for every
step (executemany() does so for every row), and on a busy event loop each release is a chance to wait for it
(docs/decisions/0014).
"""

import functools
import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Literal

from usher_gateway import model
from usher_gateway.store import transaction
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.session import Row, SqliteStatement, Statement, for_sqlite, with_rows
from usher_gateway.store.sqlite.database import SET_META
from usher_gateway.store.sqlite.recent_index import RecentIndex

_MOST_ROWS = 64  # Rows or keys per execution of a statement
PAIR = "(?,?)"  # The placeholders of a row with two columns, for insert_rows()


class SqliteSession:
    """The statements in one transaction, or over one snapshot (``store.session.Session``)."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str | Statement, *values: object) -> list[Row]:
        """Return a statement's rows."""
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
                # Repeat the last key, so that there are only seven statement forms to prepare.
                part += [part[-1]] * ((1 << (len(part) - 1).bit_length()) - len(part))
            flat = itertools.chain.from_iterable(part)
            yield self._connection.execute(with_rows(statement, len(part)), [*single, *flat])


def insert_rows(connection: sqlite3.Connection, head: str, row: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows with placeholders like ``row``, such as ``(?,?,0)``: ``<head> values (…),(…)``.

    There is one statement per number of rows up to 64, so that all stay prepared.
    """
    for start in range(0, len(rows), _MOST_ROWS):
        part = rows[start : start + _MOST_ROWS]
        connection.execute(_values(head, row, len(part)), list(itertools.chain.from_iterable(part)))


@functools.lru_cache(maxsize=512)
def _values(head: str, row: str, count: int) -> str:
    return f"{head} values {','.join([row] * count)}"


# Arrivals per segment of person keys: one statement sorts and appends their keys in a few milliseconds.
SEGMENT_ARRIVALS = 1_024


class Transaction(transaction.Transaction):
    """One open transaction on SQLite."""

    def __init__(
        self,
        *,
        connection: sqlite3.Connection,
        ids: model.IdFactory,
        names: NameNumbers,
        recent_index: RecentIndex,
    ) -> None:
        # The owner is 0, because the lock of the folder proves that all claimed deliveries are this process's.
        super().__init__(SqliteSession(connection), ids=ids, names=names, owner=0)
        self.connection = connection
        self.recent_index = recent_index
        self.checkpoint: Literal["passive", "truncate"] | None = None
        """The write-ahead log checkpoint that the writer does after the commit."""


# Person keys: 8-byte keyed hashes. The table `persons` gets them in segments of about a thousand arrivals; those of
# newer arrivals are only in the ledger. Segments are appended, because random inserts would write one page each.

# Append the person keys of arrivals in (?2, ?3] to the segment ?1. An arrival has four, and a release adds four.
_FOLD_PERSONS = """
    insert or ignore into persons (segment, person, arrival)
    select ?1, substr(persons, 1 + 8 * position.number, 8), key
    from arrivals, (select 0 number union all select 1 union all select 2 union all select 3
        union all select 4 union all select 5 union all select 6 union all select 7) position
    where key > ?2 and key <= ?3 and length(persons) > 8 * position.number
    order by 2, 3
"""
_ADD_SEGMENT = "insert into person_segments (segment, first_arrival, last_arrival) values (?, ?, ?)"


def fold_persons(connection: sqlite3.Connection) -> None:
    """Append the person keys of all arrivals that are not in a segment yet as a new segment."""
    folded_to = persons_folded_to(connection)
    first, last = connection.execute("select min(key), max(key) from arrivals where key > ?", (folded_to,)).fetchone()
    if last is None:
        return
    connection.execute(_FOLD_PERSONS, (first, folded_to, last))
    connection.execute(_ADD_SEGMENT, (first, first, last))
    connection.execute(SET_META, ("persons_to", str(last)))


def segment_of(connection: sqlite3.Connection, arrival: int) -> int:
    """Return the segment with an arrival's person keys; 0 if there is none."""
    statement = "select segment from person_segments where segment <= ? order by segment desc limit 1"
    row = connection.execute(statement, (arrival,)).fetchone()
    return int(row[0]) if row else 0


def persons_folded_to(connection: sqlite3.Connection) -> int:
    """Return the key of the last arrival whose person keys are in a segment."""
    row = connection.execute("select value from meta where name = 'persons_to'").fetchone()
    return int(row[0]) if row else 0
