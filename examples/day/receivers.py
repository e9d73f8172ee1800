"""The customers' systems on a day: a CRM that is down for a while, a slow mailer, a warehouse."""

import contextlib
from collections import Counter
from collections.abc import Iterable

from usher_gateway import clock as clocks
from usher_gateway import documents, simulator

DOWN_FROM, DOWN_FOR = 0.45, 0.1
"""Parts of the day."""
MAILER_DELAY_SECONDS = 0.25
PATIENCE_SECONDS = 60.0
"""How old (real) a signature may be: a request takes real time, however fast the clock runs."""


class Receivers:
    """One for each destination of the example, where its URL points to."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._receivers: dict[str, simulator.Receiver] = {}

    async def start(self, stack: contextlib.AsyncExitStack, destinations: Iterable[documents.Destination]) -> None:
        """Listen."""
        for destination in destinations:
            given = simulator.ReceiverSettings(
                port=int(destination.url.split("/")[2].rpartition(":")[2]),
                secrets=destination.signing_secrets,
                tolerance_seconds=PATIENCE_SECONDS * self._clock.scale,
                keep=True,
            )
            receiver = simulator.Receiver(given, self._clock)
            await stack.enter_async_context(receiver)
            self._receivers[destination.name] = receiver

    def misbehave(self, day_seconds: float) -> None:
        """Let the day begin: the CRM will be down for a tenth of it, the mailer is slow."""
        self._receivers["crm"].set_behaviour(
            "/crm",
            simulator.Behaviour(status=503),
            after_seconds=day_seconds * DOWN_FROM,
            for_seconds=day_seconds * DOWN_FOR,
        )
        self._receivers["mailer"].set_behaviour("/mail", simulator.Behaviour(delay_seconds=MAILER_DELAY_SECONDS))

    def distinct(self) -> dict[str, int]:
        """Tenant -> distinct deliveries that receivers took."""
        found: Counter[str] = Counter()
        for receiver in self._receivers.values():
            for path in receiver.all_counts():
                tenants = {
                    each.headers.get("webhook-id", ""): each.headers.get("usher-tenant", "")
                    for each in receiver.kept(path)
                }
                found.update(tenants[identifier] for identifier in receiver.taken_ids(path))
        return dict(found)

    def problems(self) -> list[str]:
        """What must not happen whatever the day was like."""
        found = []
        for name, receiver in self._receivers.items():
            for path, counts in receiver.all_counts().items():
                if counts.signatures_bad or counts.signatures_stale:
                    found.append(f"{name}: signatures were wrong at {path}")
                if counts.duplicates:
                    found.append(f"{name}: {counts.duplicates} deliveries came twice at {path}")
        return found

    def strays(self) -> list[str]:
        """What something else on this machine sent to the receivers: it is in no count."""
        return [
            f"{name}: {counts.without_id} requests at {path} had no webhook-id; they are not from the gateway"
            for name, receiver in self._receivers.items()
            for path, counts in receiver.all_counts().items()
            if counts.without_id
        ]

    def received(self) -> int:
        """Requests so far, failed ones included."""
        return sum(
            counts.received for receiver in self._receivers.values() for counts in receiver.all_counts().values()
        )
