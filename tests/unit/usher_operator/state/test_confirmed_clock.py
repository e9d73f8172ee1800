"""The time by which addresses end: no jump of a wall clock changes it."""

import pytest

from usher_operator.state.confirmed_clock import ConfirmedClock

SECOND = 1_000_000
DAY = 86_400 * SECOND
START = 1_800_000_000 * SECOND


class Machine:
    """The clocks of one machine."""

    def __init__(self) -> None:
        self.steady, self.wall = 5 * SECOND, START

    def clock(self) -> ConfirmedClock:
        return ConfirmedClock(steady=lambda: self.steady, wall=lambda: self.wall)


@pytest.mark.parametrize("days", [60, -60])
def test_jump_of_the_wall_clock_changes_no_confirmed_time(days: int) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += days * DAY
    machine.steady += 8 * SECOND
    assert clock.now() == START + 8 * SECOND


@pytest.mark.parametrize("days", [60, -60])
def test_confirmed_time_adds_up_over_restarts(days: int) -> None:
    machine = Machine()
    saved = machine.clock().now()
    machine.wall += days * DAY
    for _ in range(3):
        clock = machine.clock()
        clock.start_from(saved)
        machine.steady += 2 * DAY
        saved = clock.now()
    assert saved == START + 6 * DAY
