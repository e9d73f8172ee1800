"""``/api/usage``: meters as rows for a bill, with the open deliveries before and after (pure but for the store)."""

import csv
import io
from collections.abc import Iterable, Mapping

from aiohttp import web

from usher_gateway import model
from usher_gateway.admin import context as contexts
from usher_gateway.admin import problems, questions
from usher_gateway.model import Counter
from usher_gateway.store import books
from usher_gateway.store.base import Period, UsageRow

_MOST_ROWS = 50_000

_SETTLED = 60 * model.MICROSECONDS

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


async def usage(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage``."""
    query = request.query
    with problems.asking():
        where = questions.filter_of(query, "from", "to", "by", "format")
        asked = questions.range_of(query, context.now())
        if query.get("format", "json") not in {"json", "csv"}:
            raise ValueError("format must be json or csv")
    found = await context.store.usage(asked.since, asked.until, where, asked.period)
    if len(found) > _MOST_ROWS:
        raise problems.ProblemError(
            400, "TooMuch", f"{len(found)} rows are too many", "ask for one tenant, a shorter time or a longer period"
        )
    rows = rows_of(found, await context.store.open_deliveries(asked.since), asked.period)
    if query.get("format") == "csv":
        return web.Response(text=as_csv(rows), content_type="text/csv", headers={"Cache-Control": "no-store"})
    times = {"from": model.format_time(asked.since), "to": model.format_time(asked.until)}
    return problems.answer({**times, "by": asked.period, "rows": rows, "total": total_of(found)})


async def check(context: contexts.AdminContext, request: web.Request) -> web.StreamResponse:
    """Answer ``GET /api/usage/check``: every equation that does not hold.

    Ends at a slot border that is over for a minute, so that nothing more is counted before it meanwhile. All that was
    ever counted is compared with the deliveries themselves: at the beginning of time nothing was open.
    """
    with problems.asking():
        questions.filter_of(request.query, "from", "to")
        asked = questions.range_of(request.query, context.now())
    store = context.store
    until = min(asked.until, model.slot_of(context.now() - _SETTLED) * model.MICROSECONDS)
    found = await store.usage(asked.since, until) if asked.since < until else []
    before, after = await store.open_deliveries(asked.since), await store.open_deliveries(until)
    violations = books.check(found, before, after if asked.since < until else before)
    violations += books.check([], await store.open_deliveries(0), {})
    rows = [_violation_row(violation) for violation in violations]
    return problems.answer({"from": model.format_time(asked.since), "to": model.format_time(until), "violations": rows})


def rows_of(usage: Iterable[UsageRow], open_before: Mapping[model.ListenerName, int], period: Period) -> list[Row]:
    """Rows ready for JSON, sorted as they came; the open deliveries are carried from row to row."""
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
    """All rows added up."""
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
    """A period as people write it: a month, a day, or the instant at which a quarter of an hour begins."""
    text = model.format_time(first_second * model.MICROSECONDS)
    return {"month": text[:7], "day": text[:10], "slot": f"{text[:19]}Z"}[period]


def as_csv(rows: Iterable[Row]) -> str:
    """One line per row; the skip reasons are columns of their own (RFC 4180)."""
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
