"""The store: a durable ledger of arrivals and a queue of deliveries, with its meters.

``Store`` has every job once, in three parts: ``Ledger`` accepts, ``DeliveryQueue`` claims and settles, and ``Records``
lists and changes what people ask for. An engine is a subclass: it opens the data, gives sessions and transactions to
the jobs (``JobRunner``), and writes the group commit's batches. The jobs' statements are in ``jobs/``, those
for accepting in the engine's folder. One suite (tests/contract) tests all engines unchanged.
"""

import abc
import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from usher_gateway import model
from usher_gateway.store.base import (
    USUAL_TIMES,
    ApplyReplicas,
    HeldGroup,
    KeptTimes,
    OpenReport,
    Replicas,
    StoreStatistics,
)
from usher_gateway.store.group_commit import GroupCommit
from usher_gateway.store.jobs import activity, claims
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.records import Records
from usher_gateway.store.transaction import JobRunner, change, change_in_slices, read

_log = structlog.get_logger(__name__)


class Ledger(JobRunner):
    """The part that an arrival's path uses."""

    def __init__(self, *, commits: GroupCommit, names: NameNumbers, now: Callable[[], int]) -> None:
        super().__init__(commits=commits, names=names, now=now)
        self.abandon = commits.abandon
        self.unacknowledged = commits.unacknowledged
        self.count = commits.count
        self.flush = commits.flush
        self._over_quota: Collection[tuple[str, str]] = ()
        """(namespace, tenant) for each tenant whose deliveries from further visits are held."""
        self._full_tenants: set[tuple[str, str]] = set()
        """Tenants whose last arrival was refused because they store too many bytes."""

    @abc.abstractmethod
    def _check_arrival(self, arrival: model.Arrival) -> None:
        """Raise accept()'s error if the engine cannot accept an arrival now."""

    def _check_stored_bytes(self, arrival: model.Arrival, stored: int, limit: int) -> None:
        """Raise StorageLimitError if the arrival's tenant would store more bytes than it may."""
        tenant = (arrival.listener.namespace, arrival.listener.tenant)
        if stored + len(arrival.body) > limit:
            if tenant not in self._full_tenants:
                self._full_tenants.add(tenant)
                _log.warning("storage_limit_reached", namespace=tenant[0], tenant=tenant[1], stored=stored, limit=limit)
            raise model.StorageLimitError("the tenant stores as many bytes as it may")
        self._full_tenants.discard(tenant)

    def accept(self, arrival: model.Arrival) -> "asyncio.Future[model.Accepted]":
        """Queue an arrival for the next group commit. The future completes once the arrival is durable.

        One transaction holds the ledger rows with their verdicts, the deliveries, the once-per marks and the meters of
        all arrivals in a batch. If a batch fails on its data, the store commits each arrival alone, and one that
        fails as quarantined ``Unstorable``. The store decides here which equal arrival is the visit, for any number
        of replicas. The deliveries in Accepted are claimed at once. During an outage arrivals wait.

        Raises:
            StoreBusyError: the queue, or the tenant's share of it, is full.
            StoreFullError: free disk space is below the bound.
            StorageLimitError: the tenant stores as many bytes as it may (``Arrival.max_stored_bytes``).
        """
        self._check_arrival(arrival)
        if self._over_quota and (arrival.listener.namespace, arrival.listener.tenant) in self._over_quota:
            arrival.is_over_quota = True
        return self._commits.accept(arrival)

    def hold_visits_of(self, tenants: Collection[tuple[str, str]]) -> None:
        """Hold the deliveries of what accept() gets from these tenants (namespace, name) until the next call."""
        self._over_quota = tenants


class DeliveryQueue(JobRunner):
    """The part that delivers: it claims, holds and settles.

    A pending delivery is *claimed* (in a lane or an attempt of this process), in the *backlog*, or *held*.
    """

    def __init__(self, *, commits: GroupCommit, names: NameNumbers, now: Callable[[], int]) -> None:
        super().__init__(commits=commits, names=names, now=now)
        self.settle = commits.settle
        self.follow_orphans = commits.follow_orphans

    claim = change(claims.claim)
    unhold = change_in_slices(claims.unhold)
    cancel_held = change_in_slices(claims.cancel_held)
    expire_held = change_in_slices(claims.expire_held)
    hasten = change_in_slices(claims.hasten)
    hasten_forbidden = change_in_slices(claims.hasten_forbidden)
    due = read(claims.due)

    @property
    def unsettled(self) -> int:
        """Settlements that wait for their commit; the caller starts no attempts while there are many."""
        return self._commits.unsettled

    @property
    @abc.abstractmethod
    def may_attempt(self) -> bool:
        """False while the store cannot record outcomes: during an outage, or while the disk is nearly full."""

    async def defer(self, keys: Sequence[int]) -> None:
        """Return claimed deliveries to the backlog, due at once (no room, or shutting down)."""
        if keys:
            now = self._now()
            await self._change(lambda transaction: claims.defer(transaction, keys, now))

    async def held_groups(self) -> list[HeldGroup]:
        """Return the held deliveries, grouped by reason and route."""
        groups = await self._read(claims.held_groups)
        await self._load_routes([group.route for group in groups])
        return groups

    @property
    def is_shared(self) -> bool:
        """True if other gateways may use the data at the same time. Then the engine overrides what follows."""
        return False

    def follow_replicas(self, apply: ApplyReplicas) -> None:
        """Call ``apply``, which applies this gateway's shares, now and whenever the gateways may have changed."""
        apply(Replicas())

    async def tell_destinations(self, destinations: Collection[str]) -> None:
        """Tell the other gateways which destinations this one knows. Called only if ``is_shared``."""
        raise NotImplementedError

    async def destinations_of_others(self, destinations: Collection[str]) -> list[frozenset[str]]:
        """Return which destinations, among some, each other running gateway knows. Called only if ``is_shared``."""
        raise NotImplementedError

    async def compare_claims(self, keys: Collection[int]) -> Collection[int]:
        """Compare which deliveries are claimed. Called only if ``is_shared``.

        Returns the keys that are not claimed any more, because another gateway cancelled or erased them.
        Claimed deliveries that the caller does not have return to the backlog: a database that went back to an earlier
        state shows a delivery as claimed again whose outcome it lost. The call before this one must have found the
        delivery too, because the caller may be about to get it.

        ``keys``: the claimed deliveries that the caller has.
        """
        raise NotImplementedError


class Store(Ledger, DeliveryQueue, Records):
    """A durable ledger of arrivals and a queue of deliveries, with its meters. The docstrings are the contract.

    Callers use all methods from the event loop's thread. Methods raise StoreUnavailableError (or StoreFullError) if the
    engine cannot commit now, and otherwise only the errors that they name. Cancelling an awaiting caller never cancels
    a commit that has begun.
    """

    listener_activity = read(activity.read)
    destination_activity = read(activity.read_destinations)
    save_activity = change(activity.save)

    @abc.abstractmethod
    async def open(self) -> OpenReport:
        """Take ownership of the data, migrate the schema, and recover from a crash.

        Raises:
            StoreLockedError: another gateway owns the data, or they were copied, or a copy to them is unfinished.
            StoreCorruptError: the data are damaged or not Usher's.
            InstallKeyError: another install key made the data.
            ConfigurationError: the folder cannot be used (a network file system, missing rights), or PostgreSQL refuses
                the user.
            SchemaTooOldError: the tables lack migrations, and this gateway may not make them.
            StoreUnavailableError: PostgreSQL cannot be reached now; a later try may succeed.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Commit everything handed in so far, then release the data. Idempotent."""

    async def watch_ownership(self) -> None:
        """Wait until this process no longer owns its deliveries; after that it can commit nothing.

        Raises:
            StoreLockedError: another gateway took over.
        """
        await asyncio.Event().wait()  # a store that is not shared is owned as long as the process lives

    @abc.abstractmethod
    async def outage(self) -> str | None:
        """Return why arrivals cannot be committed; None if they can, or if they only have to wait a few seconds."""

    def statistics(self) -> StoreStatistics:
        """Return the engine's present state."""
        commits = self._commits
        return StoreStatistics(commits.is_available, commits.unsettled, commits.commit_seconds, commits.batch_sizes)

    @abc.abstractmethod
    async def prune(self, now: int, kept: KeptTimes = USUAL_TIMES) -> int:
        """Delete one small slice of the data whose retention has ended; return the rows touched (0: nothing left).

        ``now`` must be confirmed, because deleted data are lost. The store records it for the next start.
        """
