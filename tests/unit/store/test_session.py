"""How a statement that is written for PostgreSQL runs on SQLite."""

import sqlite3

import pytest

from usher_gateway.store.session import Statement, columns, for_sqlite, run_to_end
from usher_gateway.store.sqlite.transaction import SqliteSession


@pytest.fixture
def session() -> SqliteSession:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table visits (key integer primary key, name text, due_at integer default 0)")
    connection.executemany("insert into visits (key, name) values (?, ?)", [(key, f"v{key}") for key in range(1, 201)])
    return SqliteSession(connection)


def test_numbered_value_can_be_used_twice(session: SqliteSession) -> None:
    rows = run_to_end(session.fetch("select name from visits where key = $1 or key = $1 + $2", 7, 2))
    assert rows == [("v7",), ("v9",)]


def test_casts_and_row_locks_are_dropped(session: SqliteSession) -> None:
    statement = "select key from visits where ($1::text is null or name = $1) order by key limit 1 for no key update"
    assert run_to_end(session.fetch(statement, None)) == [(1,)]
    assert run_to_end(session.fetch(f"{statement} skip locked", "v5")) == [(5,)]


@pytest.mark.parametrize("count", [0, 1, 3, 64, 65, 200])
def test_list_of_any_length_selects_each_key_once(session: SqliteSession, count: int) -> None:
    keys = list(range(1, count + 1))
    rows = run_to_end(session.fetch("select key from visits where key = any($1::bigint[]) and key > $2", keys, 0))
    assert sorted(rows) == [(key,) for key in keys]


@pytest.mark.parametrize("count", [0, 1, 64, 130])
def test_rows_update_as_many_rows(session: SqliteSession, count: int) -> None:
    statement = """
        update visits as v set due_at = greatest(new.due_at, $3) from unnest($1::bigint[], $2::bigint[])
            as new (key, due_at) where v.key = new.key
    """
    rows = [(key, key * 10) for key in range(1, count + 1)]
    assert run_to_end(session.execute(statement, *columns(rows, 2), 25)) == count
    updated = run_to_end(session.fetch("select key, due_at from visits where due_at > 0 order by key"))
    assert updated == [(key, max(due_at, 25)) for key, due_at in rows]


def test_keys_of_a_subquery_can_be_limited(session: SqliteSession) -> None:
    statement = """
        update visits set due_at = $1 where key = any(array(select key from visits where name > $2
            order by key desc limit $3 for no key update)) returning key
    """
    assert sorted(run_to_end(session.fetch(statement, 5, "v1", 2))) == [(199,), (200,)]


def test_statement_of_an_engine_is_used_instead(session: SqliteSession) -> None:
    statement = Statement(postgresql="select now()", sqlite="select $1 + 1")
    assert run_to_end(session.fetch(statement, 1)) == [(2,)]


def test_job_that_waits_is_an_error() -> None:
    import asyncio

    async def job() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waited"):
        run_to_end(job())


def test_statement_without_a_list_has_no_placeholder_for_rows() -> None:
    assert for_sqlite("select $2::bigint, $1").text == "select ?2, ?1"
