"""Keeps deliveries moving: from acceptance or backlog into lanes, from lanes into attempts, and their results back.

Everything runs on the event loop. Lanes decide what is next (lanes.py); this file feeds them and starts attempts.
"""

import asyncio
import contextlib
from collections.abc import Sequence

import msgspec
import structlog

from usher_gateway import documents, metrics, model
from usher_gateway.clock import Clock
from usher_gateway.delivery import circuit
from usher_gateway.delivery.outcome import AttemptResult, internal_error
from usher_gateway.delivery.scheduler import LaneEntry, LaneLimits, LaneScheduler
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.store.base import Store

_log = structlog.get_logger(__name__)

_OVERHEAD_BYTES = 600
"""What a delivery costs in memory beside its body."""

_POLL_SECONDS = 1.0
"""How often the store is asked what is due, where nothing else asks."""

_CLAIM_ROWS = 500
_NOTE_LANES_SECONDS = 30.0
_GIVE_BACK_SECONDS = 5.0
_SET_BACK = 60 * model.MICROSECONDS
"""A wall clock that lost so much against the steady one was set back."""


class DispatcherLimits(msgspec.Struct, frozen=True):
    """Bounds of all lanes together."""

    lane_bytes: int = 256 * 1024 * 1024
    in_flight: int = 512
    unsettled: int = 4_096
    """No attempt starts while so many results wait for the store."""


class Dispatcher:
    """The moving part between store, lanes and attempts."""

    def __init__(self, *, store: Store, worker: DeliveryWorker, clock: Clock, limits: DispatcherLimits) -> None:
        self.scheduler = LaneScheduler(limits.lane_bytes, limits.in_flight)
        self.lag = 0
        """Microseconds from acceptance to the last first attempt."""
        self.attempt_seconds = metrics.Histogram(metrics.SECONDS)
        self._loop = asyncio.get_running_loop()
        self._store, self._worker, self._clock, self._limits = store, worker, clock, limits
        self._places: dict[int, tuple[str, str]] = {}
        """The store's number of a route -> its destination and tenant; a number never changes its meaning."""
        self._owned: set[int] = set()
        """Deliveries in lanes and attempts."""
        self._deferred: list[int] = []
        self._due: dict[str, int] = {}
        """Destination -> when the first of its backlog is due, as far as known."""
        self._crowded: dict[str, float] = {}
        """Destination -> until when nothing is claimed for it, because nothing of it found room (the loop's time)."""
        self._changed: set[str] = set()
        """Destinations with a new document, whose backlog is not hastened yet."""
        self.open_circuits: dict[str, str] = {}
        """Destination whose circuit is open -> the error of its last attempt."""
        self._outdated: set[int] = set()
        """Deliveries in attempts that began before their destination's document changed."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._pump_is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._ask_store = True
        self._stopping = asyncio.Event()
        self._moving = asyncio.Lock()
        self._configured = asyncio.Event()
        self._next_poll = self._next_note = 0.0
        self._clock_difference = self._clock.now() - self._clock.steady()

    # what the rest of the gateway calls

    def apply(self, snapshot: documents.Snapshot) -> None:
        """Use new documents: limits at once; what a changed destination has failed is tried again at once."""
        for key, destination in documents.changed(self._worker.destinations, snapshot.destinations).items():
            before = self._worker.destination(key)
            self.scheduler.configure(key, LaneLimits(destination.concurrency, destination.requests_per_second))
            self.scheduler.reset(key)
            self.open_circuits.pop(key, None)
            if before is not None:
                self._changed.add(key)
                self._outdated.update(self.scheduler.running(key))
        self._worker.apply(snapshot)
        self._configured.set()
        self.ask_store()
        self._schedule_pump()

    def offer(self, deliveries: Sequence[model.Delivery], *, fresh: bool = True) -> None:
        """Take deliveries that belong to this process: into lanes, or back to the store where there is no room."""
        now = self._clock.steady()
        for delivery in deliveries:
            destination, tenant = self._places.get(delivery.route) or self._place(delivery.route)
            size = len(delivery.body or b"") + _OVERHEAD_BYTES
            entry = LaneEntry(delivery, destination, tenant, fresh, size)
            if self.scheduler.offer(entry, now):
                self._owned.add(delivery.key)
            else:
                self._deferred.append(delivery.key)
        if deliveries:
            self._schedule_pump()

    def offer_backlog(self, deliveries: Sequence[model.Delivery]) -> None:
        """Take deliveries that waited in the store."""
        self.offer(deliveries, fresh=False)

    def _place(self, route: int) -> tuple[str, str]:
        definition = self._store.route(route)
        tenant = f"{definition.listener.namespace}/{definition.listener.tenant}"
        self._places[route] = place = (definition.destination, tenant)
        return place

    def ask_store(self) -> None:
        """Look for due work soon: something changed that the dispatcher did not do itself."""
        self._ask_store = True
        self._wake.set()

    async def run(self) -> None:
        """Move deliveries until stop(). Nothing moves before the first apply(): not to know is not to be removed."""
        await self._configured.wait()
        while not self._stopping.is_set():
            self._wake.clear()
            async with self._moving:
                await self._move()
            self._schedule_pump()
            # Not wait_for(): Python 3.11's loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_wait()):
                    await self._wake.wait()

    async def stop(self, seconds: float) -> None:
        """Start nothing more, let attempts end for so long, give the rest back to the store.

        What the store does not take back in time, it finds by itself when it is opened again.
        """
        self._stopping.set()
        self._wake.set()
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=seconds)
        for task in list(self._attempts):
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        with contextlib.suppress(model.StoreUnavailableError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_SECONDS), self._moving:
                await self._store.defer([*self._owned, *self._deferred])

    # results of attempts

    def _settle(self, entry: LaneEntry, result: AttemptResult) -> None:
        """Hand a result to the store and free its slot. If the circuit opens, empty its lane."""
        key, settlement, outcome = entry.delivery.key, result.settlement, result.outcome
        if key in self._outdated:
            self._outdated.discard(key)
            if settlement.settled_as is model.SettledAs.Retry:
                settlement, outcome = msgspec.structs.replace(settlement, due_at=settlement.at), None
        self._store.settle(settlement)
        self._owned.discard(key)
        if settlement.settled_as is model.SettledAs.Retry:
            self._clock_difference = max(self._clock_difference, self._clock.now() - self._clock.steady())
            self._note_due(entry.destination, settlement.due_at)
        if self.scheduler.done(key, outcome, self._clock.steady()):
            self._circuit_opened(entry.destination, settlement.error)
        elif entry.destination in self.open_circuits and outcome is not None:
            self._note_trial(entry.destination, settlement.error)
        if entry.destination in self._due or self._deferred:
            self._wake.set()
        self._schedule_pump()

    def _circuit_opened(self, destination: str, error: str) -> None:
        self.open_circuits[destination] = error
        _log.warning("circuit_opened", destination=destination, error=error)
        for waiting in self.scheduler.drain(destination):
            self._owned.discard(waiting.delivery.key)
            self._deferred.append(waiting.delivery.key)

    def _note_trial(self, destination: str, error: str) -> None:
        if self.scheduler.circuit_of(destination).state is circuit.CircuitState.Open:
            self.open_circuits[destination] = error
        else:
            del self.open_circuits[destination]
            _log.info("circuit_closed", destination=destination)

    # moving

    def _schedule_pump(self) -> None:
        if not self._pump_is_scheduled and not self._stopping.is_set():
            self._pump_is_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Start every attempt that may start now."""
        self._pump_is_scheduled = False
        if self._stopping.is_set():
            return
        now = self._clock.steady()
        while self._store.may_attempt and self._store.unsettled < self._limits.unsettled:
            ready = self.scheduler.next_ready(now)
            if ready.entry is None:
                self._ask_again_at(ready.ask_again_at, now)
                break
            self._start(ready.entry)
        if self._deferred:
            self._wake.set()

    def _start(self, entry: LaneEntry) -> None:
        if entry.fresh:
            self.lag = self._clock.now() - entry.delivery.created_at
        task = asyncio.create_task(self._attempt(entry))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    async def _attempt(self, entry: LaneEntry) -> None:
        """Make one attempt. An error in Usher costs this delivery a retry, and no other delivery anything."""
        started = self._loop.time()
        try:
            result = await self._worker.attempt(entry.delivery)
            self._settle(entry, result)
            self.attempt_seconds.observe(self._loop.time() - started)
        except asyncio.CancelledError:
            self.scheduler.done(entry.delivery.key, None, self._clock.steady())
            raise
        except Exception as error:  # noqa: BLE001 - the task's top
            _log.error("attempt_failed", delivery=entry.delivery.key, error=type(error).__name__, exc_info=error)
            self._settle(entry, internal_error(entry.delivery, self._clock.now()))

    def _ask_again_at(self, moment: int, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if moment:
            seconds = max(0.001, self._clock.real_seconds(moment - now))
            self._timer = self._loop.call_later(seconds, self._schedule_pump)

    # the backlog

    async def _move(self) -> None:
        """One round: what nobody offered, what changed, what there is no room for, what is due."""
        self.offer(_take_all(self._store.orphans))
        try:
            for destination in list(self._changed):
                await self._store.hasten(destination, self._clock.now())
                self._changed.discard(destination)
                self._ask_store = True
            await self._give_back()
            if self._ask_store or self._loop.time() >= self._next_poll:
                self._next_poll = self._loop.time() + _POLL_SECONDS
                await self._poll()
            await self._claim_due()
            if self._loop.time() >= self._next_note:
                self._next_note = self._loop.time() + _NOTE_LANES_SECONDS
                await self._store.note_lanes()
        except model.StoreUnavailableError as error:
            _log.warning("dispatcher_waits_for_store", reason=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._stopping.wait()

    async def _poll(self) -> None:
        self._ask_store = False
        self._due = {due.destination: due.next_due_at for due in await self._store.due()}
        apart = self._clock.now() - self._clock.steady()
        if apart < self._clock_difference - _SET_BACK:
            _log.warning("clock_was_set_back", seconds=(self._clock_difference - apart) // model.MICROSECONDS)
            self._changed.update(self._due)  # what was due by the clock before is not waited for
        self._clock_difference = apart

    async def _give_back(self) -> None:
        if self._deferred:
            keys, self._deferred = self._deferred, []
            try:
                await self._store.defer(keys)
            except model.StoreUnavailableError:
                self._deferred += keys
                raise
            self._ask_store = True

    async def _claim_due(self) -> None:
        """Take what is due and has room. One destination after the other: each claim is a transaction."""
        now = self._clock.now()
        for destination in [key for key, due_at in self._due.items() if due_at <= now]:
            if self._worker.destination(destination) is None:
                limit, size = _CLAIM_ROWS, self._limits.lane_bytes // 8
            else:
                room = self.scheduler.room(destination, self._clock.steady())
                limit, size = min(room.rows, _CLAIM_ROWS), room.bytes
            if limit <= 0 or size <= _OVERHEAD_BYTES or self._crowded.get(destination, 0.0) > self._loop.time():
                continue
            found, deferred = await self._store.claim(destination, limit, size, now), len(self._deferred)
            self.offer_backlog(found)
            # A claim may be larger than the room: to fetch it again at once would be two transactions for nothing.
            if found and len(self._deferred) == deferred + len(found):
                self._crowded[destination] = self._loop.time() + _POLL_SECONDS
            else:
                self._crowded.pop(destination, None)
            if len(found) < limit:
                self._due.pop(destination, None)
                self._ask_store = True

    def _note_due(self, destination: str, due_at: int) -> None:
        before = self._due.get(destination)
        if before is None or due_at < before:
            self._due[destination] = due_at
            self._wake.set()

    def _seconds_to_wait(self) -> float:
        """Until the next poll, the next due moment that is known, or the next trial of an open circuit."""
        if self._ask_store:
            return 0.02
        now, steady = self._clock.now(), self._clock.steady()
        soonest = _POLL_SECONDS
        for destination, due_at in self._due.items():
            wait = due_at - now
            state = self.scheduler.circuit_of(destination)
            if state.state is circuit.CircuitState.Open:
                wait = max(wait, state.trial_at - steady)
            if wait <= 0:
                continue  # its lane is full, or its trial runs: the end of an attempt wakes the dispatcher
            soonest = min(soonest, self._clock.real_seconds(wait))
        return max(0.002, soonest)


def _take_all(items: list[model.Delivery]) -> list[model.Delivery]:
    taken = list(items)
    items.clear()
    return taken
