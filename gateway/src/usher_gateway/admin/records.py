"""Handlers over what the store recorded: visits, deliveries and quarantine row by row, and the meters as usage."""

import asyncio
import collections
import csv
import datetime
import io
import time
import zoneinfo
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec
from aiohttp import web

from usher_gateway import documents, model
from usher_gateway.admin import api, listings, names
from usher_gateway.ingest import body_reading
from usher_gateway.ingest.pipeline import once_marker, rebuild_arrival
from usher_gateway.ingest.registry import LiveListener
from usher_gateway.model import Counter
from usher_gateway.store import books
from usher_gateway.store.base import (
    Change,
    Filter,
    HoldsOf,
    MarkOf,
    Period,
    UsageRow,
    VisitBody,
    no_marks,
)
from usher_gateway.store.store import Store

_RELEASE_SLICE = 20
"""How many quarantined arrivals are parsed between two turns of the event loop; each may take some milliseconds."""

_MAX_USAGE_ROWS = 50_000

_VENUES_SECONDS = 20.0
"""The longest time that counting by venue may take; the client waits for 30 s."""

_VENUES_SLICE = 20
"""How many bodies are parsed between two turns of the event loop; each takes 20 microseconds to 3 milliseconds."""

_SETTLED = 60 * model.MICROSECONDS
"""How long after a slot ended its meters are complete."""

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

Row = dict[str, object]

CheckNames = Callable[[Filter], Awaitable[None]]
"""Raises ProblemError if a name of the filter does not exist and never did."""


class _Released(msgspec.Struct):
    reasons: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Quarantine reason -> arrivals that are visits now."""
    deliveries: int = 0
    unfit: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    """Reason -> arrivals that are still not visits."""


class RecordHandlers:
    """The handlers of ``/api/visits``, ``/api/deliveries`` and ``/api/quarantine``."""

    def __init__(
        self,
        *,
        store: Store,
        now: Callable[[], int],
        listeners: Callable[[], Mapping[str, LiveListener]],
        forget_cancelled: Callable[[Sequence[int]], None],
        ask_store: Callable[[], None],
        holds_of: HoldsOf,
        keys: model.Keys,
        check_names: CheckNames,
    ) -> None:
        """Take the parts of the gateway that records need.

        Args:
            store: The store.
            now: Returns microseconds.
            listeners: Returns the listeners in force by ``namespace/name``.
            forget_cancelled: Drops cancelled deliveries, by their row keys, from the lanes.
            ask_store: Lets the dispatcher look for due deliveries.
            holds_of: Returns what holds deliveries of a route now.
            keys: Keys with which listeners read bodies.
            check_names: Checks the names of a selection.
        """
        self._store = store
        self._now = now
        self._listeners = listeners
        self._forget_cancelled = forget_cancelled
        self._ask_store = ask_store
        self._holds_of = holds_of
        self._keys = keys
        self._check_names = check_names
        self._releasing = asyncio.Lock()
        """Held during a release, so that two requests never count the same arrival."""

    def lister(self, listing: listings.Listing) -> api.Handler:
        """Return the handler of a listing."""

        async def list_rows(request: web.Request) -> web.StreamResponse:
            with api.parsing():
                where = api.parse_filter({**request.query, **listing.only}, "limit", "cursor")
                limit = api.parse_limit(request.query)
                names.check_reason(where.reason, listing.reasons)
                await self._check_names(where)
                page = await listing.page(self._store)(where, request.query.get("cursor"), limit)
            return api.json_response({"rows": page.rows, "nextCursor": page.next_cursor})

        return list_rows

    async def show_body(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/body``. A body is personal data, so the audit log records each request."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        content, content_type = await self._store.body(identifier)
        api.audit(request, "show body", {"id": request.match_info["id"]}, 1)
        text = "".join([letter for letter in content_type.decode("latin-1") if " " <= letter <= "~"])
        return api.raw_response(content, {"Usher-Content-Type": text})

    async def show_reading(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/visits/{id}/reading``: how the listener reads the body now, without personal values.

        ``reading`` is null and ``reason`` says why if the body or the listener is gone.
        """
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        rows = (await self._store.visits(Filter(ids=(identifier,)), None, 1)).rows
        try:
            content, content_type = await self._store.body(identifier)
        except model.NotFoundError as error:
            if not rows:
                raise
            return api.json_response({"reading": None, "reason": str(error)})
        row = rows[0]
        listener = self._listeners().get(f"{row['namespace']}/{row['listener']}")
        if listener is None or listener.name.tenant != row["tenant"]:
            return api.json_response({"reading": None, "reason": "the listener is not in force any more"})
        received_at = datetime.datetime.fromisoformat(str(row["receivedAt"])).timestamp()
        reading = body_reading.read_body(
            listener,
            content,
            content_type.decode("utf-8", "surrogateescape"),
            int(received_at * model.MICROSECONDS),
            self._keys,
        )
        return api.json_response({"reading": reading, "reason": ""})

    async def show_answer(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/answer``. A destination's answer may be personal data too."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        content = await self._store.answer(identifier)
        api.audit(request, "show answer", {"id": request.match_info["id"]}, 1)
        return api.raw_response(content, {})

    async def list_attempts(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/deliveries/{id}/attempts``: the last attempts, the oldest first."""
        with api.parsing():
            identifier = api.parse_id(request.match_info["id"])
        rows = [
            {
                "at": model.format_time(attempt.at),
                "status": attempt.status or None,
                "error": attempt.error or None,
                "milliseconds": attempt.milliseconds,
            }
            for attempt in await self._store.attempts(identifier)
        ]
        return api.json_response({"rows": rows})

    async def redrive(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/redrive``."""
        return await self._change(
            request, "redrive", "redriven", lambda where: self._store.redrive(where, self._now(), self._holds_of)
        )

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/cancel``."""
        return await self._change(
            request, "cancel", "cancelled", lambda where: self._store.cancel(where, self._now(), self._forget_cancelled)
        )

    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/deliveries/retry``."""
        answer = await self._change(request, "retry", "retried", lambda where: self._store.retry(where, self._now()))
        self._ask_store()
        return answer

    async def _change(
        self, request: web.Request, change: Change, counted: str, apply: Callable[[Filter], Awaitable[int]]
    ) -> web.StreamResponse:
        """Change the selected deliveries; with ``dryRun`` only count them by reason."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.DELIVERY_REASONS)
            if selection.dry_run:
                return _preview_response({counted: 0}, await self._store.preview(change, where, self._now()))
            count = await apply(where)
        api.audit(request, change, audited, count)
        return api.json_response({counted: count})

    async def replay(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/visits/replay``: replay the skip reasons that ``reason`` names, with commas between."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.SKIP_REASONS, is_replay=True)
            if selection.reason is None and not selection.dry_run:
                raise ValueError("name the skip reasons to replay in `reason`, such as Paused,Filter")
            reasons = selection.reason.split(",") if selection.reason else model.SkipReason.__members__
            now = self._now()
            report = await self._store.replay(
                msgspec.structs.replace(where, reason=None),
                {model.SkipReason[name] for name in reasons},
                now,
                holds_of=self._holds_of,
                mark_of_route=no_marks if selection.ignore_once_per else lambda route: self._once_marker(route, now),
                is_preview=selection.dry_run,
            )
        left_out = {
            "replayedBefore": report.replayed_before,
            "withoutBody": report.without_body,
            "oncePer": report.once_per,
        }
        if selection.dry_run:
            return _preview_response({"replayed": 0, **left_out}, report.reasons)
        api.audit(request, "replay", audited, report.replayed)
        return api.json_response({"replayed": report.replayed, **left_out})

    def _once_marker(self, definition: model.RouteDefinition, now: int) -> MarkOf | None:
        listener = self._listeners().get(definition.listener.key)
        if listener is None or listener.name != definition.listener:
            return None
        return once_marker(listener, definition.route, now)

    async def release(self, request: web.Request) -> web.StreamResponse:
        """Answer ``POST /api/quarantine/release``: deliver what is a visit now, and give the reasons for the rest."""
        with api.parsing():
            selection, audited, where = await self._read_selection(request, listings.QUARANTINE_REASONS)
            async with self._releasing:
                released = await self._release(where, is_preview=selection.dry_run)
        if selection.dry_run:
            nothing = {"released": 0, "deliveries": 0, "unfit": released.unfit}
            return _preview_response(nothing, released.reasons)
        count = sum(released.reasons.values())
        api.audit(request, "release", audited, count)
        return api.json_response({"released": count, "deliveries": released.deliveries, "unfit": released.unfit})

    async def _release(self, where: Filter, *, is_preview: bool) -> _Released:
        result, after = _Released(), 0
        while quarantined := await self._store.quarantined(where, _RELEASE_SLICE, after):
            after = quarantined[-1].key
            fit = []
            for arrival in quarantined:
                parsed = self._parse_again(arrival)
                if isinstance(parsed, model.Arrival):
                    fit.append(parsed)
                    assert arrival.quarantine is not None
                    result.reasons[arrival.quarantine.name] += 1
                else:
                    result.unfit[parsed] += 1
            if not is_preview:
                result.deliveries += await self._store.release(fit, self._now())
        return result

    def _parse_again(self, arrival: model.Arrival) -> model.Arrival | str:
        """Parse an arrival by its listener as it is now; return the reason if it is still not a visit."""
        listener = self._listeners().get(arrival.listener.key)
        if listener is None or listener.name != arrival.listener:
            return "ListenerNotFound"
        parsed = rebuild_arrival(listener, arrival, self._now())
        return parsed if isinstance(parsed, model.Arrival) else parsed.name

    async def _read_selection(
        self, request: web.Request, reasons: frozenset[str], *, is_replay: bool = False
    ) -> tuple[api.Selection, dict[str, object], Filter]:
        """Return the selection, what the audit log records of it, and its store filter.

        ``reasons``: those that the selection may have; a replay may have several, with commas between.
        """
        selection = api.parse_selection(await request.read())
        if selection.ignore_once_per and not is_replay:
            raise ValueError("only replay has ignoreOncePer")
        audited = {name: value for name, value in msgspec.to_builtins(selection).items() if value}
        if "ids" in audited:
            audited["ids"] = len(selection.ids)
        where = api.filter_from_selection(selection)
        for reason in where.reason.split(",") if is_replay and where.reason else [where.reason]:
            names.check_reason(reason, reasons)
        await self._check_names(where)
        return selection, audited, where


def _preview_response(nothing: Row, reasons: Mapping[str, int]) -> web.StreamResponse:
    """Answer a request with ``dryRun``: what it would change, in all and by reason."""
    return api.json_response({**nothing, "selected": sum(reasons.values()), "reasons": reasons})


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

    def rows(self) -> list[Row]:
        """Return a row per venue, sorted by names; ``venue`` is empty for visits that name none."""
        return [
            {
                "namespace": namespace,
                "tenant": tenant,
                "venue": venue,
                "visits": counts.get(model.CountedAs.Visit, 0),
                "repeats": counts.get(model.CountedAs.Repeat, 0),
            }
            for (namespace, tenant, venue), counts in sorted(self._counts.items())
        ]


_TENANT_ZONE = "tenant"
"""The value of ``zone`` for the time zone of each tenant."""


class UsageHandlers:
    """The handlers of ``/api/usage`` and ``/api/usage/check``.

    Args:
        store: the store.
        now: returns microseconds.
        check_names: checks the names of a question.
        snapshot: returns the configuration in force, which has the time zones of the tenants.
    """

    def __init__(
        self,
        *,
        store: Store,
        now: Callable[[], int],
        check_names: CheckNames,
        snapshot: Callable[[], documents.Snapshot],
    ) -> None:
        self._store = store
        self._now = now
        self._check_names = check_names
        self._snapshot = snapshot

    async def usage(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/usage``. Days and months are those of ``zone``, which may be that of each tenant."""
        query = request.query
        zone = query.get("zone", "UTC")
        with api.parsing():
            where = api.parse_filter(query, "from", "to", "by", "format", "zone")
            common = datetime.UTC if zone == _TENANT_ZONE else api.parse_zone(zone)
            asked = api.parse_range(query, self._now(), common)
            if query.get("format", "json") not in {"json", "csv"}:
                raise ValueError("format must be json or csv")
        await self._check_names(where)
        unsorted_rows = (
            await self._read_by_zone(where, query) if zone == _TENANT_ZONE else await self._read(where, asked, common)
        )
        rows = sorted(unsorted_rows, key=lambda row: (row["period"], row["namespace"], row["tenant"], row["listener"]))
        if query.get("format") == "csv":
            return web.Response(text=as_csv(rows), content_type="text/csv", headers={"Cache-Control": "no-store"})
        times = {"from": model.format_time(asked.since), "to": model.format_time(asked.until), "zone": zone}
        return api.json_response({**times, "by": asked.period, "rows": rows, "total": _sum_rows(rows)})

    async def venues(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/usage/venues``: visits and repeats by the venue in their bodies, while these are stored.

        ``withoutBody`` says how many more the meters counted, whose bodies retention has deleted. A venue is read by
        the listener as it is now, and only where Purple puts it, because a listener's own path may lead to personal
        data.
        """
        with api.parsing():
            where = api.parse_filter(request.query, "from", "to", "zone")
            asked = api.parse_range(request.query, self._now(), api.parse_zone(request.query.get("zone", "UTC")))
        await self._check_names(where)
        where = msgspec.structs.replace(where, since=asked.since, until=asked.until)
        counts = _VenueCounts()
        listeners = self._snapshot().listeners
        end, after = time.monotonic() + _VENUES_SECONDS, 0
        while visits := await self._store.visit_bodies(where, _VENUES_SLICE, after):
            after = visits[-1].key
            for visit in visits:
                counts.add(visit, listeners.get(visit.listener.key))
            if time.monotonic() > end:
                raise api.ProblemError(
                    400, "TooMuch", "there are too many visits", "ask for one tenant or a shorter time"
                )
        metered = await self._store.usage(asked.since, asked.until, where, "month")
        in_all = sum(row.counts.get(counter, 0) for row in metered for counter in (Counter.visits, Counter.repeats))
        times = {"from": model.format_time(asked.since), "to": model.format_time(asked.until)}
        return api.json_response({**times, "rows": counts.rows(), "withoutBody": max(0, in_all - counts.total)})

    async def _read_by_zone(self, where: Filter, query: Mapping[str, str]) -> list[Row]:
        """Read the usage of each tenant in its time zone; a tenant that is gone counts in UTC."""
        listeners = self._snapshot().listeners.values()
        zones = {(listener.namespace, listener.tenant.name): listener.tenant.time_zone for listener in listeners}
        rows: list[Row] = []
        for name in sorted({"UTC", *zones.values()}):
            zone = zoneinfo.ZoneInfo(name)
            zone_rows = await self._read(where, api.parse_range(query, self._now(), zone), zone)
            rows += [row for row in zone_rows if zones.get((str(row["namespace"]), str(row["tenant"])), "UTC") == name]
        return rows

    async def _read(self, where: Filter, asked: api.UsageRange, zone: datetime.tzinfo) -> list[Row]:
        usage = await self._store.usage(asked.since, asked.until, where, asked.period, zone)
        if len(usage) > _MAX_USAGE_ROWS:
            detail = f"{len(usage)} rows are too many"
            raise api.ProblemError(400, "TooMuch", detail, "ask for one tenant, a shorter time or a longer period")
        return usage_rows(usage, await self._store.open_deliveries(asked.since), asked.period, zone)

    async def check(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/usage/check`` with every equation that does not hold.

        The check ends at a slot border that passed at least a minute ago, because nothing more is counted before it.
        It also compares all meters ever counted with the deliveries themselves: at the epoch no delivery was open.
        """
        with api.parsing():
            api.parse_filter(request.query, "from", "to")
            asked = api.parse_range(request.query, self._now())
        store = self._store
        until = min(asked.until, model.slot_of(self._now() - _SETTLED) * model.MICROSECONDS)
        usage = await store.usage(asked.since, until) if asked.since < until else []
        open_before, open_after = await store.open_deliveries(asked.since), await store.open_deliveries(until)
        violations = books.check(usage, open_before, open_after if asked.since < until else open_before)
        violations += books.check([], await store.open_deliveries(0), {})
        rows = [_violation_row(violation) for violation in violations]
        times = {"from": model.format_time(asked.since), "to": model.format_time(until)}
        return api.json_response({**times, "violations": rows})


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
