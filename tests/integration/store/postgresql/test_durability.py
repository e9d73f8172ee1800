"""A store uses only servers that keep what they confirm, and notices when their settings change."""

import asyncio
from typing import Any, get_args

import pytest

from postgresql.server import PostgresServer
from support import engines, samples, source, waiting
from usher_gateway import model
from usher_gateway.store.postgresql import connections, incarnations
from usher_gateway.store.postgresql.opening import PostgresSettings
from usher_gateway.store.postgresql.store import PostgresStore

DURABLE = {"fsync": "on", "synchronous_commit": "on", "synchronous_standby_names": ""}


def store(server: PostgresServer, **settings: Any) -> PostgresStore:
    return PostgresStore(PostgresSettings(server.dsn(), "k", **settings), engines.Clock())


async def change(server: PostgresServer, setting: str, value: str) -> None:
    """Change a setting while connections are open."""
    await asyncio.to_thread(server.execute, f"alter system set {setting} = '{value}'")
    await asyncio.to_thread(server.execute, "select pg_reload_conf()")


@pytest.mark.parametrize(
    ("durability", "changed", "problem"),
    [
        ("Local", {}, None),
        ("Local", {"fsync": "off"}, "fsync is off"),
        ("Local", {"synchronous_commit": "off"}, "synchronous_commit is off"),
        ("Local", {"synchronous_commit": "local"}, None),
        ("Replicated", {}, "synchronous_standby_names is empty"),
        ("Replicated", {"synchronous_standby_names": "*"}, None),
        ("Replicated", {"synchronous_standby_names": "*", "fsync": "off"}, "fsync is off"),
        (
            "Replicated",
            {"synchronous_standby_names": "*", "synchronous_commit": "remote_write"},
            "synchronous_commit is remote_write",
        ),
        ("Replicated", {"synchronous_standby_names": "*", "synchronous_commit": "remote_apply"}, None),
    ],
)
def test_settings_of_a_server_break_a_promise(
    durability: connections.Durability, changed: dict[str, str], problem: str | None
) -> None:
    assert connections.durability_problem(DURABLE | changed, durability) == problem


# All values of `synchronous_commit`. Source: PostgreSQL's manual, write ahead log.
VALUES = ("on", "remote_apply", "remote_write", "local", "off")


def test_page_says_which_settings_each_durability_accepts() -> None:
    page = (source.DOCS / "which-store.md").read_text("utf-8").partition("\n## Requirements for the database\n")[2]
    rows = list(source.table_rows(page.partition("\n## ")[0]))
    assert [row[0].strip("`") for row in rows] == list(get_args(connections.Durability))
    for (_, fsync, commit, standbys), durability in zip(rows, get_args(connections.Durability), strict=True):
        assert fsync.split("`")[1::2] == accepted(durability, "fsync", "on", "off")
        assert commit.split("`")[1::2] == accepted(durability, "synchronous_commit", *VALUES)
        may_be_empty = "" in accepted(durability, "synchronous_standby_names", "")
        assert standbys == ("any, also empty" if may_be_empty else "not empty")


def accepted(durability: connections.Durability, setting: str, *values: str) -> list[str]:
    durable = DURABLE | {"synchronous_standby_names": "*"}
    return [value for value in values if connections.durability_problem(durable | {setting: value}, durability) is None]


async def test_sessions_wait_for_the_disk_whatever_the_defaults_are(server: PostgresServer) -> None:
    server.execute("alter system set synchronous_commit = 'off'")
    server.execute("select pg_reload_conf()")
    server.execute("alter role usher set synchronous_commit = 'off'")
    pool = await connections.open_pool(server.dsn(), None, connections.POOL_SIZE, "Local")
    try:
        async with connections.acquired(pool) as connection:
            assert await connection.fetchval("show synchronous_commit") == "on"
    finally:
        await pool.close()
        server.execute("alter role usher reset synchronous_commit")
        server.execute("alter system reset synchronous_commit")


async def test_server_without_a_standby_is_refused_at_the_start(server: PostgresServer) -> None:
    with pytest.raises(model.StoreUnavailableError, match="synchronous_standby_names is empty"):
        await store(server, durability="Replicated").open()
    opened = store(server)
    assert (await opened.open()).durability == "Local"
    await opened.close()


async def test_setting_that_changes_stops_commits_until_it_is_mended(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incarnations, "HEARTBEAT_SECONDS", 0.1)
    opened = store(server)
    await opened.open()
    assert (await opened.accept(samples.arrival("before"))).counted_as is model.CountedAs.Visit
    await change(server, "fsync", "off")

    async def outage() -> str | None:
        return await opened.outage()

    assert "fsync is off" in str(await waiting.until(outage, limit_seconds=60))
    assert not opened.statistics().is_available
    assert not opened.may_attempt
    during = opened.accept(samples.arrival("during"))
    assert (await asyncio.wait({during}, timeout=1))[0] == set()
    await change(server, "fsync", "on")
    assert (await asyncio.wait_for(during, 60)).counted_as is model.CountedAs.Visit

    async def is_over() -> bool:
        return await opened.outage() is None

    await waiting.until(is_over, limit_seconds=60)
    await opened.close()
