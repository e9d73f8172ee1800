"""Handlers over the meters: usage, its check, and visits by venue."""

import csv
import datetime
import io
import time
import zoneinfo
from collections.abc import Iterable, Mapping

import msgspec
from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.admin import api, name_check
from usher_gateway.admin.parts import Parts
from usher_gateway.ingest import body_reading
from usher_gateway.model import Counter
from usher_gateway.store import books
from usher_gateway.store.base import Filter, Period, UsageRow, VisitBody

_MAX_USAGE_ROWS = 50_000

_VENUES_SECONDS = 20.0  # The longest time that counting by venue may take; the client waits for 30 s

# How many bodies are parsed between two turns of the event loop; each takes 20 microseconds to 3 milliseconds.
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

# Value of `by` -> the period of the rows that are read. For `tenant` they are added up to one row per tenant.
_PERIODS: Mapping[str, Period] = {"slot": "slot", "day": "day", "month": "month", "tenant": "month"}

Row = dict[str, object]


class UsageRange(msgspec.Struct, frozen=True):
    """The time that a caller wants usage of; microseconds at slot borders."""

    since: int
    until: int
    period: Period


def parse_zone(text: str) -> datetime.tzinfo:
    """Parse the name of a time zone.

    Raises:
        ValueError: the time zone does not exist.
    """
    try:
        return zoneinfo.ZoneInfo(text)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {text[:50]!r}: write it like Europe/London, or UTC") from None


def parse_range(query: Mapping[str, str], now: int, zone: datetime.tzinfo = datetime.UTC) -> UsageRange:
    """Parse the time and the period of a usage query; the default is this month until now, by day.

    Args:
        query: the parameters.
        now: microseconds.
        zone: days and months without an offset are those of this time zone.

    Raises:
        ValueError: a time or the period cannot be parsed.
    """
    period = _PERIODS.get(query.get("by", "day"))
    if period is None:
        raise ValueError("by must be slot, day, month or tenant")
    slot = model.SLOT_SECONDS * model.MICROSECONDS
    since = api.parse_time(query["from"], zone) if "from" in query else _month(now, zone)
    until = api.parse_time(query["to"], zone) if "to" in query else now + 1
    since, until = since // slot * slot, -(-until // slot) * slot
    if since >= until:
        default = "" if "to" in query else ", which by default is the end of this quarter of an hour"
        raise ValueError(f"from must be before to{default}")
    return UsageRange(since, until, period)


def _month(now: int, zone: datetime.tzinfo) -> int:
    day = datetime.datetime.fromtimestamp(now // model.MICROSECONDS, zone)
    first = datetime.datetime(day.year, day.month, 1, tzinfo=zone)
    return int(first.timestamp()) * model.MICROSECONDS


class _VenueCounts:
    """Counts visits and repeats by namespace, tenant and venue."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], dict[model.CountedAs, int]] = {}
        self.total = 0

    def add(self, visit: VisitBody, document: documents.ListenerDocument | None) -> None:
        """Count a visit; ``document`` is its listener's, None if the listener is gone."""
        if visit.body is None:
            return
        self.total += 1
        is_present = document is not None and document.tenant.name == visit.listener.tenant
        content_type = visit.content_type.decode("latin-1")
        venue = body_reading.read_venue(document, visit.body, content_type) if document and is_present else ""
        counts = self._counts.setdefault((visit.listener.namespace, visit.listener.tenant, venue), {})
        counts[visit.counted_as] = counts.get(visit.counted_as, 0) + 1

    def rows(self, period: str) -> list[Row]:
        """Return a row per venue, sorted by names; ``venue`` is empty for visits that name none."""
        return [
            {
                "period": period,
                "namespace": namespace,
                "tenant": tenant,
                "venue": venue,
                "visits": counts.get(model.CountedAs.Visit, 0),
                "repeats": counts.get(model.CountedAs.Repeat, 0),
            }
            for (namespace, tenant, venue), counts in sorted(self._counts.items())
        ]


_TENANT_ZONE = "tenant"  # The value of `zone` for the time zone of each tenant


async def show_usage(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage``. Days and months are those of ``zone``, which may be that of each tenant."""
    query = request.query
    zone = query.get("zone", "UTC")
    with api.parsing():
        where = api.read_filter(request)
        common = datetime.UTC if zone == _TENANT_ZONE else parse_zone(zone)
        asked = parse_range(query, parts.clock.now(), common)
        if query.get("format", "json") not in {"json", "csv"}:
            raise ValueError("format must be json or csv")
    where = await name_check.check_names(parts, where)
    unsorted_rows = (
        await _read_by_zone(parts, where, query) if zone == _TENANT_ZONE else await _read(parts, where, asked, common)
    )
    if query.get("by") == "tenant":
        unsorted_rows = _tenant_rows(parts, unsorted_rows, where, name_range(asked, common))
    rows = sorted(unsorted_rows, key=lambda row: (row["period"], row["namespace"], row["tenant"], row["listener"]))
    if query.get("format") == "csv":
        return web.Response(text=as_csv(rows), content_type="text/csv", headers={"Cache-Control": "no-store"})
    times = {"from": model.format_time(asked.since), "to": model.format_time(asked.until), "zone": zone}
    by = query.get("by", asked.period)
    total = _sum_rows(rows) | _open_deliveries(rows)
    return api.json_response({**times, "by": by, "rows": rows, "total": total})


async def show_totals(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage/totals``: the counts of all tenants together, by slot, day or month of ``zone``.

    By tenant it has the counts of the whole time, without open deliveries, which cost a look at all later counts.
    """
    with api.parsing():
        where = api.read_filter(request)
        zone = parse_zone(request.query.get("zone", "UTC"))
        asked = parse_range({"by": "slot", **request.query}, parts.clock.now(), zone)
    where = await name_check.check_names(parts, where)
    if request.query.get("by") == "tenant":
        usage = await parts.store.usage(asked.since, asked.until, where, asked.period, zone)
        rows = _tenant_rows(parts, usage_rows(usage, {}, asked.period, zone), where, name_range(asked, zone))
        return api.json_response({"rows": [_without_open(row) for row in rows]})
    by_period: dict[str, model.Counts] = {}
    for slot, counts in sorted((await parts.store.totals(asked.since, asked.until, where)).items()):
        if slot > 0:
            period = name_period(books.first_second(slot, asked.period, zone), asked.period, zone)
            books.add(by_period.setdefault(period, {}), counts)
    return api.json_response({"rows": [{"period": period} | _counts(counts) for period, counts in by_period.items()]})


async def show_venues(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage/venues``: visits and repeats by the venue in their bodies, while these are stored.

    ``withoutBody`` says how many more the meters counted, whose bodies retention has deleted. A venue is read by
    the listener as it is now, and only where Purple puts it, because a listener's own path may lead to personal
    data.
    """
    with api.parsing():
        where = api.read_filter(request)
        zone = parse_zone(request.query.get("zone", "UTC"))
        asked = parse_range(request.query, parts.clock.now(), zone)
    where = await name_check.check_names(parts, where)
    where = msgspec.structs.replace(where, since=asked.since, until=asked.until)
    counts = _VenueCounts()
    listeners = parts.state.snapshot.listeners
    deadline, last_key = time.monotonic() + _VENUES_SECONDS, 0
    while visits := await parts.store.visit_bodies(where, _VENUES_SLICE, last_key):
        last_key = visits[-1].key
        for visit in visits:
            counts.add(visit, listeners.get(visit.listener.key))
        if time.monotonic() > deadline:
            raise api.ProblemError(400, "TooMuch", "there are too many visits", "ask for one tenant or a shorter time")
    metered = await parts.store.usage(asked.since, asked.until, where, "month")
    in_all = sum(row.counts.get(counter, 0) for row in metered for counter in (Counter.visits, Counter.repeats))
    times = {"from": model.format_time(asked.since), "to": model.format_time(asked.until)}
    rows = counts.rows(name_range(asked, zone))
    total = {name: sum(int(str(row[name])) for row in rows) for name in ("visits", "repeats")}
    without_body = max(0, in_all - counts.total)
    return api.json_response({**times, "rows": rows, "total": total, "withoutBody": without_body})


def _tenant_rows(parts: Parts, rows: Iterable[Row], where: Filter, period: str) -> list[Row]:
    """Return one row per tenant, also for those in force that nothing was counted for. ``listener`` is empty."""
    listeners = parts.state.snapshot.listeners.values()
    rows_by_tenant: dict[tuple[str, str], list[Row]] = {
        (document.namespace, document.tenant.name): []
        for document in listeners
        if where.selects(document.namespace, document.tenant.name) and where.listener in {None, document.name}
    }
    for row in sorted(rows, key=lambda row: str(row["period"])):
        rows_by_tenant.setdefault((str(row["namespace"]), str(row["tenant"])), []).append(row)
    return [
        {"period": period, "namespace": namespace, "tenant": tenant, "listener": "", **_sum_rows(of_tenant)}
        | _open_deliveries(of_tenant)
        for (namespace, tenant), of_tenant in rows_by_tenant.items()
    ]


async def _read_by_zone(parts: Parts, where: Filter, query: Mapping[str, str]) -> list[Row]:
    """Read the usage of each tenant in its time zone; a tenant that is gone counts in UTC."""
    listeners = parts.state.snapshot.listeners.values()
    tenants = {(listener.namespace, listener.tenant.name): listener.tenant for listener in listeners}
    zones = {name: tenant.time_zone for name, tenant in tenants.items() if where.selects(*name)}
    rows: list[Row] = []
    for name in sorted({"UTC", *zones.values()}):
        zone = zoneinfo.ZoneInfo(name)
        zone_rows = await _read(parts, where, parse_range(query, parts.clock.now(), zone), zone)
        rows += [row for row in zone_rows if zones.get((str(row["namespace"]), str(row["tenant"])), "UTC") == name]
    return rows


async def _read(parts: Parts, where: Filter, asked: UsageRange, zone: datetime.tzinfo) -> list[Row]:
    usage = await parts.store.usage(asked.since, asked.until, where, asked.period, zone)
    if len(usage) > _MAX_USAGE_ROWS:
        detail = f"{len(usage)} rows are too many"
        raise api.ProblemError(400, "TooMuch", detail, "ask for one tenant, a shorter time or a longer period")
    open_before = await parts.store.open_deliveries(asked.since, where)
    return usage_rows(usage, open_before, asked.period, zone)


async def check_books(parts: Parts, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage/check`` with every equation that does not hold.

    The check ends at a slot border that passed at least a minute ago, because nothing more is counted before it.
    It also compares all meters ever counted with the deliveries themselves: at the epoch no delivery was open.
    """
    with api.parsing():
        asked = parse_range(request.query, parts.clock.now())
    store = parts.store
    until = min(asked.until, model.slot_of(parts.clock.now() - _SETTLED) * model.MICROSECONDS)
    usage = await store.usage(asked.since, until) if asked.since < until else []
    open_before, open_after = await store.open_deliveries(asked.since), await store.open_deliveries(until)
    violations = books.check(usage, open_before, open_after if asked.since < until else open_before)
    violations += books.check([], await store.open_deliveries(0), {})
    rows = [_violation_row(violation) for violation in violations]
    times = {"from": model.format_time(asked.since), "to": model.format_time(until)}
    counted = {row.listener for row in usage}
    in_force = {
        model.ListenerName(document.namespace, document.tenant.name, document.name)
        for document in parts.state.snapshot.listeners.values()
    }
    numbers = {"listeners": len(counted), "ofListeners": len(counted | in_force)}
    is_whole = until == asked.until
    return api.json_response({**times, "isWholeTime": is_whole, **numbers, "violations": rows})


def usage_rows(
    usage: Iterable[UsageRow],
    open_before: Mapping[model.ListenerName, int],
    period: Period,
    zone: datetime.tzinfo = datetime.UTC,
) -> list[Row]:
    """Return rows for JSON in the given order, and carry the number of open deliveries from row to row."""
    running = dict(open_before)
    rows: list[Row] = []
    for row in usage:
        at_start = running.get(row.listener, 0)
        running[row.listener] = at_end = at_start + books.opened(row.counts)
        rows.append(_usage_row(name_period(row.period, period, zone), row.listener, row.counts, at_start, at_end))
    return rows


def _usage_row(
    period: str, listener: model.ListenerName, counts: model.Counts, open_before: int, open_after: int
) -> Row:
    name = {"namespace": listener.namespace, "tenant": listener.tenant, "listener": listener.listener}
    return {"period": period, **name, **_counts(counts), "openBefore": open_before, "openAfter": open_after}


def total_of(usage: Iterable[UsageRow]) -> Row:
    """Return the sum of the meters of listeners."""
    total: model.Counts = {}
    for row in usage:
        for counter, count in row.counts.items():
            total[counter] = total.get(counter, 0) + count
    return _counts(total)


def _sum_rows(rows: Iterable[Row]) -> Row:
    """Return the sum of rows of usage_rows()."""
    total = _counts({})
    for row in rows:
        for name, value in total.items():
            count = row[name]
            if isinstance(value, dict) and isinstance(count, dict):
                total[name] = {key: value[key] + count[key] for key in value}
            elif isinstance(value, int) and isinstance(count, int):
                total[name] = value + count
    return total


def _without_open(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in {"openBefore", "openAfter"}}


def _open_deliveries(rows: Iterable[Row]) -> Row:
    """Return the open deliveries before the first row and after the last one of each listener."""
    first_open: dict[tuple[object, ...], int] = {}
    last_open: dict[tuple[object, ...], int] = {}
    for row in rows:
        listener = (row["namespace"], row["tenant"], row["listener"])
        first_open.setdefault(listener, int(str(row["openBefore"])))
        last_open[listener] = int(str(row["openAfter"]))
    return {"openBefore": sum(first_open.values()), "openAfter": sum(last_open.values())}


def _counts(counts: model.Counts) -> Row:
    row: Row = {"arrivals": books.arrivals(counts)}
    row |= {counter.name: counts.get(counter, 0) for counter in _USAGE_COUNTERS}
    row["skipped"] = {reason.name: counts.get(counter, 0) for reason, counter in books.SKIPPED.items()}
    return row


def name_period(first_second: int, period: Period, zone: datetime.tzinfo = datetime.UTC) -> str:
    """Format a period: a month or a day of a time zone, or the first instant of a quarter of an hour (UTC)."""
    if period == "slot":
        return f"{model.format_time(first_second * model.MICROSECONDS)[:19]}Z"
    day = datetime.datetime.fromtimestamp(first_second, zone).date().isoformat()
    return day[:7] if period == "month" else day


def name_range(asked: UsageRange, zone: datetime.tzinfo = datetime.UTC) -> str:
    """Format a time with its two ends: ``2026-10-01/2026-11-01``. Source: ISO 8601-1 §5.5.2.2."""
    ends = [datetime.datetime.fromtimestamp(end // model.MICROSECONDS, zone) for end in (asked.since, asked.until)]
    are_days = all(end.time() == datetime.time() for end in ends)
    return "/".join([end.date().isoformat() if are_days else end.isoformat(timespec="minutes") for end in ends])


def as_csv(rows: Iterable[Row]) -> str:
    """Return a header and one CSV line per row of usage_rows(). Source: RFC 4180."""
    file = io.StringIO()
    flat = [_flatten(row) for row in rows]
    header = _flatten(_usage_row("", model.ListenerName("", "", ""), {}, 0, 0))
    writer = csv.DictWriter(file, list(header), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue()


def _flatten(row: Row) -> Row:
    flat: Row = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}{key}": count for key, count in value.items()}
        else:
            flat[name] = value
    return flat


def _violation_row(violation: books.Violation) -> Row:
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
