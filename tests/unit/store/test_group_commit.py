"""Group commit with two lines, in front of a committer that ends each commit when the test says so."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support import delivery_samples, samples, waiting
from usher_gateway import model
from usher_gateway.store import group_commit
from usher_gateway.store.arrival_queue import QueueLimits
from usher_gateway.store.group_commit import MANY_WAITING, Batch, BatchResult, GroupCommit


class HeldCommitter:
    """Holds the batches of all lines until they are ended."""

    def __init__(self) -> None:
        self.batches: dict[int, Batch] = {}  # Line -> the batch in its hands
        self._finished: dict[int, Callable[[BatchResult], None]] = {}

    async def test_write(self, transaction: Any) -> None:
        del transaction
        raise AssertionError("nothing runs jobs here")

    def submit(self, batch: Batch, finished: Callable[[BatchResult], None]) -> None:
        assert batch.line not in self.batches
        self.batches[batch.line], self._finished[batch.line] = batch, finished

    async def stop(self) -> None:
        pass

    def end(self, line: int, error: Exception | None = None) -> None:
        """Let the commit of a line succeed, or fail."""
        batch, finished = self.batches.pop(line), self._finished.pop(line)
        accepted = None if error else model.Accepted(model.CountedAs.Visit, (), ())
        finished(BatchResult([accepted for _ in batch.arrivals], rest_is_committed=error is None, error=error))


class Bench:
    """A group commit with two lines."""

    def __init__(self) -> None:
        self.committer = HeldCommitter()
        self.commits = GroupCommit(limits=QueueLimits(), now=lambda: samples.NOW, lines=2)
        self.commits.start_writing(self.committer)

    async def accept(self, count: int, tenant: str = "acme", **changes: Any) -> list["asyncio.Future[model.Accepted]"]:
        """Hand in arrivals, and let the lines draw their batches."""
        listener = model.ListenerName("agency", tenant, "lobby")
        arrivals = [samples.arrival(str(number), listener=listener, **changes) for number in range(count)]
        futures = [self.commits.accept(arrival) for arrival in arrivals]
        await drawn()
        return futures

    @property
    def sizes(self) -> dict[int, int]:
        """Line -> number of arrivals in its batch."""
        return {line: len(batch.arrivals) for line, batch in self.committer.batches.items()}


async def drawn() -> None:
    """Let the callbacks run that draw batches."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(group_commit, "_SLOW_COMMIT_SECONDS", 3600.0)
    return Bench()


async def test_second_line_begins_once_many_arrivals_wait(bench: Bench) -> None:
    await bench.accept(1)
    await bench.accept(MANY_WAITING - 1)
    assert bench.sizes == {0: 1}
    await bench.accept(1)
    assert bench.sizes == {0: 1, 1: MANY_WAITING}


async def test_second_line_begins_while_a_commit_of_the_first_is_slow(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what waits already, and each arrival that comes later."""
    monkeypatch.setattr(group_commit, "_SLOW_COMMIT_SECONDS", 0.001)
    await bench.accept(1)
    (waiting_one,) = await bench.accept(1)

    async def look() -> dict[int, int]:
        return bench.sizes

    await waiting.until(look, lambda sizes: sizes == {0: 1, 1: 1})
    bench.committer.end(1)
    assert waiting_one.done()
    await bench.accept(1)
    assert bench.sizes == {0: 1, 1: 1}


async def test_first_line_takes_what_the_second_left(bench: Bench) -> None:
    await bench.accept(1)
    futures = await bench.accept(MANY_WAITING) + await bench.accept(3)
    assert bench.sizes == {0: 1, 1: MANY_WAITING}
    bench.committer.end(1)
    assert bench.sizes == {0: 1}
    bench.committer.end(0)
    assert bench.sizes == {0: 3}
    bench.committer.end(0)
    assert all(future.done() for future in futures)


async def test_flush_waits_for_the_commits_of_all_lines(bench: Bench) -> None:
    await bench.accept(1)
    await bench.accept(MANY_WAITING)
    flushed = asyncio.create_task(bench.commits.flush())
    await drawn()
    bench.committer.end(0)
    await drawn()
    assert not flushed.done()
    bench.committer.end(1)
    await drawn()
    assert bench.sizes == {0: 0}
    bench.committer.end(0)
    await flushed


async def test_success_of_the_second_line_does_not_hide_that_the_first_fails(bench: Bench) -> None:
    bench.commits.unacknowledged(samples.arrival("a", key=1))
    await drawn()
    await bench.accept(MANY_WAITING)
    bench.committer.end(0, OSError("disk"))
    bench.committer.end(1)
    assert not bench.commits.is_available
    bench.commits._retry()
    bench.committer.end(0)
    assert bench.commits.is_available


async def test_first_line_commits_what_failed_in_the_second(bench: Bench) -> None:
    await bench.accept(1)
    futures = await bench.accept(MANY_WAITING)
    bench.committer.end(1, OSError("disk"))
    bench.committer.end(0)
    bench.commits._retry()
    assert bench.sizes == {0: MANY_WAITING}
    bench.committer.end(0)
    assert all(future.done() for future in futures)
    assert bench.commits.is_available


async def test_outage_is_reported_while_no_commit_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost connection, a commit lasts until the database says whether it took effect."""
    monkeypatch.setattr(group_commit, "_OUTAGE_SECONDS", 0.0)
    await bench.accept(1)
    await asyncio.sleep(0.001)
    assert bench.commits.outage is None
    await bench.accept(MANY_WAITING)
    await asyncio.sleep(0.001)
    assert str(bench.commits.outage) == "no commit has ended for 0 s"
    bench.committer.end(1)
    assert bench.commits.outage is None


async def test_settlement_is_unsettled_until_its_commit_ends(bench: Bench) -> None:
    delivery = delivery_samples.delivery()
    bench.commits.settle(samples.settlement(delivery, model.SettledAs.Delivered))
    assert bench.commits.unsettled_keys() == {delivery.key}
    await drawn()
    assert bench.commits.unsettled_keys() == {delivery.key}
    bench.committer.end(0)
    assert bench.commits.unsettled_keys() == set()
