"""An edit of the manifests is live within a second and drops no request."""

import asyncio
import statistics
import time

from support import gateway as gateways
from support import waiting, wire
from support.gateway import visit

SECOND = gateways.LISTENER.replace("{name: wifi,", "{name: second,")


async def test_new_listener_is_live_within_a_second(gateway: gateways.RunningGateway) -> None:
    seconds, manifests = [], gateways.MANIFESTS
    for name in ("second", "third", "fourth", "fifth", "sixth"):
        manifests += SECOND.replace("second", name)
        started = time.monotonic()
        gateway.write(manifests)
        await gateway.wait_configured(f"agency/{name}")
        seconds.append(time.monotonic() - started)
    assert statistics.median(seconds) < 1.0  # others may use the cores of the test machine for a moment
    assert (await gateway.post(visit(1), "agency/second")).acknowledges


async def test_edits_under_load_drop_no_request(gateway: gateways.RunningGateway) -> None:
    is_over = asyncio.Event()
    target = gateway.target()

    async def post(number: int) -> int:
        sent = 0
        async with wire.connect(gateway.port) as connection:
            while not is_over.is_set():
                await connection.send(wire.request(target, visit(number * 1_000_000 + sent)))
                answer = await connection.answer()
                assert answer.acknowledges, answer
                sent += 1
        return sent

    senders = [asyncio.create_task(post(number)) for number in range(8)]
    for edit in range(6):
        manifests = gateways.MANIFESTS.replace("displayName: Acme", f"displayName: Acme {edit}")
        gateway.write(manifests + (SECOND if edit % 2 else ""))
        snapshot = gateway.gateway.snapshot
        await waiting.wait_until(lambda previous=snapshot: gateway.gateway.snapshot is not previous)
    is_over.set()
    sent = sum(await asyncio.gather(*senders))
    assert sent > 100
    assert gateway.counted() == {"visit": sent}
    assert await gateway.meters() == {"visits": sent}


async def test_retired_address_is_served_and_reported(gateway: gateways.RunningGateway) -> None:
    old = gateway.target()
    gateway.write(gateways.MANIFESTS.replace("routes: []", "token: {generation: 5}\n  routes: []"))
    await waiting.wait_until(lambda: gateway.gateway.snapshot.listeners["agency/wifi"].retired_addresses)
    async with wire.connect(gateway.port) as connection:
        await connection.send(wire.request(old, visit(1)))
        assert (await connection.answer()).acknowledges
    assert gateway.target() != old
    assert (await gateway.post(visit(2))).acknowledges
    labels = 'tenant_namespace="agency",tenant="acme"'
    assert f"usher_retired_address_arrivals_total{{{labels}}} 1.0" in gateway.exposition()
