"""While lanes are full, other deliveries wait in the store, and the dispatcher does not claim them repeatedly."""

import asyncio
from pathlib import Path
from typing import Any, cast

from support import delivery_samples, engines, gateways, ingest_samples, samples
from usher_gateway import documents, model, timing
from usher_gateway.delivery.dispatcher import Dispatcher, DispatcherLimits
from usher_gateway.delivery.outcome import AttemptResult
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.ingest.evaluation_limits import CpuBudgets

LIMITS = DispatcherLimits(lane_bytes=10_000)
OTHER = samples.route("other", destination="agency/other")


async def test_delivery_larger_than_the_room_is_not_claimed_repeatedly(tmp_path: Path) -> None:
    store: Any = engines.Sqlite().make(tmp_path / "data", engines.Clock())
    await store.open()
    claims: list[int] = []
    claim, answers = store.claim, asyncio.Event()

    async def watched(*arguments: Any) -> list[model.Delivery]:
        claimed: list[model.Delivery] = await claim(*arguments)
        claims.append(len(claimed))
        return claimed

    class Client:
        def literal_refusal(self, _: str) -> str | None:
            return None

    class Worker(DeliveryWorker):
        async def attempt(self, delivery: model.Delivery) -> AttemptResult:
            await answers.wait()
            return AttemptResult(samples.settlement(delivery, model.SettledAs.Delivered))

    store.claim = watched
    clock = timing.Clock()
    newest = RouteDocuments(keys=ingest_samples.KEYS)
    worker = Worker(
        store=store,
        client=cast("Any", Client()),
        clock=clock,
        route_documents=newest,
        budgets=CpuBudgets(),
    )
    dispatcher = Dispatcher(store=store, worker=worker, route_documents=newest, clock=clock, limits=LIMITS)
    destinations = [delivery_samples.destination(), delivery_samples.destination(name="other")]
    dispatcher.apply(documents.Snapshot({}, {destination.key: destination for destination in destinations}))
    running = asyncio.create_task(dispatcher.run())

    # Another destination fills a part of the lanes, this one a little, and the third delivery needs more than is left.
    for content, size, route in [("a", 4_000, OTHER), ("b", 2, samples.CRM), ("c", 3_000, samples.CRM)]:
        arrival = samples.arrival(content, body=b"x" * size, if_visit=(samples.plan(route),))
        dispatcher.offer((await store.accept(arrival)).deliveries)
    await gateways.wait_until(lambda: bool(claims), 60, "a look for what waits")
    claims.clear()
    await asyncio.sleep(0.5)
    assert len(claims) <= 2
    assert dispatcher.scheduler.in_flight == 2

    answers.set()

    async def is_all_delivered() -> bool:
        await store.flush()
        return not await store.open_deliveries(1 << 62)

    await gateways.wait_until(is_all_delivered, 60, "the delivery of what had no room")
    await dispatcher.stop(1)
    await running
    await store.close()
