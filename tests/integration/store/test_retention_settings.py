"""Retention keeps meters as long as the tenant's manifest says, from its first run on."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from support import gateway as gateways
from support import waiting
from usher_gateway import app
from usher_gateway import settings as all_settings

MANIFESTS = gateways.MANIFESTS.replace("spec: {displayName: Acme}", "spec: {retention: {meterMonths: 60}}")


async def test_retention_uses_the_meter_months_of_the_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(MANIFESTS)
    loopback = all_settings.Endpoint("127.0.0.1", 0)
    gateway = app.Gateway(
        all_settings.Settings(
            files=(file,), data=tmp_path / "data", listen=loopback, admin=loopback, drain_seconds=0.1
        ),
        {},
    )
    months_of_prunes: list[Mapping[str, int] | None] = []

    async def prune(now: int, meter_months: Mapping[str, int] | None = None) -> int:
        assert now
        months_of_prunes.append(meter_months)
        return 0

    monkeypatch.setattr(gateway.store, "prune", prune)
    running = asyncio.create_task(gateway.run())
    try:
        await waiting.wait_until(lambda: months_of_prunes)
    finally:
        gateway.stop()
        await running
    assert months_of_prunes[0] == {"agency/acme": 60}
