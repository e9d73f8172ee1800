"""What an answer of a destination means for the delivery (design §3, Outcomes). Pure."""

import email.utils
import enum

import msgspec

from usher_gateway import documents, model
from usher_gateway.destinations import DestinationAnswer, SendError

MAX_RETRY_AFTER_SECONDS = 3600
"""How long a destination may put off the next attempt by ``Retry-After``."""

_LONGEST_RETRY_AFTER = 64
"""Characters of a ``Retry-After`` that are looked at: a date has 29."""


class Kind(enum.Enum):
    """The three ends of an attempt."""

    Delivered = "Delivered"
    Retry = "Retry"
    Dead = "Dead"


class AnswerError(enum.StrEnum):
    """Why an answer is not taken as delivered; ``SendError`` has the codes where there was no answer."""

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
    """Another 4xx: the destination will not take this delivery."""
    ServerError = "ServerError"


class Outcome(msgspec.Struct, frozen=True):
    """What an attempt came to."""

    kind: Kind
    error: str = ""
    """A code of AnswerError or SendError; ``""`` for Delivered."""
    slow: bool = False
    """Retry slowly: a person mostly has to mend something first."""
    retry_after: int = 0
    """Microseconds before which the destination does not want to be asked again."""
    gone: bool = False
    blames_destination: bool = False
    """Counts for the destination's circuit: it says something about the destination, not about this delivery."""


DELIVERED = Outcome(Kind.Delivered)
"""The one good end."""

_BY_STATUS = {
    401: Outcome(Kind.Retry, AnswerError.Unauthorized, slow=True, blames_destination=True),
    403: Outcome(Kind.Retry, AnswerError.Forbidden, slow=True, blames_destination=True),
    404: Outcome(Kind.Retry, AnswerError.NotFound, slow=True, blames_destination=True),
    408: Outcome(Kind.Retry, AnswerError.RequestTimeout, blames_destination=True),
    410: Outcome(Kind.Dead, AnswerError.Gone, gone=True, blames_destination=True),
    425: Outcome(Kind.Retry, AnswerError.TooEarly, blames_destination=True),
    429: Outcome(Kind.Retry, AnswerError.TooManyRequests, blames_destination=True),
}
_SUCCESS_HEADER_MISSING = Outcome(Kind.Retry, AnswerError.SuccessHeaderMissing, slow=True, blames_destination=True)
_REDIRECTED = Outcome(Kind.Retry, AnswerError.Redirected, slow=True, blames_destination=True)
_REJECTED = Outcome(Kind.Dead, AnswerError.Rejected)
_SERVER_ERROR = Outcome(Kind.Retry, AnswerError.ServerError, blames_destination=True)
_BAD_ANSWER = Outcome(Kind.Retry, SendError.BadAnswer, blames_destination=True)


def classify(answer: DestinationAnswer, destination: documents.Destination, now: int) -> Outcome:
    """What an answer means. ``now`` (microseconds) is for a ``Retry-After`` that is a date."""
    if answer.error is not None:
        return _without_answer(answer.error)
    if 200 <= answer.status < 300:
        return DELIVERED if _confirmed(answer, destination.success_header) else _SUCCESS_HEADER_MISSING
    found = _by_status(answer.status)
    asked_for = answer.headers.get("retry-after", "") if found.kind is Kind.Retry else ""
    if not asked_for:
        return found
    return msgspec.structs.replace(found, retry_after=retry_after(asked_for, now))


def retry_after(value: str, now: int) -> int:
    """Microseconds that a ``Retry-After`` asks for, at most an hour; 0 where it says nothing of use.

    Source: RFC 9110 §10.2.3: seconds, or an HTTP date.
    """
    text = value[:_LONGEST_RETRY_AFTER].strip()
    if text.isascii() and text.isdigit():
        return min(int(text), MAX_RETRY_AFTER_SECONDS) * model.MICROSECONDS
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0
    return max(0, min(int(moment) * model.MICROSECONDS - now, MAX_RETRY_AFTER_SECONDS * model.MICROSECONDS))


def _without_answer(error: SendError) -> Outcome:
    return Outcome(
        Kind.Retry,
        error,
        slow=error in (SendError.AddressForbidden, SendError.BadRequest),
        blames_destination=True,
    )


def _confirmed(answer: DestinationAnswer, wanted: tuple[str, str] | None) -> bool:
    return wanted is None or answer.headers.get(wanted[0].lower(), "").strip() == wanted[1]


def _by_status(status: int) -> Outcome:
    found = _BY_STATUS.get(status)
    if found is not None:
        return found
    if 300 <= status < 400:
        return _REDIRECTED
    if 400 <= status < 500:
        return _REJECTED
    return _SERVER_ERROR if 500 <= status < 600 else _BAD_ANSWER
