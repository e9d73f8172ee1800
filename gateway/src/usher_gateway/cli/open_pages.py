"""``usher open``: prints an address that opens the gateway's pages in a browser, once."""

import typer

from usher_gateway.cli.admin_client import ADMIN, DATA, Admin, AdminClient, Data

_EPILOG = "Example:  usher open   or   USHER_TOKEN=$(kubectl create token anna -n agency) usher open"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("open", epilog=_EPILOG)(print_address)


def print_address(admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Print an address that opens the pages of the gateway in your browser, with the rights of your token.

    It works once, within a minute. The browser then has a session of 12 hours. The command uses the operate token, or
    USHER_TOKEN: the session can do what that token permits.
    """
    client = AdminClient(admin, data, operate=True)
    typer.echo(client.url + client.post("/api/pages/tickets", {})["path"])
