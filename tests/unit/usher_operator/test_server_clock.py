"""The clock that the operator takes from the API server's responses."""

import pytest

from usher_operator.server_clock import ServerClock

DATE = "Wed, 25 Nov 2026 12:00:00 GMT"
DATE_MICROSECONDS = 1_795_608_000_000_000
DAY = 86_400_000_000


class Clocks:
    monotonic, wall = 5_000_000, DATE_MICROSECONDS + 8 * DAY


def test_wall_clock_that_is_days_ahead_counts_only_before_the_first_response() -> None:
    clock = ServerClock(monotonic=lambda: Clocks.monotonic, wall=lambda: Clocks.wall)
    assert clock.now() == DATE_MICROSECONDS + 8 * DAY
    clock.saw_date(DATE)
    assert clock.now() == DATE_MICROSECONDS


def test_monotonic_clock_counts_between_responses() -> None:
    monotonic = [5_000_000]
    clock = ServerClock(monotonic=lambda: monotonic[0], wall=lambda: 0)
    clock.saw_date(DATE)
    monotonic[0] += 7_000_000
    assert clock.now() == DATE_MICROSECONDS + 7_000_000


@pytest.mark.parametrize(("seconds_later", "moved"), [(6, False), (9, False), (60, True)])
def test_response_moves_the_clock_only_if_it_differs_by_seconds(seconds_later: int, moved: bool) -> None:
    monotonic = [5_000_000]
    clock = ServerClock(monotonic=lambda: monotonic[0], wall=lambda: 0)
    clock.saw_date(DATE)
    monotonic[0] += 7_500_000
    clock.saw_date(f"Wed, 25 Nov 2026 12:0{seconds_later // 60}:{seconds_later % 60:02} GMT")
    assert clock.now() == DATE_MICROSECONDS + (60_000_000 if moved else 7_500_000)


@pytest.mark.parametrize("date", ["", "now", "Wed, 99 Nov 2026 12:00:00 GMT"])
def test_text_that_is_no_date_is_ignored(date: str) -> None:
    clock = ServerClock(monotonic=lambda: 0, wall=lambda: 7)
    clock.saw_date(date)
    assert clock.now() == 7
