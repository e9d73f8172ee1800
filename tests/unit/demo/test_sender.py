"""The bodies of the simulated day, as the listeners of the example agency read them."""

from pathlib import Path

from demo import sender
from support import ingest_samples
from usher_gateway.config import files
from usher_gateway.ingest import body_reading
from usher_gateway.simulator import schedule

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_example_agency_trusts_each_time_of_the_day() -> None:
    """Otherwise the pages of `make run` begin with faults that the example itself has."""
    snapshot = files.load_once([EXAMPLES / "agency"], ingest_samples.KEYS).snapshot
    listeners = {listener.name: listener for listener in snapshot.listeners.values()}
    readings = set()
    for target in sender.targets({name: listener.addresses[0].url for name, listener in listeners.items()}):
        listener = ingest_samples.live(listeners[target.name])
        assert target.pattern is not None
        for event in schedule.plan(target.pattern, target.company.seed):
            body = schedule.body_of(event, target.company, ingest_samples.NOON)
            received_at = ingest_samples.NOON + event.send
            reading = body_reading.read_body(listener, body, "application/json", received_at, ingest_samples.KEYS)
            readings.add((target.name, reading.outcome, reading.time))
    assert readings == {(name, "Visit", "Trusted") for name in ("hotels", "cafes", "stadium")}
