"""Deliveries that a user cancels while they wait in a lane."""

import asyncio
from pathlib import Path

import pytest

from support import dispatching, engines, erasing, samples, waiting
from usher_gateway import model
from usher_gateway.delivery.dispatcher import DispatcherLimits
from usher_gateway.store.base import CLAIMS_SECONDS, Filter


async def test_cancelled_delivery_leaves_its_lane_without_an_attempt(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=1)
    first, second, third = await bench.accept("abc")
    await waiting.wait_until(lambda: bench.tried == [(first.key, 0)], 60, "the first attempt")

    assert await bench.cancel(second) == 1
    bench.may_answer.set()
    tried = [(first.key, 0), (third.key, 0)]
    await waiting.wait_until(lambda: bench.tried == tried, 60, "the attempt after the cancelled delivery")
    await bench.store.flush()
    scheduler = bench.dispatcher.scheduler
    await waiting.wait_until(lambda: scheduler.count == scheduler.in_flight == 0, 60, "its end")
    await bench.stop()


async def test_delivery_that_another_gateway_cancelled_leaves_its_lane(tmp_path: Path) -> None:
    engine, place = engines.Postgresql(), tmp_path / "data"
    bench, other = dispatching.DispatcherBench(place, engine), engines.Bench(engine, place)
    await bench.start(1, DispatcherLimits(review_seconds=0.05))
    await other.open()
    first, second, third = await bench.accept("abc")
    await waiting.wait_until(lambda: bench.tried == [(first.key, 0)], 60, "the first attempt")

    assert await other.store.cancel(Filter(ids=(second.id,)), samples.NOW, lambda _: None) == 1
    compare_claims, compared = bench.store.compare_claims, 0

    async def counted_compare_claims(keys: list[int]) -> object:
        nonlocal compared
        cancelled = await compare_claims(keys)
        compared += 1
        return cancelled

    bench.store.compare_claims = counted_compare_claims
    await waiting.wait_until(lambda: compared >= 2, 60, "a whole comparison after the cancellation")
    bench.may_answer.set()
    tried = [(first.key, 0), (third.key, 0)]
    await waiting.wait_until(lambda: bench.tried == tried, 60, "the attempt after the cancelled delivery")
    await bench.store.flush()
    scheduler = bench.dispatcher.scheduler
    await waiting.wait_until(lambda: scheduler.count == scheduler.in_flight == 0, 60, "its end")
    await bench.stop()
    await other.store.close()
    engine.forget(place)


@pytest.mark.parametrize("engine", [engines.Sqlite(), engines.Postgresql()], ids=["sqlite", "postgresql"])
async def test_delivery_cancelled_while_its_attempt_connects_is_not_sent(
    tmp_path: Path, engine: engines.Engine
) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data", engine)
    await bench.start(concurrency=8)
    cancelled, other = await bench.accept("ab")
    await waiting.wait_until(lambda: len(bench.tried) == 2, 60, "both attempts")
    assert await bench.cancel(cancelled) == 1
    bench.may_answer.set()
    scheduler = bench.dispatcher.scheduler
    await waiting.wait_until(lambda: scheduler.in_flight == 0, 60, "their end")
    assert bench.sent == [other.key]
    assert scheduler.bytes == 0
    await bench.stop()
    engine.forget(tmp_path / "data")


async def test_delivery_another_gateway_erased_during_its_attempt_is_not_sent(tmp_path: Path) -> None:
    engine, place = engines.Postgresql(), tmp_path / "data"
    bench, other = dispatching.DispatcherBench(place, engine), engines.Bench(engine, place)
    await bench.start(1, DispatcherLimits(review_seconds=0.05))
    await other.open()
    person = samples.digest("person", 8)
    accepted = await bench.store.accept(samples.arrival("a", person_keys=(person,)))
    bench.dispatcher.offer(accepted.deliveries)
    await waiting.wait_until(lambda: len(bench.tried) == 1, 60, "the attempt")
    erasure = await erasing.start(other, person)
    while not await erasing.step(other, erasure) and await erasing.left_to_erase(other, erasure):
        pass
    compare_claims, lost = bench.store.compare_claims, set[int]()

    async def noted_compare_claims(keys: list[int]) -> object:
        cancelled = await compare_claims(keys)
        lost.update(cancelled)
        return cancelled

    bench.store.compare_claims = noted_compare_claims
    await waiting.wait_until(lambda: bool(lost), 60, "a comparison after the erasure")
    bench.may_answer.set()
    await waiting.wait_until(lambda: bench.dispatcher.scheduler.in_flight == 0, 60, "the end of the attempt")
    assert bench.sent == []
    await bench.stop()
    await other.store.close()
    engine.forget(place)


async def test_attempt_sends_nothing_long_after_the_last_comparison_of_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a gateway that was suspended while it connected."""
    engine, place = engines.Postgresql(), tmp_path / "data"
    bench = dispatching.DispatcherBench(place, engine)
    await bench.start(concurrency=8)
    (delivery,) = await bench.accept("a")
    await waiting.wait_until(lambda: len(bench.tried) == 1, 60, "the attempt")
    comparing, compare_claims = asyncio.Event(), bench.store.compare_claims

    async def late_compare_claims(keys: list[int]) -> object:
        await comparing.wait()
        return await compare_claims(keys)

    bench.store.compare_claims = late_compare_claims
    loop = asyncio.get_running_loop()
    now, heartbeat = loop.time, bench.store.ownership.beat
    monkeypatch.setattr(loop, "time", lambda: now() + CLAIMS_SECONDS)
    await heartbeat()
    assert bench.store.may_attempt
    bench.may_answer.set()
    await waiting.wait_until(lambda: bench.dispatcher.scheduler.in_flight == 0, 60, "the end of the attempt")
    assert (bench.sent, len(bench.tried)) == ([], 1)
    comparing.set()
    await waiting.wait_until(lambda: bench.sent == [delivery.key], 60, "an attempt after a comparison")
    await bench.stop()
    engine.forget(place)


@pytest.mark.parametrize("way", ["late commit", "late claim"])
async def test_delivery_another_gateway_erased_before_it_was_offered_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """As in a gateway that got no answer of the database for long, and compares its claims just before it gets it."""
    engine, place = engines.Postgresql(), tmp_path / "data"
    bench, other = dispatching.DispatcherBench(place, engine), engines.Bench(engine, place)
    await bench.start(1)
    await other.open()
    person, compared = samples.digest("person", 8), set[int]()
    compare_claims, claim = bench.store.compare_claims, bench.store.claim

    async def noted_compare_claims(keys: list[int]) -> object:
        cancelled = await compare_claims(keys)
        compared.update(keys)
        return cancelled

    async def erase() -> None:
        erasure = await erasing.start(other, person)
        while not await erasing.step(other, erasure) and await erasing.left_to_erase(other, erasure):
            pass

    async def late_claim(*arguments: object) -> object:
        deliveries = await claim(*arguments)
        await erase()
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + 11)
        return deliveries

    bench.store.compare_claims = noted_compare_claims
    arrival = samples.arrival("a", person_keys=(person,))
    if way == "late commit":
        orphans: list[model.Delivery] = []
        bench.store.follow_orphans(orphans.extend)
        future = bench.store.accept(arrival)
        await asyncio.sleep(0)  # now the writer has the batch, and its result cannot be here before the next turn
        bench.store.abandon(future)
        await bench.store.flush()
        (row,) = await other.deliveries()
        await erase()
        bench.dispatcher.offer_orphans(orphans)
    else:
        bench.store.claim = late_claim
        (delivery,) = (await bench.store.accept(arrival)).deliveries
        (row,) = await other.deliveries()
        await bench.store.defer([delivery.key])
        bench.dispatcher.ask_store()
    await waiting.wait_until(lambda: bool(compared), 60, "a comparison of its claim")
    await waiting.wait_until(lambda: bench.dispatcher.scheduler.count == 0, 60, "its end")
    assert (bench.tried, row["state"]) == ([], "pending")
    await bench.stop()
    await other.store.close()
    engine.forget(place)


@pytest.mark.parametrize("engine", [engines.Sqlite(), engines.Postgresql()], ids=["sqlite", "postgresql"])
async def test_delivery_of_a_late_commit_that_is_cancelled_during_a_round_is_not_sent(
    tmp_path: Path, engine: engines.Engine
) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data", engine)
    await bench.start(concurrency=8)
    due, may_poll, polls = bench.store.due, asyncio.Event(), 0

    async def late_due() -> object:
        nonlocal polls
        polls += 1
        await may_poll.wait()
        return await due()

    bench.store.due = late_due
    bench.dispatcher.ask_store()
    await waiting.wait_until(lambda: polls == 1, 60, "the round")
    future = bench.store.accept(samples.arrival("late"))
    await asyncio.sleep(0)  # now the writer has the batch, and its result cannot be here before the next turn
    bench.store.abandon(future)
    await bench.store.flush()
    assert await bench.store.cancel(Filter(state="pending"), samples.NOW, bench.dispatcher.forget_cancelled) == 1
    may_poll.set()
    bench.may_answer.set()
    bench.dispatcher.ask_store()
    await waiting.wait_until(lambda: polls == 2, 60, "the next round")
    await waiting.wait_until(lambda: bench.dispatcher.scheduler.count == 0, 60, "the end of the delivery")
    assert bench.sent == []
    await bench.stop()
    engine.forget(tmp_path / "data")


async def test_delivery_redriven_during_its_attempt_is_attempted_afterwards(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=8)
    bench.answers = [model.SettledAs.Retry]
    (delivery,) = await bench.accept("a")
    tried = [(delivery.key, 0), (delivery.key, 1)]
    await waiting.wait_until(lambda: bench.tried == tried, 60, "the second attempt")

    assert await bench.cancel(delivery) == 1
    assert await bench.redrive(delivery) == 1
    bench.dispatcher.ask_store()
    await waiting.wait_until(lambda: len(bench.claimed) >= 2, 60, "its claim")
    bench.may_answer.set()

    async def is_delivered() -> bool:
        page = await bench.store.deliveries(Filter(ids=(delivery.id,)), None, 1)
        return bool(page.rows[0]["state"] == "delivered")

    await waiting.wait_until(is_delivered, 60, "the redriven delivery")
    assert bench.tried == [*tried, (delivery.key, 0)]
    assert bench.dispatcher.scheduler.bytes == 0
    await bench.stop()
