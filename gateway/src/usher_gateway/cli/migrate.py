"""``usher migrate``: brings the tables of a PostgreSQL store up to date."""

import asyncio
from typing import Annotated

import typer

from usher_gateway.cli import admin_client, store_options

_EPILOG = """\
Example:  usher migrate --store postgresql://owner@db.example.com/usher --store-password-file /run/secrets/owner

Only list the migrations:  usher migrate --store postgresql://owner@db.example.com/usher --dry-run --sql
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def migrate(
        *,
        store: Annotated[
            str,
            typer.Option(
                envvar="USHER_STORE",
                help="PostgreSQL database, postgresql://USER@HOST/DATABASE. USER owns the tables.",
            ),
        ],
        store_password_file: store_options.StorePasswordFile = None,
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
        from usher_gateway import logs, model, settings
        from usher_gateway.store.postgresql import opening

        logs.configure(as_json=None, level="warning")
        try:
            settings.check_store_address(store)
            password = settings.read_store_password(store_password_file)
            found = asyncio.run(opening.migrate(store, password, dry_run=dry_run))
        except model.UsherError as error:
            wrong_usage = isinstance(error, model.ConfigurationError)
            admin_client.fail(str(error), error.hint, admin_client.USAGE if wrong_usage else admin_client.WRONG)
        for migration in found:
            typer.echo(f"{'would make' if dry_run else 'made'} migration {migration.number}: {migration.title}")
            if sql:
                typer.echo(f"\n{migration.sql}")
        if not found:
            typer.echo("the tables are up to date")
