"""Arrivals that wait for a commit: bounds, withdrawal, and isolation of arrivals that the database refuses."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model


async def test_full_queue_rejects_arrivals_and_commits_the_queued_ones(engine: engines.Engine) -> None:
    async with engines.opened(engine, limits={"entries": 2}) as bench:
        futures = [bench.store.accept(samples.arrival(content)) for content in "ab"]
        with pytest.raises(model.StoreBusyError):
            bench.store.accept(samples.arrival("c"))
        words = [accepted.counted_as.name for accepted in await asyncio.gather(*futures)]
        assert words == ["Visit", "Visit"]
        assert await bench.words(samples.arrival("d")) == ["Visit"]


async def test_arrival_abandoned_before_its_commit_is_withdrawn(bench: engines.Bench) -> None:
    future = bench.store.accept(samples.arrival("a"))
    bench.store.abandon(future)
    await bench.store.flush()
    assert future.cancelled()
    assert await bench.visits() == []
    assert await bench.counts() == {}


async def test_arrival_abandoned_during_its_commit_is_unacknowledged(bench: engines.Bench) -> None:
    future = bench.store.accept(samples.arrival("a"))
    await asyncio.sleep(0)  # now the writer has the batch
    bench.store.abandon(future)
    await bench.store.flush()
    await bench.store.flush()
    (visit,) = await bench.visits()
    assert visit["unacknowledged"] is True
    assert await bench.counts() == {"visits": 1, "routed": 1, "created": 1, "unacknowledged": 1}
    assert await bench.words(samples.arrival("a", samples.NOW + 1)) == ["Redelivery"]


async def test_cancelling_the_waiter_does_not_undo_the_commit(bench: engines.Bench) -> None:
    async def handler() -> None:
        await bench.store.accept(samples.arrival("a"))

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await bench.store.flush()
    assert len(await bench.visits()) == 1


@pytest.mark.parametrize("count", [1, 7])
async def test_refused_arrival_is_quarantined_without_harm_to_others(bench: engines.Bench, count: int) -> None:
    await bench.accept(samples.arrival("before"))
    bench.engine.refuse_bodies(bench.place, "poison")
    arrivals = [samples.arrival(f"n{number}") for number in range(count)]
    arrivals.insert(count // 2, samples.arrival("poison"))
    words = await bench.words(*arrivals)
    assert words == ["Visit"] * (count // 2) + ["Quarantined"] + ["Visit"] * (count - count // 2)
    (row,) = await bench.visits(reason="Unstorable")
    assert row["verdicts"] == []
    counts = await bench.counts()
    assert (counts["visits"], counts["quarantined"], counts["created"]) == (count + 1, 1, count + 1)


async def test_counts_and_settlements_survive_a_divided_batch(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.arrival("a"))
    bench.engine.refuse_bodies(bench.place, "poison")
    bench.store.settle(samples.settlement(accepted.deliveries[0], model.SettledAs.Delivered))
    bench.store.count(samples.LOBBY, model.Counter.probes, samples.NOW)
    await bench.accept(samples.arrival("poison"), samples.arrival("b"))
    await bench.store.flush()
    await bench.reopen()
    counts = await bench.counts()
    assert (counts["delivered"], counts["probes"], counts["quarantined"]) == (1, 1, 1)


async def test_close_flushes_counts_of_probes_and_refusals(bench: engines.Bench) -> None:
    for _ in range(3):
        bench.store.count(samples.LOBBY, model.Counter.probes, samples.NOW)
    bench.store.count(samples.LOBBY, model.Counter.refused, samples.NOW)
    await bench.reopen()
    assert await bench.counts() == {"probes": 3, "refused": 1}


async def test_other_install_key_is_rejected_and_the_first_still_works(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"))
    await bench.store.close()
    other: Any = bench.engine.make(bench.place, bench.clock, key_fingerprint="another")
    with pytest.raises(model.InstallKeyError):
        await other.open()
    await bench.reopen()
    assert len(await bench.visits()) == 1


async def test_arrival_handed_in_during_close_is_committed(engine: engines.Engine, tmp_path: Path) -> None:
    bench = engines.Bench(engine, tmp_path / "data")
    await bench.open()
    future = bench.store.accept(samples.arrival("a"))
    await bench.reopen()
    assert (await future).counted_as is model.CountedAs.Visit
    assert len(await bench.visits()) == 1
    await bench.store.close()
