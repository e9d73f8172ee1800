"""How an attempt ends, in the store's words: from a destination's answer to the settlement. Pure."""

import msgspec

from usher_gateway import documents, model
from usher_gateway.delivery import outcome, retry
from usher_gateway.destinations import DestinationAnswer

KEPT_ANSWER_BYTES = 256
"""How much of the last answer a dead delivery keeps."""


class Ended(msgspec.Struct, frozen=True):
    """An attempt that was made: what it came to (for circuit and metrics), and what the store is told."""

    outcome: outcome.Outcome
    settlement: model.Settlement


def ended(
    delivery: model.Delivery,
    answer: DestinationAnswer,
    destination: documents.Destination,
    now: int,
    randomness: float,
) -> Ended:
    """After an attempt. ``randomness`` is in [0, 1)."""
    result = outcome.classify(answer, destination, now)
    if result.kind is outcome.Kind.Delivered:
        before = delivery.attempts
        done = model.Settlement(delivery.key, model.SettledAs.Delivered, now, before, before + 1, status=answer.status)
        return Ended(result, done)
    decision = retry.decide(delivery, result, destination.retry_max_age_seconds, now, randomness)
    return Ended(result, _settlement(delivery, answer, result, decision, now))


def expired(delivery: model.Delivery, now: int) -> model.Settlement:
    """Instead of an attempt: the time that its route allows is over."""
    return model.Settlement(
        delivery.key,
        model.SettledAs.Cancelled,
        now,
        delivery.attempts,
        delivery.attempts,
        cancel=model.CancelReason.Expired,
    )


def held(delivery: model.Delivery, reason: model.HoldReason, now: int) -> model.Settlement:
    """Instead of an attempt: it waits for a person or a date."""
    return model.Settlement(delivery.key, model.SettledAs.Held, now, delivery.attempts, delivery.attempts, hold=reason)


_SETTLED_AS = {
    retry.NextStep.Retry: model.SettledAs.Retry,
    retry.NextStep.Dead: model.SettledAs.Dead,
    retry.NextStep.Expired: model.SettledAs.Cancelled,
}


def _settlement(
    delivery: model.Delivery, answer: DestinationAnswer, result: outcome.Outcome, decision: retry.Decision, now: int
) -> model.Settlement:
    settled_as = _SETTLED_AS[decision.step]
    return model.Settlement(
        delivery.key,
        settled_as,
        now,
        delivery.attempts,
        delivery.attempts + 1,
        due_at=decision.due_at,
        cancel=model.CancelReason.Expired if settled_as is model.SettledAs.Cancelled else None,
        status=answer.status,
        error=result.error,
        answer=answer.body[:KEPT_ANSWER_BYTES] if settled_as is model.SettledAs.Dead else b"",
    )
