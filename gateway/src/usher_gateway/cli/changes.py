"""The commands that change stored rows, in the groups of `listings`.

``redrive`` and ``release`` start deliveries for selected rows, ``cancel`` and ``retry`` change pending ones. Without
``--yes`` they print what they would change, by reason, and change nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

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
from usher_gateway.words import listings
from usher_gateway.words.listings import (
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

Ids = Annotated[list[str] | None, typer.Argument(help="Ids from a listing, or their first digits.", metavar="[ID]...")]
All = Annotated[bool, typer.Option("--all", help="Select every row.")]
Yes = Annotated[
    bool, typer.Option("--yes", help="Do it. Without it, print what would change, by reason, and exit with 2.")
]

_DELIVERY_FILTERS = (*ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS)
_ENDED_STATE = dataclasses.replace(STATE, help="dead or cancelled.", default="dead")
_PENDING_STATE = dataclasses.replace(STATE, help="pending (held ones too) or held.", default="pending")


def select(
    client: AdminClient, group: str, ids: list[str] | None, filters: Mapping[str, str | None], *, everything: bool
) -> Row:
    """Return a request's selection. If it has no more than a state, it needs ``everything``.

    ``group``: what the ids belong to, as in `AdminClient.full_id`.
    """
    selection: Row = {name: value for name, value in filters.items() if value is not None}
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


def _change_command(
    group: str, path: str, *flags: FilterFlag, state: str | None = None
) -> Callable[[Callable[[Row], str]], Callable[..., None]]:
    """Turn a function that returns what an answer says into a command that changes selected rows.

    ``group``: as in `select`. ``flags``: select the rows. ``state``: selects them too.
    """

    def make(words: Callable[[Row], str]) -> Callable[..., None]:
        @with_filters(*flags)
        def command(
            *,
            ids: Ids = None,
            everything: All = False,
            yes: Yes = False,
            output: DocumentOutput = "text",
            admin: Admin = ADMIN,
            data: Data = DATA,
            **filters: str | None,
        ) -> None:
            client = AdminClient(admin, data, operate=True)
            selection = select(client, group, ids, filters, everything=everything) | ({"state": state} if state else {})
            answer = change_selected(client, path, selection, yes=yes, output=output)
            if output == "json":
                tables.print_json(answer)
            else:
                typer.echo(words(answer))
                print_preview({"unfit": answer.get("unfit")})
            raise typer.Exit(WRONG if answer.get("unfit") else 0)

        command.__doc__ = words.__doc__
        return command

    return make


def change_selected(
    client: AdminClient,
    path: str,
    selection: Row,
    *,
    yes: bool,
    output: OutputFormat,
    confirm: str = "give --yes to do it",
) -> Row:
    """Change the selected rows, or replay them, and return the answer; without ``yes`` print a preview and end."""
    if not yes:
        preview = client.post(path, selection | {"dryRun": True})
        print_preview(preview, output)
        count, per_second = preview["selected"], selection.get("perSecond", math.inf)
        verb = "create" if path == "/api/replays" else path.rpartition("/")[2]
        least = "" if preview.get("complete", True) else "at least "
        noun = counted(count, "arrival" if verb == "release" else "delivery")
        duration = f", in {tables.duration(count / per_second)} or more" if count >= per_second else ""
        hint = preview["whyNone"] or (confirm if count else "")
        fail(f"this would {verb} {least}{noun}{duration}", hint, USAGE)
    return dict(client.post(path, selection))


# Preview fields that people read.
_PRINTED = ("reasons", "unfit", "leftOut", "tenants", "destinations")


_SAMPLE_COLUMNS: tuple[listings.Column, ...] = (
    ("RECEIVED (UTC)", listings.short_time_cell("receivedAt")),
    ("VISIT", lambda row: str(row["visit"])[: listings.SHORT_ID]),
    ("RESULT", listings.text_cell("result")),
    ("DESTINATION", listings.text_cell("destination")),
    ("TENANT", listings.text_cell("tenant")),
    ("ROUTE", listings.text_cell("route")),
)


def print_preview(preview: Row, output: OutputFormat = "text") -> None:
    """Print what a change or a replay would do, as the API answers it; for counts by name the highest ones."""
    for warning in preview.get("warnings", ()):
        tables.print_text(warning, err=True)
    if output == "json":
        tables.print_json(preview)
        return
    texts = {name: _counts(preview[name]) for name in _PRINTED if preview.get(name)}
    if facts := {name: text for name, text in texts.items() if text}:
        tables.print_facts(facts)
    if sample := preview.get("sample"):
        typer.echo(f"\nThe newest {len(sample)}:" if len(sample) > 1 else "\nThe newest:")
        tables.print_rows(sample, _SAMPLE_COLUMNS, "text", "")


def _counts(value: Mapping[str, int] | int) -> str:
    if isinstance(value, int):
        return str(value)
    highest_first = sorted(value.items(), key=lambda pair: (-pair[1], pair[0]))
    return named([f"{name} {count}" for name, count in highest_first if count])


@_change_command("deliveries", "/api/deliveries/redrive", *_DELIVERY_FILTERS, _ENDED_STATE, REASON)
def redrive_deliveries(answer: Row) -> str:
    """Make dead (or cancelled) deliveries due again, with all their attempts.

    They keep their ids, so a receiver recognises what it has processed. Deliveries without a stored body, or past
    their time limit, stay as they are.
    """
    return f"Redriven: {counted(answer['redriven'], 'delivery')}."


@_change_command(
    "deliveries", "/api/deliveries/redrive", *ROUTE_FILTERS, *DELIVERY_PERIOD_FILTERS, REASON, state="dead"
)
def redrive_dead(answer: Row) -> str:
    """Make dead deliveries due again, with all their attempts; the same as `usher deliveries redrive`."""
    return f"Redriven: {counted(answer['redriven'], 'delivery')}."


@_change_command("deliveries", "/api/deliveries/cancel", *_DELIVERY_FILTERS, _PENDING_STATE, REASON)
def cancel_deliveries(answer: Row) -> str:
    """Cancel pending deliveries, held ones too, so that they are not sent.

    An attempt that already runs is not interrupted. `usher deliveries redrive --state cancelled` takes it back; a
    filter that had failed is then asked again.
    """
    return f"Cancelled: {counted(answer['cancelled'], 'delivery')}."


@_change_command("deliveries", "/api/deliveries/retry", *_DELIVERY_FILTERS, REASON)
def retry_deliveries(answer: Row) -> str:
    """Make pending deliveries due now instead of at their next retry.

    It does not end a hold. While the circuit of a destination is open, its deliveries still wait for the next trial.
    """
    return f"Due now: {counted(answer['retried'], 'delivery')}."


@_change_command("quarantined arrivals", "/api/quarantine/release", *LISTENER_FILTERS, *PERIOD_FILTERS, REASON)
def release_quarantined(answer: Row) -> str:
    """Read quarantined arrivals again, by the listener as it is now, and deliver those that are visits.

    The rest stays quarantined: the command prints the reasons and exits 1.
    """
    return f"Released: {counted(answer['released'], 'arrival')}, with {counted(answer['deliveries'], 'delivery')}."
