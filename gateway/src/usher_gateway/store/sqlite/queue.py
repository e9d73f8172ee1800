"""What waits for the next commit: arrivals, tenant by tenant, so that none crowds out the others. Loop's side only."""

import asyncio
from collections import OrderedDict, deque

import msgspec

from usher_gateway import model

_KEPT_FOR_OTHERS = 8
"""One part in so many of the queue is only for tenants that have little in it, however many others flood."""

_LITTLE = 64
"""One part in so many of what a tenant may have is little."""


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the queue and of a batch."""

    entries: int = 8_192
    bytes: int = 128 * 1024 * 1024
    tenant_entries: int = 2_048
    tenant_bytes: int = 32 * 1024 * 1024
    batch_entries: int = 256
    batch_bytes: int = 8 * 1024 * 1024


class Entry(msgspec.Struct, eq=False, gc=False):
    """An arrival with the future that its handler waits for."""

    arrival: model.Arrival
    future: "asyncio.Future[model.Accepted]"


class _Lane:
    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.bytes = 0


class ArrivalQueue:
    """Bounded in entries and bytes, in all and per tenant; drawn round-robin over tenants."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lanes: OrderedDict[tuple[str, str], _Lane] = OrderedDict()
        """The tenant whose turn is next first."""
        self._spare: list[_Lane] = []
        """Empty ones: making a lane for each arrival of thousands of tenants would cost more than the queue."""
        self.entries = 0
        self.bytes = 0
        self.withdrawn: list[Entry] = []

    def push(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            StoreBusyError: the queue, or the tenant's part of it, is full.
        """
        listener, size = entry.arrival.listener, len(entry.arrival.body)
        tenant = (listener.namespace, listener.tenant)
        lane = self._lanes.get(tenant)
        if not self._has_room(lane, size):
            raise model.StoreBusyError("the queue before the store is full")
        if lane is None:  # not before: a lane without an entry must never be drawn from
            lane = self._new_lane(tenant)
        lane.entries.append(entry)
        lane.bytes += size
        self.entries += 1
        self.bytes += size

    def draw(self) -> list[Entry]:
        """Take the next batch; entries that nobody waits for any more go to ``withdrawn`` instead."""
        batch: list[Entry] = []
        size = 0
        while self._lanes and len(batch) < self._limits.batch_entries and size < self._limits.batch_bytes:
            tenant, lane = self._lanes.popitem(last=False)
            entry = self._pop(lane)
            if lane.entries:
                self._lanes[tenant] = lane  # behind all others, also those that come between two batches
            else:
                self._spare.append(lane)
            if entry.future.done():
                self.withdrawn.append(entry)
            else:
                batch.append(entry)
                size += len(entry.arrival.body)
        return batch

    def put_back(self, entries: list[Entry]) -> None:
        """Return a batch that could not be committed to the front, in its order."""
        for entry in reversed(entries):
            listener = entry.arrival.listener
            tenant = (listener.namespace, listener.tenant)
            lane = self._lanes.get(tenant) or self._new_lane(tenant)
            lane.entries.appendleft(entry)
            size = len(entry.arrival.body)
            lane.bytes += size
            self.entries += 1
            self.bytes += size

    def _has_room(self, lane: _Lane | None, size: int) -> bool:
        limits = self._limits
        entries, held = (len(lane.entries), lane.bytes) if lane is not None else (0, 0)
        if entries >= limits.tenant_entries or held + size > limits.tenant_bytes:
            return False
        most_entries, most_bytes = limits.entries, limits.bytes
        if entries > limits.tenant_entries // _LITTLE or held > limits.tenant_bytes // _LITTLE:
            most_entries -= most_entries // _KEPT_FOR_OTHERS
            most_bytes -= most_bytes // _KEPT_FOR_OTHERS
        return self.entries < most_entries and self.bytes + size <= most_bytes

    def _new_lane(self, tenant: tuple[str, str]) -> _Lane:
        lane = self._lanes[tenant] = self._spare.pop() if self._spare else _Lane()
        return lane

    def _pop(self, lane: _Lane) -> Entry:
        entry = lane.entries.popleft()
        size = len(entry.arrival.body)
        lane.bytes -= size
        self.entries -= 1
        self.bytes -= size
        return entry
