"""The wall clock of a running gateway is set back: retries do not wait for the old time to return."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support import gateway as gateways
from usher_gateway import timing
from usher_gateway.simulator import receiver, receiving

DAY_NANOSECONDS = 86_400 * 10**9
MANIFESTS = """
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm, namespace: agency}
spec:
  type: HTTP
  http: {url: "%s/crm"}
"""


class ShiftedTime:
    """The part of ``time`` that clock.py uses, with a wall clock that the test can set."""

    def __init__(self) -> None:
        self.ahead = 0

    def time_ns(self) -> int:
        return time.time_ns() + self.ahead

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


async def test_retry_is_due_at_once_after_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = ShiftedTime()
    monkeypatch.setattr(timing, "time", shifted)
    listener = gateways.LISTENER.replace("routes: []", "routes: [{name: crm, destinationRef: {name: crm}}]")
    async with receiver.Receiver(receiver.ReceiverSettings(keep=True)) as peer:
        peer.set_behaviour("/crm", receiving.Behaviour(status=503))
        manifests = gateways.CLASS + gateways.TENANT + listener + MANIFESTS % peer.url
        async with gateways.running(tmp_path, manifests) as gateway:
            least_difference = gateway.gateway.dispatcher._clock_difference + DAY_NANOSECONDS // 2000
            shifted.ahead = DAY_NANOSECONDS
            assert (await gateway.post(json.dumps({"user": {"id": 1}}).encode())).acknowledges
            await gateways.wait_until(lambda: gateway.gateway.worker.counters.errors)
            peer.set_behaviour("/crm", receiving.Behaviour())
            await gateway.gateway.store.flush()
            await gateways.wait_until(lambda: gateway.gateway.dispatcher._clock_difference > least_difference)
            shifted.ahead = 0
            await gateways.wait_until(
                lambda: gateway.gateway.worker.counters.outcomes.get(("agency", "acme", "delivered")), limit=4
            )
