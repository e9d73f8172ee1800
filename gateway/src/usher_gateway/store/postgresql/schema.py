"""The schema: ordered migrations under an advisory lock, and checks that the database is ours."""

import importlib.resources

from usher_gateway import model
from usher_gateway.store.postgresql.connections import Connection

MIGRATION_LOCK = 0x55736872_0001
"""Advisory lock: one gateway at a time migrates, starts or ends incarnations."""

FOLD_LOCK = 0x55736872_0002
"""Advisory lock: one gateway at a time folds counts into the meters."""

PRUNE_LOCK = 0x55736872_0003
"""Advisory lock: one gateway at a time deletes expired data."""

_MIGRATION_SECONDS = 3_600.0
"""Time limit of one migration: of a large store it may take long."""

_MIN_GATEWAY = "0.1.0"
"""The oldest gateway that can run on this schema."""


async def migrate(connection: Connection, key_fingerprint: str) -> None:
    """Bring the schema up to date, inside of a transaction that holds MIGRATION_LOCK.

    Migrations only expand the schema, so older gateways can still run on it.

    Raises:
        InstallKeyError: another install key made the data.
        ConfigurationError: this gateway is too old for the schema.
        StoreCorruptError: the database belongs to another program.
    """
    version = await _version(connection)
    folder = importlib.resources.files(__package__) / "migrations"
    scripts = sorted((item for item in folder.iterdir() if item.name.endswith(".sql")), key=lambda item: item.name)
    for script in scripts:
        number = int(script.name.split("_")[0])
        if number > version:
            await connection.execute(script.read_text("utf-8"), timeout=_MIGRATION_SECONDS)
            await set_meta(connection, "schema_version", str(number))
            await set_meta(connection, "min_gateway", _MIN_GATEWAY)
    _check_gateway(await meta(connection, "min_gateway") or _MIN_GATEWAY)
    known = await meta(connection, "key_fingerprint")
    if known is None:
        await set_meta(connection, "key_fingerprint", key_fingerprint)
    elif known != key_fingerprint:
        raise model.InstallKeyError(
            "another install key made this store",
            "Use the same install.key or USHER_INSTALL_KEY as before, because URLs and keyed hashes depend on it.",
        )


async def _version(connection: Connection) -> int:
    """Return the version of the schema; 0 for an empty database."""
    found = await connection.fetchval("select to_regclass('meta') is not null and to_regclass('arrivals') is not null")
    if found:
        return int(await meta(connection, "schema_version") or 0)
    tables = await connection.fetchval("select count(*) from pg_tables where schemaname = any(current_schemas(false))")
    if tables:
        raise model.StoreCorruptError(
            "the database of --store belongs to another program", "Create an empty database for Usher."
        )
    return 0


async def meta(connection: Connection, name: str) -> str | None:
    """Return a value of the table meta."""
    value: str | None = await connection.fetchval("select value from meta where name = $1", name)
    return value


async def set_meta(connection: Connection, name: str, value: str) -> None:
    """Write a value of the table meta."""
    statement = "insert into meta values ($1, $2) on conflict (name) do update set value = excluded.value"
    await connection.execute(statement, name, value)


def _check_gateway(oldest: str) -> None:
    from usher_gateway import __version__

    if _numbers(__version__) < _numbers(oldest):
        raise model.ConfigurationError(
            f"the store needs Usher {oldest} or later, this is {__version__}", "Run the newer release again."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


async def durability_problem(connection: Connection) -> str | None:
    """Return which setting of the server makes commits lose data in a crash; None if there is none."""
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        value = await connection.fetchval("select current_setting($1)", name)
        if value == "off":
            return f"{name} is off"
    return None
