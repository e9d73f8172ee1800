"""Usage: one month's books by day and by tenant, compared with the month before, and as CSV."""

import datetime
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiohttp import web
from markupsafe import Markup

from usher_gateway.pages import periods, requests
from usher_gateway.pages.api import Api, ApiProblemError, Row, Values, all_of
from usher_gateway.pages.charts import Bar, bar_chart
from usher_gateway.pages.rendering import path_to
from usher_gateway.pages.requests import Download
from usher_gateway.words import listings

_SHOWN = 50  # Tenants on one page

# Months for one tenant. For all tenants there are two, because reading all meters for a year takes too long.
_MONTHS = 12

# Count in `GET /api/usage` -> words.
_COUNTS = {
    "visits": "visits",
    "repeats": "repeats",
    "delivered": "delivered",
    "died": "deliveries failed for good",
    "quarantined": "arrivals quarantined",
    "refused": "arrivals refused",
}
_HEADINGS = [words.capitalize() for words in _COUNTS.values()]

_CSV = {"day", "month", "tenant"}


class Month(NamedTuple):
    """A calendar month."""

    year: int
    number: int
    """1 to 12."""

    def plus(self, months: int) -> "Month":
        """Return a later month, or with a negative number an earlier one."""
        years, index = divmod(self.number - 1 + months, 12)
        return Month(self.year + years, index + 1)

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"

    def begin(self, zone: datetime.tzinfo) -> datetime.datetime:
        """Return the month's first instant in a time zone."""
        return datetime.datetime(self.year, self.number, 1, tzinfo=zone)


def parse_month(text: str) -> Month:
    """Parse a month such as ``2026-11``.

    Raises:
        ApiProblemError: the text is none.
    """
    match = re.fullmatch(r"(20\d\d)-(0[1-9]|1[0-2])", text, re.ASCII)
    if match is None:
        raise ApiProblemError(400, "that is not a month", "write it like 2026-11")
    return Month(int(match[1]), int(match[2]))


def change(now: int, then: int) -> str:
    """Return a count's change in percent: ``+12 %``, ``new`` after none, and ``-`` between none and none."""
    if not then:
        return "new" if now else "-"
    return f"{round(100 * (now - then) / then):+d} %"


async def show(api: Api, request: web.Request) -> Values:
    """Return the values. Query: ``tenant``, ``month`` (default: this one), ``page`` of the tenants, ``zone=viewer``."""
    chosen = requests.texts(request, "tenant", "month", "zone")
    of_tenant = {"tenant": chosen["tenant"]} if "tenant" in chosen else {}
    zone = await _zone(api, request, chosen)
    selection = {name: value for name, value in chosen.items() if name != "month"}
    now = datetime.datetime.now(zone)
    this_month = Month(now.year, now.month)
    month = parse_month(chosen.get("month", str(this_month)))
    together = {"zone": str(zone), "together": "true"}
    period = {"from": str(month), "to": str(month.plus(1)), **together}
    earlier = {"from": str(month.plus(-1)), "to": _same_time_before(month, now, zone), **together}
    first_month = month.plus(1 - _MONTHS) if of_tenant else month.plus(-1)
    days, days_before, months, tenants, tenants_before = await all_of(
        api.get("/api/usage", {**period, **of_tenant, "by": "day"}),
        api.get("/api/usage", {**earlier, **of_tenant, "by": "month"}),
        api.get("/api/usage", {**period, **of_tenant, "from": str(first_month), "by": "month"}),
        _by_tenant(api, period, of_tenant),
        _by_tenant(api, earlier, of_tenant),
    )
    page = requests.page_number(request)
    ranked = sorted(tenants, key=lambda row: (-row["visits"], row["namespace"], row["tenant"]))
    visits_before = {(row["namespace"], row["tenant"]): row["visits"] for row in tenants_before}
    day_rows = _filled(days["rows"], month, now, zone)
    total, total_before = (periods.sums(answer["rows"], _COUNTS) for answer in (days, days_before))
    return {
        "title": f"Usage of {chosen['tenant']}" if of_tenant else "Usage",
        "tenant": chosen.get("tenant", ""),
        "tenant_path": path_to("tenants", chosen["tenant"]) if "/" in chosen.get("tenant", "") else "",
        "month": str(month),
        "usage_zone": str(zone),
        "viewer_zone": str(requests.viewer_zone(request)),
        "is_viewers": "zone" in chosen,
        "other_zone": requests.link(
            "/ui/usage", of_tenant, month=str(month), zone=None if "zone" in chosen else "viewer"
        ),
        "is_this_month": month == this_month,
        "total": total,
        "before": total_before,
        "changes": {name: change(total[name], total_before[name]) for name in _COUNTS},
        "kinds": _COUNTS,
        "headings": _HEADINGS,
        "compared_headings": [_HEADINGS[0], "Change of visits", *_HEADINGS[1:]],
        "days": [_cells(row["period"], row) for row in day_rows],
        "chart": bar_chart(
            f"Visits by day, {month}", "visits", [Bar(row["period"][5:], row["visits"]) for row in day_rows], 10
        ),
        "months": [
            _cells(f"{row['period']}{' so far' if row['period'] == str(this_month) else ''}", row, of_visits)
            for row, of_visits in _months(
                months["rows"], first_month, month, change(total["visits"], total_before["visits"])
            )
        ],
        "tenants": [
            _cells(
                _tenant_link(row, month),
                row,
                change(row["visits"], visits_before.get((row["namespace"], row["tenant"]), 0)),
            )
            for row in ranked[(page - 1) * _SHOWN : page * _SHOWN]
        ],
        "tenant_count": len(ranked),
        "previous_page": _page_link(month, page - 1) if page > 1 else "",
        "next_page": _page_link(month, page + 1) if page * _SHOWN < len(ranked) else "",
        "earlier": requests.link("/ui/usage", selection, month=str(month.plus(-1))),
        "later": requests.link("/ui/usage", selection, month=str(month.plus(1))) if month < this_month else "",
        "csv": {by: _csv_link(of_tenant, month, by, str(zone)) for by in sorted(_CSV)},
        "csv_own_zones": _csv_link({}, month, "tenant", "tenant"),
    }


async def download(api: Api, request: web.Request) -> Download:
    """Return the books of a month, or with ``by=month`` of the year that ends with it, as `usher usage -o csv` does."""
    chosen = requests.texts(request, "tenant", "zone", "by", "month")
    month, by = parse_month(chosen.pop("month", "")), chosen.get("by", "day")
    first = month.plus(1 - _MONTHS) if by == "month" else month
    books = await api.get("/api/usage", chosen | {"from": str(first), "to": str(month.plus(1))})
    zones = "-own-zones" if by == "tenant" and chosen.get("zone") == "tenant" else ""
    now = datetime.datetime.now(requests.find_zone(chosen.get("zone", "UTC")))
    so_far = "-so-far" if month == (now.year, now.month) else ""
    name = f"usage-{month}{so_far}-by-{by if by in _CSV else 'day'}{zones}.csv"
    return Download(name, listings.csv_text(books["rows"]).encode(), "text/csv")


async def _zone(api: Api, request: web.Request, chosen: Mapping[str, str]) -> datetime.tzinfo:
    """Return the selected tenant's time zone; the viewer's if no tenant is selected, or on request."""
    if "tenant" not in chosen:
        return requests.viewer_zone(request)
    of_tenant = await requests.tenant_zone(api, chosen["tenant"])
    return of_tenant if of_tenant and "zone" not in chosen else requests.viewer_zone(request)


async def _by_tenant(api: Api, period: Mapping[str, str], of_tenant: Mapping[str, str]) -> Sequence[Row]:
    """Return a row for each tenant; none if one tenant is selected."""
    if of_tenant:
        return []
    rows: Sequence[Row] = (await api.get("/api/usage", {**period, "by": "tenant"}))["rows"]
    return rows


def _same_time_before(month: Month, now: datetime.datetime, zone: datetime.tzinfo) -> str:
    """Return when the compared part of the previous month ends: after as much time as this month has had."""
    earlier, end = month.plus(-1).begin(zone), month.begin(zone)
    passed = now - end
    if passed < datetime.timedelta() or now >= month.plus(1).begin(zone):
        return end.isoformat()
    least = datetime.timedelta(minutes=15)
    return min(end, earlier + max(passed, least)).isoformat()


def _filled(rows: Sequence[Row], month: Month, now: datetime.datetime, zone: datetime.tzinfo) -> list[Row]:
    """Return a row for each day in a month until today."""
    by_day = {row["period"]: row for row in rows}
    day, end = month.begin(zone).date(), min(month.plus(1).begin(zone).date(), now.date() + datetime.timedelta(days=1))
    days = [(day + datetime.timedelta(days=number)).isoformat() for number in range(max(0, (end - day).days))]
    return [by_day.get(name, {"period": name, **dict.fromkeys(_COUNTS, 0)}) for name in days]


def _months(rows: Sequence[Row], first: Month, last: Month, last_change: str) -> list[tuple[Row, str]]:
    """Return months with the change in visits, the newest first, from the first month with a count.

    Args:
        rows: the months with a count.
        first: the oldest month.
        last: the newest month.
        last_change: the newest month's, which may not be over.
    """
    by_month = {row["period"]: row for row in rows}
    count = (last.year - first.year) * 12 + last.number - first.number + 1
    names = [str(first.plus(number)) for number in range(count)]
    filled = [by_month.get(name, {"period": name, **dict.fromkeys(_COUNTS, 0)}) for name in names]
    changes = [change(row["visits"], earlier["visits"]) for earlier, row in itertools.pairwise(filled)]
    counted = list(zip(filled, ["", *changes[:-1], last_change], strict=True))
    while counted and counted[0][0]["period"] not in by_month:
        counted.pop(0)
    return list(reversed(counted))


def _cells(name: str, row: Row, *changes: str) -> list[str | int]:
    """Return the cells for a line in the books: its name, visits with their change, and the other counts."""
    visits, *others = [row[count] for count in _COUNTS]
    return [name, visits, *changes, *others]


def _tenant_link(row: Row, month: Month) -> str:
    """Return a tenant's name, which leads to its books."""
    name = f"{row['namespace']}/{row['tenant']}"
    path = requests.link("/ui/usage", {"tenant": name, "month": str(month)})
    return Markup('<a href="{}">{}</a>').format(path, name)


def _page_link(month: Month, page: int) -> str:
    return requests.link("/ui/usage", {"month": str(month)}, page=str(page))


def _csv_link(of_tenant: Mapping[str, str], month: Month, by: str, zone: str) -> str:
    return requests.link("/ui/usage.csv", of_tenant, month=str(month), by=by, zone=zone)
