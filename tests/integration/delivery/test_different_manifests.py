"""Two gateways on one database with different manifests, as during a rolling update.

tests/integration/store/postgresql/test_known_destinations.py tries the cases that need no attempt.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import gateways, waiting

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class Peer:
    """A receiver that answers once ``answers`` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.answers = asyncio.Event()
        self.requests = 0

    async def answer(self, _: web.BaseRequest) -> web.Response:
        self.requests += 1
        await self.answers.wait()
        return web.Response()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with test_utils.RawTestServer(peer.answer) as server:
        peer.url = str(server.make_url("")).rstrip("/")
        yield peer
        peer.answers.set()


def manifests(peer: Peer, *, with_destination: bool = True) -> list[gateways.Manifest]:
    objects = [gateways.TENANT, gateways.listener("crm", [gateways.route("crm", "crm")])]
    crm = gateways.destination("crm", f"{peer.url}/crm", {"timeoutSeconds": 2}, concurrency=2)
    return [*objects, crm] if with_destination else objects


@pytest.fixture
async def pair(tmp_path: Path, database: str) -> AsyncIterator[list[gateways.Gateway]]:
    """Two gateways on one database that are not started yet."""
    fleet = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        fleet.append(gateways.Gateway(tmp_path / name, [], database=database))
    yield fleet
    for gateway in fleet:
        await gateway.close()


async def start(pair: list[gateways.Gateway]) -> None:
    for gateway in pair:
        await gateway.start(USHER_INSTALL_KEY=KEY)
    joined = "select count(*) from incarnations where seen = (select max(number) from incarnations)"
    await waiting.wait_until(lambda: pair[0].store.rows(joined)[0][0] == 2, 60, "a share for each")


async def test_deliveries_in_lanes_of_a_removed_destination_go_to_a_gateway_that_knows_it(
    pair: list[gateways.Gateway], peer: Peer
) -> None:
    first, second = pair
    for gateway in pair:
        gateway.configure(manifests(peer))
    await start(pair)
    for number in range(4):
        assert (await gateways.post(second.port, "/crm", gateways.visit(number))).is_acknowledgement
    await waiting.wait_until(lambda: peer.requests == 1, 60, "the attempt that the others wait for")

    second.configure(manifests(peer, with_destination=False))
    delivered = "select count(*) from deliveries where state = 1 and started_at = created_at"
    await waiting.wait_until(lambda: peer.requests == 2, 60, "an attempt of the first gateway")
    peer.answers.set()
    await waiting.wait_until(lambda: first.store.rows(delivered) == [(4,)], 60, "deliveries that were never held")
