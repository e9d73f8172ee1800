"""Group commit of two lines, with a committer that ends the batches of the second line when the test says so."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from contract import samples
from usher_gateway import model
from usher_gateway.store import group_commit
from usher_gateway.store.arrival_queue import QueueLimits
from usher_gateway.store.group_commit import Batch, BatchResult, GroupCommit


class HeldSecondLine:
    """Commits the batches of the first line at once."""

    def __init__(self) -> None:
        self.first_line_commits: asyncio.Queue[Batch] = asyncio.Queue()
        self._held: asyncio.Queue[tuple[Batch, Callable[[BatchResult], None]]] = asyncio.Queue()

    def test_write(self, transaction: Any) -> None:
        """Succeed."""

    def submit(self, batch: Batch, finished: Callable[[BatchResult], None]) -> None:
        if batch.line:
            self._held.put_nowait((batch, finished))
        else:
            asyncio.get_running_loop().call_soon(self._commit, batch, finished)

    def _commit(self, batch: Batch, finished: Callable[[BatchResult], None]) -> None:
        finished(BatchResult([None] * len(batch.arrivals)))
        self.first_line_commits.put_nowait(batch)

    async def end_second_line(self, error: Exception | None) -> None:
        """Wait for a batch of the second line, then end it."""
        batch, finished = await asyncio.wait_for(self._held.get(), 10)
        finished(BatchResult([None] * len(batch.arrivals), error=error))

    async def stop(self) -> None:
        """Have nothing in hand."""


def arrival_of_second_line() -> model.Arrival:
    """Return an arrival of a tenant whose hash chooses the second line."""
    names = [model.ListenerName("agency", f"tenant-{number}", "lobby") for number in range(100)]
    return samples.arrival(listener=next(name for name in names if hash((name.namespace, name.tenant)) % 2))


async def test_line_that_fails_alone_is_an_outage_until_it_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "_OUTAGE_SECONDS", 0.0)
    committer = HeldSecondLine()
    commits = GroupCommit(limits=QueueLimits(), now=lambda: samples.NOW, lines=2)
    commits.start_writing(committer)
    waiting = commits.accept(arrival_of_second_line())
    await committer.end_second_line(OSError("the first try"))
    commits.settle(model.Settlement(1, model.SettledAs.Delivered, samples.NOW, 0, 1))
    await asyncio.wait_for(committer.first_line_commits.get(), 10)
    found = [commits.is_available, commits.outage is None]
    assert commits.can_settle, "the first line commits"
    await committer.end_second_line(OSError("the second try"))
    commits.abandon(waiting, None)
    await committer.end_second_line(None)
    found += [commits.is_available, commits.outage is None]
    assert found == [False, False, True, True]
    assert committer.first_line_commits.empty(), "the first line has nothing to test"
