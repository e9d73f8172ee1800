"""Sessions and statements: how a store's job uses an engine.

A job is an ``async`` function. It gets a ``Session`` (one snapshot) or a ``Transaction``, and runs statements there.
PostgreSQL's session waits for its server. SQLite's session never suspends, so ``run_to_end`` runs a whole job in the
writer's or a reader's thread.

A statement is written once, for PostgreSQL. ``for_sqlite`` translates what SQLite spells differently:

- ``$1`` becomes ``?1``, and ``position($1 in x)`` ``instr(x, ?1)``. Casts (``::bigint``) and row locks (``for no key
  update``) go, because SQLite has one writer.
- A list of keys, ``any($1::bigint[])``, and rows, ``unnest($1::bigint[], $2::text[]) as new (key, name)``, become one
  placeholder for each value. SQLite runs such a statement for 64 rows at a time, so it must not add up or limit rows.
  A statement has one list or one group of rows.

An ``insert … select … on conflict`` has ``where true``, because without it SQLite reads ``on`` as the beginning of the
join's condition. Source: "Parsing Ambiguity" in https://www.sqlite.org/lang_upsert.html

If the engines need different statements, a job names both in a ``Statement``.
"""

import functools
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

Row = Any  # A row that a statement returned: a sequence of its values


class Statement(NamedTuple):
    """A statement that the engines need in different forms. Values have the same numbers in both."""

    postgresql: str
    sqlite: str


class Session(Protocol):
    """Runs statements in one transaction or over one snapshot."""

    async def fetch(self, statement: str | Statement, *values: object) -> list[Row]:
        """Return a statement's rows."""

    async def execute(self, statement: str | Statement, *values: object) -> int:
        """Run a statement; return how many rows it changed."""


def run_to_end(job: Coroutine[Any, Any, T]) -> T:
    """Run a job that never suspends, without an event loop, and return its result."""
    try:
        job.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    job.close()
    raise RuntimeError("a job of the SQLite store waited for something")


def columns(rows: Sequence[Sequence[object]], width: int) -> list[list[object]]:
    """Return rows as one list per column, which are the values for ``unnest``."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


async def newest(session: Session, head: str, count: int, is_selected: Callable[[Row], bool]) -> list[Row]:
    """Return the newest rows that are selected, at most ``count``, the newest first.

    Args:
        session: where the statement runs.
        head: a statement up to its table, which has no condition; the first column is the ``key``.
        count: also how many rows are read at a time.
        is_selected: sees the rows, the newest first.
    """
    statement, last, found = f"{head} where key < $1 order by key desc limit {count}", 2**63 - 1, []
    while rows := await session.fetch(statement, last):
        found += [row for row in rows if is_selected(row)]
        last = rows[-1][0]
        if len(found) >= count or len(rows) < count:
            break
    return found[:count]


# Translation to SQLite

_LOCK = re.compile(r"\s+for (?:no key )?update(?: of \w+)?(?: skip locked)?")
_ARRAY_OF_ROWS = re.compile(r"= any\(array\((.*?)\)\)", re.DOTALL)
_ROWS = re.compile(r"unnest\(((?:\$\d+::\w+\[\](?:,\s*)?)+)\)(?:\s+as (\w+) \(([^)]*)\))?")
_LIST = re.compile(r"= any\(\$(\d+)::\w+\[\]\)")
_POSITION = re.compile(r"position\((\$\d+) in (\w+)\)")
_CAST = re.compile(r"::\w+(?:\[\])?")
_VALUE = re.compile(r"\$(\d+)")


class SqliteStatement(NamedTuple):
    """A statement in SQLite's form."""

    text: str
    """With ``{rows}`` where the placeholders for the list or the rows go."""
    lists: tuple[int, ...]
    """The numbers of the values that are lists: one for a list, one per column for rows."""
    is_rows: bool
    first_number: int
    """The number of the first placeholder, for the list or the rows."""


@functools.lru_cache(maxsize=512)
def for_sqlite(statement: str | Statement) -> SqliteStatement:
    """Translate a statement; see the module's text."""
    text = statement.sqlite if isinstance(statement, Statement) else statement
    lists: list[int] = []
    is_rows = False

    def rows(match: re.Match[str]) -> str:
        nonlocal is_rows
        is_rows = True
        lists[:] = [int(number) for number in _VALUE.findall(match[1])]
        names = [name.strip() for name in (match[3] or "").split(",")] if match[3] else []
        chosen = ", ".join([f"column{number} as {name}" for number, name in enumerate(names, 1)])
        return f"(select {chosen or '*'} from (values {{rows}})) {'as ' + match[2] if match[2] else ''}"  # noqa: S608 - names of columns

    def listed(match: re.Match[str]) -> str:
        lists[:] = [int(match[1])]
        return "in ({rows})"

    text = _LOCK.sub("", text)
    text = _ARRAY_OF_ROWS.sub(r"in (\1)", text)
    text = _ROWS.sub(rows, text)
    text = _LIST.sub(listed, text)
    text = _POSITION.sub(r"instr(\2, \1)", text)
    text = _CAST.sub("", text).replace("greatest(", "max(").replace("least(", "min(")
    scalars = [int(number) for number in _VALUE.findall(text)]
    text = _VALUE.sub(r"?\1", text)
    return SqliteStatement(text, tuple(lists), is_rows, max([0, *scalars]) + 1)


@functools.lru_cache(maxsize=4096)
def with_rows(statement: SqliteStatement, count: int) -> str:
    """Return a statement's text with placeholders for this many rows."""
    number = statement.first_number
    if not statement.is_rows:
        return statement.text.replace("{rows}", ",".join([f"?{number + step}" for step in range(count)]))
    rows = []
    for _ in range(count):
        width = len(statement.lists)
        rows.append("(" + ",".join([f"?{number + column}" for column in range(width)]) + ")")
        number += width
    return statement.text.replace("{rows}", ",".join(rows))
