"""The dispatcher with full lanes, and after its destinations changed."""

import asyncio
from pathlib import Path

from support import delivery_samples, dispatching, samples, waiting
from usher_gateway import documents, model
from usher_gateway.delivery import circuit
from usher_gateway.delivery.dispatcher import DispatcherLimits
from usher_gateway.delivery.outcome import Outcome
from usher_gateway.delivery.request_memory import LARGE_REQUEST_BYTES

OTHER = samples.route("other", destination="agency/other")


async def test_delivery_larger_than_the_room_is_not_claimed_repeatedly(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(8, DispatcherLimits(lane_bytes=10_000), "other")
    # Another destination fills a part of the lanes, this one a little, and the third delivery needs more than is left.
    for content, size, route in [("a", 4_000, OTHER), ("b", 2, samples.CRM), ("c", 3_000, samples.CRM)]:
        arrival = samples.arrival(content, body=b"x" * size, if_visit=(samples.plan(route),))
        bench.dispatcher.offer((await bench.store.accept(arrival)).deliveries)
    await waiting.wait_until(lambda: bench.claims > 0, 60, "a look for what waits")
    claims = bench.claims
    await asyncio.sleep(0.5)
    assert bench.claims - claims <= 2
    assert bench.dispatcher.scheduler.in_flight == 2

    bench.may_answer.set()

    async def is_all_delivered() -> bool:
        await bench.store.flush()
        return not await bench.store.open_deliveries(1 << 62)

    await waiting.wait_until(is_all_delivered, 60, "the delivery of what had no room")
    await bench.stop()


async def test_deliveries_without_memory_keep_none_of_other_tenants_in_the_backlog(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    bench.may_answer.set()
    await bench.start(1, DispatcherLimits(lane_bytes=24 * LARGE_REQUEST_BYTES))
    memory = bench.dispatcher.scheduler.request_memory
    memory.start(-1, "agency", "agency/acme")
    assert memory.may_keep(-1, 5 * LARGE_REQUEST_BYTES)
    routes = [samples.CRM] * 20 + [samples.route(listener=samples.BAR)]
    arrivals = [
        samples.arrival(str(number), listener=route.listener, if_visit=(samples.plan(route),))
        for number, route in enumerate(routes)
    ]
    deliveries = [(await bench.store.accept(arrival)).deliveries[0] for arrival in arrivals]
    await bench.store.defer([delivery.key for delivery in deliveries])
    bench.dispatcher.ask_store()
    await waiting.wait_until(lambda: bench.sent, 60, "the delivery of the other tenant")
    assert bench.sent == [deliveries[-1].key]

    memory.end(-1)
    bench.dispatcher.ask_store()
    await waiting.wait_until(lambda: len(bench.sent) == len(deliveries), 60, "the others")
    await bench.stop()


async def test_change_during_the_hastening_of_an_earlier_one_is_not_lost(tmp_path: Path) -> None:
    """Deliveries that failed by the second document would wait for their retry otherwise."""
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=1)
    hastened: list[str] = []

    def change(concurrency: int) -> None:
        crm = delivery_samples.destination(concurrency=concurrency)
        bench.dispatcher.apply(documents.Snapshot({}, {crm.key: crm}))

    async def hasten(destination: str, _: int) -> int:
        hastened.append(destination)
        if len(hastened) == 1:
            change(3)
        return 0

    bench.store.hasten = hasten
    change(2)
    await waiting.wait_until(lambda: len(hastened) == 2, 20, "the second hastening")
    await bench.stop()


async def test_circuit_of_a_removed_destination_stays_closed(tmp_path: Path) -> None:
    """An open circuit would keep its deliveries in the backlog, where nothing holds them."""
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=circuit.OPENS_AFTER)
    bench.failure = Outcome(model.SettledAs.Retry, "TimedOut", blames_destination=True)
    await bench.accept("abcde")
    await waiting.wait_until(lambda: len(bench.tried) == circuit.OPENS_AFTER, 60, "the attempts")

    bench.dispatcher.apply(documents.Snapshot({}, {}))
    bench.may_answer.set()
    scheduler = bench.dispatcher.scheduler
    await waiting.wait_until(lambda: scheduler.in_flight == 0, 60, "their end")
    assert bench.dispatcher.open_circuits == set()
    (last,) = await bench.accept("f")
    await waiting.wait_until(lambda: (last.key, 0) in bench.tried, 60, "the attempt that would hold it")
    await bench.stop()


async def test_destination_that_is_made_again_has_its_whole_rate_limit(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=1)
    bench.may_answer.set()
    crm = delivery_samples.destination(name="crm", rate_requests=1, rate_seconds=86_400)
    for number, content in enumerate("ab", 1):
        bench.dispatcher.apply(documents.Snapshot({}, {crm.key: crm}))
        await bench.accept(content)
        await waiting.wait_until(lambda count=number: len(bench.tried) == count, 20, "the attempt")
        await waiting.wait_until(lambda: bench.dispatcher.scheduler.in_flight == 0, 20, "its end")
        bench.dispatcher.apply(documents.Snapshot({}, {}))
    await bench.stop()
