"""The commands that change stored rows, in the groups of `listings`.

``redrive`` and ``release`` start deliveries for selected rows, ``cancel`` and ``retry`` change pending ones. Without
``--yes`` they print what they would change, by reason, and change nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

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

_Ids = Annotated[list[str] | None, typer.Argument(help="Ids from a listing, or their first digits.", metavar="[ID]...")]
_All = Annotated[bool, typer.Option("--all", help="Select every row.")]
_Yes = Annotated[
    bool, typer.Option("--yes", help="Do it. Without it, print what would change, by reason, and exit with 2.")
]

_ENDED_STATE = dataclasses.replace(STATE, help="dead or cancelled.", default="dead")
_PENDING_STATE = dataclasses.replace(STATE, help="pending (held ones too) or held.", default="pending")


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


def _change_command(group: str, *flags: FilterFlag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function that changes selected rows, with the flags that select them.

    ``group``: as in `select`.
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
    *,
    yes: bool,
    output: OutputFormat,
) -> dict[str, Any]:
    """Change the selected rows and return the answer.

    The command ends after an answer that is printed as JSON, and without ``yes``, when it prints what would change.
    """
    if not yes:
        preview = client.post(path, {**selection, "dryRun": True})
        print_preview(preview, output)
        verb, count = path.rpartition("/")[2], preview["selected"]
        hint = preview["whyNone"] or ("give --yes to do it" if count else "")
        fail(f"this would {verb} {counted(count, noun)}", hint, USAGE)
    answer = dict(client.post(path, selection))
    if output == "json":
        tables.print_json(answer)
        raise typer.Exit(WRONG if answer.get("unfit") else 0)
    return answer


# Fields of a preview that people read.
_PRINTED = ("reasons", "unfit", "leftOut", "tenants", "destinations")


def print_preview(preview: Row, output: OutputFormat = "text") -> None:
    """Print what a change would do, as the API answers it; of counts by name the highest ones."""
    for warning in preview.get("warnings", ()):
        tables.print_text(warning, err=True)
    if output == "json":
        tables.print_json(preview)
        return
    texts = {name: _counts(preview[name]) for name in _PRINTED if preview.get(name)}
    if facts := {name: text for name, text in texts.items() if text}:
        tables.print_facts(facts)


def _counts(value: Mapping[str, int] | int) -> str:
    if isinstance(value, int):
        return str(value)
    highest_first = sorted(value.items(), key=lambda pair: (-pair[1], pair[0]))
    return named([f"{name} {count}" for name, count in highest_first if count])


@_change_command("deliveries", *ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, _ENDED_STATE, REASON)
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
    answer = _change(client, "/api/deliveries/redrive", selection, "delivery", yes=yes, output=output)
    typer.echo(f"Redriven: {counted(answer['redriven'], 'delivery')}.")


@_change_command("deliveries", *ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, _PENDING_STATE, REASON)
def cancel_deliveries(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Cancel pending deliveries, held ones too, so that they are not sent.

    An attempt that already runs is not interrupted. `usher deliveries redrive --state cancelled` takes it back; a
    filter that had failed is then asked again.
    """
    answer = _change(client, "/api/deliveries/cancel", selection, "delivery", yes=yes, output=output)
    typer.echo(f"Cancelled: {counted(answer['cancelled'], 'delivery')}.")


@_change_command("deliveries", *ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, REASON)
def retry_deliveries(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Make pending deliveries due now instead of at their next retry.

    It does not end a hold. While the circuit of a destination is open, its deliveries still wait for the next trial.
    """
    answer = _change(client, "/api/deliveries/retry", selection, "delivery", yes=yes, output=output)
    typer.echo(f"Due now: {counted(answer['retried'], 'delivery')}.")


@_change_command("quarantined arrivals", *LISTENER_FILTERS, *PERIOD_FILTERS, REASON)
def release_quarantined(client: AdminClient, selection: dict[str, object], *, yes: bool, output: OutputFormat) -> None:
    """Read quarantined arrivals again, by the listener as it is now, and deliver those that are visits.

    The rest stays quarantined: the command prints the reasons and exits 1.
    """
    answer = _change(client, "/api/quarantine/release", selection, "arrival", yes=yes, output=output)
    typer.echo(f"Released: {counted(answer['released'], 'arrival')}, with {counted(answer['deliveries'], 'delivery')}.")
    print_preview({"unfit": answer["unfit"]})
    raise typer.Exit(WRONG if answer["unfit"] else 0)
