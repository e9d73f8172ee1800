"""Gateways of these tests run on uvloop, as in production."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from support import gateway as gateways
from usher_gateway.ingest import cpu_limits


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[gateways.RunningGateway]:
    """A gateway with one listener (``agency/wifi``) without routes."""
    async with gateways.running(tmp_path) as running:
        yield running


@pytest.fixture
def no_body_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bodies take any CPU time: how much they take depends on the machine. test_cpu_limits.py shows the limits."""
    for name in ("LISTENER_BURST_SECONDS", "TENANT_BURST_SECONDS"):
        monkeypatch.setattr(cpu_limits, name, 1_000.0)
