"""Recovery finds the deliveries of a crashed process, and clocks that are set back delay none."""

import asyncio

from support import engines, samples
from usher_gateway import model

NOW = samples.NOW


async def test_committed_abandoned_arrival_leaves_orphans(bench: engines.Bench) -> None:
    orphans: list[model.Delivery] = []
    bench.store.follow_orphans(orphans.extend)
    future = bench.store.accept(samples.arrival("late"))
    await asyncio.sleep(0)  # now the writer has the batch, and its result cannot be here before the next turn
    bench.store.abandon(future)
    await bench.store.flush()
    (row,) = await bench.deliveries()
    (orphan,) = orphans
    assert model.format_id(orphan.id) == row["id"]
    assert (await bench.counts())["unacknowledged"] == 1
    assert (await bench.reopen(crash=True)).recovered == 1


async def test_only_deliveries_at_a_forbidden_address_are_hastened(bench: engines.Bench) -> None:
    (first,), (second,) = [
        arrival.deliveries for arrival in await bench.accept(samples.arrival("a"), samples.arrival("b"))
    ]
    later = NOW + samples.HOUR
    for delivery, error in ((first, "AddressForbidden"), (second, "Timeout")):
        bench.store.settle(model.Settlement(delivery.key, model.SettledAs.Retry, NOW, 0, 1, due_at=later, error=error))
    await bench.store.flush()
    assert await bench.store.hasten_forbidden(NOW) == 1
    assert [delivery.key for delivery in await bench.claim()] == [first.key]


async def test_held_delivery_is_cancelled_after_its_time_limit(bench: engines.Bench) -> None:
    hold = model.HoldReason.DestinationPaused
    limits = {"short": NOW + samples.HOUR, "long": NOW + samples.DAY, "none": 0}
    for content, expires_at in limits.items():
        await bench.accept(samples.arrival(content, if_visit=(samples.plan(hold=hold, expires_at=expires_at),)))
    assert await bench.store.expire_held(NOW + samples.HOUR - 1) == 0
    assert await bench.store.expire_held(NOW + samples.HOUR) == 1
    (row,) = await bench.deliveries(state="cancelled")
    assert row["cancelled"] == "Expired"
    assert (await bench.counts())["cancelled"] == 1
    assert len(await bench.deliveries(state="held")) == 2


async def test_clock_set_back_does_not_delay_recovered_deliveries(bench: engines.Bench) -> None:
    delivery = await bench.deliver("a")
    bench.clock.now -= samples.DAY
    await bench.reopen(crash=True)
    assert [claimed.key for claimed in await bench.claim()] == [delivery.key]
    assert (await bench.deliver("b", NOW)).key > delivery.key


TWO_DAYS = 2 * samples.DAY


async def test_delivery_deferred_after_the_clock_is_set_back_is_due(bench: engines.Bench) -> None:
    bench.clock.now = NOW + TWO_DAYS
    delivery = await bench.deliver("a", NOW)
    bench.clock.now = NOW
    await bench.store.defer([delivery.key])
    assert list((await bench.store.due()).values()) == [NOW]
    assert [claimed.key for claimed in await bench.claim()] == [delivery.key]
