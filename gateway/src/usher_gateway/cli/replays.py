"""``usher visits replay`` and ``usher replays``: deliver stored visits again, and watch that.

The gateway creates the deliveries step by step, so a replay goes on if the command ends or the gateway starts again.
"""

import sys
import time
from typing import Annotated

import typer

from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    LIST_IS_IMPLIED,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    Id,
    ListingGroup,
    OutputOption,
    fail,
    quoted,
    with_filters,
)
from usher_gateway.cli.changes import All, Ids, Yes, change_selected, print_preview, select
from usher_gateway.words import listings, replay_words
from usher_gateway.words.listings import PERIOD_FILTERS, ROUTE_FILTERS, counted

_YesCancel = Annotated[
    bool, typer.Option("--yes", help="Do it. Without it, show what this would end and cancel, and exit with 2.")
]
_Reasons = Annotated[
    list[str] | None,
    typer.Option("--reason", help="Skipped for this reason; for several, use commas or repeat the flag."),
]
_States = Annotated[
    list[str] | None,
    typer.Option("--state", help="delivered, dead or cancelled; for several, use commas or repeat the flag."),
]
_Rate = Annotated[int, typer.Option("--rate", help="Deliveries created per second, at most.", min=1, max=1_000)]
_IgnoreOncePer = Annotated[
    bool, typer.Option("--ignore-once-per", help="Also send what the route's oncePer rule allows no more.")
]
_IgnoreExpiry = Annotated[bool, typer.Option("--ignore-expiry", help="Also send what is past its time limit.")]
_IgnorePause = Annotated[
    bool, typer.Option("--ignore-pause", help="Also send for routes that are paused or in shadow mode now.")
]

_CONFIRM = "give --yes to do it"

_POLL_SECONDS = 1.0
_LINE_SECONDS = 10.0  # Seconds between two lines of progress outside a terminal


def _deliveries(row: listings.Row) -> str:
    return ", ".join([f"{count} {state}" for state, count in row["deliveries"].items()])


_COLUMNS: tuple[listings.Column, ...] = (
    ("STARTED (UTC)", listings.short_time_cell("startedAt")),
    ("ID", listings.short_id_cell),
    ("STATE", listings.text_cell("state")),
    ("SELECTION", replay_words.selection),
    ("CREATED", listings.text_cell("created")),
    ("DELIVERIES", _deliveries),
)


def register(app: typer.Typer) -> None:
    """Add the commands ``usher replays``; `listings` adds ``usher visits replay``."""
    group = typer.Typer(cls=ListingGroup, help="Look at replays; cancel or resume one.", epilog=LIST_IS_IMPLIED)
    group.command("list", epilog="Example:  usher replays list   or   usher replays -o json")(list_replays)
    group.command("show", epilog="Example:  usher replays show 01920000-0000-7000-8")(show_replay)
    group.command("cancel", epilog="Example:  usher replays cancel 01920000-0000-7000-8 --yes")(cancel_replay)
    group.command("resume", epilog="Example:  usher replays resume 01920000-0000-7000-8")(resume_replay)
    app.add_typer(group, name="replays")


@with_filters(*ROUTE_FILTERS, *PERIOD_FILTERS)
def replay_visits(
    *,
    ids: Ids = None,
    reason: _Reasons = None,
    state: _States = None,
    everything: All = False,
    ignore_once_per: _IgnoreOncePer = False,
    ignore_expiry: _IgnoreExpiry = False,
    ignore_pause: _IgnorePause = False,
    rate: _Rate = 20,
    yes: Yes = False,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
    **filters: str | None,
) -> None:
    """Deliver stored visits again, while the body is stored: skipped, delivered, dead or cancelled ones.

    --yes needs --reason (Filter, OncePer, Stale, Repeat, Paused, Shadow) or --state (delivered, dead, cancelled). Each
    new delivery has a new id, the id of its visit, and the header `usher-replay`. The newest visits come first.

    The gateway creates the deliveries at the rate of --rate, and waits while 200 of them are due. With --yes the
    command waits for the end; with -o json it returns at once. A replay goes on if the command ends: `usher replays`.
    """
    client = AdminClient(admin, data, operate=True)
    results = {"reason": _joined(reason), "state": _joined(state)}
    selection = select(client, "visits", ids, filters | {"reason": results["reason"]}, everything=everything)
    if yes and not any(results.values()):
        fail(
            "--yes needs to know what to replay",
            "give, for example, --reason Paused,Filter or --state delivered,cancelled; without --yes, all are counted",
            USAGE,
        )
    question = selection | {name: value for name, value in results.items() if value} | {"perSecond": rate}
    question |= {"ignoreOncePer": ignore_once_per, "ignoreExpiry": ignore_expiry, "ignorePause": ignore_pause}
    replay = change_selected(
        client,
        "/api/replays",
        question,
        yes=yes,
        output=output,
        confirm=_CONFIRM if any(results.values()) else "give --yes, and --reason or --state with what to replay",
    )
    if output == "json":
        tables.print_json(replay)
    else:
        _watch(client, replay)


def _joined(values: list[str] | None) -> str | None:
    names = [name.strip() for value in values or [] for name in value.split(",") if name.strip()]
    return ",".join(names) or None


def _watch(client: AdminClient, replay: listings.Row) -> None:
    """Print a replay's progress until it has created all its deliveries."""
    identifier = replay["id"]
    short = identifier[: listings.SHORT_ID]
    tables.print_text(
        f"Replay {identifier} runs in the gateway. `usher replays cancel {short} --yes` ends it.", err=True
    )
    printed_at = time.monotonic()
    try:
        while replay["state"] == "running":
            time.sleep(_POLL_SECONDS)
            replay = client.get(f"/api/replays/{quoted(identifier)}")
            if sys.stderr.isatty():
                typer.echo(f"\r\x1b[K{_progress(replay)}", nl=False, err=True)
            elif time.monotonic() - printed_at > _LINE_SECONDS:
                printed_at = time.monotonic()
                typer.echo(_progress(replay), err=True)
    except KeyboardInterrupt:
        typer.echo(f"\nThe replay goes on: `usher replays show {short}`.", err=True)
        return
    if sys.stderr.isatty():
        typer.echo("\r\x1b[K", nl=False, err=True)
    print_preview({"leftOut": replay["leftOut"]})
    typer.echo(f"Created: {counted(replay['created'], 'delivery')}{_so_far(replay)}.")
    if replay["created"]:
        typer.echo(f"`usher deliveries list --replay {short}` lists them.", err=True)
    if replay["state"] == "cancelled":
        fail("the replay was cancelled", f"`usher replays resume {short}` lets it go on", WRONG)


def _progress(replay: listings.Row) -> str:
    reached = f"; back to {listings.time_cell('reachedAt')(replay)} UTC" if replay["reachedAt"] else ""
    return f"{counted(replay['created'], 'delivery')} created{_so_far(replay)}{reached}"


def _so_far(replay: listings.Row) -> str:
    return f" ({_deliveries(replay)})" if replay["deliveries"] else ""


def list_replays(output: OutputOption = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """List the newest replays, at most 100, with their deliveries."""
    rows = AdminClient(admin, data).get("/api/replays")["rows"]
    tables.print_rows(rows, _COLUMNS, output, "No replays.", essential=4)


def show_replay(identifier: Id, output: DocumentOutput = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Show one replay: what it selects, how far it is, and what became of its deliveries."""
    client = AdminClient(admin, data)
    _print_replay(client.get(f"/api/replays/{quoted(client.full_id('replays', identifier))}"), output)


def _print_replay(row: listings.Row, output: tables.OutputFormat) -> None:
    if output == "json":
        tables.print_json(row)
    else:
        left_out = {name: count for name, count in row["leftOut"].items() if count}
        tables.print_facts(row | {"leftOut": left_out})


def cancel_replay(
    identifier: Id, yes: _YesCancel = False, output: DocumentOutput = "text", admin: Admin = ADMIN, data: Data = DATA
) -> None:
    """End a replay, and cancel those of its deliveries that wait. An attempt that already runs is not interrupted."""
    client = AdminClient(admin, data, operate=True)
    identifier = client.full_id("replays", identifier)
    row = client.get(f"/api/replays/{quoted(identifier)}")
    if not yes:
        _print_replay(row, output)
        waiting = counted(replay_words.waiting(row), "waiting delivery")
        end = "end the replay, and " if row["state"] == "running" else ""
        fail(f"this would {end}cancel {waiting}", _CONFIRM, USAGE)
    _print_changed(client.post(f"/api/replays/{quoted(identifier)}/cancel", {}), output)


def _state(row: listings.Row) -> str:
    """Return a replay's state, and since when, if it has ended."""
    return f"{row['state']} since {listings.time_cell('endedAt')(row)} UTC" if row["endedAt"] else str(row["state"])


def resume_replay(identifier: Id, output: DocumentOutput = "text", admin: Admin = ADMIN, data: Data = DATA) -> None:
    """Let a cancelled replay go on where it was. Deliveries that were cancelled with it stay cancelled."""
    client = AdminClient(admin, data, operate=True)
    identifier = client.full_id("replays", identifier)
    _print_changed(client.post(f"/api/replays/{quoted(identifier)}/resume", {}), output)


def _print_changed(row: listings.Row, output: tables.OutputFormat) -> None:
    if output == "json":
        tables.print_json(row)
    else:
        tables.print_text(f"Replay {row['id']} is {_state(row)}: {_progress(row)}.")
