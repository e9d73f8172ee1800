"""Servers of a module, and stores of several gateways on one database."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from postgresql.server import PostgresServer
from support import engines

Gateways = list[engines.Bench]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as running_server:
        yield running_server


@pytest.fixture(scope="module")
def durable_server() -> Iterator[PostgresServer]:
    with PostgresServer(is_durable=True) as running_server:
        yield running_server


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[engines.Bench]:
    """An open store on its own database."""
    bench = engines.Bench(engines.Postgresql(), tmp_path / "data")
    await bench.open()
    yield bench
    await bench.store.close()
    bench.engine.forget(bench.place)


@pytest.fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Gateways]:
    """Two open stores on one database."""
    engine = engines.Postgresql()
    benches = [engines.Bench(engine, tmp_path / "data") for _ in range(2)]
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(engine.forget, benches[0].place)
        for bench in benches:
            await bench.open()
            stack.push_async_callback(bench.store.close)
        yield benches
