"""``usher usage``: prints the books."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

from usher_gateway.cli import tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Cursor,
    Data,
    Listener,
    Namespace,
    OutputOption,
    Tenant,
    fail,
    parse_moment,
    print_next_page,
    row_limit,
)
from usher_gateway.words import listings

_EPILOG = (
    "Example:  usher usage --from 2026-10 --to 2026-11 --by month --zone tenant -o csv > october.csv"
    "   or   usher usage --check"
)

_From = Annotated[
    str | None,
    typer.Option(
        "--from",
        "--since",
        help="From the quarter of an hour of this time on: today, yesterday, 2h, 3d, 2026-11, 2026-11-25, or"
        " 2026-11-25T12:00 (of --zone, else UTC). Default: the first day of this month.",
    ),
]
_To = Annotated[
    str | None, typer.Option("--to", "--until", help="Before this time. Default: the end of this quarter of an hour.")
]
_By = Annotated[
    Literal["slot", "day", "month", "tenant", "venue"],
    typer.Option(help="Add up by period (a slot is a quarter of an hour), or the whole time by tenant or by venue."),
]
_Zone = Annotated[
    str,
    typer.Option(
        help="Time zone of days and months: UTC, a name like Europe/London, or tenant for that of each tenant."
    ),
]
_Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="USHER_LIMIT",
        help="The most rows of the table. Default: 50 in a terminal, else all. JSON and CSV have all.",
    ),
]
_Check = Annotated[
    bool,
    typer.Option(
        "--check", help="Check whether the books of all listeners balance; exit 1 if not, or if nothing was counted."
    ),
]

# Heading and count, in order of importance.
_NUMBERS = (
    ("VISITS", "visits"),
    ("DELIV.", "delivered"),
    ("DIED", "died"),
    ("OPEN", "openAfter"),
    ("QUAR.", "quarantined"),
    ("REFUSED", "refused"),
    ("CANC.", "cancelled"),
    ("SUPPR.", "suppressed"),
    ("REPEATS", "repeats"),
    ("REDELIV.", "redeliveries"),
    ("PROBES", "probes"),
    ("CREATED", "created"),
    ("SKIPPED", "skipped"),
    ("ROUTED", "routed"),
    ("ARRIVALS", "arrivals"),
    ("ATTEMPTS", "attempts"),
    ("LATE", "late"),
    ("RELEASED", "released"),
    ("REPLAYED", "replayed"),
    ("REDRIVEN", "redriven"),
)
_ESSENTIAL = _NUMBERS[: _NUMBERS.index(("REPEATS", "repeats"))]  # A narrow terminal shows these too


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def usage(
        *,
        context: typer.Context,
        tenant: Tenant = None,
        namespace: Namespace = None,
        listener: Listener = None,
        since: _From = None,
        until: _To = None,
        by: _By = "day",
        zone: _Zone = "UTC",
        check: _Check = False,
        limit: _Limit = None,
        cursor: Cursor = None,
        output: OutputOption = "text",
        admin: Admin = ADMIN,
        data: Data = DATA,
    ) -> None:
        """Print the books: counts of arrivals, verdicts and deliveries. A bill can be made from them.

        docs/usage-and-books.md explains each column. JSON and CSV have all columns, and CSV has no total. --by tenant
        has one row for each tenant, also for those without an arrival; slot (15 minutes), day and month have one for
        each listener. --by venue counts visits and repeats by the venue in their bodies, as long as these are stored.
        """
        names = {"namespace": namespace, "tenant": tenant, "listener": listener}
        if check and any(names.values()):
            fail("--check checks the books of all listeners", "leave --namespace, --tenant and --listener out", USAGE)
        client = AdminClient(admin, data)
        times = {"from": parse_moment(since), "to": parse_moment(until)}
        if check:
            _print_check(client.get("/api/usage/check", **times), output)
            return
        answer = client.get("/api/usage", **times, **names, by=by, zone=zone)
        if output == "json":
            tables.print_json(answer)
        elif output == "csv":
            tables.print_csv(answer["rows"])
        else:
            print_text(answer, context, limit, first_row(cursor))
        if answer.get("withoutBody"):
            missing = listings.counted(answer["withoutBody"], "visit")
            tables.print_text(
                f"Not counted, because the body is not stored any more: {missing} (bodyDays of the Tenant, or an"
                " erasure).",
                err=True,
            )


def _print_check(answer: Any, output: tables.OutputFormat) -> None:
    """Print the equations that do not hold. If there are any, or nothing was counted, end with exit code 1."""
    violations = answer["violations"]
    if output == "json":
        tables.print_json(answer)
    elif output == "csv":
        tables.print_csv(violations)
    else:
        for row in violations:
            where = f"{row['period'] or 'in all'}: {row['equation']}"
            tables.print_text(f"{listings.listener_of(row)} {where}: {row['left']} is not {row['right']}")
    if violations:
        fail(f"the books do not balance: {listings.counted(len(violations), 'violation')}", "", WRONG)
    period = f"from {answer['from'][:16]} to {answer['to'][:16]} UTC"
    if not answer["listeners"]:
        settled = "only quarters of an hour are checked that ended over a minute ago: "
        hint = f"{'' if answer['isWholeTime'] else settled}compare --from and --to"
        fail(f"nothing was counted {period}, so there is nothing to check", hint, WRONG)
    if output == "text":
        counted = f"{answer['listeners']} of {listings.counted(answer['ofListeners'], 'listener')}"
        verb = "has" if answer["listeners"] == 1 else "have"
        tables.print_text(f"{counted} {verb} counts {period}; their books balance.")


def first_row(cursor: str | None) -> int:
    """Return the row number with which a page begins; a cursor is this number."""
    if cursor is not None and not cursor.isdecimal():
        fail(f"{cursor!r} is not a cursor", "use the one that the previous page printed", USAGE)
    return int(cursor or 0)


def _with_sums(row: listings.Row) -> listings.Row:
    """Return a row of the books that adds up the skips for all reasons."""
    return {**row, "skipped": sum(row.get("skipped", {}).values())}


def print_text(answer: Any, context: typer.Context, limit: int | None, begin: int) -> None:
    """Print a page of the books as a table, with the total over all pages."""
    rows, by, total = [_with_sums(row) for row in answer["rows"]], answer["by"], _with_sums(answer["total"])
    limit = row_limit(limit, len(rows))
    if not rows:
        typer.echo("Nothing was counted in that time.")
        return
    names, more_names = _name_columns(rows, by)
    counted_names = {"visits"} | {name for name in total if total[name] or any(row[name] for row in rows)}
    numbers = [(head, name) for head, name in _NUMBERS if name in counted_names]
    columns = [*names, *[(head, listings.text_cell(name)) for head, name in numbers], *more_names]
    lines = [[cell(row) for _, cell in columns] for row in rows[begin : begin + limit]]
    sums = [str(total[name]) for _, name in numbers]
    lines.append(["total", *[""] * (len(names) - 1), *sums, *[""] * len(more_names)])
    if not more_names or not answer["from"].endswith("T00:00:00.000Z"):  # then PERIOD is not all of a day
        typer.echo(f"From {answer['from'][:16]} to {answer['to'][:16]} UTC:")
    essential = len(names) + len(set(numbers).intersection(_ESSENTIAL))
    tables.print_table([head for head, _ in columns], lines, essential)
    if len(rows) > begin + limit:
        print_next_page(context, f"{len(lines) - 1} of {listings.counted(len(rows), 'row')}", str(begin + limit))


def _name_columns(rows: Any, by: str) -> tuple[tuple[listings.Column, ...], tuple[listings.Column, ...]]:
    """Return the columns that name a row, before and behind its numbers."""
    tenant = ("TENANT", lambda row: f"{row['namespace']}/{row['tenant']}")
    if by == "tenant":
        return (tenant,), ()
    if by == "venue":
        return (tenant, ("VENUE", lambda row: str(row["venue"] or "(none)"))), ()
    names = (("PERIOD", listings.text_cell("period")), ("LISTENER", _shortest_names(rows)))
    return names, (("TENANT", listings.text_cell("tenant")), ("NAMESPACE", listings.text_cell("namespace")))


def _shortest_names(rows: Any) -> Callable[[listings.Row], str]:
    """Return a function for a row's listener name: with namespace or tenant only if that distinguishes rows."""
    several = len({row["namespace"] for row in rows}) > 1
    short = listings.listener_key if several else listings.text_cell("listener")
    is_clear = len({short(row) for row in rows}) == len({listings.listener_of(row) for row in rows})
    return short if is_clear else listings.listener_of
