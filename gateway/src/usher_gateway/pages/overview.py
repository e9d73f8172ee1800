"""The overview: today's totals, a chart for the last day, and the tenants that need a person first."""

import datetime
from collections.abc import Sequence

from aiohttp import web

from usher_gateway.pages import attention, periods, requests
from usher_gateway.pages.api import Api, Row, Values, all_of
from usher_gateway.pages.charts import Bar, bar_chart

_SHOWN = 50  # Tenants on one page
_WEEKS = 4  # Weeks before this one whose same weekday is compared with today

# Count in `GET /api/usage` -> words.
_KINDS = {
    "visits": "visits",
    "delivered": "delivered",
    "died": "deliveries that failed for good",
    "quarantined": "arrivals quarantined",
    "refused": "arrivals refused",
}


async def show(api: Api, request: web.Request) -> Values:
    """Return the values. Query: ``q`` (part of a name), ``all`` (also tenants without need), ``page``."""
    zone, page = requests.viewer_zone(request), requests.page_number(request)
    text, shows_all = request.query.get("q", "")[:100], "all" in request.query
    selection = {
        "order": "urgency",
        "contains": text,
        "troubled": str(not shows_all and not text).lower(),
        "limit": str(_SHOWN),
        "offset": str((page - 1) * _SHOWN),
    }
    tenants = await api.get("/api/tenants", selection)
    now = datetime.datetime.fromisoformat(tenants["now"])
    midnight, until = _day_of(now, zone, 0)
    last_day, yesterday, *weeks = await all_of(
        _totals(api, min(now - datetime.timedelta(days=1), midnight), until),
        _totals(api, *_day_of(now, zone, 1)),
        *[_totals(api, *_day_of(now, zone, 7 * week)) for week in range(1, _WEEKS + 1)],
    )
    today = [row for row in last_day if datetime.datetime.fromisoformat(row["period"]) >= midnight]
    usual = _usual(weeks)
    heading, of_last_hour = periods.last_hour(last_day, now, zone)
    compared = {heading: of_last_hour, "Today": today}
    if yesterday:
        compared["Yesterday by now"] = yesterday
    if usual is not None:
        compared[f"Usual {now.astimezone(zone):%A} by now"] = [usual]
    totals = tenants["totals"]
    return {
        "title": "Overview",
        "today": periods.sums(today, _KINDS),
        "usual": usual,
        "visits_of_today": _listed("visit", midnight),
        "quarantine_of_today": _listed("quarantined", midnight),
        "periods": list(compared),
        "kinds": periods.counts(_KINDS, compared),
        "waiting": totals["backlog"],
        "dead": totals["dead"],
        "urgent": totals["troubled"],
        "tenants": totals["tenants"],
        "now": tenants["now"],
        "rows": [(tenant, attention.of_tenant(tenant, now)) for tenant in tenants["rows"]],
        "selected": totals["selected"],
        "page": page,
        "pages": -(-totals["selected"] // _SHOWN) or 1,
        "q": text,
        "shows_all": shows_all,
        "chart": _chart(last_day, now, zone),
    }


def _listed(counted_as: str, midnight: datetime.datetime) -> str:
    """Return the path to the list of one kind of arrivals since midnight in the viewer's zone."""
    return requests.link("/ui/visits", {"countedAs": counted_as}, since=f"{midnight:%Y-%m-%dT%H:%M}")


async def _totals(api: Api, since: datetime.datetime, until: datetime.datetime) -> Sequence[Row]:
    times = {"from": since.isoformat(), "to": until.isoformat()}
    answer = await api.get("/api/usage", {**times, "by": "slot", "together": "true"})
    rows: Sequence[Row] = answer["rows"]
    return rows


def _day_of(
    now: datetime.datetime, zone: datetime.tzinfo, days_ago: int
) -> tuple[datetime.datetime, datetime.datetime]:
    """Return midnight and the present time of day, some days ago; one second later, so that a starting slot counts."""
    then = now.astimezone(zone) - datetime.timedelta(days=days_ago)
    midnight = then.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight, then + datetime.timedelta(seconds=1)


def _usual(weeks: Sequence[Sequence[Row]]) -> dict[str, int] | None:
    """Return the mean counts over the weeks that had visits; None if none had."""
    counted = [sums for rows in weeks if (sums := periods.sums(rows, _KINDS))["visits"]]
    return {name: round(sum(sums[name] for sums in counted) / len(counted)) for name in _KINDS} if counted else None


def _chart(rows: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> str:
    """Return the visits per minute in each slot (15 minutes) of the last day."""
    visits = {datetime.datetime.fromisoformat(row["period"]): row["visits"] for row in rows}
    quarter = datetime.timedelta(minutes=15)
    last = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0)
    slots = [last - number * quarter for number in reversed(range(96))]
    minutes = {last: max(1.0, (now - last).total_seconds() / 60)}  # the last one is not over
    bars = [
        Bar(slot.astimezone(zone).strftime("%H:%M"), visits.get(slot, 0) / minutes.get(slot, 15.0)) for slot in slots
    ]
    return bar_chart("Visits a minute, last 24 hours", "visits a minute", bars, labelled=8)
