"""``usher destinations``: the destinations that a gateway sends to, and a sample for one."""

import datetime
import pathlib
from typing import Annotated

import typer

from usher_gateway.cli import overview, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    LIST_IS_IMPLIED,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    ListingGroup,
)
from usher_gateway.words import listings, states


def register(app: typer.Typer) -> None:
    """Add the commands."""
    text = "Look at destinations; send a marked sample to one."
    destinations = typer.Typer(cls=ListingGroup, help=text, epilog=LIST_IS_IMPLIED)
    example = "Example:  usher destinations list --failing   or   usher destinations -o json"
    destinations.command("list", epilog=example)(overview.list_command(_DESTINATIONS))
    destinations.command(
        "test",
        epilog="Example:  usher destinations test agency/crm   or   usher destinations test agency/crm --body my.json",
    )(send_sample)
    app.add_typer(destinations, name="destinations")


def is_destination_failing(row: listings.Row) -> bool:
    """Return whether a destination does not take deliveries as it should."""
    return _is_not_taking(row) or bool(row["dead"])


def _is_not_taking(row: listings.Row) -> bool:
    """Return whether attempts at a destination fail or cannot be made, also because it is not in force."""
    return row.get("health") not in states.NOT_FAILING


def _short_error(row: listings.Row) -> str:
    """Return what keeps a destination from taking deliveries, in few characters."""
    last = row.get("lastError")
    if row.get("unresolved") or not last:
        return str(row.get("unresolved") or "")
    recovered = " (recovered)" if last["recoveredAt"] else ""
    return f"{listings.error_words(last)}{recovered}"


def trouble(row: listings.Row) -> str:
    """Return what is wrong with a destination and since when, the next attempt, and what waits for it."""
    failing = f"{_health(row)} {_short_error(row)} for {_failing_for(row) or '0s'}" if _is_not_taking(row) else ""
    next_try = f"next attempt {listings.time_cell('nextDueAt')(row)[11:]} UTC" if failing and row["nextDueAt"] else ""
    return ", ".join(filter(None, (failing, next_try, _deliveries(row, tables.FIXED_SPACE))))


def _failing_for(row: listings.Row) -> str:
    """Return how long a destination has failed."""
    last = row.get("lastError")
    if not last or last["recoveredAt"]:
        return ""
    since = datetime.datetime.fromisoformat(last["since"])
    return tables.duration((datetime.datetime.now(datetime.UTC) - since).total_seconds())


def _deliveries(row: listings.Row, space: str = " ") -> str:
    held_counts = {f"held {reason}": count for reason, count in row["held"].items()}
    counts = {"wait": row["backlog"], **held_counts, "dead": row["dead"]}
    return ", ".join([f"{count}{space}{state}" for state, count in counts.items() if count])


def _health(row: listings.Row) -> str:
    """Return a destination's health, or its state if it is not active."""
    return str(row.get("health") or "") if row["state"] == "Active" else str(row["state"])


DESTINATION_COLUMNS: tuple[listings.Column, ...] = (
    ("DESTINATION", overview.path_of),
    ("HEALTH", _health),
    ("FOR", _failing_for),
    (
        "LAST ERROR",
        lambda row: _short_error(row) or ", ".join([f"warning: {warning}" for warning in row.get("warnings", ())]),
    ),
    ("DELIVERIES", _deliveries),
    ("NEXT (UTC)", lambda row: listings.time_cell("nextDueAt")(row)[11:]),
    ("TENANTS", lambda row: ", ".join(row["tenants"])),
    ("HOST", listings.text_cell("host")),
)

_WORST_FIRST = [*states.DestinationHealth]

_DESTINATIONS = overview.Overview(
    path="/api/destinations",
    noun="destination",
    help="""List the destinations with their health, last errors, waiting, held and dead deliveries.

    --failing lists those whose last attempts failed, or that have a forbidden address, a missing Secret, or dead
    deliveries. Held deliveries are a trouble of the listener: see `usher listeners --failing`.
    """,
    columns=DESTINATION_COLUMNS,
    states={"failing": is_destination_failing},
    essential=6,
    urgency=lambda row: _WORST_FIRST.index(row["health"]) if row.get("health") in _WORST_FIRST else -1,
)


_Name = Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME of a destination.", metavar="DESTINATION")]
_Listener = Annotated[str | None, typer.Option(help="Use a route of this listener.")]
_Route = Annotated[str | None, typer.Option(help="Use the route with this name.")]
_Body = Annotated[
    pathlib.Path | None, typer.Option(help="Send this body instead of the sample.", exists=True, dir_okay=False)
]


def send_sample(
    name: _Name,
    *,
    listener: _Listener = None,
    route: _Route = None,
    body: _Body = None,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Send a sample visit to a destination, and show the request and the answer; exit 1 if it is not delivered.

    It takes the way of a visit: transform, format and signature of a route, by default the first one that leads there.
    The header `usher-test: true` marks it. Nothing is stored or counted. Values that may be credentials are not shown.
    """
    question: dict[str, object] = {"destination": name}
    question |= {key: value for key, value in (("listener", listener), ("route", route)) if value is not None}
    if body is not None:
        question["body"] = body.read_text("utf-8", errors="replace")
    answer = AdminClient(admin, data, operate=True).post("/api/destinations/test", question)
    if output == "json":
        tables.print_json(answer)
    else:
        _print_sample(answer)
    raise typer.Exit(0 if answer["outcome"] == "Delivered" else WRONG)


def _print_sample(answer: listings.Row) -> None:
    request = answer["request"]
    headers = [f"{header}: {value}" for header, value in request["headers"]]
    tables.print_lines("\n".join([f"{request['method']} {request['url']}", *headers, "", request["body"].rstrip(), ""]))
    if answer["route"] is None:
        typer.echo("No route leads to this destination yet, so no transform of a route was tried.")
    missing = "no access token" if answer["error"].startswith("Token") else "no answer"
    status = f"status {answer['status']}" if answer["status"] else missing
    error = f" ({answer['error']})" if answer["error"] else ""
    typer.echo(f"{status} after {answer['milliseconds']} ms: {states.SAMPLE_OUTCOMES[answer['outcome']]}{error}")
    for reason in answer["notSentBecause"]:
        tables.print_text(_NOT_SENT.get(reason, f"This route holds its deliveries now ({reason})."))
    if answer["hint"]:
        tables.print_text(f"Hint: {answer['hint']}.")
    if answer["rule"]:
        failed = f"cannot be evaluated: {answer['ruleError']}" if answer["ruleError"] else "decided"
        typer.echo(f"Rule {answer['rule']} of http.answers {failed}.")
    if answer["answer"]:
        tables.print_lines(answer["answer"].rstrip())


# Why a sample's route sends no visits now -> a sentence; other reasons hold its deliveries.
_NOT_SENT = {
    "Paused": "This route is paused: its visits are skipped.",
    "Shadow": "This route is in shadow mode: its visits are skipped.",
    "FilterError": "This route holds its deliveries now (FilterError); the filter was not asked.",
}
