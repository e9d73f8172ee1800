"""Slots of a ``FairPool`` for tasks that wait. The queues take turns."""

import asyncio
import collections
import contextlib
import heapq
import itertools
from collections.abc import AsyncIterator, Hashable

from usher_gateway.fair_pool import FairPool


class FairSlots:
    """Gives slots to waiting tasks. Belongs to one event loop."""

    def __init__(self, size: int) -> None:
        self._pool = FairPool(size)
        self._waiting: collections.OrderedDict[Hashable, list[tuple[int, int, str, str, asyncio.Future[None]]]] = (
            collections.OrderedDict()
        )
        """Queue -> heap of (priority, order of arrival, group, member, future)."""
        self._numbers = itertools.count()

    @contextlib.asynccontextmanager
    async def hold(self, group: str, member: str, *, queue: Hashable, priority: int = 0) -> AsyncIterator[None]:
        """Wait for a slot and hold it.

        Args:
            group: has a share of the slots, as a namespace has in ``FairPool``.
            member: has a share of them, as a tenant has.
            queue: if its first task may not have a slot, the others of the queue wait too.
            priority: the tasks of a queue with the lowest number are first.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting.setdefault(queue, []), (priority, next(self._numbers), group, member, turn))
        self._give_turns()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():  # it is cancelled if the task was cancelled while it waited
                self._pool.give_back(group, member)
                self._give_turns()

    def _give_turns(self) -> None:
        """Give every slot that may be used to the tasks that wait."""
        is_given = True
        while is_given:
            is_given = False
            for queue in list(self._waiting):
                is_given = self._give_turn(queue) or is_given

    def _give_turn(self, queue: Hashable) -> bool:
        """Give a queue's first task a slot, if it may have one."""
        heap = self._waiting[queue]
        while heap and heap[0][-1].cancelled():
            heapq.heappop(heap)
        if not heap:
            del self._waiting[queue]
            return False
        _, _, group, member, turn = heap[0]
        if not self._pool.admits(group, member):
            return False
        heapq.heappop(heap)
        self._pool.take(group, member)
        turn.set_result(None)
        self._waiting.move_to_end(queue)
        return True
