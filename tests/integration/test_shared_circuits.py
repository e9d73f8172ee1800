"""The circuit of a destination holds over all gateways together, also while gateways are killed or suspended."""

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import aiohttp
import pytest
from aiohttp import web

from support import databases, gateways
from usher_gateway import model
from usher_gateway.delivery import circuit
from usher_gateway.simulator import receiver

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
COUNT = 3
SCALE = 6
MINUTE = circuit.TRIAL_EVERY / model.MICROSECONDS / SCALE
"""The real seconds of the minute between two trials."""

pytestmark = pytest.mark.timeout(300)


class Peer:
    """A destination that fails until it is repaired, and records when it gets requests."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.status = 503
        self.answers = asyncio.Event()
        """Requests wait for it."""
        self.answers.set()

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_post("/crm", self._answer)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}/crm".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.answers.set()
        await self._runner.cleanup()

    async def _answer(self, _: web.Request) -> web.Response:
        self.times.append(time.monotonic())
        await self.answers.wait()
        return web.Response(status=self.status)

    async def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests have come in all."""
        await gateways.wait_until(lambda: len(self.times) >= count, 12 * MINUTE, f"request {count}")


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with Peer() as peer:
        yield peer


def manifests(url: str, concurrency: int = COUNT) -> list[gateways.Manifest]:
    """Build resources with which each gateway may make one attempt at a time."""
    destination = gateways.destination("crm", url, concurrency=concurrency)
    return [gateways.TENANT, gateways.listener("wifi", [gateways.route("crm", "crm")]), destination]


@pytest.fixture
async def fleet(tmp_path: Path, database: str, peer: Peer) -> AsyncIterator[list[gateways.Gateway]]:
    """Three gateways that run and have their shares, in the order of their numbers."""
    found = []
    for place in range(COUNT):
        folder = tmp_path / f"{place}"
        folder.mkdir()
        found.append(gateways.Gateway(folder, manifests(peer.url), "--time-scale", f"{SCALE}", database=database))
    try:
        for gateway in found:
            await gateway.start(USHER_INSTALL_KEY=KEY)
        joined = "select count(*) from incarnations where seen = (select max(number) from incarnations)"
        await gateways.wait_until(lambda: found[0].store.rows(joined)[0][0] == COUNT, 60, "a share for each")
        yield found
    finally:
        for gateway in found:
            await gateway.close()


async def post(gateway: gateways.Gateway, numbers: range) -> None:
    for number in numbers:
        assert (await gateways.post(gateway.port, "/wifi", gateways.visit(number))).is_acknowledgement


async def circuit_at(gateway: gateways.Gateway) -> str:
    """Return what a gateway says about the circuit, with the error."""
    headers = {"Authorization": f"Bearer {(gateway.data / 'observe.token').read_text().strip()}"}
    url = f"http://127.0.0.1:{gateway.admin}/api/destinations"
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        (row,) = (await answer.json())["rows"]
    return " ".join(filter(None, [row["circuit"], row.get("error")]))


async def wait_for_circuits(some: list[gateways.Gateway], *states: str) -> None:
    async def are_so() -> bool:
        return all([await circuit_at(gateway) in states for gateway in some])

    await gateways.wait_until(are_so, 60, f"a circuit that is {states} at every gateway")


async def test_circuit_opens_at_all_gateways_and_an_edit_closes_it(fleet: list[gateways.Gateway], peer: Peer) -> None:
    await post(fleet[0], range(circuit.OPENS_AFTER + 3))
    await wait_for_circuits(fleet, "Open ServerError")
    for place, gateway in enumerate(fleet):
        await post(gateway, range(100 * (place + 1), 100 * (place + 1) + 3))
    await peer.wait_for_requests(circuit.OPENS_AFTER + 1)
    assert_one_trial_a_minute(peer)
    peer.status = 200
    fleet[1].configure(manifests(peer.url, concurrency=COUNT + 1))
    await wait_for_circuits(fleet, "Recovering", "Closed")
    await gateways.wait_until(lambda: fleet[0].store.open_deliveries() == 0, 60, "the delivery of everything")


async def test_trials_go_on_when_gateways_are_killed_started_and_suspended(
    fleet: list[gateways.Gateway], peer: Peer
) -> None:
    await post(fleet[0], range(circuit.OPENS_AFTER + 20))
    await wait_for_circuits(fleet, "Open ServerError")
    await peer.wait_for_requests(circuit.OPENS_AFTER + 1)

    peer.answers.clear()
    before = len(peer.times)
    await peer.wait_for_requests(before + 1)
    ((claimed_by,),) = fleet[0].store.rows("select claimed_by from circuits")
    numbers = [number for (number,) in fleet[0].store.rows("select number from incarnations order by number")]
    place = numbers.index(claimed_by)
    trying, suspended = fleet[place], fleet[(place + 1) % COUNT]
    await trying.kill()
    peer.answers.set()
    await peer.wait_for_requests(before + 2)
    assert suspended.process is not None
    suspended.process.send_signal(signal.SIGSTOP)
    await trying.start(USHER_INSTALL_KEY=KEY)
    await peer.wait_for_requests(before + 4)
    suspended.process.send_signal(signal.SIGCONT)
    await peer.wait_for_requests(before + 5)
    assert_one_trial_a_minute(peer)

    peer.status = 200
    await wait_for_circuits(fleet, "Recovering", "Closed")


async def test_gateway_tries_alone_if_the_circuits_cannot_be_used(tmp_path: Path, database: str, peer: Peer) -> None:
    """Deliveries to other destinations go on meanwhile."""
    databases.server().execute("revoke all on circuits from gateway", database)
    async with receiver.Receiver(receiver.ReceiverSettings()) as other:
        routes = [gateways.route(name, name) for name in ("crm", "other")]
        destinations = [gateways.destination("crm", peer.url), gateways.destination("other", other.url)]
        resources = [gateways.TENANT, gateways.listener("wifi", routes), *destinations]
        flags = ["--time-scale", f"{SCALE}"]
        async with gateways.Gateway(tmp_path, resources, *flags, database=database) as gateway:
            await gateway.start(USHER_INSTALL_KEY=KEY)
            await post(gateway, range(20))
            delivered = "deliveries where state = 1"
            await gateways.wait_until(lambda: gateway.store.count(delivered) == 20, 60, "what the other one gets")
            await gateways.wait_until(lambda: "circuit_opened" in gateway.log_tail(), 60, "an open circuit")
            await peer.wait_for_requests(len(peer.times) + 2)
            peer.status = 200
            await gateways.wait_until(lambda: gateway.store.open_deliveries() == 0, 90, "the delivery of everything")
            assert gateway.log.read_text().count("circuits_not_shared") == 1


def assert_one_trial_a_minute(peer: Peer) -> None:
    """Compare the requests after those that opened the circuit with the time limit of the design."""
    trials = itertools.pairwise(peer.times[circuit.OPENS_AFTER - 1 :])
    assert all(later - earlier >= MINUTE for earlier, later in trials), peer.times
