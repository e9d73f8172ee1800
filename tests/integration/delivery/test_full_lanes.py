"""While lanes are full, other deliveries wait in the store, and the dispatcher does not claim them repeatedly."""

import asyncio
from pathlib import Path

from support import dispatching, samples, waiting
from usher_gateway.delivery.dispatcher import DispatcherLimits

OTHER = samples.route("other", destination="agency/other")


async def test_delivery_larger_than_the_room_is_not_claimed_repeatedly(tmp_path: Path) -> None:
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(8, DispatcherLimits(lane_bytes=10_000), "other")
    # Another destination fills a part of the lanes, this one a little, and the third delivery needs more than is left.
    for content, size, route in [("a", 4_000, OTHER), ("b", 2, samples.CRM), ("c", 3_000, samples.CRM)]:
        arrival = samples.arrival(content, body=b"x" * size, if_visit=(samples.plan(route),))
        bench.dispatcher.offer((await bench.store.accept(arrival)).deliveries)
    await waiting.wait_until(lambda: bench.claims > 0, 60, "a look for what waits")
    claims = bench.claims
    await asyncio.sleep(0.5)
    assert bench.claims - claims <= 2
    assert bench.dispatcher.scheduler.in_flight == 2

    bench.may_answer.set()

    async def is_all_delivered() -> bool:
        await bench.store.flush()
        return not await bench.store.open_deliveries(1 << 62)

    await waiting.wait_until(is_all_delivered, 60, "the delivery of what had no room")
    await bench.stop()
