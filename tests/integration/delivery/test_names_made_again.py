"""One edit gives a destination's name to another tenant: no visit goes to the other tenant's system.

Objects from files have no uid, so a destination is what has the same namespace, name and tenant.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import gateway as in_process
from support import gateways, waiting
from usher_gateway import model
from usher_gateway.simulator import receiver, receiving

FAILING = receiving.Behaviour(status=503)
NOT_FOUND, NO_SECRET = model.HoldReason.DestinationNotFound, model.HoldReason.SecretNotFound


class Agency:
    """A gateway with one listener and one destination, each of one tenant. A tenant's system has its own path."""

    def __init__(self, gateway: in_process.RunningGateway, peer: receiver.Receiver) -> None:
        self.gateway, self.peer = gateway, peer

    async def edit(self, tenant: str, *secrets: str) -> None:
        """Give the listener and the destination to a tenant, with its URL and Secret, and wait until it is in force."""
        await self.configure(manifests(tenant, self.peer.url, secrets))

    def received(self, tenant: str) -> list[tuple[str, bytes]]:
        """Return the credential and the body of each request that a tenant's system got."""
        return [(request.headers["authorization"], request.body) for request in self.peer.kept(f"/{tenant}")]

    def visits(self, tenant: str) -> list[bytes]:
        return [body for _, body in self.received(tenant)]

    async def configure(self, documents: list[gateways.Manifest]) -> None:
        """Configure the gateway, and wait until its destinations are in force."""
        self.gateway.configure(documents)
        destinations = self.gateway.gateway.snapshot.destinations
        await waiting.wait_until(lambda: self.gateway.gateway.snapshot.destinations is not destinations)

    async def post(self, *numbers: int) -> None:
        for number in numbers:
            assert (await gateways.post(self.gateway.port, "/wifi", gateways.visit(number))).is_acknowledgement

    async def until_held(self, reason: model.HoldReason, count: int) -> None:
        """Wait until exactly this number of deliveries is held, all for this reason."""

        async def look() -> list[tuple[Any, ...]]:
            await self.gateway.gateway.store.flush()
            return self.gateway.store.rows("select hold from deliveries where state = 0 and hold <> 0")

        await waiting.until(look, lambda rows: rows == [(int(reason),)] * count)


def manifests(tenant: str, url: str, secrets: tuple[str, ...]) -> list[gateways.Manifest]:
    bearer = {"type": "Bearer", "bearer": {"secretRef": {"name": tenant, "key": "token"}}}
    reference = {"tenantRef": {"name": tenant}}
    return [
        *({**gateways.TENANT, "metadata": {"name": name}} for name in ("acme", "globex")),
        *(gateways.secret(name, token=f"token-of-{name}") for name in secrets),
        gateways.destination("crm", f"{url}/{tenant}", {"authentication": bearer}, **reference),
        gateways.listener("wifi", [gateways.route("crm", "crm")], **reference),
    ]


@pytest.fixture
async def agency(tmp_path: Path, peer: receiver.Receiver) -> AsyncIterator[Agency]:
    async with in_process.running(tmp_path, manifests("acme", peer.url, ("acme",))) as gateway:
        yield Agency(gateway, peer)


async def test_visits_wait_for_the_secret_of_their_own_tenant(agency: Agency) -> None:
    await agency.post(1)
    await waiting.wait_until(lambda: agency.received("acme"))
    await agency.edit("globex", "acme")
    await agency.post(2, 3, 4)
    await agency.until_held(NO_SECRET, 3)
    await agency.edit("globex", "globex")
    await waiting.wait_until(lambda: len(agency.received("globex")) == 3)
    assert {token for token, _ in agency.received("globex")} == {"Bearer token-of-globex"}
    assert agency.received("acme") == [("Bearer token-of-acme", gateways.visit(1))]


async def test_open_delivery_waits_while_another_tenant_has_its_destination(agency: Agency) -> None:
    agency.peer.set_behaviour("/acme", FAILING)
    await agency.post(1)
    await waiting.wait_until(lambda: agency.received("acme"))
    await agency.edit("globex", "globex")
    await agency.until_held(NOT_FOUND, 1)
    await agency.post(2)
    await waiting.wait_until(lambda: agency.received("globex"))
    agency.peer.set_behaviour("/acme", receiving.Behaviour())
    await agency.edit("acme", "acme")
    await waiting.wait_until(lambda: agency.visits("acme")[1:] == [gateways.visit(1)])
    assert agency.visits("globex") == [gateways.visit(2)]


async def test_open_delivery_of_a_removed_route_waits_while_its_destination_is_shared(agency: Agency) -> None:
    agency.peer.set_behaviour("/acme", FAILING)
    await agency.post(1)
    await waiting.wait_until(lambda: agency.received("acme"))
    shared = manifests("globex", agency.peer.url, ("globex",))
    del shared[3]["spec"]["tenantRef"]
    await agency.configure(shared)
    await agency.until_held(NOT_FOUND, 1)
    assert agency.visits("globex") == []
