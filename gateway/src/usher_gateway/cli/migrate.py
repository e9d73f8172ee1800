"""``usher migrate``: brings the tables of a PostgreSQL store up to date."""

import functools
from typing import Annotated

import typer

from usher_gateway.cli import store_options

_EPILOG = """\
Example:  usher migrate --store postgresql://owner@db.example.com/usher --store-password-file /run/secrets/owner

Only list the migrations:  usher migrate --store postgresql://owner@db.example.com/usher --dry-run --sql
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def migrate(
        *,
        store: store_options.Database,
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
        from usher_gateway.store.postgresql import opening

        work = functools.partial(opening.migrate, dry_run=dry_run)
        migrations = store_options.run_on_database(store, store_password_file, work)
        for migration in migrations:
            typer.echo(f"{'would make' if dry_run else 'made'} migration {migration.number}: {migration.title}")
            if sql:
                typer.echo(f"\n{migration.sql}")
        if not migrations:
            typer.echo("the tables are up to date")
