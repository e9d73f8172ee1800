"""The rows that ``GET /api/tenants`` returns, ordered by name or by urgency."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from usher_gateway import documents, model, timing
from usher_gateway.admin import usage
from usher_gateway.insight.tenants import DeliveryCounts, TenantKey, TenantTracker
from usher_gateway.store.base import Filter, UsageRow
from usher_gateway.words import troubles

JsonObject = Mapping[str, Any]  # Plain values, ready for JSON: no secrets, no personal data
PARAMETERS = ("order", "troubled", "contains", "offset", "limit")  # Names of the parameters of a page by urgency

_DEFAULT_ROWS = 50
_MOST_ROWS = 1_000
_SHORTEST_KEPT_DAYS = 8  # How long an arrival is kept at least: docs/privacy.md, "What is kept"


class UrgencyPage(msgspec.Struct, frozen=True):
    """A page of tenants ordered by urgency, as a request selects it."""

    is_troubled: bool
    """Only those that need a person."""
    contains: str
    """Part of ``namespace/name`` in lower case."""
    offset: int
    limit: int


def parse_page(query: Mapping[str, str]) -> UrgencyPage | None:
    """Return the page by urgency that a query asks for; None: all tenants by name.

    Raises:
        ValueError: a parameter cannot be parsed.
    """
    order = query.get("order", "name")
    if order not in {"name", "urgency"}:
        raise ValueError("order must be name or urgency")
    if order == "name":
        further = [name for name in PARAMETERS[1:] if name in query]
        if further:
            raise ValueError(f"{further[0]} needs order=urgency")
        return None
    troubled = query.get("troubled", "false")
    if troubled not in {"true", "false"}:
        raise ValueError("troubled must be true or false")
    return UrgencyPage(
        is_troubled=troubled == "true",
        contains=query.get("contains", "").lower(),
        offset=_parse_number(query, "offset", 0, least=0),
        limit=min(_parse_number(query, "limit", _DEFAULT_ROWS, least=1), _MOST_ROWS),
    )


def _parse_number(query: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) < least:
        raise ValueError(f"{name} must be a number from {least} on")
    return int(text)


class TenantFaults(msgspec.Struct):
    """A tenant's listener faults, by fault name."""

    counts: dict[str, int] = {}
    """How many listeners have it."""
    causes: dict[str, str] = {}
    """Its cause, if that is short."""
    first: dict[str, JsonObject] = {}
    """The first listener that has it, with the reason and the time if they are known."""


class TenantRows:
    """Makes tenant rows: those in force, and those that deliveries still wait for or died for.

    Args:
        tracker: the tracker that counted deliveries just now.
        faults: for each tenant that has some.
        receipt_days: days that receipts are kept.
        backup_days: days that store backups are kept; 0: not stated.
        destinations: keys of the destinations in force.
        last_failure: returns the last error of a destination in force, and what to do about it.
    """

    def __init__(
        self,
        *,
        tracker: TenantTracker,
        faults: Mapping[TenantKey, TenantFaults],
        receipt_days: int,
        backup_days: int,
        destinations: Iterable[str],
        last_failure: Callable[[str], JsonObject],
    ) -> None:
        self._tracker = tracker
        self._summaries, self._deliveries = tracker.summaries(), tracker.deliveries
        self._faults = faults
        self._kept_by_gateway = {"receiptDays": receipt_days, "backupDays": backup_days or None}
        self._failing = set(tracker.failing(destinations))
        self._waited_for = {
            f"{namespace}/{name}" for (namespace, _), counts in self._deliveries.items() for name in counts.backlogs
        }
        """Destinations where any tenant has a backlog."""
        self._last_failure = last_failure

    def keys(self, where: Filter) -> list[TenantKey]:
        """Return the tenants that a filter selects, sorted."""
        return [key for key in sorted(self._summaries.keys() | self._deliveries.keys()) if where.selects(*key)]

    async def by_urgency(self, keys: Sequence[TenantKey], page: UrgencyPage) -> tuple[list[TenantKey], JsonObject]:
        """Return a page of tenants, the most urgent first, and the totals over all."""
        turns = timing.EventLoopTurns()
        ranked = []
        for key in keys:
            ranked.append((troubles.urgency(self._troubles(key)), key))
            await turns.give_way()
        selected = [
            (rank, key)
            for rank, key in sorted(ranked)
            if page.contains in "/".join(key).lower() and (rank < troubles.NO_TROUBLE or not page.is_troubled)
        ]
        deliveries = [self._deliveries[key] for key in keys if key in self._deliveries]
        totals = {
            "tenants": len(keys),
            "troubled": sum(rank < troubles.NO_TROUBLE for rank, _ in ranked),
            "selected": len(selected),
            "backlog": sum(counts.backlog for counts in deliveries),
            "dead": sum(counts.dead for counts in deliveries),
        }
        return [key for _, key in selected[page.offset : page.offset + page.limit]], totals

    def row(self, key: TenantKey, today: Iterable[UsageRow]) -> JsonObject:
        """Return a tenant's row. ``today``: its listeners' meters."""
        summary, counts = self._summaries.get(key), self._deliveries.get(key, DeliveryCounts())
        return {
            "namespace": key[0],
            "name": key[1],
            "state": summary.document.state if summary else "NotFound",
            "listeners": summary.listeners if summary else 0,
            "silentListeners": summary.silent if summary else 0,
            "refusingListeners": summary.refusing if summary else 0,
            "lastArrival": model.time_or_none(summary.last_arrival) if summary else None,
            "destinations": self._destinations_of(summary.destinations if summary else (), key[0], counts),
            "backlog": counts.backlog,
            "oldestInBacklog": model.time_or_none(counts.oldest_at),
            **self._troubles(key),
            "today": usage.total_of(today),
            **_settings(summary.document if summary else None, self._kept_by_gateway),
        }

    def _troubles(self, key: TenantKey) -> dict[str, Any]:
        """Return the row values that `troubles.trouble_kinds` reads, and what explains them."""
        summary, counts = self._summaries.get(key), self._deliveries.get(key, DeliveryCounts())
        faults = self._faults.get(key, TenantFaults())
        return {
            "faults": faults.counts,
            "causes": faults.causes,
            "firstFaults": faults.first,
            "failingDestinations": sorted(self._failing & summary.destinations) if summary else [],
            "held": counts.held,
            "dead": counts.dead,
            "quotaUsed": self._tracker.quota_used.get(key),
        }

    def _destinations_of(self, in_force: Iterable[str], namespace: str, counts: DeliveryCounts) -> list[JsonObject]:
        """Return a tenant's destinations: those that its routes name, and those where it has a backlog."""
        keys = {*in_force, *(f"{namespace}/{name}" for name in counts.backlogs)}
        rows: list[JsonObject] = []
        for key in sorted(keys):
            name = key.partition("/")[2]
            backlog = counts.backlogs.get(name)
            row = {
                "name": key,
                "isFailing": key in self._failing,
                "isRejecting": key not in self._waited_for and self._tracker.is_rejecting(key),
                "backlog": backlog.count if backlog else 0,
                "oldestInBacklog": model.time_or_none(backlog.oldest_at if backlog else 0),
                "dead": counts.died.get(name, 0),
                **(self._last_failure(key) if key in self._failing else {"lastError": None, "hint": None}),
            }
            rows.append(row)
        return rows


def _settings(document: documents.TenantDocument | None, kept_by_gateway: JsonObject) -> JsonObject:
    """Return how long a tenant's data is kept, and its quota; null for a tenant that is not in force."""
    if document is None:
        return {"timeZone": None, "quota": None, "retention": None}
    quota = {"visitsPerMonth": document.visits_per_month, "whenExceeded": document.when_exceeded}
    kept_by_tenant = {
        "bodyDays": document.body_days,
        "visitDays": max(document.body_days, _SHORTEST_KEPT_DAYS),
        "meterMonths": document.meter_months,
    }
    return {
        "timeZone": document.time_zone,
        "quota": quota if document.visits_per_month else None,
        "retention": {**kept_by_tenant, **kept_by_gateway},
    }
