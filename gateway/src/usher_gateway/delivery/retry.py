"""Decides when a delivery is tried again and when it is dead. Pure: randomness is an argument."""

import enum

import msgspec

from usher_gateway import model

STEPS_SECONDS = (5, 30, 120, 600, 1800, 3600, 10_800, 21_600)
"""The wait after the first, second … failed attempt. The last one repeats."""

SLOW_STEP_SECONDS = 600
"""The shortest wait after an answer whose cause mostly a person has to repair (rotated credential, moved URL)."""

SPREAD = 0.2
"""Waits vary by this share in both directions, so that deliveries that failed together do not return together."""


class NextStep(enum.Enum):
    """The steps that can follow a failed attempt."""

    Retry = "Retry"
    Dead = "Dead"
    Expired = "Expired"
    """The route's ``deliverWithinSeconds`` would be over at the next attempt."""


class RetryDecision(msgspec.Struct, frozen=True):
    """The step that follows a failed attempt. ``due_at`` (microseconds) is set for Retry."""

    step: NextStep
    due_at: int = 0


DEAD = RetryDecision(NextStep.Dead)
"""The delivery is given up."""


def wait(attempts: int, *, slow: bool, randomness: float) -> int:
    """Return the microseconds to wait after ``attempts`` failed attempts (1 or more). ``randomness`` is in [0, 1)."""
    step = STEPS_SECONDS[min(attempts, len(STEPS_SECONDS)) - 1]
    if slow:
        step = max(step, SLOW_STEP_SECONDS)
    return round(step * model.MICROSECONDS * (1 - SPREAD + 2 * SPREAD * randomness))


def is_expired(delivery: model.Delivery, now: int) -> bool:
    """Return whether the delivery's time limit is over. Checked before every attempt."""
    return 0 < delivery.expires_at <= now


def decide(
    delivery: model.Delivery,
    *,
    slow: bool,
    retry_after: int,
    max_age_seconds: int,
    now: int,
    confirmed: int,
    randomness: float,
) -> RetryDecision:
    """Decide what follows an attempt that failed and may be repeated.

    The last attempt comes when ``max_age_seconds`` are over, unless the destination asked for a later one. Time on hold
    does not count, because the end of a hold moves ``delivery.started_at`` forward.

    Args:
        delivery: Its ``attempts`` do not count this attempt yet.
        slow: True if mostly a person has to repair something first.
        retry_after: Microseconds that the destination asked to wait, or 0.
        max_age_seconds: The destination's ``retry.maxAgeSeconds``.
        now: Microseconds.
        confirmed: ``now``, or earlier if the clock jumped ahead: the delivery ends only by this time.
        randomness: In [0, 1).
    """
    remaining = delivery.started_at + max_age_seconds * model.MICROSECONDS - confirmed
    if remaining <= 0:
        return DEAD
    delay = wait(delivery.attempts + 1, slow=slow, randomness=randomness)
    delay = max(min(delay, remaining), retry_after)
    if is_expired(delivery, confirmed + delay):
        return RetryDecision(NextStep.Expired)
    return RetryDecision(NextStep.Retry, now + delay)
