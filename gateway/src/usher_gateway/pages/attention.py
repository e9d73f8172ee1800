"""Tells in one sentence why a tenant needs a person, and names the next step. Pure; it takes rows from the API."""

import datetime
import re
from collections.abc import Callable
from typing import NamedTuple

from usher_gateway.pages import requests
from usher_gateway.pages.api import Row
from usher_gateway.pages.rendering import path_to
from usher_gateway.words import listings, next_step, troubles
from usher_gateway.words.story import RELEASABLE

# Hold reason -> why that holds deliveries, and what ends it.
HOLDS = {reason.name: text for reason, text in next_step.HOLDS.items()}


# Listener fault whose sentence is always the same -> that sentence, and the next step.
FAULTS = {
    "CompanyMismatch": (
        "Visits of another company arrive here.",
        "Correct the webhook in the portal, or `companyID` of the Tenant.",
    ),
    "ExpressionTooSlow": (
        "An expression is too slow, so its route holds all deliveries.",
        "Write a cheaper expression.",
    ),
    "TimesUntrusted": (
        "Many bodies have a time without an offset, or far in the future.",
        "Set `fields.occurredAtZone` of the Listener.",
    ),
    "UnexpectedSource": (
        "Arrivals come from outside `allowedSources`, and are let in.",
        "If the source is Purple's, add it; otherwise rotate the URL.",
    ),
    "RetiredAddressUsed": (
        "Purple still posts to a URL that an edit took out of service.",
        "Enter the present URL in the portal.",
    ),
}

MEND_CREDENTIALS = "Create or correct the Secret."
CHECK_WEBHOOK = "Check the webhook in Purple's portal and the venue's WiFi."


class Need(NamedTuple):
    """One thing that a tenant needs."""

    sentence: str
    step: str
    """The next step."""
    path: str
    """The page URL that the next step names."""
    since: str | None = None
    """RFC 3339; None: it is not known."""


class Attention(NamedTuple):
    """Why a tenant needs a person."""

    sentence: str
    need: Need | None
    """The most urgent one; None: nothing to do."""


def of_tenant(tenant: Row, now: datetime.datetime) -> Attention:
    """Return what a tenant needs most.

    Args:
        tenant: a ``GET /api/tenants`` row.
        now: with a time zone.
    """
    needs = needs_of_tenant(tenant, now)
    if not needs:
        return Attention(_quiet(tenant, now), None)
    others = [_with_separators(words) for words in list(troubles.tenant_troubles(dict(tenant)).values())[1:]]
    also = f" Also: {', '.join(others)}." if others else ""
    return Attention(needs[0].sentence + also, needs[0])


def needs_of_tenant(tenant: Row, now: datetime.datetime) -> list[Need]:
    """Return all that a tenant needs, the most urgent first. Takes the same row."""
    return [_TEXTS[kind](tenant, now) for kind in troubles.trouble_kinds(dict(tenant))]


def _quiet(tenant: Row, now: datetime.datetime) -> str:
    if tenant["lastArrival"] is None:
        return nothing_yet(tenant)
    return f"Nothing to do. Last arrival {ago(tenant['lastArrival'], now)} ago."


def nothing_yet(row: Row) -> str:
    """Say that a tenant or listener has accepted nothing yet. ``row``: from the API, with the counts in ``today``."""
    refused = row["today"]["refused"]
    return f"Nothing accepted yet; {refused:,} refused today." if refused else "No arrival yet."


def ago(text: str, now: datetime.datetime) -> str:
    """Return the time since an RFC 3339 time in words."""
    return duration(max(0.0, (now - datetime.datetime.fromisoformat(text)).total_seconds()))


def duration(seconds: float) -> str:
    """Return a time span in words: ``5 min``, ``26 h``, ``3 days``."""
    for unit, length, most in (("s", 1, 90), ("min", 60, 90), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def quarantine_step(reason: str | None, source: str | None) -> str:
    """Return what to do about quarantined arrivals.

    Args:
        reason: the last arrival's reason; None: it is not known.
        source: the address that sent it, if that is known.
    """
    match reason:
        case "NoUser":
            return "Look at the quarantine, mend `fields`, and release them."
        case "CompanyMismatch":
            return "Correct the webhook in the portal, or `companyID` of the Tenant. Then release them."
        case None:
            return "Look at the quarantine."
        case _ if reason in {releasable.name for releasable in RELEASABLE}:
            return "Correct the sender, and release them."
    sender = f": the last one came from {source}" if source else ""
    return f"They cannot be released, because their bodies are not visits. Find out who sends them{sender}."


def quarantine_path(tenant: str, listener: str = "") -> str:
    """Return the path to the list of quarantined arrivals. ``tenant``: ``namespace/name``."""
    return requests.link("/ui/visits", {"tenant": tenant, "listener": listener, "countedAs": "quarantined"})


def _with_separators(words: str) -> str:
    """Return a trouble's words, such as ``1200 dead``, with thousands separators."""
    return re.sub(r"^\d+(?= (dead|held)\b)", lambda number: f"{int(number[0]):,}", words)


def _key(tenant: Row) -> str:
    return f"{tenant['namespace']}/{tenant['name']}"


def _of_fault(fault: str, tenant: Row, sentence: str, step: str) -> Need:
    """Return the need of a fault; its page shows the first listener that has it."""
    first = tenant["firstFaults"].get(fault)
    path = path_to("listeners", first["listener"]) if first else path_to("tenants", _key(tenant))
    return Need(sentence, step, path, first["since"] if first else None)


def _destinations(tenant: Row, now: datetime.datetime) -> Need:
    (first, *others) = tenant["failingDestinations"]
    (row,) = [row for row in tenant["destinations"] if row["name"] == first]
    name = first.rpartition("/")[2]
    error = row["lastError"] or {}
    answer = f"answers {error['status']}" if error.get("status") else f"fails with {error.get('error', 'an error')}"
    since = f" for {ago(error['since'], now)}" if error.get("since") else ""
    waiting = ""
    if row["isRejecting"]:
        waiting = ": it rejects deliveries, and they fail for good"
    elif tenant["backlog"]:
        oldest = f", the oldest for {ago(tenant['oldestInBacklog'], now)}" if tenant["oldestInBacklog"] else ""
        verb = "waits" if tenant["backlog"] == 1 else "wait"
        waiting = f"; {listings.counted(tenant['backlog'], 'delivery')} {verb}{oldest}"
    verb = "fails" if len(others) == 1 else "fail"
    more = f" {listings.counted(len(others), 'other destination')} {verb} too." if others else ""
    is_losing = tenant["dead"] or row["isRejecting"]
    return Need(
        f"{name} {answer}{since}{waiting}.{more}",
        str(row["hint"] or f"Ask who runs {name}{'' if is_losing else '; nothing is lost meanwhile'}."),
        path_to("destinations", first),
        error.get("since"),
    )


def _refusing(tenant: Row, _: datetime.datetime) -> Need:
    cause = tenant["causes"].get("Refusing", "")
    sentence = f"Every arrival is refused ({cause})." if cause else "Every arrival is refused."
    step = "Purple disables the webhook if this lasts: look at the listener's faults."
    return _of_fault("Refusing", tenant, sentence, step)


def _silent(tenant: Row, now: datetime.datetime) -> Need:
    if tenant["lastArrival"] is None:
        return _of_fault("Silent", tenant, nothing_yet(tenant), "Enter the listener's URL in Purple's portal.")
    return _of_fault(
        "Silent",
        tenant,
        f"No arrival for {ago(tenant['lastArrival'], now)}.",
        CHECK_WEBHOOK,
    )


def _without_secret(tenant: Row, _: datetime.datetime) -> Need:
    count = listings.counted(tenant["faults"]["AuthenticationUnresolved"], "listener")
    sentence = f"The Secret with the credentials of {count} is missing: every arrival is refused."
    return _of_fault("AuthenticationUnresolved", tenant, sentence, MEND_CREDENTIALS)


def _quota(tenant: Row, _: datetime.datetime) -> Need:
    share, quota = tenant["quotaUsed"], tenant["quota"] or {}
    then = "further deliveries are held" if quota.get("whenExceeded") == "Hold" else "visits are still delivered"
    sentence = f"{share:.0%} of this month's visits are used; over the quota {then}."
    return Need(sentence, "Raise `quota` of the Tenant.", f"{path_to('tenants', _key(tenant))}#kept-heading")


def _dead(tenant: Row, _: datetime.datetime) -> Need:
    sentence = f"{listings.counted(tenant['dead'], 'delivery')} failed for good."
    return Need(sentence, "See why, and redrive them.", f"{path_to('tenants', _key(tenant))}#dead-heading")


def _held(tenant: Row, _: datetime.datetime) -> Need:
    count = sum(tenant["held"].values())
    summary = f"{listings.counted(count, 'delivery')} {'is' if count == 1 else 'are'} held"
    path = f"{path_to('tenants', _key(tenant))}#waiting-heading"
    reason, *others = sorted(tenant["held"])
    if others or reason not in HOLDS:
        return Need(f"{summary} ({' and '.join([reason, *others])}).", "See what ends each hold.", path)
    cause, end = HOLDS[reason]
    return Need(f"{summary}, because {cause}.", f"{end} ends that.", path)


def _quarantining(tenant: Row, _: datetime.datetime) -> Need:
    count = tenant["today"]["quarantined"]
    reason = tenant["firstFaults"].get("Quarantining", {}).get("reason")
    what = "arrival of today is no valid visit" if count == 1 else "arrivals of today are no valid visits"
    return Need(
        f"{count:,} {what}{f' ({reason})' if reason else ''}.",
        quarantine_step(reason, None),
        quarantine_path(_key(tenant)),
    )


def _constant(fault: str) -> Callable[[Row, datetime.datetime], Need]:
    """Return a function for a fault whose sentence is always the same."""
    return lambda tenant, _: _of_fault(fault, tenant, *FAULTS[fault])


# Trouble kind (`troubles.tenant_troubles`) -> the need.
_TEXTS = {
    "destinations": _destinations,
    "Refusing": _refusing,
    "AuthenticationUnresolved": _without_secret,
    **{fault: _constant(fault) for fault in FAULTS},
    "quota": _quota,
    "Silent": _silent,
    "dead": _dead,
    "held": _held,
    "Quarantining": _quarantining,
}
