"""A dispatcher on a real store, whose attempts send nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from support import delivery_samples, engines, ingest_samples, samples
from usher_gateway import documents, model, timing
from usher_gateway.delivery.activity import ActivityRecorder
from usher_gateway.delivery.dispatcher import Dispatcher, DispatcherLimits
from usher_gateway.delivery.outcome import AttemptResult, Outcome
from usher_gateway.delivery.request_memory import RequestMemory
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.store.base import Filter


class DispatcherBench:
    """A store and a dispatcher whose attempts wait for ``may_answer``."""

    def __init__(self, folder: Path, engine: engines.Engine | None = None) -> None:
        self.store: Any = (engine or engines.Sqlite()).make(folder, engines.Clock())
        self.tried: list[tuple[int, int]] = []  # (key of the delivery, attempts before) of each attempt
        self.sent: list[int] = []  # Keys of the deliveries whose attempts wrote a request
        self.may_answer = asyncio.Event()
        self.answers: list[model.SettledAs] = []  # The results of the first attempts; after that, each delivers
        self.failure: Outcome | None = None  # The result of each attempt once it may answer; without it, each delivers
        self.claimed: list[int] = []  # Keys of the deliveries that the dispatcher claimed from the backlog
        self.claims = 0  # How often it tried to claim

    async def start(self, concurrency: int, limits: DispatcherLimits | None = None, *more: str) -> None:
        """Start the dispatcher with the destination ``crm``, and ``more``."""
        await self.store.open()
        claim = self.store.claim

        async def noted_claim(*arguments: Any) -> Any:
            deliveries = await claim(*arguments)
            self.claims += 1
            self.claimed += [delivery.key for delivery in deliveries]
            return deliveries

        self.store.claim = noted_claim
        clock, newest = timing.Clock(), RouteDocuments(keys=ingest_samples.KEYS)
        worker = self._worker(clock, newest)
        self.dispatcher = Dispatcher(
            store=self.store,
            worker=worker,
            route_documents=newest,
            clock=clock,
            limits=limits or DispatcherLimits(),
            note_holds=lambda _: None,
        )
        destinations = [delivery_samples.destination(name=name, concurrency=concurrency) for name in ("crm", *more)]
        self.dispatcher.apply(documents.Snapshot({}, {destination.key: destination for destination in destinations}))
        self._running = asyncio.create_task(self.dispatcher.run())

    def _worker(self, clock: timing.Clock, newest: RouteDocuments) -> DeliveryWorker:
        bench = self

        class Client:
            def literal_refusal(self, _: str) -> str | None:
                return None

        class Worker(DeliveryWorker):
            async def attempt(
                self,
                delivery: model.Delivery,
                may_send: Callable[[], bool] | None = None,
                request_memory: RequestMemory | None = None,  # noqa: ARG002 - as the method that it replaces
            ) -> AttemptResult | None:
                bench.tried.append((delivery.key, delivery.attempts))
                settled_as = bench.answers.pop(0) if bench.answers else model.SettledAs.Delivered
                if settled_as is model.SettledAs.Delivered:
                    await bench.may_answer.wait()
                if may_send is not None and not may_send():
                    return None
                bench.sent.append(delivery.key)
                if bench.failure is not None:
                    retried = samples.settlement(delivery, model.SettledAs.Retry, due_at=clock.now() + samples.HOUR)
                    return AttemptResult(retried, bench.failure)
                return AttemptResult(samples.settlement(delivery, settled_as, due_at=samples.NOW))

        return Worker(
            store=self.store,
            client=cast("Any", Client()),
            clock=clock,
            route_documents=newest,
            activity=ActivityRecorder(key=b"k" * 32),
        )

    async def accept(self, contents: str) -> list[model.Delivery]:
        accepted = [(await self.store.accept(samples.arrival(content))).deliveries[0] for content in contents]
        self.dispatcher.offer(accepted)
        return accepted

    async def cancel(self, delivery: model.Delivery) -> int:
        cancelled: int = await self.store.cancel(
            Filter(ids=(delivery.id,)), samples.NOW, self.dispatcher.forget_cancelled
        )
        return cancelled

    async def redrive(self, delivery: model.Delivery) -> int:
        where = Filter(ids=(delivery.id,), state="cancelled")
        redriven: int = await self.store.redrive(where, samples.NOW, samples.no_holds, lambda _: None)
        return redriven

    async def stop(self) -> None:
        await self.dispatcher.stop(1)
        await self._running
        await self.store.close()
