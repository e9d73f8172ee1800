"""The commands that change stored rows, in the groups of `listings`.

``replay``, ``redrive`` and ``release`` start deliveries for selected rows, ``cancel`` and ``retry`` change pending
ones. Without ``--yes`` they print what they would change, by reason, and change nothing.
"""

from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

import typer

from usher_gateway.cli import tables
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
    Ids,
    Listener,
    Namespace,
    Reason,
    Route,
    Since,
    Tenant,
    Until,
    Visit,
    fail,
    make_selection,
    parse_moment,
)

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
