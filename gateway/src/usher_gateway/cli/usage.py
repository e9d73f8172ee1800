"""``usher usage``: prints the books."""

from typing import Annotated, Any

import typer

from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    WRONG,
    Admin,
    AdminClient,
    Data,
    Listener,
    OutputOption,
    Tenant,
    parse_moment,
)

_EPILOG = (
    "Example:  usher usage --from 2026-10 --to 2026-11 --by month --zone tenant -o csv > october.csv"
    "   or   usher usage --check"
)

_From = Annotated[str | None, typer.Option("--from", "--since", help="Default: the first day of this month.")]
_To = Annotated[str | None, typer.Option("--to", "--until", help="Before this time. Default: now.")]
_By = Annotated[str, typer.Option(help="day, month, slot (a quarter of an hour), or venue.")]
_Zone = Annotated[
    str,
    typer.Option(
        help="Time zone of days and months: UTC, a name like Europe/London, or tenant for that of each tenant."
    ),
]
_Check = Annotated[bool, typer.Option("--check", help="Check whether the books balance; exit 1 if not.")]

_WIDE, _NARROW = 130, 78
"""Terminal widths: from the first on all numbers fit, below the second not even the important ones."""

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
        client = AdminClient(admin, data)
        times = {"from": parse_moment(since), "to": parse_moment(until)}
        if check:
            _check(client.get("/api/usage/check", **times))
            return
        if by == "venue":
            _print_venues(client.get("/api/usage/venues", **times, tenant=tenant, listener=listener, zone=zone), output)
            return
        query = {**times, "tenant": tenant, "listener": listener, "by": by, "zone": zone}
        if output == "text":
            _print_text(client.get("/api/usage", **query))
        else:
            text = client.get_bytes("/api/usage", format=output, **query).decode()
            typer.echo(text, nl=not text.endswith("\n"))


_VENUE_COLUMNS: tuple[tables.Column, ...] = (
    ("TENANT", lambda row: f"{row['namespace']}/{row['tenant']}"),
    ("VENUE", lambda row: str(row["venue"] or "(none)")),
    ("VISITS", tables.text_cell("visits")),
    ("REPEATS", tables.text_cell("repeats")),
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
        missing = tables.counted(answer["withoutBody"], "visit")
        typer.echo(
            f"Not counted, because the body is not stored any more: {missing} (bodyDays of the Tenant).", err=True
        )


def _check(answer: Any) -> None:
    violations = answer["violations"]
    for row in violations:
        where = f"{row['namespace']}/{row['tenant']}/{row['listener']}"
        typer.echo(f"{where} {row['period'] or 'in all'}: {row['equation']}: {row['left']} is not {row['right']}")
    if violations:
        typer.echo(f"usher: the books do not balance: {len(violations)} violations", err=True)
        raise typer.Exit(WRONG)
    typer.echo(f"The books balance, from {answer['from']} to {answer['to']}.")


def _print_text(answer: Any) -> None:
    import rich.console

    rows = answer["rows"]
    if not rows:
        typer.echo("Nothing was counted in that time.")
        return
    width = rich.console.Console().width
    if width < _NARROW:
        _print_blocks(rows, answer["total"])
        return
    numbers = _WIDE_NUMBERS if width >= _WIDE else _NARROW_NUMBERS
    lines = [
        [row["period"], f"{row['tenant']}/{row['listener']}", *[str(row[key]) for _, key in numbers]] for row in rows
    ]
    total = answer["total"]
    lines.append(["total", "", *[str(total.get(key, "")) for _, key in numbers]])
    heads = ["PERIOD", "LISTENER", *[head for head, _ in numbers]]
    tables.print_table(heads, lines, numbers=len(numbers))


def _print_blocks(rows: Any, total: Any) -> None:
    """Print a headline per row, and below it the numbers that are not 0."""
    blocks = [(f"{row['period']}  {row['tenant']}/{row['listener']}", row) for row in rows]
    for headline, counts in [*blocks, ("total", total)]:
        typer.echo(headline)
        told = [f"{key.removesuffix('After')} {counts[key]}" for _, key in _NARROW_NUMBERS if counts.get(key)]
        typer.echo(f"  {', '.join(told) or 'nothing'}")
