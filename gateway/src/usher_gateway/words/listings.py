"""The listings of stored rows, each as one value, and the table columns: how people see a row from the API.

`records` makes a listing's endpoint from it, and `cli/listings.py` the command. `cli/changes.py` uses the same
filters. `api.filter_from_selection` gives them to the store, whose ``jobs/scopes.py`` selects the rows.
"""

import csv
import dataclasses
import datetime
import io
import itertools
import json
import re
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from usher_gateway import model

if TYPE_CHECKING:
    from usher_gateway.store.base import Filter, ListingPage  # late, because the commands run without a store
    from usher_gateway.store.records import Records

Row = dict[str, Any]  # One row of an answer of the admin port

# Heading and cell function. A listing's columns are in order of importance, because a narrow terminal
# leaves out the last ones.
Column = tuple[str, Callable[[Row], str]]

SHORT_ID = 21  # Characters of an id that are unique in a store: its row key (`model.key_of`), with dashes


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

# Unicode categories: control characters, those without a shape (such as text direction), and line breaks.
_NOT_PRINTED = frozenset({"Cc", "Cf", "Zl", "Zp"})

_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # Printed, because Persian and Indic names have them


def printable(text: str) -> str:
    """Return a text on one line, without characters that command a terminal: a value from a body may have them."""
    if text.isprintable():
        return text
    replaced = {
        character for character in text if unicodedata.category(character) in _NOT_PRINTED and character not in _JOINERS
    }
    return "".join(_REPLACEMENT if character in replaced else character for character in text)


# JSON fields whose own fields are CSV columns. Other maps have keys that differ from row to row.
_OBJECTS = frozenset({"today", "quota", "retention", "lastError", "skipped"})

# How a cell begins that a spreadsheet takes for a formula, also with blanks before it or in full-width characters; a
# number with a sign is none.
_FORMULA = re.compile(r"\s*([=@\uff1d\uff20]|[+\-\uff0b\uff0d](?!\d+(\.\d+)?$))")


def csv_text(rows: Sequence[Row]) -> str:
    """Return rows as CSV: a column for each JSON field. Source: RFC 4180."""
    file = io.StringIO()
    lines = [_csv_cells(row) for row in rows]
    writer = csv.DictWriter(file, dict.fromkeys(itertools.chain(*lines)), restval="")
    if lines:
        writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _csv_cells(row: Row) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in row.items():
        if name in _OBJECTS:
            cells |= {f"{name}{field[0].upper()}{field[1:]}": _csv_cell(value[field]) for field in value or ()}
        else:
            cells[name] = _csv_cell(value)
    return cells


def _csv_cell(value: object) -> str:
    """Return a CSV cell: a text, texts with commas, or JSON.

    It begins with ``'`` if a spreadsheet would run it, because a value from a body may be a formula.
    """
    texts: list[Any] = value if isinstance(value, list) else [value]
    if value in (None, {}):
        cell = ""
    elif all(isinstance(text, str) for text in texts):
        cell = printable(", ".join(texts))
    else:
        cell = printable(json.dumps(value, ensure_ascii=False))
    return f"'{cell}" if _FORMULA.match(cell) else cell


def time_cell(name: str) -> Callable[[Row], str]:
    """Return a cell function for a time (UTC, to the second)."""
    return lambda row: str(row.get(name) or "").replace("T", " ")[:19]


def short_time_cell(name: str) -> Callable[[Row], str]:
    """Return a cell function for a time in the last months (UTC, to the second), so without its year."""
    cell = time_cell(name)
    return lambda row: cell(row)[5:]


def short_id_cell(row: Row) -> str:
    """Return how a row's id begins; every command accepts that for the whole id."""
    return str(row["id"])[:SHORT_ID]


def flag_cell(name: str, word: str) -> Callable[[Row], str]:
    """Return a cell function for a truth value: a word if it is true."""
    return lambda row: word if row.get(name) else ""


def text_cell(name: str) -> Callable[[Row], str]:
    """Return a cell function for a value; None is an empty cell."""
    return lambda row: "" if row.get(name) is None else str(row[name])


def counted(count: int, noun: str) -> str:
    """Return a number, with thousands separators, and its noun in singular or plural."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") and noun != "day" else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


_NAMED = 5  # Most names in a sentence


def named(names: Sequence[str]) -> str:
    """Return names with commas; if many, the first ones and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


# The reason with which a filter selects arrivals whose body has a time that cannot be trusted.
TIMES_UNTRUSTED = "TimesUntrusted"

SKIP_REASONS = frozenset(model.SkipReason.__members__)
QUARANTINE_REASONS = frozenset(model.QuarantineReason.__members__)
VISIT_REASONS = SKIP_REASONS | QUARANTINE_REASONS | {TIMES_UNTRUSTED}


@dataclasses.dataclass(frozen=True)
class FilterFlag:
    """An API filter, and the flag with which commands set it."""

    name: str
    """In a query and in a selection."""
    help: str
    spellings: tuple[str, ...] = ()
    """The flag's spellings; none: ``name`` after two hyphens."""
    metavar: str | None = None
    default: str | None = None
    is_time: bool = False
    """The flag also takes ``2h``, for two hours ago."""


NAMESPACE = FilterFlag("namespace", "In this namespace.")
TENANT = FilterFlag("tenant", "Of this tenant: NAME or NAMESPACE/NAME.")
LISTENER = FilterFlag("listener", "Of this listener.")
ROUTE = FilterFlag("route", "Of this route.")
DESTINATION = FilterFlag("destination", "To this destination: NAME or NAMESPACE/NAME.")
VISIT = FilterFlag("visit", "Of this visit: an id from `usher visits list`.", metavar="ID")
_TIME_FORMS = ": 2026-11-25T12:00 or 2026-11-25 (UTC), 2026-11-25T12:00+01:00, today, yesterday, or 2h (90m, 3d) ago."
SINCE = FilterFlag(
    "since",
    f"From this time on{_TIME_FORMS}",
    spellings=("--since", "--from"),
    is_time=True,
)
UNTIL = FilterFlag("until", "Before this time; same form as --since.", spellings=("--until", "--to"), is_time=True)
REPLAY = FilterFlag("replay", "Created by this replay: an id from `usher replays`.", metavar="ID")
COUNTED_AS = FilterFlag("countedAs", "visit, repeat, redelivery or quarantined.", spellings=("--counted-as",))
REASON = FilterFlag("reason", "For this reason.")
STATE = FilterFlag("state", "pending (also held ones), held, delivered, dead or cancelled.")

LISTENER_FILTERS = (NAMESPACE, TENANT, LISTENER)
ROUTE_FILTERS = (*LISTENER_FILTERS, ROUTE, DESTINATION)
PERIOD_FILTERS = (SINCE, UNTIL)
# A delivery is created with its visit, or by a replay; it may die hours later.
DELIVERY_PERIOD_FILTERS = (
    dataclasses.replace(SINCE, help=f"Created since this time{_TIME_FORMS}"),
    dataclasses.replace(UNTIL, help="Created before this time; same form as --since."),
)
# All of them, without ids. An endpoint and its command have those that fit their rows.
FILTERS = (*ROUTE_FILTERS, *PERIOD_FILTERS, VISIT, REPLAY, COUNTED_AS, REASON, STATE)


@dataclasses.dataclass(frozen=True)
class Listing:
    """An endpoint that lists stored rows, newest first, and the command that prints them."""

    path: str
    """The endpoint's path."""
    page: "Callable[[Records], Callable[[Filter, str | None, int], Awaitable[ListingPage]]]"
    """Returns the store method that reads a page of rows."""
    help: str
    """The command's help text."""
    example: str
    filters: tuple[FilterFlag, ...]
    """The command's flags, and the endpoint's parameters."""
    columns: tuple[Column, ...]
    nothing: str
    """The text for no rows."""
    essential: int
    """So many columns are shown also in a narrow terminal."""
    only: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Filters that are always set."""

    @property
    def parameters(self) -> frozenset[str]:
        """All endpoint parameters."""
        return frozenset({"id", "limit", "cursor", *[flag.name for flag in self.filters]})


def listener_of(row: Row) -> str:
    """Return a row's full listener name."""
    return f"{row['namespace']}/{row['tenant']}/{row['listener']}"


def listener_key(row: Row) -> str:
    """Return a row's ``namespace/listener``: listener names are unique inside a namespace."""
    return f"{row['namespace']}/{row['listener']}"


def verdict_result(verdict: Row) -> str:
    """Return what a verdict came to, such as ``delivered`` or ``skipped Filter``."""
    skipped = f"skipped {verdict['skipped']}" if "skipped" in verdict else ""
    state = f"held {verdict['held']}" if verdict.get("held") else str(verdict.get("state", "gone"))
    if skipped:
        state = f"{skipped}, replayed {state}" if "replayed" in verdict else skipped
    return state


def error_words(row: Mapping[str, Any]) -> str:
    """Return how a delivery's or destination's attempt ended, such as ``Status 400``; empty before the first."""
    return " ".join([str(row[name]) for name in ("error", "status") if row[name]])


def delivery_result(row: Row) -> str:
    """Return a delivery's state, and why it is not delivered or how its last attempt ended."""
    if row["held"]:
        return f"held {row['held']}"
    return " ".join(filter(None, (row["state"], row["cancelled"], error_words(row))))


def _result(row: Row) -> str:
    """Return a delivery's result, and what it waits for.

    A delivery that stays due waits for room in its lane. The words are short, because a line has 80 characters.
    """
    if row["held"]:
        return delivery_result(row)
    if row.get("waitsFor") == "CircuitOpen":
        return f"circuit {time_cell('nextAttemptAt')(row)[11:]}"
    due = ""
    if row.get("dueAt"):
        is_past = datetime.datetime.fromisoformat(row["dueAt"]) <= datetime.datetime.now(datetime.UTC)
        due = "due" if is_past else f"due {time_cell('dueAt')(row)[11:]}"
    is_retry = bool(due and error_words(row))
    return ", ".join(filter(None, (error_words(row) if is_retry else delivery_result(row), due)))


def _verdicts(row: Row) -> str:
    return ", ".join([f"{verdict_result(verdict)} ({verdict['route']})" for verdict in row["verdicts"]])


def _counted_as(row: Row) -> str:
    """Return what an arrival was counted as, or why it was quarantined; and the other company that it names."""
    late, released = flag_cell("late", " late")(row), flag_cell("released", " released")(row)
    company = ""
    if row["otherCompany"]:
        company = f" company {row['otherCompany']}"
    elif row["isOtherCompany"] and not row["reason"]:
        company = " other company"
    return f"{row['reason'] or row['countedAs']}{company}{late}{released}"


VISITS = Listing(
    path="/api/visits",
    page=lambda store: store.visits,
    help="""List arrivals, newest first, with the verdict of each route.

    COUNTED is Visit, Repeat, Redelivery, or why the arrival was quarantined; the id of another company follows.
    --reason is a skip reason (Filter, OncePer, Stale, Repeat, Paused, Shadow) or a quarantine reason. CompanyMismatch
    also lists the visits of another company that were accepted, because companyCheck is Warn. TimesUntrusted lists
    those whose body has a time that cannot be trusted: without an offset, or far in the future.
    """,
    example="usher visits list --tenant acme --since 2h   or   usher visits list --reason Filter -o json",
    filters=(*ROUTE_FILTERS, *PERIOD_FILTERS, COUNTED_AS, REASON),
    columns=(
        ("RECEIVED (UTC)", short_time_cell("receivedAt")),
        ("TENANT", text_cell("tenant")),
        ("ID", short_id_cell),
        ("COUNTED", _counted_as),
        ("VERDICTS", _verdicts),
        ("LISTENER", listener_key),
    ),
    nothing="No such visits.",
    essential=5,
)

QUARANTINE = Listing(
    path="/api/quarantine",
    page=VISITS.page,
    only={"countedAs": "Quarantined"},
    help="List quarantined arrivals, newest first. "
    "--reason: NotJSON, NotObject, NoUser, Truncated, CompanyMismatch ...",
    example="usher quarantine list --tenant acme --reason NoUser --state unreleased",
    filters=(*LISTENER_FILTERS, *PERIOD_FILTERS, REASON, dataclasses.replace(STATE, help="released or unreleased.")),
    columns=(
        *VISITS.columns[:3],
        ("WHY", _counted_as),
        ("LISTENER", listener_key),
        ("BYTES", text_cell("bodyBytes")),
    ),
    nothing="Nothing is quarantined.",
    essential=5,
)

_DELIVERY_COLUMNS: tuple[Column, ...] = (
    ("CREATED (UTC)", short_time_cell("createdAt")),
    ("TENANT", text_cell("tenant")),
    ("DESTINATION", text_cell("destination")),
    ("ID", short_id_cell),
    ("RESULT", _result),
    ("ATTEMPTS", text_cell("attempts")),
    ("ROUTE", text_cell("route")),
    ("LISTENER", listener_key),
)

DELIVERIES = Listing(
    path="/api/deliveries",
    page=lambda store: store.deliveries,
    help="""List deliveries, newest first.

    RESULT is the state, and why it is so. `circuit 15:04:05`: the circuit of the destination is open, and its next
    attempt is at that time (UTC). `Timeout, due 15:04:05`: the last attempt failed, and the next one is at that time.
    --reason is a hold reason (DestinationPaused ...), a cancel reason (Expired ...), an error's code (Timeout ...), or
    NotTried (pending ones without an attempt).
    """,
    example="usher deliveries list --state held   or   usher deliveries list --destination agency/crm --since 1d",
    filters=(*ROUTE_FILTERS, VISIT, REPLAY, *DELIVERY_PERIOD_FILTERS, STATE, REASON),
    columns=_DELIVERY_COLUMNS,
    nothing="No such deliveries.",
    essential=5,
)

# A command only: its endpoint lists all deliveries.
DEAD = dataclasses.replace(
    DELIVERIES,
    only={"state": "dead"},
    help="List dead deliveries, newest first. --reason is an error's code.",
    example="usher dead list --destination agency/crm --since 1d   or   usher dead list -o csv > dead.csv",
    filters=(*ROUTE_FILTERS, *DELIVERY_PERIOD_FILTERS, REASON),
    nothing="No dead deliveries.",
)

ENDPOINTS = (VISITS, DELIVERIES, QUARANTINE)
