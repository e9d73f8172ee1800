"""Copy a store from one engine to the other and back: nothing is lost, added or changed."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support import databases, engines, erasing, samples
from support.samples import CRM, HOUR, LOBBY, MAILER, NOW, POOL, SECOND, arrival, digest, plan, quarantined, settlement
from usher_gateway import model
from usher_gateway.model import SettledAs
from usher_gateway.store import copy
from usher_gateway.store.base import (
    AuditEntry,
    AuditFilter,
    DestinationActivity,
    ErasureRequest,
    ErasureState,
    Link,
    ListenerActivity,
)
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.copy import PostgresCopy
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.copy import SqliteCopy

DIRECTIONS = [("sqlite", "postgresql"), ("postgresql", "sqlite")]
_TABLES = "select tablename from pg_tables where schemaname = 'public'"
_WAITS_FOR_LOCK = "select exists (select 1 from pg_locks where locktype = 'advisory' and not granted)"


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[Path]:
    yield tmp_path
    for name in ("first", "second", "third"):
        databases.drop(databases.name_of(tmp_path / name))


def bench_of(engine: str, place: Path) -> engines.Bench:
    return engines.Bench(engines.ENGINES[engine](), place)


async def opened(engine: str, place: Path, key: str = "k", *, may_create: bool = True) -> Any:
    """Open a place as the source or the target of a copy."""
    if engine == "sqlite":
        return SqliteCopy(place, key, may_create=may_create)
    name = databases.name_of(place)
    databases.create(name)
    store = PostgresCopy(PostgresSettings(databases.owner_dsn(name), key), may_create=may_create)
    await store.open()
    return store


def no_progress(_verb: str, _table: str, _rows: int) -> None:
    pass


async def copied(source: tuple[str, Path], target: tuple[str, Path], now: int = NOW) -> copy.Comparison:
    """Copy between two (engine, place)."""
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for engine, place in (source, target):
            stores.append(await opened(engine, place))
            stack.push_async_callback(stores[-1].close)
        return await copy.copy(*stores, now=now, progress=no_progress)


async def undo(engine: str, place: Path) -> bool:
    store = await opened(engine, place)
    try:
        return bool(await store.undo())
    finally:
        await store.close()


async def fill_some(engine: str, place: Path, *contents: str) -> engines.Bench:
    """Create a store with some visits, and close it."""
    bench = bench_of(engine, place)
    await bench.open()
    if contents:
        await bench.accept(*[arrival(content) for content in contents])
    await bench.store.close()
    return bench


async def fill(bench: engines.Bench, many: int = 10) -> None:
    """Let the store contain each kind of row, and each state of a delivery, and many visits."""
    store = bench.store
    await bench.accept(*[arrival(f"many {number}", NOW - HOUR, if_visit=()) for number in range(many)])
    body = b'{"text":"' + b"x" * 40_000 + b'"}'
    marked = plan(once_key=digest("once"), once_until=NOW + 9 * HOUR)
    visits = [
        arrival("delivered", body=body),
        arrival("dead"),
        arrival("retried"),
        arrival("held"),
        arrival("cancelled"),
        arrival("marked", if_visit=(marked, plan(MAILER))),
        arrival("claimed", listener=POOL, if_visit=(plan(samples.route(listener=POOL)),)),
        arrival("token", token_held=True, if_visit=(plan(hold=model.HoldReason.TokenHeld),)),
        arrival("two persons", person_keys=(digest("one", 8), digest("two", 8))),
    ]
    accepted = await bench.accept(*visits)
    delivered, dead, retried, held, cancelled = [each.deliveries[0] for each in accepted[:5]]
    store.settle(settlement(delivered, SettledAs.Delivered, status=204, milliseconds=7))
    store.settle(settlement(dead, SettledAs.Dead, status=410, error="Gone", answer=b"no such hook"))
    store.settle(settlement(retried, SettledAs.Retry, due_at=NOW + HOUR, status=503, error="ServerError"))
    store.settle(settlement(held, SettledAs.Held, hold=model.HoldReason.DestinationPaused))
    store.settle(settlement(cancelled, SettledAs.Cancelled, cancel=model.CancelReason.Expired))
    await store.flush()
    await bench.replay("delivered")
    entry = AuditEntry(at=NOW, who="operate", action="redrive", selection={"tenant": "acme"}, count=1, peer="")
    await store.add_audit_entry(entry)
    link = Link(id="a1", tenant="agency/acme", created_at=NOW, expires_at=NOW + HOUR, shows_visits=True)
    await store.add_link(link, digest("token"))
    await store.suppress({digest("nobody", 8): "agency/acme"}, NOW, lambda _: None)
    request = ErasureRequest(persons=(digest("nobody", 8),), tenants=("agency/acme",), fields=("email",))
    await store.start_erasure(request, NOW)
    assert await bench.words(arrival("dead", NOW + 60 * SECOND)) == ["Repeat"]
    assert await bench.words(quarantined("odd")) == ["Quarantined"]
    unsent = arrival("unsent")
    await bench.accept(unsent)
    store.unacknowledged(unsent)
    store.count(LOBBY, model.Counter.probes, NOW)
    tried = DestinationActivity(url_digest=b"url", error="Gone", status=410, failed_at=NOW, failures=1)
    await store.save_activity({LOBBY: ListenerActivity(NOW, {"a": NOW - HOUR}, {"b": NOW})}, {"agency/crm": tried})
    await store.flush()


async def contents(bench: engines.Bench) -> dict[str, Any]:
    """Return all that people can see in a store."""
    store = bench.store
    deliveries = await bench.deliveries()
    identifiers = [model.identifiers.parse_id(row["id"]) for row in deliveries]
    visits = await bench.visits()
    return {
        "visits": visits,
        "bodies": [await store.body(model.identifiers.parse_id(row["id"])) for row in visits[:40]],
        "deliveries": deliveries,
        "attempts": [await store.attempts(delivery_id) for delivery_id in identifiers],
        "answers": [
            await store.answer(delivery_id)
            for delivery_id, row in zip(identifiers, deliveries, strict=True)
            if row["state"] == "dead"
        ],
        "usage": await store.usage(0, 1 << 62),
        "open": await store.open_deliveries(NOW + 9 * HOUR),
        "unbalanced": await store.open_deliveries(0),
        "activity": await store.listener_activity(),
        "replays": await store.list_replays(samples.everything),
        "erasures": await store.list_erasures(samples.everything),
        "suppressed": await store.suppressed_by_tenant(),
        "links": await store.list_links(),
        "audit": await store.audit_entries(AuditFilter(), None, 10),
        "tried": await store.destination_activity(),
        "routes": sorted(store.routes(), key=repr),
        "persons": (await store.of_person([digest("two", 8), digest("person many 3", 8)], None, 10)).rows,
    }


async def test_store_is_equal_after_a_copy_and_back(places: Path) -> None:
    source, target = "sqlite", "postgresql"
    first, second, third = [
        bench_of(engine, places / name) for engine, name in ((source, "first"), (target, "second"), (source, "third"))
    ]
    await first.open()
    await fill(first, many=1200)
    await first.store.prune(first.clock.now)  # which records the time
    await first.store.close()
    comparison = await copied((source, first.place), (target, second.place))
    assert comparison.is_complete
    assert comparison.source.counts == comparison.target.counts
    assert set(comparison.source.counts) == set(copy.COLUMNS)
    assert (await copied((target, second.place), (source, third.place))).is_complete

    contents_of_stores = []
    for engine, bench in ((source, first), (target, second), (source, third)):
        await undo(engine, bench.place)
        await bench.open()
        contents_of_stores.append(await contents(bench))
        await bench.store.close()
    assert contents_of_stores[0]["unbalanced"] == {}
    assert len(contents_of_stores[0]["visits"]) == 1212
    assert contents_of_stores[1] == contents_of_stores[0]
    assert contents_of_stores[2] == contents_of_stores[0]


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_tables_with_unknown_columns_are_used_and_copied(places: Path, source: str, target: str) -> None:
    """A newer gateway has migrated both stores."""
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await (await opened(target, second.place)).close()
    for bench in (first, second):
        bench.engine.add_columns(bench.place)
    await first.reopen()
    await fill(first, many=1200)
    await first.engine.upkeep(first.store)
    await first.store.prune(first.clock.now)
    await first.reopen(crash=True)
    (erasure,) = await first.store.list_erasures(samples.everything)
    assert (await erasing.finish(first, erasure)).state is ErasureState.Completed
    assert await first.violations() == []
    await first.store.close()
    comparison = await copied((source, first.place), (target, second.place))
    assert comparison.is_complete
    assert set(comparison.target.counts) == set(copy.COLUMNS)


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_dedupe_and_marks_work_after_a_copy(places: Path, source: str, target: str) -> None:
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await fill(first)
    await first.store.close()
    await copied((source, first.place), (target, second.place))
    await second.open()
    try:
        later = NOW + 8_000 * SECOND
        again = arrival("other", NOW + HOUR, if_visit=(plan(once_key=digest("once"), once_until=NOW + 9 * HOUR),))
        assert await second.words(arrival("many 7", later)) == ["Redelivery"]
        assert await second.words(arrival("many 8", NOW - HOUR + SECOND)) == ["Repeat"]
        assert await second.words(arrival("unsent", NOW + SECOND)) == ["Redelivery"]
        assert await second.words(arrival("delivered", NOW + 2 * SECOND)) == ["Repeat"]
        assert (await second.accept(again))[0].skipped == (model.SkipReason.OncePer,)
        newest = (await second.visits())[0]
        assert newest["id"] == max(row["id"] for row in await second.visits())
        assert await second.words(
            arrival("new route", if_visit=(plan(samples.route("new", destination="agency/new")),))
        )
    finally:
        await second.store.close()


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_pending_deliveries_can_be_claimed_once_after_a_copy(places: Path, source: str, target: str) -> None:
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await fill(first)
    pending = {row["id"] for row in await first.deliveries(state="pending")}
    pending -= {row["id"] for row in await first.deliveries(state="held")}
    await first.engine.crash(first.store)
    await copied((source, first.place), (target, second.place))
    with pytest.raises(model.StoreLockedError, match="were copied"):
        await first.open()
    await second.open()
    try:
        second.clock.now = NOW + 2 * HOUR
        claimed = [delivery for name in ("agency/crm", "agency/mailer") for delivery in await second.claim(name)]
        assert sorted(model.format_id(delivery.id) for delivery in claimed) == sorted(pending)
        assert await second.claim() == []
        assert {group.reason.name: group.count for group in await second.store.held_groups()} == {
            "DestinationPaused": 1,
            "TokenHeld": 1,
        }
    finally:
        await second.store.close()


async def test_copy_is_refused_by_a_gateway_that_only_missed_heartbeats(places: Path) -> None:
    """The database was away for 61 s. The gateway sends its next heartbeat while the copy waits for it."""
    bench = bench_of("postgresql", places / "first")
    await bench.open()
    name = databases.name_of(bench.place)
    databases.server().execute("update incarnations set beat_at = beat_at - interval '61 s'", name)
    try:
        copying = asyncio.create_task(copied(("postgresql", bench.place), ("sqlite", places / "second")))
        with pytest.raises(model.StoreLockedError, match="gateways that use this database: 1"):
            await copying
        assert await bench.store.outage() is None
    finally:
        await bench.store.close()


async def test_every_person_is_found_after_a_copy_of_a_table_in_another_order(places: Path) -> None:
    first, second = bench_of("postgresql", places / "first"), bench_of("sqlite", places / "second")
    await first.open()
    for start in range(0, 2_400, 400):
        await first.accept(*[arrival(f"v{number}", if_visit=()) for number in range(start, start + 400)])
    await first.store.close()
    # An update moves a row to the end of the table, as later visits fill the gaps that retention leaves.
    databases.server().execute(
        "update arrivals set hops = hops where key in (select key from arrivals order by key limit 1200)",
        databases.name_of(first.place),
    )
    assert (await copied(("postgresql", first.place), ("sqlite", second.place))).is_complete
    await second.open()
    try:
        for number in (0, 1_150, 2_399):
            assert len(await second.ids_of_person(digest(f"person v{number}", 8))) == 1, number
    finally:
        await second.store.close()


async def test_copy_waits_for_counts_that_another_process_folds(places: Path) -> None:
    bench = await fill_some("postgresql", places / "first", "a", "b")
    connection = await asyncpg.connect(databases.owner_dsn(databases.name_of(bench.place)))
    try:
        async with asyncio.TaskGroup() as group, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", schema.FOLD_LOCK)
            copying = group.create_task(copied(("postgresql", bench.place), ("sqlite", places / "second")))
            while not (await asyncio.wait({copying}, timeout=0.01))[0]:
                if await connection.fetchval(_WAITS_FOR_LOCK):
                    break
        assert copying.result().source.counts["meters"] > 0
    finally:
        await connection.close()


async def test_delivery_that_another_session_locks_is_not_lost_in_a_copy(places: Path) -> None:
    first, second = bench_of("postgresql", places / "first"), bench_of("sqlite", places / "second")
    await first.open()
    await first.accept(arrival("a"), arrival("b"))
    await first.engine.crash(first.store)
    connection = await asyncpg.connect(databases.owner_dsn(databases.name_of(first.place)))
    try:
        async with connection.transaction():
            await connection.execute("select from deliveries order by key limit 1 for update")
            await copied(("postgresql", first.place), ("sqlite", second.place))
    finally:
        await connection.close()
    await second.open()
    try:
        assert len(await second.claim()) == 2
    finally:
        await second.store.close()


class StoppedError(Exception):
    """Raised instead of a batch."""


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_interrupted_copy_can_be_repeated_to_an_empty_store(
    places: Path, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await fill(first)
    await first.store.close()
    copier = SqliteCopy if target == "sqlite" else PostgresCopy

    async def load(self: Any, table: str, rows: list[Any]) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(copier, "load", load)
        with pytest.raises(StoppedError):
            await copied((source, first.place), (target, second.place))
    with pytest.raises(model.StoreLockedError, match="copy to this store is unfinished"):
        await second.open()
    with pytest.raises(model.StoreLockedError, match="were copied to another one"):
        await copied((source, first.place), (target, places / "third"))
    await undo(source, first.place)
    with pytest.raises(model.StoreLockedError, match="copy to this store is unfinished"):
        await copied((source, first.place), (target, second.place))
    assert (await copied((source, first.place), (target, places / "third"))).is_complete


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_source_is_not_read_any_more_once_a_copy_has_failed(places: Path, source: str, target: str) -> None:
    first = await fill_some(source, places / "first", "a", "b")
    stores = await opened(source, first.place), await opened(target, places / "second")

    def fail(_verb: str, _table: str, _rows: int) -> None:
        raise StoppedError

    try:
        with pytest.raises(StoppedError) as failure:  # which refers to the reading, so that nothing collects it
            await copy.copy(*stores, now=NOW, progress=fail)
        assert await stores[0].undo()  # in a transaction, which cannot begin within another one
        assert failure.type is StoppedError
    finally:
        for store in stores:
            await store.close()


async def test_copy_between_sqlite_stores_can_be_interrupted(places: Path) -> None:
    first = await fill_some("sqlite", places / "first", "a", "b")
    source, target = await opened("sqlite", first.place), await opened("sqlite", places / "second")

    def interrupt(_verb: str, _table: str, _rows: int) -> None:
        copying.cancel()

    copying = asyncio.create_task(copy.copy(source, target, now=NOW, progress=interrupt))
    with pytest.raises(asyncio.CancelledError):
        await copying
    await source.close()
    await target.close()
    with pytest.raises(model.StoreLockedError, match="copy to this store is unfinished"):
        await bench_of("sqlite", places / "second").open()


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
async def test_difference_after_a_copy_keeps_the_target_unusable(places: Path, target: str) -> None:
    first = await fill_some("sqlite", places / "first", "a", "b")
    bench = bench_of(target, places / "second")
    await (await opened(target, bench.place)).close()
    if target == "sqlite":
        with sqlite3.connect(bench.place / database.FILE_NAME) as connection:
            connection.execute(
                "create trigger change after insert on meters begin"
                " update meters set count = count + 1 where slot = new.slot and counter = new.counter; end"
            )
        connection.close()
    else:
        databases.server().execute(
            "create function change() returns trigger language plpgsql as"
            " $$ begin new.count = new.count + 1; return new; end $$;"
            " create trigger change before insert on meters for each row execute function change()",
            databases.name_of(bench.place),
        )
    comparison = await copied(("sqlite", first.place), (target, bench.place))
    assert not comparison.is_complete
    assert [table for table in copy.COLUMNS if not comparison.is_equal(table)] == ["meters"]
    with pytest.raises(model.StoreLockedError, match="copy to this store is unfinished"):
        await bench.open()


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_live_or_full_stores_are_refused(places: Path, engine: str) -> None:
    first, other = await fill_some("sqlite", places / "third", "a"), places / "first"
    bench = bench_of(engine, other)
    await bench.open()
    with pytest.raises(model.StoreLockedError):
        await copied((engine, other), ("sqlite", places / "second"))
    with pytest.raises(model.StoreLockedError):
        await copied(("sqlite", first.place), (engine, other))
    await bench.accept(arrival("b"))
    await bench.store.close()
    with pytest.raises(model.StoreLockedError, match="other data"):
        await copied(("sqlite", first.place), (engine, other))
    await first.open()  # the refused copies have not marked it
    await first.store.close()
    await copied((engine, other), ("sqlite", places / "second"))
    with pytest.raises(model.StoreLockedError, match="were copied to another one"):
        await copied(("sqlite", first.place), (engine, other))


async def test_copy_ends_when_a_connection_is_lost_with_its_lock(places: Path) -> None:
    store = await opened("postgresql", places / "first")
    name = databases.name_of(places / "first")
    try:
        await store.begin_writing()
        end = f"select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{name}'"
        await asyncio.to_thread(databases.server().execute, end)
        other = await opened("postgresql", places / "first")
        await other.close()
        with pytest.raises(model.StoreUnavailableError, match="the database failed"):
            await store.load("destination", [(1, "agency/crm")])
    finally:
        await store.close()


async def test_copy_by_a_user_without_rights_says_who_may(places: Path) -> None:
    name = databases.name_of(places / "first")
    databases.create(name)
    databases.server().execute("revoke all on meta from gateway", name)
    store = PostgresCopy(PostgresSettings(databases.gateway_dsn(name), "k"), may_create=False)
    with pytest.raises(model.ConfigurationError, match="lacks rights") as refused:
        await store.open()
    assert refused.value.hint == "Connect as the owner of the tables."


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_source_can_be_served_again_after_undo(places: Path, engine: str) -> None:
    bench = await fill_some(engine, places / "first", "a")
    await copied((engine, bench.place), ("sqlite", places / "second"))
    assert [await undo(engine, bench.place), await undo(engine, bench.place)] == [True, False]
    await bench.open()
    assert len(await bench.claim(CRM.destination)) == 1
    await bench.store.close()


async def test_failed_read_of_an_sqlite_store_says_what_to_check(places: Path) -> None:
    bench = await fill_some("sqlite", places / "first")
    with sqlite3.connect(bench.place / database.FILE_NAME) as connection:
        connection.execute("alter table once_marks rename to lost")
    connection.close()
    with pytest.raises(model.ConfigurationError, match="no such table: once_marks") as failed:
        await copied(("sqlite", bench.place), ("sqlite", places / "second"))
    assert failed.value.hint


async def test_empty_database_as_a_source_stays_empty(places: Path) -> None:
    name = databases.name_of(places / "first")
    databases.create_empty(name)
    store = PostgresCopy(PostgresSettings(databases.owner_dsn(name), "k"), may_create=False)
    with pytest.raises(model.ConfigurationError, match="contains no store"):
        await store.open()
    assert databases.server().rows(_TABLES, name) == []


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_store_of_another_install_key_is_refused(places: Path, engine: str) -> None:
    bench = await fill_some(engine, places / "first")
    with pytest.raises(model.InstallKeyError, match="another install key made this store"):
        await opened(engine, bench.place, key="other")


@pytest.mark.parametrize("is_marked", [True, False])
async def test_target_may_serve_only_if_the_source_may_too(
    places: Path, is_marked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await fill_some("sqlite", places / "first", "a"), bench_of("sqlite", places / "second")
    begin = SqliteCopy.begin_reading

    async def fail(self: SqliteCopy, now: int) -> None:
        if is_marked:
            await begin(self, now)
        raise model.StoreUnavailableError("the counts cannot be folded")

    monkeypatch.setattr(SqliteCopy, "begin_reading", fail)
    with pytest.raises(model.StoreUnavailableError):
        await copied(("sqlite", first.place), ("sqlite", second.place))
    for bench in (first, second):
        if is_marked:
            with pytest.raises(model.StoreLockedError):
                await bench.open()
        else:
            await bench.open()
            await bench.store.close()
