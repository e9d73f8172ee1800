"""Migrations: what `usher migrate` does and says, and gateways that may not migrate."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import command_line, databases, engines, samples, waiting
from usher_gateway import model
from usher_gateway.store.migrations import Migration, all_migrations
from usher_gateway.store.postgresql import connections, schema
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.postgresql.store import PostgresStore

NEXT = Migration(9000, "add a note", "alter table deliveries add column note text")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[str]:
    name = databases.name_of(tmp_path)
    databases.create_empty(name)
    yield name
    databases.drop(name)


def usher_migrate(dsn: str, *flags: str) -> command_line.CommandRun:
    return command_line.run("migrate", *flags, USHER_STORE=dsn)


def tables(name: str) -> set[str]:
    rows = databases.server().rows("select tablename from pg_tables where schemaname = 'public'", name)
    return {str(row[0]) for row in rows}


def store(dsn: str, **settings: Any) -> PostgresStore:
    return PostgresStore(PostgresSettings(dsn, "k", **settings), engines.Clock())


async def migrate(dsn: str, migrations: list[Migration]) -> list[Migration]:
    pool = await connections.open_pool(dsn, None, 1)
    try:
        async with pool.acquire() as connection:
            return await schema.migrate(connection, migrations)
    finally:
        pool.terminate()


def test_dry_run_lists_the_migrations_and_changes_nothing(empty: str) -> None:
    done = usher_migrate(databases.owner_dsn(empty), "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "would make migration 2: initial\n" in done.out
    assert "create table" not in done.out
    assert "create table arrivals" in usher_migrate(databases.owner_dsn(empty), "--dry-run", "--sql").out
    assert tables(empty) == set()


def test_migrate_creates_the_tables_once(empty: str) -> None:
    first, second = (usher_migrate(databases.owner_dsn(empty)) for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert "made migration 2: initial\n" in first.out
    assert second.out == "the tables are up to date\n"
    assert {"meta", "arrivals", "deliveries"} <= tables(empty)


def test_migrate_says_what_is_wrong(empty: str) -> None:
    databases.server().execute("create table invoices (number integer)", empty)
    foreign = usher_migrate(databases.owner_dsn(empty))
    assert (foreign.code, foreign.out) == (1, "")
    assert "belongs to another program" in foreign.err
    sqlite = usher_migrate("data/usher.sqlite3")
    assert (sqlite.code, sqlite.out) == (2, "")
    assert "not the address of a PostgreSQL database" in sqlite.err
    away = usher_migrate("postgresql://usher:pass-in-address@127.0.0.1:1/usher")
    assert away.code == 1
    assert "PostgreSQL cannot be reached" in away.err
    assert "pass-in-address" not in away.err
    absent = usher_migrate(databases.server().dsn("absent"))
    assert absent.code == 2
    assert "the database of --store does not exist" in absent.err
    assert "absent" not in absent.err


def test_address_in_a_secret_may_end_with_a_newline(empty: str) -> None:
    """As `echo` writes one."""
    done = usher_migrate(f"{databases.owner_dsn(empty)}\n")
    assert (done.code, done.err) == (0, "")


async def test_store_that_may_not_migrate_refuses_an_old_schema(empty: str) -> None:
    with pytest.raises(model.SchemaTooOldError) as raised:
        await store(databases.owner_dsn(empty), may_migrate=False).open()
    assert "usher migrate" in raised.value.hint
    assert tables(empty) == set()


async def test_store_that_may_not_migrate_opens_on_the_newest_schema(database: str) -> None:
    opened = store(databases.server().dsn(database), may_migrate=False)
    await opened.open()
    assert (await opened.accept(samples.arrival("a"))).counted_as is model.CountedAs.Visit
    await opened.close()


async def test_gateway_that_is_too_old_refuses_to_start(database: str) -> None:
    databases.server().execute("update meta set value = '999.0.0' where name = 'min_gateway'", database)
    for may_migrate in (True, False):
        with pytest.raises(model.ConfigurationError, match=r"needs Usher 999\.0\.0 or later"):
            await store(databases.server().dsn(database), may_migrate=may_migrate).open()
    done = await command_line.usher("migrate", USHER_STORE=databases.owner_dsn(database))
    assert (done.code, done.out) == (2, "")


async def test_tables_of_before_the_first_release_are_refused(database: str) -> None:
    databases.server().execute("update meta set value = '1' where name = 'schema_version'", database)
    with pytest.raises(model.ConfigurationError, match="tables of version 1"):
        await store(databases.server().dsn(database)).open()
    done = await command_line.usher("migrate", USHER_STORE=databases.owner_dsn(database))
    assert (done.code, done.out) == (2, "")


async def test_several_processes_make_each_migration_once(empty: str) -> None:
    migrations = [*all_migrations("usher_gateway.store.postgresql"), NEXT]
    migrated = await asyncio.gather(*[migrate(databases.owner_dsn(empty), migrations) for _ in range(4)])
    assert sorted(migration.number for done in migrated for migration in done) == [
        migration.number for migration in migrations
    ]


async def test_visits_are_accepted_while_a_migration_waits_for_a_table(database: str) -> None:
    """A long transaction has read the table, so the migration must wait for its end; visits must not."""
    dsn = databases.owner_dsn(database)
    opened = store(dsn)
    await opened.open()
    databases.server().execute("begin; select count(*) from deliveries", database)
    migrating = asyncio.create_task(migrate(dsn, [NEXT]))

    async def waiters() -> list[Any]:
        query = "select 1 from pg_locks where not granted and relation = 'deliveries'::regclass"
        return await asyncio.to_thread(databases.server().rows, query, database)

    for number in range(2):
        await waiting.until(waiters)
        accepted = await asyncio.wait_for(opened.accept(samples.arrival(f"during {number}")), 8)
        assert accepted.counted_as is model.CountedAs.Visit
    assert not migrating.done()
    databases.server().execute("commit", database)
    assert await migrating == [NEXT]
    accepted = await asyncio.wait_for(opened.accept(samples.arrival("after")), 8)
    assert accepted.counted_as is model.CountedAs.Visit
    await opened.close()
    again = store(dsn, may_migrate=False)
    await again.open()
    await again.close()


def test_user_who_may_not_alter_tables_cannot_migrate(empty: str) -> None:
    refused = usher_migrate(databases.gateway_dsn(empty))
    assert (refused.code, refused.out) == (2, "")
    assert "may not make migration 2" in refused.err
    databases.migrate(empty)
    assert usher_migrate(databases.gateway_dsn(empty)).out == "the tables are up to date\n"


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_user_who_may_not_read_the_tables_cannot_migrate(database: str, flags: tuple[str, ...]) -> None:
    databases.server().execute("revoke all on meta from gateway", database)
    refused = usher_migrate(databases.gateway_dsn(database), *flags)
    assert (refused.code, refused.out) == (2, "")
    assert "Run `usher migrate` as the owner" in refused.err


def test_gateway_may_use_the_tables_of_later_migrations(empty: str) -> None:
    later = Migration(9000, "add notes", "create table notes (number integer generated always as identity, note text)")
    databases.migrate(empty, later)
    databases.server().execute("set role gateway; insert into notes (note) values ('a'); reset role", empty)
    assert databases.server().rows("select number, note from notes", empty) == [(1, "a")]


async def test_gateway_without_rights_says_so(database: str) -> None:
    databases.server().execute("revoke all on deliveries from gateway", database)
    with pytest.raises(model.ConfigurationError, match="lacks rights"):
        await store(databases.gateway_dsn(database), may_migrate=False).open()


def test_gateway_without_migrate_says_what_to_run(empty: str, tmp_path: Path) -> None:
    manifest = tmp_path / "usher.yaml"
    manifest.write_text("apiVersion: usher.dev/v1alpha1\nkind: Tenant\nmetadata: {name: acme}\nspec: {}\n")
    arguments = ("run", manifest, "--data", tmp_path / "data")
    done = command_line.run(*arguments, USHER_STORE=databases.owner_dsn(empty), USHER_MIGRATE="false")
    assert done.code == 1
    assert "lacks migrations (2, 3)" in done.err
    assert "Run `usher migrate`" in done.err
    assert tables(empty) == set()
