"""Values of the page about a tenant."""

from usher_gateway.pages import tenant


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
