"""Retention and expiry follow the confirmed time, which does not follow a wall clock that jumps ahead."""

import time

import pytest

from usher_gateway import model, timing

SECOND = model.MICROSECONDS
HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
YEARS = 20 * 365 * DAY
START = 1_764_072_000 * SECOND


class Machine:
    """A machine whose wall clock and steady clock a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.since_boot = START, 5 * DAY
        monkeypatch.setattr(time, "time_ns", lambda: self.wall * 1000)
        monkeypatch.setattr(timing, "_since_boot_ns", lambda: self.since_boot * 1000)

    def advance(self, microseconds: int) -> None:
        self.wall += microseconds
        self.since_boot += microseconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_confirmed_time_is_the_wall_clock_while_both_clocks_agree(machine: Machine) -> None:
    clock = timing.Clock()
    for _ in range(100):
        machine.advance(DAY)
        machine.wall += 30 * SECOND  # a correction by NTP
        assert clock.confirmed() == clock.now()


def test_confirmed_time_does_not_follow_a_jump(machine: Machine) -> None:
    clock = timing.Clock()
    machine.wall += YEARS
    assert clock.confirmed() == START
    machine.advance(25 * SECOND)
    assert clock.confirmed() == START + 25 * SECOND
    assert clock.jump() == YEARS
    machine.wall -= YEARS
    assert clock.confirmed() == clock.now() == START + 25 * SECOND
    assert clock.jump() == 0


@pytest.mark.parametrize("jump", [YEARS, -YEARS])
def test_time_since_the_start_never_follows_a_jump(machine: Machine, jump: int) -> None:
    clock = timing.Clock()
    machine.wall += jump
    machine.advance(2 * HOUR)
    assert clock.since_start() == START + 2 * HOUR


def test_jump_is_accepted_after_an_hour_of_steady_time(machine: Machine) -> None:
    clock = timing.Clock()
    machine.wall += YEARS
    for _ in range(59):
        assert clock.confirmed() < START + DAY
        machine.advance(60 * SECOND)
    machine.wall += HOUR  # another jump: the hour begins again
    for _ in range(60):
        assert clock.confirmed() < START + DAY
        machine.advance(60 * SECOND)
    assert clock.confirmed() == clock.now()
    assert clock.jump() == 0


def test_clock_set_back_is_accepted_at_once(machine: Machine) -> None:
    clock = timing.Clock()
    machine.wall -= DAY
    assert clock.confirmed() == START - DAY


@pytest.mark.parametrize(("away", "is_confirmed"), [(0, True), (HOUR // 2, True), (-YEARS, True), (2 * HOUR, False)])
def test_start_compares_the_clock_with_the_time_in_the_store(machine: Machine, away: int, is_confirmed: bool) -> None:
    clock = timing.Clock()
    clock.start_from(START - away, accept=False)
    machine.advance(SECOND)
    assert clock.confirmed() == (START if is_confirmed else START - away) + SECOND
    machine.advance(HOUR)
    assert clock.confirmed() == clock.now()


def test_start_accepts_the_clock_on_request(machine: Machine) -> None:
    clock = timing.Clock()
    clock.start_from(START - YEARS, accept=True)
    assert clock.confirmed() == machine.wall


def test_scaled_clock_is_confirmed(machine: Machine) -> None:
    clock = timing.Clock(scale=1000.0)
    machine.since_boot += HOUR
    assert clock.confirmed() == clock.now() == START + 1000 * HOUR
