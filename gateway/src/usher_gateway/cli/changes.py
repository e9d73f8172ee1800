"""The commands that change stored rows, in the groups of `listings`.

``redrive`` and ``release`` start deliveries for selected rows, ``cancel`` and ``retry`` change pending ones. Without
``--yes`` they print what they would change, by reason, and change nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NoReturn

import typer

from usher_gateway.admin import failures
from usher_gateway.admin.listings import (
    DELIVERY_PERIOD_FILTERS,
    LISTENER_FILTERS,
    PERIOD_FILTERS,
    REASON,
    REPLAY,
    ROUTE_FILTERS,
    STATE,
    VISIT,
    FilterFlag,
    Row,
    counted,
    named,
    time_cell,
)
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    fail,
    with_filters,
)
from usher_gateway.cli.tables import OutputFormat
from usher_gateway.resources import conditions

_Ids = Annotated[list[str] | None, typer.Argument(help="Ids from a listing, or their first digits.", metavar="[ID]...")]
_All = Annotated[bool, typer.Option("--all", help="Select every row.")]
_Yes = Annotated[
    bool, typer.Option("--yes", help="Do it. Without it, print what would change, by reason, and exit with 2.")
]

_ENDED_STATE = dataclasses.replace(STATE, help="dead or cancelled.", default="dead")
_PENDING_STATE = dataclasses.replace(STATE, help="pending (held ones too) or held.", default="pending")
_ENDED, _PENDING = ("dead", "cancelled"), ("pending", "held")  # The states that these flags take

# Why a redrive leaves deliveries out.
_NOT_REDRIVEN = (
    "whose body is deleted, whose time limit is over, whose person is suppressed, or that a replay sent since"
    " (`usher deliveries show ID` says that)"
)

# How to send deliveries again that have ended, by state.
_RESTARTS = {
    "dead": "`usher dead redrive` starts dead ones again.",
    "cancelled": "`usher deliveries redrive --state cancelled` starts cancelled ones again.",
}

_LOOKED_AT = 100  # The newest rows of a selection that are looked at


def select(
    client: AdminClient, group: str, ids: list[str] | None, filters: Mapping[str, str | None], *, everything: bool
) -> dict[str, object]:
    """Return the selection of a request. If it has no more than a state, it needs ``everything``.

    ``group``: what the ids belong to, as in `AdminClient.full_id`.
    """
    selection: dict[str, object] = {name: value for name, value in filters.items() if value is not None}
    for name in ("visit", "replay"):
        if filters.get(name):
            selection[name] = client.full_id(f"{name}s", str(filters[name]))
    if ids:
        selection["ids"] = [client.full_id(group, identifier) for identifier in ids]
    if everything:
        selection["all"] = True
    if not selection.keys() - {"state"}:
        fail("select rows with ids, or with flags like --tenant and --since", "--all selects every row", USAGE)
    return selection


def _check_state(state: str, states: Sequence[str]) -> None:
    """End the command if its change does not select a state."""
    if state.lower() not in states:
        meant = conditions.nearest(state, states)
        hint = f"did you mean `{meant}`?" if meant else f"give {' or '.join(states)}"
        fail(f"this changes no deliveries of the state `{state}`", hint, USAGE)


def _change_command(
    group: str, *flags: FilterFlag, states: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that changes selected rows, with the flags that select them.

    ``group``: as in `select`; ``states``: those that the change selects, if it has a flag for them.
    """

    def make(change: Callable[..., None]) -> Callable[..., None]:
        @with_filters(*flags)
        def command(
            *,
            ids: _Ids = None,
            everything: _All = False,
            yes: _Yes = False,
            output: DocumentOutput = "text",
            admin: Admin = ADMIN,
            data: Data = DATA,
            **filters: str | None,
        ) -> None:
            if states:
                _check_state(str(filters["state"]), states)
            client = AdminClient(admin, data, operate=True)
            change(client, select(client, group, ids, filters, everything=everything), yes=yes, output=output)

        command.__doc__ = change.__doc__
        return command

    return make


def _change(
    client: AdminClient,
    path: str,
    selection: dict[str, object],
    noun: str,
    why_none: Callable[[], str],
    *,
    yes: bool,
    output: OutputFormat,
    sends: bool = False,
) -> dict[str, Any]:
    """Change the selected rows and return the answer; without ``yes`` print what would change, and end the command.

    ``why_none`` says why the selection has no row to change: the hint of such a preview. If the change ``sends``
    deliveries, the command warns of destinations that fail now. An answer that is printed as JSON ends the command too.
    """
    preview = client.post(path, {**selection, "dryRun": True}) if sends or not yes else {}
    if sends:
        warn_of_failing_destinations(client, preview["destinations"])
    group = "quarantined arrivals" if noun == "arrival" else "deliveries"
    print_left_out_ids(client, selection, group)
    if sends and preview["leftOut"]:
        tables.print_text(f"Left out: {counted(preview['leftOut'], 'delivery')} {_NOT_REDRIVEN}.", err=True)
    if not yes:
        if output == "json":
            tables.print_json(preview)
        else:
            _print_reasons(preview["reasons"], noun)
            print_places(preview)
            _print_unfit(preview.get("unfit", {}))
        _end_preview(path.rpartition("/")[2], preview["selected"], noun, why_none)
    answer = dict(client.post(path, selection))
    if output == "json":
        tables.print_json(answer)
        raise typer.Exit(WRONG if answer.get("unfit") else 0)
    return answer


_PATHS = {"deliveries": "/api/deliveries", "visits": "/api/visits", "quarantined arrivals": "/api/quarantine"}


def print_left_out_ids(client: AdminClient, selection: Mapping[str, Any], group: str) -> None:
    """Say which of several ids select nothing: those of no row, and of rows in another state.

    ``group``: as in `select`.
    """
    ids = selection.get("ids", [])
    if not 1 < len(ids) <= _LOOKED_AT:  # why a single one selects nothing is the hint of an empty preview
        return
    rows = newest(client, {"ids": ids}, _PATHS[group])
    unknown = sorted(set(ids) - {row["id"] for row in rows})
    if unknown:
        hint = client.hint_of_other_kind(group, unknown[0])
        tables.print_text(f"Left out: {counted(len(unknown), 'id')} that none of the {group} has. {hint}", err=True)
    state = selection.get("state") if group == "deliveries" else None
    others = {str(row["state"]) for row in rows if state not in {None, row["state"], "held" if row["held"] else ""}}
    if others:
        tables.print_text(f"Left out: those that are not {state}, but {' or '.join(sorted(others))}.", err=True)


def _end_preview(verb: str, count: int, noun: str, why_none: Callable[[], str]) -> NoReturn:
    fail(f"this would {verb} {counted(count, noun)}", "give --yes to do it" if count else why_none(), USAGE)


def _print_reasons(reasons: Mapping[str, int], noun: str) -> None:
    for reason, count in sorted(reasons.items()):
        typer.echo(f"{reason}: {counted(count, noun)}")


def print_places(preview: Mapping[str, Any]) -> None:
    """Print of which tenants and to which destinations the deliveries of a preview are, the most frequent first."""
    tenants = preview.get("tenants", {})
    of_tenants = "Of tenant" if len(tenants) == 1 else "Of tenants"
    for words, places in ((of_tenants, tenants), ("To", preview.get("destinations"))):
        if places:
            most_first = sorted(places.items(), key=lambda place: (-place[1], place[0]))
            tables.print_text(f"{words} {named([f'{name} ({count})' for name, count in most_first])}.")


def warn_of_failing_destinations(client: AdminClient, deliveries: Mapping[str, int]) -> None:
    """Name on standard error the destinations that fail now, and what that means (`failures.warnings`)."""
    rows = client.get("/api/destinations")["rows"] if deliveries else []
    for warning in failures.warnings(rows, deliveries):
        tables.print_text(warning, err=True)


def _why_none_is_redriven(client: AdminClient, selection: dict[str, object]) -> str:
    """Return why a redrive changes nothing, from the newest of the selected deliveries."""
    if newest(client, selection):
        return f"The {selection['state']} ones stay as they are."
    return _without_state(client, selection)


def _without_state(client: AdminClient, selection: dict[str, object]) -> str:
    """Return that no selected delivery has the state that a change selects, and which states the newest have."""
    others = {name: value for name, value in selection.items() if name != "state"}
    rows = newest(client, others)
    if not rows:
        ids = selection.get("ids")
        other_kind = client.hint_of_other_kind("deliveries", ids[0]) if isinstance(ids, list) else ""
        return f"The selection has no delivery. {other_kind}".rstrip()
    states = {str(row["state"]) for row in rows if not row["held"]}
    results = ", ".join(sorted(states | {f"held {row['held']}" for row in rows if row["held"]}))
    restarts = "".join([f" {text}" for state, text in _RESTARTS.items() if state in states])
    return f"None of them is {selection['state']}; the newest are: {results}.{restarts}"


def _why_none_is_retried(client: AdminClient, selection: dict[str, object]) -> str:
    """Return what is to do instead, from the newest of the selected deliveries that are pending."""
    pending = newest(client, selection | {"state": "pending"})
    held = sorted({str(row["held"]) for row in pending if row["held"]})
    if not pending:
        return _without_state(client, selection | {"state": "pending"})
    # None is due later than now, so all rows of a destination have the time of its next trial.
    trials = {row["destination"]: row for row in pending if row["waitsFor"] == "CircuitOpen"}
    sentences = [
        f"The circuit of {destination} is open: its next trial is at {time_cell('nextAttemptAt')(row)} UTC, and a retry"
        " does not hasten it."
        for destination, row in sorted(trials.items())
    ]
    if any(not row["held"] and row["destination"] not in trials for row in pending):
        sentences.append(
            "None waits for a later time: those that are due start as soon as their destination takes them. "
            "`usher deliveries --state pending` lists them."
        )
    if held:
        who = "Others" if sentences else "They"
        sentences.append(
            f"{who} are held ({', '.join(held)}), and a retry does not end that: `usher deliveries show ID` says what "
            "does."
        )
    return " ".join(sentences)


def _why_none_is_released(client: AdminClient, selection: dict[str, object]) -> str:
    """Return why a release changes nothing; counts of arrivals that are still no visits are printed already."""
    if not newest(client, selection, "/api/quarantine"):
        return "The selection has nothing in quarantine. `usher quarantine list` has the ids."
    return (
        "Only unreleased arrivals whose body is a visit now can be released: `usher quarantine show ID` says why one"
        " is not."
    )


def newest(client: AdminClient, selection: Mapping[str, object], path: str = "/api/deliveries") -> list[Row]:
    """Return the newest of the rows that a selection has."""
    filters = {name: str(value) for name, value in selection.items() if name not in {"ids", "all"}}
    ids = selection.get("ids")
    if isinstance(ids, list):
        filters["id"] = ",".join(ids[:_LOOKED_AT])
    rows: list[Row] = client.get(path, limit=_LOOKED_AT, **filters)["rows"]
    return rows


def _print_unfit(unfit: Mapping[str, int]) -> None:
    for reason, count in sorted(unfit.items()):
        typer.echo(f"Still no visit: {counted(count, 'arrival')} ({reason})")


def _print_changed(result: str, count: int, why_none: Callable[[], str]) -> None:
    typer.echo(f"{result}: {counted(count, 'delivery')}.")
    if not count:
        tables.print_text(why_none())


@_change_command(
    "deliveries", *ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, _ENDED_STATE, REASON, states=_ENDED
)
def redrive_deliveries(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Make dead (or cancelled) deliveries due again, with all their attempts.

    They keep their ids, so a receiver recognises what it has processed. Deliveries without a stored body, or past
    their time limit, stay as they are.
    """
    _redrive(client, selection, yes=yes, output=output)


@_change_command("deliveries", *ROUTE_FILTERS, *DELIVERY_PERIOD_FILTERS, REASON)
def redrive_dead(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Make dead deliveries due again, with all their attempts; the same as `usher deliveries redrive`."""
    _redrive(client, selection | {"state": "dead"}, yes=yes, output=output)


def _redrive(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    why_none = functools.partial(_why_none_is_redriven, client, selection)
    path = "/api/deliveries/redrive"
    answer = _change(client, path, selection, "delivery", why_none, yes=yes, output=output, sends=True)
    _print_changed("Redriven", answer["redriven"], why_none)
    others = {name: value for name, value in selection.items() if name != "reason"}
    held = (
        sorted({str(row["held"]) for row in newest(client, others | {"state": "held"})}) if answer["redriven"] else []
    )
    if held:
        tables.print_text(
            f"Deliveries of the selection are held ({', '.join(held)}): `usher deliveries --state held` lists them.",
            err=True,
        )


@_change_command(
    "deliveries", *ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, _PENDING_STATE, REASON, states=_PENDING
)
def cancel_deliveries(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Cancel pending deliveries, held ones too, so that they are not sent.

    An attempt that already runs is not interrupted. `usher deliveries redrive --state cancelled` takes it back; a
    filter that had failed is then asked again.
    """
    why_none = functools.partial(_without_state, client, selection)
    answer = _change(client, "/api/deliveries/cancel", selection, "delivery", why_none, yes=yes, output=output)
    _print_changed("Cancelled", answer["cancelled"], why_none)


@_change_command("deliveries", *ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, REASON)
def retry_deliveries(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Make pending deliveries due now instead of at their next retry.

    It does not end a hold. While the circuit of a destination is open, its deliveries still wait for the next trial.
    """
    why_none = functools.partial(_why_none_is_retried, client, selection)
    pending = newest(client, selection | {"state": "pending"})  # most of them are not counted, because they are due
    warn_of_failing_destinations(client, {row["destination"]: 0 for row in pending})
    answer = _change(client, "/api/deliveries/retry", selection, "delivery", why_none, yes=yes, output=output)
    _print_changed("Due now", answer["retried"], why_none)


@_change_command("quarantined arrivals", *LISTENER_FILTERS, *PERIOD_FILTERS, REASON)
def release_quarantined(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Read quarantined arrivals again, by the listener as it is now, and deliver those that are visits.

    The rest stays quarantined: the command prints the reasons and exits 1.
    """
    why_none = functools.partial(_why_none_is_released, client, selection)
    answer = _change(client, "/api/quarantine/release", selection, "arrival", why_none, yes=yes, output=output)
    typer.echo(f"Released: {counted(answer['released'], 'arrival')}, with {counted(answer['deliveries'], 'delivery')}.")
    _print_unfit(answer["unfit"])
    if not answer["released"] or answer["unfit"]:
        tables.print_text(why_none())
    raise typer.Exit(WRONG if answer["unfit"] else 0)
