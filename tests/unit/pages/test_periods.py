"""Counts of the last hour, today and yesterday."""

import datetime
import zoneinfo

from usher_gateway.pages import periods

ADELAIDE = zoneinfo.ZoneInfo("Australia/Adelaide")  # UTC+10:30 in November

NOW = datetime.datetime(2026, 11, 29, 14, 5, tzinfo=datetime.UTC)


def test_last_hour_begins_with_a_quarter_and_is_named_in_the_zone() -> None:
    slots = [{"period": f"2026-11-29T{time}:00Z", "visits": 1} for time in ("12:45", "13:00", "13:45", "14:00")]
    heading, rows = periods.last_hour(slots, NOW, ADELAIDE)
    assert (heading, rows) == ("Last hour (since 23:30)", slots[1:])


def test_today_and_yesterday_are_days_of_the_zone() -> None:
    days = [{"period": day, "visits": 1} for day in ("2026-11-28", "2026-11-29", "2026-11-30")]
    recent = periods.recent(days, [], NOW, ADELAIDE)
    assert recent == {"Last hour (since 23:30)": [], "Today": days[2:], "Yesterday": days[1:2], "30 days": days}


def test_kinds_of_which_none_came_are_left_out_but_the_first() -> None:
    rows = [{"visits": 0, "repeats": 2, "probes": 0}, {"visits": 0, "repeats": 1, "probes": 0}]
    kinds = {"visits": "visits", "repeats": "repeats of a visit", "probes": "probes"}
    counts = periods.counts(kinds, {"Today": rows[1:], "30 days": rows})
    assert counts == [("visits", [0, 0]), ("repeats of a visit", [1, 3])]
