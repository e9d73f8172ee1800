"""Sums that are kept of ended slots are right although somebody sets the clock."""

from typing import Any

from usher_gateway import model
from usher_gateway.store.ended_slots import EndedSlots

DAY = 20_000 * 86_400


class Meters:
    """Has one visit of the listener 7 in each slot that has begun."""

    def __init__(self) -> None:
        self.now = DAY + 12 * 3_600
        self.wrong_by = 0

    def clock(self) -> int:
        return (self.now + self.wrong_by) * model.MICROSECONDS

    async def look_up(self, query: Any) -> Any:
        return await query(self)


async def test_day_that_was_read_while_the_clock_was_ahead_is_read_again(monkeypatch: Any) -> None:
    meters = Meters()

    async def sums(_: object, since: int, until: int, __: object) -> dict[int, model.Counts]:
        slots = len(range(since, min(until, meters.now), model.SLOT_SECONDS))
        return {7: {model.Counter.visits: slots}} if slots else {}

    async def totals(_: object, since: int, until: int) -> dict[int, model.Counts]:
        return {slot: {model.Counter.visits: 1} for slot in range(since, min(until, meters.now), model.SLOT_SECONDS)}

    monkeypatch.setattr("usher_gateway.store.jobs.meters.sums_by_listener", sums)
    monkeypatch.setattr("usher_gateway.store.jobs.meters.totals", totals)
    slots = EndedSlots(meters.look_up, meters.clock)
    meters.wrong_by = 6 * 3_600
    await slots.day(DAY)
    await slots.totals(DAY, DAY + 86_400)
    meters.wrong_by = 0
    meters.now += 2 * 3_600
    assert await slots.day(DAY) == {7: {model.Counter.visits: 14 * 4}}
    assert len(await slots.totals(DAY, DAY + 86_400)) == 14 * 4
