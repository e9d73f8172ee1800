"""``usher usage``: the books."""

from typing import Annotated, Any

import typer

from usher_gateway.cli import ask, tables

_EPILOG = "Example:  usher usage --from 2026-10 --to 2026-11 --by month -o csv > october.csv   or   usher usage --check"

_From = Annotated[str | None, typer.Option("--from", envvar="USHER_FROM", help="Default: the month's first day (UTC).")]
_To = Annotated[str | None, typer.Option("--to", envvar="USHER_TO", help="Before then. Default: now.")]
_By = Annotated[str, typer.Option(envvar="USHER_BY", help="day, month, or slot (a quarter of an hour). All UTC.")]
_Check = Annotated[
    bool, typer.Option("--check", envvar="USHER_CHECK", help="Say whether the books balance; exit 1 if not.")
]

_WIDE, _NARROW = 130, 78
"""Columns from which all numbers fit; below which not even the important ones do."""

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
        tenant: ask.Tenant = None,
        listener: ask.Listener = None,
        since: _From = None,
        until: _To = None,
        by: _By = "day",
        check: _Check = False,
        output: ask.OutputOption = ask.Output.text,
        admin: ask.Admin = ask.ADMIN,
        data: ask.Data = ask.DATA,
    ) -> None:
        """Show the books: what came, what was made of it, what became of deliveries. A bill can be made from them.

        docs/usage-and-books.md says what each column counts. JSON and CSV have all columns.
        """
        gateway = ask.Gateway(admin, data)
        times = {"from": ask.moment(since), "to": ask.moment(until)}
        if check:
            _check(gateway.get("/api/usage/check", **times))
            return
        query = {**times, "tenant": tenant, "listener": listener, "by": by}
        if output is ask.Output.text:
            _print_text(gateway.get("/api/usage", **query))
        else:
            typer.echo(gateway.get_bytes("/api/usage", format=output.value, **query).decode(), nl=False)


def _check(answer: Any) -> None:
    violations = answer["violations"]
    for row in violations:
        where = f"{row['namespace']}/{row['tenant']}/{row['listener']}"
        typer.echo(f"{where} {row['period'] or 'in all'}: {row['equation']}: {row['left']} is not {row['right']}")
    if violations:
        typer.echo(f"usher: the books do not balance: {len(violations)} violations", err=True)
        raise typer.Exit(ask.WRONG)
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
    """The same where no table fits: a headline, and under it what is not 0."""
    blocks = [(f"{row['period']}  {row['tenant']}/{row['listener']}", row) for row in rows]
    for headline, counts in [*blocks, ("total", total)]:
        typer.echo(headline)
        told = [f"{key.removesuffix('After')} {counts[key]}" for _, key in _NARROW_NUMBERS if counts.get(key)]
        typer.echo(f"  {', '.join(told) or 'nothing'}")
