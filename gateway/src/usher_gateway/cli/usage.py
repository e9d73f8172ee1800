"""``usher usage``: prints the books."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from usher_gateway.admin import listings
from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    Listener,
    Namespace,
    OutputOption,
    Tenant,
    fail,
    parse_moment,
)

_EPILOG = (
    "Example:  usher usage --from 2026-10 --to 2026-11 --by month --zone tenant -o csv > october.csv"
    "   or   usher usage --check"
)

_From = Annotated[str | None, typer.Option("--from", "--since", help="Default: the first day of this month.")]
_To = Annotated[str | None, typer.Option("--to", "--until", help="Before this time. Default: now.")]
_By = Annotated[
    Literal["slot", "day", "month", "venue"],
    typer.Option(help="Add up by period (a slot is a quarter of an hour) or by venue."),
]
_Zone = Annotated[
    str,
    typer.Option(
        help="Time zone of days and months: UTC, a name like Europe/London, or tenant for that of each tenant."
    ),
]
_Check = Annotated[
    bool, typer.Option("--check", help="Check whether the books of all listeners balance; exit 1 if not.")
]

_WIDE = 130
"""The width of a terminal in which all numbers fit."""

_NARROW_NUMBERS = (
    ("VISITS", "visits"),
    ("REPEATS", "repeats"),
    ("QUAR.", "quarantined"),
    ("REFUSED", "refused"),
    ("DELIV.", "delivered"),
    ("DIED", "died"),
    ("OPEN", "openAfter"),
)
_WIDE_NUMBERS = (
    ("ARRIVALS", "arrivals"),
    ("VISITS", "visits"),
    ("REPEATS", "repeats"),
    ("REDELIV.", "redeliveries"),
    ("PROBES", "probes"),
    ("QUAR.", "quarantined"),
    ("REFUSED", "refused"),
    ("CREATED", "created"),
    ("DELIV.", "delivered"),
    ("DIED", "died"),
    ("CANC.", "cancelled"),
    ("OPEN", "openAfter"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def usage(
        *,
        tenant: Tenant = None,
        namespace: Namespace = None,
        listener: Listener = None,
        since: _From = None,
        until: _To = None,
        by: _By = "day",
        zone: _Zone = "UTC",
        check: _Check = False,
        output: OutputOption = "text",
        admin: Admin = ADMIN,
        data: Data = DATA,
    ) -> None:
        """Print the books: counts of arrivals, verdicts and deliveries. A bill can be made from them.

        docs/usage-and-books.md explains each column. JSON and CSV have all columns. --by venue counts visits and
        repeats by the venue in their bodies, as long as these are stored.
        """
        names = {"namespace": namespace, "tenant": tenant, "listener": listener}
        if check and any(names.values()):
            fail("--check checks the books of all listeners", "leave --namespace, --tenant and --listener out", USAGE)
        client = AdminClient(admin, data)
        times = {"from": parse_moment(since), "to": parse_moment(until)}
        if check:
            _print_check(client.get("/api/usage/check", **times), output)
            return
        if by == "venue":
            if zone == "tenant":
                fail("--by venue has no days or months", "leave --zone out, or name the zone of --from and --to", USAGE)
            _print_venues(client.get("/api/usage/venues", **times, **names, zone=zone), output)
            return
        query = {**times, **names, "by": by, "zone": zone}
        if output == "text":
            _print_text(client.get("/api/usage", **query))
        else:
            text = client.get_bytes("/api/usage", format=output, **query).decode()
            typer.echo(text, nl=not text.endswith("\n"))


_VENUE_COLUMNS: tuple[listings.Column, ...] = (
    ("TENANT", lambda row: f"{row['namespace']}/{row['tenant']}"),
    ("VENUE", lambda row: str(row["venue"] or "(none)")),
    ("VISITS", listings.text_cell("visits")),
    ("REPEATS", listings.text_cell("repeats")),
)


def _print_venues(answer: Any, output: tables.OutputFormat) -> None:
    rows = answer["rows"]
    if output == "text" and rows:
        tables.print_table(
            [head for head, _ in _VENUE_COLUMNS], [[cell(row) for _, cell in _VENUE_COLUMNS] for row in rows], numbers=2
        )
    else:
        tables.print_rows(rows, _VENUE_COLUMNS, output, "No visit with a stored body in that time.")
    if answer["withoutBody"]:
        missing = listings.counted(answer["withoutBody"], "visit")
        typer.echo(
            f"Not counted, because the body is not stored any more: {missing} (bodyDays of the Tenant).", err=True
        )


_VIOLATION_COLUMNS = tuple(
    (name, listings.text_cell(name))
    for name in ("namespace", "tenant", "listener", "period", "equation", "left", "right")
)


def _print_check(answer: Any, output: tables.OutputFormat) -> None:
    """Print the equations that do not hold. If there are any, end the command with exit code 1."""
    violations = answer["violations"]
    if output == "json":
        tables.print_json(answer)
    elif output == "csv":
        tables.print_rows(violations, _VIOLATION_COLUMNS, output, "")
    else:
        for row in violations:
            where = f"{row['period'] or 'in all'}: {row['equation']}"
            typer.echo(f"{listings.listener_of(row)} {where}: {row['left']} is not {row['right']}")
        if not violations:
            typer.echo(f"The books balance, from {answer['from']} to {answer['to']}.")
    if violations:
        typer.echo(f"usher: the books do not balance: {len(violations)} violations", err=True)
        raise typer.Exit(WRONG)


def _print_text(answer: Any) -> None:
    import rich.console

    rows = answer["rows"]
    if not rows:
        typer.echo("Nothing was counted in that time.")
        return
    width = rich.console.Console().width
    numbers = _WIDE_NUMBERS if width >= _WIDE else _NARROW_NUMBERS
    open_after = {listings.listener_of(row): row["openAfter"] for row in rows}  # the last row of each listener
    total = {**answer["total"], "openAfter": sum(open_after.values())}
    name_of = _shortest_names(rows)
    lines = [[row["period"], name_of(row), *[str(row[key]) for _, key in numbers]] for row in rows]
    lines.append(["total", "", *[str(total[key]) for _, key in numbers]])
    heads = ["PERIOD", "LISTENER", *[head for head, _ in numbers]]
    if _table_width(heads, lines) <= width:
        tables.print_table(heads, lines, numbers=len(numbers))
    else:
        _print_blocks([(f"{row['period']}  {name_of(row)}", row) for row in rows], total, width)


def _shortest_names(rows: Any) -> Callable[[listings.Row], str]:
    """Return a function for the name of a row, with the namespace only if there are several."""
    if len({row["namespace"] for row in rows}) > 1:
        return listings.listener_of
    return lambda row: f"{row['tenant']}/{row['listener']}"


def _table_width(heads: list[str], lines: list[list[str]]) -> int:
    """Return how many columns of a terminal a table needs: two stand between its own columns and around them."""
    return sum(max(len(line[index]) for line in [heads, *lines]) + 2 for index in range(len(heads)))


def _print_blocks(blocks: list[tuple[str, listings.Row]], total: listings.Row, width: int) -> None:
    """Print a headline per row, and below it the numbers that are not 0. Arrivals and created follow from them."""
    keys = [key for _, key in _WIDE_NUMBERS if key not in {"arrivals", "created"}]
    for headline, counts in [*blocks, ("total", total)]:
        typer.echo(headline)
        numbers = ", ".join([f"{key.removesuffix('After')} {counts[key]}" for key in keys if counts.get(key)])
        for line in tables.fill([numbers or "nothing"], width - 2):
            typer.echo(f"  {line}")
