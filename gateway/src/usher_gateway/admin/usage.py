"""``/api/usage``: meters as rows for a bill, with the deliveries open before and after each row."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping

from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import api
from usher_gateway.model import Counter
from usher_gateway.store import books
from usher_gateway.store.base import Period, Store, UsageRow

_MAX_ROWS = 50_000

_SETTLED = 60 * model.MICROSECONDS
"""How long after a slot ended its meters are complete."""

_COUNTERS = (
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


class UsageHandlers:
    """The handlers of ``/api/usage`` and ``/api/usage/check``."""

    def __init__(self, *, store: Store, now: Callable[[], int]) -> None:
        self._store, self._now = store, now

    async def usage(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /api/usage``."""
        query = request.query
        with api.parsing():
            where = api.parse_filter(query, "from", "to", "by", "format")
            asked = api.parse_range(query, self._now())
            if query.get("format", "json") not in {"json", "csv"}:
                raise ValueError("format must be json or csv")
        found = await self._store.usage(asked.since, asked.until, where, asked.period)
        if len(found) > _MAX_ROWS:
            detail = f"{len(found)} rows are too many"
            raise api.ProblemError(400, "TooMuch", detail, "ask for one tenant, a shorter time or a longer period")
        rows = usage_rows(found, await self._store.open_deliveries(asked.since), asked.period)
        if query.get("format") == "csv":
            return web.Response(text=as_csv(rows), content_type="text/csv", headers={"Cache-Control": "no-store"})
        times = {"from": model.format_time(asked.since), "to": model.format_time(asked.until)}
        return api.json_response({**times, "by": asked.period, "rows": rows, "total": total_of(found)})

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
        found = await store.usage(asked.since, until) if asked.since < until else []
        before, after = await store.open_deliveries(asked.since), await store.open_deliveries(until)
        violations = books.check(found, before, after if asked.since < until else before)
        violations += books.check([], await store.open_deliveries(0), {})
        rows = [_violation_row(violation) for violation in violations]
        times = {"from": model.format_time(asked.since), "to": model.format_time(until)}
        return api.json_response({**times, "violations": rows})


def usage_rows(usage: Iterable[UsageRow], open_before: Mapping[model.ListenerName, int], period: Period) -> list[Row]:
    """Return rows for JSON in the given order, and carry the number of open deliveries from row to row."""
    running = dict(open_before)
    rows: list[Row] = []
    for row in usage:
        before = running.get(row.listener, 0)
        running[row.listener] = after = before + books.opened(row.counts)
        names = {"namespace": row.listener.namespace, "tenant": row.listener.tenant, "listener": row.listener.listener}
        rows.append(
            {
                "period": name_period(row.period, period),
                **names,
                **_counts(row.counts),
                "openBefore": before,
                "openAfter": after,
            }
        )
    return rows


def total_of(usage: Iterable[UsageRow]) -> Row:
    """Return the sum of all rows."""
    total: model.Counts = {}
    for row in usage:
        for counter, count in row.counts.items():
            total[counter] = total.get(counter, 0) + count
    return _counts(total)


def _counts(counts: model.Counts) -> Row:
    row: Row = {"arrivals": books.arrivals(counts)}
    row |= {counter.name: counts.get(counter, 0) for counter in _COUNTERS}
    row["skipped"] = {reason.name: counts.get(counter, 0) for reason, counter in books.SKIPPED.items()}
    return row


def name_period(first_second: int, period: Period) -> str:
    """Format a period: a month, a day, or the first instant of a quarter of an hour."""
    text = model.format_time(first_second * model.MICROSECONDS)
    return {"month": text[:7], "day": text[:10], "slot": f"{text[:19]}Z"}[period]


def as_csv(rows: Iterable[Row]) -> str:
    """Return one CSV line per row, with one column per skip reason. Source: RFC 4180."""
    file = io.StringIO()
    flat = [_flatten(row) for row in rows]
    header = list(flat[0]) if flat else list(_flatten({"period": "", **_counts({})}))
    writer = csv.DictWriter(file, header, lineterminator="\r\n")
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
