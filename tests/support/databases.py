"""PostgreSQL databases of tests: one server per process, started with its first database.

The tables belong to ``owner``. The stores under test connect as ``gateway``, which has only the rights that
docs/which-store.md grants.
"""

import asyncio
import atexit
import functools
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from postgresql.server import PostgresServer
from support import waiting
from usher_gateway.store.migrations import Migration, all_migrations
from usher_gateway.store.postgresql import schema

PAGE = Path(__file__).parents[2] / "docs" / "which-store.md"  # The page that says which rights a gateway needs


@functools.cache
def server() -> PostgresServer:
    started = PostgresServer()
    started.__enter__()
    atexit.register(started.__exit__)
    started.execute("create role owner login; create role gateway login")
    return started


def owner_dsn(name: str) -> str:
    """Return the address of a database for the owner of its tables."""
    return server().dsn(name).replace("//usher@", "//owner@")


def gateway_dsn(name: str) -> str:
    """Return the address of a database for a gateway that may not alter its tables."""
    return server().dsn(name).replace("//usher@", "//gateway@")


def create_empty(name: str) -> None:
    """Create an empty database with the two users of docs/which-store.md."""
    server().execute(f"create database {name} owner owner")
    (rights,) = re.findall(r"^alter default privileges .*;$", PAGE.read_text("utf-8"), re.MULTILINE)
    server().use(name, _as_owner(lambda connection: connection.execute(rights)))


def migrate(name: str, *further: Migration) -> None:
    """Make the migrations of this release and further ones, as the owner."""
    migrations = [*all_migrations("usher_gateway.store.postgresql"), *further]
    server().use(name, _as_owner(lambda connection: schema.migrate(connection, migrations)))


def _as_owner(work: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def do(connection: Any) -> None:
        await connection.execute("set role owner")
        await work(connection)

    return do


def name_of(place: Path) -> str:
    return f"usher_{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"


def name_in(dsn: str) -> str:
    """Return the name of the database in an address."""
    return dsn.rpartition("/")[2]


def create(name: str, tablespace: str = "pg_default") -> None:
    """Create a database with the newest schema, if it does not exist."""
    if not server().rows(f"select 1 from pg_database where datname = '{name}'"):
        how = f"template {_template()} strategy file_copy tablespace {tablespace}"
        server().execute(f"create database {name} {how}")


@functools.cache
def _template() -> str:
    """Return a database with the schema, to copy, because the migrations take longer than a copy."""
    name = "usher_template"
    create_empty(name)
    migrate(name)
    return name


def let_gateways_die(name: str, which: str = "ended_at is null") -> None:
    """End all or some gateways of a database, as another gateway does after 60 s without their heartbeats."""
    server().execute(f"update incarnations set ended_at = clock_timestamp() where {which}", name)


def drop(name: str) -> None:
    """Drop a database, if it exists."""
    server().drop(name)


def save(name: str) -> str:
    """Keep a copy of a database; return the name of the copy. Its connections end."""
    copy = f"{name}_saved"
    _refuse_connections(name)
    server().execute(f"create database {copy} template {name} strategy file_copy")
    server().execute(f"alter database {name} allow_connections true")
    return copy


def restore(name: str, copy: str) -> None:
    """Put a copy in the place of a database, on a server that goes on running. Its connections end."""
    _refuse_connections(name)
    server().execute(f"drop database {name} with (force)")
    server().execute(f"alter database {copy} rename to {name}")


def _refuse_connections(name: str) -> None:
    """End all connections to a database, and let none begin."""
    server().disconnect(name)
    server().execute(f"alter database {name} allow_connections false")
    end = f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{name}'"
    waiting.poll(lambda: server().rows(end), lambda rows: not rows, every_seconds=0.01)


async def replicating(primary: PostgresServer) -> None:
    """Wait until commits of a server wait for its standby."""

    async def states() -> list[Any]:
        return await asyncio.to_thread(primary.rows, "select sync_state from pg_stat_replication")

    await waiting.until(states, lambda rows: [row[0] for row in rows] == ["sync"])
