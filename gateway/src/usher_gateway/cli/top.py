"""``usher top``: a gateway's tenants on one screen, refreshed every few seconds.

The screen is drawn from the admin port's listings alone. Rates are differences between two readings within the last
minute.
"""

import collections
import contextlib
import datetime
import io
import signal
import sys
import time
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from usher_gateway.cli import overview, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    Limit,
    Tenant,
    fail,
    row_limit,
)
from usher_gateway.words import listings, troubles

if TYPE_CHECKING:
    import rich.text  # imported only where it prints, because most commands do not need it

_EPILOG = "Example:  usher top   or   usher top --failing --sort dead   or   usher top --once"

SortKey = Literal["attention", "rate", "last", "lag", "held", "dead", "silent", "name"]

_RATE_SECONDS = 60.0
_SHORTEST_RATE_SECONDS = 20.0  # Two readings that are closer give no rate, because a single visit would count for many


class TenantLine(msgspec.Struct, frozen=True):
    """A tenant as a line on the screen."""

    name: str  # namespace/name
    rate: float | None  # visits per minute since a reading 20 to 60 s ago; None without such a reading
    today: int  # visits of today (UTC)
    last_seconds: float | None  # since the last accepted arrival; None: never
    lag_seconds: float | None  # age of the oldest delivery in the backlog; None: there is none
    failing_seconds: float | None  # since the most urgent trouble began; None: there is none, or that is not known
    why: str  # the troubles, the most urgent first
    waiting: int  # deliveries, as held and dead
    held: int
    dead: int
    silent: int  # listeners
    urgency: int  # as in troubles.urgency
    is_failing: bool  # it has a trouble
    is_only_silent: bool  # its only trouble is silence


def lines_of(answer: listings.Row, earlier: listings.Row | None) -> list[TenantLine]:
    """Return the lines for an answer from ``GET /api/tenants``, with rates since an earlier answer."""
    now = _moment(answer["now"])
    earlier_visits = {overview.path_of(row): row["today"]["visits"] for row in earlier["rows"]} if earlier else {}
    seconds = now - _moment(earlier["now"]) if earlier else 0.0
    return [_line(row, now, earlier_visits.get(overview.path_of(row)), seconds) for row in answer["rows"]]


def _line(row: listings.Row, now: float, visits_before: int | None, seconds: float) -> TenantLine:
    visits = row["today"]["visits"]
    rate = None
    if visits_before is not None and seconds >= _SHORTEST_RATE_SECONDS:
        rate = max(0, visits - visits_before) / seconds * 60  # less after midnight, when the day's counts begin again
    return TenantLine(
        name=overview.path_of(row),
        rate=rate,
        today=visits,
        last_seconds=_age(row["lastArrival"], now),
        lag_seconds=_age(row["oldestInBacklog"], now),
        failing_seconds=_age(_failing_since(row), now),
        why=", ".join(troubles.tenant_troubles(row).values()),
        waiting=row["backlog"],
        held=sum(row["held"].values()),
        dead=row["dead"],
        silent=row["silentListeners"],
        urgency=troubles.urgency(row),
        is_failing=troubles.is_tenant_failing(row),
        is_only_silent=troubles.trouble_kinds(row) == ["Silent"],
    )


def _failing_since(row: listings.Row) -> str | None:
    """Return when a tenant's most urgent trouble began; None: there is none, or that is not known."""
    kind, *_ = [*troubles.trouble_kinds(row), ""]
    if kind == "destinations":
        errors = {destination["name"]: destination["lastError"] for destination in row["destinations"]}
        error = errors.get(row["failingDestinations"][0])
        return str(error["since"]) if error else None
    fault = row["firstFaults"].get("DeliveriesHeld" if kind == "held" else kind)
    return fault["since"] if fault else None


def _moment(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _age(text: str | None, now: float) -> float | None:
    return None if text is None else max(0.0, now - _moment(text))


def sort_lines(lines: list[TenantLine], by: SortKey) -> list[TenantLine]:
    """Return the lines in order: the highest rate, age or count first, equal ones by name.

    ``attention`` puts tenants with a trouble first, the most urgent one before the others.
    """
    keys: dict[SortKey, Callable[[TenantLine], object]] = {
        "attention": lambda line: line.urgency,
        "rate": lambda line: -(line.rate or 0.0),
        "last": lambda line: line.last_seconds if line.last_seconds is not None else float("inf"),
        "lag": lambda line: -(line.lag_seconds or 0.0),
        "held": lambda line: -line.held,
        "dead": lambda line: -line.dead,
        "silent": lambda line: -line.silent,
        "name": lambda _: 0.0,
    }
    return sorted(lines, key=lambda line: (keys[by](line), line.urgency if by != "name" else 0, line.name))


def draw_screen(
    title: str, lines: list[TenantLine], *, height: int, width: int, sort: SortKey, only_failing: bool
) -> "rich.text.Text":
    """Return what a terminal shows: title, table and order, in ``height`` lines."""
    import rich.text

    table = draw_table(lines[:height], width, sort=sort, only_failing=only_failing, has_rates=True)
    rows = [*rich.text.Text(title).split(), *table.split()]
    failing = "failing " if only_failing else ""
    foot = rich.text.Text(f"{listings.counted(len(lines), f'{failing}tenant')} by {sort}, Ctrl-C ends")
    return rich.text.Text("\n", no_wrap=True).join([*rows[: height - 1], foot])


def draw_table(
    lines: list[TenantLine], width: int, *, sort: SortKey, only_failing: bool, has_rates: bool
) -> "rich.text.Text":
    """Return the table of tenants, with a mark at the column that orders it."""
    import rich.text

    columns = _columns(lines, sort=sort, only_failing=only_failing, has_rates=has_rates)
    heads = [f"{head}↓" if sort == order else head for head, order, _ in columns]
    (head, *rows), _ = tables.table_rows(
        heads, [[cell(line) for _, _, cell in columns] for line in lines], width, essential=len(heads)
    )
    table = rich.text.Text("", no_wrap=True).append("\n".join(head), "bold")
    for line, row in zip(lines, rows, strict=True):
        style = "yellow" if line.is_only_silent else "red" if line.is_failing else ""
        table.append("\n" + "\n".join(row), style)
    return table


# Head, the order that it marks, and cell function.
_TenantColumn = tuple[str, SortKey | None, Callable[[TenantLine], str]]


def _columns(lines: list[TenantLine], *, sort: SortKey, only_failing: bool, has_rates: bool) -> list[_TenantColumn]:
    """Return the columns. For failing tenants alone, FOR replaces LAG unless LAG is the order."""
    namespaces = {line.name.partition("/")[0] for line in lines}
    prefix = f"{''.join(namespaces)}/" if len(namespaces) == 1 else ""
    columns: list[_TenantColumn] = [("TENANT", "name", lambda line: line.name.removeprefix(prefix))]
    if sort in {"held", "dead", "silent"}:
        columns.append((sort.upper(), sort, lambda line: str(getattr(line, sort))))
    if only_failing and sort != "lag":
        columns.append(("FOR", None, lambda line: tables.duration(line.failing_seconds)))
    else:
        columns.append(("LAG", "lag", lambda line: tables.duration(line.lag_seconds)))
    columns.append(("LAST", "last", lambda line: tables.duration(line.last_seconds)))
    if has_rates:
        columns.append(("VIS/MIN", "rate", lambda line: "" if line.rate is None else f"{line.rate:.1f}"))
    columns.append(("TODAY", None, lambda line: str(line.today)))
    columns.append(("WHY", "attention", lambda line: line.why))
    return columns


def title_of(lines: list[TenantLine], now: str) -> str:
    """Return two lines: how many tenants there are and need a look, and the sums over all. ``now``: RFC 3339."""
    failing = sum(line.is_failing for line in lines)
    silent = sum(line.silent > 0 for line in lines)
    rates = [line.rate for line in lines if line.rate is not None]
    rate = f", {sum(rates):.0f} visits/min" if rates else ""
    sums = {
        "waiting": sum(line.waiting for line in lines),
        "held": sum(line.held for line in lines),
        "dead": sum(line.dead for line in lines),
    }
    deliveries = ", ".join([f"{count} {state}" for state, count in sums.items() if count])
    return (
        f"usher top  {now[11:19]}  {listings.counted(len(lines), 'tenant')}: {failing} failing, {silent} silent{rate}\n"
        f"deliveries: {deliveries or 'none waiting, held or dead'}"
    )


class _Reader:
    """Reads the tenants from the admin port."""

    def __init__(self, client: AdminClient, tenant: str | None, sort: SortKey, *, only_failing: bool) -> None:
        self._client, self._tenant = client, tenant
        self._sort, self._only_failing = sort, only_failing
        self._answers: collections.deque[listings.Row] = collections.deque()
        """The last minute's answers, from which the rates are."""

    def read(self) -> tuple[str, list[TenantLine]]:
        """Return a new reading's title, and its lines in order."""
        answer = self._client.get("/api/tenants", tenant=self._tenant)
        while self._answers and _moment(answer["now"]) - _moment(self._answers[0]["now"]) > _RATE_SECONDS:
            self._answers.popleft()
        lines = lines_of(answer, self._answers[0] if self._answers else None)
        self._answers.append(answer)
        selected_lines = [line for line in lines if line.is_failing or not self._only_failing]
        return title_of(lines, answer["now"]), sort_lines(selected_lines, self._sort)


def _follow(reader: _Reader, seconds: float, sort: SortKey, *, only_failing: bool) -> None:
    """Show a reading every few seconds until Ctrl-C. While no gateway answers, the last reading stays."""
    import rich.console
    import rich.live

    console = rich.console.Console(highlight=False)
    title, lines = reader.read()  # without a gateway the command ends with a message
    said = io.StringIO()
    interrupts: list[int] = []

    def interrupt(number: int, _: types.FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    # Python drops an exception that is raised while it deletes an object, so the loop looks at the list too.
    signal.signal(signal.SIGINT, interrupt)
    try:
        with rich.live.Live(console=console, screen=True, auto_refresh=False) as live:
            while not interrupts:
                size = {"height": console.height, "width": console.width}
                live.update(draw_screen(title, lines, **size, sort=sort, only_failing=only_failing), refresh=True)
                time.sleep(seconds)
                said = io.StringIO()
                try:
                    with contextlib.redirect_stderr(said):
                        title, lines = reader.read()
                except typer.Exit as end:
                    if end.exit_code != WRONG:  # another reading would fail too, such as of a revoked token
                        raise
                    title = said.getvalue().partition("\n")[0].replace("usher:", "usher top ", 1)
    except KeyboardInterrupt:
        return
    except typer.Exit:
        typer.echo(said.getvalue(), nl=False, err=True)  # the terminal shows its own screen again
        raise


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(epilog=_EPILOG)
    def top(
        *,
        tenant: Tenant = None,
        sort: Annotated[SortKey, typer.Option(help="Order of the tenants.")] = "attention",
        failing: Annotated[bool, typer.Option("--failing", help="Only failing tenants.")] = False,
        once: Annotated[bool, typer.Option("--once", help="Print the table once, without rates.")] = False,
        limit: Limit = None,
        seconds: Annotated[float, typer.Option(min=0.2, max=3600, help="Time between two readings.")] = 2.0,
        admin: Admin = ADMIN,
        data: Data = DATA,
    ) -> None:
        """Watch the tenants: visits per minute, last visit, lag, and what is wrong.

        Those with the most urgent trouble come first. A tenant is failing if it has a trouble of
        `usher tenants --failing`: red, or yellow if its only trouble is silence. --sort held, dead or silent adds a
        column with that number. LAG is the age of the oldest delivery that
        waits for its destination, LAST that of the last accepted arrival. --failing shows FOR instead of LAG: how long
        the most urgent trouble lasts, - if that is not known. VIS/MIN is the visits per minute since a
        reading 20 to 60 s ago, - without one.
        """
        if once and sort == "rate":
            fail("--once reads once, so it has no rates", "choose another order, or leave out --once", USAGE)
        reader = _Reader(AdminClient(admin, data), tenant, sort, only_failing=failing)
        if once:
            import rich.console

            title, lines = reader.read()
            page = lines[: row_limit(limit, len(lines))]
            table = draw_table(page, tables.terminal_width(), sort=sort, only_failing=failing, has_rates=False)
            console = rich.console.Console(highlight=False)
            console.print(title, soft_wrap=True, markup=False)
            console.print(table, soft_wrap=True)
            if len(page) < len(lines):
                total = listings.counted(len(lines), "tenant")
                typer.echo(f"Showing {len(page)} of {total}: --limit shows more.", err=True)
        elif not (sys.stdin.isatty() and sys.stdout.isatty()):
            fail("this is not a terminal", "give --once to print the table once, or use `usher tenants -o json`", USAGE)
        else:
            _follow(reader, seconds, sort, only_failing=failing)
