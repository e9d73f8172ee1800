"""Gateways of one store report the same state: one refuses or fails, another accepts or delivers since."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import pytest

from support import gateway as harness
from support import gateways, waiting, wire
from usher_gateway import app, config_secret
from usher_gateway.insight import health
from usher_gateway.simulator import receiver, receiving
from usher_gateway.words import states

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
BASIC = {"good": "Basic cHVycGxlOnB3", "bad": "Basic cHVycGxlOndyb25n"}


async def state_of(gateway: harness.RunningGateway, kind: config_secret.Kind, key: str) -> Any:
    """Return a state as ``GET /api/config`` reports it."""
    return (await gateway.gateway.health.since(None)).present["observed", kind, key]


async def test_refusals_and_failures_of_one_gateway_end_when_another_accepts_and_delivers(
    tmp_path: Path, database: str, peer: receiver.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_ACTIVITY_SECONDS", 0.1)
    monkeypatch.setattr(health, "_SWEEP_SECONDS", 0.1)
    authentication = {"type": "Basic", "basic": {"secretRef": {"name": "purple"}}}
    manifests = [
        gateways.TENANT,
        gateways.secret("purple", username="purple", password="pw"),
        gateways.listener("wifi", [gateways.route("crm", "crm")], authentication=authentication),
        gateways.destination("crm", f"{peer.url}/crm"),
    ]
    numbers = itertools.count()

    async def post(gateway: harness.RunningGateway, credentials: str) -> int:
        headers = {"Authorization": BASIC[credentials]}
        request = wire.request("/wifi", gateways.visit(next(numbers)), host=gateways.HOST, headers=headers)
        return (await wire.exchange(gateway.port, request)).status

    async with contextlib.AsyncExitStack() as stack:
        fleet = []
        for place in ("first", "second"):
            (tmp_path / place).mkdir()
            running = harness.running(
                tmp_path / place, manifests, environment={"USHER_INSTALL_KEY": KEY}, database=database
            )
            fleet.append(await stack.enter_async_context(running))
            await fleet[-1].wait_configured("default/wifi")
        first, second = fleet
        peer.set_behaviour("/crm", receiving.Behaviour(status=410))
        assert await post(first, "good") == 200
        assert [await post(first, "bad") for _ in range(health.REFUSING_FROM)] == [401] * health.REFUSING_FROM
        await waiting.until(lambda: state_of(first, "Listener", "default/wifi"), lambda state: state.refusing)
        failing = states.DestinationHealth.Gone
        await waiting.until(
            lambda: state_of(first, "Destination", "default/crm"), lambda state: state.health == failing
        )
        peer.set_behaviour("/crm", receiving.Behaviour())

        async def health_after_a_delivery_elsewhere() -> object:
            """An operator asks each gateway."""
            assert await post(second, "good") == 200
            return [(await state_of(gateway, "Destination", "default/crm")).health for gateway in fleet]

        healthy = [states.DestinationHealth.Healthy] * 2
        await waiting.until(health_after_a_delivery_elsewhere, lambda found: found == healthy, every_seconds=0.3)
        await waiting.until(lambda: state_of(first, "Listener", "default/wifi"), lambda state: not state.refusing)
