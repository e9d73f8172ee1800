"""``usher audit``: who looked at persons and bodies, and who changed what."""

import json
import re
from collections.abc import Iterator
from typing import Annotated

import typer

from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    Admin,
    AdminClient,
    Cursor,
    Data,
    Limit,
    OutputOption,
    fail,
    print_next_page,
    row_limit,
    with_filters,
    with_names_of_filters,
)
from usher_gateway.words import listings

_EPILOG = (
    "Example:  usher audit --since 7d   or   usher audit --reference DSR-8   or   usher audit --lines > audit.jsonl"
)

_Who = Annotated[str | None, typer.Option("--who", help="Of the token, or the user of Kubernetes, with this name.")]
_Action = Annotated[str | None, typer.Option("--action", help="With this action, such as 'show body'.")]
_Reference = Annotated[str | None, typer.Option("--reference", help="Of the person's request with this reference.")]
_Lines = Annotated[bool, typer.Option("--lines", help="Print every entry as one line of JSON.")]

_PAGE = 1_000

_UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


def _selection(row: listings.Row) -> str:
    return ", ".join(
        [f"{name} {tables.compact(value)}" for name, value in row["selection"].items() if value is not None]
    )


def _short_selection(row: listings.Row) -> str:
    """Return the selection with each id's first part, because columns are narrow."""
    return _UUID.sub(lambda identifier: identifier[0][: listings.SHORT_ID], _selection(row))


def _short_who(row: listings.Row) -> str:
    """Return a caller's name without the words that every service account begins with, because columns are narrow."""
    return str(row["who"]).removeprefix("system:serviceaccount:")


_COLUMNS: tuple[listings.Column, ...] = (
    ("AT (UTC)", listings.short_time_cell("at")),
    ("WHO", _short_who),
    ("ACTION", listings.text_cell("action")),
    ("COUNT", listings.text_cell("count")),
    ("SELECTION", _short_selection),
    ("PEER", listings.text_cell("peer")),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("audit", epilog=_EPILOG)(show_audit)


@with_filters(listings.TENANT, *listings.PERIOD_FILTERS)
def show_audit(
    *,
    context: typer.Context,
    who: _Who = None,
    action: _Action = None,
    reference: _Reference = None,
    lines: _Lines = False,
    limit: Limit = None,
    cursor: Cursor = None,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
    **filters: str | None,
) -> None:
    """List the audit log, newest first: each look at a person or a body, and each change.

    It needs the operate token, or one with the scope audit:read and without a limit to tenants or namespaces.
    It has no personal data: a search for a person is recorded with the field and the number of rows, not the value.
    COUNT is how many rows were shown or changed: visits that a search found, deliveries that a redrive made due,
    tenants at which a suppression is new, visits that a try evaluated; 1 for a body, a replay, a link or a request to
    erase. SELECTION begins with your reference, or the id of the request.
    --tenant lists the entries whose selection names the tenant. Entries are kept for about two years.
    """
    client = AdminClient(admin, data, operate=True)
    selection = {"who": who, "action": action, "reference": reference, **filters}
    if lines:
        if limit is not None or cursor is not None:
            fail("--lines prints every entry, so it has no --limit and no --cursor", "narrow it with --since", USAGE)
        for row in _all_rows(client, selection):
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    rows, next_cursor = client.rows("/api/audit", row_limit(limit), cursor, **selection)
    nothing = with_names_of_filters(context, "No entries.")
    beside = {"nextCursor": next_cursor}
    tables.print_rows(rows, _COLUMNS, output, nothing, essential=5, beside=beside)
    if next_cursor is not None:
        print_next_page(context, str(len(rows)), next_cursor)


def _all_rows(client: AdminClient, selection: dict[str, str | None]) -> Iterator[listings.Row]:
    """Yield the rows from all pages."""
    cursor: str | None = None
    while True:
        page = client.get("/api/audit", limit=_PAGE, cursor=cursor, **selection)
        yield from page["rows"]
        cursor = page["nextCursor"]
        if cursor is None:
            return
