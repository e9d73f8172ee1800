"""Handlers over the meters: usage, by time, tenant or venue, and its check."""

import collections
import datetime
import time
import zoneinfo
from collections.abc import Iterable, Mapping

import msgspec
from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.access.problem import ProblemError
from usher_gateway.admin import api, name_check
from usher_gateway.admin.parts import Parts
from usher_gateway.ingest import body_reading
from usher_gateway.model import Counter
from usher_gateway.store import books
from usher_gateway.store.base import Filter, Period, UsageRow, VisitBody

_MAX_USAGE_ROWS = 50_000

_VENUES_SECONDS = 20.0  # The longest time that counting by venue may take; the client waits for 30 s

# How many bodies are parsed between two event loop turns; each takes 20 microseconds to 3 milliseconds.
_VENUES_SLICE = 20

_SETTLED = 60 * model.MICROSECONDS  # How long after a slot ended its meters are complete

_USAGE_COUNTERS = (
    *books.ARRIVALS,
    Counter.unacknowledged,
    Counter.late,
    Counter.routed,
    Counter.created,
    Counter.released,
    Counter.replayed,
    Counter.redriven,
    Counter.delivered,
    Counter.died,
    Counter.cancelled,
    Counter.attempts,
)

# `by` -> the period for the rows that are read. For `tenant` they are added up to one row per tenant.
_PERIODS: Mapping[str, Period] = {"slot": "slot", "day": "day", "month": "month", "tenant": "month", "venue": "month"}


class UsageRange(msgspec.Struct, frozen=True):
    """The time for which a caller wants usage; microseconds at slot borders."""

    since: int
    until: int
    period: Period
    zone: datetime.tzinfo = datetime.UTC


def parse_zone(text: str) -> datetime.tzinfo:
    """Parse a time zone's name.

    Raises:
        ValueError: the time zone does not exist.
    """
    try:
        return zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {text[:50]!r}: write it like Europe/London, or UTC") from None


def parse_range(query: Mapping[str, str], now: int, zone: datetime.tzinfo = datetime.UTC) -> UsageRange:
    """Parse a usage query's time and period; the default is this month until now, by day.

    Args:
        query: the parameters.
        now: microseconds.
        zone: days and months without an offset are in this time zone.

    Raises:
        ValueError: a time or the period cannot be parsed.
    """
    period = _PERIODS.get(query.get("by", "day"))
    if period is None:
        raise ValueError("by must be slot, day, month, tenant or venue")
    slot = model.SLOT_SECONDS * model.MICROSECONDS
    since = api.parse_time(query["from"], zone) if "from" in query else _month(now, zone)
    until = api.parse_time(query["to"], zone) if "to" in query else now + 1
    since, until = since // slot * slot, -(-until // slot) * slot
    if since >= until:
        default = "" if "to" in query else ", which by default is the end of this quarter of an hour"
        raise ValueError(f"from must be before to{default}")
    return UsageRange(since, until, period, zone)


def _month(now: int, zone: datetime.tzinfo) -> int:
    day = datetime.datetime.fromtimestamp(now // model.MICROSECONDS, zone)
    first = datetime.datetime(day.year, day.month, 1, tzinfo=zone)
    return int(first.timestamp()) * model.MICROSECONDS


_OPEN = {"openBefore", "openAfter"}  # Fields of a row with open deliveries
_TENANT_ZONE = "tenant"  # The value of `zone` for the time zone of each tenant


async def show_usage(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage``. Days and months are in ``zone``, which may be each tenant's own.

    ``together`` adds up the listeners. Its rows have no open deliveries, which cost a look at all later counts.
    """
    query = request.query
    by, zone, together = query.get("by", "day"), query.get("zone", "UTC"), query.get("together", "false")
    with api.parsing():
        where = api.read_filter(request)
        if together not in {"true", "false"}:
            raise ValueError("together must be true or false")
        if zone == _TENANT_ZONE and (by == "venue" or together == "true"):
            raise ValueError("by venue, or together, zone must be one time zone, such as Europe/London")
        common = datetime.UTC if zone == _TENANT_ZONE else parse_zone(zone)
        span = parse_range(query, parts.clock.now(), common)
    where = await name_check.check_names(parts, where)
    times = {"from": model.format_time(span.since), "to": model.format_time(span.until), "zone": zone, "by": by}
    if by == "venue":
        return api.json_response({**times, **await _venues(parts, where, span)})
    if together == "true":
        return api.json_response({**times, "rows": await _read_together(parts, where, span, by)})
    rows = await (_read_by_zone(parts, where, query) if zone == _TENANT_ZONE else _read(parts, where, span))
    if by == "tenant":
        rows = _tenant_rows(parts, rows, where, span)
    rows.sort(key=lambda row: (row["period"], row["namespace"], row["tenant"], row["listener"]))
    total = _sum_rows(rows) | _open_deliveries(rows)
    return api.json_response({**times, "rows": rows, "total": total})


async def _read_together(parts: Parts, where: Filter, span: UsageRange, by: str) -> list[api.Row]:
    """Return a row for each period, or for each tenant, with the counts for all selected listeners."""
    if by == "tenant":
        usage = await parts.store.usage(span.since, span.until, where, span.period, span.zone)
        rows = _tenant_rows(parts, usage_rows(usage, {}, span.period, span.zone), where, span)
        return [{name: value for name, value in row.items() if name not in _OPEN} for row in rows]
    by_period: dict[str, model.Counts] = {}
    for slot, counts in sorted((await parts.store.totals(span.since, span.until, where)).items()):
        if slot > 0:
            first_second = books.first_second(slot, span.period, span.zone)
            books.add(by_period.setdefault(name_period(first_second, span.period, span.zone), {}), counts)
    return [{"period": period} | _counts(counts) for period, counts in by_period.items()]


async def _venues(parts: Parts, where: Filter, span: UsageRange) -> api.Row:
    """Count visits and repeats by the venue in their bodies, while these are stored.

    ``withoutBody`` says how many more the meters counted, whose bodies retention has deleted. A venue is read by
    the listener as it is now, and only where Purple puts it, because a listener's own path may lead to personal
    data. A row without a venue counts visits that name none.
    """
    where = msgspec.structs.replace(where, since=span.since, until=span.until)
    counts: dict[tuple[str, str, str], collections.Counter[model.CountedAs]] = {}
    listeners = parts.state.snapshot.listeners
    deadline, last_key = time.monotonic() + _VENUES_SECONDS, 0
    while visits := await parts.store.visit_bodies(where, _VENUES_SLICE, last_key):
        last_key = visits[-1].key
        for visit in visits:
            if visit.body is not None:
                venue = _venue(visit, visit.body, listeners.get(visit.listener.key))
                key = (visit.listener.namespace, visit.listener.tenant, venue)
                counts.setdefault(key, collections.Counter())[visit.counted_as] += 1
        if time.monotonic() > deadline:
            raise ProblemError(400, "TooMuch", "there are too many visits", "ask for one tenant or a shorter time")
    rows: list[api.Row] = [
        {"period": name_range(span), "namespace": namespace, "tenant": tenant, "venue": venue}
        | {"visits": count[model.CountedAs.Visit], "repeats": count[model.CountedAs.Repeat]}
        for (namespace, tenant, venue), count in sorted(counts.items())
    ]
    total = {name: sum(int(str(row[name])) for row in rows) for name in ("visits", "repeats")}
    metered = total_of(await parts.store.usage(span.since, span.until, where, "month"))
    metered_visits = int(str(metered["visits"])) + int(str(metered["repeats"]))
    return {"rows": rows, "total": total, "withoutBody": max(0, metered_visits - sum(total.values()))}


def _venue(visit: VisitBody, body: bytes, document: documents.ListenerDocument | None) -> str:
    """Return the venue that a body names; ``document`` is its listener's, None if the listener is gone."""
    if document is None or document.tenant.name != visit.listener.tenant:
        return ""
    return body_reading.read_venue(document, body, visit.content_type.decode("latin-1"))


def _tenant_rows(parts: Parts, rows: Iterable[api.Row], where: Filter, span: UsageRange) -> list[api.Row]:
    """Return one row per tenant, also for those in force that nothing was counted for. ``listener`` is empty."""
    listeners = parts.state.snapshot.listeners.values()
    rows_by_tenant: dict[tuple[str, str], list[api.Row]] = {
        (document.namespace, document.tenant.name): []
        for document in listeners
        if where.selects(document.namespace, document.tenant.name) and where.listener in {None, document.name}
    }
    for row in sorted(rows, key=lambda row: str(row["period"])):
        rows_by_tenant.setdefault((str(row["namespace"]), str(row["tenant"])), []).append(row)
    return [
        {"period": name_range(span), "namespace": namespace, "tenant": tenant, "listener": "", **_sum_rows(of_tenant)}
        | _open_deliveries(of_tenant)
        for (namespace, tenant), of_tenant in rows_by_tenant.items()
    ]


async def _read_by_zone(parts: Parts, where: Filter, query: Mapping[str, str]) -> list[api.Row]:
    """Read each tenant's usage in its time zone; a tenant that is gone counts in UTC."""
    listeners = parts.state.snapshot.listeners.values()
    tenants = {(listener.namespace, listener.tenant.name): listener.tenant for listener in listeners}
    zones = {name: tenant.time_zone for name, tenant in tenants.items() if where.selects(*name)}
    rows: list[api.Row] = []
    for name in sorted({"UTC", *zones.values()}):
        zone_rows = await _read(parts, where, parse_range(query, parts.clock.now(), zoneinfo.ZoneInfo(name)))
        rows += [row for row in zone_rows if zones.get((str(row["namespace"]), str(row["tenant"])), "UTC") == name]
    return rows


async def _read(parts: Parts, where: Filter, span: UsageRange) -> list[api.Row]:
    usage = await parts.store.usage(span.since, span.until, where, span.period, span.zone)
    if len(usage) > _MAX_USAGE_ROWS:
        detail = f"{len(usage)} rows are too many"
        raise ProblemError(400, "TooMuch", detail, "ask for one tenant, a shorter time or a longer period")
    open_before = await parts.store.open_deliveries(span.since, where)
    return usage_rows(usage, open_before, span.period, span.zone)


async def check_books(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage/check`` with every equation that does not hold.

    The check ends at a slot border that passed at least a minute ago, because nothing more is counted before it.
    It also compares all meters ever counted with the deliveries themselves: at the epoch no delivery was open.
    """
    with api.parsing():
        span = parse_range(request.query, parts.clock.now())
    store = parts.store
    until = min(span.until, model.slot_of(parts.clock.now() - _SETTLED) * model.MICROSECONDS)
    usage = await store.usage(span.since, until) if span.since < until else []
    open_before, open_after = await store.open_deliveries(span.since), await store.open_deliveries(until)
    violations = books.check(usage, open_before, open_after if span.since < until else open_before)
    violations += books.check([], await store.open_deliveries(0), {})
    rows = [_violation_row(violation) for violation in violations]
    times = {"from": model.format_time(span.since), "to": model.format_time(until)}
    counted = {row.listener for row in usage}
    in_force = {document.listener_name for document in parts.state.snapshot.listeners.values()}
    numbers = {"listeners": len(counted), "ofListeners": len(counted | in_force)}
    is_whole = until == span.until
    return api.json_response({**times, "isWholeTime": is_whole, **numbers, "violations": rows})


def usage_rows(
    usage: Iterable[UsageRow],
    open_before: Mapping[model.ListenerName, int],
    period: Period,
    zone: datetime.tzinfo = datetime.UTC,
) -> list[api.Row]:
    """Return rows for JSON in the given order, and carry the number of open deliveries from row to row."""
    running = dict(open_before)
    rows: list[api.Row] = []
    for row in usage:
        at_start = running.get(row.listener, 0)
        running[row.listener] = at_end = at_start + books.opened(row.counts)
        name = {"namespace": row.listener.namespace, "tenant": row.listener.tenant, "listener": row.listener.listener}
        rows.append(
            {"period": name_period(row.period, period, zone), **name, **_counts(row.counts)}
            | {"openBefore": at_start, "openAfter": at_end}
        )
    return rows


def total_of(usage: Iterable[UsageRow]) -> api.Row:
    """Return the sum of listeners' meters."""
    total: model.Counts = {}
    for row in usage:
        for counter, count in row.counts.items():
            total[counter] = total.get(counter, 0) + count
    return _counts(total)


def _sum_rows(rows: Iterable[api.Row]) -> api.Row:
    """Return the sum of rows from usage_rows()."""
    total = _counts({})
    for row in rows:
        for name, value in total.items():
            count = row[name]
            if isinstance(value, dict) and isinstance(count, dict):
                total[name] = {key: value[key] + count[key] for key in value}
            elif isinstance(value, int) and isinstance(count, int):
                total[name] = value + count
    return total


def _open_deliveries(rows: Iterable[api.Row]) -> api.Row:
    """Return each listener's open deliveries before its first row and after its last one."""
    first_open: dict[tuple[object, ...], int] = {}
    last_open: dict[tuple[object, ...], int] = {}
    for row in rows:
        listener = (row["namespace"], row["tenant"], row["listener"])
        first_open.setdefault(listener, int(str(row["openBefore"])))
        last_open[listener] = int(str(row["openAfter"]))
    return {"openBefore": sum(first_open.values()), "openAfter": sum(last_open.values())}


def _counts(counts: model.Counts) -> api.Row:
    row: api.Row = {"arrivals": books.arrivals(counts)}
    row |= {counter.name: counts.get(counter, 0) for counter in _USAGE_COUNTERS}
    row["skipped"] = {reason.name: counts.get(counter, 0) for reason, counter in books.SKIPPED.items()}
    return row


def name_period(first_second: int, period: Period, zone: datetime.tzinfo = datetime.UTC) -> str:
    """Format a period: a month or a day in a time zone, or a slot's first instant (UTC)."""
    if period == "slot":
        return f"{model.format_time(first_second * model.MICROSECONDS)[:19]}Z"
    day = datetime.datetime.fromtimestamp(first_second, zone).date().isoformat()
    return day[:7] if period == "month" else day


def name_range(span: UsageRange) -> str:
    """Format a time with its two ends: ``2026-10-01/2026-11-01``. Source: ISO 8601-1 §5.5.2.2."""
    ends = [datetime.datetime.fromtimestamp(end // model.MICROSECONDS, span.zone) for end in (span.since, span.until)]
    are_days = all(end.time() == datetime.time() for end in ends)
    return "/".join([end.date().isoformat() if are_days else end.isoformat(timespec="minutes") for end in ends])


def _violation_row(violation: books.Violation) -> api.Row:
    name = violation.listener
    return {
        "namespace": name.namespace,
        "tenant": name.tenant,
        "listener": name.listener,
        "equation": violation.equation,
        "period": None if violation.period is None else name_period(violation.period, "slot"),
        "left": violation.left,
        "right": violation.right,
    }
