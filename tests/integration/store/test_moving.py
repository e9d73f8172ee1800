"""Move a store from one engine to the other and back: nothing is lost, added or changed."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from support import databases, engines, samples
from support.samples import CRM, HOUR, LOBBY, MAILER, NOW, POOL, SECOND, arrival, digest, plan, quarantined, settlement
from usher_gateway import model
from usher_gateway.model import SettledAs
from usher_gateway.store import moving
from usher_gateway.store.base import ListenerActivity
from usher_gateway.store.export_file import ExportReader
from usher_gateway.store.postgresql import schema
from usher_gateway.store.postgresql.moving import PostgresMove
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite.moving import SqliteMove

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


async def movable(engine: str, place: Path, key: str = "k") -> Any:
    if engine == "sqlite":
        return SqliteMove(place, key, may_create=True)
    name = databases.name_of(place)
    databases.create(name)
    opened = PostgresMove(PostgresSettings(databases.owner_dsn(name), key), may_create=True)
    await opened.open()
    return opened


def no_progress(_kind: str, _rows: int) -> None:
    pass


async def export(engine: str, place: Path, file: Path) -> moving.Tally:
    store = await movable(engine, place)
    try:
        with file.open("wb") as output:
            return await moving.export_store(store, output, key_fingerprint="k", now=NOW, progress=no_progress)
    finally:
        await store.close()


async def load(engine: str, place: Path, file: Path, key: str = "k") -> moving.Comparison:
    comparison = await load_unless_done(engine, place, file, key)
    assert comparison is not None
    return comparison


async def load_unless_done(engine: str, place: Path, file: Path, key: str = "k") -> moving.Comparison | None:
    with file.open("rb") as source:
        reader = ExportReader(source, file.name, key_fingerprint=key)
        store = await movable(engine, place, key)
        try:
            return await moving.import_file(store, reader, progress=no_progress)
        finally:
            await store.close()


async def fill(bench: engines.Bench) -> None:
    """Let the store contain each kind of row, and each state of a delivery."""
    store = bench.store
    await bench.accept(*[arrival(f"many {number}", NOW - HOUR, if_visit=()) for number in range(1200)])
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
    assert await bench.words(arrival("dead", NOW + 60 * SECOND)) == ["Repeat"]
    assert await bench.words(quarantined("odd")) == ["Quarantined"]
    unsent = arrival("unsent")
    await bench.accept(unsent)
    store.unacknowledged(unsent)
    store.count(LOBBY, model.Counter.probes, NOW)
    await store.save_activity({LOBBY: ListenerActivity(NOW, {"a": NOW - HOUR}, {"b": NOW})})
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
        "attempts": [await store.attempts(one) for one in identifiers],
        "answers": [
            await store.answer(one) for one, row in zip(identifiers, deliveries, strict=True) if row["state"] == "dead"
        ],
        "usage": await store.usage(0, 1 << 62),
        "open": await store.open_deliveries(NOW + 9 * HOUR),
        "unbalanced": await store.open_deliveries(0),
        "activity": await store.activity(),
        "routes": sorted(store.routes(), key=repr),
        "persons": await store.find_person("agency", "acme", [digest("two", 8), digest("person many 3", 8)]),
    }


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_store_is_equal_after_a_move_and_back(places: Path, source: str, target: str) -> None:
    first, second, third = [
        bench_of(engine, places / name) for engine, name in ((source, "first"), (target, "second"), (source, "third"))
    ]
    await first.open()
    await fill(first)
    await first.store.close()
    await export(source, first.place, places / "one")
    comparison = await load(target, second.place, places / "one")
    assert comparison.is_complete
    assert comparison.file.counts == comparison.store.counts
    assert set(comparison.file.counts) == set(moving.COLUMNS)
    await export(target, second.place, places / "two")
    assert (await load(source, third.place, places / "two")).is_complete

    found = []
    for bench in (first, second, third):
        opened = await movable("sqlite" if isinstance(bench.engine, engines.Sqlite) else "postgresql", bench.place)
        await opened.undo_export()
        await opened.close()
        await bench.open()
        found.append(await contents(bench))
        await bench.store.close()
    assert found[0]["unbalanced"] == {}
    assert len(found[0]["visits"]) == 1212
    assert found[1] == found[0]
    assert found[2] == found[0]


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_dedupe_and_marks_work_after_a_move(places: Path, source: str, target: str) -> None:
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await fill(first)
    await first.store.close()
    await export(source, first.place, places / "file")
    await load(target, second.place, places / "file")
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
async def test_pending_deliveries_can_be_claimed_once_after_a_move(places: Path, source: str, target: str) -> None:
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await fill(first)
    pending = {row["id"] for row in await first.deliveries(state="pending")}
    pending -= {row["id"] for row in await first.deliveries(state="held")}
    await first.engine.crash(first.store)
    await export(source, first.place, places / "file")
    with pytest.raises(model.StoreLockedError, match="were exported"):
        await first.open()
    await load(target, second.place, places / "file")
    await second.open()
    try:
        second.clock.now = NOW + 2 * HOUR
        claimed = [one for name in ("agency/crm", "agency/mailer") for one in await second.claim(name)]
        assert sorted(model.format_id(one.id) for one in claimed) == sorted(pending)
        assert await second.claim() == []
        assert {group.reason.name: group.count for group in await second.store.held_groups()} == {
            "DestinationPaused": 1,
            "TokenHeld": 1,
        }
    finally:
        await second.store.close()


async def test_every_person_is_found_after_a_move_of_a_table_in_another_order(places: Path) -> None:
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
    await export("postgresql", first.place, places / "file")
    assert (await load("sqlite", second.place, places / "file")).is_complete
    await second.open()
    try:
        for number in (0, 1_150, 2_399):
            found = await second.store.find_person("agency", "acme", [digest(f"person v{number}", 8)])
            assert len(found) == 1, number
    finally:
        await second.store.close()


async def test_export_waits_for_counts_that_another_process_folds(places: Path) -> None:
    bench = bench_of("postgresql", places / "first")
    await bench.open()
    await bench.accept(arrival("a"), arrival("b"))
    await bench.store.close()
    connection = await asyncpg.connect(databases.owner_dsn(databases.name_of(bench.place)))
    try:
        async with asyncio.TaskGroup() as group, connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", schema.FOLD_LOCK)
            exporting = group.create_task(export("postgresql", bench.place, places / "file"))
            while not (await asyncio.wait({exporting}, timeout=0.01))[0]:
                if await connection.fetchval(_WAITS_FOR_LOCK):
                    break
        assert exporting.result().counts["meter"] > 0
    finally:
        await connection.close()


async def test_delivery_that_another_session_locks_is_not_lost_in_a_move(places: Path) -> None:
    first, second = bench_of("postgresql", places / "first"), bench_of("sqlite", places / "second")
    await first.open()
    await first.accept(arrival("a"), arrival("b"))
    await first.engine.crash(first.store)
    connection = await asyncpg.connect(databases.owner_dsn(databases.name_of(first.place)))
    try:
        async with connection.transaction():
            await connection.execute("select from deliveries order by key limit 1 for update")
            await export("postgresql", first.place, places / "file")
    finally:
        await connection.close()
    await load("sqlite", second.place, places / "file")
    await second.open()
    try:
        assert len(await second.claim()) == 2
    finally:
        await second.store.close()


class StoppedError(Exception):
    """Raised instead of a batch."""


@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
async def test_interrupted_import_goes_on_where_it_was(
    places: Path, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = bench_of(source, places / "first"), bench_of(target, places / "second")
    await first.open()
    await fill(first)
    await first.store.close()
    await export(source, first.place, places / "file")
    mover = SqliteMove if target == "sqlite" else PostgresMove
    original = mover.load
    loaded: list[str] = []

    async def load_one(self: Any, kind: str, rows: list[Any], **position: str) -> None:
        if len(loaded) % 2:
            loaded.append("stop")
            raise StoppedError
        await original(self, kind, rows, **position)
        loaded.append(kind)

    monkeypatch.setattr(mover, "load", load_one)
    for _ in range(100):
        try:
            comparison = await load(target, second.place, places / "file")
            break
        except StoppedError:
            with pytest.raises(model.StoreLockedError, match="unfinished import"):
                await second.open()
    assert comparison.is_complete
    assert loaded.count("stop") > len(moving.COLUMNS) / 2
    await second.open()
    await second.store.close()


async def test_another_file_does_not_continue_an_import(places: Path) -> None:
    files = []
    for name in ("first", "second"):
        bench = bench_of("sqlite", places / name)
        await bench.open()
        await bench.accept(arrival(name))
        await bench.store.close()
        files.append(places / f"{name}.file")
        await export("sqlite", bench.place, files[-1])
    damaged = places / "damaged"
    damaged.write_bytes(files[0].read_bytes()[:-20])
    with pytest.raises(model.ExportFileError, match="before its end record"):
        await load("sqlite", places / "third", damaged)
    with pytest.raises(model.ExportFileError, match="of another file"):
        await load("sqlite", places / "third", files[1])
    assert (await load("sqlite", places / "third", files[0])).is_complete


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
async def test_complete_import_is_not_repeated(places: Path, target: str) -> None:
    """As when the command was killed after the end of the import, and a gateway serves the store meanwhile."""
    files = []
    for name in ("first", "second"):
        source = bench_of("sqlite", places / name)
        await source.open()
        await source.accept(arrival(name))
        await source.store.close()
        files.append(places / f"{name}.file")
        await export("sqlite", source.place, files[-1])
    bench = bench_of(target, places / "third")
    assert (await load(target, bench.place, files[0])).is_complete
    await bench.open()
    await bench.accept(arrival("later"))
    await bench.store.close()
    assert await load_unless_done(target, bench.place, files[0]) is None
    with pytest.raises(model.StoreLockedError, match="another file was imported"):
        await load(target, bench.place, files[1])
    await bench.open()
    assert len(await bench.visits()) == 2
    await bench.store.close()


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
async def test_damaged_file_never_gives_a_usable_store(places: Path, target: str) -> None:
    source = bench_of("sqlite", places / "first")
    await source.open()
    await source.accept(arrival("a"), arrival("b"))
    await source.store.close()
    file, damaged = places / "file", places / "damaged"
    await export("sqlite", source.place, file)
    whole, chance = file.read_bytes(), random.Random(7)
    broken = [whole[: chance.randrange(len(whole))] for _ in range(10)]
    for _ in range(10):
        place = chance.randrange(len(whole))
        broken.append(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
    broken.append(whole + b"x")
    bench = bench_of(target, places / "second")
    for content in broken:
        damaged.write_bytes(content)
        with pytest.raises(model.ExportFileError, match=r"byte|not a file of"):
            await load(target, bench.place, damaged)
    with pytest.raises(model.StoreLockedError, match="unfinished import"):
        await bench.open()
    assert (await load(target, bench.place, file)).is_complete
    await bench.open()
    await bench.store.close()


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
async def test_difference_after_an_import_keeps_the_store_unusable(places: Path, target: str) -> None:
    source = bench_of("sqlite", places / "first")
    await source.open()
    await source.accept(arrival("a"), arrival("b"))
    await source.store.close()
    await export("sqlite", source.place, places / "file")
    bench = bench_of(target, places / "second")
    await (await movable(target, bench.place)).close()
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
    comparison = await load(target, bench.place, places / "file")
    assert not comparison.is_complete
    assert [kind for kind in moving.COLUMNS if not comparison.is_equal(kind)] == ["meter"]
    assert comparison.different_books == ["agency/acme/lobby"]
    with pytest.raises(model.StoreLockedError, match="unfinished import"):
        await bench.open()


async def test_file_of_another_install_key_is_refused(places: Path) -> None:
    source = bench_of("sqlite", places / "first")
    await source.open()
    await source.store.close()
    await export("sqlite", source.place, places / "file")
    with pytest.raises(model.InstallKeyError, match="another install key made this file"):
        await load("sqlite", places / "second", places / "file", key="other")


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_live_or_full_stores_are_refused(places: Path, engine: str) -> None:
    source = bench_of("sqlite", places / "third")
    await source.open()
    await source.accept(arrival("a"))
    await source.store.close()
    await export("sqlite", source.place, places / "file")
    bench = bench_of(engine, places / "first")
    await bench.open()
    with pytest.raises(model.StoreLockedError):
        await export(engine, bench.place, places / "other")
    with pytest.raises(model.StoreLockedError):
        await load(engine, bench.place, places / "file")
    await bench.accept(arrival("b"))
    await bench.store.close()
    with pytest.raises(model.StoreLockedError, match="not empty"):
        await load(engine, bench.place, places / "file")
    await export(engine, bench.place, places / "other")
    with pytest.raises(model.StoreLockedError, match="were exported") as refused:
        await load(engine, bench.place, places / "file")
    assert refused.value.hint == "Import into an empty store."


async def test_export_by_a_user_without_rights_says_who_may(places: Path) -> None:
    name = databases.name_of(places / "first")
    databases.create(name)
    databases.server().execute("revoke all on meta from gateway", name)
    store = PostgresMove(PostgresSettings(databases.gateway_dsn(name), "k"), may_create=False)
    with pytest.raises(model.ConfigurationError, match="lacks rights") as refused:
        await store.open()
    assert refused.value.hint == "Connect as the owner of the tables."


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_undone_export_lets_the_store_be_served_again(places: Path, engine: str) -> None:
    bench = bench_of(engine, places / "first")
    await bench.open()
    await bench.accept(arrival("a"))
    await bench.store.close()
    await export(engine, bench.place, places / "file")
    await export(engine, bench.place, places / "again")
    store = await movable(engine, bench.place)
    assert [await store.undo_export(), await store.undo_export()] == [True, False]
    await store.close()
    await bench.open()
    assert len(await bench.claim(CRM.destination)) == 1
    await bench.store.close()


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
async def test_import_into_a_store_that_was_exported_since_is_refused(places: Path, target: str) -> None:
    source, bench = bench_of("sqlite", places / "first"), bench_of(target, places / "second")
    await source.open()
    await source.store.close()
    await export("sqlite", source.place, places / "file")
    assert (await load(target, bench.place, places / "file")).is_complete
    await export(target, bench.place, places / "other")
    with pytest.raises(model.StoreLockedError, match="were exported"):
        await load_unless_done(target, bench.place, places / "file")


async def test_failed_read_of_an_sqlite_store_says_what_to_check(places: Path) -> None:
    bench = bench_of("sqlite", places / "first")
    await bench.open()
    await bench.store.close()
    with sqlite3.connect(bench.place / database.FILE_NAME) as connection:
        connection.execute("alter table once_marks rename to lost")
    connection.close()
    with pytest.raises(model.ConfigurationError, match="no such table: once_marks") as failed:
        await export("sqlite", bench.place, places / "file")
    assert failed.value.hint


# Another install key


async def test_empty_database_stays_empty_if_another_key_made_the_file(places: Path) -> None:
    source = bench_of("sqlite", places / "first")
    await source.open()
    await source.store.close()
    await export("sqlite", source.place, places / "file")
    name = databases.name_of(places / "second")
    databases.create_empty(name)
    with pytest.raises(model.InstallKeyError, match="another install key made this file"):
        await load("postgresql", places / "second", places / "file", key="other")
    assert databases.server().rows(_TABLES, name) == []


async def test_export_of_an_empty_database_leaves_it_empty(places: Path) -> None:
    name = databases.name_of(places / "first")
    databases.create_empty(name)
    store = PostgresMove(PostgresSettings(databases.owner_dsn(name), "k"), may_create=False)
    with pytest.raises(model.ConfigurationError, match="there is no store"):
        await store.open()
    assert databases.server().rows(_TABLES, name) == []


async def test_database_of_another_key_is_not_migrated(places: Path) -> None:
    bench = bench_of("postgresql", places / "first")
    await bench.open()
    await bench.store.close()
    name = databases.name_of(bench.place)
    databases.server().execute("update meta set value = '1' where name = 'schema_version'", name)
    with pytest.raises(model.InstallKeyError, match="another install key made this store"):
        await movable("postgresql", bench.place, key="other")
    assert databases.server().rows("select value from meta where name = 'schema_version'", name) == [("1",)]


async def test_file_of_another_key_is_not_migrated(places: Path) -> None:
    bench = bench_of("sqlite", places / "first")
    await bench.open()
    await bench.store.close()
    with sqlite3.connect(bench.place / database.FILE_NAME) as connection:
        connection.execute("pragma user_version = 1")
    with pytest.raises(model.InstallKeyError, match="another install key made this store"):
        await movable("sqlite", bench.place, key="other")
    assert connection.execute("pragma user_version").fetchone() == (1,)
    connection.close()
