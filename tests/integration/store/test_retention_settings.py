"""Retention keeps meters as long as the tenant's manifest says, and receipts as long as the gateway's setting."""

from pathlib import Path

import pytest

from support import gateway as gateways
from support import waiting
from usher_gateway.store.base import KeptTimes
from usher_gateway.store.sqlite.store import SqliteStore

MANIFESTS = gateways.MANIFESTS.replace("spec: {displayName: Acme}", "spec: {retention: {meterMonths: 60}}")


async def test_retention_uses_times_of_manifests_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_times: list[KeptTimes] = []

    async def prune(_: SqliteStore, now: int, kept: KeptTimes) -> int:
        assert now
        kept_times.append(kept)
        return 0

    monkeypatch.setattr(SqliteStore, "prune", prune)
    async with gateways.running(tmp_path, MANIFESTS, receipt_days=400):
        await waiting.wait_until(lambda: kept_times)
    assert kept_times[0] == KeptTimes(meter_months={"agency/acme": 60}, receipt_days=400)
