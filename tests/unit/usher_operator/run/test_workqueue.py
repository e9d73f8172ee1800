"""The queue, in virtual time: it processes no key twice at once and retries failures later and later."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usher_operator.run import workqueue
from usher_operator.run.workqueue import Workqueue


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Workqueue[str]:
    return Workqueue(clock=clock, random=lambda: 0.5)


def drain(queue: Workqueue[str]) -> list[str]:
    keys = []
    while (key := queue.take()) is not None:
        queue.done(key)
        keys.append(key)
    return keys


def test_lane_is_busy_while_a_key_waits_or_is_processed(clock: Clock) -> None:
    queue: Workqueue[str] = Workqueue(clock=clock, random=lambda: 0.5, lane_of=lambda key: key[0])
    queue.add("a1")
    queue.add("b1")
    queue.add_after("c1", 5)
    assert [queue.is_busy(lane) for lane in "abc"] == [True, True, False]
    assert queue.take() == "a1"
    assert queue.is_busy("a")
    queue.done("a1")
    assert not queue.is_busy("a")


def test_delayed_key_is_taken_when_due(queue: Workqueue[str], clock: Clock) -> None:
    queue.add_after("a", 5)
    clock.now += 4.9
    assert queue.take() is None
    assert queue.due_in() == pytest.approx(0.1)
    clock.now += 0.1
    assert drain(queue) == ["a"]
    assert queue.due_in() is None


def test_earliest_of_several_delays_counts(queue: Workqueue[str], clock: Clock) -> None:
    for seconds in (9, 3, 6):
        queue.add_after("a", seconds)
    clock.now += 3
    assert drain(queue) == ["a"]
    clock.now += 10
    assert drain(queue) == []


def test_adding_a_delayed_key_makes_it_ready_once(queue: Workqueue[str], clock: Clock) -> None:
    queue.add_after("a", 5)
    queue.add("a")
    assert drain(queue) == ["a"]
    clock.now += 10
    assert drain(queue) == []


def test_retry_delay_grows_up_to_five_minutes(clock: Clock) -> None:
    delays: list[float] = []
    retried: list[None] = []
    queue: Workqueue[str] = Workqueue(clock=clock, random=lambda: 0.5, count_retry=lambda: retried.append(None))
    for _ in range(14):
        queue.add("a")
        key = queue.take()
        assert key is not None
        delays.append(queue.retry(key))
        queue.done(key)
        clock.now += delays[-1]
        assert drain(queue) == ["a"]
    assert delays[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert delays[-1] == workqueue.LAST_RETRY_SECONDS
    assert len(retried) == 14


def test_success_resets_the_retry_delay(queue: Workqueue[str]) -> None:
    first = queue.retry("a")
    queue.retry("a")
    queue.succeeded("a")
    assert queue.retry("a") == first


def test_depth_and_age_count_waiting_keys(clock: Clock) -> None:
    waited: list[float] = []
    queue: Workqueue[str] = Workqueue(clock=clock, random=lambda: 0.5, observe_wait=waited.append)
    queue.add("a")
    clock.now += 2
    queue.add("b")
    assert (queue.depth, queue.oldest_age_seconds) == (2, 2)
    queue.take()
    assert (queue.depth, queue.oldest_age_seconds, waited) == (1, 0, [2])


def lanes(clock: Clock, max_per_lane: int = 16) -> Workqueue[str]:
    """A queue whose keys are named ``NAMESPACE/NAME``."""
    return Workqueue(
        clock=clock, random=lambda: 0.5, lane_of=lambda key: key.partition("/")[0], max_per_lane=max_per_lane
    )


def test_namespaces_take_turns(clock: Clock) -> None:
    queue = lanes(clock)
    for key in ("a/1", "a/2", "a/3", "b/1", "c/1", "b/2"):
        queue.add(key)
    assert drain(queue) == ["a/1", "b/1", "c/1", "a/2", "b/2", "a/3"]


def test_one_namespace_never_occupies_all_workers(clock: Clock) -> None:
    queue = lanes(clock, max_per_lane=2)
    for key in ("a/1", "a/2", "a/3"):
        queue.add(key)
    assert [queue.take() for _ in range(3)] == ["a/1", "a/2", None]
    queue.add("b/1")
    assert queue.take() == "b/1"
    queue.done("a/1")
    assert queue.take() == "a/3"


async def test_freed_place_of_a_namespace_wakes_a_waiting_worker(clock: Clock) -> None:
    queue = lanes(clock, max_per_lane=1)
    queue.add("a/1")
    queue.add("a/2")
    assert await queue.get() == "a/1"
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.done("a/1")
    async with asyncio.timeout(5):
        assert await worker == "a/2"


async def test_added_key_wakes_a_waiting_worker(queue: Workqueue[str]) -> None:
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in ("a", "b", "c"):
        queue.add(key)
    async with asyncio.timeout(5):
        assert sorted(await asyncio.gather(*workers)) == ["a", "b", "c"]


async def test_cancelled_worker_loses_no_key(queue: Workqueue[str]) -> None:
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    worker.cancel()
    queue.add("a")
    await asyncio.gather(worker, return_exceptions=True)
    assert queue.take() == "a"


Step = st.tuples(st.sampled_from(["add", "after", "take", "done", "retry", "pass"]), st.integers(0, 3))


@settings(max_examples=60)
@given(st.lists(Step, max_size=60))
def test_queue_loses_no_key_and_processes_none_twice_at_once(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    queue: Workqueue[int] = Workqueue(clock=clock, random=lambda: 0.0, lane_of=lambda key: str(key % 2), max_per_lane=2)
    expected: set[int] = set()
    processing: set[int] = set()
    for step, key in steps:
        match step:
            case "add" | "after":
                if step == "after":
                    queue.add_after(key, 1)
                else:
                    queue.add(key)
                expected.add(key)
            case "take":
                taken = queue.take()
                if taken is not None:
                    assert taken not in processing
                    processing.add(taken)
                    expected.discard(taken)
            case "retry" if key in processing:
                queue.retry(key)
                expected.add(key)
            case "done" if key in processing:
                processing.discard(key)
                queue.done(key)
            case "pass":
                clock.now += 1
    for key in processing:
        queue.done(key)
    clock.now += 1000
    drained_keys = set()
    while (taken := queue.take()) is not None:
        drained_keys.add(taken)
        queue.done(taken)
    assert expected <= drained_keys
