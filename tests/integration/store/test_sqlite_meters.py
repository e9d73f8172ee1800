"""Folding of counts into the meters, and counting of visits for quotas."""

import asyncio
import contextlib
import sqlite3
from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.jobs import meters
from usher_gateway.store.session import for_sqlite, with_rows
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite import meters as folding

NOW = samples.NOW


def many(count: int) -> list[model.Arrival]:
    names = [model.ListenerName("agency", "acme", f"l{number}") for number in range(count)]
    return [samples.arrival(f"v{number}", listener=name) for number, name in enumerate(names)]


async def visits_by_listener(store: Any) -> dict[str, int]:
    rows = await store.usage(0, NOW + samples.DAY)
    return {row.listener.listener: row.counts[model.Counter.visits] for row in rows}


async def test_counts_of_many_listeners_are_folded_in_parts(bench: engines.Bench, monkeypatch: Any) -> None:
    monkeypatch.setattr(folding, "_MOST_METERS", 4)
    store: Any = bench.store
    for arrivals in (many(5), many(3), many(4)):
        await bench.accept(*arrivals)
    visits_before = await visits_by_listener(store)
    await asyncio.gather(store.fold_meters(), store.fold_meters())
    assert await visits_by_listener(store) == visits_before == {f"l{number}": 1 for number in range(5)}
    with contextlib.closing(sqlite3.connect(bench.place / database.FILE_NAME)) as connection:
        assert connection.execute("select count(*) from meter_batches").fetchone() == (0,)


@pytest.mark.parametrize("jobs", [0, 1, 2])
async def test_crash_during_a_fold_neither_loses_nor_doubles_counts(
    bench: engines.Bench, monkeypatch: Any, jobs: int
) -> None:
    monkeypatch.setattr(folding, "_MOST_METERS", 1)
    for arrival in many(3):
        await bench.accept(arrival)
    store: Any = bench.store
    run_job, done = store._commits.run_job, 0

    async def run_some(job: Any) -> Any:
        nonlocal done
        if done == jobs:
            raise model.StoreUnavailableError("the process ends here")
        done += 1
        return await run_job(job)

    monkeypatch.setattr(store._commits, "run_job", run_some)
    with pytest.raises(model.StoreUnavailableError):
        await store.fold_meters()
    await bench.reopen(crash=True)
    expected = {f"l{number}": 1 for number in range(3)}
    assert await visits_by_listener(bench.store) == expected
    await engines.Sqlite().upkeep(bench.store)
    assert await visits_by_listener(bench.store) == expected


async def test_fold_rejects_batches_that_changed_since_gathering(bench: engines.Bench) -> None:
    await bench.accept(*many(2))
    store: Any = bench.store
    gathered = await store._upkeep_reader.run(folding.gather)
    gathered.batches += 1
    with pytest.raises(model.StoreUnavailableError):
        await store._commits.run_job(lambda opened: folding.fold(opened, gathered))
    assert await visits_by_listener(store) == {"l0": 1, "l1": 1}


async def test_visits_are_counted_from_a_covering_index(bench: engines.Bench) -> None:
    await bench.accept(*many(3))
    statement = with_rows(for_sqlite(meters._VISITS), 2)
    with contextlib.closing(sqlite3.connect(bench.place / database.FILE_NAME)) as connection:
        plan = connection.execute(f"explain query plan {statement}", (0, 0, 1, 1, 2)).fetchall()
    assert [row[3] for row in plan] == [
        "SEARCH meters USING COVERING INDEX meters_visits (listener=? AND slot>? AND slot<?)"
    ]
    assert int(model.Counter.visits) == 1, "the index and the statement contain this number as a literal"
