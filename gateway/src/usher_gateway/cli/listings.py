"""The commands over stored rows: ``usher visits``, ``deliveries``, ``dead`` and ``quarantine``.

Each group lists rows and shows one row. ``replay``, ``redrive`` and ``release`` start deliveries for selected rows,
``cancel`` and ``retry`` change pending ones. Without ``--yes``, these five print what they would change, by reason, and
change nothing.
"""

import sys
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer

from usher_gateway.cli import check_body, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    All,
    Data,
    Destination,
    Id,
    Ids,
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
    make_selection,
    parse_moment,
    quoted,
)

_CountedAs = Annotated[str | None, typer.Option(help="visit, repeat, redelivery or quarantined.")]
_Body = Annotated[bool, typer.Option("--body", help="Print only the body, as it was received.")]
_Answer = Annotated[bool, typer.Option("--answer", help="Print only the destination's last answer.")]
_DeliveryState = Annotated[str | None, typer.Option(help="pending, held, delivered, dead or cancelled.")]
_PendingState = Annotated[str, typer.Option(help="pending (held ones too) or held.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do it. Without it, print what would change, by reason.")]
_IgnoreOncePer = Annotated[
    bool, typer.Option("--ignore-once-per", help="Also send what the route's oncePer rule allows no more.")
]
_SkipReasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="For this skip reason; for several, use commas or repeat the flag.", metavar="<str>"),
]
_EndedState = Annotated[str, typer.Option(help="dead or cancelled.")]
_QuarantineState = Annotated[str | None, typer.Option(help="released or unreleased.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dead = typer.Typer(no_args_is_help=True, help="Look at dead deliveries; redrive them.")
    dead.command("list", epilog=_DEAD_LIST_EXAMPLE)(list_dead)
    dead.command("show", epilog="Example:  usher dead show 01920000-0000-7000-8000-000000000002 --answer")(show_dead)
    dead.command(
        "redrive",
        epilog="Example:  usher dead redrive --destination agency/crm --yes   or   usher dead redrive ID --yes",
    )(redrive_dead)
    app.add_typer(dead, name="dead")

    deliveries = typer.Typer(no_args_is_help=True, help="Look at deliveries; redrive, cancel or retry them.")
    deliveries.command("list", epilog=_DELIVERIES_LIST_EXAMPLE)(list_deliveries)
    deliveries.command("show", epilog="Example:  usher deliveries show 01920000-0000-7000-8000-000000000002")(
        show_delivery
    )
    deliveries.command(
        "redrive", epilog="Example:  usher deliveries redrive --destination agency/crm --since 2026-11-24 --yes"
    )(redrive_deliveries)
    deliveries.command(
        "cancel", epilog="Example:  usher deliveries cancel --destination agency/crm --state held --yes"
    )(cancel_deliveries)
    deliveries.command("retry", epilog="Example:  usher deliveries retry --destination agency/crm --yes")(
        retry_deliveries
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
        release_quarantined
    )
    app.add_typer(quarantine, name="quarantine")

    visits = typer.Typer(no_args_is_help=True, help="Look at arrivals and their verdicts; replay skipped ones.")
    visits.command("list", epilog=_VISITS_LIST_EXAMPLE)(list_visits)
    visits.command("show", epilog="Example:  usher visits show 01920000-0000-7000-8000-000000000001 --body")(show_visit)
    visits.command(
        "replay",
        epilog="Example:  usher visits replay --tenant acme --route welcome --reason Paused --since 2026-11-24 --yes",
    )(replay_visits)
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
    ("VERDICTS", lambda row: ", ".join([_verdict(one) for one in row["verdicts"]])),
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
    found = client.get(f"/api/visits/{quoted(identifier)}/reading")
    if output != "text":
        _print_row(row | {"reading": found["reading"]}, output)
        return
    _print_row(row, output)
    check_body.print_stored(found["reading"], found["reason"])


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


_NOTHING_TO_CANCEL = "No selected delivery is {state}: `usher deliveries list` shows their states."
_NOTHING_TO_REDRIVE = "No selected delivery is {state} and still has its body{other}."
_NOTHING_TO_RELEASE = (
    "There was nothing to release: Truncated and Unstorable arrivals cannot be, released ones stay so."
)
_NOTHING_TO_REPLAY = "The selection has no skipped verdict to replay."
_NOTHING_TO_RETRY = "None waits for a later retry: `usher deliveries list` shows which are held, due or not pending."


def _change(
    client: AdminClient, path: str, selection: dict[str, object], verb: str, noun: str, nothing: str, *, yes: bool
) -> dict[str, Any]:
    """Change the selected rows and return the answer; without ``yes`` print what would change, and end the command.

    ``nothing`` says why the selection has no row to change: the hint of such a preview.
    """
    if not yes:
        preview = client.post(path, {**selection, "dryRun": True})
        _print_reasons(preview["reasons"], noun)
        _print_unfit(preview.get("unfit", {}))
        _end_preview(verb, preview["selected"], noun, nothing)
    return dict(client.post(path, selection))


def _end_preview(verb: str, count: int, noun: str, nothing: str, hint: str = "give --yes to do it") -> NoReturn:
    fail(f"this would {verb} {tables.counted(count, noun)}", hint if count else nothing, USAGE)


def _print_reasons(reasons: Mapping[str, int], noun: str) -> None:
    for reason, count in sorted(reasons.items()):
        typer.echo(f"{reason}: {tables.counted(count, noun)}")


def _print_unfit(unfit: Mapping[str, int]) -> None:
    for reason, count in sorted(unfit.items()):
        typer.echo(f"Still no visit: {tables.counted(count, 'arrival')} ({reason})")


def replay_visits(
    *,
    ids: Ids = None,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    since: Since = None,
    until: Until = None,
    reason: _SkipReasons = None,
    everything: All = False,
    ignore_once_per: _IgnoreOncePer = False,
    yes: _Yes = False,
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Deliver what routes skipped: each skipped verdict once, while its body is stored.

    --yes needs --reason: Filter, OncePer, Stale, Repeat, Paused or Shadow. A route's time limit
    does not count, but its oncePer rule does.
    """
    reasons = [name.strip() for names in reason or [] for name in names.split(",")]
    selection = make_selection(
        ids,
        everything=everything,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=",".join(reasons) if reasons else None,
    )
    client = AdminClient(admin, data, operate=True)
    if yes and not reasons:
        fail(
            "--yes needs the skip reasons to replay",
            "name them, such as --reason Paused,Filter; without --yes the command counts them",
            USAGE,
        )
    path = "/api/visits/replay"
    answer = client.post(path, selection | {"dryRun": not yes, "ignoreOncePer": ignore_once_per})
    if yes:
        typer.echo(f"Created from skipped verdicts: {tables.counted(answer['replayed'], 'delivery')}.")
    else:
        _print_reasons(answer["reasons"], "delivery")
    if answer["replayedBefore"]:
        typer.echo(f"Replayed before, so not again: {tables.counted(answer['replayedBefore'], 'verdict')}.")
    if answer["oncePer"]:
        typer.echo(f"Left out by oncePer (--ignore-once-per): {tables.counted(answer['oncePer'], 'verdict')}.")
    if answer["withoutBody"]:
        typer.echo(f"Not possible any more, because the body was deleted: {answer['withoutBody']}.")
    if not yes:
        hint = "give --yes to do it" if reasons else "give --yes, and --reason with those to replay"
        _end_preview("create", answer["selected"], "delivery", _NOTHING_TO_REPLAY, hint)
    if not any(answer.values()):
        typer.echo(_NOTHING_TO_REPLAY)


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


def redrive_deliveries(
    *,
    ids: Ids = None,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    visit: Visit = None,
    since: Since = None,
    until: Until = None,
    state: _EndedState = "dead",
    reason: Reason = None,
    everything: All = False,
    yes: _Yes = False,
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Make dead (or cancelled) deliveries due again, with all their attempts.

    They keep their ids, so a receiver recognises what it has processed. Deliveries without a stored body, or past
    their time limit, stay as they are.
    """
    selection = make_selection(
        ids,
        everything=everything,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        visit=visit,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=reason,
    )
    selection["state"] = state
    client = AdminClient(admin, data, operate=True)
    other = "; `--state cancelled` selects cancelled ones" if state == "dead" else ""
    nothing = _NOTHING_TO_REDRIVE.format(state=state, other=other)
    answer = _change(client, "/api/deliveries/redrive", selection, "redrive", "delivery", nothing, yes=yes)
    typer.echo(f"Due again: {tables.counted(answer['redriven'], 'delivery')}.")
    if not answer["redriven"]:
        typer.echo(nothing)


def cancel_deliveries(
    *,
    ids: Ids = None,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    visit: Visit = None,
    since: Since = None,
    until: Until = None,
    state: _PendingState = "pending",
    reason: Reason = None,
    everything: All = False,
    yes: _Yes = False,
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Cancel pending deliveries, held ones too, so that they are not sent.

    An attempt that already runs is not interrupted. `usher deliveries redrive --state cancelled` takes it back.
    """
    selection = make_selection(
        ids,
        everything=everything,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        visit=visit,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=reason,
    )
    selection["state"] = state
    client = AdminClient(admin, data, operate=True)
    nothing = _NOTHING_TO_CANCEL.format(state=state)
    answer = _change(client, "/api/deliveries/cancel", selection, "cancel", "delivery", nothing, yes=yes)
    typer.echo(f"Cancelled: {tables.counted(answer['cancelled'], 'delivery')}.")
    if not answer["cancelled"]:
        typer.echo(nothing)


def retry_deliveries(
    *,
    ids: Ids = None,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    visit: Visit = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    everything: All = False,
    yes: _Yes = False,
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Make pending deliveries due now instead of at their next retry.

    It does not end a hold. While the circuit of a destination is open, its deliveries still wait for the next trial.
    """
    selection = make_selection(
        ids,
        everything=everything,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        visit=visit,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=reason,
    )
    client = AdminClient(admin, data, operate=True)
    answer = _change(client, "/api/deliveries/retry", selection, "retry", "delivery", _NOTHING_TO_RETRY, yes=yes)
    typer.echo(f"Due now: {tables.counted(answer['retried'], 'delivery')}.")
    if not answer["retried"]:
        typer.echo(_NOTHING_TO_RETRY)


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


def redrive_dead(
    *,
    ids: Ids = None,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    route: Route = None,
    destination: Destination = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    everything: All = False,
    yes: _Yes = False,
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Make dead deliveries due again, with all their attempts; the same as `usher deliveries redrive`."""
    redrive_deliveries(
        ids=ids,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        route=route,
        destination=destination,
        since=since,
        until=until,
        reason=reason,
        everything=everything,
        yes=yes,
        admin=admin,
        data=data,
    )


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


def release_quarantined(
    *,
    ids: Ids = None,
    namespace: Namespace = None,
    tenant: Tenant = None,
    listener: Listener = None,
    since: Since = None,
    until: Until = None,
    reason: Reason = None,
    everything: All = False,
    yes: _Yes = False,
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Read quarantined arrivals again, by the listener as it is now, and deliver those that are visits.

    The rest stays quarantined: the command prints the reasons and exits 1.
    """
    selection = make_selection(
        ids,
        everything=everything,
        namespace=namespace,
        tenant=tenant,
        listener=listener,
        since=parse_moment(since),
        until=parse_moment(until),
        reason=reason,
    )
    client = AdminClient(admin, data, operate=True)
    answer = _change(client, "/api/quarantine/release", selection, "release", "arrival", _NOTHING_TO_RELEASE, yes=yes)
    typer.echo(
        f"Released: {tables.counted(answer['released'], 'arrival')},"
        f" with {tables.counted(answer['deliveries'], 'delivery')}."
    )
    if not answer["released"] and not answer["unfit"]:
        typer.echo(_NOTHING_TO_RELEASE)
    _print_unfit(answer["unfit"])
    raise typer.Exit(WRONG if answer["unfit"] else 0)
