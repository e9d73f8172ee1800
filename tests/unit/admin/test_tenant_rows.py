"""Tenants in the order of urgency."""

from unittest import mock

from usher_gateway import model
from usher_gateway.admin import tenant_rows
from usher_gateway.insight.tenants import DeliveryCounts
from usher_gateway.store.base import UsageRow

ACME, ZOO = ("agency", "acme"), ("agency", "zoo")


async def test_tenant_that_refuses_all_comes_before_one_with_dead_deliveries() -> None:
    tracker = mock.Mock(deliveries={ACME: DeliveryCounts(died={"crm": 2}), ZOO: DeliveryCounts()}, quota_used={})
    tracker.failing.return_value = []
    tracker.summaries.return_value = {}
    lobby = model.ListenerName(*ZOO, "lobby")
    rows = tenant_rows.TenantRows(
        tracker=tracker,
        faults={ZOO: tenant_rows.TenantFaults({"Refusing": 1})},
        receipt_days=30,
        backup_days=0,
        destinations=(),
        last_failure=lambda _: {},
    )
    keys, totals = await rows.by_urgency([ACME, ZOO], tenant_rows.UrgencyPage(True, "", 0, 50))
    assert (keys, totals["troubled"], totals["dead"]) == ([ZOO, ACME], 2, 2)
    today = [UsageRow(lobby, 0, {model.Counter.refused: 7})]
    assert rows.row(ZOO, today)["today"]["refused"] == 7
