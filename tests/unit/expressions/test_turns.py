"""Expressions are prepared in turns, and a namespace with expensive expressions has to wait."""

import asyncio

import pytest

from usher_gateway import expressions
from usher_gateway.expressions import samples
from usher_gateway.expressions.turns import PAUSE_FACTOR, UNPAUSED_SECONDS, ExpressionTurns, checking_turns


class Machine:
    """Prepares expressions, each of which takes the same CPU time."""

    def __init__(self, seconds_per_expression: float = 0.0) -> None:
        self.prepared: list[str] = []
        self._seconds = seconds_per_expression
        self.turns = ExpressionTurns(
            lambda source, _: self.prepared.append(source),
            lambda source, _: source in self.prepared,
            cpu_clock=lambda: self._seconds * len(self.prepared),
        )


def sources(name: str, count: int = 4) -> list[expressions.Source]:
    return [(f"{name}{number}", "when") for number in range(count)]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, which end at once."""
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return pauses


async def test_other_tasks_run_between_two_expressions() -> None:
    machine, prepared_counts = Machine(), []

    async def look() -> None:
        while len(machine.prepared) < 4:
            prepared_counts.append(len(machine.prepared))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    assert await machine.turns.take("agency", sources("a")) == 0.0
    await looking
    assert {1, 2, 3} <= set(prepared_counts)


async def test_namespace_pauses_after_each_expensive_expression(slept: list[float]) -> None:
    machine = Machine(seconds_per_expression=0.25)
    assert await machine.turns.take("agency", sources("a")) == 0.0
    assert [pause for pause in slept if pause] == [0.25 * PAUSE_FACTOR] * 4


async def test_only_one_document_of_a_namespace_is_prepared_at_a_time() -> None:
    machine = Machine()
    preparing = asyncio.create_task(machine.turns.take("agency", sources("a")))
    await asyncio.sleep(0)
    assert await machine.turns.take("agency", sources("b")) > 0.0
    assert await machine.turns.take("other", sources("c")) == 0.0
    assert await preparing == 0.0
    assert await machine.turns.take("agency", sources("b")) == 0.0


async def test_many_cheap_expressions_cause_pauses_too(slept: list[float]) -> None:
    machine = Machine(seconds_per_expression=0.3 * UNPAUSED_SECONDS)
    assert await machine.turns.take("agency", sources("a", 9)) == 0.0
    assert [seconds for seconds in slept if seconds] == pytest.approx([1.2 * UNPAUSED_SECONDS * PAUSE_FACTOR] * 2)


async def test_usual_documents_cause_no_pause(slept: list[float]) -> None:
    machine = Machine(seconds_per_expression=UNPAUSED_SECONDS / 8)
    for number in range(10):
        assert await machine.turns.take("agency", sources(f"a{number}-")) == 0.0
    assert set(slept) == {0}


async def test_prepared_document_never_waits(slept: list[float]) -> None:
    machine = Machine(seconds_per_expression=0.25)
    assert not machine.turns.are_prepared(sources("a"))
    assert await machine.turns.take("agency", sources("a")) == 0.0
    slept.clear()
    assert machine.turns.are_prepared(sources("a"))
    assert await machine.turns.take("agency", sources("a")) == 0.0
    assert await machine.turns.take("agency", []) == 0.0
    assert slept == []


async def test_complete_reading_never_pauses(slept: list[float]) -> None:
    machine = Machine(seconds_per_expression=0.25)
    await machine.turns.prepare(sources("a"), has_pauses=False)
    assert machine.turns.are_prepared(sources("a"))
    assert set(slept) == {0}


async def test_operator_tries_the_samples_in_turns() -> None:
    source: expressions.Source = ("body.tried.in.turns", "transform")
    assert not samples.is_checked(*source)
    assert await checking_turns().take("agency", [source]) == 0.0
    assert samples.is_checked(*source)
