import collections
import dataclasses
import itertools

import hypothesis.stateful
from hypothesis import settings
from hypothesis import strategies as st

from unit.delivery import samples
from usher_gateway.delivery import circuit, outcome
from usher_gateway.delivery.scheduler import LaneEntry, LaneLimits, LaneScheduler, NextDelivery

SECOND = 1_000_000
FAILED = outcome.Outcome(outcome.OutcomeKind.Retry, "Timeout", blames_destination=True)
REJECTED = outcome.Outcome(outcome.OutcomeKind.Dead, "Rejected")


def entry(destination: str = "n/a", tenant: str = "t", *, fresh: bool = True, size: int = 100) -> LaneEntry:
    return LaneEntry(samples.delivery(), destination, tenant, fresh, size)


def started(every: LaneScheduler, now: int) -> list[LaneEntry]:
    """All that may start now."""
    found: list[LaneEntry] = []
    while (ready := every.next_ready(now).entry) is not None:
        found.append(ready)
    return found


def finish(every: LaneScheduler, entries: list[LaneEntry], result: outcome.Outcome | None, now: int) -> bool:
    return True in [every.done(one.delivery.key, result, now) for one in entries]


def open_circuit(every: LaneScheduler, destination: str, now: int) -> None:
    for _ in range(circuit.OPENS_AFTER):
        assert every.offer(entry(destination), now)
        finish(every, started(every, now), FAILED, now)
    assert every.circuit_of(destination).state is circuit.CircuitState.Open


def test_no_more_attempts_run_than_the_destination_allows() -> None:
    every = LaneScheduler(1 << 20, 100)
    every.configure("n/a", LaneLimits(concurrency=3))
    for _ in range(10):
        assert every.offer(entry(), 0)
    running = started(every, 0)
    assert len(running) == 3
    finish(every, running[:1], outcome.DELIVERED, 0)
    assert len(started(every, 0)) == 1


def filled(lane_bytes: int = 8_000) -> LaneScheduler:
    """Lanes in which others hold all but what is kept for empty lanes."""
    every = LaneScheduler(lane_bytes, 100)
    for number in range(60):
        while every.offer(entry(f"n/{number % 30}", "flood", size=100 if every.bytes < 6_800 else 10), 0):
            pass
        if every.bytes == 7_000:
            break
    assert every.bytes == 7_000
    return every


def test_what_an_empty_lane_is_to_claim_beside_full_ones_finds_room() -> None:
    every = filled()
    room = every.room("n/empty", 0)
    assert room.rows > 0
    assert room.bytes > 100
    assert [every.offer(entry("n/empty"), 0) for _ in range(room.rows)] == [True] * room.rows


def test_a_dead_destination_is_tried_again_also_while_the_lanes_of_others_are_full() -> None:
    every = LaneScheduler(8_000, 100)
    open_circuit(every, "n/dead", 0)
    for number in range(70):
        assert every.offer(entry(f"n/{number}", "flood"), 0)
    room = every.room("n/dead", circuit.TRIAL_EVERY)
    assert (room.rows, room.bytes) == (1, 1_000)


def test_a_hanging_destination_with_a_long_queue_delays_no_other() -> None:
    every = LaneScheduler(1 << 20, 100)
    for _ in range(50):
        assert every.offer(entry("n/hangs"), 0)
    hanging = started(every, 0)
    assert every.offer(entry("n/b"), 1)
    assert [one.destination for one in started(every, 1)] == ["n/b"]
    assert len(hanging) == 8


def test_a_tenant_with_many_slow_destinations_leaves_attempts_to_others() -> None:
    every = LaneScheduler(1 << 20, 64)
    for number in range(40):
        for _ in range(8):
            assert every.offer(entry(f"n/slow-{number}", "slow"), 0)
    slow = started(every, 0)
    assert len(slow) == 56
    for number in range(8):
        assert every.offer(entry(f"n/other-{number}", f"other {number}"), 1)
    # Every search goes on behind what the one before has passed over.
    assert {one.tenant for one in started(every, 1)} == {f"other {number}" for number in range(8)}
    finish(every, slow, outcome.DELIVERED, 2)
    assert len(started(every, 2)) == 48


def test_destinations_take_turns() -> None:
    every = LaneScheduler(1 << 20, 100)
    for name in ("n/a", "n/b", "n/c"):
        for _ in range(3):
            assert every.offer(entry(name), 0)
    assert [one.destination for one in started(every, 0)] == ["n/a", "n/b", "n/c"] * 3


def test_tenants_of_a_shared_destination_take_turns_whatever_they_bring() -> None:
    every = LaneScheduler(1 << 20, 100)
    every.configure("n/a", LaneLimits(concurrency=4))
    for tenant in ["loud"] * 20 + ["quiet"] * 2:
        assert every.offer(entry(tenant=tenant), 0)
    assert collections.Counter(one.tenant for one in started(every, 0)) == {"loud": 2, "quiet": 2}


def test_fresh_visits_get_half_of_the_slots_beside_a_backlog() -> None:
    every = LaneScheduler(1 << 20, 100)
    for _ in range(20):
        assert every.offer(entry(fresh=False), 0)
    for _ in range(20):
        assert every.offer(entry(fresh=True), 0)
    assert collections.Counter(one.fresh for one in started(every, 0)) == {True: 4, False: 4}


def test_a_rate_limit_holds_in_every_second_and_says_when_to_ask_again() -> None:
    every = LaneScheduler(1 << 20, 1000)
    every.configure("n/a", LaneLimits(concurrency=500, requests_per_second=20))
    for _ in range(200):
        assert every.offer(entry(), 0)
    now, starts = SECOND, []
    while every.count:
        ready = every.next_ready(now)
        if ready.entry is not None:
            starts.append(now)
            finish(every, [ready.entry], outcome.DELIVERED, now)
            continue
        assert ready.ask_again_at > now
        now = ready.ask_again_at
    assert starts[-1] - starts[0] >= (200 - 20) / 20 * SECOND - 1
    assert starts[-1] - starts[0] <= 200 / 20 * SECOND
    assert all(later - earlier >= SECOND / 20 - 1 for earlier, later in itertools.pairwise(starts[20:]))


def test_a_clock_set_back_only_delays_a_rate_limited_destination() -> None:
    every = LaneScheduler(1 << 20, 1000)
    every.configure("n/a", LaneLimits(requests_per_second=1))
    assert every.offer(entry(), 0)
    assert every.offer(entry(), 0)
    assert len(started(every, 100 * SECOND)) == 1
    assert started(every, 50 * SECOND) == []
    assert len(started(every, 102 * SECOND)) == 1


def test_failures_open_the_circuit_once_and_what_waits_can_be_drained() -> None:
    every = LaneScheduler(1 << 20, 100)
    for _ in range(30):
        assert every.offer(entry(), 0)
    opened = [every.done(one.delivery.key, FAILED, 0) for one in started(every, 0)]
    assert opened.count(True) == 1
    assert len(every.drain("n/a")) == 30 - 8
    assert (every.count, every.bytes) == (0, 0)


def test_an_open_circuit_takes_nothing_until_its_trial_and_then_one() -> None:
    every = LaneScheduler(1 << 20, 100)
    open_circuit(every, "n/a", 0)
    assert not every.offer(entry(), 30 * SECOND)
    assert every.room("n/a", 30 * SECOND).rows == 0
    assert every.room("n/a", 60 * SECOND).rows == 1
    assert every.offer(entry(), 60 * SECOND)
    assert not every.offer(entry(), 60 * SECOND)
    assert every.room("n/a", 60 * SECOND).rows == 0
    assert len(started(every, 60 * SECOND)) == 1


def test_what_stays_in_an_open_lane_starts_by_itself_when_the_trial_is_due() -> None:
    every = LaneScheduler(1 << 20, 100)
    for _ in range(12):
        assert every.offer(entry(), 0)
    finish(every, started(every, 0), FAILED, 0)
    ready = every.next_ready(1)
    assert ready == NextDelivery(None, 60 * SECOND)
    assert len(started(every, 60 * SECOND)) == 1


def test_after_a_good_trial_the_lane_starts_slowly() -> None:
    every = LaneScheduler(1 << 20, 100)
    open_circuit(every, "n/a", 0)
    assert every.offer(entry(), 60 * SECOND)
    finish(every, started(every, 60 * SECOND), outcome.DELIVERED, 60 * SECOND)
    for _ in range(60):
        assert every.offer(entry(), 61 * SECOND)
    widths = []
    for _ in range(5):
        running = started(every, 61 * SECOND)
        widths.append(len(running))
        finish(every, running, outcome.DELIVERED, 61 * SECOND)
    assert widths == [1, 2, 4, 8, 8]


def test_an_attempt_that_was_never_sent_says_nothing_of_the_destination() -> None:
    every = LaneScheduler(1 << 20, 100)
    open_circuit(every, "n/a", 0)
    assert every.offer(entry(), 60 * SECOND)
    finish(every, started(every, 60 * SECOND), None, 60 * SECOND)
    assert every.circuit_of("n/a").state is circuit.CircuitState.Open
    assert every.room("n/a", 60 * SECOND).rows == 1, "the trial is still to be made"


def test_a_rejected_body_shows_that_the_destination_works() -> None:
    every = LaneScheduler(1 << 20, 100)
    open_circuit(every, "n/a", 0)
    assert every.offer(entry(), 60 * SECOND)
    finish(every, started(every, 60 * SECOND), REJECTED, 60 * SECOND)
    assert every.circuit_of("n/a").state is circuit.CircuitState.Recovering


def test_a_changed_document_is_tried_at_once() -> None:
    every = LaneScheduler(1 << 20, 100)
    open_circuit(every, "n/a", 0)
    every.reset("n/a")
    assert every.offer(entry(), 1)
    assert len(started(every, 1)) == 1


def test_one_flooded_destination_leaves_room_for_others() -> None:
    every = LaneScheduler(10_000, 100)
    while every.offer(entry("n/flood"), 0):
        pass
    assert every.bytes <= 5_000
    assert every.offer(entry("n/b"), 0)


def test_one_flooding_tenant_leaves_room_for_others_in_a_shared_lane() -> None:
    every = LaneScheduler(10_000, 100)
    while every.offer(entry(tenant="loud"), 0):
        pass
    assert every.offer(entry(tenant="quiet"), 0)


def test_many_flooded_destinations_still_leave_room_for_one_more() -> None:
    every = LaneScheduler(1_000_000, 100)
    for number in range(100):
        while every.offer(entry(f"n/{number}"), 0):
            pass
    assert every.bytes <= 1_000_000
    assert every.offer(entry("n/quiet"), 0)


def test_what_there_is_room_for_finds_room() -> None:
    every = LaneScheduler(50_000, 100)
    for name in ("n/b", "n/c"):
        while every.offer(entry(name), 0):
            pass
    room = every.room("n/a", 0)
    assert room.bytes > 0
    assert all(every.offer(entry(fresh=False), 0) for _ in range(min(room.rows, room.bytes // 100)))


def test_no_more_attempts_run_than_the_gateway_allows() -> None:
    every = LaneScheduler(1 << 20, 5)
    for number in range(20):
        assert every.offer(entry(f"n/{number}"), 0)
    running = started(every, 0)
    assert len(running) == every.in_flight == 5
    finish(every, running, outcome.DELIVERED, 0)
    assert len(started(every, 0)) == 5


@dataclasses.dataclass
class Expected:
    waiting: dict[int, LaneEntry]
    running: dict[int, LaneEntry]


class LanesMachine(hypothesis.stateful.RuleBasedStateMachine):
    """Whatever happens, nothing is lost or started twice, bounds hold, and what may start does start."""

    def __init__(self) -> None:
        super().__init__()
        self.every = LaneScheduler(20_000, 12)
        self.now = SECOND
        self.expected = Expected({}, {})
        self.every.configure("n/0", LaneLimits(concurrency=2))
        self.every.configure("n/1", LaneLimits(requests_per_second=3))

    @hypothesis.stateful.rule(milliseconds=st.integers(0, 70_000))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds * 1000

    @hypothesis.stateful.rule(
        number=st.integers(0, 2), tenant=st.sampled_from("tu"), fresh=st.booleans(), size=st.integers(0, 3000)
    )
    def offered(self, number: int, tenant: str, fresh: bool, size: int) -> None:
        one = entry(f"n/{number}", tenant, fresh=fresh, size=size)
        if self.every.offer(one, self.now):
            self.expected.waiting[one.delivery.key] = one

    @hypothesis.stateful.rule()
    def all_that_may_start_starts(self) -> None:
        for one in started(self.every, self.now):
            assert self.expected.waiting.pop(one.delivery.key) is one
            self.expected.running[one.delivery.key] = one

    @hypothesis.stateful.precondition(lambda self: self.expected.running)
    @hypothesis.stateful.rule(data=st.data(), result=st.sampled_from([outcome.DELIVERED, FAILED, REJECTED, None]))
    def one_ends(self, data: st.DataObject, result: outcome.Outcome | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.expected.running)))
        destination = self.expected.running.pop(key).destination
        if self.every.done(key, result, self.now) and data.draw(st.booleans()):
            for one in self.every.drain(destination):
                del self.expected.waiting[one.delivery.key]

    @hypothesis.stateful.invariant()
    def the_books_balance(self) -> None:
        held = [*self.expected.waiting.values(), *self.expected.running.values()]
        assert self.every.bytes == sum(one.size for one in held) <= 20_000
        assert self.every.count == len(self.expected.waiting)
        assert self.every.in_flight == len(self.expected.running) <= 12

    def teardown(self) -> None:
        """Everything that still waits is delivered in the end by doing nothing but what next_ready says."""
        for _ in range(10_000):
            finish(self.every, list(self.expected.running.values()), outcome.DELIVERED, self.now)
            self.expected.running.clear()
            self.all_that_may_start_starts()
            if not self.expected.waiting:
                return
            if not self.expected.running:
                moment = self.every.next_ready(self.now).ask_again_at
                assert moment > self.now
                self.now = moment
        raise AssertionError("deliveries never started")


TestLanes = LanesMachine.TestCase
TestLanes.settings = settings(max_examples=60, stateful_step_count=40)
