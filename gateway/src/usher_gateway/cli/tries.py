"""``usher try``: what changed manifests would do with the visits that a gateway has stored."""

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer

from usher_gateway.cli import check, tables
from usher_gateway.cli.admin_client import (
    ADMIN,
    DATA,
    USAGE,
    WRONG,
    Admin,
    AdminClient,
    Data,
    DocumentOutput,
    fail,
    require_files,
    with_filters,
)
from usher_gateway.words import listings
from usher_gateway.words.listings import LISTENER_FILTERS, UNTIL, counted

EXCEEDED = 3  # Exit code: a limit of --fail-on is exceeded
_KINDS = ("Listener", "Tenant", "Destination")  # Kinds that a gateway tries. Secrets stay here.
_QUESTION_BYTES = 10_000  # Most bytes of a question besides the manifests
_DIFFS = 3  # For how many visits of each route --diff shows the difference

_SINCE = dataclasses.replace(listings.SINCE, spellings=("--since", "--last"), default="7d")

_MEASURES = ("newly-sent", "newly-skipped", "changed", "errors")

_EPILOG = """\
Example:  usher try listener.yaml --last 7d   or   usher try listener.yaml --diff

In a pull request:  usher try changed/ --fail-on errors=0 --fail-on newly-skipped=5%
"""

_COLUMNS: tuple[listings.Column, ...] = (
    ("ROUTE", lambda row: str(row["route"])),
    ("BEFORE", lambda row: _sent(row["before"])),
    ("NOW", lambda row: _sent(row["now"])),
    ("+SENT", lambda row: str(row["newlySent"])),
    ("-SENT", lambda row: str(_measured(row, "newly-skipped"))),
    ("CHANGED", lambda row: str(row["changed"])),
    ("ERRORS", lambda row: _errors(row["before"], row["now"])),
    ("MEAN MS", lambda row: f"{row['meanMilliseconds']:.3f}"),
    ("MAX MS", lambda row: f"{row['longestMilliseconds']:.3f}"),
)


class ChangeLimit(msgspec.Struct, frozen=True):
    """A --fail-on limit, for each route."""

    text: str
    """As it was given."""
    measure: str
    most: float
    is_share: bool
    """``most`` is a percentage of the tried visits."""

    def is_exceeded(self, route: listings.Row, tried: int) -> bool:
        """Return whether a route changes more than the limit allows."""
        count = _measured(route, self.measure)
        return count * 100 > self.most * tried if self.is_share else count > self.most


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("try", epilog=_EPILOG)(try_manifests)


@with_filters(*LISTENER_FILTERS, _SINCE, UNTIL)
def try_manifests(
    *,
    files: Annotated[
        list[pathlib.Path], typer.Argument(help="YAML files, folders of *.yaml and *.yml, or - for standard input.")
    ],
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="The most visits of a listener, the newest first.")
    ] = 1_000,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show how the requests of a few visits change, without personal values.")
    ] = False,
    show_values: Annotated[
        bool, typer.Option("--show-values", help="Show the differences with values: needs the scope bodies:read.")
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=MOST",
            help="End with 3 if a route has more: newly-sent, newly-skipped, changed or errors, as a number or as a "
            "percentage of the tried visits. Repeat the flag for several.",
        ),
    ] = None,
    output: DocumentOutput = "text",
    admin: Admin = ADMIN,
    data: Data = DATA,
    **filters: str | None,
) -> None:
    """Try changed manifests on the visits that a running gateway has stored. Nothing is sent, stored or changed.

    A file with one Listener, Destination or Tenant is enough: the gateway lays it over what it runs. Per route it says
    how many visits would be sent and were sent before, by the present rules, and what the expressions cost.

    Whether an arrival is a visit or a repeat stays as it was counted. Exit code 0: done; 1: the gateway failed, or had
    no time to try a visit that --fail-on needs; 2: the manifests or the flags are wrong; 3: a limit of --fail-on is
    exceeded.
    """
    limits = [_parse_limit(text) for text in fail_on or []]
    require_files(files)
    objects = _read_manifests(files)
    question = {name: value for name, value in filters.items() if value is not None} | {
        "manifests": objects,
        "limit": limit,
        "diffs": _DIFFS if diff or show_values else 0,
        "showValues": show_values,
    }
    answer = AdminClient(admin, data, operate=True).post("/api/try", question)
    exceeded = [*_exceeded(answer, limits)]
    if output == "json":
        tables.print_json(answer | {"exceeded": exceeded})
    else:
        _print(answer, objects, has_diffs=diff or show_values)
    if exceeded:
        first = exceeded[0]
        share = f"{first['count']} of {first['tried']} ({first['count'] * 100 / first['tried']:.3g}%)"
        message = f"{first['listener']}, route {first['route']}: {share} exceed {first['limit']}"
        more = f" ({len(exceeded) - 1} more)" if len(exceeded) > 1 else ""
        fail(message + more, "", EXCEEDED)
    untried = [listener for listener in answer["listeners"] if listener["endedBy"] == "time" and not listener["tried"]]
    if limits and untried:
        name = f"{untried[0]['namespace']}/{untried[0]['listener']}"
        fail(
            f"{name}: the time of a try was over before one visit was tried",
            "try one listener, or a later --since",
            WRONG,
        )


def _parse_limit(text: str) -> ChangeLimit:
    form = re.fullmatch(r"([a-z-]+)=(\d{1,9}(?:\.\d{1,6})?)(%?)", text)
    if form is None or form[1] not in _MEASURES:
        hint = f"write one of {', '.join(_MEASURES)} with a number or a percentage, as in newly-skipped=5%"
        fail(f"--fail-on: {text!r} is not a limit", hint, USAGE)
    return ChangeLimit(text, form[1], float(form[2]), form[3] == "%")


def _read_manifests(paths: list[pathlib.Path]) -> list[dict[str, Any]]:
    """Return the objects that a gateway tries; end the command if there is none, or if one has a mistake.

    References may lead to objects that only the gateway has, so an unknown name counts as valid here.
    """
    from usher_gateway import documents
    from usher_gateway.admin.try_limits import MAX_MANIFEST_BYTES
    from usher_gateway.config import file_reading
    from usher_gateway.resources import conditions, manifests, overlay

    standard_input = sys.stdin.buffer.read() if file_reading.STANDARD_INPUT in paths else b""
    reading = file_reading.FileReader(paths, standard_input).read().manifests
    objects = {loaded.resource.identity: loaded for loaded in reading.objects}
    findings = overlay.overlay_documents(
        documents.Snapshot({}, {}), [loaded.resource for loaded in reading.objects]
    ).findings
    own_findings = [finding for finding in findings if finding.reason != conditions.Reason.TenantNotFound]
    problems = sorted([*reading.problems, *manifests.locate(own_findings, objects, reading)])
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        for problem in errors:
            check.print_problem(problem)
        fail(counted(len(errors), "problem"), "correct the manifests; `usher check` lists everything", USAGE)
    tried = [msgspec.to_builtins(loaded.resource) for loaded in reading.objects if loaded.resource.kind in _KINDS]
    if not tried:
        fail("there is no Listener, Tenant or Destination in the manifests", "", USAGE)
    if len(json.dumps(tried)) > MAX_MANIFEST_BYTES - _QUESTION_BYTES:
        fail("the manifests are too large for one try", "name only the files that change", USAGE)
    return tried


def _sent(counts: listings.Row | None) -> str:
    return "" if counts is None else str(counts["sent"])


def _errors(counts_before: listings.Row | None, counts_now: listings.Row | None) -> str:
    """Return how many visits fail, with an arrow from the number before if some failed and it changes."""
    before, now = _error_count(counts_before), _error_count(counts_now)
    return f"{before}→{now}" if before and before != now else str(now)


def _error_count(counts: listings.Row | None) -> int:
    return 0 if counts is None else sum(counts["errors"].values())


def _measured(route: listings.Row, measure: str) -> int:
    match measure:
        case "newly-sent":
            return int(route["newlySent"])
        case "newly-skipped":
            return sum(route["newlySkipped"].values())
        case "changed":
            return int(route["changed"])
    return _error_count(route["now"])


def _exceeded(answer: listings.Row, limits: list[ChangeLimit]) -> Iterator[listings.Row]:
    """Yield each limit that a route exceeds."""
    for listener in answer["listeners"]:
        for route in listener["routes"]:
            for limit in limits:
                if limit.is_exceeded(route, listener["tried"]):
                    yield {
                        "listener": f"{listener['namespace']}/{listener['listener']}",
                        "route": route["route"],
                        "limit": limit.text,
                        "count": _measured(route, limit.measure),
                        "tried": listener["tried"],
                    }


def _print(answer: listings.Row, objects: list[dict[str, Any]], *, has_diffs: bool) -> None:
    since = str(answer["since"]).replace("T", " ")[:16]
    changed = {(listener["namespace"], listener["listener"]) for listener in answer["listeners"]}
    for index, listener in enumerate(answer["listeners"]):
        if index:
            typer.echo()
        _print_listener(listener, since, has_diffs=has_diffs)
    names = [
        (manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        for manifest in objects
        if manifest["kind"] == "Listener"
    ]
    same = len(set(names) - changed)
    if same:
        tables.print_text(f"{counted(same, 'listener')} of the manifests not tried: as in force, or not selected.")
    elif not changed:
        typer.echo("The manifests change no listener that is in force.")


def _arrivals(count: int) -> str:
    return "1 visit or repeat" if count == 1 else f"{count:,} visits and repeats"


def _print_listener(listener: listings.Row, since: str, *, has_diffs: bool) -> None:
    name = f"{listener['namespace']}/{listener['listener']} (tenant {listener['tenant']})"
    if not listener["inForce"]:
        tables.print_text(f"{name} is not in force, so it does nothing before this change.")
    if listener["dedupeIgnored"]:
        tables.print_text(f"{name}: the change of dedupe is not tried; arrivals stay the visits or repeats they were.")
    if not listener["inPeriod"]:
        tables.print_text(f"{name}: no visit or repeat is stored since {since} UTC; nothing was tried.")
        return
    if listener["endedBy"]:
        limit = "--limit" if listener["endedBy"] == "limit" else "the time of a try"
        tried = f"the newest {listener['tried']:,} of about {_arrivals(listener['inPeriod'])} since {since} UTC"
        tables.print_text(f"{name}: {tried}, because of {limit}")
    else:
        tables.print_text(f"{name}: {_arrivals(listener['tried'])} since {since} UTC")
    if listener["withoutBody"]:
        tables.print_text(
            f"Not tried: {listener['withoutBody']}, because bodies were deleted at the end of their retention."
        )
    tables.print_rows(listener["routes"], _COLUMNS, "text", "It has no route.", essential=8)
    for route in listener["routes"]:
        for text in _details(route):
            tables.print_text(f"{route['route']}: {text}")
    for route in listener["routes"]:
        for diff in route["diffs"]:
            typer.echo(f"\n{route['route']}, visit {diff['visit']}:")
            for line in diff["lines"]:
                colour = {"+": typer.colors.GREEN, "-": typer.colors.RED}.get(line[:1])
                typer.echo(f"  {typer.style(listings.printable(line), fg=colour)}")
    if has_diffs and not any(route["changed"] for route in listener["routes"]):
        tables.print_text("No visit is sent with another request, so there is no difference to show.")


def _details(route: listings.Row) -> Iterator[str]:
    """Yield what a route's numbers mean, with examples."""
    before, now, examples = route["before"], route["now"], route["examples"]
    if before is None:
        yield "this route is new"
    if now is None:
        yield "the change removes this route"
    if route["newlySent"]:
        yield f"{counted(route['newlySent'], 'visit')} newly sent{_examples(examples['newlySent'])}"
    if route["newlySkipped"]:
        skipped = counted(_measured(route, "newly-skipped"), "visit")
        yield f"{skipped} newly skipped ({_reasons(route['newlySkipped'])}){_examples(examples['newlySkipped'])}"
    if route["changed"]:
        yield f"{counted(route['changed'], 'visit')} sent with another request{_examples(examples['changed'])}"
    errors = f"{_reasons(now['errors'])}{_examples(examples['errors'])}" if now and now["errors"] else ""
    if before and before["errors"]:
        yield f"errors before: {_reasons(before['errors'])}; now: {errors or 'none'}"
        if now and now["skipped"]:
            yield f"skipped now: {_reasons(now['skipped'])}"
    elif errors:
        yield f"errors: {errors}"
    if now and now["held"]:
        yield f"sent after a hold: {_reasons(now['held'])}"


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join([f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1])])


def _examples(visits: list[str]) -> str:
    short = [visit[: listings.SHORT_ID] for visit in visits[:2]]
    return f", such as {' and '.join(short)}" if short else ""
