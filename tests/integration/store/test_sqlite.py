"""Behaviour of the SQLite engine only: the file, its schema, its indexes, its writer."""

import asyncio
import contextlib
import inspect
import io
import os
import pathlib
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import engines, samples
from usher_gateway import model
from usher_gateway.store.base import Filter, KeptTimes
from usher_gateway.store.jobs import changes, claims, listings, meters, replays, scopes, settle
from usher_gateway.store.names import NameNumbers
from usher_gateway.store.session import Session, for_sqlite, run_to_end, with_rows
from usher_gateway.store.sqlite import database, transaction
from usher_gateway.store.sqlite.accept import Acceptance
from usher_gateway.store.sqlite.recent_index import FOLD_ROWS
from usher_gateway.store.sqlite.transaction import Transaction
from usher_gateway.store.sqlite.writer import open_writer

MIGRATIONS = Path(database.__file__).parent / "migrations"
NOW, HOUR = samples.NOW, samples.HOUR


@contextlib.contextmanager
def file_of(folder: Path) -> Iterator[sqlite3.Connection]:
    folder.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / database.FILE_NAME)) as connection:
        yield connection
        connection.commit()


def refused(folder: Path, error: type[model.UsherError]) -> model.UsherError:
    with pytest.raises(error) as raised:
        open_writer(folder, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW)
    assert raised.value.hint
    return raised.value


def test_file_that_is_not_a_database_is_rejected_unchanged(tmp_path: Path) -> None:
    garbage = b"not a database at all" * 500
    (tmp_path / database.FILE_NAME).write_bytes(garbage)
    refused(tmp_path, model.StoreCorruptError)
    assert (tmp_path / database.FILE_NAME).read_bytes() == garbage


def test_file_of_another_program_is_rejected_unchanged(tmp_path: Path) -> None:
    with file_of(tmp_path) as connection:
        connection.execute("create table theirs (a)")
    refused(tmp_path, model.StoreCorruptError)
    with file_of(tmp_path) as connection:
        assert connection.execute("select name from sqlite_master").fetchall() == [("theirs",)]


async def test_truncated_file_is_rejected_with_a_hint(bench: engines.Bench) -> None:
    for number in range(50):
        await bench.accept(samples.arrival(f"{number}", body=random.Random(number).randbytes(2_000)))
    await bench.store.close()
    file = bench.place / database.FILE_NAME
    os.truncate(file, file.stat().st_size // 8192 // 2 * 8192)
    assert ".recover" in str(refused(bench.place, model.StoreCorruptError).hint)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "ceph"])
def test_network_file_system_is_rejected(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040")
    mounts = f"rootfs / ext4 rw 0 0\nserver:/data {escaped} {kind} rw 0 0\n"
    real_open = pathlib.Path.open

    def open_mounts(path: Path, *arguments: Any, **named: Any) -> Any:
        return io.StringIO(mounts) if str(path) == "/proc/self/mounts" else real_open(path, *arguments, **named)

    monkeypatch.setattr(pathlib.Path, "open", open_mounts)
    assert kind in str(refused(folder, model.ConfigurationError))
    open_writer(tmp_path / "beside", key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()


def test_folder_that_cannot_be_created_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file" / "data", model.ConfigurationError)


# The schema


def old_file(folder: Path) -> None:
    """Create a file with the first schema and one arrival."""
    with file_of(folder) as connection:
        connection.executescript((MIGRATIONS / "0003_initial.sql").read_text("utf-8"))
        connection.execute("pragma user_version = 3")
        connection.execute(f"pragma application_id = {database.APPLICATION_ID}")
        values = [("key_fingerprint", "k"), ("min_gateway", "0.1.0")]
        connection.executemany("insert into meta values (?, ?)", values)
        connection.execute("insert into listeners values (1, 'agency', 'acme', 'lobby')")
        connection.execute(
            "insert into arrivals values (5, ?, 1, ?, ?, 1, 16, 0, 0, 2, ?, ?, ?, ?)",
            (bytes(16), NOW, NOW, bytes(16), bytes(16), b"", b"\x90"),
        )


def schema_of(folder: Path) -> set[tuple[str, str]]:
    with file_of(folder) as connection:
        return set(connection.execute("select name, sql from sqlite_master where sql is not null"))


async def test_file_with_the_first_schema_is_migrated_with_its_rows(tmp_path: Path) -> None:
    old_file(tmp_path / "old")
    bench = engines.Bench(engines.Sqlite(), tmp_path / "old")
    await bench.open()
    assert [row["countedAs"] for row in await bench.visits()] == ["Visit"]
    await bench.store.close()
    open_writer(tmp_path / "new", key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()
    assert schema_of(tmp_path / "old") == schema_of(tmp_path / "new")


def test_file_of_before_the_first_release_is_refused(tmp_path: Path) -> None:
    open_writer(tmp_path, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()
    with file_of(tmp_path) as connection:
        connection.execute("pragma user_version = 2")
    error = refused(tmp_path, model.ConfigurationError)
    assert "tables of version 2" in str(error)
    assert "an empty folder" in error.hint


def test_newer_schema_opens_only_if_it_allows_this_gateway(tmp_path: Path) -> None:
    open_writer(tmp_path, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()
    with file_of(tmp_path) as connection:
        connection.execute("pragma user_version = 99")
    open_writer(tmp_path, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()
    with file_of(tmp_path) as connection:
        connection.execute("update meta set value = '99.0.0' where name = 'min_gateway'")
    assert "99.0.0" in str(refused(tmp_path, model.ConfigurationError))


async def test_second_open_of_the_same_data_is_rejected(bench: engines.Bench) -> None:
    refused(bench.place, model.StoreLockedError)
    (bench.place / "lock").unlink()  # by a person
    assert "another gateway, or a command, uses" in str(refused(bench.place, model.StoreLockedError))


def test_file_that_another_program_writes_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 10)
    open_writer(tmp_path, key_fingerprint="k", names=NameNumbers(), fold_rows=FOLD_ROWS, now=NOW).close()
    with contextlib.closing(sqlite3.connect(tmp_path / database.FILE_NAME, isolation_level=None)) as other:
        other.execute("begin immediate")
        assert "another program writes to" in str(refused(tmp_path, model.StoreLockedError))


async def test_connection_is_durable_and_overwrites_deleted_data(bench: engines.Bench) -> None:
    pragmas: dict[str, Any] = {}

    def look(opened: Transaction) -> None:
        for name in ("journal_mode", "synchronous", "secure_delete", "auto_vacuum", "max_page_count"):
            pragmas[name] = opened.connection.execute(f"pragma {name}").fetchone()[0]

    await run_job(bench, look)
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "auto_vacuum": 0,
        "max_page_count": 2**25 - 1,  # the scrubber knows the pages of rows by their first byte
    }


# Indexes


async def run_job(bench: engines.Bench, job: Callable[[Transaction], Any]) -> Any:
    store: Any = bench.store

    async def run(opened: Transaction) -> Any:
        result = job(opened)
        return await result if inspect.isawaitable(result) else result

    return await store._commits.run_job(run)


async def statements_of(bench: engines.Bench, *jobs: Callable[[Transaction], Any]) -> set[str]:
    """Return the statements, with values, that these jobs execute."""
    said: set[str] = set()
    for job in jobs:

        async def traced(opened: Transaction, job: Callable[[Transaction], Any] = job) -> None:
            opened.connection.set_trace_callback(said.add)
            try:
                await job(opened)
            finally:
                opened.connection.set_trace_callback(None)

        await run_job(bench, traced)
    return said


def scans(folder: Path, statements: set[str]) -> list[str]:
    """Return the query plans that scan one of the large tables."""
    large_scans = []
    with file_of(folder) as connection:
        for statement in statements:
            if statement.split()[0].lower() in {"begin", "commit", "rollback", "pragma"}:
                continue
            for row in connection.execute(f"explain query plan {statement}"):
                detail = row[3]
                large = ("arrivals", "bodies", "deliveries", "persons", "prints", "meters", "sightings", "once_marks")
                words = detail.split()
                # The alias of a table is its first letter.
                names = {*large, *[name[0] for name in large if name not in {"persons", "prints", "sightings"}]}
                if words[0] == "SCAN" and words[1] in names and "USING" not in words:
                    large_scans.append(f"{detail} <- {statement}")
    return large_scans


async def test_counts_of_the_backlog_take_no_memory_for_each_delivery(bench: engines.Bench) -> None:
    """SQLite sorts in memory, and the process keeps what a sort took: 100 MB for a million deliveries."""

    async def count(opened: Transaction) -> None:
        await claims.backlog_by_route(opened.session)
        await claims.held_groups(opened.session)

    statements = [said for said in await statements_of(bench, count) if said.lstrip().startswith("select")]
    with file_of(bench.place) as connection:
        plans = [row[3] for said in statements for row in connection.execute(f"explain query plan {said}")]
    assert len(statements) == 2
    assert [plan for plan in plans if "TEMP B-TREE" in plan] == []


async def test_frequent_statements_scan_no_table(bench: engines.Bench) -> None:
    from usher_gateway.store.jobs import retention
    from usher_gateway.store.sqlite import prune

    store: Any = bench.store
    held = samples.plan(hold=model.HoldReason.TenantSuspended)
    await bench.accept(samples.arrival("a", if_visit=(samples.plan(), held, samples.skip(model.SkipReason.Filter))))
    await bench.accept(samples.quarantined("q"))
    (group,) = await store.held_groups()
    (visit, *_) = (await bench.visits(counted_as="Visit"),)[0]
    arrival = model.key_of(model.parse_id(visit["id"]))
    deliveries = [model.key_of(model.parse_id(row["id"])) for row in await bench.deliveries()]
    replay = await store.start_replay(bench.replay_request("Filter"), NOW)
    skipped, facts = replays.Verdict(arrival, group.route, 1, 0), replays.RouteFacts({}, ())
    said = await statements_of(
        bench,
        lambda opened: claims.claim(opened, "agency/crm", 10, 1000, NOW),
        lambda opened: claims.defer(opened, deliveries, NOW),
        lambda opened: claims.cancel_held(opened, group, model.CancelReason.OnRequest, 0, NOW),
        lambda opened: claims.unhold(opened, group, NOW, newest=samples.CRM),
        lambda opened: claims.unhold(opened, group, NOW),
        lambda opened: claims.unhold(opened, group, NOW, [model.HoldReason.TokenHeld, model.HoldReason.QuotaExceeded]),
        lambda opened: changes.redrive(opened, deliveries, NOW, {}, model.DeliveryState.Dead),
        lambda opened: replays.take_step(opened, replay, [skipped], None, holds={}, facts=facts, now=NOW),
        lambda opened: retention.prune(opened, NOW, KeptTimes(), retention.RetentionWalk(), prune.forget_arrivals),
        lambda opened: retention.prune(
            opened, NOW + 400 * samples.DAY, KeptTimes(), retention.RetentionWalk(), prune.forget_arrivals
        ),
        lambda opened: settle.settle(
            opened,
            [
                model.Settlement(key, how, NOW, 0, 1)
                for key in (1, 2)
                for how in (model.SettledAs.Dead, model.SettledAs.Delivered)
            ],
        ),
        lambda opened: reads_of(opened.session),
    )
    assert len(said) > 25
    assert scans(bench.place, said) == []


async def reads_of(session: Session) -> None:
    await claims.due(session)
    await meters.open_deliveries(session, 1 << 62, Filter())
    for state in (None, "dead", "cancelled", "held", "pending", "delivered"):
        await listings.deliveries(session, Filter(state=state, tenant="acme", since=NOW, until=NOW + 1), None, 10)
    for counted_as in (None, "quarantined", "visit"):
        await listings.visits(session, Filter(counted_as=counted_as, tenant="acme", since=NOW), None, 10)
    await changes.quarantined(session, Filter(), 10, 0)
    await replays.is_waiting(session, 1)
    with contextlib.suppress(model.NotFoundError):
        await replays.find(session, bytes(16))
    await listings.of_person(session, frozenset({samples.digest("jane", 8)}), None, 10)


# Walks in windows, persons in segments


async def test_walk_in_windows_finds_every_row(bench: engines.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_WINDOW", 3)
    skipped = (samples.skip(model.SkipReason.Filter),)
    for number in range(20):
        plans = skipped if number % 4 == 0 else (samples.plan(),)
        await bench.accept(samples.arrival(f"{number}", if_visit=plans))
    assert len(await bench.visits()) == 20
    assert len(await bench.visits(reason="Filter")) == 5
    assert len(await bench.deliveries(route="crm")) == 15
    assert (await bench.replay("Filter")).created == 5


async def test_page_out_of_time_ends_with_a_cursor(bench: engines.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_WINDOW", 3)
    monkeypatch.setattr(scopes, "_PAGE_SECONDS", -1.0)
    await bench.accept(samples.quarantined("oldest"))
    for number in range(10):
        await bench.accept(samples.arrival(f"{number}"))
    where = Filter(reason="NoUser")
    assert len((await bench.store.visits(where, None, 10)).rows) == 1  # uses the index of quarantined arrivals
    first = await bench.store.visits(Filter(until=NOW + 1, listener="nobody"), None, 10)
    assert (first.rows, first.next_cursor is not None) == ([], True)
    assert await bench.visits(listener="nobody") == []
    assert len(await bench.visits(listener="lobby")) == 11


@pytest.mark.parametrize("crash", [False, True])
async def test_persons_are_found_in_segments(
    bench: engines.Bench, monkeypatch: pytest.MonkeyPatch, crash: bool
) -> None:
    monkeypatch.setattr(transaction, "SEGMENT_ARRIVALS", 2)
    jane, late = samples.digest("jane", 8), samples.digest("late", 8)
    await bench.accept(samples.quarantined("q", person_keys=()))
    for number in range(7):
        await bench.accept(samples.arrival(f"{number}", person_keys=(samples.digest(f"{number}", 8), jane)))
    (quarantined,) = await bench.store.quarantined(Filter(), 10)
    quarantined.if_visit, quarantined.person_keys = (samples.plan(),), (late,)
    await bench.store.release([quarantined], NOW)
    await bench.reopen(crash=crash)
    assert len(await bench.ids_of_person(jane)) == 7
    assert len(await bench.ids_of_person(late)) == 1
    with file_of(bench.place) as connection:
        assert connection.execute("select count(*) from person_segments").fetchone()[0] >= 3


async def test_visits_are_counted_from_a_covering_index(bench: engines.Bench) -> None:
    await bench.accept(samples.arrival("a"))
    statement = with_rows(for_sqlite(meters._VISITS), 2)
    with file_of(bench.place) as connection:
        plan = connection.execute(f"explain query plan {statement}", (0, 0, 1, 1, 2)).fetchall()
    assert [row[3] for row in plan] == [
        "SEARCH meters USING COVERING INDEX meters_visits (listener=? AND slot>? AND slot<?)"
    ]
    assert int(model.Counter.visits) == 1, "the index and the statement contain this number as a literal"


# Retention, and the checks inside jobs


@pytest.mark.parametrize("fold_rows", [1, 1000])
async def test_retention_leaves_no_row_about_a_person(fold_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "SEGMENT_ARRIVALS", 2)
    async with engines.opened(engines.Sqlite(), fold_rows=fold_rows) as bench:
        await bench.accept(samples.quarantined("q", body_days=1))
        for content in "ab":
            (accepted,) = await bench.accept(samples.arrival(content, body_days=1))
            bench.store.settle(samples.settlement(accepted.deliveries[0], model.SettledAs.Delivered))
        await bench.store.flush()
        for days in (2, 9, 10):
            bench.clock.now = NOW + days * samples.DAY
            while await bench.store.prune(bench.clock.now):
                pass
        for _ in range(300):
            await bench.store.flush()
        with file_of(bench.place) as connection:
            tables = (
                "arrivals",
                "bodies",
                "deliveries",
                "prints",
                "sightings",
                "persons",
                "person_segments",
                "attempts",
            )
            left = {table: connection.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
        assert left == dict.fromkeys(tables, 0)


async def test_redrive_checks_each_delivery_again_before_the_change(bench: engines.Bench) -> None:
    accepted = await bench.accept(samples.arrival("a"), samples.arrival("b"))
    pending, delivered = [arrival.deliveries[0] for arrival in accepted]
    await bench.settle(delivered, model.SettledAs.Delivered)
    deliveries_before = await bench.deliveries()
    changed = await run_job(
        bench, lambda opened: changes.redrive(opened, [pending.key, delivered.key], NOW, {}, model.DeliveryState.Dead)
    )
    assert changed == []
    assert await bench.deliveries() == deliveries_before


@pytest.mark.parametrize("fold_rows", [1, 1_000_000], ids=["folded", "in memory"])
async def test_lookup_of_a_visitor_does_not_grow_with_its_visits(fold_rows: int) -> None:
    visitor = samples.digest("frequent")
    looked_up: list[int] = []

    def look(opened: Transaction) -> None:
        arrivals = [samples.arrival("now", visitor_key=visitor), samples.arrival("free", NOW + HOUR)]
        facts = run_to_end(Acceptance(opened, arrivals, NOW)._facts())
        looked_up.extend(len(times) for times in facts.sightings.values())

    async with engines.opened(engines.Sqlite(), fold_rows=fold_rows) as bench:
        for start in range(0, 600, 100):
            times = {f"{hours}": NOW - hours * HOUR for hours in range(start, start + 100)}
            visits = [samples.arrival(text, visit_time=at, visitor_key=visitor) for text, at in times.items()]
            assert set(await bench.words(*visits)) == {"Visit"}
        for _ in range(2 * 257 if fold_rows == 1 else 0):
            await run_job(bench, lambda _: None)
        await run_job(bench, look)
    assert looked_up == [1]


async def test_long_queries_delay_neither_deliveries_nor_upkeep(bench: engines.Bench) -> None:
    store: Any = bench.store
    end = threading.Event()
    asked = [asyncio.create_task(store._query_reader.run(lambda _: end.wait(20))) for _ in range(100)]
    try:
        assert await asyncio.wait_for(store.due(), 60) == {}
        await asyncio.wait_for(store._upkeep_reader.run(database.reusable_bytes), 60)
        await asyncio.wait_for(store._checkpoint(), 60)
        assert not any(query.done() for query in asked)
    finally:
        end.set()
        await asyncio.gather(*asked)


async def test_queries_run_beside_a_long_one(bench: engines.Bench) -> None:
    store: Any = bench.store
    end = threading.Event()
    asked = asyncio.create_task(store._query_reader.run(lambda _: end.wait(20)))
    try:
        assert (await asyncio.wait_for(store.visits(Filter(), None, 10), 60)).rows == []
        assert not asked.done()
    finally:
        end.set()
        await asked
