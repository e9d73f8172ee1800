"""Tells in one sentence why a tenant needs a person, and names the next step. Pure; it takes rows of the API."""

import datetime
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from usher_gateway.admin import listings, troubles

Row = Mapping[str, Any]


class Attention(NamedTuple):
    """Why a tenant needs a person."""

    sentence: str
    step: str
    """The next step; empty: nothing to do."""
    rank: int
    """0 is the most urgent."""
    is_urgent: bool


def of_tenant(tenant: Row, destinations: Mapping[str, Row], now: datetime.datetime) -> Attention:
    """Return what a tenant needs most.

    Args:
        tenant: a row of ``GET /api/tenants``.
        destinations: rows of ``GET /api/destinations`` by ``namespace/name``.
        now: with a time zone.
    """
    kinds = troubles.tenant_troubles(dict(tenant))
    rank = troubles.urgency(dict(tenant))
    if not kinds:
        return Attention(_quiet(tenant, now), "", rank, is_urgent=False)
    kind = next(iter(kinds))
    sentence, step = _TEXTS[kind](tenant, destinations, now) if kind in _TEXTS else ("", "")
    others = list(kinds.values())[1:]
    rest = f" Also: {', '.join(others)}." if others else ""
    return Attention((sentence or f"{kinds[kind]}.") + rest, step, rank, is_urgent=True)


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
    return f"{name} {answer}{since}{waiting}.{more}", str(hint or f"Ask who runs {name}; nothing is lost meanwhile.")


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


def _dead(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    return f"{listings.counted(tenant['dead'], 'delivery')} failed for good.", "See why, and redrive them."


def _held(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    reasons = " and ".join(sorted(tenant["held"]))
    return (
        f"{listings.counted(sum(tenant['held'].values()), 'delivery')} are held ({reasons}).",
        "See what ends the hold.",
    )


def _quarantining(tenant: Row, _: Mapping[str, Row], __: datetime.datetime) -> tuple[str, str]:
    count = tenant["today"]["quarantined"]
    return (
        f"{listings.counted(count, 'arrival')} of today are no valid visits.",
        "Look at the quarantine, and mend `fields`.",
    )


_TEXTS = {
    "destinations": _destinations,
    "Refusing": _refusing,
    "Silent": _silent,
    "dead": _dead,
    "held": _held,
    "Quarantining": _quarantining,
}
"""Kind of trouble -> its sentence and the next step. Others have the words of `usher tenants`."""


def by_need(
    tenants: list[Row], destinations: Mapping[str, Row], now: datetime.datetime
) -> Iterator[tuple[Row, Attention]]:
    """Yield tenants with what they need, the most urgent first."""
    needs = [(tenant, of_tenant(tenant, destinations, now)) for tenant in tenants]
    yield from sorted(needs, key=lambda pair: (pair[1].rank, pair[0]["namespace"], pair[0]["name"]))
