"""Chooses the next delivery to attempt, so that no destination and no tenant can starve another.

The scheduler keeps one lane per destination, in memory. It has no clock, no event loop and no I/O: ``now`` is an
argument, in microseconds by a clock that never goes back. Each operation takes constant time, except for the heap with
lanes that wait for a rate limit or for an open circuit's trial.

- Namespaces take turns, and so do a namespace's destinations.
- The slots for running attempts are in two pools, each shared fairly (``fair_pool.py``). Every attempt may take a slot
  in the shared pool. Only destinations that answer fast may take one in the reserve, so that slow destinations, however
  many, do not delay the others. A destination that has not answered yet may take one slot in the reserve's first half.
- A destination is slow while its attempts take longer than a second. Fast destinations do not wait behind slow ones.
- In a lane, fresh deliveries (just accepted) and deliveries from the backlog take turns, so that fresh visits get half
  half the slots after an outage. Among the fresh ones, and among the others, tenants take turns.
- All lanes together have a limit in bytes. A lane may hold as many bytes as it leaves free, and some room is
  reserved for empty lanes.
- A tenant whose running requests take too much memory starts no more attempts (``request_memory.py``).
"""

import collections
import enum
import heapq
from collections.abc import Collection, Iterator

import msgspec

from usher_gateway import model
from usher_gateway.delivery import circuit
from usher_gateway.delivery.outcome import Outcome
from usher_gateway.delivery.request_memory import RequestMemory
from usher_gateway.fair_pool import FairPool
from usher_gateway.timing import TokenBucket

# Deliveries per slot that a lane wants waiting, so that no slot is idle during the next claim from the store.
_READY_ROWS = 4

_MAX_READY_ROWS = 500

_EMPTY_LANES_SHARE = 8  # 1/8 of the room is reserved for lanes that hold nothing yet
_RESERVE_SHARE = 4  # 1/4 of the slots is reserved for fast destinations

# A destination is slow if its attempts take longer than this on average, or if one has already run for longer.
_SLOW_ATTEMPT = model.MICROSECONDS

# The newest attempt counts for 1/4 of the average, so that one slow attempt weighs more than one fast one.
_NEWEST_ATTEMPT_SHARE = 4

_BURST_SHARE = 10  # 1/10 of a rate limit's requests may start at once
_MAX_SKIPPED_LANES = 64  # Lanes that one search skips at most. The next search continues after them.


class RateLimit(msgspec.Struct, frozen=True):
    """At most ``requests`` start in any ``seconds``, a tenth of them at once."""

    requests: int
    seconds: int = 1
    shared_by: str = ""
    """Destinations with the same text use one limit together; ``""``: the destination has its own."""


class LaneLimits(msgspec.Struct, frozen=True):
    """This gateway's share of a destination's limits."""

    concurrency: int = 8
    """0: other gateways send what this one accepts, so it takes nothing into its lane."""
    rate: RateLimit | None = None


class LaneEntry(msgspec.Struct, frozen=True, gc=False):
    """A delivery in a lane, with what the scheduler needs to know about it."""

    delivery: model.Delivery
    destination: str
    """``namespace/name``."""
    tenant: str
    fresh: bool
    """True if it was just accepted, False if it came from the store's backlog."""
    size: int
    """Bytes that it uses in memory."""


class LaneQueue(msgspec.Struct, frozen=True):
    """A tenant's deliveries that wait in one destination's lane, at least one."""

    tenant: str
    destination: str
    count: int
    oldest_at: int
    """When the first one was created, in microseconds."""
    oldest_fresh_at: int
    """The same for those that were just accepted; 0: there is none."""


class LanePace(enum.IntEnum):
    """How long a destination's attempts take."""

    Fast = 0
    Unknown = 1
    """No attempt has ended yet."""
    Slow = 2


_PACES = tuple(LanePace) * 2  # So that a slice from any pace on has all paces


class _TenantQueues:
    """One queue per tenant. The tenants take turns."""

    def __init__(self) -> None:
        self._queues: collections.OrderedDict[str, collections.deque[LaneEntry]] = collections.OrderedDict()
        self._bytes: dict[str, int] = {}
        self.count = 0

    def bytes_of(self, tenant: str) -> int:
        return self._bytes.get(tenant, 0)

    @property
    def tenants(self) -> Collection[str]:
        return self._queues

    def count_of(self, tenant: str) -> int:
        return len(self._queues.get(tenant, ()))

    def oldest_at(self, tenant: str) -> int:
        """Return when a tenant's first entry was created; 0: it has none."""
        queue = self._queues.get(tenant)
        return queue[0].delivery.created_at if queue else 0

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

    def skip_tenant(self) -> None:
        """Pass the turn to the next tenant."""
        self._queues.move_to_end(self.next_tenant)

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
    """One destination's deliveries, slots and circuit."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.namespace = name.partition("/")[0]
        self.limits = LaneLimits()
        self.circuit = circuit.CLOSED
        self._successes: list[tuple[str, int]] = []  # The last one of each of the two tenants that had the last ones
        self.fresh = _TenantQueues()
        self.backlog = _TenantQueues()
        self.started_at: dict[int, int] = {}
        """Delivery key for each running attempt, the oldest first -> when it started."""
        self.bytes = 0
        self.round: _LaneRound | None = None  # The round of lanes that may start an attempt, while the lane is in one
        self.wakes_at = 0  # When it returns to the round, or 0 if it does not wait for a moment
        self.is_called = False  # True if it was its turn to take a token of its rate limit, and it has not tried since
        self._fresh_next = True
        self._attempt_microseconds: float | None = None
        """Moving average of how long an attempt takes, or None before the first result."""

    @property
    def in_flight(self) -> int:
        return len(self.started_at)

    def pace(self, now: int) -> LanePace:
        """Return how long attempts take, on average or now."""
        if self.started_at and now - next(iter(self.started_at.values())) > _SLOW_ATTEMPT:
            return LanePace.Slow
        if self._attempt_microseconds is None:
            return LanePace.Unknown
        return LanePace.Slow if self._attempt_microseconds > _SLOW_ATTEMPT else LanePace.Fast

    def note_result(self, microseconds: int) -> None:
        """Record how long an attempt took."""
        average = microseconds if self._attempt_microseconds is None else self._attempt_microseconds
        self._attempt_microseconds = average + (microseconds - average) / _NEWEST_ATTEMPT_SHARE

    def note_success(self, tenant: str, now: int) -> None:
        """Note that an attempt for a tenant succeeded."""
        others = [success for success in self._successes if success[0] != tenant]
        self._successes = [*others[-1:], (tenant, now)]

    def takes_others(self, tenant: str, now: int) -> bool:
        """Return whether an attempt for another tenant succeeded lately."""
        return any(other != tenant and now - at < circuit.TRIAL_EVERY for other, at in self._successes)

    def reset(self) -> None:
        """Forget what earlier attempts showed, because the destination's document has changed."""
        self.circuit = circuit.CLOSED
        self._attempt_microseconds = None

    @property
    def rate_name(self) -> str:
        """Which rate limit it uses; ``""``: none."""
        rate = self.limits.rate
        return "" if rate is None else rate.shared_by or self.name

    @property
    def count(self) -> int:
        return self.fresh.count + self.backlog.count

    def pop(self) -> LaneEntry:
        """Take the next entry. Fresh entries and backlog entries take turns."""
        turns = self._next_turns
        self._fresh_next = turns is not self.fresh
        return turns.pop()

    @property
    def next_tenant(self) -> str:
        """The tenant whose entry is next; ``""`` if there is none."""
        return self._next_turns.next_tenant

    def skip_tenant(self) -> None:
        """Pass the turn to the next tenant, because the one whose turn it is may start no attempt now."""
        if self.count > 0:
            turns = self._next_turns
            self._fresh_next = turns is not self.fresh
            turns.skip_tenant()

    def turn_to_admitted(self, memory: RequestMemory) -> bool:
        """Pass the turn to the next tenant that has memory for a request; return False if no tenant has."""
        if not memory.expected:
            return True
        for _ in range(2 * max(len(self.fresh.tenants), len(self.backlog.tenants))):
            if memory.admits(self.namespace, self.next_tenant):
                return True
            self.skip_tenant()
        return False

    @property
    def _next_turns(self) -> _TenantQueues:
        is_fresh = self.fresh.count > 0 and (self._fresh_next or self.backlog.count == 0)
        return self.fresh if is_fresh else self.backlog

    def has_slot(self, now: int) -> bool:
        return self.in_flight < self.limits.concurrency and circuit.may_start(self.circuit, self.in_flight, now)


def _bucket_of(rate: RateLimit, now: int, tokens: float | None = None) -> TokenBucket:
    """Return a rate limit's tokens: full, or with ``tokens``.

    In a period of ``rate.seconds``, the burst and what it earns are less than one request over the limit.
    """
    burst = max(1, rate.requests // _BURST_SHARE)
    earned = rate.requests - burst + 1
    return TokenBucket(earned / rate.seconds, burst, now / model.MICROSECONDS, tokens)


class _Rate:
    """A rate limit that is in force, and the lanes that wait for its tokens in turn.

    Each lane has one place in the line, so that a token wakes one lane, however many share the limit.
    """

    def __init__(self, limit: RateLimit, bucket: TokenBucket) -> None:
        self.limit, self.bucket = limit, bucket
        self.lanes: set[str] = set()  # All that use it
        self.waiting: collections.OrderedDict[str, None] = collections.OrderedDict()
        self.calls_at = 0  # When the next lanes are called, while lanes wait


class _LaneRound:
    """Lanes that wait for a slot. Namespaces take turns, and so do a namespace's lanes."""

    def __init__(self) -> None:
        self._namespaces: collections.OrderedDict[str, collections.OrderedDict[str, _Lane]] = collections.OrderedDict()
        self.count = 0

    def add(self, lane: "_Lane") -> None:
        """Add a lane at the end of its namespace's line. It must not be in the round."""
        lanes = self._namespaces.get(lane.namespace)
        if lanes is None:
            lanes = self._namespaces[lane.namespace] = collections.OrderedDict()
        lanes[lane.name] = lane
        self.count += 1

    def pop(self) -> "_Lane":
        """Remove and return the lane whose turn it is. The round must not be empty."""
        namespace, lanes = next(iter(self._namespaces.items()))
        _, lane = lanes.popitem(last=False)
        self.count -= 1
        if lanes:
            self._namespaces.move_to_end(namespace)
        else:
            del self._namespaces[namespace]
        return lane

    def remove(self, lane: "_Lane") -> None:
        """Remove a lane that is in the round."""
        lanes = self._namespaces[lane.namespace]
        del lanes[lane.name]
        self.count -= 1
        if not lanes:
            del self._namespaces[lane.namespace]


class LaneScheduler:
    """The lanes for all destinations."""

    def __init__(self, max_bytes: int, max_in_flight: int) -> None:
        self.request_memory = RequestMemory(max_bytes)
        self._max_bytes = max_bytes
        self._shared_bytes = max_bytes - max_bytes // _EMPTY_LANES_SHARE
        self._reserve = FairPool(max_in_flight // _RESERVE_SHARE)
        self._shared = FairPool(max_in_flight - max_in_flight // _RESERVE_SHARE)
        self._lanes: dict[str, _Lane] = {}
        self._rounds = [_LaneRound() for _ in LanePace]
        """One per pace, so that a fast lane does not wait behind the slow ones."""
        self._next_pace = 0
        self._without_memory: dict[str, _Lane] = {}
        """Lanes that left their round, because all their tenants' requests take too much memory."""
        self._rates: dict[str, _Rate] = {}  # By destination, or `RateLimit.shared_by`
        self._sleeping: list[tuple[int, str, bool]] = []
        """When to wake which lane, or if True, the first lane that waits for which rate limit."""
        self._attempts: dict[int, tuple[LaneEntry, FairPool]] = {}
        """Delivery key for each running attempt -> its entry, and its slot's pool."""
        self.bytes = 0  # Bytes in lanes and running attempts
        self.count = 0  # Deliveries that wait in lanes

    @property
    def in_flight(self) -> int:
        """Running attempts."""
        return len(self._attempts)

    def queues(self) -> Iterator[LaneQueue]:
        """Yield what waits in the lanes, by tenant and destination."""
        for lane in self._lanes.values():
            fresh, backlog = lane.fresh, lane.backlog
            for tenant in dict.fromkeys([*fresh.tenants, *backlog.tenants]):
                times = [queue.oldest_at(tenant) for queue in (fresh, backlog) if queue.count_of(tenant)]
                count = fresh.count_of(tenant) + backlog.count_of(tenant)
                yield LaneQueue(tenant, lane.name, count, min(times), fresh.oldest_at(tenant))

    def running(self, destination: str) -> list[int]:
        """Return the keys of the deliveries in running attempts to a destination."""
        lane = self._lanes.get(destination)
        return list(lane.started_at) if lane else []

    def configure(self, destination: str, limits: LaneLimits, now: int) -> None:
        """Set a destination's limits, at the start and when its document changes. A rate that is new starts full."""
        self._set_limits(destination, limits, now, starts_full=True)

    def share(self, destination: str, limits: LaneLimits, now: int) -> None:
        """Change this gateway's share of a destination's limits.

        A rate gets no tokens by that, so that all gateways together get none.
        """
        self._set_limits(destination, limits, now, starts_full=False)

    def keep_lanes(self, destinations: Collection[str]) -> None:
        """Remove the lanes of all other destinations, except those with deliveries."""
        for name in self._lanes.keys() - destinations:
            lane = self._lanes[name]
            if lane.count == 0 and not lane.started_at:
                if lane.round is not None:
                    lane.round.remove(lane)
                self._without_memory.pop(name, None)
                self._leave_rate(lane)
                del self._lanes[name]

    def _set_limits(self, destination: str, limits: LaneLimits, now: int, *, starts_full: bool) -> None:
        lane = self._lane(destination)
        if limits.rate is None or lane.limits.rate is None or limits.rate.shared_by != lane.limits.rate.shared_by:
            self._leave_rate(lane)
        lane.limits = limits
        if limits.rate is not None:
            self._use_rate(lane, limits.rate, now, starts_full=starts_full)
        self._join_round(lane, now)

    def _leave_rate(self, lane: _Lane) -> None:
        """Take a lane out of its rate limit, which ends with its last lane."""
        rate = self._rates.get(lane.rate_name)
        if rate is not None:
            rate.lanes.remove(lane.name)
            rate.waiting.pop(lane.name, None)
            lane.is_called = False
            if not rate.lanes:
                del self._rates[lane.rate_name]

    def _use_rate(self, lane: _Lane, limit: RateLimit, now: int, *, starts_full: bool) -> None:
        """Put a lane's rate limit into force, if it is new or changed. Lanes keep their places in the line."""
        rate = self._rates.get(lane.rate_name)
        if rate is None or rate.limit != limit:
            tokens = 0.0 if rate is None else rate.bucket.tokens(now / model.MICROSECONDS)
            bucket = _bucket_of(limit, now, None if starts_full else tokens)
            if rate is None:
                self._rates[lane.rate_name] = _Rate(limit, bucket)
            else:
                rate.limit, rate.bucket = limit, bucket
            self._call_waiting(lane.rate_name, now)
        self._rates[lane.rate_name].lanes.add(lane.name)

    def circuit_of(self, destination: str) -> circuit.Circuit:
        """Return the state of a destination's circuit."""
        lane = self._lanes.get(destination)
        return lane.circuit if lane else circuit.CLOSED

    def room(self, destination: str, now: int) -> tuple[int, int]:
        """Return how many deliveries, and how many bytes of them, to claim from the store for a destination now.

        The bytes have room for any mix of tenants, unless other deliveries are offered in between. An open circuit has
        no room, except for one delivery when its trial is due.
        """
        lane = self._lane(destination)
        shared, reserved = self._shared_bytes - self.bytes, self._max_bytes - self._shared_bytes
        rows, free = _MAX_READY_ROWS, max(0, (shared - 2 * lane.bytes) // 3)
        if lane.bytes == 0 and shared < reserved:
            rows, free = 1, self._max_bytes - self.bytes  # of the reserved room, each empty lane gets one delivery
        if lane.circuit.state is circuit.CircuitState.Open:
            due = lane.count == 0 and lane.in_flight == 0 and now >= lane.circuit.trial_at
            return int(due and lane.limits.concurrency > 0), free
        slots = min(lane.limits.concurrency, lane.circuit.limit)
        # Deliveries without memory for their requests must not keep other tenants' deliveries in the store.
        waiting = sum(
            lane.backlog.count_of(tenant)
            for tenant in lane.backlog.tenants
            if self.request_memory.admits(lane.namespace, tenant)
        )
        ready = min(slots * _READY_ROWS, _MAX_READY_ROWS) - waiting
        return max(0, min(ready, rows)), free

    def offer(self, entry: LaneEntry, now: int) -> bool:
        """Put a delivery into its lane.

        Returns False if it has to wait in the store: no room, an open circuit, or no share of the limits.
        """
        lane = self._lane(entry.destination)
        if lane.limits.concurrency == 0:
            return False
        turns = lane.fresh if entry.fresh else lane.backlog
        if not self._has_room(lane, turns, entry):
            return False
        is_open = lane.circuit.state is circuit.CircuitState.Open
        if is_open and (lane.count > 0 or now < lane.circuit.trial_at):
            return False
        turns.push(entry)
        lane.bytes += entry.size
        self.bytes += entry.size
        self.count += 1
        self._join_round(lane, now)
        return True

    def next_ready(self, now: int) -> LaneEntry | None:
        """Return the next delivery that may start. It takes a slot until ``done`` is called for it."""
        self._wake(now)
        if self._without_memory and self.request_memory.take_freed():
            for lane in self._without_memory.values():
                self._join_round(lane, now)
            self._without_memory.clear()
        for turn in range(len(LanePace)):
            pace = _PACES[self._next_pace + turn]
            if self._rounds[pace].count:
                entry = self._search(pace, now)
                if entry is not None:
                    self._next_pace = (pace + 1) % len(LanePace)
                    return entry
        return None

    @property
    def wakes_at(self) -> int:
        """When the next lane wakes that waits for a moment; 0: none does."""
        return self._sleeping[0][0] if self._sleeping else 0

    def _search(self, pace: LanePace, now: int) -> LaneEntry | None:
        """Start the next delivery in a round, if one may start."""
        lanes = self._rounds[pace]
        max_skipped = min(lanes.count, _MAX_SKIPPED_LANES)
        skipped = 0
        while lanes.count and skipped < max_skipped:
            lane = lanes.pop()
            lane.round = None
            if lane.pace(now) is not pace:
                self._join_round(lane, now)  # an attempt has begun to take long
                continue
            if not lane.turn_to_admitted(self.request_memory):
                self._without_memory[lane.name] = lane
                continue
            pool = self._pool_for(lane, pace)
            if pool is None:
                lane.skip_tenant()
                lane.round = lanes
                lanes.add(lane)
                skipped += 1
                continue
            entry = self._start(lane, pool, now)
            if entry is not None:
                return entry
        return None

    def _pool_for(self, lane: _Lane, pace: LanePace) -> FairPool | None:
        """Return the pool that has a slot for a lane's next attempt; None: it may not start now."""
        tenant = lane.next_tenant
        if self._shared.admits(lane.namespace, tenant):
            return self._shared
        if pace is LanePace.Slow or not self._reserve.admits(lane.namespace, tenant):
            return None
        # First attempts at many hanging destinations must not fill the reserve.
        may_use_reserve = pace is LanePace.Fast or (
            not lane.started_at and self._reserve.free > self._reserve.size // 2
        )
        return self._reserve if may_use_reserve else None

    def done(self, key: int, result: Outcome | None, now: int) -> bool:
        """Free an attempt's slot. ``result`` is None if no request was sent (expired, held).

        Returns True if the result opened the circuit. The caller then drains the lane, because deliveries wait in the
        store while their destination fails.
        """
        entry, pool = self._attempts.pop(key)
        lane = self._lanes[entry.destination]
        pool.give_back(lane.namespace, entry.tenant)
        self.request_memory.end(key)
        started_at = lane.started_at.pop(key)
        if result is not None:
            lane.note_result(now - started_at)
        lane.bytes -= entry.size
        self.bytes -= entry.size
        was_open = lane.circuit.state is circuit.CircuitState.Open
        if result is not None and result.blames_destination:
            lane.circuit = circuit.failed(lane.circuit, now, takes_others=lane.takes_others(entry.tenant, now))
        elif result is not None:
            lane.note_success(entry.tenant, now)
            lane.circuit = circuit.succeeded(lane.circuit, lane.limits.concurrency)
        self._join_round(lane, now)
        return lane.circuit.state is circuit.CircuitState.Open and not was_open

    def reset(self, destination: str, now: int) -> None:
        """Close a destination's circuit, so that it is tried at once after its document has changed."""
        lane = self._lane(destination)
        lane.reset()
        self._join_round(lane, now)

    def drain(self, destination: str) -> list[LaneEntry]:
        """Remove and return every delivery that waits for a destination. Running attempts continue."""
        lane = self._lane(destination)
        entries = [lane.pop() for _ in range(lane.count)]
        for entry in entries:
            lane.bytes -= entry.size
            self.bytes -= entry.size
        self.count -= len(entries)
        return entries

    def _lane(self, destination: str) -> _Lane:
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = _Lane(destination)
        return lane

    def _has_room(self, lane: _Lane, turns: _TenantQueues, entry: LaneEntry) -> bool:
        """Return whether lane and tenant would leave as much room as they take. An empty lane may take all the room."""
        if lane.bytes == 0:
            return entry.size <= self._max_bytes - self.bytes
        bytes_left = self._shared_bytes - self.bytes - lane.bytes
        return entry.size <= bytes_left and turns.bytes_of(entry.tenant) + entry.size <= bytes_left

    def _join_round(self, lane: _Lane, now: int) -> None:
        """Put a lane that may start an attempt into the round for its pace."""
        may_start = lane.count > 0 and len(lane.started_at) < lane.limits.concurrency
        if lane.round is None and not may_start:
            return
        lanes = self._rounds[lane.pace(now)]
        if lane.round is lanes:
            return
        if lane.round is not None:
            lane.round.remove(lane)
            lane.round = None
        if may_start:
            lane.round = lanes
            lanes.add(lane)

    def _start(self, lane: _Lane, pool: FairPool, now: int) -> LaneEntry | None:
        if lane.count == 0:
            return None
        if not lane.has_slot(now):
            if lane.circuit.state is circuit.CircuitState.Open and lane.in_flight == 0 and now < lane.circuit.trial_at:
                self._sleep(lane, lane.circuit.trial_at)
            return None
        if lane.limits.rate is not None and not self._take_token(lane, now):
            return None
        entry = lane.pop()
        lane.started_at[entry.delivery.key] = now
        self.count -= 1
        self._attempts[entry.delivery.key] = (entry, pool)
        pool.take(lane.namespace, entry.tenant)
        self.request_memory.start(entry.delivery.key, lane.namespace, entry.tenant)
        self._join_round(lane, now)
        return entry

    def _sleep(self, lane: _Lane, until: int) -> None:
        if lane.wakes_at == 0 or until < lane.wakes_at:
            lane.wakes_at = until
            heapq.heappush(self._sleeping, (until, lane.name, False))

    def _take_token(self, lane: _Lane, now: int) -> bool:
        """Take a token from a lane's rate limit, or put the lane at the end of the line for the next ones."""
        rate = self._rates[lane.rate_name]
        was_called, lane.is_called = lane.is_called, False
        if was_called or not rate.waiting:
            if rate.bucket.take(now / model.MICROSECONDS):
                return True
            if not rate.waiting:
                self._call_at(
                    lane.rate_name, rate, now + 1 + int(rate.bucket.seconds_until_token() * model.MICROSECONDS)
                )
        rate.waiting[lane.name] = None
        return False

    def _call_at(self, name: str, rate: _Rate, moment: int) -> None:
        rate.calls_at = moment
        heapq.heappush(self._sleeping, (moment, name, True))

    def _wake(self, now: int) -> None:
        while self._sleeping and self._sleeping[0][0] <= now:
            moment, name, is_rate = heapq.heappop(self._sleeping)
            if is_rate:
                if name in self._rates and self._rates[name].calls_at == moment:
                    self._call_waiting(name, now)
                continue
            lane = self._lanes.get(name)
            if lane is not None and lane.wakes_at == moment:
                lane.wakes_at = 0
                self._join_round(lane, now)

    def _call_waiting(self, name: str, now: int) -> None:
        """Call as many lanes that wait for a rate limit as it has tokens."""
        rate = self._rates[name]
        tokens_left = rate.bucket.tokens(now / model.MICROSECONDS)
        while rate.waiting and tokens_left >= 1.0:
            lane = self._lanes[rate.waiting.popitem(last=False)[0]]
            self._join_round(lane, now)
            if lane.round is not None and lane.has_slot(now):
                lane.is_called = True
                tokens_left -= 1.0
        if rate.waiting:
            seconds = (1.0 - tokens_left) / rate.bucket.rate
            self._call_at(name, rate, now + 1 + int(seconds * model.MICROSECONDS))
