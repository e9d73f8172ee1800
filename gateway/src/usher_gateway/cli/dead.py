"""``usher dead``: deliveries that were given up, why, and starting them anew."""

import sys
from typing import Annotated

import typer

from usher_gateway.cli import ask, deliveries, tables, visits

_Answer = Annotated[
    bool,
    typer.Option("--answer", envvar="USHER_ANSWER", help="Print what the destination answered last, and only that."),
]

_LIST = "Example:  usher dead list --destination agency/crm --since 1d   or   usher dead list -o csv > dead.csv"
_SHOW = "Example:  usher dead show 01920000-0000-7000-8000-000000000002 --answer"
_REDRIVE = "Example:  usher dead redrive --destination agency/crm   or   usher dead redrive ID ID"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dead = typer.Typer(no_args_is_help=True, help="Look at deliveries that were given up; redrive them.")
    dead.command("list", epilog=_LIST)(list_dead)
    dead.command("show", epilog=_SHOW)(show)
    dead.command("redrive", epilog=_REDRIVE)(redrive)
    app.add_typer(dead, name="dead")


def list_dead(
    *,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    route: ask.Route = None,
    destination: ask.Destination = None,
    since: ask.Since = None,
    until: ask.Until = None,
    reason: ask.Reason = None,
    limit: ask.Limit = 50,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """List dead deliveries, newest first. --reason is an error's code."""
    query = {
        "tenant": tenant,
        "listener": listener,
        "route": route,
        "destination": destination,
        "since": ask.moment(since),
        "until": ask.moment(until),
        "reason": reason,
    }
    rows = ask.Gateway(admin, data).rows("/api/deliveries", limit, state="dead", **query)
    tables.print_rows(rows, tables.DELIVERY_COLUMNS, output, "No dead deliveries.", tables.DELIVERY_CELLS)


def show(
    identifier: ask.Id,
    answer: _Answer = False,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """Show one dead delivery. Its answer may be personal data: looking takes the operate token and is written down."""
    gateway = ask.Gateway(admin, data, operate=answer)
    if answer:
        sys.stdout.buffer.write(gateway.get_bytes(f"/api/deliveries/{ask.quoted(identifier)}/answer"))
        return
    visits.show_one(gateway, "/api/deliveries", identifier, output)


def redrive(
    *,
    ids: ask.Ids = None,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    route: ask.Route = None,
    destination: ask.Destination = None,
    since: ask.Since = None,
    until: ask.Until = None,
    reason: ask.Reason = None,
    everything: ask.All = False,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """Make dead deliveries due again, with all their attempts; the same as `usher deliveries redrive`."""
    deliveries.redrive(
        ids=ids,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        since=since,
        until=until,
        reason=reason,
        everything=everything,
        admin=admin,
        data=data,
    )
