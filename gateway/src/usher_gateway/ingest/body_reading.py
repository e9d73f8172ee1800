"""Explains how Usher reads a body: each field, its place, and its value's class (pure).

The explanation may be shown to people who must not see personal data. So it has a field's value only if the field
is not personal and stands where Purple puts it: at a path that a listener chose, there may be anything.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from usher_gateway import documents, expressions, model
from usher_gateway.ingest import body, identity, pipeline, routing
from usher_gateway.ingest.registry import LiveListener, Match

MAX_OTHERS = 50  # Most values besides the fields that are listed

_IMPERSONAL = frozenset({"venue", "company", "venueName", "visitCount"})
_LONGEST_VALUE = 100
# A member's name that cannot be the number of a person or a telephone, or a MAC address.
_PLAIN_NAME = re.compile(r"(?!.*\d{4})(?!(?:[0-9A-Fa-f]{2}[-_]?){6}$)[A-Za-z_][A-Za-z0-9_-]{0,39}")

_END_OF_TIME = 2**62

Values = tuple[dict[str, object], dict[str, object]]  # `visit` and `body` as expressions see them

# `Trusted`, or the reason why the time in a body is not trusted.
TimeTrust = Literal["Trusted", "Absent", "NoOffset", "InFuture", "NotATime"]


class FieldReading(msgspec.Struct, frozen=True, rename="camel"):
    """One field in a body."""

    field: str
    path: str
    """JSON pointer; ``""`` if the field is absent."""
    value_class: str
    """Such as ``text of 12 characters``; ``absent``."""
    value: str = ""
    """Text or number; ``""`` for personal data and for every other value."""


class BodyReading(msgspec.Struct, frozen=True, rename="camel"):
    """How a listener reads a body."""

    outcome: str
    """``Visit`` (it may turn out to be a repeat or a redelivery), ``Probe``, or why the body is quarantined."""
    company: str = ""
    """The company that the body names; `pipeline.company_in`."""
    company_differs: bool = False
    """True if the body names another company than the tenant, and the tenant has that checked."""
    expected_company: str = ""
    """The tenant's ``companyID`` if ``company_differs``."""
    fields: tuple[FieldReading, ...] = ()
    time: TimeTrust = "Absent"
    occurred_at: str = ""
    """RFC 3339; ``""`` if the time is not trusted."""
    missing_ids: tuple[str, ...] = ()
    """Fields in ``dedupe.per`` that a visit lacks: only an identical body is recognised as its repeat."""
    others: tuple[FieldReading, ...] = ()
    """Values that no field uses, for finding the right path. Names that may be personal data are left out."""


def read_body(
    listener: LiveListener, content: bytes, content_type: str, received_at: int, keys: model.Keys
) -> BodyReading:
    """Explain how a listener reads an inflated body. ``received_at``: microseconds."""
    parsed = body.parse(content, content_type)
    if len(content) > listener.max_body_bytes:
        parsed = body.quarantined(model.QuarantineReason.Truncated)
    if parsed.is_probe:
        return BodyReading("Probe")
    match = Match(listener, documents.Address(host="", path=""), "")
    headers = {"Content-Type": content_type}
    arrival, _ = pipeline.identify_body(match, headers, content, parsed, received_at)
    outcome = arrival.quarantine.name if arrival.quarantine is not None else "Visit"
    if parsed.document is None:
        return BodyReading(outcome)
    fields = tuple(_read_fields(listener.document.fields, parsed.document))
    missing = _missing_ids(listener.document, parsed.document) if outcome == "Visit" else ()
    trust, occurred_at = _read_time(listener.document, parsed.document, received_at, keys)
    company_differs = bool(arrival.other_company) or outcome == model.QuarantineReason.CompanyMismatch.name
    return BodyReading(
        outcome,
        company=pipeline.company_in(listener.identifier.extract(parsed.document)),
        company_differs=company_differs,
        expected_company=listener.document.tenant.company_id if company_differs else "",
        fields=fields,
        time=trust,
        occurred_at=model.format_time(occurred_at) if occurred_at else "",
        missing_ids=missing,
        others=tuple(_read_others(parsed.document, {field.path for field in fields})),
    )


def expression_values(listener: LiveListener, content: bytes, received_at: int) -> Values | None:
    """Return what expressions give for a body; None if it is not a visit to the listener."""
    parsed = body.parse(content, "")
    if parsed.is_probe or parsed.document is None or len(content) > listener.max_body_bytes:
        return None
    match = Match(listener, documents.Address(host="", path=""), "")
    arrival, _ = pipeline.identify_body(match, {}, content, parsed, received_at)
    if arrival.quarantine is not None:
        return None
    occurred_at = arrival.visit_time if arrival.time_trusted else None
    visit = routing.Normaliser(listener.document.fields).visit(parsed.document, occurred_at)
    return expressions.visit_values(visit, received_at, listener.name, late=arrival.late), parsed.document


def read_venue(document: documents.ListenerDocument, content: bytes, content_type: str) -> str:
    """Return the venue that a body names; ``""`` if there is none, or none where Purple puts it."""
    parsed = body.parse(content, content_type)
    if parsed.document is None:
        return ""
    path, value = _first("venue", document.fields["venue"], parsed.document)
    return _shown_value("venue", path, value)


def read_initials(document: documents.ListenerDocument, content: bytes, content_type: str) -> str:
    """Return the first letters from the names in a body, such as ``A. L.``; ``""`` if it has no name.

    A value that does not begin with a letter does not count, because a listener's path may lead to anything.
    """
    parsed = body.parse(content, content_type)
    if parsed.document is None:
        return ""
    names = [_first(field, document.fields[field], parsed.document)[1] for field in ("firstName", "lastName")]
    texts = [name.strip() for name in names if isinstance(name, str)]
    return " ".join([f"{text[0].upper()}." for text in texts if text[:1].isalpha()])


def read_company(listener: LiveListener, content: bytes, content_type: str) -> str:
    """Return the company that a body names; ``""`` if there is none (`pipeline.company_in`)."""
    parsed = body.parse(content, content_type)
    return "" if parsed.document is None else pipeline.company_in(listener.identifier.extract(parsed.document))


def _read_fields(fields: Mapping[str, tuple[str, ...]], document: dict[str, object]) -> Iterator[FieldReading]:
    for field, pointers in fields.items():
        path, value = _first(field, pointers, document)
        yield FieldReading(field, path, _class_of(value), _shown_value(field, path, value))


def _shown_value(field: str, path: str, value: object) -> str:
    """Return a field's text or number without surrogates; ``""`` if it may be personal data."""
    is_shown = field in _IMPERSONAL and path in documents.DEFAULT_FIELDS[field]
    return model.without_surrogates(identity.as_text(value)[:_LONGEST_VALUE]) if is_shown else ""


def _missing_ids(document: documents.ListenerDocument, parsed: dict[str, object]) -> tuple[str, ...]:
    if document.window_seconds == 0:
        return ()
    ids = [identity.FIELD_OF[per] for per in document.dedupe_per]
    return tuple([field for field in ids if not identity.as_text(_first(field, document.fields[field], parsed)[1])])


def _first(field: str, pointers: tuple[str, ...], document: dict[str, object]) -> tuple[str, object]:
    """Return a field's first pointer that leads to a value, and the value; ``""`` and None if there is none."""
    for pointer in pointers:
        value = identity.Extractor({field: (pointer,)}, [field]).extract(document).get(field)
        if value is not None:
            return pointer, value
    return "", None


def _read_time(
    document: documents.ListenerDocument, parsed: dict[str, object], received_at: int, keys: model.Keys
) -> tuple[TimeTrust, int]:
    """Return whether the time is trusted, and the time in microseconds, 0 if it is not."""
    _, value = _first("occurredAt", document.fields["occurredAt"], parsed)
    if value is None:
        return "Absent", 0
    identifier = identity.Identifier(document, keys)
    occurred_at = identifier.occurred_at(value, received_at)
    if occurred_at is not None:
        return "Trusted", occurred_at
    if identifier.occurred_at(value, _END_OF_TIME) is not None:
        return "InFuture", 0
    in_utc = identity.Identifier(msgspec.structs.replace(document, occurred_at_zone="UTC"), keys)
    return ("NoOffset" if in_utc.occurred_at(value, _END_OF_TIME) is not None else "NotATime"), 0


def _read_others(document: dict[str, object], used_paths: set[str]) -> Iterator[FieldReading]:
    """Yield the body's values that no field uses, up to ``MAX_OTHERS``."""
    waiting: list[tuple[str, object]] = [("", document)]
    count = 0
    while waiting and count < MAX_OTHERS:
        path, value = waiting.pop(0)
        if isinstance(value, dict):
            waiting.extend((f"{path}/{name}", inner) for name, inner in value.items() if _PLAIN_NAME.fullmatch(name))
        elif path not in used_paths:
            count += 1
            yield FieldReading("", path, _class_of(value))


def _class_of(value: object) -> str:
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return f"{'digits' if value.isdecimal() else 'text'} of {len(value)} characters" if value else "empty text"
    return "list" if isinstance(value, list) else "object"
