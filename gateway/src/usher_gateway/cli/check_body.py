"""``usher check --body``: prints how listeners read a body, and finds the expressions that fail on it."""

import pathlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from usher_gateway.cli import admin_client, tables
from usher_gateway.words import listings

if TYPE_CHECKING:
    from usher_gateway import documents, expressions, model
    from usher_gateway.config.files import FileConfiguration
    from usher_gateway.ingest import body_reading
    from usher_gateway.ingest.registry import LiveListener
    from usher_gateway.resources import conditions

STANDARD_INPUT = pathlib.Path("-")

_SHOWN_LISTENERS = 3  # Most listeners that are named if several read the body in the same way

_TIMES = {
    "Absent": ("there is none", "set `fields.occurredAt` to its path, if the sender gives the time elsewhere"),
    "NoOffset": ("it has no offset", "set `fields.occurredAtZone` to the sender's zone, such as Europe/London"),
    "InFuture": ("it is over 2 minutes in the future", "check the sender's clock, and `fields.occurredAtZone`"),
    "NotATime": (
        "it cannot be read as a time since the year 2000",
        "Usher reads ISO 8601, and seconds or milliseconds since 1970; is this the right field?",
    ),
}


@dataclass(frozen=True)
class SharedReading:
    """How some listeners read the body."""

    listeners: list[str]
    """``namespace/name``; empty if no manifests are given: as a listener without ``fields`` reads it."""
    reading: "body_reading.BodyReading"

    @property
    def is_wrong(self) -> bool:
        """True if the body would be quarantined."""
        return self.reading.outcome not in {"Visit", "Probe"}


def read_content(path: pathlib.Path) -> bytes:
    """Return the body in a file; ends the program if there is none."""
    try:
        return sys.stdin.buffer.read() if path == STANDARD_INPUT else path.read_bytes()
    except OSError:
        admin_client.fail(f"{path} cannot be read", "name a file that holds one body", admin_client.USAGE)


def read_body(content: bytes, listeners: "Iterable[documents.ListenerDocument]") -> list[SharedReading]:
    """Return how listeners read a body; listeners that read it in the same way together."""
    import msgspec

    from usher_gateway import documents, model
    from usher_gateway.ingest import body_reading

    nameless = documents.ListenerDocument("", "", documents.TenantDocument(""), addresses=())
    keys, now = model.derive_keys(bytes(32)), time.time_ns() // 1000
    readings: dict[bytes, SharedReading] = {}
    for document in [*listeners] or [nameless]:
        reading = body_reading.read_body(_live(document, keys), content, "", now, keys)
        shared = readings.setdefault(msgspec.json.encode(reading), SharedReading([], reading))
        if document is not nameless:
            shared.listeners.append(document.key)
    return list(readings.values())


def _live(document: "documents.ListenerDocument", keys: "model.Keys") -> "LiveListener":
    """Return a listener without its routes."""
    import msgspec

    from usher_gateway.ingest.counters import ArrivalCounters, ExpressionCounters
    from usher_gateway.ingest.cpu_limits import TenantBudgets
    from usher_gateway.ingest.registry import ListenerRegistry

    registry = ListenerRegistry(
        keys=keys, expressions=ExpressionCounters(), counters=ArrivalCounters(), budgets=TenantBudgets()
    )
    return registry.prepare(msgspec.structs.replace(document, routes=()), {}, 0.0)


def find_failures(content: bytes, configuration: "FileConfiguration") -> "list[conditions.Problem]":
    """Return an error for each expression that fails on a body with which a listener would evaluate it."""
    from usher_gateway import expressions, model
    from usher_gateway.expressions import samples
    from usher_gateway.ingest import body_reading

    problems: dict[conditions.Problem, None] = {}
    keys, now = model.derive_keys(bytes(32)), time.time_ns() // 1000
    for document in configuration.snapshot.listeners.values():
        values = body_reading.expression_values(_live(document, keys), content, now)
        if values is None:
            continue
        for identity, path, source, where in _evaluated(document, configuration, values):
            evaluation = expressions.compile_expression(source, where).evaluate(*values)
            code, loaded = samples.failure_of(evaluation), configuration.objects.get(identity)
            if code and loaded is not None:
                warning = samples.warning_of(code, evaluation.missing_field, "this body", where)
                problems[loaded.problem(path, warning.message, warning.hint)] = None
    return list(problems)


def _evaluated(
    document: "documents.ListenerDocument", configuration: "FileConfiguration", values: "body_reading.Values"
) -> "Iterator[tuple[tuple[str, str], str, str, expressions.Where]]":
    """Yield the expressions that a listener evaluates for a visit: whose, path, source and field."""
    from usher_gateway import expressions

    for index, route in enumerate(document.routes):
        listener, path = ("Listener", document.key), f"spec.routes[{index}]"
        if route.when:
            yield listener, f"{path}.when", route.when, "when"
            if not expressions.compile_expression(route.when, "when").evaluate(*values).value:
                continue  # the visit does not reach the transform
        destination = configuration.snapshot.destinations.get(route.destination)
        if route.transform:
            yield listener, f"{path}.transform", route.transform, "transform"
        elif destination is not None and destination.transform:
            yield ("Destination", destination.key), "spec.transform", destination.transform, "transform"
        for number, variable in enumerate(destination.url_variables if destination is not None else ()):
            if variable.value:
                field = f"spec.http.urlVariables[{number}].value"
                yield ("Destination", route.destination), field, variable.value, "variable"


def print_readings(path: pathlib.Path, readings: list[SharedReading]) -> None:
    """Print readings for people."""
    name = "<stdin>" if path == STANDARD_INPUT else str(path)
    for shared in readings:
        typer.echo(f"{name} is {_outcome(shared.reading)} for {_names(shared.listeners)}")
        if shared.reading.fields:
            _print_fields(shared.reading)


def print_stored(reading: object, reason: str) -> None:
    """Print how a gateway reads a stored body. ``reading``: as in JSON; None if ``reason`` says why there is none."""
    import msgspec

    from usher_gateway.ingest import body_reading

    if reading is None:
        typer.echo()
        tables.print_text(f"How Usher reads the body is not known: {reason}")
        return
    parsed = msgspec.convert(reading, body_reading.BodyReading)
    typer.echo(f"\nUsher reads the body now as {_outcome(parsed)}{':' if parsed.fields else '.'}")
    if parsed.fields:
        _print_fields(parsed)


def _outcome(reading: "body_reading.BodyReading") -> str:
    company = "another company" if reading.company == "another" else f"company {reading.company}"
    expected = f" instead of {reading.expected_company}" if reading.company_differs else ""
    named = f"{company}{expected}" if reading.company else ""
    if reading.outcome in {"Visit", "Probe"}:
        return f"a {reading.outcome.lower()}{f' of {named}' if named else ''}"
    return f"quarantined ({', '.join(filter(None, (reading.outcome, named)))}, see docs/reasons.md)"


def _names(listeners: list[str]) -> str:
    if not listeners:
        return "a listener without `fields`"
    more = len(listeners) - _SHOWN_LISTENERS
    names = ", ".join(f"Listener {name}" for name in listeners[:_SHOWN_LISTENERS])
    return f"{names} and {more} more" if more > 0 else names


def _print_fields(reading: "body_reading.BodyReading") -> None:
    rows = [(entry.field, listings.printable(entry.path) or "-", entry) for entry in reading.fields] + [
        ("", listings.printable(entry.path) or "-", entry) for entry in reading.others
    ]
    width = max(tables.width_of(path) for _, path, _ in rows)
    for field, path, field_reading in rows:
        value_text = f": {listings.printable(field_reading.value)}" if field_reading.value else ""
        name = tables.padded(path, width)
        typer.echo(f"    {field or '(no field)':<11}  {name}  {field_reading.value_class}{value_text}")
    if reading.outcome == "NoUser":
        _print_note("there is no user: set `fields.user` to the path of the user's id, if it is among the values above")
    if reading.missing_ids:
        ids = " and no ".join(reading.missing_ids)
        _print_note(f"warning: the body has no {ids}, and `dedupe.per` names it: only an identical body is a repeat")
        _print_note(
            f"set `fields.{reading.missing_ids[0]}` to its path, or choose `dedupe.per` among what the body has"
        )
    if reading.time == "Trusted":
        _print_note(f"the time is trusted: {reading.occurred_at}")
        return
    reason, hint = _TIMES[reading.time]
    effect = ": the visit counts as fresh whatever its age" if reading.outcome == "Visit" else ""
    _print_note(f"the time is not trusted, because {reason}{effect}")
    _print_note(hint)


def _print_note(text: str) -> None:
    tables.print_text(text, lead="    ")
