"""Two gateways on one database with different manifests, as during a rolling update."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import test_utils, web

from support import gateways
from usher_gateway import model

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


class Peer:
    """A receiver whose paths answer a status, or not at all before ``answers`` is set."""

    def __init__(self) -> None:
        self.url = ""
        self.statuses = {"/crm": 200, "/other": 200}
        self.answers = asyncio.Event()
        self.answers.set()
        self.requests = {"/crm": 0, "/other": 0}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.requests[request.path] += 1
        await self.answers.wait()
        return web.Response(status=self.statuses[request.path])


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with test_utils.RawTestServer(peer.answer) as server:
        peer.url = str(server.make_url("")).rstrip("/")
        yield peer
        peer.answers.set()


def manifests(peer: Peer, *names: str, missing: tuple[str, ...] = ()) -> list[gateways.Manifest]:
    """Build a listener with a destination for each name, except for those that are missing."""
    present = [name for name in names if name not in missing]
    listeners = [gateways.listener(name, [gateways.route(name, name)]) for name in names]
    limits = {"timeoutSeconds": 2}
    destinations = [gateways.destination(name, f"{peer.url}/{name}", limits, concurrency=2) for name in present]
    return [gateways.TENANT, *listeners, *destinations]


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
    await gateways.wait_until(lambda: pair[0].store.rows(joined)[0][0] == 2, 60, "a share for each")


async def test_gateway_leaves_a_destination_that_only_another_one_knows(
    pair: list[gateways.Gateway], peer: Peer
) -> None:
    first, second = pair
    first.configure(manifests(peer, "crm"))
    second.configure(manifests(peer, "other"))
    await start(pair)
    peer.statuses = {"/crm": 503, "/other": 503}
    crm = (
        "select waiting, hold from deliveries d join destinations n on n.number = destination where n.key like '%/crm'"
    )
    is_due = f"{crm} and waiting and due_at < extract(epoch from clock_timestamp()) * 1e6"

    assert (await gateways.post(first.port, "/crm", gateways.visit(1))).is_acknowledgement
    await gateways.wait_until(lambda: first.store.rows(crm) == [(True, 0)], 60, "a delivery that waits for its retry")
    assert first.process is not None
    first.process.send_signal(signal.SIGSTOP)
    try:
        await gateways.wait_until(lambda: first.store.rows(is_due) != [], 60, "the time of the retry")
        assert (await gateways.post(second.port, "/other", gateways.visit(2))).is_acknowledgement
        await gateways.wait_until(lambda: peer.requests["/other"] == 1, 60, "the first attempt")
        peer.statuses["/other"] = 200
        await gateways.wait_until(lambda: peer.requests["/other"] == 2, 60, "a retry, due after the other one")
        assert first.store.rows(crm) == [(True, 0)]
    finally:
        first.process.send_signal(signal.SIGCONT)
    peer.statuses["/crm"] = 200
    await gateways.wait_until(lambda: first.store.rows(crm) == [(False, 0)], 60, "the delivery by the first gateway")


async def test_deliveries_in_lanes_of_a_removed_destination_go_to_a_gateway_that_knows_it(
    pair: list[gateways.Gateway], peer: Peer
) -> None:
    first, second = pair
    for gateway in pair:
        gateway.configure(manifests(peer, "crm"))
    await start(pair)
    peer.answers.clear()
    for number in range(4):
        assert (await gateways.post(second.port, "/crm", gateways.visit(number))).is_acknowledgement
    await gateways.wait_until(lambda: peer.requests["/crm"] == 1, 60, "the attempt that the others wait for")

    second.configure(manifests(peer, "crm", missing=("crm",)))
    delivered = "select count(*) from deliveries where state = 1 and started_at = created_at"
    await gateways.wait_until(lambda: peer.requests["/crm"] == 2, 60, "an attempt of the first gateway")
    peer.answers.set()
    await gateways.wait_until(lambda: first.store.rows(delivered) == [(4,)], 60, "deliveries that were never held")


async def test_gateway_that_is_alone_holds_the_deliveries_of_a_removed_destination(
    pair: list[gateways.Gateway], peer: Peer
) -> None:
    gateway = pair[0]
    gateway.configure(manifests(peer, "crm"))
    await gateway.start(USHER_INSTALL_KEY=KEY)
    peer.statuses["/crm"] = 503
    assert (await gateways.post(gateway.port, "/crm", gateways.visit(1))).is_acknowledgement
    await gateways.wait_until(lambda: peer.requests["/crm"] == 1, 60, "the first attempt")

    gateway.configure(manifests(peer, "crm", missing=("crm",)))
    not_found = int(model.HoldReason.DestinationNotFound)
    state = "select state, hold from deliveries"
    await gateways.wait_until(lambda: gateway.store.rows(state) == [(0, not_found)], 60, "a held delivery")
    peer.statuses["/crm"] = 200
    gateway.configure(manifests(peer, "crm"))
    await gateways.wait_until(lambda: gateway.store.rows(state) == [(1, 0)], 60, "the delivery")
