"""The log and the listing say which destination fails, why, and when it is tried again."""

import datetime
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from support import gateway as gateways
from support import waiting
from usher_gateway.delivery import circuit
from usher_gateway.simulator import receiver, receiving


class Failing(NamedTuple):
    """A gateway whose only destination has failed often enough to open its circuit."""

    gateway: gateways.RunningGateway
    peer: receiver.Receiver
    logs: Sequence[Mapping[str, Any]]

    @property
    def open_circuits(self) -> set[str]:
        return self.gateway.gateway.dispatcher.open_circuits

    def logged(self, event: str) -> list[Mapping[str, Any]]:
        return [line for line in self.logs if line["event"] == event]

    async def visit(self, user: int) -> None:
        await self.gateway.post(json.dumps({"user": {"id": user}}).encode())


@pytest.fixture
async def failing(tmp_path: Path) -> AsyncIterator[Failing]:
    async with receiver.Receiver(receiver.ReceiverSettings()) as peer:
        peer.set_behaviour("/crm", receiving.Behaviour(status=503))
        with structlog.testing.capture_logs() as logs:
            async with gateways.running(tmp_path, gateways.one_route(peer.url)) as gateway:
                failing_gateway = Failing(gateway, peer, logs)
                for number in range(circuit.OPENS_AFTER):
                    await failing_gateway.visit(number)
                await waiting.wait_until(lambda: failing_gateway.open_circuits)
                yield failing_gateway


async def test_opened_circuit_is_logged_with_the_last_error(failing: Failing) -> None:
    (line,) = failing.logged("circuit_opened")
    assert (line["destination"], line["error"], line["hint"]) == ("agency/crm", "ServerError", None)
    assert line["tenants"] == ["acme"]


async def test_next_is_the_trial_while_the_circuit_is_open(failing: Failing) -> None:
    async def destination() -> dict[str, Any]:
        (row,) = (await failing.gateway.ask("GET", "/api/destinations"))["rows"]
        return dict(row)

    # The circuit opens a moment before the last failure is stored.
    row = await waiting.until(destination, lambda row: row["backlog"] == circuit.OPENS_AFTER)
    deliveries = (await failing.gateway.ask("GET", "/api/deliveries"))["rows"]
    left = datetime.datetime.fromisoformat(row["nextDueAt"]) - datetime.datetime.now(datetime.UTC)
    assert left.total_seconds() > 30  # the deliveries themselves are due in 5 s
    assert {each["waitsFor"] for each in deliveries} == {"CircuitOpen"}
    assert all(each["dueAt"] < each["nextAttemptAt"] for each in deliveries)


@pytest.fixture
def trials_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit, "TRIAL_EVERY", 1)


async def test_circuit_reports_its_last_trial_and_its_closing(trials_at_once: None, failing: Failing) -> None:
    failing.peer.set_behaviour("/crm", receiving.Behaviour(status=403))
    await failing.visit(98)
    destination = failing.gateway.gateway.snapshot.destinations["agency/crm"]
    await waiting.wait_until(lambda: failing.gateway.gateway.worker.activity.of(destination).error == "Forbidden")
    failing.peer.set_behaviour("/crm", receiving.Behaviour())
    await failing.visit(99)
    await waiting.wait_until(lambda: not failing.open_circuits)
    assert [line["destination"] for line in failing.logged("circuit_closed")] == ["agency/crm"]
