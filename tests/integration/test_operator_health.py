"""The operator's admin port over a real socket."""

import time

import aiohttp
import pytest

from usher_gateway import model
from usher_operator.run.health import Health, HealthServer, OperatorMetrics
from usher_operator.run.workqueue import PauseGate
from usher_operator.settings import AdminAddress, OperatorSettings


async def test_admin_port_serves_liveness_readiness_and_metrics() -> None:
    gate = PauseGate()
    health = Health(OperatorSettings(), gate=gate, clock=time.monotonic)
    health.set_ready("start")
    gate.pause("reading listeners", "listeners cannot be read")
    async with (
        HealthServer(AdminAddress("127.0.0.1", 0), health=health, metrics=OperatorMetrics()) as server,
        aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session,
    ):
        async with session.get("/healthz") as answer:
            assert answer.status == 200
        async with session.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (
                503,
                {"ready": False, "reasons": ["listeners cannot be read"]},
            )
        async with session.get("/metrics") as answer:
            assert "usher_operator_build_info" in await answer.text()
        with pytest.raises(model.ConfigurationError, match="cannot listen"):
            async with HealthServer(AdminAddress("127.0.0.1", server.port), health=health, metrics=OperatorMetrics()):
                pass
