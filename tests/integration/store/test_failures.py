"""The store while its file cannot be written: it loses nothing, and resumes by itself."""

import asyncio
import contextlib
import random
import re
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from support import engines, samples, source, waiting
from usher_gateway import model
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.recent_index import BUCKETS

NOW = samples.NOW


class FailingConnection:
    """A connection on which the statements that start with ``fails`` fail."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.fails = ""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if self.fails and statement.lstrip().startswith(self.fails):
            raise sqlite3.OperationalError("database or disk is full")
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def failing(bench: engines.Bench) -> FailingConnection:
    store: Any = bench.store
    connection = FailingConnection(store.writer.connection)
    store.writer.connection = connection
    return connection


async def change_nothing(_: Any) -> None:
    pass


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    open_bench = engines.Bench(engines.Sqlite(), tmp_path / "data", fold_rows=8)
    await open_bench.open()
    yield open_bench
    await open_bench.store.close()


async def test_rolled_back_fold_forgets_no_content(bench: engines.Bench) -> None:
    connection = failing(bench)
    arrivals = [samples.arrival(f"{number}", time_trusted=True) for number in range(40)]
    await bench.accept(*arrivals)
    store: Any = bench.store
    for _ in range(BUCKETS + 10):  # each commit folds one bucket; each is rolled back once
        connection.fails = "commit"
        with pytest.raises(model.StoreUnavailableError):
            await store._commits.run_job(change_nothing)
        connection.fails = ""
        await store._commits.run_job(change_nothing)
    assert store.writer.recent_index.next_bucket() is None
    assert (
        await bench.words(*[samples.arrival(f"{number}", time_trusted=True) for number in range(40)])
        == ["Redelivery"] * 40
    )


async def test_work_from_an_outage_is_committed_once_afterwards(bench: engines.Bench) -> None:
    connection = failing(bench)
    (accepted,) = await bench.accept(samples.arrival("before"))
    connection.fails = "commit"
    arrival = bench.store.accept(samples.arrival("during"))
    (delivery,) = accepted.deliveries
    bench.store.settle(model.Settlement(delivery.key, model.SettledAs.Delivered, NOW, 0, 1, status=200))
    bench.store.count(samples.LOBBY, model.Counter.probes, NOW)
    await waiting.wait_until(lambda: not bench.store.may_attempt, 60)
    assert not arrival.done()
    connection.fails = ""
    assert (await asyncio.wait_for(arrival, 60)).counted_as is model.CountedAs.Visit
    await bench.store.flush()
    assert bench.store.may_attempt
    counts = await bench.counts()
    assert (counts["visits"], counts["delivered"], counts["probes"]) == (2, 1, 1)


async def test_idle_store_detects_the_end_of_an_outage(
    bench: engines.Bench,
) -> None:
    connection = failing(bench)
    connection.fails = "commit"
    arrival = bench.store.accept(samples.arrival("a"))
    await waiting.wait_until(lambda: not bench.store.may_attempt, 60)
    bench.store.abandon(arrival)
    connection.fails = ""
    await waiting.wait_until(lambda: bench.store.may_attempt, 60, "the end of the outage")
    assert await bench.visits() == []


async def test_failing_job_does_not_make_the_store_available(bench: engines.Bench) -> None:
    connection = failing(bench)
    connection.fails = "commit"
    arrival = bench.store.accept(samples.arrival("a"))
    await waiting.wait_until(lambda: not bench.store.may_attempt, 60)
    for _ in range(5):
        with pytest.raises(model.StoreUnavailableError):
            await bench.store.hasten("agency/crm", NOW)
        assert not bench.store.may_attempt
    connection.fails = ""
    await asyncio.wait_for(arrival, 60)


async def test_failed_upkeep_is_repeated(bench: engines.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Any = bench.store
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 0)
    connection = failing(bench)
    connection.fails = "commit"
    looks: list[int] = []
    look = database.DiskSpace.measure

    def watched(self: database.DiskSpace) -> None:
        looks.append(1)
        look(self)

    monkeypatch.setattr(database.DiskSpace, "measure", watched)
    await waiting.wait_until(lambda: len(looks) >= 3, 60, "the third measurement of the disk")
    assert not store._upkeep_task.done()
    connection.fails = ""  # or closing the store waits for a commit


async def test_claim_repeated_after_a_rollback_is_recovered(bench: engines.Bench) -> None:
    delivery = await bench.deliver("a")
    await bench.store.defer([delivery.key])
    connection = failing(bench)
    connection.fails = "commit"
    with pytest.raises(model.StoreUnavailableError):
        await bench.claim()
    connection.fails = ""
    assert [claimed.key for claimed in await bench.claim()] == [delivery.key]
    with contextlib.suppress(AttributeError):
        bench.store.writer.connection = connection._connection  # type: ignore[attr-defined]
    assert (await bench.reopen(crash=True)).recovered == 1


async def test_unacknowledged_mark_survives_the_fold_of_its_content(bench: engines.Bench) -> None:
    store: Any = bench.store
    first, again = samples.arrival("a"), samples.arrival("a")
    assert await bench.words(first, again) == ["Visit", "Repeat"]
    await bench.accept(*[samples.arrival(f"{number}") for number in range(8)])
    while store.writer.recent_index.next_bucket() != first.fingerprint[0]:
        await store._commits.run_job(change_nothing)
    bench.store.unacknowledged(again)
    await bench.store.flush()
    for _ in range(BUCKETS + 10):
        await store._commits.run_job(change_nothing)
    assert store.writer.recent_index.next_bucket() is None
    bench.clock.now += 5 * samples.HOUR  # too late for a retry without a trusted time: only the lost answer proves it
    assert await bench.words(samples.arrival("a", bench.clock.now)) == ["Redelivery"]


async def test_tenant_stores_at_most_as_much_as_it_leaves_free(
    bench: engines.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = bench.store
    monkeypatch.setattr(database.DiskSpace, "measure", lambda _: None)
    store._disk.spare_bytes = 20 * 1024**2

    def large(number: int, listener: model.ListenerName = samples.LOBBY) -> model.Arrival:
        return samples.arrival(
            f"{number}", body=random.Random(number).randbytes(1024**2), listener=listener, if_visit=()
        )

    for number in range(19):
        await bench.accept(large(number))
    with pytest.raises(model.StorageLimitError):
        bench.store.accept(large(19))
    await bench.accept(large(20, samples.BAR))


async def test_failure_to_add_a_name_commits_its_arrival_once(bench: engines.Bench) -> None:
    connection = failing(bench)
    connection.fails = "insert into listeners"
    arrival = bench.store.accept(samples.arrival("a"))
    await waiting.wait_until(lambda: not bench.store.may_attempt, 60)
    connection.fails = ""
    assert (await asyncio.wait_for(arrival, 60)).counted_as is model.CountedAs.Visit
    assert len(await bench.visits()) == 1


async def test_page_finds_the_process_that_still_holds_a_deleted_file() -> None:
    page = (source.DOCS / "operations.md").read_text("utf-8")
    (name,) = set(re.findall(r"/proc/\$\(pgrep --oldest --exact (\w+)\)/fd", page))
    waits = [str(Path(sys.executable).with_name("usher")), "check", "-"]
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*waits, stdin=pipe, stdout=null)
    compared = Path(f"/proc/{process.pid}/comm")  # by pgrep --exact
    await waiting.wait_until(lambda: compared.read_text("utf-8").strip() == name, 60)
    await process.communicate(b"")
