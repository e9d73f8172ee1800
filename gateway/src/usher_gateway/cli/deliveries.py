"""``usher deliveries``: what is on its way, what has ended, and starting it anew."""

from typing import Annotated

import typer

from usher_gateway.cli import ask, tables, visits

_State = Annotated[str | None, typer.Option(envvar="USHER_STATE", help="pending, held, delivered, dead or cancelled.")]
_Ended = Annotated[str, typer.Option(envvar="USHER_STATE", help="dead or cancelled.")]

_LIST = "Example:  usher deliveries list --state held   or   usher deliveries list --destination agency/crm --since 1d"
_SHOW = "Example:  usher deliveries show 01920000-0000-7000-8000-000000000002"
_REDRIVE = "Example:  usher deliveries redrive --destination agency/crm --since 2026-11-24"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    deliveries = typer.Typer(no_args_is_help=True, help="Look at deliveries; redrive dead or cancelled ones.")
    deliveries.command("list", epilog=_LIST)(list_deliveries)
    deliveries.command("show", epilog=_SHOW)(show)
    deliveries.command("redrive", epilog=_REDRIVE)(redrive)
    app.add_typer(deliveries, name="deliveries")


def list_deliveries(
    *,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    route: ask.Route = None,
    destination: ask.Destination = None,
    since: ask.Since = None,
    until: ask.Until = None,
    state: _State = None,
    reason: ask.Reason = None,
    limit: ask.Limit = 50,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """List deliveries, newest first.

    --reason is a hold reason (DestinationPaused ...), a cancel reason (Expired ...), or an error's code (Timeout ...).
    """
    query = {
        "tenant": tenant,
        "listener": listener,
        "route": route,
        "destination": destination,
        "since": ask.moment(since),
        "until": ask.moment(until),
        "state": state,
        "reason": reason,
    }
    rows = ask.Gateway(admin, data).rows("/api/deliveries", limit, **query)
    tables.print_rows(rows, tables.DELIVERY_COLUMNS, output, "No such deliveries.", tables.DELIVERY_CELLS)


def show(
    identifier: ask.Id,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """Show one delivery."""
    visits.show_one(ask.Gateway(admin, data), "/api/deliveries", identifier, output)


def redrive(
    *,
    ids: ask.Ids = None,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    route: ask.Route = None,
    destination: ask.Destination = None,
    since: ask.Since = None,
    until: ask.Until = None,
    state: _Ended = "dead",
    reason: ask.Reason = None,
    everything: ask.All = False,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """Make dead (or cancelled) deliveries due again, with all their attempts.

    Their ids stay, so a receiver knows what it has seen. What has no body any more or is past its time limit is left.
    """
    selection = ask.select(
        ids,
        everything=everything,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        since=ask.moment(since),
        until=ask.moment(until),
        reason=reason,
    )
    answer = ask.Gateway(admin, data, operate=True).post("/api/deliveries/redrive", {**selection, "state": state})
    typer.echo(f"Due again: {tables.counted(answer['redriven'], 'delivery')}.")
