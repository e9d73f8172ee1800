"""Measure two parts of accept and forward alone on one core: a commit, and a POST with aiohttp's client."""

import asyncio
import json
import os
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import uvloop

_ROWS = 64
_BODY = os.urandom(1_200)


def commit_microseconds(batches: int = 400) -> float:
    """Return the time per arrival for SQLite alone: ledger, body and delivery rows, 64 arrivals per commit."""
    with tempfile.TemporaryDirectory(prefix="usher-bench-") as folder:
        connection = sqlite3.connect(Path(folder) / "parts.sqlite3", isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("create table ledger (key integer primary key, a, b, c, d, e, f, g, h)")
        connection.execute("create table bodies (key integer primary key, body blob)")
        connection.execute("create table queue (key integer primary key, a, b, c, d, e, f)")
        key = 0
        began = time.perf_counter()
        for _ in range(batches):
            keys = range(key, key + _ROWS)
            key += _ROWS
            connection.execute("begin immediate")
            digest = b"0123456789abcdef"
            rows = [(each, digest, 1, 2, 3, 4, digest, digest, digest) for each in keys]
            connection.executemany("insert into ledger values (?,?,?,?,?,?,?,?,?)", rows)
            connection.executemany("insert into bodies values (?,?)", [(each, _BODY) for each in keys])
            connection.executemany(
                "insert into queue values (?,?,?,?,?,?,?)", [(each, digest, 1, 2, 3, 4, 5) for each in keys]
            )
            connection.execute("commit")
            # Settling changes the state of each row once.
            connection.execute("begin immediate")
            connection.executemany("update queue set e = 1, f = 200 where key = ?", [(each,) for each in keys])
            connection.execute("commit")
        took = time.perf_counter() - began
        connection.close()
    return took / batches / _ROWS * 1e6


async def post_microseconds(port: int, requests: int = 6_000, workers: int = 32) -> float:
    """Return the time per POST for aiohttp's client alone, over kept connections, with several workers."""
    left = iter(range(requests))
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def work() -> None:
            for _ in left:
                async with session.post(f"http://127.0.0.1:{port}/in", data=_BODY) as answer:
                    await answer.read()

        began = time.perf_counter()
        await asyncio.gather(*[work() for _ in range(workers)])
        return (time.perf_counter() - began) / requests * 1e6


if __name__ == "__main__":
    json.dump({"commit": commit_microseconds(), "post": uvloop.run(post_microseconds(int(sys.argv[1])))}, sys.stdout)
