"""Charts for a tenant's visits, by hour and day in its time zone. Pure; it takes ``GET /api/usage`` rows."""

import datetime
from collections import Counter
from collections.abc import Sequence

from markupsafe import Markup

from usher_gateway.pages.api import Row
from usher_gateway.pages.charts import Bar, bar_chart

_HOURS, _DAYS = 24, 30


def hours(now: datetime.datetime, zone: datetime.tzinfo) -> list[datetime.datetime]:
    """Return when each hour in the chart begins, in UTC, the oldest first."""
    last = _hour_of(now, zone)
    return [last - datetime.timedelta(hours=number) for number in reversed(range(_HOURS))]


def days(now: datetime.datetime, zone: datetime.tzinfo) -> list[datetime.date]:
    """Return the days in the chart, the oldest first."""
    today = now.astimezone(zone).date()
    return [today - datetime.timedelta(days=number) for number in reversed(range(_DAYS))]


def by_hour(slots: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> Markup:
    """Return the chart by hour. ``slots``: rows by slot, since the first of `hours`."""
    visits: Counter[datetime.datetime] = Counter()
    for row in slots:
        visits[_hour_of(datetime.datetime.fromisoformat(row["period"]), zone)] += row["visits"]
    bars = [Bar(f"{hour.astimezone(zone):%H:%M}", visits[hour]) for hour in hours(now, zone)]
    return bar_chart(f"Visits by hour, last {_HOURS} hours", "visits", bars, labelled=8)


def by_day(rows: Sequence[Row], now: datetime.datetime, zone: datetime.tzinfo) -> Markup:
    """Return the chart by day. ``rows``: by day in the zone, since the first of `days`."""
    visits: Counter[str] = Counter()
    for row in rows:
        visits[row["period"]] += row["visits"]
    bars = [Bar(f"{day:%d %b}", visits[day.isoformat()]) for day in days(now, zone)]
    return bar_chart(f"Visits by day, last {_DAYS} days", "visits", bars)


def _hour_of(moment: datetime.datetime, zone: datetime.tzinfo) -> datetime.datetime:
    """Return when the hour begins in a time zone, in UTC."""
    return moment.astimezone(zone).replace(minute=0, second=0, microsecond=0).astimezone(datetime.UTC)
