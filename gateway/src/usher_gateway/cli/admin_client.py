"""A client for a running gateway's admin port, with the flags and errors that its commands share."""

import contextlib
import datetime
import http.client
import inspect
import json
import os
import pathlib
import re
import shlex
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import typer.core

from usher_gateway import model
from usher_gateway.cli import tables
from usher_gateway.words import listings

WRONG, USAGE = 1, 2  # Exit codes: the command found something wrong; the command line was wrong

_TIMEOUT_SECONDS = 30.0
_SEARCH_SECONDS = 30.0
_PAGE = 500
_ROWS_IN_TERMINAL, _ROWS = 50, 1_000  # How many rows a list has without --limit
_CANDIDATES = 3  # Rows that are named if the digits of an id are those of several

# Path and command for lists whose name differs from their rows' name.
_LISTS = {
    "requests": ("/api/persons/erasures", "usher person requests"),
    "quarantined arrivals": ("/api/quarantine", "usher quarantine list"),
}

# Group that a command expects -> the list that may have the id instead, and a hint.
_OTHER_KINDS = {
    "visits": ("/api/deliveries", "That is the id of a delivery: `usher deliveries show {}` shows it."),
    "deliveries": (
        "/api/visits",
        "That is the id of a visit: `usher deliveries list --visit {}` lists its deliveries.",
    ),
}

_FULL_ID = 36  # Characters of a whole id

_FILTER_NAMES = frozenset(flag.name for flag in listings.FILTERS)


def _without_csv(context: typer.Context, output: tables.OutputFormat) -> tables.OutputFormat:
    """Refuse CSV as a flag; print text if a variable asks for CSV, because it is meant for other commands."""
    if output != "csv":
        return output
    source = context.get_parameter_source("output")
    if source is not None and source.name == "ENVIRONMENT":
        return "text"
    raise typer.BadParameter("this command has no CSV: choose text or json")


# Flags that select rows have no environment variables, so that a variable left over in a shell cannot change the rows
# that a command redrives, replays or releases.

Admin = Annotated[str, typer.Option(envvar="USHER_ADMIN", help="The gateway's admin port.", metavar="URL")]
Data = Annotated[
    pathlib.Path,
    typer.Option(envvar="USHER_DATA", help="Folder with the tokens; USHER_TOKEN takes precedence.", metavar="DIR"),
]
OutputOption = Annotated[
    tables.OutputFormat,
    typer.Option("--output", "-o", envvar="USHER_OUTPUT", help="text for people; json or csv for programs."),
]
# For commands whose result is not a table.
DocumentOutput = Annotated[
    tables.OutputFormat,
    typer.Option(
        "--output",
        "-o",
        envvar="USHER_OUTPUT",
        metavar="[text|json]",
        callback=_without_csv,
        help="text for people; json for programs.",
    ),
]

Namespace = Annotated[str | None, typer.Option(help=listings.NAMESPACE.help)]
Tenant = Annotated[str | None, typer.Option(help=listings.TENANT.help)]
Listener = Annotated[str | None, typer.Option(help=listings.LISTENER.help)]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100_000,
        envvar="USHER_LIMIT",
        help=f"The most rows to list. Default: {_ROWS_IN_TERMINAL} in a terminal, else {_ROWS:,}; "
        "of tenants, listeners and destinations all.",
    ),
]
Cursor = Annotated[
    str | None, typer.Option(help="Go on after an earlier page, whose last line has this flag.", metavar="TEXT")
]
Id = Annotated[str, typer.Argument(help="An id from a listing, or its first digits.", metavar="ID")]

ADMIN, DATA = "http://127.0.0.1:9090", pathlib.Path("data")  # Defaults of --admin and --data


class AdminClient:
    """Sends requests to the admin port. On every failure it ends the command with a message and a hint."""

    def __init__(self, admin: str, data: pathlib.Path, *, operate: bool = False) -> None:
        self.url = admin.rstrip("/") if "://" in admin else f"http://{admin.rstrip('/')}"
        self._token = _token(data, "operate.token" if operate else "observe.token")
        # No proxy from the environment, because it would see the token.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: str | int | None) -> Any:
        """Return the JSON answer to a GET request."""
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: str | int | None) -> bytes:
        """Return the raw answer to a GET request."""
        parameters = {name: value for name, value in query.items() if value is not None}
        return self._send(f"{path}?{urllib.parse.urlencode(parameters)}" if parameters else path, None)

    def post(self, path: str, selection: Mapping[str, object]) -> Any:
        """Return the JSON answer to a POST request."""
        return json.loads(self._send(path, json.dumps(selection).encode()))

    def rows(
        self, path: str, limit: int, cursor: str | None, **query: str | None
    ) -> tuple[list[listings.Row], str | None]:
        """Read a listing's pages until there are ``limit`` rows, no more rows, or 30 s have passed.

        The second value is the cursor for further rows; None if there are none.
        """
        rows: list[listings.Row] = []
        end = time.monotonic() + _SEARCH_SECONDS
        while len(rows) < limit:
            page = self.get(path, limit=min(_PAGE, limit - len(rows)), cursor=cursor, **query)
            rows += page["rows"]
            cursor = page["nextCursor"]
            if cursor is None:
                break
            if time.monotonic() > end:
                tables.print_text(f"The search took {_SEARCH_SECONDS:.0f} s: narrow it with --since.", err=True)
                break
        return rows, cursor

    def full_id(self, group: str, identifier: str) -> str:
        """Return the row id that begins with these digits. ``group``: a command group, or one in `_LISTS`."""
        if len(identifier) >= _FULL_ID:
            return identifier
        path, command = _LISTS.get(group, (f"/api/{group}", f"usher {group} list"))
        rows = self.get(path, id=identifier, limit=_CANDIDATES)["rows"]
        if not rows:
            hint = self.hint_of_other_kind(group, identifier) or f"use an id from `{command}`"
            fail(f"of the {group}, none have an id that begins with {identifier}", hint, WRONG)
        if len(rows) > 1:
            hint = f"give more of its digits: {', '.join(row['id'] for row in rows[:_CANDIDATES])} ..."
            fail(f"of the {group}, several have an id that begins with {identifier}", hint, USAGE)
        return str(rows[0]["id"])

    def hint_of_other_kind(self, group: str, identifier: str) -> str:
        """Return what to do with an id, or its first digits, if it names a visit instead of a delivery, or vice versa.

        ``group``: what the command expects. ``""``: it is neither.
        """
        if group not in _OTHER_KINDS:
            return ""
        path, hint = _OTHER_KINDS[group]
        rows = self.get(path, id=identifier, limit=_CANDIDATES)["rows"]
        return hint.format(rows[0]["id"][: listings.SHORT_ID]) if len(rows) == 1 else ""

    def _send(self, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            request = urllib.request.Request(self.url + path, body, headers)  # noqa: S310 - the user's own URL
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS if body is None else None) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            self._fail_with_problem(error)
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            fail(
                f"no gateway answers at {self.url}: {reason}",
                "is `usher run` running there? --admin says where (it has its own port, not the one for Purple)",
                WRONG,
            )

    def _fail_with_problem(self, error: urllib.error.HTTPError) -> NoReturn:
        try:
            problem = json.loads(error.read(65_536))
            detail, hint = str(problem["detail"]), str(problem.get("hint", ""))
        except (ValueError, KeyError, TypeError):
            fail(f"{self.url} answered {error.code}", "is that the admin port of a gateway?", WRONG)
        if error.code == 401:
            if "USHER_TOKEN" not in os.environ:
                hint = "give --data the folder that `usher run` runs on, or set USHER_TOKEN"
            fail("the gateway does not know this token", hint, USAGE)
        fail(detail, hint, USAGE if error.code < 500 else WRONG)


def row_limit(limit: int | None, otherwise: int = _ROWS) -> int:
    """Return how many rows a list may have: those that fit a person, or those that fit a program (``otherwise``)."""
    return limit or (_ROWS_IN_TERMINAL if sys.stdout.isatty() else otherwise)


def with_names_of_filters(context: typer.Context, nothing: str) -> str:
    """Return an empty list's text with the command's filters: ``No listener is silent (--tenant acme)``.

    Without them it would seem to describe all rows.
    """
    filters = [
        f"{parameter.opts[0]} {context.params[parameter.name]}"
        for parameter in context.command.params
        if parameter.name in _FILTER_NAMES and context.params[parameter.name] is not None
    ]
    return f"{nothing.removesuffix('.')} ({', '.join(filters)})." if filters else nothing


def print_next_page(context: typer.Context, shown: str, cursor: str) -> None:
    """Say on standard error how many rows a page has, and below it, which command prints the next one."""
    words = context.command_path.split()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name != "cursor" and source is not None and source.name == "COMMANDLINE":
            value = context.params[parameter.name or ""]
            words += [parameter.opts[0], *([] if value is True else [str(value)])]
    tables.print_text(f"Showing {shown}.", err=True)
    typer.echo(f"next: {shlex.join([*words, '--cursor', cursor])}", err=True)  # whole, because it is pasted


# How the help for a `ListingGroup` ends.
LIST_IS_IMPLIED = "Without a command it lists; the flags are those of `list`."


class ListingGroup(typer.core.TyperGroup):
    """A command group whose command ``list`` is implied."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add the word ``list`` if the arguments name no command."""
        is_implied = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        is_completed = ctx.resilient_parsing  # a shell asks for the commands of the group
        return super().parse_args(ctx, ["list", *args] if is_implied and not is_completed else args)


def require_files(paths: Iterable[pathlib.Path]) -> None:
    """End the command if a file or folder does not exist; ``-`` is standard input."""
    for path in paths:
        if str(path) != "-" and not os.path.exists(path):  # noqa: PTH110 - False for a name that is too long
            fail(f"there is no file or folder {path}", "", USAGE)


def quoted(text: str) -> str:
    """Quote a text as one path segment."""
    return urllib.parse.quote(text, safe="")


def fail(message: str, hint: str, code: int) -> NoReturn:
    """End the command with a message and a hint."""
    lead = "usher: "
    tables.print_text(message, lead=lead, err=True)
    tables.print_text(hint, lead=" " * len(lead), err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def ending_with_message() -> Iterator[None]:
    """End the command with the message and the hint if the block raises an Usher error."""
    try:
        yield
    except model.UsherError as error:
        fail(str(error), error.hint, USAGE if isinstance(error, model.ConfigurationError) else WRONG)


def _token(data: pathlib.Path, name: str) -> str:
    token = os.environ.get("USHER_TOKEN", "").strip()
    if token:
        return token
    from usher_gateway.access import tokens

    try:
        return tokens.load(data / name)
    except model.ConfigurationError as error:
        hint = "give --data the folder that `usher run` runs on (or its --admin-tokens), or set USHER_TOKEN"
        fail(str(error), hint, USAGE)


def parse_moment(text: str | None) -> str | None:
    """Return a time in the API's form; ``2h`` means two hours ago, and days are UTC days."""
    if text is None:
        return None
    if text in {"today", "yesterday"}:
        today = datetime.datetime.now(datetime.UTC).date()
        return (today - datetime.timedelta(days=text == "yesterday")).isoformat()
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text, re.ASCII)
    if ago is None:
        if not re.match(r"\d{4}-\d\d", text, re.ASCII):
            hint = "write 2026-11-25T12:00Z, 2026-11-25T12:00, 2026-11-25, 2026-11, today, yesterday, or 2h (90m, 3d)"
            fail(f"{text!r} is not a time", hint, USAGE)
        return text
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[ago[2]]
    try:
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(**{unit: int(ago[1])})
    except OverflowError:
        fail(f"{text} is too long ago", "", USAGE)
    return then.isoformat(timespec="seconds").replace("+00:00", "Z")


_Command = TypeVar("_Command", bound=Callable[..., None])


def with_filters(*filters: listings.FilterFlag) -> Callable[[_Command], _Command]:
    """Give a command the filters' flags; it gets their values as its parameter ``**filters``."""
    return with_parameters(map(_parameter, filters))


def with_parameters(parameters: Iterable[inspect.Parameter]) -> Callable[[_Command], _Command]:
    """Give a command parameters whose values it gets in its last one, such as ``**filters``.

    typer makes a command's flags from its function's signature. So the signature gets the parameters, as if
    they were written there.
    """

    def add(command: _Command) -> _Command:
        own_parameters = list(inspect.signature(command).parameters.values())
        assert own_parameters.pop().kind is inspect.Parameter.VAR_KEYWORD
        signature = inspect.Signature([*parameters, *own_parameters])
        command.__signature__ = signature  # type: ignore[attr-defined]  # PEP 362 defines it
        return command

    return add


def _parameter(filter_flag: listings.FilterFlag) -> inspect.Parameter:
    option = typer.Option(
        *filter_flag.spellings,
        help=filter_flag.help,
        metavar=filter_flag.metavar,
        callback=parse_moment if filter_flag.is_time else None,
    )
    return inspect.Parameter(
        filter_flag.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=filter_flag.default,
        annotation=Annotated[str | None, option],
    )
