"""Two gateways on one database with different manifests, as during a rolling update.

tests/integration/store/postgresql/test_known_destinations.py tries the cases that need no attempt.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import gateway as in_process
from support import gateways, waiting
from usher_gateway.store.postgresql import incarnations

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
async def pair(
    tmp_path: Path, database: str, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[in_process.RunningGateway]]:
    """Two gateways on one database, each with its share of the limits."""
    monkeypatch.setattr(incarnations, "HEARTBEAT_SECONDS", 0.2)
    async with contextlib.AsyncExitStack() as stack:
        fleet = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            gateway = in_process.running(
                tmp_path / name, manifests(peer), environment={"USHER_INSTALL_KEY": KEY}, database=database
            )
            fleet.append(await stack.enter_async_context(gateway))
        await waiting.wait_until(lambda: gateways.know_each_other(fleet[0].store), 60, "a share for each")
        yield fleet
        peer.answers.set()


async def test_deliveries_in_lanes_of_a_removed_destination_go_to_a_gateway_that_knows_it(
    pair: list[in_process.RunningGateway], peer: Peer
) -> None:
    first, second = pair
    for number in range(4):
        assert (await gateways.post(second.port, "/crm", gateways.visit(number))).is_acknowledgement
    await waiting.wait_until(lambda: peer.requests == 1, 60, "the attempt that the others wait for")

    second.configure(manifests(peer, with_destination=False))
    delivered = "select count(*) from deliveries where state = 1 and started_at = created_at"
    await waiting.wait_until(lambda: peer.requests == 2, 60, "an attempt of the first gateway")
    peer.answers.set()
    await waiting.wait_until(lambda: first.store.rows(delivered) == [(4,)], 60, "deliveries that were never held")
