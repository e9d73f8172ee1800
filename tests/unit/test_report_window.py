"""What happened in the last 15 minutes."""

from usher_gateway import report


def test_the_share_is_of_what_was_accepted() -> None:
    window = report.Window()
    assert window.share("a/x") == 0.0
    window.add("a/x", 30, 3, 0)
    window.turn()
    window.add("a/x", 10, 1, 0)
    assert window.share("a/x") == 0.1
    assert window.share("a/y") == 0.0


def test_minutes_are_forgotten_in_their_order() -> None:
    window = report.Window()
    window.add("a/x", 10, 10, 1)
    for _ in range(report.WINDOW_MINUTES - 1):
        window.turn()
    assert window.mismatched("a/x")
    window.add("a/x", 10, 0, 0)
    assert window.share("a/x") == 0.5
    window.turn()
    assert window.share("a/x") == 0.0
    assert not window.mismatched("a/x")
