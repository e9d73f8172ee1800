"""Gateways of one store report the same state: one refuses or fails, another accepts or delivers since."""

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import aiohttp

from support import gateways, waiting, wire
from usher_gateway.admin import health
from usher_gateway.simulator import receiver, receiving

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


async def config(gateway: gateways.Gateway) -> dict[str, Any]:
    """Return the answer to ``GET /api/config`` with the whole state."""
    headers = {"Authorization": f"Bearer {(gateway.data / 'observe.token').read_text().strip()}"}
    url = f"http://127.0.0.1:{gateway.admin}/api/config"
    async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as answer:
        assert answer.status == 200
        return json.loads(await answer.text())  # type: ignore[no-any-return]


async def post(gateway: gateways.Gateway, number: int, credentials: str) -> int:
    """Post a visit; return the status of the answer."""
    basic = base64.b64encode(credentials.encode()).decode()
    headers = {"Authorization": f"Basic {basic}"}
    request = wire.request("/wifi", gateways.visit(number), host=gateways.HOST, headers=headers)
    return (await wire.exchange(gateway.port, request)).status


async def is_refusing(gateway: gateways.Gateway) -> bool:
    return bool((await config(gateway))["listeners"]["default/wifi"]["refusing"])


async def health_of_destination(gateway: gateways.Gateway) -> str:
    return str((await config(gateway))["destinations"]["default/crm"]["health"])


async def test_refusals_and_failures_of_one_gateway_end_when_another_accepts_and_delivers(
    tmp_path: Path, database: str, peer: receiver.Receiver
) -> None:
    authentication = {"type": "Basic", "basic": {"secretRef": {"name": "purple"}}}
    manifests = [
        gateways.TENANT,
        gateways.secret("purple", username="purple", password="pw"),
        gateways.listener("wifi", [gateways.route("crm", "crm")], authentication=authentication),
        gateways.destination("crm", f"{peer.url}/crm"),
    ]
    fleet = []
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        fleet.append(gateways.Gateway(tmp_path / place, manifests, database=database))
    first, second = fleet
    try:
        for gateway in fleet:
            await gateway.start(USHER_INSTALL_KEY=KEY)
        peer.set_behaviour("/crm", receiving.Behaviour(status=410))
        assert await post(first, 1, "purple:pw") == 200
        for _ in range(health.REFUSING_FROM):
            assert await post(first, 2, "purple:wrong") == 401
        assert await waiting.until(lambda: is_refusing(first))
        assert await waiting.until(lambda: health_of_destination(first), lambda state: state == "Gone")
        peer.set_behaviour("/crm", receiving.Behaviour())
        assert await post(second, 2, "purple:pw") == 200
        await waiting.until(lambda: is_refusing(first), lambda refuses: not refuses)
        numbers = itertools.count(3)

        async def state_after_a_delivery_elsewhere() -> str:
            assert await post(second, next(numbers), "purple:pw") == 200
            states = [await health_of_destination(gateway) for gateway in fleet]  # an operator asks each of them
            return states[0]

        await waiting.until(state_after_a_delivery_elsewhere, lambda state: state == "Healthy", every_seconds=0.5)
    finally:
        for gateway in fleet:
            await gateway.close()
