"""``usher top``: the tenants of a gateway on one screen, refreshed every few seconds.

The screen is drawn from the admin port's listings alone. Rates are differences between two readings of the last minute.
"""

import collections
import contextlib
import datetime
import errno
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from usher_gateway.admin import listings, troubles
from usher_gateway.cli import destinations, keyboard, listeners, overview, tables, tenants
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

if TYPE_CHECKING:
    import rich.console  # imported only where it prints, because most commands do not need it

_EPILOG = "Example:  usher top   or   usher top --failing --sort dead   or   usher top --once"

SortKey = Literal["attention", "rate", "last", "lag", "held", "dead", "silent", "name"]

_KEYS = (
    "sort a attention, r rate, v last, l lag, h held, d dead, s silent, n name",
    "f failing, arrows PgUp PgDn move, Enter inside, q quit",
)
_KEYS_INSIDE = ("Esc back, q quit",)
_SORT_LETTERS: Mapping[str, SortKey] = {
    "a": "attention",
    "r": "rate",
    "v": "last",
    "l": "lag",
    "h": "held",
    "d": "dead",
    "s": "silent",
    "n": "name",
}
_FAREWELL = frozenset({keyboard.GONE, "\x03", "\x04"})
_ENTER = frozenset({"\r", "\n"})
_STEPS: Mapping[str, int] = {
    **dict.fromkeys(("\x1b[A", "\x1bOA"), -1),
    **dict.fromkeys(("\x1b[B", "\x1bOB"), 1),
    "\x1b[5~": -18,
    "\x1b[6~": 18,
    **dict.fromkeys(("\x1b[H", "\x1b[1~", "\x1bOH"), -1_000_000),
    **dict.fromkeys(("\x1b[F", "\x1b[4~", "\x1bOF"), 1_000_000),
}
"""Keys that move the choice, by lines: up, down, PgUp, PgDn, Home, End. Source: xterm control sequences."""
_RATE_SECONDS = 60.0
_SHORTEST_RATE_SECONDS = 20.0
"""Two readings that are closer give no rate, because a single visit would count for many."""


class TenantLine(msgspec.Struct, frozen=True):
    """A tenant as a line of the screen."""

    name: str
    """``namespace/name``."""
    rate: float | None
    """Visits per minute since a reading 20 to 60 s ago; None without such a reading."""
    today: int
    """Visits of today (UTC)."""
    last_seconds: float | None
    """Seconds since the last accepted arrival; None: never."""
    lag_seconds: float | None
    """Age of the oldest delivery in the backlog; None if there is none."""
    failing_seconds: float | None
    """Seconds since the most urgent trouble began; None: none, or not known."""
    why: str
    """The troubles, the most urgent first."""
    waiting: int
    """Deliveries, as ``held`` and ``dead``."""
    held: int
    dead: int
    silent: int
    """Listeners."""
    urgency: int
    """`troubles.urgency`."""
    is_failing: bool
    """It has a trouble."""
    is_only_silent: bool
    """Its only trouble is silence."""


def lines_of(answer: listings.Row, earlier: listings.Row | None) -> list[TenantLine]:
    """Return the lines for an answer of ``GET /api/tenants``, with rates since an earlier answer."""
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
    """Return when the most urgent trouble of a tenant began; None: there is none, or that is not known."""
    kind, *_ = [*troubles.trouble_kinds(row), ""]
    if kind == "destinations":
        errors = {each["name"]: each["lastError"] for each in row["destinations"]}
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


class Screen:
    """The state of the screen: what is shown, in which order, and the chosen line. Pure."""

    def __init__(self, *, sort: SortKey, only_failing: bool, namespace_and_name: str | None) -> None:
        self.sort = sort
        self.only_failing = only_failing
        self.only = namespace_and_name
        """The tenant inside which a person looks; None: all tenants."""
        self.lines: list[TenantLine] = []
        self.details: list[str] = []
        """The lines about the tenant ``only``."""
        self.problem = ""
        """The error of the last reading, shown instead of the title; empty after a good one."""
        self._chosen = ""
        self._all: list[TenantLine] = []

    def show(self, lines: list[TenantLine]) -> None:
        """Take a new reading."""
        self._all = lines
        shown = [line for line in lines if line.is_failing or not self.only_failing]
        self.lines = sort_lines(shown, self.sort)

    @property
    def chosen(self) -> int:
        """The index of the chosen line. At a new reading it stays with its tenant; a sort key chooses the top line."""
        return next((index for index, line in enumerate(self.lines) if line.name == self._chosen), 0)

    def press(self, key: str) -> None:
        """Change what is shown, as a key says; other keys change nothing."""
        if self.only is not None and key != keyboard.ESCAPE:
            return
        if key in _SORT_LETTERS:
            self.sort, self._chosen = _SORT_LETTERS[key], ""
        elif key == "f":
            self.only_failing, self._chosen = not self.only_failing, ""
        elif key in _STEPS and self.lines:
            self._chosen = self.lines[min(max(self.chosen + _STEPS[key], 0), len(self.lines) - 1)].name
        elif key in _ENTER and self.lines:
            self.only = self.lines[self.chosen].name
        elif key == keyboard.ESCAPE:
            self.only, self.details = None, []
        self.show(self._all)


def draw(screen: Screen, title: str, *, height: int, width: int) -> "rich.console.RenderableType":
    """Return the picture of a screen: title, table or details, and the keys, in ``height`` lines."""
    import rich.console
    import rich.text

    is_inside = screen.only is not None
    keys = _KEYS_INSIDE if is_inside else _KEYS
    title = screen.problem or (f"usher top  inside {screen.only}" if is_inside else title)
    room = max(1, height - len([*title.splitlines(), *keys]))
    foot = []
    if is_inside:
        body = _draw_details(screen.details, room)
    else:
        window = _window(screen, room - 2)  # beside the heads and the foot
        body, left_out = draw_table(screen, width, window)
        foot = [_foot(screen, window, left_out)]
    return rich.console.Group(
        rich.text.Text(title, style="bold", no_wrap=True, overflow="ellipsis"),
        body,
        *(rich.text.Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in keys),
        *(rich.text.Text(line, no_wrap=True, overflow="ellipsis") for line in foot),
    )


def _window(screen: Screen, room: int) -> range:
    """Return the indexes of the lines that fit around the chosen one: as many as there is room for, at least one."""
    room = max(1, room)
    begin = max(0, min(screen.chosen - room // 2, len(screen.lines) - room))
    return range(begin, min(begin + room, len(screen.lines)))


def _foot(screen: Screen, window: range, left_out: Sequence[str]) -> str:
    """Return which lines are shown, in which order, and which columns have no room."""
    lines = f"{window.start + 1}-{window.stop}" if window else "0"
    which = " failing" if screen.only_failing else ""
    no_room = f", no room for {', '.join(left_out)}" if left_out else ""
    return f"{lines} of {len(screen.lines)}{which} by {screen.sort}{no_room}"


def _draw_details(details: list[str], room: int) -> "rich.console.RenderableType":
    import rich.text

    return rich.text.Text("\n".join(details[:room]), no_wrap=True)


_HEADS: Mapping[str, frozenset[SortKey]] = {
    "TENANT": frozenset({"name"}),
    "LAG": frozenset({"lag"}),
    "LAST": frozenset({"last"}),
    "VIS/MIN": frozenset({"rate"}),
    "TODAY": frozenset(),
    "WHY": frozenset({"attention"}),
}
"""Head of a column -> the orders that it marks. A narrow terminal leaves out TODAY first, then the last ones.

Of failing tenants alone, FOR takes the place of LAG unless LAG is the order.
"""

_COUNTS: Mapping[SortKey, Callable[[TenantLine], int]] = {
    "held": lambda line: line.held,
    "dead": lambda line: line.dead,
    "silent": lambda line: line.silent,
}
"""Orders that add a column with their number after the name."""

_SHORTEST_NAME = 16
_SHORTEST_WHY = 40
"""TODAY is left out if WHY would be cut below this width."""


def draw_table(
    screen: Screen, width: int, window: range | None = None
) -> "tuple[rich.console.RenderableType, Sequence[str]]":
    """Return the table of tenants, and the columns that have no room.

    The table has the lines of the ``window``. Without one, it has all lines and no rates, because it is drawn once.
    """
    import rich.text

    heads = [head + ("↓" if screen.sort in orders else "") for head, orders in _HEADS.items()]
    counted = _COUNTS.get(screen.sort)
    namespaces = {line.name.partition("/")[0] for line in screen.lines}
    prefix = f"{''.join(namespaces)}/" if len(namespaces) == 1 else ""
    rows = [heads, *(_cells(line, line.name.removeprefix(prefix)) for line in screen.lines)]
    if screen.only_failing and screen.sort != "lag":
        ages = ["FOR", *[tables.duration(line.failing_seconds) for line in screen.lines]]
        rows = [[row[0], age, *row[2:]] for row, age in zip(rows, ages, strict=True)]
    if counted is not None:
        numbers = [f"{screen.sort.upper()}↓", *map(str, map(counted, screen.lines))]
        rows = [[row[0], number, *row[1:]] for row, number in zip(rows, numbers, strict=True)]
    if window is None:
        rows = _without_column(rows, "VIS/MIN")
    no_room = []
    if _name_room(rows, width) < min(_SHORTEST_NAME, max(tables.width_of(row[0]) for row in rows)):
        rows, no_room = _without_column(rows, "TODAY"), ["TODAY"]
    failing = [tables.width_of(row[0]) for row, line in zip(rows[1:], screen.lines, strict=True) if line.is_failing]
    longest_name = _longest_name(rows, width, max(failing, default=0))
    rows = [[tables.shortened(name, longest_name), *others] for name, *others in rows]
    shown = window if window is not None else range(len(screen.lines))
    # The widest cells of all lines keep the columns where they are while a person moves through the lines.
    widest = [[max(column, key=tables.width_of) for column in zip(*rows[1:], strict=True)]] if screen.lines else []
    shown_rows = [rows[1 + index] for index in shown]
    (head, *lines), left_out = tables.table_lines(rows[0], [*widest, *shown_rows], width)
    table = rich.text.Text(no_wrap=True)
    table.append(head, style="bold")
    for index, text in zip(shown, lines[len(widest) :], strict=True):
        tenant = screen.lines[index]
        is_chosen = window is not None and index == screen.chosen
        style = "yellow" if tenant.is_only_silent else "red" if tenant.is_failing else ""
        table.append(f"\n{text}", style=f"{style} reverse" if is_chosen else style)
    return table, [head.rstrip("↓") for head in (*no_room, *left_out)]


def _without_column(rows: list[list[str]], name: str) -> list[list[str]]:
    index = [head.rstrip("↓") for head in rows[0]].index(name)
    return [[*row[:index], *row[index + 1 :]] for row in rows]


def _name_room(rows: list[list[str]], width: int) -> int:
    """Return how long names can be if the last column, WHY, is whole beside them, or long enough."""
    return _room_of_ends(rows, width) - min(max(tables.width_of(row[-1]) for row in rows), _SHORTEST_WHY)


def _longest_name(rows: list[list[str]], width: int, longest_failing: int) -> int:
    """Return how long names can be beside the words of WHY that have room if names are short.

    For the names of failing tenants, only whole items of WHY count.
    """
    room = _room_of_ends(rows, width)
    beside_items, beside_words = (
        room - max(tables.width_of(shortened) for shortened in column)
        for column in (
            [tables.whole_items(row[-1], room - _SHORTEST_NAME) for row in rows],
            [tables.cut("WHY", row[-1], room - _SHORTEST_NAME) for row in rows],
        )
    )
    return max(_SHORTEST_NAME, beside_words, min(beside_items, longest_failing))


def _room_of_ends(rows: list[list[str]], width: int) -> int:
    """Return the room for the first and the last column beside the others."""
    others = [max(map(tables.width_of, column)) for column in zip(*rows, strict=True)][1:-1]
    return width - sum(others) - (len(others) + 1) * len("  ")


def _cells(line: TenantLine, name: str) -> list[str]:
    return [
        name,
        tables.duration(line.lag_seconds),
        tables.duration(line.last_seconds),
        "-" if line.rate is None else f"{line.rate:.1f}",
        str(line.today),
        line.why or "-",
    ]


def title_of(lines: list[TenantLine], now: str) -> str:
    """Return two lines: how many tenants there are and need a look, and the sums of all. ``now``: RFC 3339."""
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
    """Reads the admin port: all tenants, and the details of the one that a person looks into."""

    def __init__(self, client: AdminClient, tenant: str | None) -> None:
        self._client, self._tenant = client, tenant
        self._answers: collections.deque[listings.Row] = collections.deque()
        """Those of the last minute, from which the rates are."""

    def read(self, screen: Screen, width: int) -> str:
        """Give the screen a new reading; return the title."""
        answer = self._client.get("/api/tenants", tenant=self._tenant)
        while self._answers and _moment(answer["now"]) - _moment(self._answers[0]["now"]) > _RATE_SECONDS:
            self._answers.popleft()
        lines = lines_of(answer, self._answers[0] if self._answers else None)
        self._answers.append(answer)
        screen.show(lines)
        if screen.only is not None:
            screen.details = self._details(screen.only, width)
        return title_of(lines, answer["now"])

    def _details(self, name: str, width: int) -> list[str]:
        (row,) = [row for row in self._answers[-1]["rows"] if overview.path_of(row) == name] or [None]
        lines = [""]
        if row is not None:
            lines += tables.wrapped(state_of(row), width) + tables.wrapped(tenants.next_steps(row), width)
        for kind in ("listeners", "destinations"):
            lines += ["", *lines_inside(kind, self._client.get(f"/api/{kind}", tenant=name)["rows"], width)]
        return lines[1:]


def lines_inside(kind: Literal["listeners", "destinations"], rows: list[listings.Row], width: int) -> list[str]:
    """Return the troubles and the table of a tenant's listeners or destinations."""
    lines = [kind.upper()]
    for row in rows:
        lines += tables.wrapped(_trouble_of(kind, row), width)
    columns = listeners.LISTENER_COLUMNS if kind == "listeners" else destinations.DESTINATION_COLUMNS
    columns = tuple([column for column in columns if column[0] not in {"TROUBLES", "TENANT"}])  # they stand above
    cells = [[cell(row) for _, cell in columns] for row in rows]
    table, left_out = tables.table_lines([head for head, _ in columns], cells, width)
    return lines + table + (tables.wrapped(f"No room for {', '.join(left_out)}.", width) if left_out else [])


def _trouble_of(kind: str, row: listings.Row) -> str:
    """Return the troubles of a listener or a destination; ``""`` if it has none."""
    if kind == "listeners":
        return f"{row['name']}: {', '.join(listeners.faults(row))}" if listeners.is_listener_failing(row) else ""
    return f"{row['name']}: {destinations.trouble(row)}" if destinations.is_destination_failing(row) else ""


def state_of(row: listings.Row) -> str:
    """Return the state of a tenant in one line."""
    needs = troubles.tenant_troubles(row)
    has_room = row["quotaUsed"] is not None and "quota" not in needs
    quota = f", {row['quotaUsed']:.0%} of the quota" if has_room else ""
    none_yet = "none accepted yet"
    if row["today"]["refused"] and "Refusing" not in needs:  # the words of this trouble have the number
        none_yet += f", {row['today']['refused']} refused today"
    last = f"last accepted {listings.time_cell('lastArrival')(row)}" if row["lastArrival"] else none_yet
    visits = listings.counted(row["today"]["visits"], "visit")
    return f"{visits} today{quota}, {last}: {', '.join(needs.values()) or 'no troubles'}"


class EndedError(Exception):
    """A reading ended the command; ``said`` is for standard error, once the terminal shows its own screen again."""

    def __init__(self, said: str, exit_code: int) -> None:
        super().__init__(said)
        self.said = said
        self.exit_code = exit_code


def read_again(reader: _Reader, screen: Screen, width: int, title: str) -> str:
    """Give the screen a new reading; return its title. While no gateway answers, the last reading stays.

    Raises:
        EndedError: another reading would fail too, for example because the gateway does not know the token any more.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            title = reader.read(screen, width)
    except typer.Exit as end:
        if end.exit_code != WRONG:
            raise EndedError(said.getvalue(), end.exit_code) from end
        screen.problem = said.getvalue().partition("\n")[0].replace("usher:", "usher top ", 1)
    else:
        screen.problem = ""
    return title


def _follow(reader: _Reader, screen: Screen, seconds: float) -> None:
    """Show the screen until a person quits, or the terminal is gone."""
    import termios

    import rich.console

    console = rich.console.Console(highlight=False)
    title = reader.read(screen, console.width)  # without a gateway the command ends with a message
    try:
        _watch(reader, screen, seconds, console, title)
    except EndedError as end:
        typer.echo(end.said, nl=False, err=True)
        raise typer.Exit(end.exit_code) from None
    except (OSError, termios.error) as error:
        if error.args[0] != errno.EIO:
            raise
        # The interpreter writes what is left of the screen when it exits, and a terminal that is gone fails that too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _watch(reader: _Reader, screen: Screen, seconds: float, console: "rich.console.Console", title: str) -> None:
    import rich.live

    with rich.live.Live(console=console, screen=True, auto_refresh=False) as live, keyboard.keyboard() as next_key:
        due = time.monotonic() + seconds
        while True:
            if time.monotonic() >= due:
                title, due = read_again(reader, screen, console.width, title), time.monotonic() + seconds
            live.update(draw(screen, title, height=console.height, width=console.width), refresh=True)
            key = next_key(due - time.monotonic())
            while key:  # also those that were pressed during the drawing, because each drawing takes time
                if key in _FAREWELL:
                    return
                was_inside = screen.only
                screen.press(key)
                if screen.only not in {None, was_inside}:
                    due = 0.0  # read the details at once
                key = next_key(0.0)


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
        screen = Screen(sort=sort, only_failing=failing, namespace_and_name=None)
        reader = _Reader(AdminClient(admin, data), tenant)
        if once:
            import rich.console

            title = reader.read(screen, 0)
            total = len(screen.lines)
            screen.lines = screen.lines[: row_limit(limit, total)]
            console = rich.console.Console(highlight=False)
            console.print(title, soft_wrap=True, markup=False)
            table, left_out = draw_table(screen, console.width)
            console.print(table)
            if len(screen.lines) < total:
                typer.echo(
                    f"Showing {len(screen.lines)} of {listings.counted(total, 'tenant')}: --limit shows more.", err=True
                )
            if left_out:
                tables.print_text(f"No room for {', '.join(left_out)}: widen the terminal.", err=True)
        elif not (sys.stdin.isatty() and sys.stdout.isatty()):
            fail("this is not a terminal", "give --once to print the table once, or use `usher tenants -o json`", USAGE)
        else:
            _follow(reader, screen, seconds)
