"""Lists all objects of a kind: shared by `usher tenants`, `usher listeners` and `usher destinations`."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    Admin,
    AdminClient,
    Cursor,
    Data,
    Limit,
    Namespace,
    OutputOption,
    Tenant,
    print_next_page,
    row_limit,
    with_names_of_filters,
    with_parameters,
)
from usher_gateway.words import listings

_FLAGS = {
    "failing": "Only those that need a person: see the command's help.",
    "silent": "Only those that are silent for longer than they may be.",
    "unused": "Only those where no arrival was accepted yet.",
}


@dataclasses.dataclass(frozen=True)
class Overview:
    """A list of all objects of a kind that a gateway runs."""

    path: str
    """The endpoint's path."""
    noun: str
    help: str
    """The command's help text."""
    columns: tuple[listings.Column, ...]
    states: Mapping[str, Callable[[listings.Row], bool]]
    """Flag name that selects rows (`_FLAGS`) -> whether it selects a row."""
    urgency: Callable[[listings.Row], int]
    """A row's rank when the list has only those that need a person."""
    essential: int = 4
    """So many columns are shown also in a narrow terminal."""
    add: Callable[[listings.Row], listings.Row] = lambda _: {}
    """Returns fields that JSON and CSV get besides the API's."""


def list_command(overview: Overview) -> Callable[..., None]:
    """Return the command that prints the rows that its flags select, as many as ``--limit`` says, and their totals.

    ``--cursor`` is the last row's name on the previous page.
    """

    def list_objects(
        *,
        context: typer.Context,
        tenant: Tenant = None,
        namespace: Namespace = None,
        limit: Limit = None,
        cursor: Cursor = None,
        output: OutputOption = "text",
        admin: Admin = ADMIN,
        data: Data = DATA,
        **flags: bool,
    ) -> None:
        rows = AdminClient(admin, data).get(overview.path, namespace=namespace, tenant=tenant)["rows"]
        chosen_flags = [flag for flag, is_asked in flags.items() if is_asked]
        counts = {flag: sum(map(overview.states[flag], rows)) for flag in flags if flag not in chosen_flags}
        rows = [row for row in rows if all(overview.states[flag](row) for flag in chosen_flags)]
        rows = sorted(rows, key=lambda row: (overview.urgency(row) if "failing" in chosen_flags else 0, path_of(row)))
        names = [path_of(row) for row in rows]
        page = rows[names.index(cursor) + 1 :] if cursor in names else rows
        visible_rows = page[: row_limit(limit, len(page))]
        next_cursor = path_of(visible_rows[-1]) if len(page) > len(visible_rows) else None
        tables.print_rows(
            [row | overview.add(row) for row in visible_rows] if output != "text" else visible_rows,
            overview.columns,
            output,
            with_names_of_filters(context, nothing(overview.noun, chosen_flags)),
            essential=overview.essential,
            beside={"nextCursor": next_cursor},
        )
        parts = [f"{count} {flag} (--{flag})" for flag, count in counts.items() if count]
        total = ", ".join([listings.counted(len(rows), overview.noun), *_delivery_totals(rows)])
        if parts:
            total += f"; of all {', '.join(parts)}" if chosen_flags else f"; {', '.join(parts)}"
        if next_cursor is not None:
            print_next_page(context, f"{len(visible_rows)} of {total}", next_cursor)
        elif output == "text" and rows:
            tables.print_text(total, err=True)

    list_objects.__doc__ = overview.help
    return with_parameters(
        [
            inspect.Parameter(
                flag,
                inspect.Parameter.KEYWORD_ONLY,
                default=False,
                annotation=Annotated[bool, typer.Option(f"--{flag}", help=_FLAGS[flag])],
            )
            for flag in overview.states
        ]
    )(list_objects)


def _delivery_totals(rows: Sequence[listings.Row]) -> list[str]:
    """Return how many deliveries wait, are held and are dead, without zeros."""
    totals = {
        "waiting": sum(row.get("backlog", 0) for row in rows),
        "held": sum(sum(row.get("held", {}).values()) for row in rows),
        "dead": sum(row.get("dead", 0) for row in rows),
    }
    return [listings.counted(count, f"{state} delivery") for state, count in totals.items() if count]


def nothing(what: str, asked: Sequence[str]) -> str:
    """Return what an empty listing says: that none is as the flags ask, or that there is none at all."""
    return f"No {what} is {' and '.join(asked)}." if asked else f"No {what}s."


def path_of(row: listings.Row) -> str:
    """Return a row's ``namespace/name``."""
    return f"{row['namespace']}/{row['name']}"


def today_cell(name: str) -> Callable[[listings.Row], str]:
    """Return a cell function for today's count (UTC)."""
    return lambda row: str(row["today"][name])


def last_arrival_cell(row: listings.Row) -> str:
    """Return when the last arrival was accepted (UTC, to the minute)."""
    return listings.short_time_cell("lastArrival")(row)[:11]


def held_reasons(row: listings.Row) -> str:
    """Return how many deliveries are held, by reason."""
    return ", ".join([f"{count} {reason}" for reason, count in row["held"].items()])
