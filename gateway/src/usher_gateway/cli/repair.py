"""``usher repair``: gives names to the rows of a PostgreSQL store that lost names."""

import functools
from typing import Annotated

import typer

from usher_gateway.cli import store_options

_EPILOG = """\
Example:  usher repair --store postgresql://owner@db.example.com/usher

Write the names:  usher repair --store postgresql://owner@db.example.com/usher --yes
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def repair(
        *,
        store: store_options.Database,
        store_password_file: store_options.StorePasswordFile = None,
        yes: Annotated[
            bool, typer.Option("--yes", help="Write the names. Without it, print what would change.")
        ] = False,
    ) -> None:
        """Give names to stored visits and deliveries of listeners and routes whose names a PostgreSQL store lost.

        Names that other rows prove come back; the others are shown under the tenant "?". Without --yes the command
        only says what it would do. It reads all visits, which takes minutes in a large store, while gateways may run.
        Exit code 0: the names are complete, or the command printed what it would do; 1: the database cannot be reached,
        or its tables are too old; 2: a flag, the password or the rights of the user are wrong.
        """
        from usher_gateway.store.postgresql import repair

        work = functools.partial(repair.repair, may_write=yes)
        missing = store_options.run_on_database(store, store_password_file, work)
        if not missing.is_needed:
            typer.echo("the store has all names")
            return
        for number, name in sorted(missing.listeners.items()):
            typer.echo(f"listener {number}: {name.key} of tenant {name.tenant}")
        typer.echo(f"listeners without a name: {len(missing.listeners)}")
        typer.echo(f"routes without a definition: {len(missing.routes)}")
        typer.echo(f"destinations without a name: {len(missing.destinations)}")
        typer.echo(f"visits whose routes belong to another listener: {len(missing.mixed)}")
        typer.echo("the names are written" if yes else "nothing has changed; run it with --yes to write these names")
