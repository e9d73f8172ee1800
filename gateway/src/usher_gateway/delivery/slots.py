"""The slots for running attempts, and the rounds in which lanes wait for a slot. Pure.

The slots are in two pools. Every attempt may take a slot of the shared pool. Only destinations that answer fast may
take one of the reserve, so that slow destinations, however many, do not delay the others. A destination that has not
answered yet may take one slot of the first half of the reserve.

In a pool, a namespace may use as many slots as it leaves free, and a tenant as many as its namespace leaves. So one
namespace alone gets half of a pool, and n namespaces that want everything leave 1/(n + 1) of it to the next one.
"""

import collections
from typing import Generic, Protocol, TypeVar

RESERVE_SHARE = 4
"""1/4 of the slots is reserved for fast destinations."""


class SlotPool:
    """A number of slots, and who uses them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._used_by_namespace: dict[str, int] = {}
        self._used_by_tenant: dict[str, int] = {}

    @property
    def namespaces(self) -> int:
        """How many namespaces use a slot."""
        return len(self._used_by_namespace)

    def admits(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant of a namespace may take another slot."""
        left = self.free - self._used_by_namespace.get(namespace, 0)
        return left > 0 and self._used_by_tenant.get(tenant, 0) < left

    def take(self, namespace: str, tenant: str) -> None:
        """Take a slot."""
        self.free -= 1
        self._used_by_namespace[namespace] = self._used_by_namespace.get(namespace, 0) + 1
        self._used_by_tenant[tenant] = self._used_by_tenant.get(tenant, 0) + 1

    def give_back(self, namespace: str, tenant: str) -> None:
        """Give back a slot that ``take`` took."""
        self.free += 1
        for used, holder in ((self._used_by_namespace, namespace), (self._used_by_tenant, tenant)):
            used[holder] -= 1
            if not used[holder]:
                del used[holder]


class WaitingLane(Protocol):
    """What a round needs to know of a lane."""

    name: str
    namespace: str


_Lane = TypeVar("_Lane", bound=WaitingLane)


class LaneRound(Generic[_Lane]):
    """Lanes that wait for a slot. Namespaces take turns, and so do the lanes of a namespace."""

    def __init__(self) -> None:
        self._namespaces: collections.OrderedDict[str, collections.OrderedDict[str, _Lane]] = collections.OrderedDict()
        self.count = 0
        """Lanes in the round."""

    def add(self, lane: _Lane) -> None:
        """Add a lane at the end of its namespace's lanes. It must not be in the round."""
        lanes = self._namespaces.get(lane.namespace)
        if lanes is None:
            lanes = self._namespaces[lane.namespace] = collections.OrderedDict()
        lanes[lane.name] = lane
        self.count += 1

    def pop(self) -> _Lane:
        """Remove and return the lane whose turn it is. The round must not be empty."""
        namespace, lanes = next(iter(self._namespaces.items()))
        _, lane = lanes.popitem(last=False)
        self.count -= 1
        if lanes:
            self._namespaces.move_to_end(namespace)
        else:
            del self._namespaces[namespace]
        return lane

    def remove(self, lane: _Lane) -> None:
        """Remove a lane that is in the round."""
        lanes = self._namespaces[lane.namespace]
        del lanes[lane.name]
        self.count -= 1
        if not lanes:
            del self._namespaces[lane.namespace]
