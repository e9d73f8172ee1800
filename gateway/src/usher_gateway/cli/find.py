"""``usher find``: finds one person's visits, or one visit or delivery by its id."""

import dataclasses
import re
from typing import Annotated, Any

import typer

from usher_gateway.cli import person_value, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Cursor,
    Data,
    Limit,
    Namespace,
    OutputOption,
    Tenant,
    fail,
    print_next_page,
    row_limit,
)
from usher_gateway.cli.listings import print_listing
from usher_gateway.words import listings, person_words

_EPILOG = "Example:  usher find   or   usher find --tenant acme --as mobile < number.txt"

# A shorter beginning than `person_words.ID`. It needs a letter, because digits alone may be a telephone number.
_SHORT_ID = re.compile(r"(?=.{0,7}[a-f])[0-9a-f]{8}-[0-9a-f-]{0,5}", re.IGNORECASE)

_Identifier = Annotated[
    str | None, typer.Argument(help="The id of a visit or delivery. Other values are asked for.", metavar="[ID]")
]

_SWAPPED = {"COUNTED": "VERDICTS", "VERDICTS": "COUNTED"}
_CELLS = dict(listings.VISITS.columns)
# The visits with their verdicts before what they were counted as.
_LISTING = dataclasses.replace(
    listings.VISITS,
    columns=tuple([(head, _CELLS[head]) for head in [_SWAPPED.get(name, name) for name in _CELLS]]),
)
_SHARED = frozenset({"TENANT", "COUNTED"})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("find", epilog=_EPILOG)(find)


def find(
    *,
    context: typer.Context,
    identifier: _Identifier = None,
    kind: person_value.As = None,
    tenant: Tenant = None,
    namespace: Namespace = None,
    reference: person_value.Reference = "",
    limit: Limit = None,
    cursor: Cursor = None,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Find the visits of a person over all tenants, newest first, or one visit by its id or that of a delivery.

    The command asks for the value of a person, or reads it from standard input, so that it gets into no history of a
    shell and no list of processes. It needs the operate token, or one with the scope persons:find (for an id:
    visits:read). The audit log records that somebody looked for a person, not for whom. Exit code 1: nothing was found.
    """
    if identifier is not None and not (person_words.ID.fullmatch(identifier) or _SHORT_ID.fullmatch(identifier)):
        hint = (
            "give of an id at least its first 15 characters; type other values when `usher find` asks, or pipe them "
            "in: arguments reach the history of the shell and other users"
        )
        fail("only the id of a visit or delivery may be an argument", hint, USAGE)
    client = AdminClient(admin, data, operate=True)
    value = identifier or person_value.read_value()
    if kind is None and (identifier or person_words.ID.fullmatch(value)):
        rows = _rows_of_id(client, value)
        print_listing(_LISTING, rows, None, output, "No visit or delivery has this id.", _SHARED)
    else:
        question = {
            "value": value,
            "field": person_value.field_of(kind),
            "tenant": tenant,
            "namespace": namespace,
            "reference": reference,
            "cursor": cursor,
            "limit": min(row_limit(limit, 100), 1_000),
        }
        answer = client.post("/api/persons/find", question)
        rows = answer["rows"]
        print_listing(_LISTING, rows, answer["nextCursor"], output, _nothing(answer), _SHARED)
        if not rows:
            _print_limits(answer, err=output != "text")
        if answer["suppressedAt"] and output == "text":
            where = person_words.suppressed_at(answer["suppressedAt"], answer["tenants"])
            tables.print_text(f"Suppressed at {where}: visits there are only counted.", err=True)
        if answer["nextCursor"] is not None:
            print_next_page(context, str(len(rows)), answer["nextCursor"])
    if not rows:
        raise typer.Exit(WRONG)
    if output == "text":
        tables.print_text(
            "`usher visits show ID` shows one of them, `usher deliveries list --visit ID` its deliveries (a token needs"
            " visits:read).",
            err=True,
        )


def _print_limits(answer: Any, *, err: bool) -> None:
    """Say what a search that found nothing does not prove."""
    tables.print_text(person_words.NOT_SEARCHED, err=err)
    if "mobile" in answer["searchedAs"]:
        tables.print_text(person_words.OTHER_SPELLINGS, err=err)
    if answer["refusing"]:
        refused = person_words.refused_elsewhere(answer["refusing"])
        tables.print_text(f"{refused} `usher listeners --failing` says why.", err=err)


def _rows_of_id(client: AdminClient, identifier: str) -> list[listings.Row]:
    """Return the visits whose id is, or begins with, this one, or else those whose deliveries have such an id."""
    rows, _ = client.rows("/api/visits", row_limit(None, 100), None, id=identifier)
    if rows:
        return rows
    deliveries, _ = client.rows("/api/deliveries", row_limit(None, 100), None, id=identifier)
    visits = ",".join({delivery["visit"]: None for delivery in deliveries})
    return client.rows("/api/visits", len(deliveries), None, id=visits)[0] if deliveries else []


def _nothing(answer: Any) -> str:
    """Return where nothing was found, and how far back the search reached."""
    searched = " or ".join([person_words.FIELDS[field] for field in answer["searchedAs"]])
    since = f" since {listings.time_cell('since')(answer)} UTC" if answer["since"] else ""
    return f"No readable visit has this {searched} at {listings.counted(answer['tenants'], 'tenant')}{since}."
