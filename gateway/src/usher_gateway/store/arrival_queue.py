"""The queue in front of the commits: bounded per tenant and in total, and drawn round-robin over the tenants.

Belongs to the event loop.
"""

import asyncio
import collections

import msgspec

from usher_gateway import model

# 1/8 of the queue is reserved for light tenants, so that they find room while others flood the queue.
_RESERVED_SHARE = 8

_LIGHT_SHARE = 64  # A tenant that uses at most 1/64 of its limit counts as light


class QueueLimits(msgspec.Struct, frozen=True):
    """Bounds for the arrival queue and a batch."""

    entries: int = 8_192
    bytes: int = 128 * 1024 * 1024
    tenant_entries: int = 2_048
    tenant_bytes: int = 32 * 1024 * 1024
    batch_entries: int = 256
    batch_bytes: int = 8 * 1024 * 1024


class QueuedArrival(msgspec.Struct, eq=False, gc=False):
    """An arrival with the future that its handler waits for."""

    arrival: model.Arrival
    future: "asyncio.Future[model.Accepted]"

    @property
    def tenant(self) -> tuple[str, str]:
        """Namespace and tenant."""
        listener = self.arrival.listener
        return (listener.namespace, listener.tenant)


class _TenantQueue:
    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: collections.deque[QueuedArrival] = collections.deque()
        self.bytes = 0


class ArrivalQueue:
    """Arrivals that wait for a commit: bounded in entries and bytes, in total and per tenant; drawn round-robin."""

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._tenants: collections.OrderedDict[tuple[str, str], _TenantQueue] = collections.OrderedDict()
        """The tenant whose turn is next comes first. No queue in it is empty."""
        self._spare: list[_TenantQueue] = []
        """Empty queues for reuse, because creating one per arrival would cost too much with thousands of tenants."""
        self.entries = 0
        self.bytes = 0
        self.withdrawn: list[QueuedArrival] = []

    def push(self, entry: QueuedArrival) -> None:
        """Add an entry.

        Raises:
            StoreBusyError: the queue, or the tenant's share of it, is full.
        """
        tenant, size = entry.tenant, len(entry.arrival.body)
        tenant_queue = self._tenants.get(tenant)
        if not self._has_room(tenant_queue, size):
            raise model.StoreBusyError("the queue in front of the store is full")
        if tenant_queue is None:  # only now, because draw() expects every tenant's queue to have an entry
            tenant_queue = self._new_queue(tenant)
        tenant_queue.entries.append(entry)
        tenant_queue.bytes += size
        self.entries += 1
        self.bytes += size

    def draw(self) -> list[QueuedArrival]:
        """Take the next batch. Entries whose future is done go to ``withdrawn`` instead."""
        batch: list[QueuedArrival] = []
        size = 0
        while self._tenants and len(batch) < self._limits.batch_entries and size < self._limits.batch_bytes:
            tenant, tenant_queue = self._tenants.popitem(last=False)
            entry = self._pop(tenant_queue)
            if tenant_queue.entries:
                self._tenants[tenant] = tenant_queue  # behind all others, including those that come between two batches
            else:
                self._spare.append(tenant_queue)
            if entry.future.done():
                self.withdrawn.append(entry)
            else:
                batch.append(entry)
                size += len(entry.arrival.body)
        return batch

    def put_back(self, entries: list[QueuedArrival]) -> None:
        """Return a batch that could not be committed to the front, in its order."""
        for entry in reversed(entries):
            tenant = entry.tenant
            tenant_queue = self._tenants.get(tenant) or self._new_queue(tenant)
            tenant_queue.entries.appendleft(entry)
            size = len(entry.arrival.body)
            tenant_queue.bytes += size
            self.entries += 1
            self.bytes += size

    def _has_room(self, tenant_queue: _TenantQueue | None, size: int) -> bool:
        limits = self._limits
        entries = len(tenant_queue.entries) if tenant_queue is not None else 0
        queued_bytes = tenant_queue.bytes if tenant_queue is not None else 0
        if entries >= limits.tenant_entries or queued_bytes + size > limits.tenant_bytes:
            return False
        most_entries, most_bytes = limits.entries, limits.bytes
        if entries > limits.tenant_entries // _LIGHT_SHARE or queued_bytes > limits.tenant_bytes // _LIGHT_SHARE:
            most_entries -= most_entries // _RESERVED_SHARE
            most_bytes -= most_bytes // _RESERVED_SHARE
        return self.entries < most_entries and self.bytes + size <= most_bytes

    def _new_queue(self, tenant: tuple[str, str]) -> _TenantQueue:
        tenant_queue = self._tenants[tenant] = self._spare.pop() if self._spare else _TenantQueue()
        return tenant_queue

    def _pop(self, tenant_queue: _TenantQueue) -> QueuedArrival:
        entry = tenant_queue.entries.popleft()
        size = len(entry.arrival.body)
        tenant_queue.bytes -= size
        self.entries -= 1
        self.bytes -= size
        return entry
