"""A destination's document changes: its backlog is tried again at once."""

from pathlib import Path

from support import delivery_samples, dispatching, waiting
from usher_gateway import documents


async def test_change_during_the_hastening_of_an_earlier_one_is_not_lost(tmp_path: Path) -> None:
    """Deliveries that failed by the second document would wait for their retry otherwise."""
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=1)
    hastened: list[str] = []

    def change(concurrency: int) -> None:
        crm = delivery_samples.destination(concurrency=concurrency)
        bench.dispatcher.apply(documents.Snapshot({}, {crm.key: crm}))

    async def hasten(destination: str, _: int) -> int:
        hastened.append(destination)
        if len(hastened) == 1:
            change(3)
        return 0

    bench.store.hasten = hasten
    change(2)
    await waiting.wait_until(lambda: len(hastened) == 2, 20, "the second hastening")
    await bench.stop()
