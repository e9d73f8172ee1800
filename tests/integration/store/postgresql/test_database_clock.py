"""Somebody sets the clock of the database server while gateways run. Liveness and erasures do not depend on it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from support import databases, engines, erasing, samples
from usher_gateway.store.postgresql import incarnations

# A clock that is found before the server's own, and that a test can set.
CLOCK = """
    create schema stepped;
    create table stepped.step (ahead interval not null);
    insert into stepped.step values (interval '0');
    grant usage on schema stepped to gateway;
    grant select on stepped.step to gateway;
    create function public.clock_timestamp() returns timestamptz language sql volatile as
        'select pg_catalog.clock_timestamp() + ahead from stepped.step';
    alter database {} set search_path = public, pg_catalog;
"""


class Fleet:
    """Two gateways on one database, which send heartbeats only when a test says so."""

    def __init__(self, folder: Path) -> None:
        self.engine = engines.Postgresql()
        self.benches = [engines.Bench(self.engine, folder / "data") for _ in range(2)]
        self.name = databases.name_of(self.benches[0].place)
        databases.server().execute(CLOCK.format(self.name), self.name)

    def set_clock(self, ahead: str) -> None:
        databases.server().execute(f"update stepped.step set ahead = interval '{ahead}'", self.name)

    def ownership(self, index: int) -> incarnations.Ownership:
        return engines.postgresql(self.benches[index].store).ownership


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """Two gateways that have run for long enough to end each other."""
    monkeypatch.setattr(incarnations, "HEARTBEAT_SECONDS", 3_600.0)
    opened = Fleet(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(opened.engine.forget, opened.benches[0].place)
        with monkeypatch.context() as context:
            context.setattr(incarnations, "GRACE_SECONDS", 0.0)
            for bench in opened.benches:
                await bench.open()
                stack.push_async_callback(bench.store.close)
        for index in range(2):
            await opened.ownership(index).beat()
        yield opened


@pytest.mark.parametrize("ahead", ["1 day", "-1 day"])
async def test_clock_that_somebody_sets_ends_no_gateway(fleet: Fleet, ahead: str) -> None:
    fleet.set_clock(ahead)
    with structlog.testing.capture_logs() as logs:
        for index in (1, 0, 1):
            await fleet.ownership(index).beat()
    assert [fleet.ownership(index).is_lost for index in range(2)] == [False, False]
    steps = [line["seconds"] for line in logs if line["event"] == "store_clock_set"]
    assert [abs(abs(seconds) - 86_400) < 60 for seconds in steps] == [True, True]


async def test_gateway_that_died_before_the_clock_was_set_back_counts_as_dead(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incarnations, "GRACE_SECONDS", 0.0)
    fleet.set_clock("-1 day")
    await fleet.ownership(1).beat()
    await fleet.ownership(1).beat()
    await fleet.ownership(0).beat()
    assert [fleet.ownership(index).is_lost for index in range(2)] == [True, False]


async def test_clock_that_somebody_sets_ends_no_erasure_too_early(fleet: Fleet) -> None:
    """The other gateway may still send a cancelled delivery for some time."""
    bench = fleet.benches[0]
    await bench.accept(samples.arrival("a", person_keys=(b"a" * 16,)))
    erasure = await erasing.start(bench, b"a" * 16)
    assert not await erasing.step(bench, erasure)
    fleet.ownership(0)._clock_steady_from -= bench.store.settling_seconds
    assert not await erasing.step(bench, erasure)
    fleet.set_clock("50 s")
    assert not await erasing.step(bench, erasure)
    fleet.ownership(0)._clock_steady_from -= bench.store.settling_seconds
    assert await erasing.step(bench, erasure)


async def test_clock_that_was_set_back_lets_a_copy_end_no_gateway(fleet: Fleet) -> None:
    """It gives gateways whose heartbeat is in the future the time to send one."""
    fleet.set_clock("-1 day")
    async with engines.postgresql(fleet.benches[0].store)._pool.acquire() as connection:
        assert not await incarnations.any_runs(connection)
        await fleet.ownership(0).beat()
        assert await incarnations.any_runs(connection)


async def test_clock_that_somebody_sets_before_a_takeover_ends_no_gateway(fleet: Fleet) -> None:
    """So does a gateway that was suspended between its heartbeat and that."""
    await fleet.ownership(0)._send()
    fleet.set_clock("1 day")
    await fleet.ownership(0)._take_over()
    for index in range(2):
        await fleet.ownership(index).beat()
    assert [fleet.ownership(index).is_lost for index in range(2)] == [False, False]


async def test_erasure_that_began_while_the_clock_was_ahead_ends(fleet: Fleet) -> None:
    bench = fleet.benches[0]
    await bench.accept(samples.arrival("a", person_keys=(b"a" * 16,)))
    fleet.set_clock("3650 days")
    erasure = await erasing.start(bench, b"a" * 16)
    assert not await erasing.step(bench, erasure)
    fleet.set_clock("0 s")
    await fleet.ownership(0).beat()
    fleet.ownership(0)._clock_steady_from -= bench.store.settling_seconds
    assert await erasing.step(bench, erasure)
