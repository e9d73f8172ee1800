"""Values of the page about a tenant."""

import datetime
import zoneinfo

from usher_gateway.pages import tenant

ADELAIDE = zoneinfo.ZoneInfo("Australia/Adelaide")
"""UTC+10:30 in November."""


def test_hours_are_those_of_the_tenants_zone() -> None:
    now = datetime.datetime(2026, 11, 30, 1, 40, tzinfo=datetime.UTC)
    rows = [
        {"period": "2026-11-30T01:15:00Z", "visits": 3},
        {"period": "2026-11-30T01:30:00Z", "visits": 4},
        {"period": "2026-11-30T01:30:00Z", "visits": 5},
    ]
    hours = tenant.visits_by_hour(rows, now, ADELAIDE)
    assert len(hours) == 24
    assert [(f"{hour:%d %H:%M}", visits) for hour, visits in hours[-2:]] == [("30 11:00", 3), ("30 12:00", 9)]


def test_hour_that_a_clock_repeats_is_shown_twice() -> None:
    now = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=datetime.UTC)
    rows = [{"period": "2026-10-25T00:15:00Z", "visits": 1}, {"period": "2026-10-25T01:15:00Z", "visits": 2}]
    hours = tenant.visits_by_hour(rows, now, zoneinfo.ZoneInfo("Europe/Berlin"))
    assert [(f"{hour:%H}", visits) for hour, visits in hours[-3:]] == [("02", 1), ("02", 2), ("03", 0)]


def test_holds_say_since_when_and_what_ends_them() -> None:
    rows = [
        {"held": "QuotaExceeded", "heldSince": "2026-11-30T10:00:00Z"},
        {"held": "QuotaExceeded", "heldSince": "2026-11-29T10:00:00Z"},
    ]
    quota, paused = tenant.held_reasons({"DestinationPaused": 1, "QuotaExceeded": 2}, rows)
    assert (quota.reason, quota.deliveries, quota.since) == ("QuotaExceeded", 2, "2026-11-29T10:00:00Z")
    assert (quota.cause, "next month" in quota.end) == ("the tenant is over its quota", True)
    assert (paused.reason, paused.since) == ("DestinationPaused", None)


def test_dead_deliveries_are_grouped_by_error() -> None:
    row = {"error": "Rejected", "status": 400, "destination": "agency/crm", "settledAt": "2026-11-29T10:00:00Z"}
    rows = [
        row | {"error": "Timeout", "status": None},
        row,
        row | {"settledAt": "2026-11-30T10:00:00Z"},
        row | {"error": None, "status": None},
    ]
    assert tenant.dead_errors(rows) == [
        ("Rejected 400", "agency/crm", 2, "2026-11-30T10:00:00Z"),
        ("Timeout", "agency/crm", 1, "2026-11-29T10:00:00Z"),
        ("unknown", "agency/crm", 1, "2026-11-29T10:00:00Z"),
    ]
