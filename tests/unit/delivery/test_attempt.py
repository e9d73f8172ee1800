import pytest

from unit.delivery import samples
from usher_gateway import model
from usher_gateway.delivery import attempt, outcome
from usher_gateway.destinations import DestinationAnswer, SendError

NOW = samples.RECEIVED_AT


def settled(answer: DestinationAnswer, **changes: object) -> model.Settlement:
    return attempt.ended(samples.delivery(attempts=2, **changes), answer, samples.destination(), NOW, 0.5).settlement


def test_a_delivered_attempt_keeps_its_status_and_nothing_of_the_answer() -> None:
    result = settled(DestinationAnswer(202, {}, b"thanks"))
    assert (result.settled_as, result.status, result.answer, result.error) == (model.SettledAs.Delivered, 202, b"", "")
    assert (result.attempts_before, result.attempts) == (2, 3)


def test_a_failed_attempt_is_due_again_and_keeps_its_code_but_no_answer() -> None:
    result = settled(DestinationAnswer(503, {}, b"jane@example.com"))
    assert (result.settled_as, result.error, result.answer) == (model.SettledAs.Retry, "ServerError", b"")
    assert result.due_at == NOW + 120 * 1_000_000


def test_a_dead_delivery_keeps_256_bytes_of_the_answer() -> None:
    result = settled(DestinationAnswer(400, {}, b"x" * 1024))
    assert (result.settled_as, result.error, result.answer) == (model.SettledAs.Dead, "Rejected", b"x" * 256)


def test_an_attempt_without_an_answer_counts_as_one() -> None:
    result = settled(DestinationAnswer(error=SendError.Timeout))
    assert (result.settled_as, result.status, result.error) == (model.SettledAs.Retry, 0, "Timeout")
    assert result.attempts == 3


def test_a_delivery_whose_next_attempt_would_be_too_late_is_cancelled_as_expired() -> None:
    result = settled(DestinationAnswer(503), expires_at=NOW + 1)
    assert (result.settled_as, result.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)


@pytest.mark.parametrize("reason", list(model.HoldReason))
def test_a_held_delivery_has_made_no_attempt(reason: model.HoldReason) -> None:
    result = attempt.held(samples.delivery(attempts=2), reason, NOW)
    assert (result.settled_as, result.hold, result.attempts) == (model.SettledAs.Held, reason, 2)


def test_an_expired_delivery_has_made_no_attempt() -> None:
    result = attempt.expired(samples.delivery(attempts=2), NOW)
    assert (result.settled_as, result.cancel) == (model.SettledAs.Cancelled, model.CancelReason.Expired)
    assert (result.attempts_before, result.attempts) == (2, 2)


def test_the_outcome_comes_with_the_settlement_for_the_circuit() -> None:
    made = attempt.ended(samples.delivery(), DestinationAnswer(410), samples.destination(), NOW, 0.5)
    assert (made.outcome.kind, made.outcome.gone) == (outcome.Kind.Dead, True)
