"""What a request asks for: filters, times, pages (pure). Names, ids and times only: nothing personal fits in."""

import datetime
from collections.abc import Mapping

import msgspec

from usher_gateway import model
from usher_gateway.store.base import Filter, Period

LONGEST_PAGE = 1_000
"""Rows that one page may hold."""

_PAGE = 100
_MOST_IDS = 1_000
_LONGEST_TEXT = 300

_FIELDS = ("namespace", "listener", "route", "destination", "reason", "state")


_PERIODS: Mapping[str, Period] = {"slot": "slot", "day": "day", "month": "month"}


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The body of a request that changes something: which rows it means."""

    namespace: str | None = None
    tenant: str | None = None
    """A name, or ``namespace/name``."""
    listener: str | None = None
    route: str | None = None
    destination: str | None = None
    """``namespace/name``."""
    since: str | None = None
    until: str | None = None
    reason: str | None = None
    state: str | None = None
    ids: list[str] = []
    all: bool = False
    """Said by whoever really means everything."""


class Paging(msgspec.Struct, frozen=True):
    """Which page of a listing."""

    limit: int
    cursor: str | None


class Range(msgspec.Struct, frozen=True):
    """What usage is asked for; microseconds at slot borders."""

    since: int
    until: int
    period: Period


def filter_of(query: Mapping[str, str], *more: str) -> Filter:
    """The filter of a query string; ``more`` names what else may stand in it.

    Raises:
        ValueError: something in it is not known, or cannot be understood.
    """
    known = {*_FIELDS, "tenant", "since", "until", "id", "countedAs", *more}
    unknown = sorted(set(query) - known)
    if unknown:
        raise ValueError(f"unknown parameter {unknown[0][:50]!r}: there are {', '.join(sorted(known))}")
    selection = {name: query[name] for name in (*_FIELDS, "tenant", "since", "until") if name in query}
    ids = query["id"].split(",") if query.get("id") else []
    found = filter_of_selection(msgspec.convert({**selection, "ids": ids}, Selection))
    return msgspec.structs.replace(found, counted_as=query.get("countedAs"))


def selection_of(body: bytes) -> Selection:
    """The selection in a request's body.

    Raises:
        ValueError: it is none, or it would mean everything without saying so.
    """
    try:
        selection = msgspec.json.decode(body or b"{}", type=Selection)
    except msgspec.DecodeError as error:
        raise ValueError(f"the body is no selection: {error}") from error
    if selection == Selection():
        raise ValueError('say which rows are meant, or {"all": true} for every one')
    return selection


def filter_of_selection(selection: Selection) -> Filter:
    """The store's filter for a selection.

    Raises:
        ValueError: a name, an id or a time cannot be understood.
    """
    for name in (*_FIELDS, "tenant"):
        if len(getattr(selection, name) or "") > _LONGEST_TEXT:
            raise ValueError(f"{name} is too long")
    if len(selection.ids) > _MOST_IDS:
        raise ValueError(f"at most {_MOST_IDS} ids at once")
    namespace, tenant = selection.namespace, selection.tenant
    if tenant is not None and "/" in tenant:
        namespace, _, tenant = tenant.partition("/")
    if selection.destination is not None and "/" not in selection.destination:
        raise ValueError("destination must be namespace/name")
    return Filter(
        namespace=namespace,
        tenant=tenant,
        listener=selection.listener,
        route=selection.route,
        destination=selection.destination,
        since=None if selection.since is None else parse_time(selection.since),
        until=None if selection.until is None else parse_time(selection.until),
        reason=selection.reason,
        state=selection.state,
        ids=tuple([parse_id(text) for text in selection.ids]),
    )


def paging_of(query: Mapping[str, str]) -> Paging:
    """Page size and cursor of a query string.

    Raises:
        ValueError: the size is no number in range.
    """
    text = query.get("limit", str(_PAGE))
    limit = int(text) if text.isdecimal() and len(text) < 6 else 0
    if not 1 <= limit <= LONGEST_PAGE:
        raise ValueError(f"limit must be a number from 1 to {LONGEST_PAGE}")
    return Paging(limit, query.get("cursor"))


def range_of(query: Mapping[str, str], now: int) -> Range:
    """Time and period that usage is asked for: by default the present month (UTC) until now, by day.

    Raises:
        ValueError: a time or the period cannot be understood.
    """
    period = _PERIODS.get(query.get("by", "day"))
    if period is None:
        raise ValueError("by must be slot, day or month")
    slot = model.SLOT_SECONDS * model.MICROSECONDS
    since = parse_time(query["from"]) if "from" in query else _month(now)
    until = parse_time(query["to"]) if "to" in query else now + 1
    since, until = since // slot * slot, -(-until // slot) * slot
    if since >= until:
        raise ValueError("from must be before to")
    return Range(since, until, period)


def _month(now: int) -> int:
    day = datetime.datetime.fromtimestamp(now // model.MICROSECONDS, datetime.UTC)
    first = datetime.datetime(day.year, day.month, 1, tzinfo=datetime.UTC)
    return int(first.timestamp()) * model.MICROSECONDS


def parse_time(text: str) -> int:
    """An instant (microseconds) from RFC 3339, or a date, or a month: their first moment in UTC.

    Raises:
        ValueError: ``text`` is none of them.
    """
    try:
        moment = datetime.datetime.fromisoformat(f"{text}-01" if len(text) == 7 else text)
        if moment.tzinfo is None and len(text) <= 10:
            moment = moment.replace(tzinfo=datetime.UTC)
        delta = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    except (ValueError, TypeError, OverflowError):
        raise ValueError("a time must look like 2026-11-25T12:00:00Z, 2026-11-25 or 2026-11") from None
    return (delta.days * 86_400 + delta.seconds) * model.MICROSECONDS + delta.microseconds


def parse_id(text: str) -> bytes:
    """An id.

    Raises:
        ValueError: ``text`` is none.
    """
    try:
        return model.parse_id(text)
    except ValueError:
        raise ValueError("an id must be a UUID, as the listings show it") from None
