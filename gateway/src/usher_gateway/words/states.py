"""Document, listener and destination states as callers read them, and the faults that these have."""

import enum
from typing import Literal

import msgspec

from usher_gateway import config_secret, documents


class ListenerFault(enum.StrEnum):
    """A listener's fault that a person may have to correct. Most are also condition reasons."""

    Refusing = "Refusing"
    AuthenticationUnresolved = "AuthenticationUnresolved"
    """The Secret with the credentials never existed, so every arrival is refused."""
    CompanyMismatch = "CompanyMismatch"
    DeliveriesHeld = "DeliveriesHeld"
    Quarantining = "Quarantining"
    ExpressionTooSlow = "ExpressionTooSlow"
    TimesUntrusted = "TimesUntrusted"
    UnexpectedSource = "UnexpectedSource"
    """Arrivals come from outside ``allowedSources``, and the policy Report lets them in."""
    RetiredAddressUsed = "RetiredAddressUsed"
    Silent = "Silent"
    Unverified = "Unverified"
    """No visit has arrived yet at any present address."""


class ListenerState(msgspec.Struct, frozen=True, rename="camel"):
    """A listener's health."""

    receiving: Literal["Receiving", "NoVisitYet", "Silent"]
    """``Silent``: nothing was accepted for longer than the listener's ``silence.afterSeconds``, and the listener has
    been in force for that long."""
    verified_since: str | None
    """When a present address first accepted a visit (RFC 3339)."""
    verified_addresses: tuple[str, ...]
    """Present addresses (``Address.id``) that accepted a visit."""
    probed_addresses: tuple[str, ...]
    """Present addresses (``Address.id``) that were probed since the gateway started."""
    refusing: bool
    """The last arrivals were refused, and none was accepted between them."""
    refused_reason: str | None
    """Why the last one was, while ``refusing``."""
    missing: str | None
    """A sentence about the Secret with the credentials: what it must have; None: nothing is missing."""
    quarantined_share: float
    """Share of arrivals accepted in the last 15 minutes, rounded to a thousandth."""
    quarantining: bool
    """The share is over a twentieth; then it has to fall to a fortieth."""
    company_mismatch: bool
    """Another company's arrival was accepted in the last 15 minutes."""
    times_untrusted: bool
    """Over 10 % of arrivals accepted in the last 15 minutes, at least 10, had a time in the body that is not
    trusted: without an offset or far in the future. It ends at 5 %. A body without a time does not count."""
    untrusted_times_share: float
    """Their share, rounded to a hundredth."""
    untrusted_time_reason: str | None
    """Why the last one is not trusted, while ``times_untrusted``: ``NoOffset`` (or not a time), or ``InFuture``."""
    unexpected_sources: bool
    """In the last 15 minutes, the policy Report let in an arrival from outside ``allowedSources``."""
    held_deliveries: tuple[dict[str, str], ...]
    """``HeldRoute`` for each route with held deliveries. A hold's end shows after a review, half a minute later."""
    degraded_routes: tuple[dict[str, str], ...]
    """``route`` and ``reason`` for each route that the gateway holds because its expression is too slow."""
    retired_arrivals: dict[str, str]
    """Retired address (``Address.id``) that was used -> when the hour of its last arrival ended (RFC 3339), so
    that the state changes at most once an hour."""


def faults_of(state: ListenerState, document: documents.ListenerDocument) -> list[ListenerFault]:
    """Return a listener's faults, the most urgent first."""
    faults = {
        ListenerFault.Refusing: state.refusing,
        ListenerFault.AuthenticationUnresolved: document.authentication.type == "Unresolved",
        ListenerFault.CompanyMismatch: state.company_mismatch,
        ListenerFault.DeliveriesHeld: bool(state.held_deliveries),
        ListenerFault.Quarantining: state.quarantining,
        ListenerFault.ExpressionTooSlow: bool(state.degraded_routes),
        ListenerFault.TimesUntrusted: state.times_untrusted,
        ListenerFault.UnexpectedSource: state.unexpected_sources,
        ListenerFault.RetiredAddressUsed: bool(state.retired_arrivals),
        ListenerFault.Silent: state.receiving == "Silent" and bool(state.verified_addresses),
        ListenerFault.Unverified: len(state.verified_addresses) < len(document.live_addresses),
    }
    return [fault for fault, is_there in faults.items() if is_there]


def cause_of(fault: ListenerFault, state: ListenerState) -> str:
    """Return a fault's cause in a word; ``""`` if that is not possible."""
    match fault:
        case ListenerFault.Refusing:
            return state.refused_reason or ""
        case ListenerFault.Quarantining:
            return f"{state.quarantined_share:.0%}"
        case ListenerFault.TimesUntrusted:
            return f"{state.untrusted_times_share:.0%} {state.untrusted_time_reason or ''}".rstrip()
    return ""


class DestinationHealth(enum.StrEnum):
    """A destination's health in one word, the worst first. The condition Healthy has it as its reason."""

    Gone = "Gone"
    """It answered 410."""
    AddressForbidden = "AddressForbidden"
    SecretNotFound = "SecretNotFound"
    """A Secret or a value in it is missing."""
    TokenFailed = "TokenFailed"
    """Its token endpoint issues no token."""
    CircuitOpen = "CircuitOpen"
    Failing = "Failing"
    """Its last attempts failed, too few for the circuit (``delivery.activity.is_failing``)."""
    NotTried = "NotTried"
    """Nothing was sent to its present URL yet."""
    Healthy = "Healthy"


NOT_FAILING = frozenset((DestinationHealth.NotTried, DestinationHealth.Healthy))

# A sample's outcome (`delivery.sample.SampleResult`) -> what would become of a visit.
SAMPLE_OUTCOMES = {
    "Delivered": "a visit would be delivered",
    "Retry": "a visit would be tried again",
    "Dead": "a visit would be dead at once",
}

# Errors with which a delivery dies at its first attempt (`delivery.outcome.AnswerError`).
_REJECTIONS = frozenset(("Rejected", "RejectedByRule"))


def has_rejecting_error(health: str | None, error: str | None) -> bool:
    """Return whether a failing destination answers so that deliveries die at their first attempt."""
    return health == DestinationHealth.Failing and error in _REJECTIONS


class DestinationState(msgspec.Struct, frozen=True, rename="camel"):
    """A destination's health."""

    health: DestinationHealth
    circuit: str
    error: str | None
    """Its last error code while it is failing."""
    status: int | None
    """HTTP status of the answer with that error; None: there was no answer."""
    unresolved: str | None
    """A sentence about a Secret: what it must have; None: nothing is missing."""


class DocumentState(msgspec.Struct, frozen=True):
    """One document's state: ``hash`` is that of the one in force, ``rejected`` says why a newer one is not."""

    kind: config_secret.Kind
    key: str
    hash: str | None
    """None: no document version is in force."""
    rejected: str | None
    vanished: bool


State = DocumentState | ListenerState | DestinationState
Key = tuple[str, config_secret.Kind, str]  # `document` or `observed`, kind, `namespace/name`
