"""What `usher tenants`, `usher listeners` and `usher destinations` have in common: lists of all objects of a kind."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from usher_gateway.admin import listings
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import print_next_page, row_limit, with_names_of_filters

Failing = Annotated[bool, typer.Option("--failing", help="Only those that need a person: see the command's help.")]
Silent = Annotated[bool, typer.Option("--silent", help="Only those that are silent for longer than they may be.")]
Unused = Annotated[bool, typer.Option("--unused", help="Only those where no arrival was accepted yet.")]


@dataclasses.dataclass(frozen=True)
class Overview:
    """A list of all objects of a kind that a gateway runs."""

    path: str
    """Of the endpoint."""
    noun: str
    columns: tuple[listings.Column, ...]
    states: Mapping[str, Callable[[listings.Row], bool]]
    """Name of a flag that selects rows -> whether it selects a row."""
    essential: int = 4
    """So many columns are shown also in a narrow terminal."""
    add: Callable[[listings.Row], listings.Row] = lambda _: {}
    """Returns fields that JSON and CSV get besides those of the API."""
    urgency: Callable[[listings.Row], int] = lambda _: 0
    """The rank of a row in a list of those that need a person."""


def print_page(
    context: typer.Context,
    overview: Overview,
    rows: list[listings.Row],
    flags: Mapping[str, bool],
    *,
    limit: int | None,
    cursor: str | None,
    output: tables.OutputFormat,
) -> None:
    """Print the rows that the flags select, as many as ``limit`` says; then totals of all of them.

    ``cursor``: the name of the last row of the previous page.
    """
    asked = [flag for flag, is_asked in flags.items() if is_asked]
    counts = {flag: sum(map(overview.states[flag], rows)) for flag in flags if flag not in asked}
    rows = [row for row in rows if all(overview.states[flag](row) for flag in asked)]
    rows = sorted(rows, key=lambda row: (overview.urgency(row) if "failing" in asked else 0, path_of(row)))
    names = [path_of(row) for row in rows]
    page = rows[names.index(cursor) + 1 :] if cursor in names else rows
    shown = page[: row_limit(limit, len(page))]
    rest = path_of(shown[-1]) if len(page) > len(shown) else None
    printed = [row | overview.add(row) for row in shown] if output != "text" else shown
    tables.print_rows(
        printed,
        overview.columns,
        output,
        with_names_of_filters(context, nothing(overview.noun, asked)),
        essential=overview.essential,
        beside={"nextCursor": rest},
    )
    parts = [f"{count} {flag} (--{flag})" for flag, count in counts.items() if count]
    total = ", ".join([listings.counted(len(rows), overview.noun), *_delivery_totals(rows)])
    if parts:
        total += f"; of all {', '.join(parts)}" if asked else f"; {', '.join(parts)}"
    if rest is not None:
        print_next_page(context, f"{len(shown)} of {total}", rest)
    elif output == "text" and rows:
        tables.print_text(total, err=True)


def _delivery_totals(rows: Sequence[listings.Row]) -> list[str]:
    """Return how many deliveries of tenants or destinations wait, are held and are dead, without zeros."""
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
    """Return ``namespace/name`` of a row."""
    return f"{row['namespace']}/{row['name']}"


def today_cell(name: str) -> Callable[[listings.Row], str]:
    """Return a cell function for a count of today (UTC)."""
    return lambda row: str(row["today"][name])


def minute_cell(name: str) -> Callable[[listings.Row], str]:
    """Return a cell function for a time of the last months (UTC, to the minute)."""
    cell = listings.short_time_cell(name)
    return lambda row: cell(row)[:11]


def held_reasons(row: listings.Row) -> str:
    """Return how many deliveries are held, by reason."""
    return ", ".join([f"{count} {reason}" for reason, count in row["held"].items()])
