"""Retention keeps meters as long as the tenant's manifest says, from its first run on."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from support import gateway as gateways
from support import waiting
from usher_gateway.store.sqlite.store import SqliteStore

MANIFESTS = gateways.MANIFESTS.replace("spec: {displayName: Acme}", "spec: {retention: {meterMonths: 60}}")


async def test_retention_uses_the_meter_months_of_the_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    months_of_prunes: list[Mapping[str, int] | None] = []

    async def prune(_: SqliteStore, now: int, meter_months: Mapping[str, int] | None = None) -> int:
        assert now
        months_of_prunes.append(meter_months)
        return 0

    monkeypatch.setattr(SqliteStore, "prune", prune)
    async with gateways.running(tmp_path, MANIFESTS):
        await waiting.wait_until(lambda: months_of_prunes)
    assert months_of_prunes[0] == {"agency/acme": 60}
