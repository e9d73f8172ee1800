"""A PostgreSQL store as the source or the target of a copy (see store/copy.py)."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import asyncpg

from usher_gateway import model
from usher_gateway.store.copy import COLUMNS, COPIED, UNFINISHED, Row, not_empty, refuse_unusable
from usher_gateway.store.encodings import FLAG_UNACKNOWLEDGED, split_person_keys
from usher_gateway.store.postgresql import incarnations, meters, schema
from usher_gateway.store.postgresql.accept import MOST_TIMES
from usher_gateway.store.postgresql.connections import UNAVAILABLE, Connection, describe, open_pool
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.session import columns

_SLICE = 1_000
_BODIES = 16  # A slice of bodies is smaller, because they are held in memory together

_STATEMENT_SECONDS = 3_600.0

_LOOK_SECONDS = 1.0  # Pause between two looks for heartbeats

# Tables that are not copied as they are. No gateway lives, so what is pending and not held is in the backlog, also if
# another session locked its row while the copy took it over.
_DUMPED = {
    "arrivals": f"select {COLUMNS['arrivals']} from arrivals order by key",  # noqa: S608
    "deliveries": f"select {COLUMNS['deliveries'].replace('waiting', '(state = 0 and hold <= 0)::integer')}"  # noqa: S608
    " from deliveries",
    "meta": "select name, value from meta where name = 'confirmed_at'",
}

_ADD_PRINTS = f"""
    insert into prints (fingerprint, arrival, received_at, unacknowledged)
    select new.fingerprint, new.arrival, a.received_at, a.flags & {FLAG_UNACKNOWLEDGED} > 0
    from unnest($1::bytea[], $2::bigint[]) as new (fingerprint, arrival) join arrivals a on a.key = new.arrival
"""  # noqa: S608
# Add visit times of visitors, and keep the newest. No batch has the number 0.
_ADD_SIGHTINGS = """
    insert into sightings (visitor, batch, times)
    select visitor, 0, array_agg(time order by time) from unnest($1::bytea[], $2::bigint[]) as one (visitor, time)
    group by visitor
    on conflict (visitor) do update set times = array(select time from
        (select time from unnest(sightings.times || excluded.times) time order by time desc limit $3) kept
        order by time)
"""

_ADD_PERSONS = """
    insert into persons (person, arrival) select * from unnest($1::bytea[], $2::bigint[]) on conflict do nothing
"""
_ALL_TABLES = (*(COLUMNS.keys() - {"meta"}), "sightings", "persons", "commits")
_LIVE = "select count(*) from incarnations where ended_at is null"


class PostgresCopy:
    """A database without live gateways, to be copied or filled (``store.copy.CopyableStore``).

    It uses one connection, because a session has COPY_LOCK: once the connection is lost, another copy may begin.
    """

    def __init__(self, settings: PostgresSettings, *, may_create: bool) -> None:
        self._settings = settings
        self._may_create = may_create

    async def open(self) -> None:
        """Connect, keep other copies away, and migrate the schema."""
        self._pool = await open_pool(self._settings.dsn, self._settings.password, 1)
        try:
            self._connection = await self._pool.acquire()
            async with self._connected() as connection:
                await self._require_store(connection)
                await self._lock(connection)
                await schema.migrate(connection)
        except BaseException:
            self._pool.terminate()
            raise

    async def _require_store(self, connection: Connection) -> None:
        """Check the database before anything in it changes."""
        if await schema.version_of(connection):
            await schema.check_key(connection, self._settings.key_fingerprint, may_write=False)
        elif not self._may_create:
            raise model.ConfigurationError(
                "the database of --from contains no store", "Name the database that `usher run` uses."
            )

    async def _lock(self, connection: Connection) -> None:
        """Wait a few seconds, because the session of a killed command ends a little later."""
        try:
            await connection.execute("select pg_advisory_lock($1)", schema.COPY_LOCK)
        except asyncpg.LockNotAvailableError:
            raise model.StoreLockedError("another copy uses this database", "Wait until it ends.") from None

    async def close(self) -> None:
        self._pool.terminate()

    async def copied_at(self) -> str | None:
        async with self._locked() as connection:
            return await schema.meta(connection, COPIED)

    async def begin_reading(self, now: int) -> None:
        """Set the mark while no gateway can start; the counts of ended gateways are folded after it."""
        await self._wait_for_heartbeats()
        async with self._locked() as connection:
            await self._refuse_unusable(connection)
            await incarnations.take_over(connection, now)
            await schema.set_meta(connection, COPIED, model.format_time(now))
        async with self._connected() as connection, connection.transaction():
            await connection.execute(schema.LOCK_LIMITS)
            await connection.execute("select pg_advisory_xact_lock($1)", schema.FOLD_LOCK, timeout=35)
            while await meters.fold(connection):
                pass

    async def _wait_for_heartbeats(self) -> None:
        """Give gateways that seem dead the time to send a heartbeat, because the database may have been away."""
        until = time.monotonic() + incarnations.GRACE_SECONDS
        async with self._connected() as connection:
            while time.monotonic() < until:
                if not await connection.fetchval(_LIVE) or await incarnations.any_runs(connection):
                    return
                await asyncio.sleep(_LOOK_SECONDS)

    async def _refuse_unusable(self, connection: Connection) -> None:
        refuse_unusable(await schema.meta(connection, COPIED), await schema.meta(connection, UNFINISHED))
        await incarnations.end_dead(connection)
        count = await connection.fetchval(_LIVE)
        if count:
            raise model.StoreLockedError(
                f"gateways that use this database: {count}",
                "Stop them first. A gateway that was killed counts as stopped after 60 s.",
            )

    async def undo(self) -> bool:
        async with self._locked() as connection:
            deleted = await connection.fetchval("delete from meta where name = $1 returning name", COPIED)
        return deleted is not None

    async def begin_writing(self) -> None:
        await self._wait_for_heartbeats()
        async with self._locked() as connection:
            await self._refuse_unusable(connection)
            for table in _ALL_TABLES:
                if await connection.fetchval(f"select exists (select 1 from {table})"):  # noqa: S608
                    raise not_empty()
            await schema.set_meta(connection, UNFINISHED, "1")

    async def load(self, table: str, rows: list[Row]) -> None:
        async with self._connected() as connection, connection.transaction():
            await connection.execute("set local statement_timeout = 0")
            if table == "meta":
                for name, value in rows:
                    await schema.set_meta(connection, name, value)
            elif table == "prints":
                await connection.execute(
                    _ADD_PRINTS, *columns([tuple(row) for row in rows], 2), timeout=_STATEMENT_SECONDS
                )
            else:
                await self._copy(connection, table, rows)

    async def _copy(self, connection: Connection, table: str, rows: list[Row]) -> None:
        names = COLUMNS[table].split(", ")
        if table == "deliveries":
            waiting = names.index("waiting")
            rows = [(*row[:waiting], bool(row[waiting]), *row[waiting + 1 :], 0) for row in rows]
            names.append("owner")
        await connection.copy_records_to_table(table, records=rows, columns=names, timeout=_STATEMENT_SECONDS)
        if table == "arrivals":
            sightings = [(row[11], row[4]) for row in rows if row[5] == model.CountedAs.Visit]
            persons = sorted({(person, row[0]) for row in rows for person in split_person_keys(row[12])})
            await connection.execute(_ADD_SIGHTINGS, *columns(sightings, 2), MOST_TIMES, timeout=_STATEMENT_SECONDS)
            await connection.execute(_ADD_PERSONS, *columns(persons, 2), timeout=_STATEMENT_SECONDS)

    async def end_writing(self) -> None:
        """Remove the mark, and give the planner its statistics."""
        async with self._locked() as connection:
            await connection.execute("delete from meta where name = $1", UNFINISHED)
        async with self._connected() as connection:
            await connection.execute("set statement_timeout = 0")
            await connection.execute("analyze", timeout=_STATEMENT_SECONDS)

    async def dump(self) -> AsyncGenerator[tuple[str, list[Row]], None]:
        async with (
            self._connected() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            await connection.execute("set local statement_timeout = 0")
            await connection.execute("set local idle_in_transaction_session_timeout = 0")
            for table, names in COLUMNS.items():
                cursor: Any = await connection.cursor(_DUMPED.get(table) or f"select {names} from {table}")  # noqa: S608
                size = _BODIES if table == "bodies" else _SLICE
                while rows := await cursor.fetch(size, timeout=_STATEMENT_SECONDS):
                    yield table, [tuple(row) for row in rows]

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
            yield self._connection
        except asyncpg.InsufficientPrivilegeError:
            raise model.ConfigurationError(
                "a user lacks rights on the tables of its database", "Connect as the owner of the tables."
            ) from None
        except UNAVAILABLE as error:
            raise model.StoreUnavailableError(
                f"the database failed: {describe(error)}",
                "Look into its log. See docs/moving-between-stores.md: a copy begins again with an empty store.",
            ) from error
