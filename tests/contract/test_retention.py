"""Retention: the data that it deletes, and the conditions under which it waits."""

from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.base import Filter, KeptTimes, ReplayReport

SECOND, HOUR, DAY, NOW = samples.SECOND, samples.HOUR, samples.DAY, samples.NOW
SettledAs = model.SettledAs


async def settled(bench: engines.Bench, content: str = "a", **changes: Any) -> None:
    (accepted,) = await bench.accept(samples.arrival(content, bench.clock.now, **changes))
    for delivery in accepted.deliveries:
        bench.store.settle(samples.settlement(delivery, SettledAs.Delivered, bench.clock.now))
    await bench.store.flush()


async def later(bench: engines.Bench, days: int) -> int:
    bench.clock.now = NOW + days * DAY
    return await bench.prune_all()


async def test_body_is_deleted_after_its_retention(bench: engines.Bench) -> None:
    await settled(bench, body_days=2)
    await later(bench, 2)
    assert (await bench.visits())[0]["bodyKept"] is True
    await later(bench, 3)
    (visit,) = await bench.visits()
    assert visit["bodyKept"] is False
    with pytest.raises(model.NotFoundError):
        await bench.store.body(model.parse_id(visit["id"]))


async def test_ledger_row_stays_while_dedupe_needs_it(bench: engines.Bench) -> None:
    await settled(bench, body_days=1, time_trusted=True)
    await later(bench, 5)
    again = samples.arrival("a", bench.clock.now, time_trusted=True, visit_time=NOW)
    assert await bench.words(again) == ["Redelivery"]


async def test_retention_leaves_only_the_meters_of_an_arrival(folding_engine: engines.Engine) -> None:
    key = samples.digest("jane", 8)
    async with engines.opened(folding_engine) as bench:
        await settled(bench, body_days=1, person_keys=(key,))
        assert await later(bench, 9) > 0
        assert await bench.visits() == []
        assert await bench.deliveries() == []
        assert await bench.ids_of_person(key) == []
        assert (await bench.counts())["visits"] == 1
        assert await bench.violations() == []
        assert await later(bench, 9) == 0


async def test_body_stays_while_a_pending_delivery_needs_it(bench: engines.Bench) -> None:
    delivery = await bench.deliver("a", body_days=1)
    await later(bench, 20)
    (visit,) = await bench.visits()
    assert visit["bodyKept"] is True
    await bench.settle(delivery, SettledAs.Dead)
    await later(bench, 21)
    assert await bench.visits() == []


async def test_held_delivery_is_cancelled_when_its_body_is_deleted(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a", body_days=1, if_visit=(samples.plan(hold=model.HoldReason.TokenHeld),)))
    await later(bench, 2)
    (row,) = await bench.deliveries()
    assert (row["state"], row["cancelled"], row["held"]) == ("cancelled", "Retention", None)
    assert (await bench.counts())["cancelled"] == 1
    assert await bench.violations() == []


async def test_arrival_without_body_cannot_be_redriven_or_replayed(bench: engines.Bench) -> None:
    skipped = samples.skip(model.SkipReason.Filter, samples.MAILER)
    (accepted,) = await bench.accept(samples.arrival("a", body_days=1, if_visit=(samples.plan(), skipped)))
    bench.store.settle(samples.settlement(accepted.deliveries[0], SettledAs.Dead))
    await bench.accept(samples.quarantined("q", body_days=1))
    await later(bench, 3)
    assert len(await bench.visits()) == 2
    assert await bench.redrive(Filter(), bench.clock.now) == 0
    assert await bench.replay() == ReplayReport(without_body=1)
    assert await bench.store.quarantined(Filter(), 10) == []


async def test_arrival_whose_body_was_deleted_meanwhile_is_not_released(bench: engines.Bench) -> None:
    """The body goes after the release has read it."""
    await bench.accept(samples.quarantined("q", body_days=1))
    (quarantined,) = await bench.store.quarantined(Filter(), 10)
    quarantined.if_visit = (samples.plan(),)
    await later(bench, 3)
    assert await bench.store.release([quarantined], bench.clock.now) == 0
    assert await bench.counts() == {"quarantined": 1}
    assert await bench.visits(state="released") == []


async def test_replayed_deliveries_are_deleted_with_their_arrival(bench: engines.Bench) -> None:
    await settled(bench, body_days=1, if_visit=(samples.skip(model.SkipReason.Filter),))
    await bench.replay()
    (claimed,) = await bench.claim()
    await bench.settle(claimed, SettledAs.Delivered)
    await later(bench, 10)
    assert await bench.deliveries() == []


async def test_once_per_mark_is_deleted_after_its_period(bench: engines.Bench) -> None:
    plan = samples.plan(once_key=samples.digest("today"), once_until=NOW + 3 * DAY)
    await bench.accept(samples.arrival("a", if_visit=(plan,)))
    for days, expected_deliveries in ((2, 0), (4, 1)):
        await later(bench, days)
        (accepted,) = await bench.accept(samples.arrival(f"{days}", bench.clock.now, if_visit=(plan,)))
        assert len(accepted.deliveries) == expected_deliveries


async def test_meters_are_kept_for_the_months_of_the_tenant(bench: engines.Bench) -> None:
    await settled(bench, "a")
    plans = (samples.plan(samples.route("crm", samples.BAR)),)
    await bench.accept(samples.arrival("b", listener=samples.BAR, if_visit=plans))
    bench.clock.now = NOW + 40 * DAY  # 25 November + 40 days: the first days of January
    months = {"agency/acme": 1, "agency/globex": 2}
    await bench.engine.upkeep(bench.store)
    await bench.prune_all(KeptTimes(meter_months=months))
    assert await bench.counts(samples.LOBBY) == {}
    assert (await bench.counts(samples.BAR))["visits"] == 1
    bench.clock.now = NOW + 75 * DAY
    await bench.prune_all(KeptTimes(meter_months=months))
    assert await bench.counts(samples.BAR) == {"carried": 1}
    assert await bench.violations() == []


async def test_prune_deletes_small_slices(bench: engines.Bench) -> None:
    await bench.accept(*[samples.arrival(f"{number}", body_days=1, if_visit=()) for number in range(200)])
    bench.clock.now = NOW + 3 * DAY
    assert 0 < await bench.store.prune(bench.clock.now) <= 100
