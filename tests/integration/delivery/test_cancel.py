"""Deliveries that a user cancels while they wait in a lane."""

from pathlib import Path

from support import dispatching, engines, samples, waiting
from usher_gateway import model
from usher_gateway.delivery.dispatcher import DispatcherLimits
from usher_gateway.store.base import Filter


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


async def test_delivery_redriven_during_its_attempt_is_attempted_afterwards(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=8)
    bench.answers = [model.SettledAs.Retry]
    (delivery,) = await bench.accept("a")
    tried = [(delivery.key, 0), (delivery.key, 1)]
    await waiting.wait_until(lambda: bench.tried == tried, 60, "the second attempt")

    assert await bench.cancel(delivery) == 1
    assert await bench.store.redrive(Filter(ids=(delivery.id,), state="cancelled"), samples.NOW) == 1
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
