"""The customers' systems: a CRM that is down for a tenth of the day, a slow mailer, and a warehouse."""

import contextlib
from collections import Counter
from collections.abc import Iterable

from usher_gateway import documents, simulator
from usher_gateway.timing import Clock

DOWN_FROM, DOWN_FOR = 0.45, 0.1  # As shares of the day
MAILER_DELAY_SECONDS = 0.25
# How many real seconds old a signature may be. A request takes real time, even if the clock runs faster.
PATIENCE_SECONDS = 60.0


class Receivers:
    """One receiver per destination, at the port of its URL."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._receivers: dict[str, simulator.Receiver] = {}

    async def start(
        self, stack: contextlib.AsyncExitStack, destinations: Iterable[documents.DestinationDocument]
    ) -> None:
        """Start all receivers."""
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
        """Schedule the outage of the CRM and slow down the mailer. Call it when the day begins."""
        self._receivers["crm"].set_behaviour(
            "/crm",
            simulator.Behaviour(status=503),
            after_seconds=day_seconds * DOWN_FROM,
            for_seconds=day_seconds * DOWN_FOR,
        )
        self._receivers["mailer"].set_behaviour("/mail", simulator.Behaviour(delay_seconds=MAILER_DELAY_SECONDS))

    def distinct(self) -> dict[str, int]:
        """Return tenant -> number of distinct deliveries that receivers accepted."""
        distinct: Counter[str] = Counter()
        for receiver in self._receivers.values():
            for path in receiver.all_counts():
                tenants = {
                    each.headers.get("webhook-id", ""): each.headers.get("usher-tenant", "")
                    for each in receiver.kept(path)
                }
                distinct.update(tenants[identifier] for identifier in receiver.taken_ids(path))
        return dict(distinct)

    def problems(self) -> list[str]:
        """Return what went wrong: bad signatures and duplicate deliveries."""
        problems = []
        for name, receiver in self._receivers.items():
            for path, counts in receiver.all_counts().items():
                if counts.signatures_bad or counts.signatures_stale:
                    problems.append(f"{name}: signatures were wrong at {path}")
                if counts.duplicates:
                    problems.append(f"{name}: {counts.duplicates} deliveries came twice at {path}")
        return problems

    def strays(self) -> list[str]:
        """Return a line per path at which requests without a ``webhook-id`` arrived. No count includes them."""
        return [
            f"{name}: {counts.without_id} requests at {path} had no webhook-id; they are not from the gateway"
            for name, receiver in self._receivers.items()
            for path, counts in receiver.all_counts().items()
            if counts.without_id
        ]

    def received(self) -> int:
        """Return the number of requests so far, including failed ones."""
        return sum(
            counts.received for receiver in self._receivers.values() for counts in receiver.all_counts().values()
        )
