from hypothesis import given
from hypothesis import strategies as st

from support import delivery_samples
from usher_gateway import model
from usher_gateway.delivery import retry

NOW = delivery_samples.RECEIVED_AT
SECOND = 1_000_000
WEEK = 7 * 86_400

randomness = st.floats(0, 1, exclude_max=True)


def decided(
    delivery: model.Delivery, now: int = NOW, *, slow: bool = False, retry_after: int = 0, spread: float = 0.5
) -> retry.RetryDecision:
    """Decide about a failed attempt, with an age limit of a week."""
    return retry.decide(
        delivery, slow=slow, retry_after=retry_after, max_age_seconds=WEEK, now=now, confirmed=now, randomness=spread
    )


def test_schedule_has_the_documented_steps() -> None:
    waits = [retry.wait(attempts, slow=False, randomness=0.5) // SECOND for attempts in range(1, 11)]
    assert waits == [5, 30, 120, 600, 1800, 3600, 10_800, 21_600, 21_600, 21_600]


@given(st.integers(1, 10_000), randomness, st.booleans())
def test_wait_differs_from_its_step_by_at_most_a_fifth(attempts: int, spread: float, slow: bool) -> None:
    middle = retry.wait(attempts, slow=slow, randomness=0.5)
    assert 0.8 * middle - 1 <= retry.wait(attempts, slow=slow, randomness=spread) <= 1.2 * middle + 1


def test_slow_retry_waits_at_least_ten_minutes_and_the_schedule() -> None:
    for attempts in range(1, 12):
        slow, normal = (retry.wait(attempts, slow=is_slow, randomness=0.5) for is_slow in (True, False))
        assert slow == max(normal, 600 * SECOND)


@given(st.integers(0, 40), st.integers(0, 2 * WEEK * SECOND), randomness, st.integers(0, 3600 * SECOND))
def test_retry_is_due_within_the_age_unless_retry_after_is_later(
    attempts: int, age: int, spread: float, asked: int
) -> None:
    delivery = delivery_samples.delivery(attempts=attempts, started_at=NOW - age)
    decision = decided(delivery, retry_after=asked, spread=spread)
    if age >= WEEK * SECOND:
        assert decision.step is retry.NextStep.Dead
    else:
        assert decision.step is retry.NextStep.Retry
        assert max(1, asked) <= decision.due_at - NOW <= max(asked, WEEK * SECOND - age)


@given(st.lists(st.integers(0, 10 * WEEK * SECOND), max_size=30), randomness)
def test_time_on_hold_does_not_count_against_the_age(holds: list[int], spread: float) -> None:
    delivery = delivery_samples.delivery(started_at=NOW)
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


def test_retry_after_the_routes_time_limit_expires() -> None:
    delivery = delivery_samples.delivery(expires_at=NOW + 20 * SECOND)
    assert decided(delivery).step is retry.NextStep.Retry
    delivery.attempts = 1
    assert decided(delivery).step is retry.NextStep.Expired


def test_delivery_expires_exactly_at_its_time_limit() -> None:
    assert not retry.is_expired(delivery_samples.delivery(expires_at=NOW), NOW - 1)
    assert retry.is_expired(delivery_samples.delivery(expires_at=NOW), NOW)
    assert not retry.is_expired(delivery_samples.delivery(expires_at=0), NOW)


def test_retry_without_retry_after_follows_the_schedule() -> None:
    decision = decided(delivery_samples.delivery(attempts=3))
    assert decision.due_at - NOW == 600 * SECOND


def test_slow_outcome_waits_at_least_ten_minutes() -> None:
    assert decided(delivery_samples.delivery(), slow=True).due_at - NOW == 600 * SECOND


def test_delivery_ends_by_the_confirmed_time_and_is_due_by_the_clock() -> None:
    ahead = NOW + 20 * 52 * WEEK * SECOND
    delivery = delivery_samples.delivery(started_at=NOW, expires_at=NOW + 3600 * SECOND)
    for confirmed, expected in ((NOW, retry.NextStep.Retry), (NOW + WEEK * SECOND, retry.NextStep.Dead)):
        decision = retry.decide(
            delivery, slow=False, retry_after=0, max_age_seconds=WEEK, now=ahead, confirmed=confirmed, randomness=0.5
        )
        assert decision.step is expected
        assert decision.due_at == (ahead + 5 * SECOND if expected is retry.NextStep.Retry else 0)
