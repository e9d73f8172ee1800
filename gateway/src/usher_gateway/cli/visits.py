"""``usher visits``: the ledger, and what was skipped in it."""

import sys
from typing import Annotated

import typer

from usher_gateway.cli import ask, tables

_CountedAs = Annotated[
    str | None, typer.Option(envvar="USHER_COUNTED_AS", help="visit, repeat, redelivery or quarantined.")
]
_Body = Annotated[bool, typer.Option("--body", envvar="USHER_BODY", help="Print the body as it came, and only that.")]

_LIST = "Example:  usher visits list --tenant acme --since 2h   or   usher visits list --reason Filter -o json"
_SHOW = "Example:  usher visits show 01920000-0000-7000-8000-000000000001 --body"
_REPLAY = "Example:  usher visits replay --tenant acme --route welcome --reason Paused --since 2026-11-24"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    visits = typer.Typer(no_args_is_help=True, help="Look at arrivals and their verdicts; replay what was skipped.")
    visits.command("list", epilog=_LIST)(list_visits)
    visits.command("show", epilog=_SHOW)(show)
    visits.command("replay", epilog=_REPLAY)(replay)
    app.add_typer(visits, name="visits")


def list_visits(
    *,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    route: ask.Route = None,
    destination: ask.Destination = None,
    since: ask.Since = None,
    until: ask.Until = None,
    counted_as: _CountedAs = None,
    reason: ask.Reason = None,
    limit: ask.Limit = 50,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """List arrivals, newest first, with what each route decided.

    --reason is a skip reason (Filter, OncePer, Stale, Repeat, Paused, Shadow) or a quarantine reason.
    """
    query = {
        "tenant": tenant,
        "listener": listener,
        "route": route,
        "destination": destination,
        "since": ask.moment(since),
        "until": ask.moment(until),
        "countedAs": counted_as,
        "reason": reason,
    }
    rows = ask.Gateway(admin, data).rows("/api/visits", limit, **query)
    tables.print_rows(rows, tables.VISIT_COLUMNS, output, "No such visits.")


def show(
    identifier: ask.Id,
    body: _Body = False,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """Show one arrival. Its body is personal data: looking at it takes the operate token and is written down."""
    gateway = ask.Gateway(admin, data, operate=body)
    if body:
        sys.stdout.buffer.write(gateway.get_bytes(f"/api/visits/{ask.quoted(identifier)}/body"))
        return
    show_one(gateway, "/api/visits", identifier, output)


def show_one(gateway: ask.Gateway, path: str, identifier: str, output: ask.Output) -> None:
    """Print one row of a listing in full."""
    rows = gateway.rows(path, 1, id=identifier)
    if not rows:
        ask.fail(f"there is no {identifier}", "ids are those that the lists show", ask.WRONG)
    if output is ask.Output.text:
        tables.print_facts(rows[0])
    else:
        tables.print_rows(rows, [(name, tables.text(name)) for name in rows[0]], output, "")


def replay(
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
    """Deliver what a route skipped: each skipped verdict once, as long as its body is kept.

    --reason is a skip reason: Filter, OncePer, Stale, Repeat, Paused or Shadow. A route's time limit does not count.
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
    answer = ask.Gateway(admin, data, operate=True).post("/api/visits/replay", selection)
    typer.echo(f"Made of skipped verdicts: {tables.counted(answer['replayed'], 'delivery')}.")
