"""Export and import of a PostgreSQL store (see store/moving.py)."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from usher_gateway import model
from usher_gateway.store import moving
from usher_gateway.store.encodings import FLAG_UNACKNOWLEDGED, split_person_keys
from usher_gateway.store.moving import COLUMNS, IMPORTED, MOVED, POSITION, TABLES, TIMES
from usher_gateway.store.postgresql import incarnations, meters, schema
from usher_gateway.store.postgresql.accept import MOST_TIMES
from usher_gateway.store.postgresql.connections import UNAVAILABLE, Connection, PoolBounds, describe, open_pool
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.session import columns

_SLICE = 1_000
_BODIES = 16
"""A slice of bodies is smaller, because they are held in memory together."""

_STATEMENT_SECONDS = 3_600.0

_DUMPED = {
    "delivery": COLUMNS["delivery"].replace("waiting", "(state = 0 and hold = 0)::integer"),
}
"""Columns that are not moved as they are. No gateway lives, so what is pending and not held is in the backlog, also if
another session locked its row while the export took it over."""

_DUMP_TIMES = "select name, value from meta where name = any($1::text[]) order by name"

_ADD_PRINTS = f"""
    insert into prints (fingerprint, arrival, received_at, unacknowledged)
    select new.fingerprint, new.arrival, a.received_at, a.flags & {FLAG_UNACKNOWLEDGED} > 0
    from unnest($1::bytea[], $2::bigint[]) as new (fingerprint, arrival) join arrivals a on a.key = new.arrival
"""  # noqa: S608
_ADD_SIGHTINGS = """
    insert into sightings (visitor, batch, times)
    select visitor, 0, array_agg(time order by time) from unnest($1::bytea[], $2::bigint[]) as one (visitor, time)
    group by visitor
    on conflict (visitor) do update set times = array(select time from
        (select time from unnest(sightings.times || excluded.times) time order by time desc limit $3) kept
        order by time)
"""
"""Add visit times of visitors, and keep the newest. No batch has the number 0."""

_ADD_PERSONS = "insert into persons select * from unnest($1::bytea[], $2::bigint[]) on conflict do nothing"
_MOVE_POSITION = "update meta set value = $3 where name = $1 and value = $2 returning name"
_LIVE = "select count(*) from incarnations where ended_at is null"


class PostgresMove:
    """A database without live gateways, for an export or an import."""

    def __init__(self, settings: PostgresSettings, *, may_create: bool) -> None:
        self._settings = settings
        self._may_create = may_create

    async def open(self) -> None:
        """Connect, keep other commands of a move away, and migrate the schema.

        Raises:
            UsherError: see Store.open(); StoreUnavailableError if the server cannot be reached.
        """
        self._pool = await open_pool(self._settings.dsn, self._settings.password, PoolBounds(1, 1))
        try:
            async with self._connected() as connection:
                await self._require_store(connection)
                await self._lock(connection)
                await schema.migrate(connection)
        except BaseException:
            self._pool.terminate()
            raise

    async def _require_store(self, connection: Connection) -> None:
        """Check the database before anything in it changes."""
        if await schema.exists(connection):
            await schema.require_key(connection, self._settings.key_fingerprint)
        elif not self._may_create:
            raise model.ConfigurationError(
                "there is no store in the database of --store", "Give the --store of `usher run`."
            )

    async def _lock(self, connection: Connection) -> None:
        """Wait a few seconds, because the session of a killed command ends a little later; the pool keeps this one."""
        try:
            await connection.execute("select pg_advisory_lock($1)", schema.MOVE_LOCK)
        except asyncpg.LockNotAvailableError:
            raise model.StoreLockedError("another export or import uses this database", "Wait until it ends.") from None

    async def close(self) -> None:
        """Disconnect."""
        self._pool.terminate()

    async def begin_export(self, now: int) -> None:
        """Set the mark while no gateway can start; the counts of ended gateways are folded after it."""
        async with self._locked() as connection:
            moving.refuse_moved(None, await schema.meta(connection, POSITION))
            await self._refuse_live(connection)
            await incarnations.adjust_backlog(connection, now)
            await incarnations.take_over(connection, now)
            if await schema.meta(connection, MOVED) is None:
                await schema.set_meta(connection, MOVED, model.format_time(now))
        async with self._connected() as connection, connection.transaction():
            await connection.execute(schema.LOCK_LIMITS)
            await connection.execute("select pg_advisory_xact_lock($1)", schema.FOLD_LOCK, timeout=35)
            while await meters.fold(connection):
                pass

    async def _refuse_live(self, connection: Connection) -> None:
        await incarnations.end_dead(connection)
        count = await connection.fetchval(_LIVE)
        if count:
            raise model.StoreLockedError(
                f"gateways that use this database: {count}",
                "Stop them first. A gateway that was killed counts as stopped after 60 s.",
            )

    async def exported_at(self) -> str | None:
        """Return the mark."""
        async with self._locked() as connection:
            return await schema.meta(connection, MOVED)

    async def undo_export(self) -> bool:
        """Remove the mark."""
        async with self._locked() as connection:
            deleted = await connection.fetchval("delete from meta where name = $1 returning name", MOVED)
        return deleted is not None

    async def begin_import(self) -> str:
        """Return or set the position."""
        async with self._locked() as connection:
            position = await schema.meta(connection, POSITION)
            if position is not None:
                return position
            await self._refuse_live(connection)
            for table in (*TABLES.values(), "commits"):
                if await connection.fetchval(f"select exists (select 1 from {table})"):  # noqa: S608
                    raise model.StoreLockedError("the database of --store is not empty", "Create an empty database.")
            await schema.set_meta(connection, POSITION, moving.BEGINNING)
            return moving.BEGINNING

    async def load(self, kind: str, rows: list[moving.Row], *, before: str, after: str) -> None:
        """Add rows."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute("set local statement_timeout = 0")
            if await connection.fetchval(_MOVE_POSITION, POSITION, before, after) is None:
                raise model.StoreLockedError("another import uses this database", "Wait until it ends.")
            if kind == "time":
                for name, value in rows:
                    await schema.set_meta(connection, name, value)
            elif kind == "print":
                await connection.execute(
                    _ADD_PRINTS, *columns([tuple(row) for row in rows], 2), timeout=_STATEMENT_SECONDS
                )
            else:
                await self._copy(connection, kind, rows)

    async def _copy(self, connection: Connection, kind: str, rows: list[moving.Row]) -> None:
        names = COLUMNS[kind].split(", ")
        if kind == "delivery":
            waiting = names.index("waiting")
            rows = [(*row[:waiting], bool(row[waiting]), *row[waiting + 1 :], 0) for row in rows]
            names.append("owner")
        await connection.copy_records_to_table(TABLES[kind], records=rows, columns=names, timeout=_STATEMENT_SECONDS)
        if kind == "arrival":
            sightings = [(row[11], row[4]) for row in rows if row[5] == model.CountedAs.Visit]
            persons = sorted({(person, row[0]) for row in rows for person in split_person_keys(row[12])})
            await connection.execute(_ADD_SIGHTINGS, *columns(sightings, 2), MOST_TIMES, timeout=_STATEMENT_SECONDS)
            await connection.execute(_ADD_PERSONS, *columns(persons, 2), timeout=_STATEMENT_SECONDS)

    async def finish_loading(self) -> None:
        """Set the next numbers of names, and give the planner its statistics."""
        async with self._connected() as connection:
            await connection.execute("set statement_timeout = 0")
            for table in ("listeners", "destinations", "routes"):
                await connection.execute(
                    f"select setval(pg_get_serial_sequence('{table}', 'number'), max(number)) from {table}"  # noqa: S608
                )
            statement = "update routes set used_key = coalesce((select max(key) from arrivals), 0) + $1"
            await connection.execute(statement, model.KEYS_PER_DAY)
            await connection.execute("analyze", timeout=_STATEMENT_SECONDS)

    async def end_import(self) -> None:
        """Rename the position."""
        async with self._locked() as connection:
            await connection.execute("update meta set name = $1 where name = $2", IMPORTED, POSITION)

    async def imported(self) -> str | None:
        """Return the position of the complete import."""
        async with self._locked() as connection:
            moving.refuse_exported(await schema.meta(connection, MOVED))
            return await schema.meta(connection, IMPORTED)

    async def dump(self) -> AsyncIterator[tuple[str, list[moving.Row]]]:
        """Yield all rows."""
        async with (
            self._connected() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute("set local statement_timeout = 0")
            await connection.execute("set local idle_in_transaction_session_timeout = 0")
            for kind, names in COLUMNS.items():
                cursor: Any
                if kind == "time":
                    cursor = await connection.cursor(_DUMP_TIMES, TIMES)
                else:
                    order = " order by key" if kind == "arrival" else ""
                    statement = f"select {_DUMPED.get(kind, names)} from {TABLES[kind]}{order}"  # noqa: S608
                    cursor = await connection.cursor(statement)
                size = _BODIES if kind == "body" else _SLICE
                while rows := await cursor.fetch(size, timeout=_STATEMENT_SECONDS):
                    yield kind, [tuple(row) for row in rows]

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[Connection]:
        """Give a transaction in which no gateway can start."""
        async with self._connected() as connection, connection.transaction():
            await connection.execute(schema.LOCK_LIMITS)
            await connection.execute("select pg_advisory_xact_lock($1)", schema.MIGRATION_LOCK, timeout=35)
            await schema.check_key(connection, self._settings.key_fingerprint)
            yield connection

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator["asyncpg.pool.PoolConnectionProxy[Any]"]:
        try:
            async with self._pool.acquire() as connection:
                yield connection
        except asyncpg.InsufficientPrivilegeError:
            raise model.ConfigurationError(
                "the user of --store lacks rights on the tables", "Connect as the owner of the tables."
            ) from None
        except UNAVAILABLE as error:
            raise model.StoreUnavailableError(
                f"the database failed: {describe(error)}", "Look into the server's log, then run the command again."
            ) from error
