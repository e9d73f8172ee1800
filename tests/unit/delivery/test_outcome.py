import email.utils
from typing import Any

import multidict
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import delivery_samples
from usher_gateway import model
from usher_gateway.delivery import outcome
from usher_gateway.destinations import DestinationAnswer, SendError

NOW = delivery_samples.RECEIVED_AT
SECOND = 1_000_000
HOUR = 3600 * SECOND
WEEK = 7 * 86_400


def classified(status: int = 0, error: SendError | None = None, **headers: str) -> outcome.Outcome:
    named = multidict.CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return outcome.classify(DestinationAnswer(status, named, b"", error), delivery_samples.destination(), NOW)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_counts_as_delivered(status: int) -> None:
    assert classified(status) == outcome.DELIVERED


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
def test_temporary_status_is_retried(status: int) -> None:
    result = classified(status)
    assert (result.kind, result.slow, result.blames_destination) == (model.SettledAs.Retry, False, True)


@pytest.mark.parametrize("error", list(SendError))
def test_missing_answer_is_retried_and_blames_the_destination(error: SendError) -> None:
    result = classified(error=error)
    assert (result.kind, result.error, result.blames_destination) == (model.SettledAs.Retry, error, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 401, 403, 404])
def test_status_that_needs_a_person_is_retried_slowly(status: int) -> None:
    result = classified(status)
    assert (result.kind, result.slow) == (model.SettledAs.Retry, True)


@pytest.mark.parametrize("status", [400, 402, 405, 406, 409, 411, 413, 415, 422, 451, 499])
def test_rejected_body_is_dead_and_does_not_blame_the_destination(status: int) -> None:
    result = classified(status)
    assert (result.kind, result.error, result.blames_destination) == (model.SettledAs.Dead, "Rejected", False)


@pytest.mark.parametrize("status", [0, 99, 100, 101, 600, 999])
def test_unknown_status_is_retried(status: int) -> None:
    assert classified(status).kind is model.SettledAs.Retry


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        ({}, model.SettledAs.Retry),
        ({"WIFIWEBHOOKLISTENER": "1"}, model.SettledAs.Delivered),
        ({"wifiwebhooklistener": " 1 "}, model.SettledAs.Delivered),
        ({"wifiWebhookListener": "0"}, model.SettledAs.Retry),
    ],
)
def test_required_success_header_must_be_present(sent: dict[str, str], kind: model.SettledAs) -> None:
    destination = delivery_samples.destination(success_header=("wifiWebhookListener", "1"))
    answer = DestinationAnswer(200, multidict.CIMultiDict(sent))
    assert outcome.classify(answer, destination, NOW).kind is kind


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120), (" 7 ", 7), ("0", 0), ("3601", 3600), ("9" * 60, 3600), ("9" * 9000, 3600), ("-5", 0), ("1.5", 0)],
)
def test_retry_after_in_seconds_is_capped_at_an_hour(value: str, seconds: int) -> None:
    assert classified(503, retry_after=value).retry_after == seconds * 1_000_000


@pytest.mark.parametrize(("ahead", "expected"), [(90, 90), (-90, 0), (86_400, 3600)])
def test_retry_after_as_a_date_is_capped_at_an_hour(ahead: int, expected: int) -> None:
    now = NOW // 1_000_000 * 1_000_000
    value = email.utils.formatdate(now // 1_000_000 + ahead, usegmt=True)
    assert outcome.retry_after(value, now) == expected * 1_000_000


@given(st.text(max_size=80) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ \S*"))
def test_any_retry_after_yields_at_most_an_hour(value: str) -> None:
    assert 0 <= outcome.retry_after(value, NOW) <= HOUR


def test_retry_after_is_ignored_for_dead_deliveries() -> None:
    assert classified(200, retry_after="60").retry_after == 0
    assert classified(422, retry_after="60").retry_after == 0


def settled(answer: DestinationAnswer, **changes: object) -> model.Settlement:
    return outcome.conclude(
        delivery_samples.delivery(attempts=2, **changes), answer, delivery_samples.destination(), NOW, 0.5, NOW
    ).settlement


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (DestinationAnswer(202, {}, b"thanks"), (model.SettledAs.Delivered, 202, "", b"", 0)),
        (DestinationAnswer(503, {}, b"jane@example.com"), (model.SettledAs.Retry, 503, "ServerError", b"", 120)),
        (DestinationAnswer(error=SendError.Timeout), (model.SettledAs.Retry, 0, "Timeout", b"", 120)),
        (DestinationAnswer(400, {}, b"x" * 1024), (model.SettledAs.Dead, 400, "Rejected", b"x" * 256, 0)),
    ],
    ids=["delivered", "failed", "without an answer", "dead"],
)
def test_attempt_keeps_status_and_error_and_the_answer_only_if_dead(answer: DestinationAnswer, expected: Any) -> None:
    result = settled(answer)
    seconds = max(0, result.due_at - NOW) // 1_000_000
    assert (result.settled_as, result.status, result.error, result.answer, seconds) == expected
    assert (result.attempts_before, result.attempts) == (2, 3)


def test_delivery_expires_if_its_next_attempt_would_be_too_late() -> None:
    result = settled(DestinationAnswer(503), expires_at=NOW + 1)
    assert (result.settled_as, result.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)


@pytest.mark.parametrize("reason", list(model.HoldReason))
def test_held_delivery_counts_no_attempt(reason: model.HoldReason) -> None:
    result = outcome.held(delivery_samples.delivery(attempts=2), reason, NOW).settlement
    assert (result.settled_as, result.hold, result.attempts) == (model.SettledAs.Held, reason, 2)


def test_cancelled_delivery_counts_no_attempt() -> None:
    result = outcome.cancelled(delivery_samples.delivery(attempts=2), model.CancelReason.Expired, NOW).settlement
    assert (result.settled_as, result.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)
    assert (result.attempts_before, result.attempts) == (2, 2)


def test_result_contains_the_outcome_for_the_circuit() -> None:
    attempt_result = outcome.conclude(
        delivery_samples.delivery(), DestinationAnswer(410), delivery_samples.destination(), NOW, 0.5, NOW
    )
    assert attempt_result.outcome == outcome.Outcome(model.SettledAs.Dead, "Gone", blames_destination=True)


def test_internal_error_counts_no_attempt_and_retries_in_ten_minutes() -> None:
    result = outcome.internal_error(delivery_samples.delivery(attempts=2), NOW).settlement
    assert (result.settled_as, result.attempts, result.error) == (model.SettledAs.Retry, 2, "InternalError")
    assert result.due_at == NOW + 600 * 1_000_000


randomness = st.floats(0, 1, exclude_max=True)


def decided(
    delivery: model.Delivery, now: int = NOW, *, slow: bool = False, retry_after: int = 0, spread: float = 0.5
) -> tuple[model.SettledAs, int]:
    """Decide about a failed attempt, with an age limit of a week."""
    return outcome.decide_retry(
        delivery, slow=slow, retry_after=retry_after, max_age_seconds=WEEK, now=now, confirmed=now, randomness=spread
    )


def test_schedule_has_the_documented_steps() -> None:
    waits = [outcome.retry_wait(attempts, slow=False, randomness=0.5) // SECOND for attempts in range(1, 11)]
    assert waits == [5, 30, 120, 600, 1800, 3600, 10_800, 21_600, 21_600, 21_600]


@given(st.integers(1, 10_000), randomness, st.booleans())
def test_wait_differs_from_its_step_by_at_most_a_fifth(attempts: int, spread: float, slow: bool) -> None:
    middle = outcome.retry_wait(attempts, slow=slow, randomness=0.5)
    assert 0.8 * middle - 1 <= outcome.retry_wait(attempts, slow=slow, randomness=spread) <= 1.2 * middle + 1


def test_slow_retry_waits_at_least_ten_minutes_and_the_schedule() -> None:
    for attempts in range(1, 12):
        slow, normal = (outcome.retry_wait(attempts, slow=is_slow, randomness=0.5) for is_slow in (True, False))
        assert slow == max(normal, 600 * SECOND)


@given(st.integers(0, 40), st.integers(0, 2 * WEEK * SECOND), randomness, st.integers(0, 3600 * SECOND))
def test_retry_is_due_within_the_age_unless_retry_after_is_later(
    attempts: int, age: int, spread: float, asked: int
) -> None:
    delivery = delivery_samples.delivery(attempts=attempts, started_at=NOW - age)
    settled_as, due_at = decided(delivery, retry_after=asked, spread=spread)
    if age >= WEEK * SECOND:
        assert settled_as is model.SettledAs.Dead
    else:
        assert settled_as is model.SettledAs.Retry
        assert max(1, asked) <= due_at - NOW <= max(asked, WEEK * SECOND - age)


@given(st.lists(st.integers(0, 10 * WEEK * SECOND), max_size=30), randomness)
def test_time_on_hold_does_not_count_against_the_age(holds: list[int], spread: float) -> None:
    delivery = delivery_samples.delivery(started_at=NOW)
    now, tried, attempts = NOW, 0, 0
    for attempts in range(200):
        held = holds[attempts] if attempts < len(holds) else 0
        now += held
        delivery.attempts, delivery.started_at = attempts, delivery.started_at + held
        settled_as, due_at = decided(delivery, now, spread=spread)
        if settled_as is model.SettledAs.Dead:
            break
        tried += due_at - now
        now = due_at
    assert tried == WEEK * SECOND
    assert 25 < attempts < 50


def test_retry_after_the_routes_time_limit_expires() -> None:
    delivery = delivery_samples.delivery(expires_at=NOW + 20 * SECOND)
    assert decided(delivery) == (model.SettledAs.Retry, NOW + 5 * SECOND)
    delivery.attempts = 1
    assert decided(delivery) == (model.SettledAs.Cancelled, 0)


def test_delivery_expires_exactly_at_its_time_limit() -> None:
    assert not outcome.is_expired(delivery_samples.delivery(expires_at=NOW), NOW - 1)
    assert outcome.is_expired(delivery_samples.delivery(expires_at=NOW), NOW)
    assert not outcome.is_expired(delivery_samples.delivery(expires_at=0), NOW)


def test_delivery_ends_by_the_confirmed_time_and_is_due_by_the_clock() -> None:
    ahead = NOW + 20 * 52 * WEEK * SECOND
    delivery = delivery_samples.delivery(started_at=NOW, expires_at=NOW + 3600 * SECOND)
    retried, dead = (model.SettledAs.Retry, ahead + 5 * SECOND), (model.SettledAs.Dead, 0)
    for confirmed, expected in ((NOW, retried), (NOW + WEEK * SECOND, dead)):
        decision = outcome.decide_retry(
            delivery, slow=False, retry_after=0, max_age_seconds=WEEK, now=ahead, confirmed=confirmed, randomness=0.5
        )
        assert decision == expected
