"""``usher quarantine``: what came to a valid address and was no visit; releasing it once the mistake is mended."""

from typing import Annotated

import typer

from usher_gateway.cli import ask, tables, visits

_State = Annotated[str | None, typer.Option(envvar="USHER_STATE", help="released or unreleased.")]

_LIST = "Example:  usher quarantine list --tenant acme --reason NoUser --state unreleased"
_SHOW = "Example:  usher quarantine show 01920000-0000-7000-8000-000000000001 --body"
_RELEASE = "Example:  usher quarantine release --listener lobby --reason NoUser"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    quarantine = typer.Typer(no_args_is_help=True, help="Look at what was no valid visit; release it once it is one.")
    quarantine.command("list", epilog=_LIST)(list_quarantined)
    quarantine.command("show", epilog=_SHOW)(visits.show)
    quarantine.command("release", epilog=_RELEASE)(release)
    app.add_typer(quarantine, name="quarantine")


def list_quarantined(
    *,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    since: ask.Since = None,
    until: ask.Until = None,
    reason: ask.Reason = None,
    state: _State = None,
    limit: ask.Limit = 50,
    output: ask.OutputOption = ask.Output.text,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """List quarantined arrivals, newest first. --reason: NotJSON, NotObject, NoUser, Truncated, CompanyMismatch ..."""
    query = {
        "tenant": tenant,
        "listener": listener,
        "since": ask.moment(since),
        "until": ask.moment(until),
        "reason": reason,
        "state": state,
    }
    rows = ask.Gateway(admin, data).rows("/api/quarantine", limit, **query)
    tables.print_rows(rows, tables.VISIT_COLUMNS, output, "Nothing is quarantined.")


def release(
    *,
    ids: ask.Ids = None,
    tenant: ask.Tenant = None,
    listener: ask.Listener = None,
    since: ask.Since = None,
    until: ask.Until = None,
    reason: ask.Reason = None,
    everything: ask.All = False,
    admin: ask.Admin = ask.ADMIN,
    data: ask.Data = ask.DATA,
) -> None:
    """Understand quarantined arrivals anew, by the listener as it is now, and deliver those that are visits.

    What is still no visit stays quarantined: the reasons are shown, and the command exits 1.
    """
    selection = ask.select(
        ids,
        everything=everything,
        tenant=tenant,
        listener=listener,
        since=ask.moment(since),
        until=ask.moment(until),
        reason=reason,
    )
    answer = ask.Gateway(admin, data, operate=True).post("/api/quarantine/release", selection)
    typer.echo(
        f"Released: {tables.counted(answer['released'], 'arrival')},"
        f" with {tables.counted(answer['deliveries'], 'delivery')}."
    )
    if not answer["released"] and not answer["unfit"]:
        typer.echo("Nothing was left to release there: Truncated and Unstorable cannot be, what is released stays so.")
    for name, count in sorted(answer["unfit"].items()):
        typer.echo(f"Still no visit: {tables.counted(count, 'arrival')} ({name})")
    raise typer.Exit(ask.WRONG if answer["unfit"] else 0)
