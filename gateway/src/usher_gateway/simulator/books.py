"""The simulator's own books: what was sent to each listener, and what came back."""

import array
import math

import msgspec

from usher_gateway.simulator import answer


class Validation(msgspec.Struct, frozen=True):
    """One call of the portal's "Save and Validate"."""

    shape: str
    """``GET``, ``HEAD``, ``POST empty``, ``POST {}`` or ``POST sample visit``."""
    outcome: answer.Outcome
    status: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the portal would be content."""
        return self.outcome is answer.Outcome.Acknowledged


SAMPLE_SHAPE = "POST sample visit"
"""The one shape of validation that is a visit to the listener."""


class Latency(msgspec.Struct, frozen=True):
    """Seconds from connecting to the end of the answer, over requests that were answered at all."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class ListenerBooks(msgspec.Struct, kw_only=True):
    """The books of one listener. Requests of the validation are only in ``validations``."""

    name: str
    visits: int = 0
    """Planned: first authentications of a visitor at a venue within the hour."""
    repeats: int = 0
    """Planned: authentications within the hour of such a visit."""
    redeliveries: int = 0
    """Planned: acknowledged authentications that are sent again with the same bytes."""
    hang_ups: int = 0
    """Planned: first sendings on which the sender hangs up."""
    validations: list[Validation] = []
    sent: int = 0
    """Requests that ended: the sum of ``answered_well``, all failures and ``hung_up``."""
    answered_well: int = 0
    failed_by_status: dict[int, int] = {}
    header_missing: int = 0
    header_wrong: int = 0
    timed_out: int = 0
    """Whether the listener had committed these cannot be known here: see ``timed_out_markers``."""
    unreachable: int = 0
    tls_failed: int = 0
    broken: int = 0
    hung_up: int = 0
    wrong: int = 0
    """Answers, among the failures, with which no retry would ever help."""
    cut_off: int = 0
    """Requests under way when the run was interrupted; not in ``sent``."""
    retries: int = 0
    redelivered: int = 0
    """Redeliveries that were answered well."""
    acknowledged: int = 0
    """Authentications that were answered well at least once."""
    unacknowledged: int = 0
    """Authentications that were not (yet): ``visits + repeats - acknowledged``."""
    never_sent: int = 0
    """Those of the unacknowledged that were not even sent: interrupted, not validated, or disabled before."""
    disabled: bool = False
    """Purple has given up on this listener; a person must validate it again in the portal."""
    behind_seconds: float = 0.0
    """The longest that a request left later than planned, because the sender was busy or at its concurrency bound."""
    latency: Latency = Latency()
    timed_out_markers: list[str] = []
    """Markers (bodies.marker) of what timed out or was hung up on at least once: compare with what arrived."""
    unacknowledged_markers: list[str] = []

    @property
    def authentications(self) -> int:
        """Planned first sendings."""
        return self.visits + self.repeats

    @property
    def failures(self) -> int:
        """Requests that ended in another way than Purple wants; hang-ups are the sender's own."""
        named = self.header_missing + self.header_wrong + self.timed_out
        return named + self.unreachable + self.tls_failed + self.broken + sum(self.failed_by_status.values())

    @property
    def sample_visits(self) -> int:
        """Visits that the listener should count on top of the planned ones: the validation's sample."""
        return sum(each.shape == SAMPLE_SHAPE and each.passed for each in self.validations)

    @property
    def probes(self) -> int:
        """Requests of the validation that hold no visit."""
        return sum(each.shape != SAMPLE_SHAPE for each in self.validations)


class Books(msgspec.Struct, kw_only=True):
    """The books of a simulation, one per listener, in the order of the settings."""

    listeners: list[ListenerBooks]
    real_seconds: float = 0.0
    interrupted: bool = False

    @property
    def unacknowledged(self) -> int:
        """Over all listeners."""
        return sum(each.unacknowledged for each in self.listeners)


def enter(books: ListenerBooks, result: answer.Answer) -> None:
    """Count a request that ended."""
    books.sent += 1
    books.wrong += result.is_wrong
    match result.outcome:
        case answer.Outcome.Acknowledged:
            books.answered_well += 1
        case answer.Outcome.WrongStatus:
            books.failed_by_status[result.status] = books.failed_by_status.get(result.status, 0) + 1
        case answer.Outcome.HeaderMissing:
            books.header_missing += 1
        case answer.Outcome.HeaderWrong:
            books.header_wrong += 1
        case answer.Outcome.TimedOut:
            books.timed_out += 1
        case answer.Outcome.Unreachable:
            books.unreachable += 1
        case answer.Outcome.TLSFailed:
            books.tls_failed += 1
        case answer.Outcome.Broken:
            books.broken += 1
        case answer.Outcome.HungUp:
            books.hung_up += 1


def latency_of(seconds: "array.array[float]") -> Latency:
    """The quantiles (nearest rank) of what was measured."""
    if not seconds:
        return Latency()
    ordered = sorted(seconds)
    return Latency(p50=_rank(ordered, 0.5), p99=_rank(ordered, 0.99), max=ordered[-1])


def _rank(ordered: list[float], part: float) -> float:
    return ordered[max(0, math.ceil(len(ordered) * part) - 1)]
