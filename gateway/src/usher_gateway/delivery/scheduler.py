"""The lanes: which delivery is attempted next, so that no destination and no tenant can starve another.

Pure and in memory: no clock (``now`` is an argument, microseconds of a clock that only grows), no loop, no I/O. Every
operation is O(1) but for the heap of destinations that wait for a moment (rate limit, trial of a circuit).

Inside a destination, fresh deliveries (just accepted) and those that waited in the store take turns, so that after an
outage fresh visits get half of the slots; inside each of the two, tenants take turns. Room is bounded in bytes over all
destinations: one destination may take as much as it leaves free, and a part is kept for those that hold nothing yet.
"""

import collections
import heapq

import msgspec

from usher_gateway import model
from usher_gateway.delivery import circuit
from usher_gateway.delivery.outcome import Outcome
from usher_gateway.token_bucket import TokenBucket

_READY_ROWS = 4
"""How many deliveries per slot a lane wants waiting, so that no slot is idle while the store is asked for more."""

_MOST_READY_ROWS = 500

_KEPT_FOR_EMPTY_LANES = 8
"""One part in so many of the room is only for lanes that hold nothing yet, however many others are full."""

_KEPT_FOR_IDLE_TENANTS = 8
"""One attempt in so many is only for tenants with few of them, however many slow destinations others have."""

_MOST_PASSED_OVER = 64
"""LaneScheduler that are passed over in one search: the next search goes on behind them."""


class LaneLimits(msgspec.Struct, frozen=True):
    """This replica's part of a destination's limits."""

    concurrency: int = 8
    requests_per_second: float = 0.0
    """0 means no limit; up to a second's worth may go at once."""


class LaneEntry(msgspec.Struct, frozen=True, gc=False):
    """A delivery in a lane, with what must be known of it here."""

    delivery: model.Delivery
    destination: str
    """``namespace/name``."""
    tenant: str
    fresh: bool
    """Accepted just now; False for one that came from the store's backlog."""
    size: int
    """Bytes that it holds in memory."""


class NextDelivery(msgspec.Struct, frozen=True, gc=False):
    """The answer to "what now?": an entry to attempt, or when to ask again (0: only after another call)."""

    entry: LaneEntry | None
    ask_again_at: int = 0


class LaneRoom(msgspec.Struct, frozen=True):
    """How much to claim from the store for one destination."""

    rows: int
    bytes: int
    """That many find room whatever tenants they are of, unless other deliveries are offered in between."""


class _TenantQueues:
    """Queues per tenant that take turns."""

    def __init__(self) -> None:
        self._queues: collections.OrderedDict[str, collections.deque[LaneEntry]] = collections.OrderedDict()
        self._bytes: dict[str, int] = {}
        self.count = 0

    def bytes_of(self, tenant: str) -> int:
        return self._bytes.get(tenant, 0)

    def push(self, entry: LaneEntry) -> None:
        queue = self._queues.get(entry.tenant)
        if queue is None:
            queue = self._queues[entry.tenant] = collections.deque()
        queue.append(entry)
        self._bytes[entry.tenant] = self._bytes.get(entry.tenant, 0) + entry.size
        self.count += 1

    @property
    def next_tenant(self) -> str:
        return next(iter(self._queues), "")

    def pop(self) -> LaneEntry:
        tenant, queue = next(iter(self._queues.items()))
        entry = queue.popleft()
        self.count -= 1
        if queue:
            self._bytes[tenant] -= entry.size
            self._queues.move_to_end(tenant)
        else:
            del self._queues[tenant], self._bytes[tenant]
        return entry


class _Lane:
    """One destination's deliveries, slots, tokens and circuit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.limits = LaneLimits()
        self.circuit = circuit.CLOSED
        self.fresh = _TenantQueues()
        self.waited = _TenantQueues()
        self.in_flight = 0
        self.bytes = 0
        self.queued_up = False
        """Whether it stands in the round of lanes that may start something."""
        self.wakes_at = 0
        """Its moment in the heap; 0 if it has none."""
        self._fresh_next = True
        self._bucket: TokenBucket | None = None

    @property
    def count(self) -> int:
        return self.fresh.count + self.waited.count

    def pop(self) -> LaneEntry:
        """The next entry: fresh ones and those that waited take turns."""
        turns = self._next_turns
        self._fresh_next = turns is not self.fresh
        return turns.pop()

    @property
    def next_tenant(self) -> str:
        """Whose entry is next; ``""`` if there is none."""
        return self._next_turns.next_tenant

    @property
    def _next_turns(self) -> _TenantQueues:
        is_fresh = self.fresh.count > 0 and (self._fresh_next or self.waited.count == 0)
        return self.fresh if is_fresh else self.waited

    def has_slot(self, now: int) -> bool:
        return self.in_flight < self.limits.concurrency and circuit.may_start(self.circuit, self.in_flight, now)

    def configure(self, limits: LaneLimits) -> None:
        """Use new limits. If the rate changes, its token bucket starts full."""
        if limits.requests_per_second != self.limits.requests_per_second:
            self._bucket = None
        self.limits = limits

    def take_token(self, now: int) -> bool:
        """Take a token for one request. Returns False if there is none."""
        rate = self.limits.requests_per_second
        if rate <= 0:
            return True
        if self._bucket is None:
            self._bucket = TokenBucket(rate, burst=rate, now=now / model.MICROSECONDS)
        return self._bucket.take(now / model.MICROSECONDS)

    def token_at(self, now: int) -> int:
        """Return when the next token is there. Call it right after ``take_token`` returned False."""
        assert self._bucket is not None
        return now + 1 + int(self._bucket.seconds_until_token() * model.MICROSECONDS)


class LaneScheduler:
    """All lanes of a gateway."""

    def __init__(self, max_bytes: int, max_in_flight: int) -> None:
        self._max_bytes = max_bytes
        self._shared_bytes = max_bytes - max_bytes // _KEPT_FOR_EMPTY_LANES
        self._max_in_flight = max_in_flight
        self._shared_in_flight = max_in_flight - max_in_flight // _KEPT_FOR_IDLE_TENANTS
        self._few = max(1, max_in_flight // _KEPT_FOR_IDLE_TENANTS // _KEPT_FOR_IDLE_TENANTS)
        self._running: collections.Counter[str] = collections.Counter()
        """Tenant -> attempts that run."""
        self._lanes: dict[str, _Lane] = {}
        self._round: collections.deque[_Lane] = collections.deque()
        self._sleeping: list[tuple[int, str]] = []
        self._attempts: dict[int, LaneEntry] = {}
        self._bytes = 0
        self._count = 0

    @property
    def bytes(self) -> int:
        """Bytes held, attempts in flight included."""
        return self._bytes

    @property
    def count(self) -> int:
        """Deliveries that wait in lanes."""
        return self._count

    @property
    def in_flight(self) -> int:
        """Attempts that run."""
        return len(self._attempts)

    def running(self, destination: str) -> list[int]:
        """Deliveries (row keys) in attempts to a destination."""
        return [key for key, entry in self._attempts.items() if entry.destination == destination]

    def configure(self, destination: str, limits: LaneLimits) -> None:
        """Set a destination's limits: at the start, and whenever its document or the number of replicas changes."""
        lane = self._lane(destination)
        lane.configure(limits)
        self._line_up(lane)

    def circuit_of(self, destination: str) -> circuit.Circuit:
        """How a destination's circuit stands."""
        lane = self._lanes.get(destination)
        return lane.circuit if lane else circuit.CLOSED

    def room(self, destination: str, now: int) -> LaneRoom:
        """How much to claim from the store for a destination now; nothing while its circuit is open.

        An open circuit whose trial is due has room for the one delivery that is tried.
        """
        lane = self._lane(destination)
        shared, kept = self._shared_bytes - self._bytes, self._max_bytes - self._shared_bytes
        rows, free = _MOST_READY_ROWS, max(0, (shared - 2 * lane.bytes) // 3)
        if lane.bytes == 0 and shared < kept:
            rows, free = 1, self._max_bytes - self._bytes  # what is kept for empty lanes is for one each
        if lane.circuit.state is circuit.CircuitState.Open:
            due = lane.count == 0 and lane.in_flight == 0 and now >= lane.circuit.trial_at
            return LaneRoom(int(due), free)
        slots = min(lane.limits.concurrency, lane.circuit.limit)
        ready = min(slots * _READY_ROWS, _MOST_READY_ROWS) - lane.waited.count
        return LaneRoom(max(0, min(ready, rows)), free)

    def offer(self, entry: LaneEntry, now: int) -> bool:
        """Put a delivery into its lane; False if it has to wait in the store: no room, or an open circuit."""
        lane = self._lane(entry.destination)
        turns = lane.fresh if entry.fresh else lane.waited
        if not self._has_room(lane, turns, entry):
            return False
        if lane.circuit.state is circuit.CircuitState.Open and (lane.count > 0 or now < lane.circuit.trial_at):
            return False
        turns.push(entry)
        lane.bytes += entry.size
        self._bytes += entry.size
        self._count += 1
        self._line_up(lane)
        return True

    def next_ready(self, now: int) -> NextDelivery:
        """The next delivery to attempt, if any may start; its slot is taken until ``done`` or ``put_back``."""
        self._wake(now)
        passed_over, most = 0, min(len(self._round), _MOST_PASSED_OVER)
        while self._round and len(self._attempts) < self._max_in_flight and passed_over < max(1, most):
            lane = self._round.popleft()
            if len(self._attempts) >= self._shared_in_flight and self._running[lane.next_tenant] >= self._few:
                self._round.append(lane)
                passed_over += 1
                continue
            lane.queued_up = False
            entry = self._start(lane, now)
            if entry is not None:
                return NextDelivery(entry)
        return NextDelivery(None, self._sleeping[0][0] if self._sleeping else 0)

    def done(self, key: int, result: Outcome | None, now: int) -> bool:
        """An attempt has ended; None for one that was never sent (expired, held). True if it opened the circuit.

        Whoever is told True drains the destination: what waits for a dead system waits in the store.
        """
        entry = self._attempts.pop(key)
        self._running[entry.tenant] -= 1
        if not self._running[entry.tenant]:
            del self._running[entry.tenant]
        lane = self._lanes[entry.destination]
        lane.in_flight -= 1
        lane.bytes -= entry.size
        self._bytes -= entry.size
        was_open = lane.circuit.state is circuit.CircuitState.Open
        if result is not None and result.blames_destination:
            lane.circuit = circuit.failed(lane.circuit, now)
        elif result is not None:
            lane.circuit = circuit.succeeded(lane.circuit, lane.limits.concurrency)
        self._line_up(lane)
        return lane.circuit.state is circuit.CircuitState.Open and not was_open

    def reset(self, destination: str) -> None:
        """Close a destination's circuit: its document has changed, so it is tried at once."""
        lane = self._lane(destination)
        lane.circuit = circuit.CLOSED
        self._line_up(lane)

    def drain(self, destination: str) -> list[LaneEntry]:
        """Take out everything that waits for a destination, for the store; attempts that run are not touched."""
        lane = self._lane(destination)
        entries = [lane.pop() for _ in range(lane.count)]
        for entry in entries:
            lane.bytes -= entry.size
            self._bytes -= entry.size
        self._count -= len(entries)
        return entries

    def forget(self, destination: str) -> list[LaneEntry]:
        """Drain a destination that is gone, and forget it unless attempts still run."""
        entries = self.drain(destination)
        if self._lanes[destination].in_flight == 0:
            del self._lanes[destination]
        return entries

    def _lane(self, destination: str) -> _Lane:
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = _Lane(destination)
        return lane

    def _has_room(self, lane: _Lane, turns: _TenantQueues, entry: LaneEntry) -> bool:
        """Whether lane and tenant stay below what is left free for others; an empty lane takes what fits at all."""
        if lane.bytes == 0:
            return entry.size <= self._max_bytes - self._bytes
        left = self._shared_bytes - self._bytes - lane.bytes
        return entry.size <= left and turns.bytes_of(entry.tenant) + entry.size <= left

    def _line_up(self, lane: _Lane) -> None:
        if not lane.queued_up and lane.count > 0 and lane.in_flight < lane.limits.concurrency:
            lane.queued_up = True
            self._round.append(lane)

    def _start(self, lane: _Lane, now: int) -> LaneEntry | None:
        if lane.count == 0 or self._lanes.get(lane.name) is not lane:
            return None
        if not lane.has_slot(now):
            if lane.circuit.state is circuit.CircuitState.Open and lane.in_flight == 0:
                self._sleep(lane, lane.circuit.trial_at)
            return None
        if not lane.take_token(now):
            self._sleep(lane, lane.token_at(now))
            return None
        entry = lane.pop()
        lane.in_flight += 1
        self._count -= 1
        self._attempts[entry.delivery.key] = entry
        self._running[entry.tenant] += 1
        self._line_up(lane)
        return entry

    def _sleep(self, lane: _Lane, until: int) -> None:
        if lane.wakes_at == 0 or until < lane.wakes_at:
            lane.wakes_at = until
            heapq.heappush(self._sleeping, (until, lane.name))

    def _wake(self, now: int) -> None:
        while self._sleeping and self._sleeping[0][0] <= now:
            moment, name = heapq.heappop(self._sleeping)
            lane = self._lanes.get(name)
            if lane is not None and lane.wakes_at == moment:
                lane.wakes_at = 0
                self._line_up(lane)
