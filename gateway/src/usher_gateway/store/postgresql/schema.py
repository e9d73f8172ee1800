"""The schema: ordered migrations under an advisory lock, and checks that the database is ours.

A migration waits only 2 s for a table's lock and then tries again, because commits queue behind a migration that
waits. So it should change one table, and must not rewrite a large one.
"""

import asyncio

import asyncpg
import structlog

from usher_gateway import model
from usher_gateway.store.migrations import MIN_GATEWAY, Migration, all_migrations, check_fingerprint, check_version
from usher_gateway.store.postgresql.connections import Connection

_log = structlog.get_logger(__name__)

MIGRATION_LOCK = 0x55736872_0001  # Advisory lock: one gateway at a time migrates, starts or ends incarnations
FOLD_LOCK = 0x55736872_0002  # Advisory lock: one gateway at a time folds counts into the meters
PRUNE_LOCK = 0x55736872_0003  # Advisory lock: one gateway at a time deletes expired data
COPY_LOCK = 0x55736872_0004  # Advisory lock of a session: one copy at a time uses the database

# Limits of a transaction that waits for MIGRATION_LOCK.
LOCK_LIMITS = "set local statement_timeout = 0; set local lock_timeout = '30s'"

# Commits wait behind a migration that waits for a table, and an arrival has 8 s.
_TABLE_LOCK_LIMIT = "set local lock_timeout = '2s'"

_MIGRATION_SECONDS = 3_600.0  # Time limit for one migration: in a large store it may take long
_TRIES = 100  # How often a migration that gets no lock tries again
_PAUSE_SECONDS = 1.0  # Pause between two tries, in which the commits go on that waited

# One query over one snapshot. `to_regclass` could miss tables that were created while it waited for MIGRATION_LOCK.
_TABLES = "select tablename from pg_tables where schemaname = any(current_schemas(false))"


async def pending(connection: Connection, migrations: list[Migration] | None = None) -> list[Migration]:
    """Return the migrations that the database lacks. Changes nothing.

    ``migrations``: in order; None: all in this release.

    Raises:
        ConfigurationError: this gateway is too old for the schema, or the schema is too old for it.
        StoreCorruptError: the database belongs to another program.
    """
    of_release = all_migrations(__package__)
    version = await version_of(connection)
    if version:
        check_version(version, await meta(connection, "min_gateway"), first=of_release[0].number)
    return [migration for migration in migrations or of_release if migration.number > version]


async def migrate(connection: Connection, migrations: list[Migration] | None = None) -> list[Migration]:
    """Bring the schema up to date, each migration in a separate transaction; return the migrations that were made.

    ``connection``: one without an open transaction. ``migrations``: in order; None: all in this release.

    Raises:
        ConfigurationError: this gateway is too old for the schema, or the user may not change it.
        StoreCorruptError: the database belongs to another program.
        StoreUnavailableError: other transactions kept a table locked for minutes.
    """
    done = []
    for migration in await pending(connection, migrations):
        for _ in range(_TRIES):
            try:
                if await _apply(connection, migration):
                    done.append(migration)
                break
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                _log.warning(
                    "migration_delayed", number=migration.number, hint="Look for long transactions in pg_stat_activity."
                )
                await asyncio.sleep(_PAUSE_SECONDS)
            except asyncpg.InsufficientPrivilegeError:
                raise model.ConfigurationError(
                    f"the user of --store may not make migration {migration.number} ({migration.title})",
                    "Run `usher migrate` as the owner of the tables.",
                ) from None
        else:
            raise model.StoreUnavailableError(
                f"migration {migration.number} got no lock in {_TRIES} tries",
                "End the long transactions that pg_stat_activity shows, and try again.",
            )
    return done


async def _apply(connection: Connection, migration: Migration) -> bool:
    """Make one migration; return False if another process has made it meanwhile."""
    async with connection.transaction():
        await connection.execute(LOCK_LIMITS)
        await connection.execute("select pg_advisory_xact_lock($1)", MIGRATION_LOCK, timeout=35)
        if await version_of(connection) >= migration.number:
            return False
        await connection.execute(_TABLE_LOCK_LIMIT)
        await connection.execute(migration.sql, timeout=_MIGRATION_SECONDS)
        await set_meta(connection, "schema_version", str(migration.number))
        await set_meta(connection, "min_gateway", MIN_GATEWAY)
    _log.info("migration_applied", number=migration.number, title=migration.title)
    return True


async def require_newest(connection: Connection) -> None:
    """Check that the database has every migration in this release. Changes nothing.

    Raises:
        SchemaTooOldError: it lacks some.
        ConfigurationError: this gateway is too old for the schema.
        StoreCorruptError: the database belongs to another program.
    """
    lacking = await pending(connection)
    if lacking:
        numbers = ", ".join(str(migration.number) for migration in lacking)
        raise model.SchemaTooOldError(
            f"the database of --store lacks migrations ({numbers})",
            "Run `usher migrate` of this release as the owner of the tables.",
        )


async def check_key(connection: Connection, key_fingerprint: str, *, may_write: bool = True) -> None:
    """Check that the install key is the one that made the data; the first gateway writes its fingerprint.

    Raises:
        InstallKeyError: another install key made the data.
    """
    stored = await meta(connection, "key_fingerprint")
    check_fingerprint(stored, key_fingerprint)
    if stored is None and may_write:
        await set_meta(connection, "key_fingerprint", key_fingerprint)


async def version_of(connection: Connection) -> int:
    """Return the schema's version; 0 for an empty database.

    Raises:
        StoreCorruptError: the database belongs to another program.
    """
    tables = {name for (name,) in await connection.fetch(_TABLES)}
    if {"meta", "arrivals"} <= tables:
        return int(await meta(connection, "schema_version") or 0)
    if tables:
        raise model.StoreCorruptError(
            "the database of --store belongs to another program", "Create an empty database for Usher."
        )
    return 0


async def meta(connection: Connection, name: str) -> str | None:
    """Return a value from the table meta."""
    value: str | None = await connection.fetchval("select value from meta where name = $1", name)
    return value


async def set_meta(connection: Connection, name: str, value: str) -> None:
    """Write a value in the table meta."""
    statement = "insert into meta (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value"
    await connection.execute(statement, name, value)
