"""Deliveries that a user cancels while they wait in a lane."""

import asyncio
from pathlib import Path
from typing import Any, cast

from contract import engines, samples
from integration import gateways
from unit.delivery import samples as delivery_samples
from unit.ingest import samples as ingest_samples
from usher_gateway import documents, model, timing
from usher_gateway.delivery.dispatcher import Dispatcher, DispatcherLimits
from usher_gateway.delivery.outcome import AttemptResult
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.ingest.evaluation_limits import NamespaceBudgets
from usher_gateway.store.base import Filter


async def test_cancelled_delivery_leaves_its_lane_without_an_attempt(tmp_path: Path) -> None:
    store: Any = engines.Sqlite().make(tmp_path / "data", engines.Clock())
    await store.open()
    tried: list[int] = []
    may_answer = asyncio.Event()

    class Client:
        def literal_refusal(self, _: str) -> str | None:
            return None

    class Worker(DeliveryWorker):
        async def attempt(self, delivery: model.Delivery) -> AttemptResult:
            tried.append(delivery.key)
            await may_answer.wait()
            return AttemptResult(samples.settlement(delivery, model.SettledAs.Delivered))

    clock, newest = timing.Clock(), RouteDocuments(keys=ingest_samples.KEYS)
    worker = Worker(
        store=store, client=cast("Any", Client()), clock=clock, route_documents=newest, budgets=NamespaceBudgets()
    )
    dispatcher = Dispatcher(store=store, worker=worker, route_documents=newest, clock=clock, limits=DispatcherLimits())
    crm = delivery_samples.destination(concurrency=1)
    dispatcher.apply(documents.Snapshot({}, {crm.key: crm}))
    running = asyncio.create_task(dispatcher.run())
    first, second, third = [(await store.accept(samples.arrival(content))).deliveries[0] for content in "abc"]
    dispatcher.offer([first, second, third])
    await gateways.wait_until(lambda: tried == [first.key], 5, "the first attempt")

    assert await store.cancel(Filter(ids=(second.id,)), samples.NOW, dispatcher.forget_cancelled) == 1
    may_answer.set()
    await gateways.wait_until(lambda: tried == [first.key, third.key], 5, "the attempt after the cancelled delivery")
    await store.flush()
    await gateways.wait_until(lambda: dispatcher.scheduler.count == dispatcher.scheduler.in_flight == 0, 5, "its end")

    await dispatcher.stop(1)
    await running
    await store.close()
