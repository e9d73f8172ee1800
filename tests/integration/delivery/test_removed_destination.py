"""Attempts that fail after their destination was removed."""

from pathlib import Path

from support import dispatching, waiting
from usher_gateway import documents
from usher_gateway.delivery import circuit
from usher_gateway.delivery.outcome import Outcome, OutcomeKind


async def test_circuit_of_a_removed_destination_stays_closed(tmp_path: Path) -> None:
    """An open circuit would keep its deliveries in the backlog, where nothing holds them."""
    bench = dispatching.DispatcherBench(tmp_path / "data")
    await bench.start(concurrency=circuit.OPENS_AFTER)
    bench.failure = Outcome(OutcomeKind.Retry, "TimedOut", blames_destination=True)
    await bench.accept("abcde")
    await waiting.wait_until(lambda: len(bench.tried) == circuit.OPENS_AFTER, 60, "the attempts")

    bench.dispatcher.apply(documents.Snapshot({}, {}))
    bench.may_answer.set()
    scheduler = bench.dispatcher.scheduler
    await waiting.wait_until(lambda: scheduler.in_flight == 0, 60, "their end")
    assert bench.dispatcher.open_circuits == set()
    (last,) = await bench.accept("f")
    await waiting.wait_until(lambda: (last.key, 0) in bench.tried, 60, "the attempt that would hold it")
    await bench.stop()
