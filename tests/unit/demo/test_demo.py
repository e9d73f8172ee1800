"""The demonstration's conclusion from its counts."""

import io
from typing import Any

import pytest
import rich.console

from demo import counts, readiness
from usher_gateway import simulator

SENT = simulator.SenderBooks(name="hotels", visits=4, repeats=1, redelivered=1)
COUNTED = {
    "visits": 4,
    "repeats": 1,
    "redeliveries": 1,
    "probes": 0,
    "refused": 0,
    "quarantined": 0,
    "routed": 5,
    "created": 4,
    "skipped": 1,
    "delivered": 3,
    "died": 0,
    "cancelled": 1,
}


def test_equal_counts_agree() -> None:
    assert counts.agree(counts.compare([SENT], {"hotels": COUNTED}, {"hotels": 3}))


@pytest.mark.parametrize("name", COUNTED)
def test_one_miscounted_number_makes_the_counts_differ(name: str) -> None:
    counted = {**COUNTED, name: COUNTED[name] + 1}
    assert not counts.agree(counts.compare([SENT], {"hotels": counted}, {"hotels": 3}))


def test_lost_delivery_or_missing_tenant_makes_the_counts_differ() -> None:
    assert not counts.agree(counts.compare([SENT], {"hotels": COUNTED}, {"hotels": 2}))
    assert not counts.agree(counts.compare([SENT], {}, {}))


@pytest.mark.parametrize(("skipped", "shown"), [(1, "5 ="), (2, "5 ≠ 6 differ")])
def test_sum_of_the_gateways_counts_is_no_count_of_receivers(skipped: int, shown: str) -> None:
    console = rich.console.Console(width=80, record=True, file=io.StringIO())
    counts.print_table(console, counts.compare([SENT], {"hotels": {**COUNTED, "skipped": skipped}}, {"hotels": 3}))
    rows = [line.split() for line in console.export_text().splitlines()]
    assert f"routes = created + skipped {shown}".split() in rows
    assert ["delivered", "3", "3", "="] in rows


def test_delivery_is_open_until_it_ended() -> None:
    assert counts.open_deliveries({"hotels": COUNTED}) == 0
    assert counts.open_deliveries({"hotels": COUNTED, "cafes": {**COUNTED, "delivered": 1}}) == 2


def resource(generation: int, **condition: Any) -> dict[str, Any]:
    lobby = {"kind": "Listener", "metadata": {"name": "lobby", "generation": generation}}
    return {**lobby, "status": {"conditions": [{"type": "Ready", "observedGeneration": 1, **condition}]}}


def test_resource_is_ready_for_its_present_generation_only() -> None:
    progress = readiness.ReadinessProgress()
    assert not progress.is_complete
    progress.update(readiness.rows([resource(2, status="True", reason="Ready")]))
    assert [row.status for row in progress.rows] == ["Unknown"]
    progress.update(readiness.rows([resource(1, status="True", reason="Ready"), resource(1, status="False")]))
    assert not progress.is_complete
    progress.update(readiness.rows([resource(1, status="True", reason="Ready")]))
    assert progress.is_complete
