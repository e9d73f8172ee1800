"""Counts the visits of tenants against their quotas.

The store holds the deliveries of later visits of the tenants that are over a quota with ``whenExceeded: Hold``. So what
comes between two counts, up to 30 s of visits, may still be forwarded.
"""

import zoneinfo
from collections import Counter
from collections.abc import Iterable

import structlog

from usher_gateway import documents
from usher_gateway.ingest import routing
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)


class QuotaCounter:
    """Knows which share of its quota each tenant has used."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self.used: dict[tuple[str, str], float] = {}
        """(namespace, tenant) -> visits of the present month as a share of the quota, for tenants with a quota."""

    async def count(self, listeners: Iterable[documents.ListenerDocument]) -> None:
        """Count the visits of all tenants with a quota, and tell the store which of them are over it."""
        tenants = {(listener.namespace, listener.tenant.name): listener.tenant for listener in listeners}
        quotas = {key: tenant.visits_per_month for key, tenant in tenants.items() if tenant.visits_per_month}
        now = self._clock.now()
        months: dict[tuple[int, int], set[tuple[str, str]]] = {}
        for key in quotas:
            months.setdefault(routing.month_of(now, zoneinfo.ZoneInfo(tenants[key].time_zone)), set()).add(key)
        visits: Counter[tuple[str, str]] = Counter()
        for month, keys in months.items():
            visits.update(await self._store.visits_of_tenants(keys, *month))
        for key, quota in quotas.items():
            if visits[key] >= quota and self.used.get(key, 0.0) < 1:
                _log.warning("quota_exceeded", namespace=key[0], tenant=key[1], visits=visits[key], quota=quota)
        self.used.clear()
        self.used.update({key: visits[key] / quota for key, quota in quotas.items()})
        self._store.hold_visits_of(
            {key for key, share in self.used.items() if share > 1 and tenants[key].when_exceeded == "Hold"}
        )

    def is_over(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant was over its quota at the last count."""
        return self.used.get((namespace, tenant), 0.0) > 1
