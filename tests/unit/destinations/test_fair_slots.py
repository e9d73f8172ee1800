"""Slots for waiting tasks: queues take turns."""

import asyncio

from usher_gateway.destinations.fair_slots import FairSlots


async def test_freed_slot_goes_to_the_queue_that_got_one_longest_ago() -> None:
    slots, order = FairSlots(1), list[str]()

    async def take(queue: str, name: str) -> None:
        async with slots.hold(queue, "acme", queue=queue):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(take("a", "a1"), take("a", "a2"), take("a", "a3"), take("b", "b1"))
    assert order == ["a1", "a2", "b1", "a3"]
