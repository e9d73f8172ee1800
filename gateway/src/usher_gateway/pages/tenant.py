"""The page about one tenant: what it needs, charts of its visits, its listeners, destinations and deliveries."""

import datetime
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aiohttp import web

from usher_gateway.pages import attention, listener, periods, visit_charts
from usher_gateway.pages.api import Api, Row, Values, all_of, find_row
from usher_gateway.pages.requests import find_zone
from usher_gateway.pages.visits import with_cells
from usher_gateway.words import listings

_VISITS = 20  # The newest visits on the page
_MOST_ROWS = 1_000  # The newest held and dead deliveries that are looked at, of each

# Count in `GET /api/usage` -> which arrivals it counts.
ARRIVALS = {
    "visits": "visits",
    "repeats": "repeats of a visit",
    "redeliveries": "redeliveries by Purple",
    "quarantined": "quarantined",
    "probes": "probes without a visit",
    "refused": "refused",
    "suppressed": "of suppressed persons",
}

# The same for deliveries.
DELIVERIES = {
    "created": "created for new visits",
    "replayed": "created by replays",
    "delivered": "delivered",
    "died": "failed for good",
    "cancelled": "cancelled",
}


class Held(NamedTuple):
    """Deliveries that are held for one reason."""

    reason: str
    deliveries: int
    since: str | None
    """Since when the oldest row is held; RFC 3339."""
    cause: str
    end: str
    """The event that ends the hold."""


async def show(api: Api, request: web.Request) -> Values:
    """Return the page's values."""
    key = f"{request.match_info['namespace']}/{request.match_info['name']}"
    selection = {"tenant": key}
    answer = await api.get("/api/tenants", selection)
    tenant = find_row(answer["rows"], "tenant", request)
    now = datetime.datetime.fromisoformat(answer["now"])
    zone_name = tenant["timeZone"] or "UTC"
    zone = find_zone(zone_name)
    by_day = {**selection, "by": "day", "zone": zone_name, "from": visit_charts.days(now, zone)[0].isoformat()}
    by_slot = {**selection, "by": "slot", "from": visit_charts.hours(now, zone)[0].isoformat()}
    destinations, listeners, newest, held, dead, delivered, days, slots = await all_of(
        api.get("/api/destinations", selection),
        api.get("/api/listeners", selection),
        api.get("/api/visits", {**selection, "limit": str(_VISITS)}),
        api.get("/api/deliveries", {**selection, "state": "held", "limit": str(_MOST_ROWS)}),
        api.get("/api/deliveries", {**selection, "state": "dead", "limit": str(_MOST_ROWS)}),
        api.get("/api/deliveries/delivered", selection),
        api.get("/api/usage", by_day),
        api.get("/api/usage", by_slot),
    )
    recent = periods.recent(days["rows"], slots["rows"], now, zone)
    return {
        "title": f"Tenant {key}",
        "key": key,
        "tenant": tenant,
        "now": answer["now"],
        "zone_of_tenant": zone_name,
        "local_time": now.astimezone(zone).strftime("%H:%M"),
        "needs": attention.needs_of_tenant(tenant, now),
        "nothing_yet": attention.nothing_yet(tenant),
        "quarantine": attention.quarantine_path(key),
        "hours": visit_charts.by_hour(slots["rows"], now, zone),
        "days": visit_charts.by_day(days["rows"], now, zone),
        "periods": list(recent),
        "arrivals": periods.counts(ARRIVALS, recent),
        "deliveries": periods.counts(DELIVERIES, recent),
        "held": held_reasons(tenant["held"], held["rows"]),
        "more_held": held["nextCursor"] is not None,
        "dead": dead_errors(dead["rows"]),
        "more_dead": dead["nextCursor"] is not None,
        "listeners": [(row, listener.fault_sentences(row, now)) for row in listeners["rows"]],
        "destinations": destinations["rows"],
        "delivered_to": functools.partial(periods.delivered_to, delivered),
        "more_delivered": delivered["areMore"],
        "visits": with_cells(newest["rows"]),
        "more_visits": newest["nextCursor"] is not None,
    }


def held_reasons(counts: Mapping[str, int], rows: Sequence[Row]) -> list[Held]:
    """Return the held deliveries by reason, most first.

    Args:
        counts: reason -> how many, from ``GET /api/tenants``.
        rows: the newest held deliveries.
    """
    reasons = []
    for reason, count in sorted(counts.items(), key=lambda pair: -pair[1]):
        since = min((row["heldSince"] for row in rows if row["held"] == reason and row["heldSince"]), default=None)
        cause, end = attention.HOLDS.get(reason, (reason, ""))
        reasons.append(Held(reason, count, since, cause, end))
    return reasons


def dead_errors(rows: Sequence[Row]) -> list[tuple[str, str, int, str | None]]:
    """Return dead deliveries by error and destination, most first: with their number, and when the last one died."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        error = listings.error_words(row) or "unknown"
        groups.setdefault((error, row["destination"]), []).append(row)
    most_first = sorted(groups.items(), key=lambda pair: -len(pair[1]))
    return [(*group, len(of_group), max(row["settledAt"] for row in of_group)) for group, of_group in most_first]
