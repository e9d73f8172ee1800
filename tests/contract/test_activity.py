"""The activity of listeners, which their conditions need after a restart."""

from support import engines, samples
from usher_gateway.store.base import ListenerActivity


async def test_saved_activity_is_there_after_a_crash(bench: engines.Bench) -> None:
    assert await bench.store.activity() == {}
    saved = ListenerActivity(samples.NOW, {"one": 5, "two": 6}, {"old": 7})
    await bench.store.save_activity({samples.LOBBY: ListenerActivity(1)})
    await bench.store.save_activity({samples.LOBBY: saved})
    await bench.reopen(crash=True)
    assert await bench.store.activity() == {samples.LOBBY: saved}
