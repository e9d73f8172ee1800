"""Nothing is stored or sent of a suppressed person: visits are only counted, until the suppression is taken back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support import databases, engines, samples, waiting
from usher_gateway import model
from usher_gateway.store.base import Filter, ReplayReport, SuppressedTenant

HOUR, NOW = samples.HOUR, samples.NOW
SettledAs = model.SettledAs
ADA, ADA_AT_BEACH, BOB = (samples.digest(name, 8) for name in ("ada", "ada at beach", "bob"))
TENANTS = {ADA: "agency/acme", ADA_AT_BEACH: "agency/beach"}


def of_ada(content: str = "ada", at: int = NOW, **changes: Any) -> model.Arrival:
    values = {"person_keys": (BOB[::-1], ADA), "visitor_key": samples.digest("ada, visitor")}
    return samples.arrival(content, at, **(values | changes))


def ignore(_: Sequence[int]) -> None:
    """Drop nothing from lanes, because there are none."""


async def suppress(bench: engines.Bench) -> int:
    return await bench.store.suppress(TENANTS, bench.clock.now, ignore)


async def test_suppressed_visit_is_counted_and_not_stored(bench: engines.Bench) -> None:
    assert await suppress(bench) == 2
    first, *others = [samples.arrival(f"bob {number}", person_keys=(BOB,)) for number in range(3)]
    assert await bench.words(first, of_ada(), *others, of_ada("again")) == [
        *("Visit", "Suppressed", "Visit", "Visit", "Suppressed")
    ]
    assert await bench.ids_of_person(ADA) == []
    assert len(await bench.ids_of_person(BOB)) == len(await bench.visits()) == 3
    counts = await bench.counts()
    assert (counts["visits"], counts["suppressed"], counts["created"]) == (3, 2, 3)
    assert await bench.violations() == []


async def test_batch_of_suppressed_visits_alone_is_counted(bench: engines.Bench) -> None:
    await suppress(bench)
    assert await bench.words(of_ada(), of_ada("again")) == ["Suppressed", "Suppressed"]
    await bench.reopen(crash=True)
    assert await bench.counts() == {"suppressed": 2}


async def test_suppressed_visit_leaves_no_trace_for_dedupe(bench: engines.Bench) -> None:
    await suppress(bench)
    suppressed = of_ada()
    assert await bench.words(suppressed) == ["Suppressed"]
    bench.store.unacknowledged(suppressed)  # its 200 was not sent
    await bench.store.flush()
    assert await bench.store.unsuppress(list(TENANTS)) == 2
    assert await bench.words(of_ada()) == ["Visit"], "neither a redelivery nor a repeat"


async def test_suppression_survives_a_crash_and_a_second_one_adds_nothing(bench: engines.Bench) -> None:
    await suppress(bench)
    await bench.reopen(crash=True)
    bench.clock.now += HOUR
    assert await suppress(bench) == 0
    assert await bench.store.tenants_suppressing([ADA, BOB]) == {"agency/acme"}
    assert await bench.store.suppressed_by_tenant() == [
        SuppressedTenant("agency/acme", 1, NOW, NOW),
        SuppressedTenant("agency/beach", 1, NOW, NOW),
    ]
    assert await bench.words(of_ada()) == ["Suppressed"]


async def test_suppression_cancels_what_waits_for_its_destination(bench: engines.Bench) -> None:
    held = samples.plan(hold=model.HoldReason.DestinationPaused)
    in_lane, _, other = await bench.accept(
        of_ada("in a lane"), of_ada("held", NOW + HOUR, if_visit=(held,)), samples.arrival("bob", person_keys=(BOB,))
    )
    dropped: list[int] = []
    await bench.store.suppress(TENANTS, NOW, dropped.extend)
    states = {row["id"]: (row["state"], row["cancelled"]) for row in await bench.deliveries()}
    assert sorted(states.values()) == [("cancelled", "Suppressed"), ("cancelled", "Suppressed"), ("pending", None)]
    assert states[model.format_id(other.deliveries[0].id)] == ("pending", None)
    assert in_lane.deliveries[0].key in dropped
    assert len(dropped) == 2
    assert await bench.violations() == []


async def test_second_suppression_cancels_what_an_interrupted_one_left(bench: engines.Bench) -> None:
    await bench.accept(of_ada())

    def interrupt(_: Sequence[int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await bench.store.suppress(TENANTS, NOW, interrupt)
    await bench.reopen(crash=True)
    assert await bench.words(of_ada("new")) == ["Suppressed"]
    assert await suppress(bench) == 0
    assert [row["state"] for row in await bench.deliveries()] == ["cancelled"]


async def test_redrive_leaves_out_suppressed_persons(bench: engines.Bench) -> None:
    ada, bob = await bench.accept(of_ada(), samples.arrival("bob", person_keys=(BOB,)))
    for accepted in (ada, bob):
        bench.store.settle(samples.settlement(accepted.deliveries[0], SettledAs.Dead, NOW, error="Rejected"))
    await bench.store.flush()
    await suppress(bench)
    assert (await bench.store.preview("redrive", Filter(), NOW)).reasons == {"Rejected": 1}
    assert await bench.redrive(Filter(), NOW) == 1
    await bench.store.unsuppress([ADA])
    assert (await bench.store.preview("redrive", Filter(), NOW)).reasons == {"Rejected": 1}
    assert await bench.redrive(Filter(), NOW) == 1
    assert await bench.violations() == []


async def test_replay_leaves_out_suppressed_persons(bench: engines.Bench) -> None:
    skipped = (samples.skip(model.SkipReason.Filter),)
    await bench.accept(
        of_ada(if_visit=skipped), samples.arrival("bob", person_keys=(BOB,), if_visit=skipped), samples.arrival("c")
    )
    await suppress(bench)
    preview = await bench.preview_replay(bench.replay_request("Filter"), NOW)
    assert preview.report == ReplayReport(results={"Filter": 1}, suppressed=1)
    assert await bench.replay("Filter") == ReplayReport(results={"Filter": 1}, suppressed=1)
    await bench.store.unsuppress([ADA])
    assert await bench.replay("Filter") == ReplayReport(results={"Filter": 1}, replayed_before=1)


async def test_release_leaves_suppressed_persons_in_quarantine(bench: engines.Bench) -> None:
    await bench.accept(samples.quarantined("ada"), samples.quarantined("bob"))
    await suppress(bench)

    async def release() -> int:
        arrivals = await bench.store.quarantined(Filter(), 10)
        for arrival, person in zip(arrivals, (ADA, BOB), strict=False):
            arrival.person_keys, arrival.if_visit = (person,), (samples.plan(),)
        return await bench.store.release(arrivals, NOW)

    assert await release() == 1
    assert [row["released"] for row in await bench.visits()] == [True, False]
    await bench.store.unsuppress([ADA])
    assert await release() == 1


async def test_release_leaves_out_a_person_whom_the_first_reading_found(bench: engines.Bench) -> None:
    await bench.accept(samples.quarantined("ada", person_keys=(ADA,)))
    await suppress(bench)
    (arrival,) = await bench.store.quarantined(Filter(), 10)
    arrival.person_keys, arrival.if_visit = (BOB,), (samples.plan(),)
    assert await bench.store.release([arrival], NOW) == 0
    await bench.store.unsuppress([ADA])
    assert await bench.store.release([arrival], NOW) == 1


async def test_visit_that_another_gateway_is_accepting_is_not_sent(tmp_path: Path) -> None:
    engine = engines.Postgresql()
    first, second = [engines.Bench(engine, tmp_path / "data") for _ in range(2)]
    await first.open()
    await second.open()
    connection = await asyncpg.connect(databases.gateway_dsn(databases.name_of(tmp_path / "data")))
    lock = connection.transaction()
    await lock.start()
    await connection.execute("lock table prints in exclusive mode")
    accepting = asyncio.create_task(second.accept(of_ada()))
    await waiting.until(lambda: waits_for_lock(connection))
    suppressing = asyncio.create_task(suppress(first))
    await waiting.until(lambda: is_suppressed(first))
    await lock.rollback()
    assert (await accepting)[0].counted_as is model.CountedAs.Visit, "it came before the suppression"
    assert await suppressing == 2
    assert [row["state"] for row in await first.deliveries()] == ["cancelled"]
    assert await second.words(of_ada("later")) == ["Suppressed"]
    await connection.close()
    await first.store.close()
    await second.store.close()
    engine.forget(tmp_path / "data")


async def waits_for_lock(connection: Any) -> bool:
    return bool(await connection.fetchval("select count(*) from pg_locks where not granted"))


async def is_suppressed(bench: engines.Bench) -> bool:
    return bool(await bench.store.tenants_suppressing([ADA]))
