"""The operator is alive while its loop runs and its watches report changes."""

import asyncio

import pytest

from usher_operator.run.health import Health
from usher_operator.run.workqueue import PauseGate
from usher_operator.settings import OperatorSettings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(OperatorSettings(), gate=PauseGate(), clock=clock)


def test_silent_watch_without_a_change_is_alive(health: Health, clock: Clock) -> None:
    health.saw_event("Listener")
    health.expect_event("Listener")
    health.saw_event("Listener")
    clock.now += 0.5
    assert health.reasons_not_alive() == []


def test_watch_that_never_reports_a_change_is_not_alive(health: Health, clock: Clock) -> None:
    health.expect_event("Listener")
    clock.now += 100
    health.expect_event("Listener")
    health.saw_event("Tenant")
    clock.now += 60
    assert any("watch of Listener" in reason for reason in health.reasons_not_alive())


def test_kind_that_is_neither_watched_nor_listed_is_not_ready(health: Health, clock: Clock) -> None:
    health.set_ready("start")
    health.saw_list("Listener")
    health.saw_list("Issuer")
    clock.now += 100
    health.saw_event("Listener")
    health.forget_lists("Issuer")
    clock.now += 100
    assert health.reasons_not_ready() == []
    clock.now += 60
    [reason] = health.reasons_not_ready()
    assert "the watch of Listener has reported nothing for 160 s, and lists have failed since" in reason
    health.saw_list("Listener")
    assert health.reasons_not_ready() == []


def test_loop_that_does_not_run_is_not_alive(health: Health, clock: Clock) -> None:
    clock.now += 30
    assert any("event loop" in reason for reason in health.reasons_not_alive())


async def test_loop_that_runs_is_alive() -> None:
    health = Health(OperatorSettings(), gate=PauseGate(), clock=asyncio.get_running_loop().time)
    measuring = asyncio.create_task(health.measure_loop())
    await asyncio.sleep(0)
    assert health.reasons_not_alive() == []
    measuring.cancel()


def test_operator_is_ready_without_a_reason_against_it(clock: Clock) -> None:
    gate = PauseGate()
    health = Health(OperatorSettings(), gate=gate, clock=clock)
    assert health.reasons_not_ready() == ["the operator is starting"]
    health.set_ready("start")
    assert health.reasons_not_ready() == []
    gate.pause("reading listeners", "listeners cannot be read")
    assert health.reasons_not_ready() == ["listeners cannot be read"]
