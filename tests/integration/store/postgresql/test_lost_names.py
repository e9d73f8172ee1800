"""A database that goes back: without names whose numbers gateways remember, or without outcomes."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog

from postgresql.server import PostgresServer, StandbyServer
from support import databases, dispatching, engines, samples, waiting
from usher_gateway import model
from usher_gateway.delivery.dispatcher import DispatcherLimits
from usher_gateway.store.base import Filter, ListenerActivity
from usher_gateway.store.names import NameNumbers, UsedNames, add_names
from usher_gateway.store.postgresql.connections import Durability, PostgresSession
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.postgresql.store import PostgresStore

BAR_ROUTE = samples.route("crm", samples.BAR, "agency/bar")
SPA = model.ListenerName("agency", "initech", "spa")
SPA_ROUTE = samples.route("crm", SPA, "agency/spa")


def at(route: model.RouteDefinition, content: str) -> model.Arrival:
    return samples.arrival(content, listener=route.listener, if_visit=(samples.plan(route),), if_repeat=())


async def go_back(bench: engines.Bench, copy: str) -> None:
    await asyncio.to_thread(databases.restore, databases.name_of(bench.place), copy)


async def save(bench: engines.Bench) -> str:
    return await asyncio.to_thread(databases.save, databases.name_of(bench.place))


async def test_names_that_the_database_lost_are_written_again(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("kept"))
    copy = await save(bench)
    await bench.accept(at(BAR_ROUTE, "lost"))
    await go_back(bench, copy)
    assert await bench.words(at(BAR_ROUTE, "after"), samples.arrival("lobby")) == ["Visit", "Visit"]
    assert [row["tenant"] for row in await bench.visits()] == ["acme", "globex", "acme"]
    (delivery,) = await bench.deliveries(tenant="globex")
    assert (delivery["route"], delivery["destination"]) == ("crm", "agency/bar")
    assert await bench.counts(samples.BAR) == {"visits": 1, "routed": 1, "created": 1}
    assert await bench.violations() == []
    await bench.reopen()
    assert [row["tenant"] for row in await bench.visits()] == ["acme", "globex", "acme"]


async def test_lost_names_of_two_tenants_stay_apart(gateways: list[engines.Bench]) -> None:
    """Another gateway writes a new name first, for which a counter of the database would give out the same number."""
    first, second = gateways
    await first.accept(samples.arrival("kept"))
    copy = await save(first)
    await first.accept(at(BAR_ROUTE, "lost"))
    await go_back(first, copy)
    await second.accept(at(SPA_ROUTE, "spa"))
    await first.accept(at(BAR_ROUTE, "bar"))
    assert [row["tenant"] for row in await first.visits()] == ["globex", "initech", "acme"]
    assert await first.counts(SPA) == {"visits": 1, "routed": 1, "created": 1}
    assert await second.counts(samples.BAR) == {"visits": 1, "routed": 1, "created": 1}


async def test_gateways_add_the_same_names_at_once_and_do_not_wait_in_a_circle(gateways: list[engines.Bench]) -> None:
    first, second = gateways
    listeners = [model.ListenerName("agency", "acme", f"room-{number}") for number in range(50)]
    routes = [samples.route("crm", listener, f"agency/{listener.listener}") for listener in listeners]
    with structlog.testing.capture_logs() as logs:
        await asyncio.gather(
            first.accept(*[at(route, f"first {route.destination}") for route in routes]),
            second.accept(*[at(route, f"second {route.destination}") for route in reversed(routes)]),
        )
    assert logs == []
    for listener in listeners:
        assert (await first.counts(listener))["created"] == 2
    assert await second.violations() == []


# Let an insert wait for a lock after it has looked for a row in its way, and before it writes the unique indexes.
PAUSE = """
    create function pause(bigint) returns bigint language plpgsql immutable
        as $$ begin perform pg_advisory_xact_lock_shared(1); return $1; end $$;
    alter table listeners drop constraint listeners_pkey, drop constraint listeners_namespace_tenant_listener_key;
    create index on listeners (pause(number));
    alter table listeners add primary key (number), add unique (namespace, tenant, listener)
"""


async def test_two_gateways_add_the_same_name_at_the_same_instant(bench: engines.Bench) -> None:
    name = databases.name_of(bench.place)
    await asyncio.to_thread(databases.server().execute, PAUSE, name)
    used = UsedNames()
    used.listeners[SPA] = NameNumbers().listener(SPA)
    waits = f"select from pg_stat_activity where datname = '{name}' and wait_event = 'advisory'"

    async def waiters() -> list[Any]:
        return await asyncio.to_thread(databases.server().rows, waits)

    async with asyncpg.create_pool(databases.gateway_dsn(name), min_size=3) as pool:

        async def add() -> None:
            async with pool.acquire() as connection, connection.transaction():
                await add_names(PostgresSession(connection), used)

        async with pool.acquire() as somebody, somebody.transaction():
            await somebody.execute("select pg_advisory_xact_lock(1)")
            adding = asyncio.gather(add(), add())
            await waiting.until(waiters, lambda rows: len(rows) == 2)
        await adding
    (listener,) = await asyncio.to_thread(databases.server().rows, "select namespace, tenant from listeners", name)
    assert tuple(listener) == ("agency", "initech")


async def test_delivery_in_a_lane_keeps_its_route_when_the_database_lost_it(gateways: list[engines.Bench]) -> None:
    first, second = gateways
    await first.accept(samples.arrival("kept"))
    copy = await save(first)
    (accepted,) = await first.accept(at(BAR_ROUTE, "lost"))
    await go_back(first, copy)
    await second.accept(at(SPA_ROUTE, "spa"))
    await first.accept(at(BAR_ROUTE, "bar"), at(SPA_ROUTE, "second spa"))
    assert first.store.route(accepted.deliveries[0].route) == BAR_ROUTE


async def test_delivery_whose_outcome_the_database_lost_returns_to_the_backlog(bench: engines.Bench) -> None:
    accepted = await bench.accept(samples.arrival("lost"), samples.arrival("kept"))
    lost, kept = [delivery for each in accepted for delivery in each.deliveries]
    copy = await save(bench)
    await bench.settle(lost, model.SettledAs.Delivered)
    await go_back(bench, copy)
    await bench.store.compare_claims([kept.key])
    assert await bench.claim() == []  # the dispatcher could be about to get it
    await bench.store.compare_claims([kept.key])
    assert [delivery.key for delivery in await bench.claim()] == [lost.key]


async def test_dispatcher_delivers_again_what_the_database_shows_as_claimed(tmp_path: Path) -> None:
    engine, place = engines.Postgresql(), tmp_path / "data"
    bench = dispatching.DispatcherBench(place, engine)
    await bench.start(1, DispatcherLimits(review_seconds=0.1))
    (delivery,) = await bench.accept("a")
    copy = await asyncio.to_thread(databases.save, databases.name_of(place))
    bench.may_answer.set()
    scheduler = bench.dispatcher.scheduler
    await waiting.wait_until(lambda: scheduler.count == scheduler.in_flight == 0, what="the end of the first attempt")
    await bench.store.flush()
    await asyncio.to_thread(databases.restore, databases.name_of(place), copy)
    await waiting.wait_until(lambda: len(bench.tried) == 2, what="the second attempt")
    await bench.stop()
    engine.forget(place)
    assert bench.tried == [(delivery.key, 0)] * 2


async def test_delivery_with_an_unsaved_outcome_does_not_return_to_the_backlog(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.arrival())
    await bench.store.compare_claims([])
    bench.store.settle(samples.settlement(accepted.deliveries[0], model.SettledAs.Delivered))
    with structlog.testing.capture_logs() as logs:
        await bench.store.compare_claims([])
    assert logs == []
    assert await bench.claim() == []


async def test_backlog_of_a_lost_route_is_claimed_by_a_gateway_that_remembers_it(gateways: list[engines.Bench]) -> None:
    first, second = gateways
    await first.accept(samples.arrival("kept"))
    copy = await save(first)
    await first.accept(at(BAR_ROUTE, "lost"))
    await go_back(first, copy)
    (accepted,) = await second.accept(at(BAR_ROUTE, "bar"))
    await second.store.defer([accepted.deliveries[0].key])
    (claimed,) = await first.claim("agency/bar")
    assert claimed.key == accepted.deliveries[0].key
    assert first.store.route(claimed.route) == BAR_ROUTE


async def test_counts_and_activity_of_a_lost_listener_are_written(bench: engines.Bench) -> None:
    copy = await save(bench)
    await bench.accept(at(BAR_ROUTE, "lost"))
    await go_back(bench, copy)
    bench.store.count(samples.BAR, model.Counter.probes, samples.NOW)
    await bench.store.flush()
    assert await bench.counts(samples.BAR) == {"probes": 1}
    await bench.store.save_activity({samples.BAR: ListenerActivity(samples.NOW)})
    assert await bench.store.listener_activity() == {samples.BAR: ListenerActivity(samples.NOW)}


async def test_route_definition_that_retention_deleted_is_written_again(bench: engines.Bench) -> None:
    """Another gateway runs retention, and this one still remembers the number."""
    await bench.accept(at(BAR_ROUTE, "first"))
    await bench.store.cancel(Filter(), bench.clock.now, lambda _: None)
    bench.clock.now += 40 * samples.DAY
    await bench.prune_all()
    databases.server().execute("delete from routes", databases.name_of(bench.place))
    await bench.accept(at(BAR_ROUTE, "second"))
    (visit,) = await bench.visits()
    assert [verdict["route"] for verdict in visit["verdicts"]] == ["crm"]


# Failovers


async def name_written(primary: PostgresServer) -> None:
    """Wait until a server has the new name, while somebody gives up every wait for the standby."""
    waits = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"

    async def look() -> list[Any]:
        await asyncio.to_thread(primary.rows, waits)
        return await asyncio.to_thread(primary.rows, "select from listeners where listener = 'bar'")

    await waiting.until(look)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("durability", ["Local", "Replicated"])
async def test_failover_without_the_last_names_mixes_no_tenants(durability: Durability) -> None:
    """The standby is away while a new listener gets its first visit, and becomes the primary without it."""
    async with contextlib.AsyncExitStack() as stack:
        primary = stack.enter_context(PostgresServer(is_durable=True))
        standby = stack.enter_context(StandbyServer(primary))
        await databases.replicating(primary)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        settings = PostgresSettings(f"postgresql://usher@{hosts}/postgres", "k", durability=durability)
        store = PostgresStore(settings, engines.Clock())
        await store.open()
        await store.accept(samples.arrival("kept"))
        await asyncio.to_thread(standby.kill)
        if durability == "Local":
            await asyncio.to_thread(primary.execute, "alter system reset synchronous_standby_names")
            await asyncio.to_thread(primary.execute, "select pg_reload_conf()")
        lost = store.accept(at(BAR_ROUTE, "lost"))
        await name_written(primary)
        if durability == "Local":
            await lost
        else:
            assert not lost.done()
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.start)
        await asyncio.to_thread(standby.promote)
        if durability == "Replicated":
            stack.enter_context(StandbyServer(standby))
        spa = store.accept(at(SPA_ROUTE, "spa"))
        bar = store.accept(at(BAR_ROUTE, "bar"))
        done = await asyncio.wait_for(asyncio.gather(spa, bar), 100)
        assert [accepted.counted_as for accepted in done] == [model.CountedAs.Visit] * 2
        await asyncio.wait_for(lost, 100)
        await check_tenants(store, ["acme", *(["globex"] if durability == "Replicated" else []), "globex", "initech"])
        await store.close()
        again = PostgresStore(settings, engines.Clock())
        await again.open()
        await check_tenants(again, ["acme", *(["globex"] if durability == "Replicated" else []), "globex", "initech"])
        await again.close()


async def check_tenants(store: PostgresStore, tenants: list[str]) -> None:
    rows = (await store.visits(Filter(), None, 10)).rows
    assert sorted(str(row["tenant"]) for row in rows) == tenants
    usage = await store.usage(0, 1 << 62)
    visits = [row.listener.tenant for row in usage for _ in range(row.counts.get(model.Counter.visits, 0))]
    assert sorted(visits) == tenants
