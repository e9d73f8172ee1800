"""Classifies a destination's answer, decides when a delivery is tried again, and what the store records. Pure."""

import email.utils
import enum
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from usher_gateway import documents, expressions, model
from usher_gateway.destinations import DestinationAnswer, SendError

MAX_RETRY_AFTER_SECONDS = 3600  # The longest time that a `Retry-After` may ask for

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DAY_SECONDS = 86_400
_UNIX_TIME = 1_000_000_000  # Numbers from here on are times and no durations
_MAX_RETRY_AFTER_LENGTH = 64  # Characters of a `Retry-After` that the gateway reads. A date has 29.
INTERNAL_ERROR_RETRY_SECONDS = 600  # When a delivery is tried again whose attempt failed by an error in Usher
INTERNAL_ERROR = "InternalError"  # The code of such an attempt

# When a delivery is looked at again whose time is over according to a clock that is not confirmed.
UNCONFIRMED_RETRY_SECONDS = 60

# The wait after the first, second … failed attempt. The last one repeats.
RETRY_STEPS_SECONDS = (5, 30, 120, 600, 1800, 3600, 10_800, 21_600)

# The shortest wait after an answer whose cause mostly a person has to repair (rotated credential, moved URL).
SLOW_RETRY_SECONDS = 600

# Waits vary by this share in both directions, so that deliveries that failed together do not return together.
RETRY_SPREAD = 0.2

KEPT_ANSWER_BYTES = 256  # Bytes of the last answer that a dead delivery keeps

# CPU time for one answer's evaluations after which no other begins, because they stop the event loop.
MAX_RULES_SECONDS = 0.05


class AnswerError(enum.StrEnum):
    """Why an answer does not count as delivered. ``SendError`` has the codes for attempts without an answer."""

    SuccessHeaderMissing = "SuccessHeaderMissing"
    Redirected = "Redirected"
    Unauthorized = "Unauthorized"
    Forbidden = "Forbidden"
    NotFound = "NotFound"
    RequestTimeout = "RequestTimeout"
    TooEarly = "TooEarly"
    TooManyRequests = "TooManyRequests"
    Gone = "Gone"
    Rejected = "Rejected"
    """Another 4xx: the destination does not accept this delivery."""
    ServerError = "ServerError"
    RetriedByRule = "RetriedByRule"
    """A rule in ``http.answers`` has the effect ``Retry``."""
    ThrottledByRule = "ThrottledByRule"
    RejectedByRule = "RejectedByRule"
    """A rule has the effect ``Dead``."""
    RuleFailed = "RuleFailed"
    """A rule could not be evaluated."""


class Outcome(msgspec.Struct, frozen=True):
    """An attempt's classified result."""

    kind: model.SettledAs
    """Delivered, Retry or Dead."""
    error: str = ""
    """A code from AnswerError or SendError. Empty for Delivered."""
    slow: bool = False
    """Retry slowly, because mostly a person has to repair something first."""
    retry_after: int = 0
    """Microseconds that the destination asked to wait."""
    blames_destination: bool = False
    """The failure counts for the circuit, because the destination caused it and not this delivery."""


DELIVERED = Outcome(model.SettledAs.Delivered)  # The result of an attempt that succeeded

_BY_STATUS = {
    401: Outcome(model.SettledAs.Retry, AnswerError.Unauthorized, slow=True, blames_destination=True),
    403: Outcome(model.SettledAs.Retry, AnswerError.Forbidden, slow=True, blames_destination=True),
    404: Outcome(model.SettledAs.Retry, AnswerError.NotFound, slow=True, blames_destination=True),
    408: Outcome(model.SettledAs.Retry, AnswerError.RequestTimeout, blames_destination=True),
    410: Outcome(model.SettledAs.Dead, AnswerError.Gone, blames_destination=True),
    425: Outcome(model.SettledAs.Retry, AnswerError.TooEarly, blames_destination=True),
    429: Outcome(model.SettledAs.Retry, AnswerError.TooManyRequests, blames_destination=True),
}
_BY_EFFECT = {
    "Delivered": DELIVERED,
    "Retry": Outcome(model.SettledAs.Retry, AnswerError.RetriedByRule, blames_destination=True),
    "Throttle": Outcome(model.SettledAs.Retry, AnswerError.ThrottledByRule, blames_destination=True),
    "Dead": Outcome(model.SettledAs.Dead, AnswerError.RejectedByRule),
}
_RULE_FAILED = Outcome(model.SettledAs.Retry, AnswerError.RuleFailed, slow=True, blames_destination=True)
_FOR_A_PERSON = frozenset(
    (SendError.AddressForbidden, SendError.BadRequest, SendError.TokenRefused, SendError.TokenKeyInvalid)
)
_SUCCESS_HEADER_MISSING = Outcome(
    model.SettledAs.Retry, AnswerError.SuccessHeaderMissing, slow=True, blames_destination=True
)
_REDIRECTED = Outcome(model.SettledAs.Retry, AnswerError.Redirected, slow=True, blames_destination=True)
_REJECTED = Outcome(model.SettledAs.Dead, AnswerError.Rejected)
_SERVER_ERROR = Outcome(model.SettledAs.Retry, AnswerError.ServerError, blames_destination=True)
_BAD_ANSWER = Outcome(model.SettledAs.Retry, SendError.BadAnswer, blames_destination=True)


def classify(answer: DestinationAnswer, destination: documents.DestinationDocument, now: int) -> Outcome:
    """Classify an answer. ``now`` (microseconds) is needed for a ``Retry-After`` that is a date."""
    if answer.error is not None:
        is_for_a_person = answer.error in _FOR_A_PERSON
        return Outcome(model.SettledAs.Retry, answer.error, slow=is_for_a_person, blames_destination=True)
    outcome = _by_rule(answer, destination) or _by_status(answer, destination)
    asked_for = _retry_after_of(answer, destination, now) if outcome.kind is model.SettledAs.Retry else 0
    return msgspec.structs.replace(outcome, retry_after=asked_for) if asked_for else outcome


def _by_rule(answer: DestinationAnswer, destination: documents.DestinationDocument) -> Outcome | None:
    applied = apply_rules(destination.answers, answer)
    return _RULE_FAILED if applied.error_code else _BY_EFFECT.get(applied.effect)


def _retry_after_of(answer: DestinationAnswer, destination: documents.DestinationDocument, now: int) -> int:
    """Return the microseconds that an answer asks for, by either header; 0 if it asks for none."""
    asked_for = retry_after(answer.headers.get("retry-after", ""), now)
    if destination.retry_after_header:
        asked_for = max(asked_for, vendor_retry_after(answer.headers.get(destination.retry_after_header, ""), now))
    return asked_for


class AppliedRule(msgspec.Struct, frozen=True):
    """A destination's first rule that applies to an answer."""

    effect: str = ""
    """``AnswerRule.effect``; ``""``: no rule applies, or ``error_code`` is set."""
    number: int = 0
    """The rule's position, from 1; 0: none applies."""
    error_code: str = ""
    """Why the first rule that could apply cannot be evaluated, as in docs/expressions.md."""


def rules_read_body(destination: documents.DestinationDocument) -> bool:
    """Return whether a destination's rules look at answers' bodies."""
    return any(
        rule.when and expressions.compile_expression(rule.when, "answer").reads_answer_body
        for rule in destination.answers
    )


def apply_rules(rules: tuple[documents.AnswerRule, ...], answer: DestinationAnswer) -> AppliedRule:
    """Return what the first rule says that applies to an answer."""
    values, used_seconds = None, 0.0
    for number, rule in enumerate(rules, 1):
        if rule.statuses and answer.status not in rule.statuses:
            continue
        if rule.when:
            program = expressions.compile_expression(rule.when, "answer")
            if program.reads_answer_body and not answer.is_complete:
                return AppliedRule(number=number, error_code="AnswerIncomplete")
            if used_seconds > MAX_RULES_SECONDS:
                return AppliedRule(number=number, error_code="TooExpensive")
            values = _values(answer) if values is None else values
            evaluation = program.evaluate_answer(values)
            used_seconds += evaluation.cpu_seconds
            if evaluation.error_code:
                return AppliedRule(number=number, error_code=evaluation.error_code)
            if not evaluation.value:
                continue
        return AppliedRule(rule.effect, number)
    return AppliedRule()


def _values(answer: DestinationAnswer) -> Mapping[str, object]:
    # CEL has no surrogates.
    headers = {name.lower(): model.without_surrogates(value) for name, value in answer.headers.items()}
    return {"status": answer.status, "headers": headers, "body": _document(answer.body)}


def _document(body: bytes) -> object:
    """Return a body as JSON, or as text if it is not JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")


def vendor_retry_after(value: str, now: int) -> int:
    """Return the microseconds that a vendor's own header asks for, at most an hour, or 0 if it cannot be read.

    Seconds, with a fraction or not; over a day: milliseconds; from 2001 on: a Unix time in seconds or milliseconds; or
    an HTTP date.
    """
    text = value[:_MAX_RETRY_AFTER_LENGTH].strip()
    if not _NUMBER.fullmatch(text):
        return retry_after(text, now)
    number = float(text)
    if number >= _UNIX_TIME:
        seconds = (number / 1000 if number >= _UNIX_TIME * 1000 else number) - now / model.MICROSECONDS
    else:
        seconds = number / 1000 if number > _DAY_SECONDS else number
    return round(max(0.0, min(seconds, MAX_RETRY_AFTER_SECONDS)) * model.MICROSECONDS)


def retry_after(value: str, now: int) -> int:
    """Return the microseconds that a ``Retry-After`` asks for, at most an hour, or 0 if it cannot be read.

    Source: RFC 9110 §10.2.3: seconds, or an HTTP date.
    """
    text = value[:_MAX_RETRY_AFTER_LENGTH].strip()
    if text.isascii() and text.isdigit():
        return min(int(text), MAX_RETRY_AFTER_SECONDS) * model.MICROSECONDS
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0
    return max(0, min(int(moment) * model.MICROSECONDS - now, MAX_RETRY_AFTER_SECONDS * model.MICROSECONDS))


def _by_status(answer: DestinationAnswer, destination: documents.DestinationDocument) -> Outcome:
    status = answer.status
    if 200 <= status < 300:
        expected = destination.success_header
        is_confirmed = expected is None or answer.headers.get(expected[0].lower(), "").strip() == expected[1]
        return DELIVERED if is_confirmed else _SUCCESS_HEADER_MISSING
    outcome = _BY_STATUS.get(status)
    if outcome is not None:
        return outcome
    if 300 <= status < 400:
        return _REDIRECTED
    if 400 <= status < 500:
        return _REJECTED
    return _SERVER_ERROR if 500 <= status < 600 else _BAD_ANSWER


def retry_wait(attempts: int, *, slow: bool, randomness: float) -> int:
    """Return the microseconds to wait after ``attempts`` failed attempts (1 or more). ``randomness`` is in [0, 1)."""
    step = RETRY_STEPS_SECONDS[min(attempts, len(RETRY_STEPS_SECONDS)) - 1]
    if slow:
        step = max(step, SLOW_RETRY_SECONDS)
    return round(step * model.MICROSECONDS * (1 - RETRY_SPREAD + 2 * RETRY_SPREAD * randomness))


def is_expired(delivery: model.Delivery, now: int) -> bool:
    """Return whether the delivery's time limit is over. Checked before every attempt."""
    return 0 < delivery.expires_at <= now


def decide_retry(
    delivery: model.Delivery,
    *,
    slow: bool,
    retry_after: int,
    max_age_seconds: int,
    now: int,
    confirmed: int,
    randomness: float,
) -> tuple[model.SettledAs, int]:
    """Return what becomes of a delivery after a failed attempt that may be repeated, and when it is due (or 0).

    The last attempt comes when ``max_age_seconds`` are over, unless the destination asked for a later one. Time on hold
    does not count, because ending a hold moves ``delivery.started_at`` forward.

    ``delivery.attempts`` does not count this attempt yet. ``slow`` and ``retry_after`` are as in ``Outcome``.
    ``confirmed`` is ``now``, or earlier if the clock jumped ahead: the delivery ends only by this time.
    """
    remaining = delivery.started_at + max_age_seconds * model.MICROSECONDS - confirmed
    if remaining <= 0:
        return model.SettledAs.Dead, 0
    delay = retry_wait(delivery.attempts + 1, slow=slow, randomness=randomness)
    delay = max(min(delay, remaining), retry_after)
    if is_expired(delivery, confirmed + delay):
        return model.SettledAs.Cancelled, 0  # expired before the next attempt
    return model.SettledAs.Retry, now + delay


class AttemptResult(msgspec.Struct, frozen=True):
    """How an attempt ended."""

    settlement: model.Settlement
    """The record for the store."""
    outcome: Outcome | None = None
    """For the circuit and the metrics. None if the request was not sent."""


def conclude(
    delivery: model.Delivery,
    answer: DestinationAnswer,
    destination: documents.DestinationDocument,
    now: int,
    randomness: float,
    confirmed: int,
    *,
    milliseconds: int = 0,
) -> AttemptResult:
    """Turn the answer to an attempt into what the store records. ``randomness`` is in [0, 1).

    ``confirmed`` is the time by which the delivery may end (``Clock.confirmed``). ``milliseconds`` is how long the
    attempt took.
    """
    outcome = classify(answer, destination, now)
    settled_as, due_at = outcome.kind, 0
    if settled_as is model.SettledAs.Retry:
        settled_as, due_at = decide_retry(
            delivery,
            slow=outcome.slow,
            retry_after=outcome.retry_after,
            max_age_seconds=destination.retry_max_age_seconds,
            now=now,
            confirmed=confirmed,
            randomness=randomness,
        )
    settlement = model.Settlement(
        delivery.key,
        settled_as,
        now,
        delivery.attempts,
        delivery.attempts + 1,
        due_at=due_at,
        cancel=model.CancelReason.Expired if settled_as is model.SettledAs.Cancelled else None,
        status=answer.status,
        error=outcome.error,
        answer=answer.body[:KEPT_ANSWER_BYTES] if settled_as is model.SettledAs.Dead else b"",
        milliseconds=milliseconds,
    )
    return AttemptResult(settlement, outcome)


def _without_request(delivery: model.Delivery, settled_as: model.SettledAs, now: int, **fields: Any) -> AttemptResult:
    attempts = delivery.attempts
    return AttemptResult(model.Settlement(delivery.key, settled_as, now, attempts, attempts, **fields))


def cancelled(delivery: model.Delivery, reason: model.CancelReason, now: int) -> AttemptResult:
    """Cancel a delivery instead of an attempt."""
    return _without_request(delivery, model.SettledAs.Cancelled, now, cancel=reason)


def held(delivery: model.Delivery, reason: model.HoldReason, now: int) -> AttemptResult:
    """Hold a delivery instead of an attempt, until a person or a date removes the reason."""
    return _without_request(delivery, model.SettledAs.Held, now, hold=reason)


def postponed(delivery: model.Delivery, now: int) -> AttemptResult:
    """Look at a delivery again in a minute, because its time is over only if the clock is right (Clock.confirmed)."""
    due_at = now + UNCONFIRMED_RETRY_SECONDS * model.MICROSECONDS
    return _without_request(delivery, model.SettledAs.Retry, now, due_at=due_at, hold=delivery.filter_hold)


def internal_error(delivery: model.Delivery, now: int) -> AttemptResult:
    """Retry a delivery later whose attempt failed by an error in Usher."""
    due_at = now + INTERNAL_ERROR_RETRY_SECONDS * model.MICROSECONDS
    return _without_request(
        delivery, model.SettledAs.Retry, now, due_at=due_at, hold=delivery.filter_hold, error=INTERNAL_ERROR
    )
