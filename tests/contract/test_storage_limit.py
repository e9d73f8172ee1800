"""A tenant stores a bounded number of bytes; then only its arrivals are refused, until retention frees some."""

import msgspec
import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.base import Filter

LIMIT = 200_000
BODY = b'{"user":{"id":1},"x":"' + bytes(range(48, 123)) * 100 + b'"}'


def arrival(
    number: int, listener: model.ListenerName = samples.LOBBY, at: int = samples.NOW, routes: int = 0
) -> model.Arrival:
    hold = model.HoldReason.DestinationPaused
    plans = tuple(samples.plan(samples.route(f"route-{each}", listener), hold=hold) for each in range(routes))
    return samples.arrival(f"{number}", at, listener=listener, body=BODY, max_stored_bytes=LIMIT, if_visit=plans)


async def fill(bench: engines.Bench, routes: int = 0) -> int:
    """Accept arrivals of a tenant, at two listeners, until the store refuses one; return how many it accepted."""
    for number in range(1_000):
        try:
            await bench.accept(arrival(number, (samples.LOBBY, samples.POOL)[number % 2], bench.clock.now, routes))
        except model.StorageLimitError:
            return number
    raise AssertionError("the store refused nothing")


@pytest.mark.parametrize("restart", [None, "close", "crash", "folded"])
async def test_only_the_tenant_at_its_limit_is_refused(bench: engines.Bench, restart: str | None) -> None:
    accepted = await fill(bench)
    assert 2 < accepted <= LIMIT // 1_000
    if restart == "folded":
        await bench.engine.upkeep(bench.store)
    if restart is not None:
        await bench.reopen(crash=restart != "close")
    with pytest.raises(model.StorageLimitError):
        bench.store.accept(arrival(1_000))
    assert await bench.words(arrival(1_001, samples.BAR)) == ["Visit"]
    assert await bench.words(samples.arrival("without a limit")) == ["Visit"]
    assert "stored_bytes" not in await bench.counts()


async def test_deliveries_count_against_the_limit(bench: engines.Bench) -> None:
    # With ten attempts and a kept answer, the rows of 32 deliveries take 26 KB.
    assert await fill(bench, routes=32) <= LIMIT // (32 * 512)


async def test_bytes_that_retention_deletes_are_free_again(bench: engines.Bench) -> None:
    routes = 3
    accepted = await fill(bench, routes)
    for days in (31, 31):  # bodies go first, the ledger later: each byte counts once
        bench.clock.now += days * samples.DAY
        while await bench.store.prune(bench.clock.now):
            pass
        assert await fill(bench, routes) == accepted
    await bench.reopen(crash=True)
    with pytest.raises(model.StorageLimitError):
        bench.store.accept(arrival(1_000))


async def test_bytes_of_released_deliveries_are_free_after_retention(bench: engines.Bench) -> None:
    accepted = await fill(bench)
    bench.clock.now += 31 * samples.DAY
    while await bench.store.prune(bench.clock.now):
        pass
    await bench.accept(samples.quarantined("q", bench.clock.now))
    (kept,) = await bench.store.quarantined(Filter(), 10, 0)
    kept = msgspec.structs.replace(kept, if_visit=tuple(samples.plan(samples.route(f"r{n}")) for n in range(20)))
    assert await bench.store.release([kept], bench.clock.now) == 20
    for delivery in await bench.claim():
        bench.store.settle(samples.settlement(delivery, model.SettledAs.Delivered))
    await bench.store.flush()
    bench.clock.now += 31 * samples.DAY
    while await bench.store.prune(bench.clock.now):
        pass
    assert await fill(bench) == accepted
