"""Chooses the next delivery to attempt, so that no destination and no tenant can starve another.

The scheduler keeps one lane per destination, in memory. It has no clock, no event loop and no I/O: ``now`` is an
argument, in microseconds of a clock that never goes back. Each operation takes constant time, except for the heap of
lanes that wait for a rate limit or for the trial of an open circuit.

- Destinations take turns.
- In a lane, fresh deliveries (just accepted) and deliveries from the backlog take turns, so that fresh visits get half
  of the slots after an outage. Among the fresh ones, and among the others, tenants take turns.
- All lanes together have a limit in bytes. A lane may hold as many bytes as it leaves free, and a part of the room is
  reserved for empty lanes.
"""

import collections
import heapq

import msgspec

from usher_gateway import model
from usher_gateway.delivery import circuit
from usher_gateway.delivery.outcome import Outcome
from usher_gateway.timing import TokenBucket

_READY_ROWS = 4
"""Deliveries per slot that a lane wants waiting, so that no slot is idle during the next claim from the store."""

_MAX_READY_ROWS = 500

_EMPTY_LANES_SHARE = 8
"""1/8 of the room is reserved for lanes that hold nothing yet."""

_LIGHT_TENANTS_SHARE = 8
"""1/8 of the attempts is reserved for light tenants: those that have less than 1/64 of all attempts running."""

_MAX_SKIPPED_LANES = 64
"""Lanes that one search skips at most. The next search continues after them."""


class LaneLimits(msgspec.Struct, frozen=True):
    """This replica's share of a destination's limits."""

    concurrency: int = 8
    requests_per_second: float = 0.0
    """0 means no limit. As many requests as come in one second may go at once."""


class LaneEntry(msgspec.Struct, frozen=True, gc=False):
    """A delivery in a lane, with what the scheduler needs to know of it."""

    delivery: model.Delivery
    destination: str
    """``namespace/name``."""
    tenant: str
    fresh: bool
    """True if it was just accepted, False if it came from the store's backlog."""
    size: int
    """Bytes that it uses in memory."""


class NextDelivery(msgspec.Struct, frozen=True, gc=False):
    """The delivery to attempt now, or the time to ask again (0: after another call has changed something)."""

    entry: LaneEntry | None
    ask_again_at: int = 0


class LaneRoom(msgspec.Struct, frozen=True):
    """How many deliveries to claim from the store for one destination."""

    rows: int
    bytes: int
    """This many bytes have room for any mix of tenants, unless other deliveries are offered in between."""


class _TenantQueues:
    """One queue per tenant. The tenants take turns."""

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
        self.backlog = _TenantQueues()
        self.in_flight = 0
        self.bytes = 0
        self.is_in_round = False
        """True while the lane is in the round of lanes that may start an attempt."""
        self.wakes_at = 0
        """When it returns to the round, or 0 if it does not wait for a moment."""
        self._fresh_next = True
        self._bucket: TokenBucket | None = None

    @property
    def count(self) -> int:
        return self.fresh.count + self.backlog.count

    def pop(self) -> LaneEntry:
        """Take the next entry. Fresh ones and those of the backlog take turns."""
        turns = self._next_turns
        self._fresh_next = turns is not self.fresh
        return turns.pop()

    @property
    def next_tenant(self) -> str:
        """Whose entry is next; ``""`` if there is none."""
        return self._next_turns.next_tenant

    @property
    def _next_turns(self) -> _TenantQueues:
        is_fresh = self.fresh.count > 0 and (self._fresh_next or self.backlog.count == 0)
        return self.fresh if is_fresh else self.backlog

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
    """The lanes of all destinations."""

    def __init__(self, max_bytes: int, max_in_flight: int) -> None:
        self._max_bytes = max_bytes
        self._shared_bytes = max_bytes - max_bytes // _EMPTY_LANES_SHARE
        self._max_in_flight = max_in_flight
        self._shared_in_flight = max_in_flight - max_in_flight // _LIGHT_TENANTS_SHARE
        self._light_limit = max(1, max_in_flight // _LIGHT_TENANTS_SHARE // _LIGHT_TENANTS_SHARE)
        self._running: collections.Counter[str] = collections.Counter()
        """Tenant -> running attempts."""
        self._lanes: dict[str, _Lane] = {}
        self._round: collections.deque[_Lane] = collections.deque()
        self._sleeping: list[tuple[int, str]] = []
        self._attempts: dict[int, LaneEntry] = {}
        self._bytes = 0
        self._count = 0

    @property
    def bytes(self) -> int:
        """Bytes in lanes and running attempts."""
        return self._bytes

    @property
    def count(self) -> int:
        """Deliveries that wait in lanes."""
        return self._count

    @property
    def in_flight(self) -> int:
        """Running attempts."""
        return len(self._attempts)

    def running(self, destination: str) -> list[int]:
        """Return the keys of the deliveries in running attempts to a destination."""
        return [key for key, entry in self._attempts.items() if entry.destination == destination]

    def configure(self, destination: str, limits: LaneLimits) -> None:
        """Set a destination's limits, at the start and when its document or the number of replicas changes."""
        lane = self._lane(destination)
        lane.configure(limits)
        self._join_round(lane)

    def circuit_of(self, destination: str) -> circuit.Circuit:
        """Return the state of a destination's circuit."""
        lane = self._lanes.get(destination)
        return lane.circuit if lane else circuit.CLOSED

    def room(self, destination: str, now: int) -> LaneRoom:
        """Return how much to claim from the store for a destination now.

        An open circuit has no room, except for one delivery when its trial is due.
        """
        lane = self._lane(destination)
        shared, kept = self._shared_bytes - self._bytes, self._max_bytes - self._shared_bytes
        rows, free = _MAX_READY_ROWS, max(0, (shared - 2 * lane.bytes) // 3)
        if lane.bytes == 0 and shared < kept:
            rows, free = 1, self._max_bytes - self._bytes  # of the reserved room, each empty lane gets one delivery
        if lane.circuit.state is circuit.CircuitState.Open:
            due = lane.count == 0 and lane.in_flight == 0 and now >= lane.circuit.trial_at
            return LaneRoom(int(due), free)
        slots = min(lane.limits.concurrency, lane.circuit.limit)
        ready = min(slots * _READY_ROWS, _MAX_READY_ROWS) - lane.backlog.count
        return LaneRoom(max(0, min(ready, rows)), free)

    def offer(self, entry: LaneEntry, now: int) -> bool:
        """Put a delivery into its lane. Returns False if it has to wait in the store: no room, or an open circuit."""
        lane = self._lane(entry.destination)
        turns = lane.fresh if entry.fresh else lane.backlog
        if not self._has_room(lane, turns, entry):
            return False
        if lane.circuit.state is circuit.CircuitState.Open and (lane.count > 0 or now < lane.circuit.trial_at):
            return False
        turns.push(entry)
        lane.bytes += entry.size
        self._bytes += entry.size
        self._count += 1
        self._join_round(lane)
        return True

    def next_ready(self, now: int) -> NextDelivery:
        """Return the next delivery that may start. It takes a slot until ``done`` is called for it."""
        self._wake(now)
        skipped, max_skipped = 0, min(len(self._round), _MAX_SKIPPED_LANES)
        while self._round and len(self._attempts) < self._max_in_flight and skipped < max(1, max_skipped):
            lane = self._round.popleft()
            if len(self._attempts) >= self._shared_in_flight and self._running[lane.next_tenant] >= self._light_limit:
                self._round.append(lane)
                skipped += 1
                continue
            lane.is_in_round = False
            entry = self._start(lane, now)
            if entry is not None:
                return NextDelivery(entry)
        return NextDelivery(None, self._sleeping[0][0] if self._sleeping else 0)

    def done(self, key: int, result: Outcome | None, now: int) -> bool:
        """Free the slot of an attempt. ``result`` is None if no request was sent (expired, held).

        Returns True if the result opened the circuit. The caller then drains the lane, because deliveries wait in the
        store while their destination fails.
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
        self._join_round(lane)
        return lane.circuit.state is circuit.CircuitState.Open and not was_open

    def reset(self, destination: str) -> None:
        """Close a destination's circuit, so that it is tried at once after its document has changed."""
        lane = self._lane(destination)
        lane.circuit = circuit.CLOSED
        self._join_round(lane)

    def drain(self, destination: str) -> list[LaneEntry]:
        """Remove and return every delivery that waits for a destination. Running attempts continue."""
        lane = self._lane(destination)
        entries = [lane.pop() for _ in range(lane.count)]
        for entry in entries:
            lane.bytes -= entry.size
            self._bytes -= entry.size
        self._count -= len(entries)
        return entries

    def _lane(self, destination: str) -> _Lane:
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = _Lane(destination)
        return lane

    def _has_room(self, lane: _Lane, turns: _TenantQueues, entry: LaneEntry) -> bool:
        """Return whether lane and tenant would leave as much room as they take. An empty lane may take all of it."""
        if lane.bytes == 0:
            return entry.size <= self._max_bytes - self._bytes
        left = self._shared_bytes - self._bytes - lane.bytes
        return entry.size <= left and turns.bytes_of(entry.tenant) + entry.size <= left

    def _join_round(self, lane: _Lane) -> None:
        if not lane.is_in_round and lane.count > 0 and lane.in_flight < lane.limits.concurrency:
            lane.is_in_round = True
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
        self._join_round(lane)
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
                self._join_round(lane)
