"""The log tells why deliveries wait: which destination fails, and how."""

import json
from pathlib import Path

import pytest
import structlog

from support import gateway as gateways
from usher_gateway.delivery import circuit
from usher_gateway.simulator import behaviour, receiver

DESTINATION = """
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm, namespace: agency}
spec:
  type: HTTP
  http: {url: "%s/crm"}
"""


async def test_a_circuit_that_opens_is_logged_with_the_error_of_the_last_attempt(tmp_path: Path) -> None:
    listener = gateways.LISTENER.replace("routes: []", "routes: [{name: crm, destinationRef: {name: crm}}]")
    async with receiver.Receiver(receiver.ReceiverSettings()) as peer:
        peer.set_behaviour("/crm", behaviour.Behaviour(status=503))
        manifests = gateways.CLASS + gateways.TENANT + listener + DESTINATION % peer.url
        with structlog.testing.capture_logs() as logs:
            async with gateways.running(tmp_path, manifests) as gateway:
                for number in range(circuit.OPENS_AFTER):
                    await gateway.post(json.dumps({"user": {"id": number}}).encode())
                await gateways.wait_until(lambda: any(line["event"] == "circuit_opened" for line in logs))
                assert gateway.gateway.dispatcher.open_circuits == {"agency/crm": "ServerError"}
    (line,) = (line for line in logs if line["event"] == "circuit_opened")
    assert (line["destination"], line["error"]) == ("agency/crm", "ServerError")


async def test_a_circuit_tells_what_its_last_trial_came_to_and_when_it_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "TRIAL_EVERY", 1)
    listener = gateways.LISTENER.replace("routes: []", "routes: [{name: crm, destinationRef: {name: crm}}]")
    async with receiver.Receiver(receiver.ReceiverSettings()) as peer:
        peer.set_behaviour("/crm", behaviour.Behaviour(status=503))
        manifests = gateways.CLASS + gateways.TENANT + listener + DESTINATION % peer.url
        with structlog.testing.capture_logs() as logs:
            async with gateways.running(tmp_path, manifests) as gateway:
                dispatcher = gateway.gateway.dispatcher
                for number in range(circuit.OPENS_AFTER):
                    await gateway.post(json.dumps({"user": {"id": number}}).encode())
                await gateways.wait_until(lambda: dispatcher.open_circuits == {"agency/crm": "ServerError"})
                peer.set_behaviour("/crm", behaviour.Behaviour(status=403))
                await gateway.post(b'{"user": {"id": 98}}')
                await gateways.wait_until(lambda: dispatcher.open_circuits == {"agency/crm": "Forbidden"})
                peer.set_behaviour("/crm", behaviour.Behaviour())
                await gateway.post(b'{"user": {"id": 99}}')
                await gateways.wait_until(lambda: not dispatcher.open_circuits)
    closed = [line["destination"] for line in logs if line["event"] == "circuit_closed"]
    assert closed == ["agency/crm"]
