import collections
import dataclasses

import hypothesis.stateful
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import delivery_samples
from usher_gateway import model
from usher_gateway.delivery import circuit, outcome
from usher_gateway.delivery.request_memory import LARGE_REQUEST_BYTES
from usher_gateway.delivery.scheduler import LaneEntry, LaneLimits, LaneQueue, LaneScheduler, RateLimit

SECOND = 1_000_000
DELIVERED = outcome.Outcome(model.SettledAs.Delivered)
FAILED = outcome.Outcome(model.SettledAs.Retry, "Timeout", blames_destination=True)
REJECTED = outcome.Outcome(model.SettledAs.Dead, "Rejected")


def entry(destination: str = "n/a", tenant: str = "t", *, fresh: bool = True, size: int = 100) -> LaneEntry:
    return LaneEntry(delivery_samples.delivery(), destination, tenant, fresh, size)


@pytest.fixture
def scheduler() -> LaneScheduler:
    return LaneScheduler(1 << 20, 100)


def offer(
    scheduler: LaneScheduler, count: int, destination: str = "n/a", tenant: str = "t", fresh: bool = True, now: int = 0
) -> None:
    """Offer a number of deliveries, for which there must be room."""
    for _ in range(count):
        assert scheduler.offer(entry(destination, tenant, fresh=fresh), now)


def started(scheduler: LaneScheduler, now: int) -> list[LaneEntry]:
    """Start every delivery that may start now."""
    entries: list[LaneEntry] = []
    while (ready := scheduler.next_ready(now)) is not None:
        entries.append(ready)
    return entries


def finish(scheduler: LaneScheduler, entries: list[LaneEntry], result: outcome.Outcome | None, now: int) -> bool:
    return True in [scheduler.done(lane_entry.delivery.key, result, now) for lane_entry in entries]


def open_circuit(scheduler: LaneScheduler, destination: str, now: int) -> None:
    for _ in range(circuit.OPENS_AFTER):
        offer(scheduler, 1, destination, now=now)
        finish(scheduler, started(scheduler, now), FAILED, now)
    assert scheduler.circuit_of(destination).state is circuit.CircuitState.Open


def test_visits_of_one_tenant_open_no_circuit_while_those_of_another_succeed(scheduler: LaneScheduler) -> None:
    def attempt(tenant: str, result: outcome.Outcome, now: int) -> bool:
        offer(scheduler, 1, tenant=tenant, now=now)
        return finish(scheduler, started(scheduler, now), result, now)

    now = 0
    for _ in range(5):
        assert not attempt("good", DELIVERED, now)
        assert not any(attempt("bad", FAILED, now) for _ in range(20))
        now += circuit.TRIAL_EVERY // 2
    assert attempt("bad", FAILED, now + circuit.TRIAL_EVERY), "the other tenant's success is long ago"


def test_destination_concurrency_limits_running_attempts(scheduler: LaneScheduler) -> None:
    scheduler.configure("n/a", LaneLimits(concurrency=3), 0)
    offer(scheduler, 10)
    running = started(scheduler, 0)
    assert len(running) == 3
    finish(scheduler, running[:1], outcome.DELIVERED, 0)
    assert len(started(scheduler, 0)) == 1


def test_queues_show_what_waits_by_tenant_and_destination(scheduler: LaneScheduler) -> None:
    scheduler.configure("n/a", LaneLimits(concurrency=1), 0)
    for tenant, created_at, fresh in (("t", 5, True), ("t", 3, True), ("t", 2, False), ("u", 9, False)):
        delivery = delivery_samples.delivery(created_at=created_at)
        assert scheduler.offer(LaneEntry(delivery, "n/a", tenant, fresh, 100), 0)
    (first,) = started(scheduler, 0)
    assert (first.delivery.created_at, first.tenant) == (5, "t")
    assert list(scheduler.queues()) == [LaneQueue("t", "n/a", 2, 2, 3), LaneQueue("u", "n/a", 1, 9, 0)]


def test_gateway_without_a_share_takes_nothing_into_its_lane(scheduler: LaneScheduler) -> None:
    open_circuit(scheduler, "n/dead", 0)
    for destination in ("n/a", "n/dead"):
        scheduler.share(destination, LaneLimits(concurrency=0), 0)
        assert not scheduler.offer(entry(destination), circuit.TRIAL_EVERY)
        assert scheduler.room(destination, circuit.TRIAL_EVERY)[0] == 0


def test_smaller_share_counts_running_attempts(scheduler: LaneScheduler) -> None:
    scheduler.configure("n/a", LaneLimits(concurrency=4), 0)
    offer(scheduler, 10)
    running = started(scheduler, 0)
    scheduler.share("n/a", LaneLimits(concurrency=2), 0)
    finish(scheduler, running[:2], outcome.DELIVERED, 0)
    assert started(scheduler, 0) == []


@pytest.mark.parametrize("shared_by", ["", "n//vendor"])
def test_share_of_a_rate_limit_starts_without_a_burst(shared_by: str) -> None:
    """Its tokens would come in addition to those that the other gateways used."""
    scheduler = LaneScheduler(1 << 20, 500)
    scheduler.configure("n/a", LaneLimits(concurrency=100, rate=RateLimit(20, shared_by=shared_by)), 0)
    scheduler.share("n/a", LaneLimits(concurrency=0), 0)
    scheduler.share("n/a", LaneLimits(concurrency=50, rate=RateLimit(10, shared_by=shared_by)), 5 * SECOND)
    offer(scheduler, 50, now=5 * SECOND)
    assert started(scheduler, 5 * SECOND) == []
    assert len(started(scheduler, 6 * SECOND)) == 1


def test_larger_share_of_a_rate_limit_adds_no_tokens() -> None:
    scheduler = LaneScheduler(1 << 20, 500)
    scheduler.configure("n/a", LaneLimits(concurrency=100, rate=RateLimit(10)), 0)
    offer(scheduler, 50)
    assert len(started(scheduler, 0)) == 1
    scheduler.share("n/a", LaneLimits(concurrency=100, rate=RateLimit(20)), 0)
    assert started(scheduler, 0) == []
    assert len(started(scheduler, SECOND)) == 2


def filled(lane_bytes: int = 8_000) -> LaneScheduler:
    """A scheduler in which other lanes hold all the room that is not reserved for empty lanes."""
    scheduler = LaneScheduler(lane_bytes, 100)
    for number in range(60):
        while scheduler.offer(entry(f"n/{number % 30}", "flood", size=100 if scheduler.bytes < 6_800 else 10), 0):
            pass
        if scheduler.bytes == 7_000:
            break
    assert scheduler.bytes == 7_000
    return scheduler


def test_empty_lane_has_room_for_its_claim_beside_full_lanes() -> None:
    scheduler = filled()
    rows, size = scheduler.room("n/empty", 0)
    assert rows > 0
    assert size > 100
    assert [scheduler.offer(entry("n/empty"), 0) for _ in range(rows)] == [True] * rows


def test_open_circuit_is_tried_while_other_lanes_are_full() -> None:
    scheduler = LaneScheduler(8_000, 100)
    open_circuit(scheduler, "n/dead", 0)
    for number in range(70):
        assert scheduler.offer(entry(f"n/{number}", "flood"), 0)
    assert scheduler.room("n/dead", circuit.TRIAL_EVERY) == (1, 1_000)


def test_hanging_destination_does_not_delay_others(scheduler: LaneScheduler) -> None:
    offer(scheduler, 50, "n/hangs")
    hanging = started(scheduler, 0)
    assert scheduler.offer(entry("n/b"), 1)
    assert [lane_entry.destination for lane_entry in started(scheduler, 1)] == ["n/b"]
    assert len(hanging) == 8


def test_tenant_with_many_destinations_leaves_attempts_to_others() -> None:
    scheduler = LaneScheduler(1 << 20, 64)
    for number in range(40):
        offer(scheduler, 8, f"n/slow-{number}", "slow")
    slow = started(scheduler, 0)
    assert 16 <= len(slow) <= 32
    for number in range(8):
        assert scheduler.offer(entry(f"n/other-{number}", f"other {number}"), 2 * SECOND)
    # Each search continues after the lanes that the previous one skipped.
    assert {lane_entry.tenant for lane_entry in started(scheduler, 2 * SECOND)} == {
        f"other {number}" for number in range(8)
    }


def answer_fast(scheduler: LaneScheduler, destination: str) -> None:
    assert scheduler.offer(entry(destination), 0)
    finish(scheduler, started(scheduler, 0), outcome.DELIVERED, SECOND // 100)


def fill_with_slow_attempts(scheduler: LaneScheduler, namespaces: int) -> list[LaneEntry]:
    """Let one destination of each namespace answer after 9 s, and then start whatever it may start."""
    names = [f"slow-{number}/crm" for number in range(namespaces)]
    for name in names:
        assert scheduler.offer(entry(name, name), 0)
    finish(scheduler, started(scheduler, 0), outcome.DELIVERED, 9 * SECOND)
    for name in names:
        offer(scheduler, 20, name, name, now=9 * SECOND)
    return started(scheduler, 9 * SECOND)


def test_fast_destinations_get_slots_while_slow_ones_fill_the_pool() -> None:
    scheduler = LaneScheduler(1 << 24, 512)
    slow = fill_with_slow_attempts(scheduler, 100)
    assert scheduler.in_flight == len(slow) > 300
    assert scheduler.count > 1_000, "slow deliveries wait"
    fast = {f"fast-{number}/crm" for number in range(50)}
    for name in fast:
        assert scheduler.offer(entry(name, name), 9 * SECOND)
    assert {lane_entry.destination for lane_entry in started(scheduler, 9 * SECOND)} == fast


def test_fast_destination_gets_a_slot_behind_thousands_of_slow_lanes() -> None:
    scheduler = LaneScheduler(1 << 24, 512)
    answer_fast(scheduler, "fast/crm")
    fill_with_slow_attempts(scheduler, 2_000)
    assert scheduler.offer(entry("fast/crm", "fast"), 9 * SECOND)
    assert [lane_entry.destination for lane_entry in started(scheduler, 9 * SECOND)] == ["fast/crm"]


def test_new_destinations_that_hang_leave_half_of_the_reserve() -> None:
    scheduler = LaneScheduler(1 << 24, 64)
    answer_fast(scheduler, "fast/crm")
    for number in range(64):
        offer(scheduler, 8, f"hangs-{number}/crm", f"hangs {number}")
    assert len(started(scheduler, 0)) == 56
    assert started(scheduler, 2 * SECOND) == []
    assert scheduler.offer(entry("fast/crm", "fast"), 2 * SECOND)
    assert [lane_entry.destination for lane_entry in started(scheduler, 2 * SECOND)] == ["fast/crm"]


def test_tenant_at_its_limit_does_not_delay_others_of_a_shared_destination() -> None:
    scheduler = LaneScheduler(1 << 20, 64)
    for number in range(40):
        assert scheduler.offer(entry(f"n/slow-{number}", "slow"), 0)
    assert len(started(scheduler, 0)) == 22
    for tenant in ("slow", "other"):
        assert scheduler.offer(entry("n/shared", tenant), 2 * SECOND)
    assert [lane_entry.tenant for lane_entry in started(scheduler, 2 * SECOND) + started(scheduler, 2 * SECOND)] == [
        "other"
    ]


def test_namespace_leaves_as_many_slots_as_it_uses() -> None:
    scheduler = LaneScheduler(1 << 24, 64)
    for number in range(40):
        offer(scheduler, 8, f"loud/{number}", f"loud {number}")
    assert len(started(scheduler, 0)) == 24 + 8, "half of the shared slots and half of the reserve"
    for number in range(40):
        assert scheduler.offer(entry(f"quiet/{number}", f"quiet {number}"), 2 * SECOND)
    assert len(started(scheduler, 2 * SECOND)) == 12, "half of the rest"


def test_destination_is_fast_again_after_fast_answers() -> None:
    scheduler = LaneScheduler(1 << 24, 512)
    slow = fill_with_slow_attempts(scheduler, 100)
    repaired = [lane_entry for lane_entry in slow if lane_entry.destination == "slow-0/crm"]
    now = 18 * SECOND
    while repaired:
        finish(scheduler, repaired, outcome.DELIVERED, now)
        repaired = [lane_entry for lane_entry in started(scheduler, now) if lane_entry.destination == "slow-0/crm"]
        now += SECOND // 10
    assert scheduler.offer(entry("slow-0/crm", "slow-0/crm"), now)
    assert [lane_entry.destination for lane_entry in started(scheduler, now)] == ["slow-0/crm"]


def test_tenant_whose_requests_fill_the_memory_starts_nothing_until_one_is_done() -> None:
    scheduler = LaneScheduler(max_bytes=24 * LARGE_REQUEST_BYTES, max_in_flight=40)
    assert scheduler.offer(entry(tenant="n/loud"), 0)
    (large,) = started(scheduler, 0)
    assert scheduler.request_memory.may_make(large.delivery.key)
    assert scheduler.request_memory.may_keep(large.delivery.key, 5 * LARGE_REQUEST_BYTES)
    for tenant in ("n/loud", "n/quiet"):
        assert scheduler.offer(entry(tenant=tenant), 0)
    assert [ready.tenant for ready in started(scheduler, 0)] == ["n/quiet"]
    finish(scheduler, [large], None, 0)
    assert [ready.tenant for ready in started(scheduler, 0)] == ["n/loud"]


def hold_memory(scheduler: LaneScheduler, tenant: str) -> LaneEntry:
    """Start an attempt of a tenant whose request takes so much memory that the tenant starts no other one."""
    assert scheduler.offer(entry("n/hog", tenant=tenant), 0)
    (large,) = started(scheduler, 0)
    assert scheduler.request_memory.may_keep(large.delivery.key, 5 * LARGE_REQUEST_BYTES)
    return large


def test_many_lanes_without_memory_do_not_delay_the_lane_of_another_tenant() -> None:
    scheduler = LaneScheduler(max_bytes=24 * LARGE_REQUEST_BYTES, max_in_flight=400)
    large = hold_memory(scheduler, "n/loud")
    for number in range(200):
        assert scheduler.offer(entry(f"n/{number}", tenant="n/loud"), 0)
    assert scheduler.offer(entry("n/quiet", tenant="n/quiet"), 0)
    assert [ready.tenant for ready in started(scheduler, 0)] == ["n/quiet"]
    finish(scheduler, [large], None, 0)
    assert {ready.tenant for ready in started(scheduler, 0)} == {"n/loud"}


def test_lane_without_memory_continues_after_requests_that_were_smaller_than_expected() -> None:
    scheduler = LaneScheduler(max_bytes=400 * LARGE_REQUEST_BYTES, max_in_flight=400)
    scheduler.configure("n/first", LaneLimits(concurrency=40), 0)
    large = hold_memory(scheduler, "n/loud")
    finish(scheduler, [large], None, 0)
    for _ in range(40):
        assert scheduler.offer(entry("n/first", tenant="n/loud"), 0)
    running = started(scheduler, 0)
    assert scheduler.offer(entry("n/second", tenant="n/loud"), 0)
    assert started(scheduler, 0) == [], "what is expected of the running ones fills the memory"
    for small in running:
        assert scheduler.request_memory.may_make(small.delivery.key)
        assert scheduler.request_memory.may_keep(small.delivery.key, 1)
    finish(scheduler, running, None, 0)
    assert "n/second" in {ready.destination for ready in started(scheduler, 0)}


def test_deliveries_without_memory_leave_the_room_of_a_lane_to_other_tenants() -> None:
    scheduler = LaneScheduler(max_bytes=24 * LARGE_REQUEST_BYTES, max_in_flight=400)
    hold_memory(scheduler, "n/loud")
    rows, _ = scheduler.room("n/shared", 0)
    for _ in range(rows):
        assert scheduler.offer(entry("n/shared", tenant="n/loud", fresh=False), 0)
    assert scheduler.room("n/shared", 0)[0] == rows
    for _ in range(rows):
        assert scheduler.offer(entry("n/shared", tenant="n/quiet", fresh=False), 0)
    assert scheduler.room("n/shared", 0)[0] == 0


def test_destinations_take_turns(scheduler: LaneScheduler) -> None:
    for name in ("n/a", "n/b", "n/c"):
        offer(scheduler, 3, name)
    assert [lane_entry.destination for lane_entry in started(scheduler, 0)] == ["n/a", "n/b", "n/c"] * 3


def test_tenants_of_a_shared_destination_take_turns(scheduler: LaneScheduler) -> None:
    scheduler.configure("n/a", LaneLimits(concurrency=4), 0)
    for tenant in ["loud"] * 20 + ["quiet"] * 2:
        assert scheduler.offer(entry(tenant=tenant), 0)
    assert collections.Counter(lane_entry.tenant for lane_entry in started(scheduler, 0)) == {"loud": 2, "quiet": 2}


def test_fresh_deliveries_get_half_of_the_slots(scheduler: LaneScheduler) -> None:
    offer(scheduler, 20, fresh=False)
    offer(scheduler, 20, fresh=True)
    assert collections.Counter(lane_entry.fresh for lane_entry in started(scheduler, 0)) == {True: 4, False: 4}


@given(st.integers(1, 60), st.sampled_from([1, 7, 60, 86_400]), st.integers(1, 3))
def test_rate_limit_holds_in_every_period(requests: int, seconds: int, destinations: int) -> None:
    """Also for several destinations that share it."""
    scheduler = LaneScheduler(1 << 20, 1000)
    rate = RateLimit(requests, seconds, "n//vendor" if destinations > 1 else "")
    for number in range(destinations):
        scheduler.configure(f"n/{number}", LaneLimits(concurrency=500, rate=rate), 0)
    for number in range(3 * requests):
        assert scheduler.offer(entry(f"n/{number % destinations}"), 0)
    now, starts = SECOND, []
    while scheduler.count:
        ready = scheduler.next_ready(now)
        if ready is not None:
            starts.append(now)
            finish(scheduler, [ready], outcome.DELIVERED, now)
            continue
        assert scheduler.wakes_at > now
        now = scheduler.wakes_at
    period = seconds * SECOND
    assert all(later - earlier >= period for earlier, later in zip(starts, starts[requests:], strict=False))
    burst = max(1, requests // 10)
    assert starts[-1] - starts[0] <= period * 3 * requests / (requests - burst + 1) + 1000 * requests


def test_destinations_that_share_a_rate_limit_take_turns() -> None:
    scheduler = LaneScheduler(1 << 20, 1000)
    for number in range(50):
        scheduler.configure(f"n/{number}", LaneLimits(rate=RateLimit(10, shared_by="n//vendor")), 0)
        offer(scheduler, 3, f"n/{number}")
    now, starts, looks = SECOND, [], 0
    while scheduler.count:
        ready = scheduler.next_ready(now)
        looks += 1
        if ready is None:
            now = scheduler.wakes_at
            continue
        starts.append(ready.destination)
        finish(scheduler, [ready], outcome.DELIVERED, now)
    assert len(set(starts[:51])) == 50
    assert {starts[:101].count(f"n/{number}") for number in range(50)} <= {2, 3}
    assert looks < 3 * len(starts)


def test_rate_limit_that_was_removed_is_new_when_it_is_set_again(scheduler: LaneScheduler) -> None:
    limited = LaneLimits(concurrency=100, rate=RateLimit(10))
    scheduler.configure("n/a", limited, 0)
    offer(scheduler, 3)
    assert len(started(scheduler, 0)) == 1
    scheduler.configure("n/a", LaneLimits(concurrency=100), 0)
    assert len(started(scheduler, 0)) == 2
    scheduler.configure("n/a", limited, 0)
    offer(scheduler, 3)
    assert len(started(scheduler, 0)) == 1


def test_destination_that_leaves_a_shared_rate_limit_takes_no_turn_there(scheduler: LaneScheduler) -> None:
    for name in ("n/first", "n/leaves", "n/last"):
        scheduler.configure(name, LaneLimits(rate=RateLimit(10, shared_by="n//vendor")), 0)
        offer(scheduler, 1, name)
    assert len(started(scheduler, 0)) == 1
    scheduler.configure("n/leaves", LaneLimits(), 0)
    offer(scheduler, 1, "n/leaves")
    assert [lane_entry.destination for lane_entry in started(scheduler, 0)] == 2 * ["n/leaves"]
    offer(scheduler, 1, "n/leaves", now=scheduler.wakes_at)
    destinations = {lane_entry.destination for lane_entry in started(scheduler, scheduler.wakes_at)}
    assert destinations == {"n/leaves", "n/last"}


def test_lane_of_a_destination_that_is_gone_is_removed_once_it_is_empty(scheduler: LaneScheduler) -> None:
    open_circuit(scheduler, "n/a", 0)
    assert scheduler.offer(entry(), circuit.TRIAL_EVERY)
    scheduler.keep_lanes(["n/b"])
    (trial,) = started(scheduler, circuit.TRIAL_EVERY)
    scheduler.keep_lanes(["n/b"])
    assert scheduler.circuit_of("n/a").state is circuit.CircuitState.Open
    finish(scheduler, [trial], None, circuit.TRIAL_EVERY)
    scheduler.keep_lanes(["n/b"])
    assert scheduler.circuit_of("n/a") is circuit.CLOSED


def test_removed_lane_leaves_the_line_of_its_rate_limit(scheduler: LaneScheduler) -> None:
    for name in ("n/first", "n/gone", "n/last"):
        scheduler.configure(name, LaneLimits(rate=RateLimit(10, shared_by="n//vendor")), 0)
        offer(scheduler, 1, name)
    assert len(started(scheduler, 0)) == 1
    assert len(scheduler.drain("n/gone")) == 1
    scheduler.keep_lanes(["n/first", "n/last"])
    assert [lane_entry.destination for lane_entry in started(scheduler, scheduler.wakes_at)] == ["n/last"]


def test_clock_set_back_only_delays_a_rate_limited_lane() -> None:
    scheduler = LaneScheduler(1 << 20, 1000)
    scheduler.configure("n/a", LaneLimits(rate=RateLimit(1)), 0)
    assert scheduler.offer(entry(), 0)
    assert scheduler.offer(entry(), 0)
    assert len(started(scheduler, 100 * SECOND)) == 1
    assert started(scheduler, 50 * SECOND) == []
    assert len(started(scheduler, 102 * SECOND)) == 1


def test_failures_open_the_circuit_once_and_the_lane_can_be_drained(scheduler: LaneScheduler) -> None:
    offer(scheduler, 30)
    opened = [scheduler.done(lane_entry.delivery.key, FAILED, 0) for lane_entry in started(scheduler, 0)]
    assert opened.count(True) == 1
    assert len(scheduler.drain("n/a")) == 30 - 8
    assert (scheduler.count, scheduler.bytes) == (0, 0)


def test_open_circuit_accepts_one_delivery_when_its_trial_is_due(scheduler: LaneScheduler) -> None:
    open_circuit(scheduler, "n/a", 0)
    assert not scheduler.offer(entry(), 30 * SECOND)
    assert scheduler.room("n/a", 30 * SECOND)[0] == 0
    assert scheduler.room("n/a", 60 * SECOND)[0] == 1
    assert scheduler.offer(entry(), 60 * SECOND)
    assert not scheduler.offer(entry(), 60 * SECOND)
    assert scheduler.room("n/a", 60 * SECOND)[0] == 0
    assert len(started(scheduler, 60 * SECOND)) == 1


def test_delivery_in_an_open_lane_starts_when_the_trial_is_due(scheduler: LaneScheduler) -> None:
    offer(scheduler, 12)
    finish(scheduler, started(scheduler, 0), FAILED, 0)
    assert scheduler.next_ready(1) is None
    assert scheduler.wakes_at == 60 * SECOND
    assert len(started(scheduler, 60 * SECOND)) == 1


def test_unsent_attempt_does_not_change_the_circuit(scheduler: LaneScheduler) -> None:
    open_circuit(scheduler, "n/a", 0)
    assert scheduler.offer(entry(), 60 * SECOND)
    finish(scheduler, started(scheduler, 60 * SECOND), None, 60 * SECOND)
    assert scheduler.circuit_of("n/a").state is circuit.CircuitState.Open
    assert scheduler.room("n/a", 60 * SECOND)[0] == 1, "the trial is still to be made"


def test_rejected_body_counts_as_success_for_the_circuit(scheduler: LaneScheduler) -> None:
    open_circuit(scheduler, "n/a", 0)
    assert scheduler.offer(entry(), 60 * SECOND)
    finish(scheduler, started(scheduler, 60 * SECOND), REJECTED, 60 * SECOND)
    assert scheduler.circuit_of("n/a").state is circuit.CircuitState.Recovering


def test_changed_document_is_tried_at_once(scheduler: LaneScheduler) -> None:
    open_circuit(scheduler, "n/a", 0)
    scheduler.reset("n/a", 0)
    assert scheduler.offer(entry(), 1)
    assert len(started(scheduler, 1)) == 1


def test_flooded_destination_leaves_room_for_others() -> None:
    scheduler = LaneScheduler(10_000, 100)
    while scheduler.offer(entry("n/flood"), 0):
        pass
    assert scheduler.bytes <= 5_000
    assert scheduler.offer(entry("n/b"), 0)


def test_flooding_tenant_leaves_room_in_a_shared_lane() -> None:
    scheduler = LaneScheduler(10_000, 100)
    while scheduler.offer(entry(tenant="loud"), 0):
        pass
    assert scheduler.offer(entry(tenant="quiet"), 0)


def test_many_flooded_destinations_leave_room_for_another() -> None:
    scheduler = LaneScheduler(1_000_000, 100)
    for number in range(100):
        while scheduler.offer(entry(f"n/{number}"), 0):
            pass
    assert scheduler.bytes <= 1_000_000
    assert scheduler.offer(entry("n/quiet"), 0)


def test_offered_deliveries_within_the_reported_room_are_accepted() -> None:
    scheduler = LaneScheduler(50_000, 100)
    for name in ("n/b", "n/c"):
        while scheduler.offer(entry(name), 0):
            pass
    rows, size = scheduler.room("n/a", 0)
    assert size > 0
    assert all(scheduler.offer(entry(fresh=False), 0) for _ in range(min(rows, size // 100)))


@dataclasses.dataclass
class Expected:
    waiting: dict[int, LaneEntry]
    running: dict[int, LaneEntry]


class SchedulerMachine(hypothesis.stateful.RuleBasedStateMachine):
    """In any order of calls, no delivery is lost or started twice, limits hold, and what may start does start."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = LaneScheduler(20_000, 12)
        self.now = SECOND
        self.expected = Expected({}, {})
        self.scheduler.configure("n/0", LaneLimits(concurrency=2), 0)
        self.scheduler.configure("n/1", LaneLimits(rate=RateLimit(3)), 0)
        for number in (3, 4, 5):
            self.scheduler.configure(f"n/{number}", LaneLimits(1, RateLimit(2, 7, "n//vendor")), 0)

    @hypothesis.stateful.rule(milliseconds=st.integers(0, 70_000))
    def pass_time(self, milliseconds: int) -> None:
        self.now += milliseconds * 1000

    @hypothesis.stateful.rule(
        number=st.integers(0, 5), tenant=st.sampled_from("tu"), fresh=st.booleans(), size=st.integers(0, 3000)
    )
    def offer(self, number: int, tenant: str, fresh: bool, size: int) -> None:
        offered = entry(f"n/{number}", tenant, fresh=fresh, size=size)
        if self.scheduler.offer(offered, self.now):
            self.expected.waiting[offered.delivery.key] = offered

    @hypothesis.stateful.rule()
    def start_all(self) -> None:
        for started_entry in started(self.scheduler, self.now):
            assert self.expected.waiting.pop(started_entry.delivery.key) is started_entry
            self.expected.running[started_entry.delivery.key] = started_entry

    @hypothesis.stateful.precondition(lambda self: self.expected.running)
    @hypothesis.stateful.rule(data=st.data(), result=st.sampled_from([outcome.DELIVERED, FAILED, REJECTED, None]))
    def end_one(self, data: st.DataObject, result: outcome.Outcome | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.expected.running)))
        destination = self.expected.running.pop(key).destination
        if self.scheduler.done(key, result, self.now) and data.draw(st.booleans()):
            for drained in self.scheduler.drain(destination):
                del self.expected.waiting[drained.delivery.key]

    @hypothesis.stateful.rule(number=st.integers(0, 5), rate=st.sampled_from([None, RateLimit(2, 7, "n//vendor")]))
    def configure(self, number: int, rate: RateLimit | None) -> None:
        self.scheduler.configure(f"n/{number}", LaneLimits(2, rate), self.now)

    @hypothesis.stateful.rule(numbers=st.sets(st.integers(0, 5)))
    def remove_other_lanes(self, numbers: set[int]) -> None:
        self.scheduler.keep_lanes([f"n/{number}" for number in numbers])

    @hypothesis.stateful.invariant()
    def totals_match_the_deliveries(self) -> None:
        held = [*self.expected.waiting.values(), *self.expected.running.values()]
        assert self.scheduler.bytes == sum(held_entry.size for held_entry in held) <= 20_000
        assert self.scheduler.count == len(self.expected.waiting)
        assert self.scheduler.in_flight == len(self.expected.running) <= 12

    def teardown(self) -> None:
        """Following ``next_ready`` alone delivers everything that still waits."""
        for _ in range(10_000):
            finish(self.scheduler, list(self.expected.running.values()), outcome.DELIVERED, self.now)
            self.expected.running.clear()
            self.start_all()
            if not self.expected.waiting:
                return
            if not self.expected.running:
                assert self.scheduler.next_ready(self.now) is None
                assert self.scheduler.wakes_at > self.now
                self.now = self.scheduler.wakes_at
        raise AssertionError("deliveries never started")


TestScheduler = SchedulerMachine.TestCase
