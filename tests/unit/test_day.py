"""What a simulated day concludes from what was counted."""

from typing import Any

import pytest

from day import asking, books, living, readiness
from usher_gateway import clock as clocks
from usher_gateway import model, simulator

SENT = simulator.ListenerBooks(name="hotels", visits=4, repeats=1, redelivered=1)
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


def test_books_agree_where_everybody_counted_the_same() -> None:
    assert books.agree(books.compare([SENT], {"hotels": COUNTED}, {"hotels": 3}))


@pytest.mark.parametrize("name", COUNTED)
def test_books_disagree_whatever_was_miscounted(name: str) -> None:
    counted = {**COUNTED, name: COUNTED[name] + 1}
    assert not books.agree(books.compare([SENT], {"hotels": counted}, {"hotels": 3}))


def test_books_disagree_where_a_delivery_was_lost_or_a_tenant_is_missing() -> None:
    assert not books.agree(books.compare([SENT], {"hotels": COUNTED}, {"hotels": 2}))
    assert not books.agree(books.compare([SENT], {}, {}))


def test_deliveries_are_open_until_they_ended_in_one_way_or_another() -> None:
    assert asking.open_deliveries({"hotels": COUNTED}) == 0
    assert asking.open_deliveries({"hotels": COUNTED, "cafes": {**COUNTED, "delivered": 1}}) == 2


def resource(generation: int, **condition: Any) -> dict[str, Any]:
    found = {"kind": "Listener", "metadata": {"name": "lobby", "generation": generation}}
    return {**found, "status": {"conditions": [{"type": "Ready", "observedGeneration": 1, **condition}]}}


def test_ready_is_what_the_present_generation_is() -> None:
    progress = readiness.Progress()
    assert not progress.is_complete
    progress.look(readiness.rows([resource(2, status="True", reason="Ready")]))
    assert [row.status for row in progress.rows] == ["Unknown"]
    progress.look(readiness.rows([resource(1, status="True", reason="Ready"), resource(1, status="False")]))
    assert not progress.is_complete
    progress.look(readiness.rows([resource(1, status="True", reason="Ready")]))
    assert progress.is_complete


def test_a_scaled_clock_begins_where_it_is_told() -> None:
    start = 1_000_000_000_000_000
    assert 0 <= clocks.Clock(10.0, start).now() - start < 600_000_000


def test_a_hint_that_names_a_flag_says_how_make_is_given_one() -> None:
    said = living.advice(model.ConfigurationError("port in use", "Choose another --admin."), "run")
    assert said.startswith("port in use\nChoose another --admin. Flags go into ARGS: make run ARGS=")
    assert living.advice(model.ConfigurationError("no", "Wait."), "run") == "no\nWait."
