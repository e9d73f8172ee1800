"""Sums over the meters in slots that ended a while ago. These change no more, so each is read from the store once."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet

from usher_gateway import model
from usher_gateway.store import books
from usher_gateway.store.jobs import meters
from usher_gateway.store.transaction import Query

_SETTLED_SECONDS = 1_800  # A slot that ended so long ago gets no more counts: clocks of gateways differ by less
_MOST_SLOTS = 70 * 96  # Slots whose totals are kept: 70 days, for two months on the page Usage; about 9 MB


_PART_SECONDS = 86_400  # One query reads the slots of so much time at most

_LookUp = Callable[[Query[dict[int, model.Counts]]], Awaitable[dict[int, model.Counts]]]


class EndedSlots:
    """Adds up the meters of all listeners for views that people ask for again and again."""

    def __init__(self, look_up: _LookUp, now: Callable[[], int]) -> None:
        self._look_up, self._now = look_up, now
        self._totals: dict[int, model.Counts] = {}  # Slot -> counts of all listeners together
        self._since = self._until = 0
        self._sums: dict[int, model.Counts] = {}  # Listener number -> counts of the slots in [_since, _until)
        self._last_settled_to = 0
        self._lock = asyncio.Lock()

    async def totals(self, since: int, until: int) -> dict[int, model.Counts]:
        """Return slot -> counts for all listeners together, in the slots in [since, until) (seconds)."""
        settled_to = self._settled_to()
        first = -(-since // model.SLOT_SECONDS) * model.SLOT_SECONDS
        if until - first > _MOST_SLOTS * model.SLOT_SECONDS:
            return await self._look_up(lambda session: meters.totals(session, since, until))
        slots = range(first, until, model.SLOT_SECONDS)
        unread_from = next((slot for slot in slots if slot not in self._totals), until)
        by_slot = {slot: self._totals[slot] for slot in range(first, unread_from, model.SLOT_SECONDS)}
        for begin in range(unread_from, until, _PART_SECONDS):
            end = min(begin + _PART_SECONDS, until)
            unread = await self._look_up(functools.partial(meters.totals, since=begin, until=end))
            by_slot.update(unread)
            self._keep(range(begin, min(end, settled_to), model.SLOT_SECONDS), unread)
        return {slot: counts for slot, counts in by_slot.items() if counts}

    def _keep(self, slots: range, by_slot: dict[int, model.Counts]) -> None:
        self._totals.update({slot: by_slot.get(slot, {}) for slot in slots})
        for slot in sorted(self._totals)[:-_MOST_SLOTS]:
            del self._totals[slot]

    async def day(self, since: int, listeners: AbstractSet[int] | None = None) -> dict[int, model.Counts]:
        """Return listener number -> counts for the slots in the day that begins at ``since`` (seconds).

        ``listeners``: whose counts; None: every listener's.
        """
        until = since + 86_400
        async with self._lock:
            settled_to = min(until, self._settled_to())
            if since != self._since:
                self._since, self._until, self._sums = since, since, {}
            if settled_to > self._until:
                _add(self._sums, await self._sums_of(self._until, settled_to, None))
                self._until = settled_to
            selected = self._sums.keys() if listeners is None else self._sums.keys() & listeners
            sums = {listener: dict(self._sums[listener]) for listener in selected}
            unsettled_from = self._until
        _add(sums, await self._sums_of(unsettled_from, until, listeners))
        return sums

    async def _sums_of(self, since: int, until: int, listeners: AbstractSet[int] | None) -> dict[int, model.Counts]:
        return await self._look_up(lambda session: meters.sums_by_listener(session, since, until, listeners))

    def _settled_to(self) -> int:
        """Return the border before which slots get no more counts (seconds); forget everything if it went back."""
        settled_to = model.slot_of(self._now()) - _SETTLED_SECONDS
        if settled_to < self._last_settled_to:  # somebody set the clock back, so some slots have not ended after all
            self._totals, self._since, self._until, self._sums = {}, 0, 0, {}
        self._last_settled_to = settled_to
        return settled_to


def _add(sums: dict[int, model.Counts], more: dict[int, model.Counts]) -> None:
    for listener, counts in more.items():
        books.add(sums.setdefault(listener, {}), counts)
