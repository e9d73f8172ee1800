"""The engines that the contract suite tests. To add an engine, add an entry to ENGINES."""

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from support import databases, samples
from usher_gateway import model
from usher_gateway.store import base, books
from usher_gateway.store.arrival_queue import QueueLimits
from usher_gateway.store.base import USUAL_TIMES, Filter, KeptTimes, OpenReport
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.recent_index import FOLD_ROWS
from usher_gateway.store.sqlite.store import SqliteSettings, SqliteStore
from usher_gateway.store.store import Store

if TYPE_CHECKING:
    from usher_gateway.store.postgresql.store import PostgresStore


ANY = Filter()

# Routes without a once-per rule and without a pause, for tests that need neither.
REPLAY_FACTS: dict[str, Any] = {"mark_of_route": samples.no_marks, "is_paused": lambda _: False}

ADDED_COLUMN = "note text not null default 'none'"

FOREVER = 1 << 62  # Later than every time in a test


class Clock:
    """A clock that changes only when a test sets it."""

    def __init__(self) -> None:
        self.now = samples.NOW

    def __call__(self) -> int:
        return self.now


class Engine(Protocol):
    """Creates the stores of one engine for the suite."""

    def make(self, place: Path, clock: Clock, **settings: Any) -> Store:
        """Create a store that is not open yet, on a place that may hold data of an earlier store."""

    def refuse_bodies(self, place: Path, fragment: str) -> None:
        """Make the database refuse every body that contains a text."""

    def add_columns(self, place: Path) -> None:
        """Add a column to each table, as a migration of a newer gateway may."""

    async def fold(self, store: Store) -> None:
        """Move all that the engine has in memory into its tables, if it is made to fold at once."""

    async def upkeep(self, store: Store) -> None:
        """Do the regular background work of the engine now."""

    async def crash(self, store: Store) -> None:
        """Release the place without the work of close(), and let its gateway count as dead."""

    def forget(self, place: Path) -> None:
        """Delete the data on a place."""


class Sqlite:
    """SQLite files. ``fold_rows``: the index in memory is moved into the tables after so many rows."""

    def __init__(self, fold_rows: int = FOLD_ROWS) -> None:
        self._fold_rows = fold_rows

    def make(self, place: Path, clock: Clock, **settings: Any) -> Store:
        limits = QueueLimits(**settings.pop("limits", {}))
        bounds = database.DiskBounds(0, 0)
        values: dict[str, Any] = {"key_fingerprint": "k", "disk_bounds": bounds, "limits": limits}
        values |= {"fold_rows": self._fold_rows} | settings
        return SqliteStore(SqliteSettings(folder=place, **values), clock)

    def refuse_bodies(self, place: Path, fragment: str) -> None:
        with contextlib.closing(sqlite3.connect(place / database.FILE_NAME)) as connection:
            connection.executescript(
                f"create trigger refuse before insert on bodies when instr(new.body, cast('{fragment}' as blob))"
                " begin select raise(abort, 'refused'); end"
            )

    def add_columns(self, place: Path) -> None:
        with contextlib.closing(sqlite3.connect(place / database.FILE_NAME)) as connection:
            for (table,) in connection.execute("select name from sqlite_master where type = 'table'").fetchall():
                connection.execute(f"alter table {table} add column {ADDED_COLUMN}")

    async def fold(self, store: Store) -> None:
        for _ in range(300 if self._fold_rows == 1 else 0):  # each commit moves one of 256 parts
            await store.flush()

    async def upkeep(self, store: Store) -> None:
        """Nothing: each commit adds its counts to the meters."""

    async def crash(self, store: Store) -> None:
        assert isinstance(store, SqliteStore)
        store._upkeep_task.cancel()
        store._sweeper_task.cancel()
        await store._commits.committer.stop()
        for reader in (store._reader, store._query_reader, store._upkeep_reader):
            await reader.close()
        store.writer.owned.release()

    def forget(self, place: Path) -> None:
        """Leave the folder to the test's temporary folder."""


class Postgresql:
    """One database per place, on a server that all tests of this process share. The store may not alter its tables."""

    def make(self, place: Path, clock: Clock, **settings: Any) -> Store:
        from usher_gateway.store.postgresql.opening import PostgresSettings
        from usher_gateway.store.postgresql.store import PostgresStore

        name = databases.name_of(place)
        databases.create(name)
        limits = QueueLimits(**settings.pop("limits", {}))
        values: dict[str, Any] = {"key_fingerprint": "k", "may_migrate": False} | settings
        return PostgresStore(PostgresSettings(dsn=databases.gateway_dsn(name), **values), clock, limits)

    def refuse_bodies(self, place: Path, fragment: str) -> None:
        databases.server().execute(
            f"""
            create function refuse() returns trigger language plpgsql as $$ begin
                raise check_violation;
            end $$;
            create trigger refuse before insert on bodies for each row
                when (position('{fragment}'::bytea in new.body) > 0) execute function refuse();
            """,
            databases.name_of(place),
        )

    def add_columns(self, place: Path) -> None:
        name = databases.name_of(place)
        for (table,) in databases.server().rows("select tablename from pg_tables where schemaname = 'public'", name):
            databases.server().execute(f"alter table {table} add column {ADDED_COLUMN}", name)

    async def fold(self, store: Store) -> None:
        """Do nothing, because this engine has no index in memory."""

    async def upkeep(self, store: Store) -> None:
        await postgresql(store).fold_meters()

    async def crash(self, store: Store) -> None:
        crashed = postgresql(store)
        for task in crashed._tasks:
            task.cancel()
        for commit in crashed.writer._tasks:
            commit.cancel()
        crashed._pool.terminate()
        await asyncio.gather(*crashed._tasks, return_exceptions=True)
        databases.let_gateways_die(databases.name_in(crashed.settings.dsn), f"number = {crashed.incarnation.number}")

    def forget(self, place: Path) -> None:
        databases.drop(databases.name_of(place))


def postgresql(store: Store) -> "PostgresStore":
    from usher_gateway.store.postgresql.store import PostgresStore

    assert isinstance(store, PostgresStore)
    return store


ENGINES: dict[str, Callable[[], Engine]] = {"postgresql": Postgresql, "sqlite": Sqlite}


class Bench:
    """A store under test with its clock and its place. A test can close or crash it, and open it again."""

    def __init__(self, engine_under_test: Engine, place: Path, **settings: Any) -> None:
        self.engine, self.place, self.settings = engine_under_test, place, settings
        self.clock = Clock()
        self.store: Store = self.engine.make(place, self.clock, **self.settings)

    async def violations(self) -> list[books.Violation]:
        """Return the equations that do not hold, over all meters and all deliveries."""
        usage = await self.store.usage(0, FOREVER)
        open_after = await self.store.open_deliveries(FOREVER)
        return books.check(usage, {}, open_after)

    async def prune_all(self, kept: KeptTimes = USUAL_TIMES) -> int:
        """Prune until nothing is left; return the rows touched."""
        total = 0
        for _ in range(5_000):
            touched = await self.store.prune(self.clock.now, kept)
            if not touched:
                return total
            total += touched
        raise AssertionError("retention comes to no end")

    async def open(self) -> OpenReport:
        return await self.store.open()

    async def reopen(self, *, crash: bool = False) -> OpenReport:
        if crash:
            await self.engine.crash(self.store)
        else:
            await self.store.close()
        self.store = self.engine.make(self.place, self.clock, **self.settings)
        return await self.store.open()

    async def accept(self, *arrivals: model.Arrival) -> list[model.Accepted]:
        """Hand in arrivals together, so that they form one batch if it has room."""
        futures = [self.store.accept(arrival) for arrival in arrivals]
        return await asyncio.wait_for(asyncio.gather(*futures), timeout=60)

    async def deliver(self, content: str = "a", at: int | None = None, **changes: Any) -> model.Delivery:
        """Accept a visit, and return its only delivery."""
        (accepted,) = await self.accept(samples.arrival(content, at or self.clock.now, **changes))
        (delivery,) = accepted.deliveries
        return delivery

    async def settle(
        self, delivery: model.Delivery, settled_as: model.SettledAs, at: int | None = None, **changes: Any
    ) -> None:
        """Store the result of an attempt."""
        self.store.settle(samples.settlement(delivery, settled_as, at or self.clock.now, **changes))
        await self.store.flush()

    async def words(self, *arrivals: model.Arrival) -> list[str]:
        return [accepted.counted_as.name for accepted in await self.accept(*arrivals)]

    async def visits(self, **where: Any) -> list[dict[str, Any]]:
        return await self._all(self.store.visits, Filter(**where))

    async def ids_of_person(self, *keys: bytes) -> list[str]:
        """Return the ids of the arrivals that have any of these person keys, newest first."""
        return [str(row["id"]) for row in (await self.store.of_person(keys, None, 100)).rows]

    async def deliveries(self, **where: Any) -> list[dict[str, Any]]:
        return await self._all(self.store.deliveries, Filter(**where))

    async def _all(self, listing: Any, where: Filter) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        page = await listing(where, None, 100)
        rows += page.rows
        while page.next_cursor is not None:
            page = await listing(where, page.next_cursor, 100)
            rows += page.rows
        return rows

    async def counts(self, listener: model.ListenerName = samples.LOBBY) -> dict[str, int]:
        """Return all meters of a listener by name, without zeros."""
        counts: dict[str, int] = {}
        for row in await self.store.usage(0, 1 << 62):
            if row.listener == listener:
                for counter, count in row.counts.items():
                    name = model.Counter(counter).name
                    counts[name] = counts.get(name, 0) + count
        return {name: count for name, count in counts.items() if count}

    def replay_request(self, *results: str, where: Filter = ANY, **changes: Any) -> base.ReplayRequest:
        """Return a request; without results it takes every skipped verdict."""
        chosen = frozenset(results or model.SkipReason.__members__)
        return base.ReplayRequest(where=where, results=chosen, per_second=1_000, **changes)

    async def replay(
        self, *results: str, where: Filter = ANY, facts: Mapping[str, Any] | None = None, **changes: Any
    ) -> base.ReplayReport:
        """Run a replay to its end; return what it did. ``facts``: arguments of ``step_replay``."""
        started = await self.store.start_replay(self.replay_request(*results, where=where, **changes), self.clock.now)
        while (replay := await self.store.find_replay(started.id)).state is base.ReplayState.Running:
            assert await self.step_replay(replay, self.clock.now, **(facts or {})) is not None
        return replay.report

    async def redrive(self, where: Filter, now: int, holds_of: base.HoldsOf = samples.no_holds) -> int:
        return await self.store.redrive(where, now, holds_of, lambda _: None)

    async def preview_replay(self, request: base.ReplayRequest, now: int, **facts: Any) -> base.ReplayPreview:
        return await self.store.preview_replay(request, now, **REPLAY_FACTS | facts)

    async def step_replay(self, replay: base.Replay, now: int, **facts: Any) -> int | None:
        return await self.store.step_replay(replay, now, **{"holds_of": samples.no_holds} | REPLAY_FACTS | facts)

    async def claim(self, destination: str = "agency/crm", limit: int = 100) -> list[model.Delivery]:
        return await self.store.claim(destination, limit, 1 << 20, self.clock.now)


@contextlib.asynccontextmanager
async def opened(engine_under_test: Engine, **settings: Any) -> AsyncIterator[Bench]:
    """Open a new store in a new place, for tests that need many stores."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(engine_under_test, Path(folder) / "data", **settings)
        await bench.open()
        try:
            yield bench
        finally:
            await bench.store.close()
            engine_under_test.forget(bench.place)
