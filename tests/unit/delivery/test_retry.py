from hypothesis import given, settings
from hypothesis import strategies as st

from unit.delivery import samples
from usher_gateway import model
from usher_gateway.delivery import retry

NOW = samples.RECEIVED_AT
SECOND = 1_000_000
WEEK = 7 * 86_400

randomness = st.floats(0, 1, exclude_max=True)


def decided(
    delivery: model.Delivery, now: int = NOW, *, slow: bool = False, retry_after: int = 0, spread: float = 0.5
) -> retry.RetryDecision:
    """What follows a failed attempt, with an age limit of a week."""
    return retry.decide(delivery, slow=slow, retry_after=retry_after, max_age_seconds=WEEK, now=now, randomness=spread)


def test_the_schedule_is_the_one_promised() -> None:
    waits = [retry.wait(attempts, slow=False, randomness=0.5) // SECOND for attempts in range(1, 11)]
    assert waits == [5, 30, 120, 600, 1800, 3600, 10_800, 21_600, 21_600, 21_600]


@settings(max_examples=100)
@given(st.integers(1, 10_000), randomness, st.booleans())
def test_a_wait_differs_from_its_step_by_a_fifth_at_most(attempts: int, spread: float, slow: bool) -> None:
    middle = retry.wait(attempts, slow=slow, randomness=0.5)
    assert 0.8 * middle - 1 <= retry.wait(attempts, slow=slow, randomness=spread) <= 1.2 * middle + 1


def test_a_slow_retry_never_comes_before_its_least_wait_nor_before_the_schedule() -> None:
    for attempts in range(1, 12):
        slow, normal = (retry.wait(attempts, slow=one, randomness=0.5) for one in (True, False))
        assert slow == max(normal, 600 * SECOND)


@settings(max_examples=100)
@given(st.integers(0, 40), st.integers(0, 2 * WEEK * SECOND), randomness, st.integers(0, 3600 * SECOND))
def test_a_retry_is_later_than_now_and_within_the_age_unless_asked_for_later(
    attempts: int, age: int, spread: float, asked: int
) -> None:
    delivery = samples.delivery(attempts=attempts, started_at=NOW - age)
    decision = decided(delivery, retry_after=asked, spread=spread)
    if age >= WEEK * SECOND:
        assert decision.step is retry.NextStep.Dead
    else:
        assert decision.step is retry.NextStep.Retry
        assert max(1, asked) <= decision.due_at - NOW <= max(asked, WEEK * SECOND - age)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 10 * WEEK * SECOND), max_size=30), randomness)
def test_time_held_costs_nothing_and_the_last_attempt_is_at_the_full_age(holds: list[int], spread: float) -> None:
    delivery = samples.delivery(started_at=NOW)
    now, tried, attempts = NOW, 0, 0
    for attempts in range(200):
        held = holds[attempts] if attempts < len(holds) else 0
        now += held
        delivery.attempts, delivery.started_at = attempts, delivery.started_at + held
        decision = decided(delivery, now, spread=spread)
        if decision.step is retry.NextStep.Dead:
            break
        tried += decision.due_at - now
        now = decision.due_at
    assert tried == WEEK * SECOND
    assert 25 < attempts < 50


def test_a_retry_that_would_come_after_the_routes_limit_expires_instead() -> None:
    delivery = samples.delivery(expires_at=NOW + 20 * SECOND)
    assert decided(delivery).step is retry.NextStep.Retry
    delivery.attempts = 1
    assert decided(delivery).step is retry.NextStep.Expired


def test_a_delivery_expires_at_its_very_instant_and_never_without_one() -> None:
    assert not retry.is_expired(samples.delivery(expires_at=NOW), NOW - 1)
    assert retry.is_expired(samples.delivery(expires_at=NOW), NOW)
    assert not retry.is_expired(samples.delivery(expires_at=0), NOW)


def test_a_destination_that_asks_for_no_wait_still_gets_the_schedule() -> None:
    decision = decided(samples.delivery(attempts=3))
    assert decision.due_at - NOW == 600 * SECOND


def test_a_slow_outcome_waits_at_least_ten_minutes() -> None:
    assert decided(samples.delivery(), slow=True).due_at - NOW == 600 * SECOND
