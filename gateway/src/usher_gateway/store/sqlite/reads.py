"""What is read beside the writer: a connection of its own, in a thread of its own, no reader longer than 5 s."""

import asyncio
import concurrent.futures
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from usher_gateway import model
from usher_gateway.store.base import Backlog, DueDestination, HeldGroup, OpenCounts
from usher_gateway.store.sqlite import database

LONGEST_SECONDS = 5.0
"""A reader that lasts longer is ended: while it lasts, the write-ahead log cannot be started anew."""

_STEPS = 10_000
"""SQLite's steps between two looks at the clock."""

T = TypeVar("T")


class Reader:
    """Runs queries one after the other."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / database.FILE_NAME
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix="usher-reader")
        self._connection: sqlite3.Connection | None = None

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """The result of a query over one snapshot.

        Raises:
            StoreUnavailableError: it failed or took too long.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, query)

    async def close(self) -> None:
        """End the thread and its connection."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._connection is not None:
            self._connection.close()

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._connection is None:
                self._connection = database.connect(self._path, read_only=True)
            connection = self._connection
            end = time.monotonic() + LONGEST_SECONDS
            connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
            connection.execute("begin")
            try:
                return query(connection)
            finally:
                connection.execute("rollback")
        except sqlite3.Error as error:
            raise model.StoreUnavailableError(f"the store cannot be read: {type(error).__name__}") from error


def backlogs(connection: sqlite3.Connection) -> list[Backlog]:
    """Destinations with deliveries in the backlog."""
    waiting = "from deliveries where destination = number and waiting = 1"
    statement = f"select key, (select count(*) {waiting}), (select min(due_at) {waiting}) from destinations"  # noqa: S608
    return [Backlog(key, count, due) for key, count, due in connection.execute(statement) if count]


def open_counts(connection: sqlite3.Connection) -> OpenCounts:
    """What is in the backlog and held, counted in the partial indexes alone; row keys grow with age."""
    statement = "select count(*), min(key) from deliveries where waiting = 1"
    waiting, oldest = connection.execute(statement).fetchone()
    found = connection.execute("select hold, count(*) from deliveries where hold > 0 group by hold")
    held = {model.HoldReason(hold).name: count for hold, count in found}
    row = connection.execute("select id from deliveries where key = ?", (oldest,)).fetchone()
    return OpenCounts(waiting, held, row[0] if row else b"")


def due(connection: sqlite3.Connection) -> list[DueDestination]:
    """Destinations with a backlog: jumps through the index from one destination to the next."""
    statement = """
        with recursive found (number) as (
            select min(destination) from deliveries where waiting = 1
            union all
            select (select min(destination) from deliveries where waiting = 1 and destination > number)
            from found where number is not null
        )
        select key, (select min(due_at) from deliveries d where d.destination = found.number and waiting = 1)
        from found join destinations on destinations.number = found.number
    """
    return [DueDestination(key, due_at) for key, due_at in connection.execute(statement)]


def held_groups(connection: sqlite3.Connection) -> list[HeldGroup]:
    """Held deliveries by reason and route, counted in the index alone."""
    statement = "select hold, route, count(*) from deliveries where hold > 0 group by hold, route"
    return [HeldGroup(model.HoldReason(hold), route, count) for hold, route, count in connection.execute(statement)]
