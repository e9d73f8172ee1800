"""Tells in one sentence why a tenant needs a person, and names the next step. Pure; it takes rows of the API."""

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

from usher_gateway.admin import listings, next_step, troubles

Row = Mapping[str, Any]

HOLDS = {reason.name: text for reason, text in next_step.HOLDS.items()}
"""Reason of a hold -> why that holds deliveries, and what ends it."""


class Attention(NamedTuple):
    """Why a tenant needs a person."""

    sentence: str
    step: str
    """The next step; empty: nothing to do."""
    is_urgent: bool


def of_tenant(tenant: Row, destinations: Mapping[str, Row], now: datetime.datetime) -> Attention:
    """Return what a tenant needs most.

    Args:
        tenant: a row of ``GET /api/tenants``.
        destinations: rows of ``GET /api/destinations`` by ``namespace/name``.
        now: with a time zone.
    """
    needs = needs_of_tenant(tenant, destinations, now)
    if not needs:
        return Attention(_quiet(tenant, now), "", is_urgent=False)
    sentence, step = needs[0]
    others = list(troubles.tenant_troubles(dict(tenant)).values())[1:]
    rest = f" Also: {', '.join(others)}." if others else ""
    return Attention(sentence + rest, step, is_urgent=True)


def needs_of_tenant(tenant: Row, destinations: Mapping[str, Row], now: datetime.datetime) -> list[tuple[str, str]]:
    """Return all that a tenant needs, the most urgent first: each a sentence and the next step. Takes the same rows."""
    kinds = troubles.tenant_troubles(dict(tenant))
    return [_TEXTS[kind](tenant, destinations, now) for kind in kinds]


def _quiet(tenant: Row, now: datetime.datetime) -> str:
    if tenant["lastArrival"] is None:
        return "No arrival yet."
    return f"Nothing to do. Last arrival {ago(tenant['lastArrival'], now)} ago."


def ago(text: str, now: datetime.datetime) -> str:
    """Return the time since an RFC 3339 time in words: ``5 min``, ``26 h``, ``3 days``."""
    seconds = max(0.0, (now - datetime.datetime.fromisoformat(text)).total_seconds())
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def _destinations(tenant: Row, destinations: Mapping[str, Row], now: datetime.datetime) -> tuple[str, str]:
    (first, *others) = tenant["failingDestinations"]
    row = destinations.get(first, {})
    name = first.rpartition("/")[2]
    error = row.get("lastError") or {}
    answer = f"answers {error['status']}" if error.get("status") else f"fails with {error.get('error', 'an error')}"
    since = f" for {ago(error['since'], now)}" if error.get("since") else ""
    waiting = ""
    if tenant["backlog"]:
        oldest = f", the oldest for {ago(tenant['oldestInBacklog'], now)}" if tenant["oldestInBacklog"] else ""
        waiting = f"; {listings.counted(tenant['backlog'], 'delivery')} wait{oldest}"
    more = f" {listings.counted(len(others), 'other destination')} fail too." if others else ""
    hint = row.get("hint")
    return f"{name} {answer}{since}{waiting}.{more}", str(
        hint or f"Ask who runs {name}{'' if tenant['dead'] else '; nothing is lost meanwhile'}."
    )


def _refusing(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    cause = tenant["causes"].get("Refusing", "")
    sentence = f"Every arrival is refused ({cause})." if cause else "Every arrival is refused."
    return sentence, "Purple disables the webhook if this lasts: look at the listener's faults."


def _silent(tenant: Row, _: Mapping[str, Row], now: datetime.datetime) -> tuple[str, str]:
    if tenant["lastArrival"] is None:
        return "No arrival yet.", "Enter the listener's URL in Purple's portal."
    return (
        f"No arrival for {ago(tenant['lastArrival'], now)}.",
        "Check the webhook in Purple's portal and the venue's WiFi.",
    )


def _without_secret(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    count = listings.counted(tenant["faults"]["AuthenticationUnresolved"], "listener")
    return f"The Secret with the credentials of {count} is missing: every arrival is refused.", "Create the Secret."


def _other_company(_: Row, __: Mapping[str, Row], ___: datetime.datetime) -> tuple[str, str]:
    return (
        "Visits of another company arrive here.",
        "Correct the webhook in the portal, or `companyID` of the Tenant.",
    )


def _slow_expression(_: Row, __: Mapping[str, Row], ___: datetime.datetime) -> tuple[str, str]:
    return "An expression is too slow, so its route holds all deliveries.", "Write a cheaper expression."


def _untrusted_times(_: Row, __: Mapping[str, Row], ___: datetime.datetime) -> tuple[str, str]:
    return (
        "Many bodies have a time without an offset, or far in the future.",
        "Set `fields.occurredAtZone` of the Listener.",
    )


def _quota(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    share, quota = tenant["quotaUsed"], tenant["quota"] or {}
    then = "further deliveries are held" if quota.get("whenExceeded") == "Hold" else "visits are still delivered"
    return f"{share:.0%} of this month's visits are used; over the quota {then}.", "Raise `quota` of the Tenant."


def _unexpected_source(_: Row, __: Mapping[str, Row], ___: datetime.datetime) -> tuple[str, str]:
    return (
        "Arrivals come from outside `allowedSources`, and are let in.",
        "If the source is Purple's, add it; otherwise rotate the URL.",
    )


def _retired_address(_: Row, __: Mapping[str, Row], ___: datetime.datetime) -> tuple[str, str]:
    return "Purple still posts to a URL that an edit took out of service.", "Enter the present URL in the portal."


def _dead(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    return f"{listings.counted(tenant['dead'], 'delivery')} failed for good.", "See why, and redrive them."


def _held(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    count = sum(tenant["held"].values())
    held = f"{listings.counted(count, 'delivery')} {'is' if count == 1 else 'are'} held"
    reason, *others = sorted(tenant["held"])
    if others or reason not in HOLDS:
        return f"{held} ({' and '.join([reason, *others])}).", "See what ends each hold."
    cause, end = HOLDS[reason]
    return f"{held}, because {cause}.", f"{end} ends that."


def _quarantining(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    count = tenant["today"]["quarantined"]
    return (
        f"{listings.counted(count, 'arrival')} of today are no valid visits.",
        "Look at the quarantine, and mend `fields`.",
    )


_TEXTS = {
    "destinations": _destinations,
    "Refusing": _refusing,
    "AuthenticationUnresolved": _without_secret,
    "CompanyMismatch": _other_company,
    "ExpressionTooSlow": _slow_expression,
    "TimesUntrusted": _untrusted_times,
    "quota": _quota,
    "UnexpectedSource": _unexpected_source,
    "RetiredAddressUsed": _retired_address,
    "Silent": _silent,
    "dead": _dead,
    "held": _held,
    "Quarantining": _quarantining,
}
"""Kind of trouble (`troubles.tenant_troubles`) -> its sentence and the next step."""
