"""Moves deliveries: into lanes when they are accepted or due, from lanes into attempts, and results back to the store.

Everything runs on the event loop. The scheduler chooses the next delivery, the worker makes the attempt. The dispatcher
feeds the scheduler and starts attempts:

- ``offer`` puts accepted deliveries into lanes. Deliveries without room go back to the store.
- ``run`` claims due deliveries from the store, as many as the lanes have room for.
- ``_pump`` starts an attempt for each delivery that may start now. It runs at most once per loop turn.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import structlog

from usher_gateway import documents, metrics, model
from usher_gateway.delivery import circuit
from usher_gateway.delivery.other_gateways import UnknownDestinations, share_of
from usher_gateway.delivery.outcome import AttemptResult, internal_error
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.scheduler import LaneEntry, LaneLimits, LaneScheduler, RateLimit
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import HINTS
from usher_gateway.store.base import CLAIMS_SECONDS, Replicas
from usher_gateway.store.store import DeliveryQueue
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)

_OVERHEAD_BYTES = 600  # Memory that a delivery uses in addition to its body
_POLL_SECONDS = 1.0  # How often the dispatcher asks the store for due deliveries if nothing else makes it ask

_CLAIM_ROWS = 500
_DEFER_SECONDS = 5.0

# A claim that took longer may bring deliveries that were cancelled meanwhile. An erasure waits 15 s longer than
# CLAIMS_SECONDS for what was cancelled.
_FRESH_SECONDS = 10.0

# No retry waits for this long: the last step is 6 hours with a spread of a fifth.
_TOO_LONG = 8 * model.HOUR


class DispatcherLimits(msgspec.Struct, frozen=True):
    """Limits on all lanes together."""

    lane_bytes: int = 256 * 1024 * 1024
    in_flight: int = 512
    unsettled: int = 4_096
    """No attempt starts while this many results wait for the store."""
    review_seconds: float = 10.0
    """How often the dispatcher and the store compare which deliveries are claimed. An erasure waits for it."""


@functools.lru_cache(10_000)
def _tenant_key(namespace: str, tenant: str) -> str:
    """Return ``namespace/tenant``, the same object for all deliveries of a tenant."""
    return f"{namespace}/{tenant}"


class Dispatcher:
    """Moves deliveries between store, lanes and attempts. Belongs to one event loop."""

    def __init__(
        self,
        *,
        store: DeliveryQueue,
        worker: DeliveryWorker,
        route_documents: RouteDocuments,
        clock: Clock,
        limits: DispatcherLimits,
        note_holds: Callable[[Sequence[model.Hold]], None],
    ) -> None:
        """``note_holds`` takes the holds for deliveries that attempts hold."""
        self.scheduler = LaneScheduler(limits.lane_bytes, limits.in_flight)
        self.attempt_seconds = metrics.Histogram(metrics.SECONDS)
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._worker = worker
        self._documents = route_documents
        self._clock = clock
        self._limits = limits
        self._note_holds = note_holds
        self._claimed: set[int] = set()  # Keys of the claimed deliveries: those in lanes and attempts
        self._cancelled: set[int] = set()
        """Claimed deliveries that a user cancelled, by key: they leave their lanes without an attempt."""
        self._deferred: list[int] = []  # Keys of the deliveries that go back to the store
        self._due: dict[str, int] = {}  # Destination -> when the first delivery of its backlog is due, as far as known
        self._crowded: dict[str, float] = {}
        """Destination -> loop time until which nothing is claimed for it, because the last claim found no room."""
        self._changed: set[str] = set()
        """Destinations whose backlog the store has not made due yet, because their document or a clock changed."""
        self.open_circuits: set[str] = set()  # Destinations whose circuit is open
        self._outdated: set[int] = set()
        """Keys of running attempts that began before their destination's document changed."""
        self._attempts: set[asyncio.Task[None]] = set()
        self._pump_is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._ask_store = True
        self._stopping = asyncio.Event()
        self._moving = asyncio.Lock()
        self._configured = asyncio.Event()
        self._rates: dict[str, RateLimit] = {}  # See `rate_limits`
        self._next_poll = self._next_review = 0.0
        self._compared_at = self._loop.time()
        """Loop time before the claimed deliveries were last compared with the store."""
        self._unknown = UnknownDestinations(store=store, now=self._loop.time)
        self._replicas = Replicas()
        store.follow_replicas(self._apply_replicas)
        store.follow_orphans(self.offer_orphans)

    def apply(self, snapshot: documents.Snapshot) -> None:
        """Use new documents. Deliveries that failed at a changed destination are tried again at once."""
        now = self._clock.steady()
        previous_rates, self._rates = self._rates, rate_limits(snapshot.destinations)
        if self._rates != previous_rates:
            for key, destination in snapshot.destinations.items():
                self.scheduler.configure(key, self._share_of(destination), now)
        for key, destination in documents.changed(self._documents.snapshot.destinations, snapshot.destinations).items():
            previous = self._documents.destination(key)
            self.scheduler.configure(key, self._share_of(destination), now)
            self.scheduler.reset(key, now)
            self.open_circuits.discard(key)
            if previous is not None:
                self._changed.add(key)
                self._outdated.update(self.scheduler.running(key))
        for key in self.open_circuits - snapshot.destinations.keys():
            self.scheduler.reset(key, now)  # the attempts only hold the deliveries
            self.open_circuits.discard(key)
        self.scheduler.keep_lanes(snapshot.destinations)
        self._worker.apply(snapshot)
        self._unknown.apply(snapshot.destinations)
        self._configured.set()
        self.ask_store()
        self._schedule_pump()

    def _share_of(self, destination: documents.DestinationDocument) -> LaneLimits:
        """Return this gateway's share of a destination's limits."""
        rate = self._rates.get(_rate_key(destination))
        return share_of(LaneLimits(destination.concurrency, rate), destination.key, self._replicas)

    def _apply_replicas(self, replicas: Replicas) -> None:
        """Apply this gateway's shares; see ``Store.follow_replicas``."""
        if replicas == self._replicas:
            return
        self._replicas = replicas
        now = self._clock.steady()
        for key, destination in self._documents.snapshot.destinations.items():
            limits = self._share_of(destination)
            self.scheduler.share(key, limits, now)
            if limits.concurrency == 0:
                self._empty_lane(key)
        self.ask_store()
        self._schedule_pump()

    def offer(self, deliveries: Sequence[model.Delivery], *, fresh: bool = True) -> None:
        """Put claimed deliveries into lanes. Deliveries without room go back to the store."""
        now = self._clock.steady()
        for delivery in deliveries:
            definition = self._store.route(delivery.route)
            tenant = _tenant_key(definition.listener.namespace, definition.listener.tenant)
            size = len(delivery.body or b"") + _OVERHEAD_BYTES
            entry = LaneEntry(delivery, definition.destination, tenant, fresh, size)
            # A cancelled and redriven delivery may still be in its lane or in an attempt. It waits for that to end.
            if delivery.key not in self._claimed and self.scheduler.offer(entry, now):
                self._claimed.add(delivery.key)
            else:
                self._deferred.append(delivery.key)
        if deliveries:
            self._schedule_pump()

    def offer_orphans(self, deliveries: Sequence[model.Delivery]) -> None:
        """Put deliveries of a late commit into lanes, at once, so that whoever cancels them finds them there."""
        if deliveries:
            self._compare_before_sending()  # another gateway may have cancelled them since
            self.offer(deliveries)
            self._wake.set()

    def forget_cancelled(self, keys: Collection[int]) -> None:
        """Write no request for deliveries that were cancelled in the store. Attempts that have written theirs go on."""
        self._cancelled.update(self._claimed.intersection(keys))
        self._schedule_pump()

    def ask_store(self) -> None:
        """Ask the store for due deliveries soon, because another part changed something there."""
        self._ask_store = True
        self._wake.set()

    async def run(self) -> None:
        """Move deliveries until ``stop``. Wait for the first ``apply``: until then every destination is missing."""
        await self._configured.wait()
        while not self._stopping.is_set():
            self._wake.clear()  # before the round, so that what changes during the round starts another one
            async with self._moving:
                await self._move()
            self._schedule_pump()
            # Not wait_for(), because in Python 3.11 it loses a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds_to_wait()):
                    await self._wake.wait()

    async def stop(self, seconds: float) -> None:
        """Start no more attempts, wait up to ``seconds`` for the running ones, and defer the rest to the store.

        If the store does not answer in time, it finds those deliveries itself when it is opened again.
        """
        self._stopping.set()
        self._wake.set()
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=seconds)
        for task in list(self._attempts):
            task.cancel()
        await asyncio.gather(*self._attempts, return_exceptions=True)
        with contextlib.suppress(model.StoreUnavailableError, TimeoutError):
            # The lock waits for a running round, which may have claimed deliveries that are not in the lists yet.
            async with asyncio.timeout(_DEFER_SECONDS), self._moving:
                await self._store.defer([*self._claimed, *self._deferred])

    def _settle(self, entry: LaneEntry, result: AttemptResult) -> None:
        """Hand a result to the store and free its slot. If the circuit opens, empty its lane."""
        key, settlement, outcome = entry.delivery.key, result.settlement, result.outcome
        if settlement.hold is model.HoldReason.DestinationNotFound and self._unknown.is_left_to_others(
            entry.destination
        ):
            self._return(entry)
            return
        if key in self._outdated:
            self._outdated.discard(key)
            if settlement.settled_as is model.SettledAs.Retry:
                settlement, outcome = msgspec.structs.replace(settlement, due_at=settlement.at), None
        if self._documents.destination(entry.destination) is None:
            outcome = None  # an open circuit would keep its deliveries in the backlog, where nothing holds them
        self._store.settle(settlement)
        if settlement.settled_as is model.SettledAs.Held and settlement.hold is not None:
            self._note_holds([model.Hold(entry.delivery.route, settlement.hold, settlement.at)])
        self._claimed.discard(key)
        self._cancelled.discard(key)
        if settlement.settled_as is model.SettledAs.Retry:
            self._note_due(entry.destination, settlement.due_at)
        if self.scheduler.done(key, outcome, self._clock.steady()):
            self._circuit_opened(entry.destination, settlement.error, settlement.status)
        elif entry.destination in self.open_circuits and outcome is not None:
            self._note_trial(entry.destination)
        if entry.destination in self._due or self._deferred:
            self._wake.set()
        self._schedule_pump()

    def _return(self, entry: LaneEntry) -> None:
        """Return a delivery to the backlog if nothing was sent, due at once, if it is still this gateway's."""
        self._drop(entry)
        self._deferred.append(entry.delivery.key)
        self._wake.set()
        self._schedule_pump()

    def _circuit_opened(self, destination: str, error: str, status: int) -> None:
        self.open_circuits.add(destination)
        _log.warning(
            "circuit_opened",
            destination=destination,
            tenants=self._documents.snapshot.first_tenants_of(destination),
            error=error,
            status=status or None,
            hint=HINTS.get(error),
        )
        self._empty_lane(destination)

    def _empty_lane(self, destination: str) -> None:
        """Return a lane's deliveries to the store."""
        for entry in self.scheduler.drain(destination):
            self._claimed.discard(entry.delivery.key)
            self._cancelled.discard(entry.delivery.key)
            self._deferred.append(entry.delivery.key)

    def _note_trial(self, destination: str) -> None:
        if self.scheduler.circuit_of(destination).state is not circuit.CircuitState.Open:
            self.open_circuits.remove(destination)
            _log.info("circuit_closed", destination=destination)

    def until_trial(self, destination: str) -> int:
        """Return in how many microseconds an open circuit allows its next attempt; 0: now, or it is closed."""
        state = self.scheduler.circuit_of(destination)
        return max(0, state.trial_at - self._clock.steady()) if state.state is circuit.CircuitState.Open else 0

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
        while self._may_send and self._store.unsettled < self._limits.unsettled:
            entry = self.scheduler.next_ready(now)
            if entry is None:
                self._pump_at(self.scheduler.wakes_at, now)
                break
            if entry.delivery.key in self._cancelled:
                self._drop(entry)
            else:
                self._start(entry)
        if self._deferred:
            self._wake.set()

    def _drop(self, entry: LaneEntry) -> None:
        """Give back a delivery's slot if nothing was sent."""
        key = entry.delivery.key
        self._outdated.discard(key)
        self._cancelled.discard(key)
        self._claimed.discard(key)
        self.scheduler.done(key, None, self._clock.steady())

    def _start(self, entry: LaneEntry) -> None:
        task = asyncio.create_task(self._attempt(entry))
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    @property
    def _may_send(self) -> bool:
        """False if other gateways may have taken over what this one has, or cancelled it long ago."""
        is_current = not self._store.is_shared or self._loop.time() - self._compared_at < CLAIMS_SECONDS
        return is_current and self._store.may_attempt

    def _compare_before_sending(self) -> None:
        """Send nothing before the next comparison, because what is offered now may have been cancelled long ago."""
        self._compared_at, self._next_review = -math.inf, 0.0

    def _is_still_ours(self, key: int) -> bool:
        """Return whether a delivery's request may be written. Asked again after the attempt has connected."""
        return key not in self._cancelled and self._may_send

    async def _attempt(self, entry: LaneEntry) -> None:
        """Make one attempt and settle its result. After an error in Usher, only this delivery is retried later."""
        started = self._loop.time()
        try:
            key = entry.delivery.key
            may_send = functools.partial(self._is_still_ours, key)
            result = await self._worker.attempt(entry.delivery, may_send, self.scheduler.request_memory)
            if result is None:
                self._return(entry)
                return
            self._settle(entry, result)
            self.attempt_seconds.observe(self._loop.time() - started)
        except asyncio.CancelledError:
            # The destination may have processed the request or not. The delivery stays in _claimed, so stop() defers
            # it, and the next process sends it again.
            self.scheduler.done(entry.delivery.key, None, self._clock.steady())
            raise
        except Exception as error:  # noqa: BLE001 - the task's top
            _log.error("attempt_failed", delivery=entry.delivery.key, error=type(error).__name__, exc_info=error)
            self._settle(entry, internal_error(entry.delivery, self._clock.now()))

    def _pump_at(self, moment: int, now: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if moment:
            seconds = max(0.001, self._clock.real_seconds(moment - now))
            self._timer = self._loop.call_later(seconds, self._schedule_pump)

    async def _move(self) -> None:
        """Do one round: hasten changed destinations' backlogs, defer, and claim what is due."""
        try:
            for destination in list(self._changed):
                await self._hasten(destination)
                self._ask_store = True
            await self._unknown.tell()
            await self._defer()
            if self._ask_store or self._loop.time() >= self._next_poll:
                self._next_poll = self._loop.time() + _POLL_SECONDS
                await self._poll()
            await self._claim_due()
            if self._store.is_shared and self._loop.time() >= self._next_review:
                self._next_review = self._loop.time() + self._limits.review_seconds
                began = self._loop.time()
                self.forget_cancelled(await self._store.compare_claims([*self._claimed, *self._deferred]))
                self._compared_at = began
        except model.StoreUnavailableError as error:
            _log.warning("dispatcher_paused", reason=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._stopping.wait()

    async def _hasten(self, destination: str) -> None:
        """Make a changed destination's backlog due at once."""
        self._changed.discard(destination)  # before the wait, because it may change again meanwhile
        try:
            await self._store.hasten(destination, self._clock.now())
        except BaseException:
            self._changed.add(destination)
            raise

    async def _poll(self) -> None:
        self._ask_store = False  # before the query, so that a change during the query asks again
        # The answer may lack a retry that was settled during the query. The next poll finds it.
        self._due = await self._store.due()
        now = self._clock.now()
        if max(self._due.values(), default=0) > now + _TOO_LONG:
            # Such a time comes from a clock that was wrong. This gateway's may be behind, so ask the store's.
            latest = max(now, await self._store.store_time(now)) + _TOO_LONG
            wrong = [destination for destination, due_at in self._due.items() if due_at > latest]
            if wrong:
                _log.warning("due_times_corrected", destinations=len(wrong), hint="A clock is or was wrong: check NTP.")
                self._changed.update(wrong)

    async def _defer(self) -> None:
        if self._deferred:
            keys = self._deferred
            self._deferred = []
            try:
                await self._store.defer(keys)
            except model.StoreUnavailableError:
                self._deferred += keys
                raise
            self._ask_store = True

    async def _claim_due(self) -> None:
        """Claim due deliveries that have room, one destination after another, because each claim is a transaction."""
        now = self._clock.now()
        destinations = [key for key, due_at in self._due.items() if due_at <= now]
        await self._unknown.look_up([key for key in destinations if self._documents.destination(key) is None])
        for destination in destinations:
            if self._documents.destination(destination) is None:
                if self._unknown.is_left_to_others(destination):
                    continue
                limit, size = _CLAIM_ROWS, self._limits.lane_bytes // 8
            else:
                rows, size = self.scheduler.room(destination, self._clock.steady())
                limit = min(rows, _CLAIM_ROWS)
            if limit <= 0 or size <= _OVERHEAD_BYTES or self._crowded.get(destination, 0.0) > self._loop.time():
                continue
            began = self._loop.time()
            claimed, deferred = await self._store.claim(destination, limit, size, now), len(self._deferred)
            if self._loop.time() - began > _FRESH_SECONDS:
                self._compare_before_sending()
            self.offer(claimed, fresh=False)
            # A claimed delivery can be larger than the room. Claiming it again at once would cost two transactions.
            if claimed and len(self._deferred) == deferred + len(claimed):
                self._crowded[destination] = self._loop.time() + _POLL_SECONDS
            else:
                self._crowded.pop(destination, None)
            if len(claimed) < limit:
                # This may drop a moment that was noted during the claim, so the store is asked for the next one.
                self._due.pop(destination, None)
                self._ask_store = True
            elif self.scheduler.room(destination, self._clock.steady())[0] > 0:
                self._wake.set()  # these deliveries wait for memory, and those of other tenants may be next

    def _note_due(self, destination: str, due_at: int) -> None:
        noted = self._due.get(destination)
        if noted is None or due_at < noted:
            self._due[destination] = due_at
            self._wake.set()

    def _seconds_to_wait(self) -> float:
        """Return the time until the next poll, the next known due moment, or an open circuit's next trial."""
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
                continue  # its lane is full or its trial runs, and the end of an attempt wakes the dispatcher
            soonest = min(soonest, self._clock.real_seconds(wait))
        return max(0.002, soonest)


def rate_limits(destinations: Mapping[str, documents.DestinationDocument]) -> dict[str, RateLimit]:
    """Return the rate limit for each destination that has its own, and for those that share one. The slowest counts."""
    limits: dict[str, RateLimit] = {}
    for destination in destinations.values():
        if destination.rate_requests:
            key = _rate_key(destination)
            shared_by = key if destination.rate_shared_by else ""
            limit = RateLimit(destination.rate_requests, destination.rate_seconds, shared_by)
            limits[key] = min(limits.get(key, limit), limit, key=lambda rate: rate.requests / rate.seconds)
    return limits


def _rate_key(destination: documents.DestinationDocument) -> str:
    """Return what identifies a destination's rate limit. No destination has the key of a shared one."""
    shared_by = destination.rate_shared_by
    return f"{destination.namespace}//{shared_by}" if shared_by else destination.key
