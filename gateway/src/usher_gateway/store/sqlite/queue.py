"""What waits for the next commit: arrivals, tenant by tenant, so that none crowds out the others. Loop's side only."""

import asyncio
from collections import deque

import msgspec

from usher_gateway import model


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
        self._lanes: dict[tuple[str, str], _Lane] = {}
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
        listener, size, limits = entry.arrival.listener, len(entry.arrival.body), self._limits
        tenant = (listener.namespace, listener.tenant)
        lane = self._lanes.get(tenant)
        if (
            self.entries >= limits.entries
            or self.bytes + size > limits.bytes
            or (lane is not None and len(lane.entries) >= limits.tenant_entries)
            or (lane.bytes if lane is not None else 0) + size > limits.tenant_bytes
        ):
            raise model.StoreBusyError("the queue before the store is full")
        if lane is None:  # not before: a lane without an entry must never be drawn from
            lane = self._lanes[tenant] = self._spare.pop() if self._spare else _Lane()
        lane.entries.append(entry)
        lane.bytes += size
        self.entries += 1
        self.bytes += size

    def draw(self) -> list[Entry]:
        """Take the next batch; entries that nobody waits for any more go to ``withdrawn`` instead."""
        batch: list[Entry] = []
        size = 0
        while self._lanes and len(batch) < self._limits.batch_entries and size < self._limits.batch_bytes:
            for tenant in list(self._lanes):
                lane = self._lanes[tenant]
                entry = self._pop(lane)
                if not lane.entries:
                    self._spare.append(self._lanes.pop(tenant))
                if entry.future.done():
                    self.withdrawn.append(entry)
                else:
                    batch.append(entry)
                    size += len(entry.arrival.body)
                    if len(batch) >= self._limits.batch_entries or size >= self._limits.batch_bytes:
                        self._rotate(tenant)
                        break
        return batch

    def put_back(self, entries: list[Entry]) -> None:
        """Return a batch that could not be committed to the front, in its order."""
        for entry in reversed(entries):
            listener = entry.arrival.listener
            lane = self._lanes.setdefault((listener.namespace, listener.tenant), _Lane())
            lane.entries.appendleft(entry)
            size = len(entry.arrival.body)
            lane.bytes += size
            self.entries += 1
            self.bytes += size

    def _pop(self, lane: _Lane) -> Entry:
        entry = lane.entries.popleft()
        size = len(entry.arrival.body)
        lane.bytes -= size
        self.entries -= 1
        self.bytes -= size
        return entry

    def _rotate(self, last: tuple[str, str]) -> None:
        """Let the tenants after ``last`` be first in the next batch."""
        for tenant in list(self._lanes):
            self._lanes[tenant] = self._lanes.pop(tenant)
            if tenant == last:
                break
