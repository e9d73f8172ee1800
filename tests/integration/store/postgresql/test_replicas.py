"""Several gateways on one database: one visit per arrival, one owner per delivery."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog

from support import databases, engines, samples, waiting
from usher_gateway import model
from usher_gateway.store.base import Filter, Replicas
from usher_gateway.store.jobs import meters
from usher_gateway.store.postgresql import incarnations
from usher_gateway.store.postgresql import store as postgresql_store
from usher_gateway.store.postgresql.connections import Connection
from usher_gateway.store.postgresql.incarnations import Incarnation

Gateways = list[engines.Bench]
NOW, DAY = samples.NOW, samples.DAY
ROUNDS = 20
DEAD = "update incarnations set beat_at = beat_at - interval '61 s' where number = {}"


@pytest.fixture(autouse=True)
def heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let gateways send a heartbeat, and take over, only when a test says so, and then without a grace period."""
    monkeypatch.setattr(incarnations, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(incarnations, "HEARTBEAT_SECONDS", 3_600.0)
    monkeypatch.setattr(postgresql_store, "_FLUSH_SECONDS", 1.0)  # a gateway that counts as dead commits nothing


async def let_die(bench: engines.Bench) -> None:
    """Let the database think that a gateway has sent no heartbeat for 61 s."""
    store = engines.postgresql(bench.store)
    async with store._pool.acquire() as connection:
        await connection.execute(DEAD.format(store.incarnation.number))


async def beat(bench: engines.Bench) -> None:
    await engines.postgresql(bench.store).ownership.beat()


async def test_equal_arrivals_at_two_gateways_are_one_visit(gateways: Gateways) -> None:
    """Each gateway gets the same eight arrivals, in another order, so that they would meet in a deadlock."""
    first, second = gateways
    with structlog.testing.capture_logs() as logs:
        for number in range(ROUNDS):
            contents = [f"{number} {position}" for position in range(8)]
            words_of_gateways = await asyncio.gather(
                first.words(*map(samples.arrival, contents)), second.words(*map(samples.arrival, reversed(contents)))
            )
            for word, other_word in zip(words_of_gateways[0], reversed(words_of_gateways[1]), strict=True):
                assert sorted([word, other_word]) == ["Repeat", "Visit"]
    assert logs == [], "a deadlock would be logged as a failed commit"
    assert (await first.counts())["visits"] == 8 * ROUNDS
    assert await second.violations() == []


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param(100, id="100"),
        pytest.param(10_000, id="10000", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_identical_arrivals_at_the_same_instant_are_one_visit(gateways: Gateways, pairs: int) -> None:
    """Each pair is alone, so that two transactions meet at one key and nothing else decides."""
    for number in range(pairs):
        words_of_gateways = await asyncio.gather(
            *[bench.words(samples.arrival(f"pair {number}")) for bench in gateways]
        )
        assert sorted(word for words in words_of_gateways for word in words) == ["Repeat", "Visit"]
    counts = await gateways[0].counts()
    assert (counts["visits"], counts["repeats"], counts["created"]) == (pairs, pairs, pairs)
    assert await gateways[1].violations() == []


async def test_visitor_at_two_gateways_is_one_visit(gateways: Gateways) -> None:
    """The bodies differ, so that only the visitor's key decides."""
    for number in range(ROUNDS // 5):
        visitor = samples.digest(f"visitor {number}")
        words_of_gateways = await asyncio.gather(
            *[
                bench.words(samples.arrival(f"{number} {place}", visitor_key=visitor))
                for place, bench in enumerate(gateways)
            ]
        )
        assert sorted(word for words in words_of_gateways for word in words) == ["Repeat", "Visit"]


async def test_once_per_mark_at_two_gateways_allows_one_delivery(gateways: Gateways) -> None:
    for number in range(ROUNDS // 5):
        plan = samples.plan(once_key=samples.digest(f"mark {number}"), once_until=NOW + DAY)
        batches = await asyncio.gather(
            *[
                bench.accept(samples.arrival(f"{number} {place}", if_visit=(plan,)))
                for place, bench in enumerate(gateways)
            ]
        )
        assert sorted(len(accepted.deliveries) for batch in batches for accepted in batch) == [0, 1]


async def test_release_locks_marks_in_the_order_of_accepted_visits(gateways: Gateways) -> None:
    """Otherwise each could wait for a mark that the other has written."""
    bench, _ = gateways
    low, high = sorted([samples.digest("a"), samples.digest("b")])
    await bench.accept(samples.quarantined("q"), samples.quarantined("r"))
    quarantined = await bench.store.quarantined(Filter(), 10)
    for arrival, mark in zip(quarantined, (high, low), strict=True):
        arrival.if_visit = (samples.plan(once_key=mark, once_until=samples.NOW + samples.DAY),)
    name, server = databases.name_of(bench.place), databases.server()
    waiters = f"select pid from pg_stat_activity where datname = '{name}' and wait_event_type = 'Lock'"
    somebody = await asyncpg.connect(server.dsn(name), server_settings={"lock_timeout": "1s"})
    try:
        transaction = somebody.transaction()
        await transaction.start()
        await somebody.execute("insert into once_marks values ($1, 1)", low)
        released = asyncio.create_task(bench.store.release(quarantined, samples.NOW))
        await waiting.until(lambda: asyncio.to_thread(server.rows, waiters))
        await somebody.execute("insert into once_marks values ($1, 1)", high)
        await transaction.rollback()
    finally:
        await somebody.close()
    assert await released == 2


async def test_retry_at_another_gateway_is_a_redelivery(gateways: Gateways) -> None:
    first, second = gateways
    arrival = samples.arrival("a")
    await first.accept(arrival)
    first.store.unacknowledged(arrival)
    await first.store.flush()
    assert await second.words(samples.arrival("a", NOW + 3 * samples.HOUR)) == ["Redelivery"]


async def test_gateways_claim_different_deliveries(gateways: Gateways) -> None:
    first, second = gateways
    for number in range(40):
        delivery = await first.deliver(f"{number}")
        await first.store.defer([delivery.key])
    claims = await asyncio.gather(*[bench.claim(limit=8) for bench in (first, second) for _ in range(3)])
    keys = [delivery.key for claimed in claims for delivery in claimed]
    assert len(keys) == len(set(keys)) == 40


async def test_only_the_owner_settles_a_delivery(gateways: Gateways) -> None:
    first, second = gateways
    delivery = await first.deliver()
    await first.store.defer([delivery.key])
    (claimed,) = await second.claim()
    await first.settle(delivery, model.SettledAs.Dead)
    await second.settle(claimed, model.SettledAs.Delivered)
    assert [row["state"] for row in await first.deliveries()] == ["delivered"]
    assert await first.violations() == []


async def test_route_of_another_gateway_is_known(gateways: Gateways) -> None:
    first, second = gateways
    await first.accept(samples.arrival("a", if_visit=(samples.plan(hold=model.HoldReason.DestinationPaused),)))
    (group,) = await second.store.held_groups()
    assert second.store.route(group.route) == samples.CRM
    assert await second.store.unhold(group, NOW) == 1
    (claimed,) = await second.claim()
    assert second.store.route(claimed.route) == samples.CRM


# A gateway that stops


async def test_deliveries_of_a_dead_gateway_are_taken_over(gateways: Gateways) -> None:
    first, second = gateways
    delivery = await first.deliver()
    await beat(second)
    assert await second.claim() == [], "the first gateway is alive"
    await let_die(first)
    await beat(second)
    assert [claimed.id for claimed in await second.claim()] == [delivery.id]


async def test_takeover_does_not_wait_for_a_suspended_transaction(gateways: Gateways) -> None:
    """The first gateway hangs in a transaction that locks one of its two deliveries."""
    first, second = gateways
    free, locked = await first.deliver("free"), await first.deliver("locked")
    store = engines.postgresql(first.store)
    async with store._pool.acquire() as connection:
        await let_die(first)
        async with connection.transaction():
            await connection.execute(f"update deliveries set status = 1 where key = {locked.key}")
            await beat(second)  # fails at the time limit of a statement if it waits
            assert [claimed.id for claimed in await second.claim()] == [free.id]
    await beat(second)
    assert [claimed.id for claimed in await second.claim()] == [locked.id]


async def test_deliveries_of_a_stopped_gateway_are_taken_over_at_once(gateways: Gateways) -> None:
    first, second = gateways
    delivery = await first.deliver()
    await first.store.close()
    await beat(second)
    assert [claimed.id for claimed in await second.claim()] == [delivery.id]


async def test_starting_gateway_gives_silent_ones_time_for_a_heartbeat(
    bench: engines.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was away for all: the running gateway has sent no heartbeat for 61 s either."""
    monkeypatch.setattr(incarnations, "GRACE_SECONDS", 3_600.0)
    await bench.deliver()
    await let_die(bench)
    starting = engines.Bench(bench.engine, bench.place)
    await starting.open()
    try:
        await beat(starting)
        assert await starting.claim() == []
        await beat(bench)
        assert await bench.store.outage() is None
    finally:
        await starting.store.close()


async def test_gateway_that_was_silent_gives_others_time_for_a_heartbeat(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process was suspended for as long as the other one."""
    first, second = gateways
    await first.deliver()
    await let_die(first)
    monkeypatch.setattr(incarnations, "GRACE_SECONDS", 3_600.0)
    engines.postgresql(second.store).ownership._beat_at -= 61
    await beat(second)
    assert await second.claim() == []
    await beat(first)
    assert await first.store.outage() is None


async def test_starting_gateway_takes_over_from_ended_ones_at_once(
    bench: engines.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incarnations, "GRACE_SECONDS", 3_600.0)
    delivery = await bench.deliver()
    await bench.store.close()
    starting = engines.Bench(bench.engine, bench.place)
    await starting.open()
    try:
        assert [claimed.id for claimed in await starting.claim()] == [delivery.id]
    finally:
        await starting.store.close()


async def test_slots_of_gateways_that_crash_at_their_start_become_free(bench: engines.Bench) -> None:
    """None of them runs for long enough to end the others."""
    await bench.store.close()
    server, name = databases.server(), databases.name_of(bench.place)
    server.execute("delete from incarnations", name)
    server.execute(
        "insert into incarnations (number, slot, beat_at)"
        f" select slot, slot, now() - interval '61 s' from generate_series(0, {incarnations.SLOTS} - 1) slot",
        name,
    )
    starting = engines.Bench(bench.engine, bench.place)
    with pytest.raises(model.StoreLockedError):
        await starting.open()
    server.execute("update incarnations set ended_at = ended_at - interval '601 s'", name)
    await starting.open()
    await starting.store.close()


async def test_gateway_that_comes_back_commits_nothing(gateways: Gateways) -> None:
    first, second = gateways
    delivery = await first.deliver()
    await let_die(first)
    await beat(second)
    (claimed,) = await second.claim()
    first.store.settle(samples.settlement(delivery, model.SettledAs.Delivered))
    future = first.store.accept(samples.arrival("late"))
    with pytest.raises(model.StoreUnavailableError):
        await first.store.defer([delivery.key])
    with pytest.raises(model.StoreLockedError):
        await first.store.watch_ownership()
    assert first.store.may_attempt is False
    assert await first.store.outage() is not None
    with pytest.raises(model.StoreUnavailableError):
        first.store.accept(samples.arrival("later"))
    await second.settle(claimed, model.SettledAs.Dead)
    assert [row["state"] for row in await second.deliveries()] == ["dead"]
    assert len(await second.visits()) == 1
    first.store.abandon(future)


async def test_heartbeat_of_a_gateway_that_comes_back_ends_it(gateways: Gateways) -> None:
    first, second = gateways
    await let_die(first)
    await beat(second)
    await beat(first)
    with pytest.raises(model.StoreLockedError):
        await first.store.watch_ownership()


async def test_gateway_without_a_confirmed_heartbeat_sends_nothing(gateways: Gateways) -> None:
    first, _ = gateways
    owned = engines.postgresql(first.store).ownership
    may_attempt = [owned.may_attempt]
    owned._beat_at -= 25
    may_attempt.append(owned.may_attempt)
    await beat(first)
    may_attempt.append(owned.may_attempt)
    assert may_attempt == [True, False, True]


async def test_first_validity_starts_before_the_incarnation_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = incarnations.begin, []

    async def watched(connection: Connection) -> Incarnation | None:
        begun.append(asyncio.get_running_loop().time())
        return await begin(connection)

    monkeypatch.setattr(incarnations, "begin", watched)
    engine = engines.Postgresql()
    bench = engines.Bench(engine, tmp_path / "data")
    try:
        await bench.open()
        assert engines.postgresql(bench.store).ownership._beat_at <= begun[0]
        await bench.store.close()
    finally:
        engine.forget(bench.place)


async def test_end_of_an_outage_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beat, tries = incarnations.beat, []

    async def fail_twice(*arguments: Any) -> float | None:
        tries.append(1)
        if len(tries) <= 2:
            raise OSError
        return await beat(*arguments)

    monkeypatch.setattr(incarnations, "beat", fail_twice)
    monkeypatch.setattr(incarnations, "HEARTBEAT_SECONDS", 0.01)
    engine = engines.Postgresql()
    bench = engines.Bench(engine, tmp_path / "data")
    try:
        with structlog.testing.capture_logs() as logs:
            await bench.open()
            await waiting.wait_until(lambda: len(tries) >= 5, 20, "heartbeats after the outage")
            await bench.store.close()
        beats = [line["event"] for line in logs if line["event"].startswith("heartbeat")]
        assert beats == ["heartbeat_failed", "heartbeat_failed", "heartbeat_resumed"]
    finally:
        engine.forget(bench.place)


# Shares of the limits of destinations


async def test_heartbeat_finds_the_gateways_that_share_the_limits(gateways: Gateways) -> None:
    older, newer = [engines.postgresql(bench.store).incarnation.number for bench in gateways]
    replicas: list[Replicas] = []
    gateways[0].store.follow_replicas(replicas.append)
    await beat(gateways[0])
    gateways[1].store.follow_replicas(replicas.append)
    assert replicas == [Replicas(older, (older,)), Replicas(older, (older, newer)), Replicas(newer, (older, newer))]


# Usage


async def test_usage_is_whole_while_another_gateway_folds(gateways: Gateways) -> None:
    first, second = gateways
    for number in range(30):
        await first.accept(samples.arrival(f"{number}"))
        folding = asyncio.create_task(engines.postgresql(second.store).fold_meters())
        assert (await first.counts())["visits"] == number + 1
        await folding
    assert await second.violations() == []


async def test_storage_limit_counts_what_other_gateways_store(gateways: Gateways) -> None:
    first, second = gateways
    body = b"x" * 10_000
    await first.accept(samples.arrival("a", body=body))
    store = engines.postgresql(second.store)
    reread: Any = store._commits.run_job(store._read_others)
    await reread
    with pytest.raises(model.StorageLimitError):
        second.store.accept(samples.arrival("b", max_stored_bytes=15_000, body=body))


async def test_start_that_fails_uses_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway tries to start every few seconds, and a slot is free again after 10 minutes only."""

    async def fail(*_: object) -> None:
        raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    engine = engines.Postgresql()
    bench = engines.Bench(engine, tmp_path / "data")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(meters, "stored_bytes", fail)
            for _ in range(3):
                with pytest.raises(model.StoreUnavailableError):
                    await bench.open()
        await bench.open()
        assert engines.postgresql(bench.store).incarnation.slot == 0
        await bench.store.close()
    finally:
        engine.forget(bench.place)
