"""The activity of listeners and destinations, which their conditions need after a restart."""

import msgspec

from support import engines, samples
from usher_gateway.store.base import DestinationActivity, ListenerActivity

FAILING = DestinationActivity(
    url_digest=b"one",
    has_succeeded=True,
    error="ServerError",
    status=503,
    failed_at=samples.NOW,
    failing_since=samples.NOW - 9,
    failures=3,
)


async def test_saved_activity_is_there_after_a_crash(bench: engines.Bench) -> None:
    assert await bench.store.listener_activity() == {}
    saved = ListenerActivity(samples.NOW, {"one": 5, "two": 6}, {"old": 7})
    await bench.store.save_activity({samples.LOBBY: ListenerActivity(1)})
    await bench.store.save_activity({samples.LOBBY: saved}, {"agency/crm": FAILING})
    await bench.reopen(crash=True)
    assert await bench.store.listener_activity() == {samples.LOBBY: saved}
    assert await bench.store.destination_activity() == {"agency/crm": FAILING}


async def test_older_activity_of_a_destination_does_not_replace_a_newer_one(bench: engines.Bench) -> None:
    recovered = msgspec.structs.replace(FAILING, recovered_at=samples.NOW + 1)
    await bench.store.save_activity({}, {"agency/crm": recovered})
    await bench.store.save_activity({}, {"agency/crm": FAILING})
    assert await bench.store.destination_activity() == {"agency/crm": recovered}


async def test_activity_at_another_url_replaces_the_former_one(bench: engines.Bench) -> None:
    moved = DestinationActivity(url_digest=b"two", has_succeeded=True)
    await bench.store.save_activity({}, {"agency/crm": FAILING})
    await bench.store.save_activity({}, {"agency/crm": moved})
    assert await bench.store.destination_activity() == {"agency/crm": moved}
