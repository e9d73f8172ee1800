"""Open a PostgreSQL store: connect, migrate, take over what dead gateways had claimed, and begin an incarnation."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import msgspec
import structlog

from usher_gateway import model
from usher_gateway.store.base import OpenReport
from usher_gateway.store.copy import COPIED, UNFINISHED, refuse_unusable
from usher_gateway.store.jobs import meters
from usher_gateway.store.migrations import Migration
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.postgresql import incarnations, schema
from usher_gateway.store.postgresql.connections import (
    POOL_SIZE,
    UNAVAILABLE,
    Durability,
    PostgresSession,
    describe,
    open_pool,
)
from usher_gateway.store.postgresql.incarnations import SLOTS, Ownership
from usher_gateway.store.postgresql.writer import Writer

_log = structlog.get_logger(__name__)

_HIGHEST_KEY = """
    select greatest(
        (select max(key) from arrivals), (select max(key) from deliveries), (select max(key) from replays),
        (select max(key) from erasures), (select max(key) from audit_entries), 0
    )
"""


class PostgresSettings(msgspec.Struct, frozen=True):
    """The address of the database, and what the database must promise."""

    dsn: str
    key_fingerprint: str
    password: str | None = None
    names_key: bytes = b""
    """Key of the numbers of names (``store/names.py``)."""
    durability: Durability = "Local"
    may_migrate: bool = True
    """False: the schema must be new enough already."""


async def open_store(
    settings: PostgresSettings, names: NameNumbers, now: Callable[[], int]
) -> tuple[Writer, Ownership, OpenReport]:
    """Connect, migrate the schema, read the names, and recover what dead gateways left."""
    pool = await open_pool(settings.dsn, settings.password, POOL_SIZE, settings.durability)
    try:
        return await _open(pool, names, settings, now)
    except asyncpg.InsufficientPrivilegeError:
        pool.terminate()
        raise model.ConfigurationError(
            "the user of --store lacks rights on the tables",
            "Grant select, insert, update and delete on all tables, see docs/which-store.md.",
        ) from None
    except UNAVAILABLE as error:
        pool.terminate()
        raise model.StoreUnavailableError(f"the store cannot be opened: {describe(error)}") from None
    except BaseException:
        pool.terminate()
        raise


async def _open(
    pool: "asyncpg.Pool[Any]", names: NameNumbers, settings: PostgresSettings, now: Callable[[], int]
) -> tuple[Writer, Ownership, OpenReport]:
    async with pool.acquire() as connection:
        if settings.may_migrate:
            await schema.migrate(connection)
        else:
            await schema.require_newest(connection)
        async with connection.transaction():
            await connection.execute(schema.LOCK_LIMITS)
            await connection.execute("select pg_advisory_xact_lock($1)", schema.MIGRATION_LOCK, timeout=35)
            await schema.check_key(connection, settings.key_fingerprint)
            refuse_unusable(await schema.meta(connection, COPIED), await schema.meta(connection, UNFINISHED))
            await incarnations.forget_ended(connection)
            recovered = await incarnations.take_over(connection, now())
            session = PostgresSession(connection)
            await names.load_listeners(session)
            await names.load_routes(session)
            highest = await connection.fetchval(_HIGHEST_KEY)
            confirmed_at = int(await schema.meta(connection, "confirmed_at") or 0)
            stored_bytes = names.by_tenant(await meters.stored_bytes(session))
            # Last, because a start that fails after it would use up a slot for minutes.
            begun_at = asyncio.get_running_loop().time()
            incarnation = await incarnations.begin(connection)
            if incarnation is None:
                # Otherwise gateways that crash soon after their start use up the slots, and nobody ends them.
                await incarnations.end_dead(connection)
            else:
                replicas = await incarnations.replicas_of(connection, incarnation)
    if incarnation is None:
        raise model.StoreLockedError(
            f"{SLOTS} gateways use this database already", "Stop some, or wait 10 minutes after their end."
        )
    writer = Writer(
        pool=pool,
        incarnation=incarnation.number,
        ids=model.IdFactory(floor=highest, slot=incarnation.slot, slots=SLOTS),
        names=names,
        stored_bytes=stored_bytes,
    )
    ownership = Ownership(
        pool=pool,
        incarnation=incarnation,
        begun_at=begun_at,
        replicas=replicas,
        durability=settings.durability,
        lost=writer.lost,
        now=now,
    )
    return writer, ownership, OpenReport(recovered, settings.durability, confirmed_at)


async def migrate(dsn: str, password: str | None, *, dry_run: bool) -> list[Migration]:
    """Make the migrations that a database lacks, and return them; a dry run only returns them.

    Raises:
        UsherError: see schema.migrate(); StoreUnavailableError if the server cannot be reached; ConfigurationError if
            the user may not read the tables.
    """
    pool = await open_pool(dsn, password, 1)
    try:
        async with pool.acquire() as connection:
            if dry_run:
                return await schema.pending(connection)
            return await schema.migrate(connection)
    except asyncpg.InsufficientPrivilegeError:
        raise model.ConfigurationError(
            "the user of --store may not read the tables", "Run `usher migrate` as the owner of the tables."
        ) from None
    except UNAVAILABLE as error:
        raise model.StoreUnavailableError(f"the migration failed: {describe(error)}") from None
    finally:
        pool.terminate()
