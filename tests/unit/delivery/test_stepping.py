"""Steps of replays and erasures: one that cannot go on keeps no other from its steps."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from support import engines, erasing, samples, waiting
from usher_gateway import model
from usher_gateway.delivery import stepping
from usher_gateway.delivery.stepping import ErasureSteps, StepRunner
from usher_gateway.store.base import ErasureState

FIRST, OTHER = samples.digest("first", 8), samples.digest("other", 8)


def steps_of(bench: engines.Bench) -> ErasureSteps:
    return ErasureSteps(
        store=bench.store, now=bench.clock, forget_cancelled=erasing.ignore, mark_of_route=samples.no_marks
    )


@pytest.mark.parametrize("error", [model.StoreUnavailableError("away"), RuntimeError("odd")])
async def test_erasure_whose_step_fails_keeps_no_other_from_its_end(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        await bench.accept(*[samples.arrival(str(person), person_keys=(person,)) for person in (FIRST, OTHER)])
        broken, other = [await erasing.start(bench, person) for person in (FIRST, OTHER)]
        erase = bench.store.erase

        async def fail_for_broken(left: Mapping[int, Sequence[int]], *arguments: Any) -> bool:
            if broken.key in left:
                raise error
            return await erase(left, *arguments)

        monkeypatch.setattr(bench.store, "erase", fail_for_broken)
        steps = steps_of(bench)
        assert await steps.take_all() == 0.0
        await steps.take_all()
        states = [(await bench.store.find_erasure(each.id)).state for each in (broken, other)]
        assert states == [ErasureState.Pending, ErasureState.Completed]


async def test_more_erasures_than_a_page_have_ended_after_two_rounds() -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        persons = [samples.digest(f"person {number}", 8) for number in range(1_100)]
        await bench.accept(*[samples.arrival(person.hex(), person_keys=(person,)) for person in persons])
        for person in persons:
            await erasing.start(bench, person)
        steps = steps_of(bench)
        assert await steps.take_all() == 0.0
        await steps.take_all()
        assert (await bench.store.running_erasures(), await bench.visits()) == ([], [])


async def test_small_erasure_does_not_wait_for_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "_ARRIVALS_OF_ROUND", 20)
    async with engines.opened(engines.Sqlite()) as bench:
        await bench.accept(*[samples.arrival(str(number), person_keys=(FIRST,)) for number in range(70)])
        await bench.accept(samples.arrival("other", person_keys=(OTHER,)))
        large, small = [await erasing.start(bench, person) for person in (FIRST, OTHER)]
        steps, states = steps_of(bench), []
        for _ in range(6):
            await steps.take_all()
            states.append([(await bench.store.find_erasure(each.id)).state for each in (large, small)])
        assert states[1] == [ErasureState.InProgress, ErasureState.Completed]
        assert states[-1] == [ErasureState.Completed, ErasureState.Completed]


async def test_erasure_ends_while_requests_of_others_keep_coming() -> None:
    async with engines.opened(engines.Sqlite()) as bench:
        await bench.accept(*[samples.arrival(str(person), person_keys=(person,)) for person in (FIRST, OTHER)])
        first = await erasing.start(bench, FIRST)
        steps = steps_of(bench)
        await steps.take_all()
        await erasing.start(bench, OTHER)
        await steps.take_all()
        assert (await bench.store.find_erasure(first.id)).state is ErasureState.Completed


async def test_runner_goes_on_after_a_round_that_failed() -> None:
    rounds = 0

    async def take_all() -> float:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            runner.wake()
            raise model.StoreUnavailableError("away")
        return 0.0

    runner = StepRunner("erasure", take_all)
    task = asyncio.create_task(runner.run())
    await waiting.wait_until(lambda: rounds >= 2)
    task.cancel()
