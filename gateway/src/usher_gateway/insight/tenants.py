"""Each tenant's state, for metrics and for ``GET /api/tenants``."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TypeVar

import msgspec
import structlog

from usher_gateway import documents, model
from usher_gateway.ingest.counters import ArrivalCounters, ListenerCounters
from usher_gateway.insight import health, run_state
from usher_gateway.store.base import Filter
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)

_COUNT_SECONDS = 15.0

TenantKey = tuple[str, str]  # (namespace, name)

_Key = TypeVar("_Key", TenantKey, str)

TenantDestination = tuple[str, str, str]  # (namespace, tenant, name) of a destination that visits of the tenant go to


class ListenerSummary(msgspec.Struct):
    """A tenant's listeners, added up without asking the store."""

    document: documents.TenantDocument
    listeners: int
    silent: int
    """Listeners that accepted nothing for longer than ``silence.afterSeconds``."""
    refusing: int
    """Listeners whose last arrivals were all refused."""
    last_arrival: int
    """Microseconds; 0: never."""
    destinations: AbstractSet[str]
    """Destinations (``namespace/name``) that the tenant's routes name."""


class _ListenerGroup(msgspec.Struct):
    """A tenant's listeners in one snapshot."""

    document: documents.TenantDocument
    listeners: list[tuple[str, documents.ListenerDocument, ListenerCounters]] = []
    """Each listener's key, document and counters."""
    destinations: set[str] = set()


class DestinationBacklog(msgspec.Struct):
    """A tenant's deliveries that wait for one destination in the backlog, at least one."""

    count: int
    oldest_at: int
    """When the oldest one was created, in microseconds."""


class DeliveryCounts(msgspec.Struct):
    """A tenant's or destination's deliveries that are not settled as delivered or cancelled, by the ledger."""

    backlogs: dict[str, DestinationBacklog] = msgspec.field(default_factory=dict)
    """Destination name (its namespace is the tenant's), or ``namespace/tenant`` -> deliveries in the backlog."""
    held: dict[str, int] = msgspec.field(default_factory=dict)
    """Hold reason -> deliveries."""
    died: dict[str, int] = msgspec.field(default_factory=dict)
    """As ``backlogs``: dead deliveries."""

    @property
    def dead(self) -> int:
        """Dead deliveries."""
        return sum(self.died.values())

    @property
    def backlog(self) -> int:
        """Deliveries in the backlog."""
        return sum(backlog.count for backlog in self.backlogs.values())

    @property
    def oldest_at(self) -> int:
        """When the oldest delivery in the backlog was created, in microseconds; 0: there is none."""
        return min((backlog.oldest_at for backlog in self.backlogs.values()), default=0)


async def count_deliveries(
    store: Store, where: Filter, names_of: Callable[[model.RouteDefinition], tuple[_Key, str]]
) -> dict[_Key, DeliveryCounts]:
    """Count the deliveries of a filter's tenants that wait, are held or are dead.

    ``names_of`` returns a route's tenant and destination name, or the destination and the tenant.
    """
    counts_by_key: dict[_Key, DeliveryCounts] = {}

    def find(number: int) -> tuple[DeliveryCounts, str]:
        route = store.route(number)
        if not where.selects(route.listener.namespace, route.listener.tenant):
            return DeliveryCounts(), ""  # these counts are dropped
        key, name = names_of(route)
        return counts_by_key.setdefault(key, DeliveryCounts()), name

    for waiting in await store.backlog_by_route():
        counts, name = find(waiting.route)
        backlog = counts.backlogs.setdefault(name, DestinationBacklog(0, waiting.oldest_at))
        backlog.count += waiting.count
        backlog.oldest_at = min(backlog.oldest_at, waiting.oldest_at)
    for group in await store.held_groups():
        held_counts = find(group.route)[0].held
        held_counts[group.reason.name] = held_counts.get(group.reason.name, 0) + group.count
    for number, count in (await store.dead_by_route()).items():
        counts, name = find(number)
        counts.died[name] = counts.died.get(name, 0) + count
    return counts_by_key


class TenantTracker:
    """Adds up each tenant's listeners on demand, and its deliveries regularly.

    Args:
        state: the configuration in force.
        arrivals: arrival counts.
        is_failing: returns whether a destination in force does not take deliveries.
        is_rejecting: returns whether deliveries to a failing destination die at their first attempt.
        store: the store.
        clock: the clock.
        quota_used: the used share of each tenant's quota (``delivery.holds.QuotaCounter.used``).
    """

    def __init__(
        self,
        *,
        state: run_state.RunState,
        arrivals: ArrivalCounters,
        is_failing: Callable[[str], bool],
        is_rejecting: Callable[[str], bool],
        store: Store,
        clock: Clock,
        quota_used: Mapping[TenantKey, float],
    ) -> None:
        self._state = state
        self._arrivals = arrivals
        self._is_failing, self.is_rejecting = is_failing, is_rejecting
        self._store = store
        self._clock = clock
        self._grouped_snapshot: documents.Snapshot | None = None
        """The snapshot that ``_groups`` were made from: with 10,000 listeners, grouping them takes 10 ms."""
        self._groups: dict[TenantKey, _ListenerGroup] = {}
        self.deliveries: dict[TenantKey, DeliveryCounts] = {}
        """Tenants with deliveries that wait or are dead, also tenants that are not in force any more."""
        self.quota_used = quota_used

    async def watch(self) -> None:
        """Count deliveries every 15 s. Runs until cancelled."""
        while True:
            try:
                await self.count_deliveries()
            except model.StoreUnavailableError as error:
                _log.warning("tenants_not_counted", reason=str(error))
            await asyncio.sleep(_COUNT_SECONDS)

    async def count_deliveries(self) -> None:
        """Count every tenant's deliveries that wait, are held or are dead.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        self.deliveries = await count_deliveries(
            self._store,
            Filter(),
            lambda route: ((route.listener.namespace, route.listener.tenant), route.destination.rpartition("/")[2]),
        )

    def summaries(self) -> dict[TenantKey, ListenerSummary]:
        """Add up the listeners in force by tenant."""
        now = self._clock.now()
        if self._grouped_snapshot is not self._state.snapshot:
            self._group_listeners(self._state.snapshot)
        tenants: dict[TenantKey, ListenerSummary] = {}
        for name, group in self._groups.items():
            silent = refusing = last_arrival = 0
            for key, document, counters in group.listeners:
                last = counters.last_accepted
                silent += self._state.is_silent(key, document, last, now)
                refusing += counters.refused_in_a_row >= health.REFUSING_FROM
                last_arrival = max(last_arrival, last)
            tenants[name] = ListenerSummary(
                group.document, len(group.listeners), silent, refusing, last_arrival, group.destinations
            )
        return tenants

    def destinations(self) -> Iterator[TenantDestination]:
        """Yield each tenant's destinations: those that routes in force name, and those with a backlog."""
        if self._grouped_snapshot is not self._state.snapshot:
            self._group_listeners(self._state.snapshot)
        for tenant in dict.fromkeys([*self._groups, *self.deliveries]):
            group, counts = self._groups.get(tenant), self.deliveries.get(tenant)
            names = {key.rpartition("/")[2] for key in group.destinations} if group is not None else set()
            for name in names | counts.backlogs.keys() if counts is not None else names:
                yield (*tenant, name)

    def _group_listeners(self, snapshot: documents.Snapshot) -> None:
        self._grouped_snapshot, self._groups = snapshot, {}
        for key, document in snapshot.listeners.items():
            tenant = (document.namespace, document.tenant.name)
            counters = self._arrivals.of(model.ListenerName(*tenant, document.name))
            group = self._groups.setdefault(tenant, _ListenerGroup(document.tenant))
            group.listeners.append((key, document, counters))
            group.destinations.update(route.destination for route in document.routes)

    def failing(self, destinations: Iterable[str]) -> list[str]:
        """Return the destinations that do not take deliveries, sorted."""
        return sorted(filter(self._is_failing, destinations))
