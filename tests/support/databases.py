"""PostgreSQL databases of tests: one server per process, started with its first database."""

import atexit
import functools
import hashlib
from pathlib import Path
from typing import Any

from postgresql.server import PostgresServer
from usher_gateway.store.postgresql import schema


@functools.cache
def server() -> PostgresServer:
    """Return the server of this process."""
    started = PostgresServer()
    started.__enter__()
    atexit.register(started.__exit__)
    return started


def name_of(place: Path) -> str:
    """Return the name of a place's database."""
    return f"usher_{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"


def name_in(dsn: str) -> str:
    """Return the name of the database in an address."""
    return dsn.rpartition("/")[2]


def create(name: str) -> None:
    """Create a database with the newest schema, if it does not exist."""
    if not server().rows(f"select 1 from pg_database where datname = '{name}'"):
        server().execute(f"create database {name} template {_template()} strategy file_copy")


@functools.cache
def _template() -> str:
    """Return a database with the schema, to copy, because the migrations take longer than a copy."""
    name = "usher_template"
    server().execute(f"create database {name}")
    server().use(name, _migrate)
    return name


async def _migrate(connection: Any) -> None:
    await schema.migrate(connection)


def let_gateways_die(name: str) -> None:
    """Let the gateways of a database count as dead, as they would after 60 s without a heartbeat."""
    statement = "update incarnations set beat_at = beat_at - interval '61 s' where ended_at is null"
    server().execute(statement, name)


def drop(name: str) -> None:
    """Drop a database, if it exists."""
    server().drop(name)
