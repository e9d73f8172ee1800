"""Alive: the loop runs, and watches tell of what was changed. Silence without a change is fine."""

import asyncio

import pytest

from usher_operator.health import Health
from usher_operator.settings import OperatorSettings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def found(clock: Clock) -> Health:
    made = Health(OperatorSettings(), clock)
    made.not_ready.clear()
    return made


def test_silence_without_a_change_is_fine(found: Health, clock: Clock) -> None:
    found.saw_watch("Listener")
    found.expect("Listener")
    found.saw_watch("Listener")
    clock.now += 0.5
    assert found.not_alive() == []


def test_a_change_that_a_watch_never_tells_of_is_death(found: Health, clock: Clock) -> None:
    found.expect("Listener")
    clock.now += 100
    found.expect("Listener")
    found.saw_watch("Tenant")
    clock.now += 60
    assert any("watch of Listener" in reason for reason in found.not_alive())


def test_a_loop_that_does_not_turn_is_death(found: Health, clock: Clock) -> None:
    clock.now += 30
    assert any("event loop" in reason for reason in found.not_alive())


async def test_the_loop_is_measured(clock: Clock) -> None:
    found = Health(OperatorSettings(), asyncio.get_running_loop().time)
    ticking = asyncio.create_task(found.tick())
    await asyncio.sleep(0)
    assert found.not_alive() == []
    ticking.cancel()
