"""Sessions and statements: how a job of the store uses an engine, and ``JobRunner``, with which the store runs jobs.

A job is an ``async`` function. It gets a ``Session`` (one snapshot) or a ``Transaction``, and runs statements there.
PostgreSQL's session waits for its server. SQLite's session never suspends, so ``run_to_end`` runs a whole job in the
thread of the writer or of a reader.

A statement is written once, for PostgreSQL. ``for_sqlite`` translates what SQLite spells differently:

- ``$1`` becomes ``?1``. Casts (``::bigint``) and row locks (``for no key update``) go, because SQLite has one writer.
- A list of keys, ``any($1::bigint[])``, and rows, ``unnest($1::bigint[], $2::text[]) as new (key, name)``, become one
  placeholder for each value. SQLite runs such a statement for 64 rows at a time, so it must not add up or limit rows.
  A statement has one list or one group of rows.

If the engines need different statements, a job names both in a ``Statement``.
"""

import abc
import functools
import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from usher_gateway import model
from usher_gateway.store.acceptance import RouteNumbers
from usher_gateway.store.base import Filter
from usher_gateway.store.encodings import STORED_SLOT
from usher_gateway.store.group_commit import GroupCommit

T = TypeVar("T")

SLICE_ROWS = 2_000
"""The most rows that one job may change."""

_encode = msgspec.msgpack.Encoder().encode

Row = Any
"""A row that a statement returned: a sequence of its values."""


class Statement(NamedTuple):
    """A statement that the engines need in different forms. Values have the same numbers in both."""

    postgresql: str
    sqlite: str


class Session(Protocol):
    """Runs statements in one transaction or over one snapshot."""

    async def fetch(self, statement: str | Statement, *values: object) -> list[Row]:
        """Return the rows of a statement."""

    async def execute(self, statement: str | Statement, *values: object) -> int:
        """Run a statement; return how many rows it changed."""


class TenantNames(Protocol):
    """An engine's numbers of names."""

    def tenant_of(self, listener: int) -> tuple[str, str]:
        """Return namespace and name of the tenant that a listener belongs to."""


class Transaction:
    """The open transaction of a commit or a job, with the numbers of names and its counts.

    The engines extend it, and leave out the methods for which they have nothing to do: SQLite those about other
    gateways, and ``keep_routes``, because ``NameNumbers.use_until`` covers all its row keys; PostgreSQL those about
    claimed deliveries, because their column ``owner`` says whose they are. Their writers apply
    its in-memory results after the commit, and drop them on a rollback.
    """

    session: Session
    """Runs the statements of the transaction."""
    ids: model.IdFactory
    """Makes the row keys."""
    owner: int
    """The number of this gateway's run, to which the deliveries belong that it claims."""
    names: TenantNames
    meters: dict[tuple[int, int, int], int]
    """(listener number, slot, counter) -> count."""

    async def load_listeners(self, listeners: Collection[int]) -> None:
        """Read the names of listeners that other gateways added."""

    async def load_routes(self, routes: Collection[int]) -> None:
        """Read the route definitions that other gateways added."""

    def destination_of_route(self, route: int) -> int:
        """Return the number of a loaded route's destination; 0 if the database has lost the route."""
        raise NotImplementedError

    def route(self, definition: model.RouteDefinition) -> RouteNumbers:
        """Return the numbers of a route definition that was given to the transaction."""
        raise NotImplementedError

    def listener(self, name: model.ListenerName) -> int:
        """Return the number of a listener that was given to the transaction."""
        raise NotImplementedError

    async def keep_routes(self, arrivals: Sequence[int]) -> None:
        """Let older arrivals refer to the routes that this transaction has written."""

    async def meter_routes(self, routes: Sequence[int], at: int, counter: int) -> None:
        """Count one for the listener of each of some routes."""

    def meter(self, listener: int, slot: int, counter: int, count: int = 1) -> None:
        """Add to the meters."""
        key = (listener, slot, counter)
        self.meters[key] = self.meters.get(key, 0) + count

    def add_stored_bytes(self, listener: int, count: int) -> None:
        """Count bytes that a listener stores, or (negative) that retention deleted."""
        self.meter(listener, STORED_SLOT, model.Counter.stored_bytes, count)

    def packed_meters(self) -> bytes:
        """Return the counts for the row of the commit; empty if there are none."""
        return _encode([(*key, count) for key, count in self.meters.items()]) if self.meters else b""

    def tenant_changes(self) -> list[tuple[tuple[str, str], int]]:
        """Return how the bytes that each tenant stores change."""
        return [
            (self.names.tenant_of(listener), count)
            for (listener, _, counter), count in self.meters.items()
            if counter == model.Counter.stored_bytes
        ]

    def note_time(self, now: int) -> None:
        """Record the time, so that a start notices that the clock was set back."""

    def note_oldest_claimed(self) -> None:
        """Record the row key of the oldest claimed delivery, so that a start finds them."""

    def add_claimed(self, keys: Sequence[int]) -> None:
        """Note that this process claims deliveries."""

    def remove_claimed(self, keys: Sequence[int]) -> None:
        """Note that deliveries are not claimed any more."""


Query = Callable[[Session], Coroutine[Any, Any, T]]
"""Reads over one snapshot."""

Job = Callable[[Transaction], Coroutine[Any, Any, T]]
"""Changes rows in one transaction."""


class JobRunner(abc.ABC):
    """Runs the jobs of a store. The parts of the store share it."""

    def __init__(self, *, commits: GroupCommit, now: Callable[[], int]) -> None:
        self._commits = commits
        self._now = now

    @abc.abstractmethod
    async def _read(self, query: Query[T]) -> T:
        """Return the result of a query over one snapshot.

        Raises:
            StoreUnavailableError: the query failed or took too long.
        """

    @abc.abstractmethod
    async def _look_up(self, query: Query[T]) -> T:
        """Do the same for a query that a person asked for, so that it does not delay deliveries."""

    @abc.abstractmethod
    async def _change(
        self,
        job: Job[T],
        *,
        listeners: Collection[model.ListenerName] = (),
        definitions: Collection[model.RouteDefinition] = (),
    ) -> T:
        """Run a job in a separate transaction; return its result after the commit.

        ``listeners`` and ``definitions``: the names whose numbers the job writes.
        """

    @abc.abstractmethod
    async def _load_routes(self, numbers: Collection[int]) -> None:
        """Make sure that route() knows some numbers, which other gateways may have added."""

    @abc.abstractmethod
    def route(self, number: int) -> model.RouteDefinition:
        """Return the route definition of a delivery or of a held group."""

    async def _in_slices(self, job: Job[int]) -> int:
        """Run a job until it changes less than a whole slice; return how many rows it changed in all."""
        total = 0
        while True:
            changed = await self._change(job)
            total += changed
            if changed < SLICE_ROWS:
                return total

    async def _slices(
        self,
        query: Callable[..., Coroutine[Any, Any, tuple[list[T], str | None]]],
        where: Filter,
    ) -> AsyncIterator[list[T]]:
        """Yield what a query selects, slice by slice; leave out empty slices."""
        cursor: str | None = None
        while True:
            selected, cursor = await self._look_up(functools.partial(query, where=where, cursor=cursor))
            if selected:
                yield selected
            if cursor is None:
                return


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
    """Return rows as one list per column, which are the values of ``unnest``."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


# Translation to SQLite

_LOCK = re.compile(r"\s+for (?:no key )?update(?: of \w+)?(?: skip locked)?")
_ARRAY_OF_ROWS = re.compile(r"= any\(array\((.*?)\)\)", re.DOTALL)
_ROWS = re.compile(r"unnest\(((?:\$\d+::\w+\[\](?:,\s*)?)+)\)(?:\s+as (\w+) \(([^)]*)\))?")
_LIST = re.compile(r"= any\(\$(\d+)::\w+\[\]\)")
_CAST = re.compile(r"::\w+(?:\[\])?")
_VALUE = re.compile(r"\$(\d+)")


class SqliteStatement(NamedTuple):
    """A statement in SQLite's form."""

    text: str
    """With ``{rows}`` where the placeholders of the list or of the rows go."""
    lists: tuple[int, ...]
    """The numbers of the values that are lists: one for a list, one per column for rows."""
    is_rows: bool
    first_number: int
    """The number of the first placeholder of the list or of the rows."""

    def with_rows(self, count: int) -> str:
        """Return the text with the placeholders of this many rows."""
        return _with_rows(self, count)


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
    text = _CAST.sub("", text).replace("greatest(", "max(").replace("least(", "min(")
    scalars = [int(number) for number in _VALUE.findall(text)]
    text = _VALUE.sub(r"?\1", text)
    return SqliteStatement(text, tuple(lists), is_rows, max([0, *scalars]) + 1)


@functools.lru_cache(maxsize=4096)
def _with_rows(statement: SqliteStatement, count: int) -> str:
    number = statement.first_number
    if not statement.is_rows:
        return statement.text.replace("{rows}", ",".join([f"?{number + step}" for step in range(count)]))
    rows = []
    for _ in range(count):
        width = len(statement.lists)
        rows.append("(" + ",".join([f"?{number + column}" for column in range(width)]) + ")")
        number += width
    return statement.text.replace("{rows}", ",".join(rows))
