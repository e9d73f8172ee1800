"""Charts of a tenant's visits have the hours and days of its time zone."""

import datetime
import re
import zoneinfo

from usher_gateway.pages import visit_charts

ADELAIDE = zoneinfo.ZoneInfo("Australia/Adelaide")  # UTC+10:30 in November


def bars_of(chart: str) -> list[str]:
    """Return the label and the visits of each bar."""
    return re.findall("<rect [^>]*><title>([^<]*) visits</title>", chart)


def test_hours_are_those_of_the_time_zone() -> None:
    now = datetime.datetime(2026, 11, 30, 1, 40, tzinfo=datetime.UTC)
    rows = [
        {"period": "2026-11-30T01:15:00Z", "visits": 3},
        {"period": "2026-11-30T01:30:00Z", "visits": 4},
        {"period": "2026-11-30T01:30:00Z", "visits": 5},
    ]
    bars = bars_of(visit_charts.by_hour(rows, now, ADELAIDE))
    assert (len(bars), bars[0], bars[-2:]) == (24, "13:00: 0", ["11:00: 3", "12:00: 9"])
    assert visit_charts.hours(now, ADELAIDE)[0] == datetime.datetime(2026, 11, 29, 2, 30, tzinfo=datetime.UTC)


def test_hour_that_a_clock_repeats_is_shown_twice() -> None:
    now = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=datetime.UTC)
    rows = [{"period": "2026-10-25T00:15:00Z", "visits": 1}, {"period": "2026-10-25T01:15:00Z", "visits": 2}]
    bars = bars_of(visit_charts.by_hour(rows, now, zoneinfo.ZoneInfo("Europe/Berlin")))
    assert bars[-3:] == ["02:00: 1", "02:00: 2", "03:00: 0"]


def test_last_day_is_today_in_the_time_zone() -> None:
    now = datetime.datetime(2026, 11, 30, 13, 40, tzinfo=datetime.UTC)
    rows = [{"period": "2026-12-01", "visits": 3}, {"period": "2026-11-30", "visits": 4}]
    rows.append({"period": "2026-11-30", "visits": 5})
    bars = bars_of(visit_charts.by_day(rows, now, ADELAIDE))
    assert (len(bars), bars[-3:]) == (30, ["29 Nov: 0", "30 Nov: 9", "01 Dec: 3"])
    assert visit_charts.days(now, ADELAIDE)[0] == datetime.date(2026, 11, 2)
