"""The commands over stored rows: ``usher visits``, ``deliveries``, ``dead`` and ``quarantine``.

Each group lists rows, as `admin.listings` defines them, and shows one row; `changes` has the commands that change rows.
"""

import sys
from collections.abc import Callable, Collection
from typing import Annotated

import typer

from usher_gateway.cli import changes, check_body, replays, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    LIST_IS_IMPLIED,
    WRONG,
    Admin,
    AdminClient,
    Cursor,
    Data,
    Id,
    Limit,
    ListingGroup,
    OutputOption,
    fail,
    print_next_page,
    quoted,
    row_limit,
    with_filters,
    with_names_of_filters,
)
from usher_gateway.words import listings

_Body = Annotated[bool, typer.Option("--body", help="Print only the body, as it was received.")]
_Answer = Annotated[bool, typer.Option("--answer", help="Print only the destination's last answer.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dead = _add_group(app, "dead", "Look at dead deliveries; redrive them.", listings.DEAD)
    _add(dead, "show", show_delivery, "usher dead show 01920000-0000-7000-8000-000000000002 --answer")
    example = "usher dead redrive --destination agency/crm --yes   or   usher dead redrive ID --yes"
    _add(dead, "redrive", changes.redrive_dead, example)

    text = "Look at deliveries; redrive, cancel or retry them."
    deliveries = _add_group(app, "deliveries", text, listings.DELIVERIES)
    _add(deliveries, "show", show_delivery, "usher deliveries show 01920000-0000-7000-8000-000000000002 --answer")
    example = "usher deliveries redrive --destination agency/crm --since 2026-11-24 --yes"
    _add(deliveries, "redrive", changes.redrive_deliveries, example)
    example = "usher deliveries cancel --destination agency/crm --state held --yes"
    _add(deliveries, "cancel", changes.cancel_deliveries, example)
    _add(deliveries, "retry", changes.retry_deliveries, "usher deliveries retry --destination agency/crm --yes")

    text = "Look at quarantined arrivals; release those that are visits now."
    quarantine = _add_group(app, "quarantine", text, listings.QUARANTINE)
    _add(quarantine, "show", show_visit, "usher quarantine show 01920000-0000-7000-8000-000000000001 --body")
    example = "usher quarantine release --listener lobby --reason NoUser --yes"
    _add(quarantine, "release", changes.release_quarantined, example)

    text = "Look at arrivals and their verdicts; replay them."
    visits = _add_group(app, "visits", text, listings.VISITS)
    _add(visits, "show", show_visit, "usher visits show 01920000-0000-7000-8000-000000000001 --body")
    example = "usher visits replay --destination agency/crm --state delivered,dead --since 7d"
    _add(visits, "replay", replays.replay_visits, example)


def _add_group(app: typer.Typer, name: str, text: str, listing: listings.Listing) -> typer.Typer:
    """Add a command group, with ``list``."""
    group = typer.Typer(cls=ListingGroup, help=text, epilog=LIST_IS_IMPLIED)
    _add(group, "list", _list_command(listing), listing.example)
    app.add_typer(group, name=name)
    return group


def _add(group: typer.Typer, name: str, command: Callable[..., None], example: str) -> None:
    group.command(name, epilog=f"Example:  {example}")(command)


def _list_command(listing: listings.Listing) -> Callable[..., None]:
    """Return the command that prints a listing's rows."""

    @with_filters(*listing.filters)
    def list_rows(
        *,
        context: typer.Context,
        limit: Limit = None,
        cursor: Cursor = None,
        output: OutputOption = "text",
        admin: Admin = ADMIN,
        data: Data = DATA,
        **filters: str | None,
    ) -> None:
        client = AdminClient(admin, data)
        for name in ("visit", "replay"):
            if filters.get(name):
                filters[name] = client.full_id(f"{name}s", str(filters[name]))
        only = {} if listing in listings.ENDPOINTS else listing.only  # an endpoint sets its own filters itself
        rows, next_cursor = client.rows(listing.path, row_limit(limit), cursor, **only, **filters)
        nothing = with_names_of_filters(context, listing.nothing)
        print_listing(listing, rows, next_cursor, output, nothing)
        if next_cursor is not None:
            print_next_page(context, str(len(rows)), next_cursor)

    list_rows.__doc__ = listing.help
    return list_rows


def print_listing(
    listing: listings.Listing,
    rows: list[listings.Row],
    rest: str | None,
    output: tables.OutputFormat,
    nothing: str,
    shared: Collection[str] = tables.NAMES,
) -> None:
    """Print a page of a listing. ``shared``: heads of columns that are left out if all rows have the same there."""
    columns, same = tables.without_shared_cells(listing.columns, rows, shared)
    essential = sum(head not in same for head, _ in listing.columns[: listing.essential])
    tables.print_rows(
        rows,
        columns,
        output,
        nothing,
        essential=essential,
        beside={"nextCursor": rest},
    )
    if output == "text" and same:
        tables.print_shared_cells(same)


def show_visit(
    identifier: Id,
    body: _Body = False,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Tell what happened with one arrival and what happens next, and how Usher reads its body.

    It shows no personal values. The body itself is personal data: --body needs the operate token, or one with the
    scopes visits:read and bodies:read, and the audit log records it.
    """
    client = AdminClient(admin, data, operate=body)
    identifier = client.full_id("visits", identifier)
    if body:
        _write_bytes(client.get_bytes(f"/api/visits/{quoted(identifier)}/body"))
        return
    row = _find_row(client, "visits", identifier)
    answer = client.get(f"/api/visits/{quoted(identifier)}/reading")
    told = client.get(f"/api/visits/{quoted(identifier)}/story")
    if output != "text":
        _print_row(row | {"reading": answer["reading"], **told}, output)
        return
    typer.echo(f"Arrival {identifier} of {listings.listener_of(row)}\n")
    tables.print_texts([(listings.time_cell("at")(event), event["text"]) for event in told["events"]])
    if told["next"]:
        typer.echo("\nNext:")
        for step in told["next"]:
            name = f"{step['route']} {step['delivery'][: listings.SHORT_ID]}  " if step["delivery"] else ""
            tables.print_text(step["text"], lead=name)
    check_body.print_stored(answer["reading"], answer["reason"])


def _write_bytes(content: bytes) -> None:
    """Write a body or an answer as it is; to a terminal, as lines without characters that command it."""
    if sys.stdout.isatty():
        tables.print_lines(content.decode(errors="replace").removesuffix("\n"))
    else:
        sys.stdout.buffer.write(content)


def _find_row(client: AdminClient, group: str, identifier: str) -> listings.Row:
    """Return a row for ``usher visits`` or ``usher deliveries``."""
    rows, _ = client.rows(f"/api/{group}", 1, None, id=identifier)
    if not rows:
        hint = client.hint_of_other_kind(group, identifier) or f"use an id from `usher {group} list`"
        fail(f"there is no {identifier} among the {group}", hint, WRONG)
    return rows[0]


def _print_row(row: listings.Row, output: tables.OutputFormat) -> None:
    if output == "text":
        tables.print_facts(row)
    else:
        tables.print_rows([row], (), output, "")


def show_delivery(
    identifier: Id,
    answer: _Answer = False,
    output: OutputOption = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
) -> None:
    """Show one delivery with its last 10 attempts.

    The destination's answer may be personal data: --answer needs the operate token, or one with the scopes
    visits:read and bodies:read, and the audit log records it.
    """
    client = AdminClient(admin, data, operate=answer)
    identifier = client.full_id("deliveries", identifier)
    row = _find_row(client, "deliveries", identifier)
    if answer:
        if not row["answerBytes"]:
            fail("the destination's last answer had no body", "", WRONG)
        _write_bytes(client.get_bytes(f"/api/deliveries/{quoted(identifier)}/answer"))
        return
    tried = client.get(f"/api/deliveries/{quoted(identifier)}/attempts")
    if output != "text":
        _print_row(row | {"lastAttempts": tried["rows"], "next": tried["next"]}, output)
        return
    tables.print_text(tried["next"])
    typer.echo()
    facts = {name: value for name, value in row.items() if value is not None and name not in _TOLD}
    _print_row(facts | {"lastAttempts": [_attempt(attempt) for attempt in tried["rows"]] or None}, output)


# Delivery fields that the sentence above them already has, for its circuit and its route too.
_TOLD = frozenset({"dueAt", "expiresAt", "retriedUntil"})


def _attempt(attempt: listings.Row) -> str:
    """Return one attempt as a line."""
    status = f" {attempt['status']}" if attempt["status"] else ""
    result = f"{attempt['error']}{status}" if attempt["error"] else f"delivered{status}"
    return f"{listings.time_cell('at')(attempt)} UTC {result} after {attempt['milliseconds']} ms"
