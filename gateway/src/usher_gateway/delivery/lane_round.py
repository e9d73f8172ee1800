"""The rounds in which lanes wait for a slot. Pure."""

import collections
from typing import Generic, Protocol, TypeVar


class WaitingLane(Protocol):
    """The properties of a lane that a round reads."""

    name: str
    namespace: str


_LaneT = TypeVar("_LaneT", bound=WaitingLane)


class LaneRound(Generic[_LaneT]):
    """Lanes that wait for a slot. Namespaces take turns, and so do the lanes of a namespace."""

    def __init__(self) -> None:
        self._namespaces: collections.OrderedDict[str, collections.OrderedDict[str, _LaneT]] = collections.OrderedDict()
        self.count = 0
        """Lanes in the round."""

    def add(self, lane: _LaneT) -> None:
        """Add a lane at the end of its namespace's lanes. It must not be in the round."""
        lanes = self._namespaces.get(lane.namespace)
        if lanes is None:
            lanes = self._namespaces[lane.namespace] = collections.OrderedDict()
        lanes[lane.name] = lane
        self.count += 1

    def pop(self) -> _LaneT:
        """Remove and return the lane whose turn it is. The round must not be empty."""
        namespace, lanes = next(iter(self._namespaces.items()))
        _, lane = lanes.popitem(last=False)
        self.count -= 1
        if lanes:
            self._namespaces.move_to_end(namespace)
        else:
            del self._namespaces[namespace]
        return lane

    def remove(self, lane: _LaneT) -> None:
        """Remove a lane that is in the round."""
        lanes = self._namespaces[lane.namespace]
        del lanes[lane.name]
        self.count -= 1
        if not lanes:
            del self._namespaces[lane.namespace]
