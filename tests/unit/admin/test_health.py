"""Counts of the last 15 minutes."""

from usher_gateway.admin import health


def test_quarantined_share_counts_accepted_arrivals_only() -> None:
    window = health.RecentWindow()
    assert window.quarantined_share("a/x") == 0.0
    window.add("a/x", 30, 3, 0)
    window.end_minute()
    window.add("a/x", 10, 1, 0)
    assert window.quarantined_share("a/x") == 0.1
    assert window.quarantined_share("a/y") == 0.0


def test_window_drops_the_oldest_minute_first() -> None:
    window = health.RecentWindow()
    window.add("a/x", 10, 10, 1)
    for _ in range(health.WINDOW_MINUTES - 1):
        window.end_minute()
    assert window.has_mismatch("a/x")
    window.add("a/x", 10, 0, 0)
    assert window.quarantined_share("a/x") == 0.5
    window.end_minute()
    assert window.quarantined_share("a/x") == 0.0
    assert not window.has_mismatch("a/x")
