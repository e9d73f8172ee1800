"""Retention beside other transactions: only what shares its rows waits, and it skips what people are changing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from support import databases, engines, samples, waiting
from usher_gateway import model
from usher_gateway.store.base import Filter
from usher_gateway.store.postgresql import prune

Gateways = list[engines.Bench]
ANY = Filter()
NOW, DAY = samples.NOW, samples.DAY
SettledAs = model.SettledAs

WAITING = "select pid from pg_stat_activity where datname = '{}' and wait_event_type = 'Lock'"


@contextlib.asynccontextmanager
async def locked(bench: engines.Bench, statement: str) -> AsyncIterator[None]:
    """Keep the rows of a query locked, as another transaction would."""
    connection = await asyncpg.connect(databases.server().dsn(databases.name_of(bench.place)))
    try:
        async with connection.transaction():
            assert await connection.fetch(statement)
            yield
    finally:
        await connection.close()


async def accept_settled(bench: engines.Bench, settled_as: SettledAs, *arrivals: model.Arrival) -> None:
    for accepted in await bench.accept(*arrivals):
        for delivery in accepted.deliveries:
            bench.store.settle(samples.settlement(delivery, settled_as, bench.clock.now))
    await bench.store.flush()


def fingerprint(arrival: model.Arrival) -> bytes:
    return arrival.fingerprint


async def rows(bench: engines.Bench, query: str) -> list[Any]:
    return await asyncio.to_thread(databases.server().rows, query, databases.name_of(bench.place))


async def test_visits_are_accepted_while_a_slice_waits(gateways: Gateways) -> None:
    bench, _ = gateways
    await accept_settled(bench, SettledAs.Delivered, samples.arrival("a"))
    bench.clock.now = NOW + 40 * DAY
    waiters = WAITING.format(databases.name_of(bench.place))
    async with locked(bench, "select from bodies for update"):
        pruning = asyncio.create_task(bench.store.prune(bench.clock.now))
        await waiting.until(lambda: rows(bench, waiters))
        tenants = [model.ListenerName("agency", f"tenant-{number}", "lobby") for number in range(8)]
        new = [samples.arrival(name.tenant, bench.clock.now, listener=name, if_visit=()) for name in tenants]
        assert await bench.words(*new) == ["Visit"] * 8
        await bench.store.hasten("agency/crm", NOW)
        assert not pruning.done()
    assert await pruning == 1


async def test_body_stays_while_its_dead_delivery_is_locked(gateways: Gateways) -> None:
    """A redrive locks the delivery, and has seen the body."""
    bench, _ = gateways
    await accept_settled(bench, SettledAs.Dead, samples.arrival("a"))
    bench.clock.now = NOW + 40 * DAY
    async with locked(bench, "select from deliveries for no key update"):
        await bench.prune_all()
        (visit,) = await bench.visits()
        assert visit["bodyKept"] is True
    bench.clock.now += DAY
    await bench.prune_all()
    assert await bench.visits() == []


async def test_locked_arrival_is_deleted_by_a_later_walk(gateways: Gateways) -> None:
    """A replay locks the arrival. All others of the same day are deleted meanwhile, in several slices."""
    bench, _ = gateways
    arrivals = [samples.arrival(f"{number}", if_visit=()) for number in range(200)]
    await bench.accept(*arrivals)
    bench.clock.now = NOW + 40 * DAY
    async with locked(bench, f"select from arrivals where key = {arrivals[10].key} for no key update"):
        assert await bench.prune_all() == 199
        (visit,) = await bench.visits()
        assert visit["bodyKept"] is True
    assert await bench.prune_all() == 1
    assert await bench.visits() == []


async def test_release_waits_for_the_slice_that_deletes_the_body(gateways: Gateways) -> None:
    bench, _ = gateways
    await bench.accept(samples.quarantined("q"))
    (quarantined,) = await bench.store.quarantined(ANY, 10)
    quarantined.if_visit = (samples.plan(),)
    waiters = WAITING.format(databases.name_of(bench.place))
    async with locked(
        bench, "update bodies set body = null where key in (select key from arrivals for update) returning key"
    ):
        released = asyncio.create_task(bench.store.release([quarantined], NOW))
        await waiting.until(lambda: rows(bench, waiters))
    assert await released == 0
    assert await bench.deliveries() == []


async def test_slice_locks_contents_in_the_order_of_accepted_visits(gateways: Gateways) -> None:
    """Otherwise each could wait for a content that the other has locked.

    Of a table with so many rows, PostgreSQL reads all to delete some.
    """
    bench, _ = gateways
    arrivals = sorted([samples.arrival(f"{number}", if_visit=()) for number in range(60)], key=fingerprint)
    low, high = arrivals[0], arrivals[-1]
    await bench.accept(*arrivals[30:])  # their rows lie before the others
    await bench.accept(*arrivals[:30])
    others = "select decode(md5(number::text), 'hex'), -number, 1, false from generate_series(1, 500) number"
    databases.server().execute(f"insert into prints {others}; analyze prints", databases.name_of(bench.place))
    bench.clock.now = NOW + 40 * DAY
    lock = "select from prints where fingerprint = $1 for update nowait"
    somebody = await asyncpg.connect(databases.server().dsn(databases.name_of(bench.place)))
    try:
        async with somebody.transaction():
            await somebody.execute(lock, low.fingerprint)
            pruning = asyncio.create_task(bench.store.prune(bench.clock.now))
            await waiting.until(lambda: rows(bench, WAITING.format(databases.name_of(bench.place))))
            await somebody.execute(lock, high.fingerprint)
    finally:
        await somebody.close()
    assert await pruning == 60


async def test_visit_times_of_kept_arrivals_stay(gateways: Gateways) -> None:
    bench, _ = gateways
    visitor = samples.digest("jane")
    times = [NOW, NOW + DAY, NOW + 30 * DAY]
    for number, at in enumerate(times):
        await bench.accept(samples.arrival(f"{number}", at, visitor_key=visitor, if_visit=()))
    await bench.accept(samples.arrival("other", if_visit=()))
    bench.clock.now = NOW + 40 * DAY
    assert await bench.prune_all() == 3
    assert [tuple(row) for row in await rows(bench, "select visitor, times from sightings")] == [(visitor, times[2:])]


async def test_rows_that_only_another_gateway_knows_are_deleted(gateways: Gateways) -> None:
    first, second = gateways
    held = samples.plan(samples.route("bar", samples.BAR), hold=model.HoldReason.DestinationPaused)
    await first.accept(samples.arrival("a", listener=samples.BAR, if_visit=(held,)))
    second.clock.now = NOW + 40 * DAY
    await second.prune_all()
    assert await second.visits() == []
    assert (await second.counts(samples.BAR))["cancelled"] == 1
    assert await second.violations() == []


REFUSE = """
    create function refuse() returns trigger language plpgsql as $$ begin raise query_canceled; end $$;
    create trigger refuse before delete on arrivals for each row execute function refuse();
"""


async def test_slice_that_fails_is_followed_by_a_small_one(gateways: Gateways) -> None:
    """A slow server cancels a slice that takes longer than the time limit of a statement."""
    bench, _ = gateways
    await bench.accept(*[samples.arrival(f"{number}", if_visit=()) for number in range(200)])
    bench.clock.now = NOW + 40 * DAY
    engines.postgresql(bench.store)._retention_walk.size = 150
    await asyncio.to_thread(databases.server().execute, REFUSE, databases.name_of(bench.place))
    with pytest.raises(model.StoreUnavailableError):
        await bench.store.prune(bench.clock.now)
    await rows(bench, "drop trigger refuse on arrivals")
    assert await bench.store.prune(bench.clock.now) == 64
    assert await bench.prune_all() == 136


@pytest.mark.parametrize(
    ("size", "seconds", "expected"),
    [
        (64, 0.01, 128),
        (64, 0.05, 128),
        (400, 0.08, 500),
        (400, 0.1, 400),
        (400, 0.4, 100),
        (64, 5.0, 64),
        (900, 0, 1000),
    ],
)
def test_slices_take_a_tenth_of_a_second(size: int, seconds: float, expected: int) -> None:
    assert prune.next_size(size, seconds) == expected
