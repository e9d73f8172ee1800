"""The commands over stored rows: ``usher visits``, ``deliveries``, ``dead`` and ``quarantine``.

Each group lists rows and shows one row; `changes` has the commands that change rows.
"""

import sys
from typing import Annotated

import typer

from usher_gateway.cli import changes, check_body, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    WRONG,
    Admin,
    AdminClient,
    Data,
    Destination,
    Id,
    Limit,
    Listener,
    Namespace,
    OutputOption,
    Reason,
    Route,
    Since,
    Tenant,
    Until,
    Visit,
    fail,
    parse_moment,
    quoted,
)

_CountedAs = Annotated[str | None, typer.Option(help="visit, repeat, redelivery or quarantined.")]
_Body = Annotated[bool, typer.Option("--body", help="Print only the body, as it was received.")]
_Answer = Annotated[bool, typer.Option("--answer", help="Print only the destination's last answer.")]
_DeliveryState = Annotated[str | None, typer.Option(help="pending, held, delivered, dead or cancelled.")]
_QuarantineState = Annotated[str | None, typer.Option(help="released or unreleased.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dead = typer.Typer(no_args_is_help=True, help="Look at dead deliveries; redrive them.")
    dead.command("list", epilog=_DEAD_LIST_EXAMPLE)(list_dead)
    dead.command("show", epilog="Example:  usher dead show 01920000-0000-7000-8000-000000000002 --answer")(show_dead)
    dead.command(
        "redrive",
        epilog="Example:  usher dead redrive --destination agency/crm --yes   or   usher dead redrive ID --yes",
    )(changes.redrive_dead)
    app.add_typer(dead, name="dead")

    deliveries = typer.Typer(no_args_is_help=True, help="Look at deliveries; redrive, cancel or retry them.")
    deliveries.command("list", epilog=_DELIVERIES_LIST_EXAMPLE)(list_deliveries)
    deliveries.command("show", epilog="Example:  usher deliveries show 01920000-0000-7000-8000-000000000002")(
        show_delivery
    )
    deliveries.command(
        "redrive", epilog="Example:  usher deliveries redrive --destination agency/crm --since 2026-11-24 --yes"
    )(changes.redrive_deliveries)
    deliveries.command(
        "cancel", epilog="Example:  usher deliveries cancel --destination agency/crm --state held --yes"
    )(changes.cancel_deliveries)
    deliveries.command("retry", epilog="Example:  usher deliveries retry --destination agency/crm --yes")(
        changes.retry_deliveries
    )
    app.add_typer(deliveries, name="deliveries")

    quarantine = typer.Typer(
        no_args_is_help=True, help="Look at quarantined arrivals; release those that are visits now."
    )
    quarantine.command(
        "list", epilog="Example:  usher quarantine list --tenant acme --reason NoUser --state unreleased"
    )(list_quarantined)
    quarantine.command("show", epilog="Example:  usher quarantine show 01920000-0000-7000-8000-000000000001 --body")(
        show_visit
    )
    quarantine.command("release", epilog="Example:  usher quarantine release --listener lobby --reason NoUser --yes")(
        changes.release_quarantined
    )
    app.add_typer(quarantine, name="quarantine")

    visits = typer.Typer(no_args_is_help=True, help="Look at arrivals and their verdicts; replay skipped ones.")
    visits.command("list", epilog=_VISITS_LIST_EXAMPLE)(list_visits)
    visits.command("show", epilog="Example:  usher visits show 01920000-0000-7000-8000-000000000001 --body")(show_visit)
    visits.command(
        "replay",
        epilog="Example:  usher visits replay --tenant acme --route welcome --reason Paused --since 2026-11-24 --yes",
    )(changes.replay_visits)
    app.add_typer(visits, name="visits")


_DEAD_LIST_EXAMPLE = (
    "Example:  usher dead list --destination agency/crm --since 1d   or   usher dead list -o csv > dead.csv"
)
_DELIVERIES_LIST_EXAMPLE = (
    "Example:  usher deliveries list --state held   or   usher deliveries list --destination agency/crm --since 1d"
)
_VISITS_LIST_EXAMPLE = (
    "Example:  usher visits list --tenant acme --since 2h   or   usher visits list --reason Filter -o json"
)


def _listener_of(row: tables.Row) -> str:
    return f"{row['namespace']}/{row['tenant']}/{row['listener']}"


def _verdict(verdict: tables.Row) -> str:
    """Return a verdict's route and result."""
    skipped = f"skipped {verdict['skipped']}" if "skipped" in verdict else ""
    if skipped and "replayed" not in verdict:
        return f"{verdict['route']}: {skipped}"
    held = f" held {verdict['held']}" if verdict.get("held") else ""
    replayed = f"{skipped}, replayed: " if skipped else ""
    return f"{verdict['route']}: {replayed}{verdict.get('state', 'gone')}{held}"


VISIT_COLUMNS: tuple[tables.Column, ...] = (
    ("RECEIVED", tables.time_cell("receivedAt")),
    ("ID", tables.text_cell("id")),
    ("LISTENER", _listener_of),
    ("COUNTED AS", lambda row: f"{row['countedAs']}{' late' if row['late'] else ''}"),
    ("REASON", lambda row: f"{row['reason'] or ''}{' released' if row['released'] else ''}"),
    ("VERDICTS", lambda row: ", ".join([_verdict(verdict) for verdict in row["verdicts"]])),
)


def list_visits(
    *,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    since: Since = None,
    until: Until = None,
    counted_as: _CountedAs = None,
    reason: Reason = None,
    limit: Limit = 50,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List arrivals, newest first, with the verdict of each route.

    --reason is a skip reason (Filter, OncePer, Stale, Repeat, Paused, Shadow) or a quarantine reason.
    """
    rows = AdminClient(admin, data).rows(
        "/api/visits",
        limit,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        since=parse_moment(since),
        until=parse_moment(until),
        countedAs=counted_as,
        reason=reason,
    )
    tables.print_rows(rows, VISIT_COLUMNS, output, "No such visits.")


def show_visit(
    identifier: Id,
    body: _Body = False,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Show one arrival, and how Usher reads its body, without personal values.

    The body itself is personal data: --body needs the operate token, and the audit log records it.
    """
    client = AdminClient(admin, data, operate=body)
    if body:
        sys.stdout.buffer.write(client.get_bytes(f"/api/visits/{quoted(identifier)}/body"))
        return
    row = _find_row(client, "visits", identifier)
    answer = client.get(f"/api/visits/{quoted(identifier)}/reading")
    if output != "text":
        _print_row(row | {"reading": answer["reading"]}, output)
        return
    _print_row(row, output)
    check_body.print_stored(answer["reading"], answer["reason"])


def _find_row(client: AdminClient, group: str, identifier: str) -> tables.Row:
    """Return a row of ``usher visits`` or ``usher deliveries``."""
    rows = client.rows(f"/api/{group}", 1, id=identifier)
    if not rows:
        fail(f"there is no {identifier} among the {group}", f"use an id from `usher {group} list`", WRONG)
    return rows[0]


def _print_row(row: tables.Row, output: tables.OutputFormat) -> None:
    if output == "text":
        tables.print_facts(row)
    else:
        tables.print_rows([row], [(name, tables.text_cell(name)) for name in row], output, "")


def _why(row: tables.Row) -> str:
    """Return why a delivery is not delivered, and when it is due.

    A delivery that stays due waits for an open circuit, or for room in its destination's lane.
    """
    reasons = [str(row[name]) for name in ("cancelled", "error", "status") if row[name]]
    due = [f"due {tables.time_cell('dueAt')(row)}"] if row.get("dueAt") else []
    return " ".join([*reasons, *due])


DELIVERY_COLUMNS: tuple[tables.Column, ...] = (
    ("CREATED", tables.time_cell("createdAt")),
    ("ID", tables.text_cell("id")),
    ("LISTENER", _listener_of),
    ("ROUTE", tables.text_cell("route")),
    ("DESTINATION", tables.text_cell("destination")),
    ("STATE", lambda row: f"{row['state']}{' held: ' + row['held'] if row['held'] else ''}"),
    ("WHY", _why),
    ("ATTEMPTS", lambda row: tables.counted(row["attempts"], "attempt")),
)

_DELIVERY_CSV_COLUMNS = (*DELIVERY_COLUMNS[:-1], ("ATTEMPTS", tables.text_cell("attempts")))


def list_deliveries(
    *,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    visit: Visit = None,
    since: Since = None,
    until: Until = None,
    state: _DeliveryState = None,
    reason: Reason = None,
    limit: Limit = 50,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List deliveries, newest first.

    --reason is a hold reason (DestinationPaused ...), a cancel reason (Expired ...), or an error's code (Timeout ...).
    """
    rows = AdminClient(admin, data).rows(
        "/api/deliveries",
        limit,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        visit=visit,
        since=parse_moment(since),
        until=parse_moment(until),
        state=state,
        reason=reason,
    )
    tables.print_rows(rows, DELIVERY_COLUMNS, output, "No such deliveries.", _DELIVERY_CSV_COLUMNS)


def show_delivery(identifier: Id, output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Show one delivery with its last 10 attempts."""
    _show_delivery(AdminClient(admin, data), identifier, output)


def _show_delivery(client: AdminClient, identifier: str, output: tables.OutputFormat) -> None:
    """Print every field of a delivery, and its last attempts, the oldest first."""
    row = _find_row(client, "deliveries", identifier)
    row["lastAttempts"] = client.get(f"/api/deliveries/{quoted(identifier)}/attempts")["rows"]
    _print_row(row, output)
    if row["held"] and output == "text":
        typer.echo(f"\nIt waits, and a retry does not send it: docs/reasons.md says what ends the hold {row['held']}.")


def list_dead(
    *,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    limit: Limit = 50,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List dead deliveries, newest first. --reason is an error's code."""
    rows = AdminClient(admin, data).rows(
        "/api/deliveries",
        limit,
        state="dead",
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=reason,
    )
    tables.print_rows(rows, DELIVERY_COLUMNS, output, "No dead deliveries.", _DELIVERY_CSV_COLUMNS)


def show_dead(
    identifier: Id,
    answer: _Answer = False,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Show one dead delivery.

    The destination's answer may be personal data: --answer needs the operate token, and the audit log records it.
    """
    client = AdminClient(admin, data, operate=answer)
    if answer:
        sys.stdout.buffer.write(client.get_bytes(f"/api/deliveries/{quoted(identifier)}/answer"))
        return
    _show_delivery(client, identifier, output)


def list_quarantined(
    *,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    state: _QuarantineState = None,
    limit: Limit = 50,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """List quarantined arrivals, newest first. --reason: NotJSON, NotObject, NoUser, Truncated, CompanyMismatch ..."""
    rows = AdminClient(admin, data).rows(
        "/api/quarantine",
        limit,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=reason,
        state=state,
    )
    tables.print_rows(rows, VISIT_COLUMNS, output, "Nothing is quarantined.")
