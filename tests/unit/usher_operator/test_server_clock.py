"""The operator's wall clock, which it compares with the API server's."""

import pytest

from usher_operator.server_clock import ServerClock

DATE = "Wed, 25 Nov 2026 12:00:00 GMT"
DATE_MICROSECONDS = 1_795_608_000_000_000
SECOND = 1_000_000
DAY = 86_400 * SECOND


@pytest.mark.parametrize("jump", [8 * DAY, -8 * DAY, 61 * SECOND])
def test_wall_clock_that_is_wrong_counts_only_before_the_first_response(jump: int) -> None:
    clock = ServerClock(monotonic=lambda: 5 * SECOND, wall=lambda: DATE_MICROSECONDS + jump)
    assert clock.now() == DATE_MICROSECONDS + jump
    clock.saw_date(DATE)
    assert clock.now() == DATE_MICROSECONDS


@pytest.mark.parametrize("difference", [0, 1_234_567, -59 * SECOND])
def test_wall_clock_that_is_right_within_a_minute_counts(difference: int) -> None:
    clock = ServerClock(monotonic=lambda: 5 * SECOND, wall=lambda: DATE_MICROSECONDS + difference)
    clock.saw_date(DATE)
    assert clock.now() == DATE_MICROSECONDS + difference


def test_monotonic_clock_counts_between_responses_while_the_wall_clock_is_wrong() -> None:
    monotonic = [5 * SECOND]
    clock = ServerClock(monotonic=lambda: monotonic[0], wall=lambda: 0)
    clock.saw_date(DATE)
    monotonic[0] += 7 * SECOND
    assert clock.now() == DATE_MICROSECONDS + 7 * SECOND


@pytest.mark.parametrize("date", ["", "now", "Wed, 99 Nov 2026 12:00:00 GMT"])
def test_text_that_is_no_date_is_ignored(date: str) -> None:
    clock = ServerClock(monotonic=lambda: 0, wall=lambda: 7)
    clock.saw_date(date)
    assert clock.now() == 7
