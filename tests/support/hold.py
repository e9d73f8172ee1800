"""Make a real store slow or let it refuse bodies, from inside its own connection."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from usher_gateway.store.sqlite.store import SqliteStore
from usher_gateway.store.sqlite.transaction import Transaction
from usher_gateway.store.store import Store

_LONGEST_SECONDS = 60.0


@contextlib.asynccontextmanager
async def held_before_commits(store: Store) -> AsyncIterator[None]:
    """Keep the writer busy, so that it starts no commit before the block ends."""
    go_on, is_held = threading.Event(), threading.Event()

    async def job(transaction: Transaction) -> None:
        is_held.set()
        go_on.wait(_LONGEST_SECONDS)

    task = asyncio.create_task(sqlite(store)._commits.run_job(job))
    await asyncio.to_thread(is_held.wait, 10)
    try:
        yield
    finally:
        go_on.set()
        await task


@contextlib.asynccontextmanager
async def held_in_commits(store: Store) -> AsyncIterator[threading.Event]:
    """Stop every commit of arrivals in its middle until the block ends; the event is set when one has stopped."""
    go_on, is_held = threading.Event(), threading.Event()

    def hold() -> int:
        is_held.set()
        go_on.wait(_LONGEST_SECONDS)
        return 0

    async def begin(transaction: Transaction) -> None:
        transaction.connection.create_function("hold", 0, hold)
        transaction.connection.execute(
            "create temp trigger held before insert on main.arrivals begin select hold(); end"
        )

    async def end(transaction: Transaction) -> None:
        transaction.connection.execute("drop trigger held")

    await sqlite(store)._commits.run_job(begin)
    try:
        yield is_held
    finally:
        go_on.set()
        await sqlite(store)._commits.run_job(end)


async def refuse_bodies_with(store: Store, mark: bytes) -> None:
    """Let the database refuse every body that contains a mark."""

    async def job(transaction: Transaction) -> None:
        transaction.connection.execute(
            "create temp trigger refused before insert on main.bodies"
            f" when instr(new.body, x'{mark.hex()}') > 0 begin select raise(abort, 'refused'); end"
        )

    await sqlite(store)._commits.run_job(job)


def sqlite(store: Store) -> SqliteStore:
    assert isinstance(store, SqliteStore)
    return store
