"""The database, destination, admin port and API server of a test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support import admin_port, api_server, databases
from usher_gateway.simulator import receiver


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """Name of a database with the newest schema."""
    name = databases.name_of(tmp_path)
    databases.create(name)
    yield name
    databases.drop(name)


@pytest.fixture
async def peer() -> AsyncIterator[receiver.Receiver]:
    async with receiver.Receiver(receiver.ReceiverSettings(keep=True)) as running_receiver:
        yield running_receiver


@pytest.fixture
async def server() -> AsyncIterator[api_server.ApiServer]:
    async with api_server.serving() as running_server:
        yield running_server


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    """An admin port over an empty store."""
    async with admin_port.served(tmp_path) as served:
        yield served


@pytest.fixture
async def served(empty: admin_port.Served) -> admin_port.Served:
    """An admin port over a visit of each kind."""
    await admin_port.fill(empty)
    return empty


@pytest.fixture
async def with_ada(empty: admin_port.Served) -> admin_port.Served:
    """An admin port over visits of Ada."""
    await admin_port.add_ada(empty)
    return empty
