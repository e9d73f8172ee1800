"""Each request's outcome, the sender's own books, and the verdict: would this listener survive Purple? Pure.

Source: docs/purple.md, The webhook: only 200 with ``wifiWebhookListener: 1`` within 10 s is success.
"""

import array
import enum
import math
from collections.abc import Iterable

import msgspec

SUCCESS_HEADER = "wifiWebhookListener"  # The header that a listener has to answer with
SUCCESS_VALUE = "1"  # The value of that header
LIMIT_SECONDS = 10.0  # How long Purple waits for an answer, from the start of the connection
RETRY_SECONDS = 10_800.0  # How long after a failure Purple sends the visit again: 3 h

# After this time with failures only, Purple disables the hook. Purple says "prolonged"; 72 h is our guess.
DISABLE_SECONDS = 259_200.0

_COME_BACK_LATER = (408, 425, 429)


class RequestOutcome(enum.Enum):
    """How a request ended, from the sender's side."""

    Acknowledged = "acknowledged"
    WrongStatus = "wrong status"
    HeaderMissing = "header missing"
    HeaderWrong = "header wrong"
    TimedOut = "timed out"
    Unreachable = "unreachable"
    TLSFailed = "TLS failed"
    Broken = "connection broken"
    HungUp = "hung up"
    """The sender closed the connection, because the plan says so."""


class RequestResult(msgspec.Struct, frozen=True, gc=False):
    """A request's result. ``seconds`` counts from the connection's start; ``status`` is 0 without an answer."""

    outcome: RequestOutcome
    status: int = 0
    seconds: float = 0.0
    cause: str = ""
    """Why there was no connection, and to which address."""
    header_name: str = ""
    """The success header's name as the answer has it, with its upper and lower case."""

    @property
    def is_wrong(self) -> bool:
        """True if this answer would never satisfy Purple, even after retries."""
        if self.outcome is RequestOutcome.WrongStatus:
            return self.status < 500 and self.status not in _COME_BACK_LATER
        return self.outcome in {RequestOutcome.HeaderMissing, RequestOutcome.HeaderWrong, RequestOutcome.TLSFailed}


def classify_answer(status: int, header: str | None) -> RequestOutcome:
    """Return how Purple classifies a complete answer with this status and header value."""
    if status != 200:
        return RequestOutcome.WrongStatus
    if header is None:
        return RequestOutcome.HeaderMissing
    return RequestOutcome.Acknowledged if header.strip() == SUCCESS_VALUE else RequestOutcome.HeaderWrong


class Hook:
    """Whether Purple still posts to a listener. Purple stops after a prolonged time with failures only."""

    def __init__(self, disable_seconds: float = DISABLE_SECONDS) -> None:
        self._disable_seconds = disable_seconds
        self._failing_since: float | None = None
        self.disabled = False

    def succeeded(self) -> None:
        """Record a success, which ends a time of failures."""
        self._failing_since = None

    def failed(self, now: float) -> bool:
        """Record a failure at ``now`` (simulated seconds); return whether it disabled the hook."""
        if self._failing_since is None:
            self._failing_since = now
        just_disabled = not self.disabled and now - self._failing_since >= self._disable_seconds
        self.disabled = self.disabled or just_disabled
        return just_disabled


class Validation(msgspec.Struct, frozen=True):
    """One "Save and Validate" call from the portal."""

    shape: str
    """``GET``, ``HEAD``, ``POST empty``, ``POST {}`` or ``POST sample visit``."""
    outcome: RequestOutcome
    status: int
    seconds: float
    cause: str = ""
    """The cause that `RequestResult` has."""

    @property
    def passed(self) -> bool:
        """True if the portal would accept the answer."""
        return self.outcome is RequestOutcome.Acknowledged


SAMPLE_SHAPE = "POST sample visit"  # The only validation call that is a visit for the listener


class Latency(msgspec.Struct, frozen=True):
    """Seconds from the connection's start to the answer's end, for requests with an answer."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class SenderBooks(msgspec.Struct, kw_only=True):
    """The sender's counts for one listener. Validation calls are only in ``validations``."""

    name: str
    visits: int = 0
    """Planned: a visitor's first authentications at a venue within the hour."""
    repeats: int = 0
    """Planned: authentications within an hour after such a visit."""
    redeliveries: int = 0
    """Planned: acknowledged authentications that the sender sends again with the same bytes."""
    hang_ups: int = 0
    """Planned: first requests on which the sender hangs up."""
    validations: list[Validation] = []
    sent: int = 0
    """Requests that ended: the sum of ``answered_well``, all failures and ``hung_up``."""
    answered_well: int = 0
    failed_by_status: dict[int, int] = {}
    header_missing: int = 0
    header_wrong: int = 0
    timed_out: int = 0
    """The sender cannot know whether the listener committed these: see ``timed_out_markers``."""
    unreachable: int = 0
    tls_failed: int = 0
    causes: dict[str, int] = {}
    """Cause -> requests among ``unreachable`` and ``tls_failed``."""
    broken: int = 0
    hung_up: int = 0
    wrong: int = 0
    """Failures that no retry can cure."""
    cut_off: int = 0
    """Requests under way when the run was interrupted; not in ``sent``."""
    retries: int = 0
    redelivered: int = 0
    """Redeliveries with a correct answer."""
    acknowledged: int = 0
    """Authentications with at least one correct answer."""
    unacknowledged: int = 0
    """Authentications without one: ``visits + repeats - acknowledged``."""
    never_sent: int = 0
    """Unacknowledged authentications that the sender never sent: it was interrupted, not validated, or disabled."""
    header_name: str = ""
    """The success header's name as the last answer with it had it."""
    disabled: bool = False
    """Purple has disabled the hook; a user must validate it again in the portal."""
    behind_seconds: float = 0.0
    """The longest delay behind the plan, because the sender was busy or at its concurrency limit."""
    latency: Latency = Latency()
    timed_out_markers: list[str] = []
    """Markers (schedule.marker) for requests that timed out or were hung up on at least once."""
    unacknowledged_markers: list[str] = []

    @property
    def authentications(self) -> int:
        """How many authentications are planned."""
        return self.visits + self.repeats

    @property
    def failures(self) -> int:
        """Requests without a correct answer. Hang-ups do not count, because the sender causes them."""
        named = self.header_missing + self.header_wrong + self.timed_out
        return named + self.unreachable + self.tls_failed + self.broken + sum(self.failed_by_status.values())

    @property
    def sample_visits(self) -> int:
        """Visits that the listener counts in addition to the plan: the validation's sample."""
        return sum(validation.shape == SAMPLE_SHAPE and validation.passed for validation in self.validations)

    @property
    def probes(self) -> int:
        """Validation calls without a visit."""
        return sum(validation.shape != SAMPLE_SHAPE for validation in self.validations)


class SimulationBooks(msgspec.Struct, kw_only=True):
    """All listeners' books, in the settings' order."""

    listeners: list[SenderBooks]
    real_seconds: float = 0.0
    interrupted: bool = False

    @property
    def unacknowledged(self) -> int:
        """The sum over all listeners."""
        return sum(listener.unacknowledged for listener in self.listeners)


def total_of(listeners: Iterable[SenderBooks]) -> SenderBooks:
    """Return all listeners' counts added up; for each latency kind, the worst."""
    total = SenderBooks(name="all")
    for listener in listeners:
        for field in listener.__struct_fields__:
            value = getattr(listener, field)
            if type(value) is int:
                setattr(total, field, getattr(total, field) + value)
        for status, count in listener.failed_by_status.items():
            total.failed_by_status[status] = total.failed_by_status.get(status, 0) + count
        for cause, count in listener.causes.items():
            total.causes[cause] = total.causes.get(cause, 0) + count
        worst = zip(msgspec.structs.astuple(total.latency), msgspec.structs.astuple(listener.latency), strict=True)
        total.latency = Latency(*map(max, worst))
    return total


def record_answer(listener: SenderBooks, result: RequestResult) -> None:
    """Count a request that ended."""
    listener.sent += 1
    listener.wrong += result.is_wrong
    listener.header_name = result.header_name or listener.header_name
    if result.cause:
        listener.causes[result.cause] = listener.causes.get(result.cause, 0) + 1
    match result.outcome:
        case RequestOutcome.Acknowledged:
            listener.answered_well += 1
        case RequestOutcome.WrongStatus:
            listener.failed_by_status[result.status] = listener.failed_by_status.get(result.status, 0) + 1
        case RequestOutcome.HeaderMissing:
            listener.header_missing += 1
        case RequestOutcome.HeaderWrong:
            listener.header_wrong += 1
        case RequestOutcome.TimedOut:
            listener.timed_out += 1
        case RequestOutcome.Unreachable:
            listener.unreachable += 1
        case RequestOutcome.TLSFailed:
            listener.tls_failed += 1
        case RequestOutcome.Broken:
            listener.broken += 1
        case RequestOutcome.HungUp:
            listener.hung_up += 1


def latency_of(seconds: "array.array[float]") -> Latency:
    """Return the quantiles (nearest rank) for the measured seconds."""
    if not seconds:
        return Latency()
    ordered = sorted(seconds)
    return Latency(p50=_rank(ordered, 0.5), p99=_rank(ordered, 0.99), max=ordered[-1])


def _rank(ordered: list[float], part: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]


class Verdict(msgspec.Struct, frozen=True):
    """``survives`` is False if something is wrong; ``lines`` say what, why, and what to do."""

    survives: bool
    lines: tuple[str, ...]


def judge_books(
    listener: SenderBooks,
    *,
    https: bool = True,
    verified: bool = True,
    interrupted: bool = False,
    validate_only: bool = False,
) -> Verdict:
    """Return the verdict on one listener. ``verified``: the sender checked the certificate."""
    wrongs = [*_wrong_url(listener), *_validation(listener)]
    notes = [*_header_case(listener), *_transport(https=https, verified=verified)]
    if not validate_only:
        wrongs += _answers(listener)
        notes = [*_unacknowledged(listener), *_remarks(listener), *notes]
    if wrongs:
        return Verdict(survives=False, lines=("Would not survive Purple.", *wrongs, *notes))
    if interrupted:
        return Verdict(survives=False, lines=("No verdict: it was interrupted before the end.", *notes))
    if listener.unacknowledged and not validate_only:
        return Verdict(survives=False, lines=("Has not survived Purple yet.", *notes))
    verdict = "The portal would accept it" if validate_only else "Would survive Purple"
    verdict += "" if https else " if its URL were https"
    after_retry = ": what failed was acknowledged after a retry" if listener.failures and not validate_only else ""
    return Verdict(survives=True, lines=(f"{verdict}{after_retry}.", *notes))


def _wrong_url(listener: SenderBooks) -> list[str]:
    """Return a sentence if every answer was 404."""
    answers = {*[validation.status for validation in listener.validations], *listener.failed_by_status}
    if answers != {404} or listener.failed_by_status.get(404, 0) != listener.sent:
        return []
    sentence = "Every answer was 404, so no listener has this URL."
    return [
        f"{sentence} If it is one of Usher, it is no URL that `usher url` prints now, with the gateway's data folder."
    ]


def _validation(listener: SenderBooks) -> list[str]:
    failed = [validation for validation in listener.validations if not validation.passed]
    if not failed:
        return []
    by_reason: dict[str, list[str]] = {}
    for failure in failed:
        by_reason.setdefault(explain(failure.outcome, failure.status, failure.cause), []).append(failure.shape)
    reasons = "; ".join(f"{', '.join(shapes)}: {reason}" for reason, shapes in by_reason.items())
    if len(failed) == len(listener.validations):
        return [f"The portal would refuse to save it, so Purple would never send a visit ({reasons})."]
    return [
        f"The portal may refuse to save it ({reasons}): its call is not documented, so answer each 200 with the header."
    ]


def _answers(listener: SenderBooks) -> list[str]:
    lines = []
    if listener.disabled:
        lines.append(
            "THE HOOK WAS DISABLED after a prolonged time of failures: Purple sends nothing more, and does not report "
            "it through the hook. A user must validate the hook again in the portal."
        )
    missing = listener.header_missing + listener.header_wrong
    if missing:
        lines.append(
            f"Answers of 200 without the header {SUCCESS_HEADER}: {SUCCESS_VALUE}: {missing}. To Purple "
            "that is a failure: it brings the visit back every 3 hours, and enough of them disable the hook."
        )
    wrong = {
        status: count
        for status, count in sorted(listener.failed_by_status.items())
        if RequestResult(RequestOutcome.WrongStatus, status).is_wrong
    }
    if wrong:
        counts = ", ".join(f"{status}: {count}" for status, count in wrong.items())
        lines.append(
            f"Wrong answers ({counts}): only 200 is success (redirects are not followed). After a 4xx Purple sends the "
            "visit again until it disables the webhook. Answer 200, and quarantine bodies that are not valid."
        )
    if listener.tls_failed:
        lines.append(f"Failed for TLS: {listener.tls_failed}. Purple posts only where the certificate is valid.")
    return lines


def _unacknowledged(listener: SenderBooks) -> list[str]:
    lines = []
    tried = listener.unacknowledged - listener.never_sent
    if tried:
        again = "" if listener.disabled else ": Purple would bring them again 3 hours after each try"
        lines.append(f"Still unacknowledged: {tried}{again}.")
    if listener.never_sent:
        lines.append(f"Never sent: {listener.never_sent}.")
    return lines


def _remarks(listener: SenderBooks) -> list[str]:
    lines = []
    if listener.failures:
        lines.append(f"Failed requests: {listener.failures} ({failures(listener)}); retries: {listener.retries}.")
        lines += [f"No connection ({count}): {cause}." for cause, count in listener.causes.items()]
    if listener.timed_out or listener.hung_up:
        lines.append(
            f"Given up without an answer: {listener.timed_out + listener.hung_up}. What the listener had stored all "
            "the same comes twice; Purple sends no event id, so it has to tell by the content."
        )
    redeliveries = listener.redeliveries - listener.redelivered
    if redeliveries:
        lines.append(f"Planned redeliveries that were not sent or not acknowledged before the end: {redeliveries}.")
    if listener.latency.p99 > 0.5 * LIMIT_SECONDS:
        lines.append(f"It is slow: p99 {listener.latency.p99:.1f} s of the {LIMIT_SECONDS:.0f} s that it has.")
    if listener.behind_seconds > 1:
        lines.append(
            f"The sender was up to {listener.behind_seconds:.1f} s behind its plan: the listener was slower than the "
            "rate, with as many requests under way as the sender allows."
        )
    return lines


def _header_case(listener: SenderBooks) -> list[str]:
    if listener.header_name in {"", SUCCESS_HEADER}:
        return []
    note = (
        f"The header came as {listener.header_name}, mostly because a proxy rewrites names: it is not known whether "
        f"Purple accepts another case than {SUCCESS_HEADER} (docs/operations.md, Behind a proxy)."
    )
    return [note]


def _transport(*, https: bool, verified: bool) -> list[str]:
    if not https:
        return ["The URL is not https: Purple posts only to https with a valid certificate."]
    return [] if verified else ["The certificate was not checked: Purple posts only where it is valid."]


def failures(listener: SenderBooks) -> str:
    """Return the failures by kind on one line, or ``none``."""
    kinds = {
        **{str(status): count for status, count in sorted(listener.failed_by_status.items())},
        "without header": listener.header_missing,
        "wrong header": listener.header_wrong,
        "timed out": listener.timed_out,
        "unreachable": listener.unreachable,
        "TLS": listener.tls_failed,
        "broken": listener.broken,
    }
    return ", ".join(f"{name}: {count}" for name, count in kinds.items() if count) or "none"


def explain(outcome: RequestOutcome, status: int, cause: str = "") -> str:
    """Describe an outcome in a few words."""
    if cause:
        return f"{outcome.value} ({cause})"
    if outcome is RequestOutcome.WrongStatus:
        return f"status {status}"
    return f"{status}, {outcome.value}" if status else outcome.value
