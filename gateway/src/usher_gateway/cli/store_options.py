"""Options with which several commands name the store, and how they run on a database."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from usher_gateway.cli import admin_client

T = TypeVar("T")

Store = Annotated[
    str | None,
    typer.Option(
        envvar="USHER_STORE",
        help="PostgreSQL database, postgresql://USER@HOST/DATABASE, instead of an SQLite file in --data.",
        show_default=False,
    ),
]
Database = Annotated[
    str,
    typer.Option(
        envvar="USHER_STORE",
        help="PostgreSQL database, postgresql://USER@HOST/DATABASE. USER owns the tables.",
    ),
]
StorePasswordFile = Annotated[
    Path | None,
    typer.Option(
        envvar="USHER_STORE_PASSWORD_FILE",
        help="File with the password of --store; without it, PGPASSWORD or ~/.pgpass.",
    ),
]


def run_on_database(
    store: str, password_file: Path | None, work: Callable[[str, str | None], Coroutine[Any, Any, T]]
) -> T:
    """Run work that takes the address and the password of a database; an error ends the command with its message."""
    from usher_gateway import logs, model, settings

    logs.configure(as_json=None, level="warning")
    try:
        settings.check_store_address(store)
        return asyncio.run(work(store, settings.read_store_password(password_file)))
    except model.UsherError as error:
        wrong_usage = isinstance(error, model.ConfigurationError)
        admin_client.fail(str(error), error.hint, admin_client.USAGE if wrong_usage else admin_client.WRONG)
