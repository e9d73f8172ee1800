"""A connection that is lost during a commit, and a server that is killed."""

import asyncio
from typing import Any

import asyncpg
import pytest

from postgresql.server import PostgresServer, StandbyServer
from support import databases, engines, samples, waiting
from usher_gateway import model
from usher_gateway.store.base import Filter
from usher_gateway.store.group_commit import MANY_WAITING, Batch
from usher_gateway.store.postgresql.connections import COMMIT_STEP
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.postgresql.store import PostgresStore
from usher_gateway.store.postgresql.writer import LINES

# Every commit of an arrival takes 0.3 s, and can be interrupted meanwhile.
SLOW_COMMIT = """
    create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.3); return null; end $$;
    create constraint trigger slow after insert on arrivals deferrable initially deferred
        for each row execute function slow();
"""

COMMITTING = "select pid from pg_stat_activity where datname = '{}' and state = 'active' and query like '%; commit'"


async def committing(bench: engines.Bench) -> int:
    """Wait until a commit runs; return the id of its server process."""
    query = COMMITTING.format(databases.name_of(bench.place))

    async def look() -> list[Any]:
        return await asyncio.to_thread(databases.server().rows, query)

    (row,) = await waiting.until(look, every_seconds=0)
    return int(row[0])


async def test_visit_is_stored_once_if_the_server_ends_the_commit(bench: engines.Bench) -> None:
    databases.server().execute(SLOW_COMMIT, databases.name_of(bench.place))
    future = bench.store.accept(samples.arrival("a"))
    process = await committing(bench)
    databases.server().execute(f"select pg_terminate_backend({process})")
    assert (await future).counted_as is model.CountedAs.Visit
    assert len(await bench.visits()) == 1
    assert await bench.counts() == {"visits": 1, "routed": 1, "created": 1}
    assert await bench.violations() == []


async def test_commit_whose_answer_is_lost_is_not_repeated(bench: engines.Bench) -> None:
    """The server commits, because it notices the lost connection only later."""
    databases.server().execute(SLOW_COMMIT, databases.name_of(bench.place))
    store = engines.postgresql(bench.store)
    future = bench.store.accept(samples.arrival("a"))
    await committing(bench)
    for holder in store._pool._holders:
        if holder._in_use is not None and holder._con is not None:
            holder._con.terminate()
    (delivery,) = (await future).deliveries
    (visit,) = await bench.visits()
    assert [verdict["delivery"] for verdict in visit["verdicts"]] == [model.format_id(delivery.id)]
    assert await bench.counts() == {"visits": 1, "routed": 1, "created": 1}
    await bench.settle(delivery, model.SettledAs.Delivered)
    assert [row["state"] for row in await bench.deliveries()] == ["delivered"]


async def test_folding_keeps_the_row_that_shows_the_outcome(bench: engines.Bench) -> None:
    """Each line has such a row, because no line waits for the outcome of another one's commit."""
    writer = engines.postgresql(bench.store).writer
    for line in range(LINES):
        for content in "ab":
            arrival = samples.arrival(f"{content}{line}")
            assert (await writer.commit(Batch(arrivals=[arrival], now=samples.NOW, line=line))).error is None
    await bench.engine.upkeep(bench.store)
    for number in writer._numbers:
        assert await writer._took_effect(number) is True
        assert await writer._took_effect(number + COMMIT_STEP) is False


async def test_commit_that_waits_for_a_lock_does_not_delay_many_others(bench: engines.Bench) -> None:
    blocked = samples.arrival("blocked", if_visit=())
    others = [samples.arrival(str(number), if_visit=()) for number in range(MANY_WAITING)]
    somebody = await asyncpg.connect(databases.server().dsn(databases.name_of(bench.place)))
    try:
        transaction = somebody.transaction()
        await transaction.start()
        await somebody.execute("insert into prints values ($1, 1, 1, false)", blocked.fingerprint)
        first = bench.store.accept(blocked)
        await asyncio.sleep(0)  # the first line begins with it alone
        futures = [bench.store.accept(arrival) for arrival in others]
        flushed = asyncio.create_task(bench.store.flush())
        for future in futures:
            assert (await future).counted_as is model.CountedAs.Visit
        assert not first.done()
        assert not flushed.done()
        await transaction.rollback()
    finally:
        await somebody.close()
    await flushed
    assert first.result().counted_as is model.CountedAs.Visit


async def test_queries_of_people_leave_connections_to_the_commits(bench: engines.Bench) -> None:
    (accepted,) = await bench.accept(samples.arrival("a"))
    somebody = await asyncpg.connect(databases.server().dsn(databases.name_of(bench.place)))
    try:
        transaction = somebody.transaction()
        await transaction.start()
        await somebody.execute("lock table attempts in access exclusive mode")
        queries = [asyncio.create_task(bench.store.attempts(accepted.deliveries[0].id)) for _ in range(20)]
        await asyncio.sleep(0)  # they begin before the visit comes
        assert await bench.words(samples.arrival("b")) == ["Visit"]
        assert not any(query.done() for query in queries)
        await transaction.rollback()
    finally:
        await somebody.close()
    assert await asyncio.gather(*queries) == [[]] * 20


async def test_errors_of_the_database_quote_no_data(bench: engines.Bench) -> None:
    statement = "alter table arrivals add check (body_size < 0) not valid"
    databases.server().execute(statement, databases.name_of(bench.place))
    writer = engines.postgresql(bench.store).writer

    async def job(transaction: Any) -> None:
        await transaction.connection.execute("insert into meta values ('key_fingerprint', 'jane@example.com')")

    with pytest.raises(model.StoreUnavailableError) as raised:
        await engines.postgresql(bench.store)._change(job)
    assert "jane" not in str(raised.value)
    assert writer.is_uncertain is False


async def test_gateway_without_heartbeats_is_not_ready(bench: engines.Bench) -> None:
    calls = 0

    def apply(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ZeroDivisionError

    bench.store.follow_replicas(apply)
    assert await bench.store.outage() is None

    async def outage() -> str | None:
        return await bench.store.outage()

    assert await waiting.until(outage) == "the heartbeats have ended"


# The server


class Callers:
    """Four callers hand in arrivals, one after another, and settle their deliveries."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.acknowledged: list[str] = []
        self._is_over = False
        self._tasks = [asyncio.create_task(self._send(caller)) for caller in range(4)]

    async def _send(self, caller: int) -> None:
        number = 0
        while not self._is_over:
            number += 1
            content = f"{caller} {number}"
            accepted = await self._store.accept(samples.arrival(content, body=content.encode()))
            self.acknowledged.append(content)
            for delivery in accepted.deliveries:
                self._store.settle(samples.settlement(delivery, model.SettledAs.Delivered))

    async def more(self, limit_seconds: float = 60) -> None:
        """Wait for 20 more acknowledgements."""
        enough = len(self.acknowledged) + 20

        async def look() -> int:
            return len(self.acknowledged)

        await waiting.until(look, lambda count: count >= enough, limit_seconds=limit_seconds)

    async def finish(self) -> None:
        """Stop, and check that the store has each acknowledged arrival and its delivery once."""
        self._is_over = True
        await asyncio.gather(*self._tasks)
        await self._store.flush()
        bodies = await self._store.visit_bodies(Filter(), 100_000)
        assert sorted((stored.body or b"").decode() for stored in bodies) == sorted(self.acknowledged)
        usage = await self._store.usage(0, 1 << 62)
        counters = (model.Counter.visits, model.Counter.created, model.Counter.delivered)
        total = {name: sum(row.counts.get(name, 0) for row in usage) for name in counters}
        assert total == dict.fromkeys(counters, len(self.acknowledged))
        assert await self._store.open_deliveries(1 << 62) == {}


async def test_killed_server_loses_nothing_that_was_acknowledged(durable_server: PostgresServer) -> None:
    store = PostgresStore(PostgresSettings(durable_server.dsn(), "k"), engines.Clock())
    await store.open()
    callers = Callers(store)
    for _ in range(2):
        await callers.more()
        await asyncio.to_thread(durable_server.kill)
        await asyncio.to_thread(durable_server.start)
    await callers.more()
    await callers.finish()
    await store.close()


async def test_promoted_standby_has_everything_that_was_acknowledged() -> None:
    """The gateway finds the new primary by itself."""
    with PostgresServer(is_durable=True) as primary, StandbyServer(primary) as standby:
        await databases.replicating(primary)
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        store = PostgresStore(PostgresSettings(f"postgresql://usher@{hosts}/postgres", "k"), engines.Clock())
        await store.open()
        callers = Callers(store)
        await callers.more()
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(standby.promote)
        await callers.more(limit_seconds=60)
        await callers.finish()
        await store.close()


async def test_commit_that_no_standby_has_is_not_acknowledged() -> None:
    """Somebody cancels the wait for the standby. PostgreSQL then reports a success, with a warning."""
    with PostgresServer(is_durable=True) as primary, StandbyServer(primary) as standby:
        await databases.replicating(primary)
        store = PostgresStore(PostgresSettings(primary.dsn(), "k"), engines.Clock())
        await store.open()
        await store.accept(samples.arrival("first"))
        await asyncio.to_thread(standby.kill)
        future = store.accept(samples.arrival("a"))
        waits = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
        for _ in range(3):  # its commit, and the commits that ask for the outcome

            async def cancel() -> list[Any]:
                return await asyncio.to_thread(primary.rows, waits)

            await waiting.until(cancel)
            assert not future.done()
        await asyncio.to_thread(standby.start)
        assert (await asyncio.wait_for(future, 60)).counted_as is model.CountedAs.Visit
        assert len((await store.visits(Filter(), None, 10)).rows) == 2
        await store.close()


async def test_store_that_cannot_be_reached_says_so(durable_server: PostgresServer) -> None:
    nobody = PostgresStore(PostgresSettings("postgresql://usher:secret@127.0.0.1:1/usher", "k"), engines.Clock())
    with pytest.raises(model.StoreUnavailableError) as raised:
        await nobody.open()
    assert "secret" not in f"{raised.value} {raised.value.hint}"
    absent = PostgresStore(PostgresSettings(durable_server.dsn("absent"), "k"), engines.Clock())
    with pytest.raises(model.ConfigurationError):
        await absent.open()
