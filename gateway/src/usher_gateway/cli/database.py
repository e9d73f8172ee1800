"""``usher migrate``, and the options that name a PostgreSQL store."""

import asyncio
import functools
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

_MIGRATE_EPILOG = """\
Example:  usher migrate --store postgresql://owner@db.example.com/usher --store-password-file /run/secrets/owner

Only list the migrations:  usher migrate --store postgresql://owner@db.example.com/usher --dry-run --sql
"""


def register(app: typer.Typer) -> None:
    """Add ``usher migrate``."""

    @app.command(epilog=_MIGRATE_EPILOG)
    def migrate(
        *,
        store: Database,
        store_password_file: StorePasswordFile = None,
        dry_run: Annotated[
            bool,
            typer.Option("--dry-run", envvar="USHER_DRY_RUN", help="List what it would do, and change nothing."),
        ] = False,
        sql: Annotated[
            bool, typer.Option("--sql", envvar="USHER_SQL", help="Print the SQL of each migration too.")
        ] = False,
    ) -> None:
        """Create the tables of a PostgreSQL store, or bring them up to date, while gateways run.

        `usher run` does the same at its start, unless it has --no-migrate. Run it as the owner of the tables, with the
        release that the gateways will get, before they get it. Exit code 0: the tables are up to date; 1: the database
        is away or locked, so try again; 2: a flag, the password or the rights of the user are wrong.
        """
        from usher_gateway.store.postgresql import opening

        work = functools.partial(opening.migrate, dry_run=dry_run)
        migrations = run_on_database(store, store_password_file, work)
        for migration in migrations:
            typer.echo(f"{'would make' if dry_run else 'made'} migration {migration.number}: {migration.title}")
            if sql:
                typer.echo(f"\n{migration.sql}")
        if not migrations:
            typer.echo("the tables are up to date")


def run_on_database(
    store: str, password_file: Path | None, work: Callable[[str, str | None], Coroutine[Any, Any, T]]
) -> T:
    """Run work that takes the address and the password of a database; an error ends the command with its message."""
    from usher_gateway import logs, settings

    logs.configure(as_json=None, level="warning")
    with admin_client.ending_with_message():
        settings.check_store_address(store)
        return asyncio.run(work(store, settings.read_store_password(password_file)))
