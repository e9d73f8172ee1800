"""Keeps a destination's circuit the same at all gateways of a store.

Each gateway tells the store which circuits opened, failed or closed here, and asks for the trials that it could make.
In the same transaction it reads which circuits are open, and which of the trials it got. It does so at once when there
is something to tell or a destination begins to fail, before it claims deliveries from the backlog, and otherwise every
few seconds. The exchanges of a gateway follow one another, so what it reads includes all that it wrote; what changes
here meanwhile counts more than what was read.

If the store is away, nothing is sent to a destination whose circuit is open, because its deliveries wait in the store.
If only the exchanges fail, this gateway makes its own trials after a minute, so that no destination is forgotten.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Collection, Mapping

import msgspec
import structlog

from usher_gateway import model
from usher_gateway.delivery import circuit
from usher_gateway.store.base import CircuitChange, CircuitEvent, OpenCircuit, TrialTimes
from usher_gateway.store.store import Store
from usher_gateway.timing import Clock

_log = structlog.get_logger(__name__)

EXCHANGE_SECONDS = 5.0
"""Interval of the exchanges without a reason: that of the store's heartbeats."""

_STALE_SECONDS = 15.0
"""After this time without an exchange, as after a suspend, no attempt starts before the next one."""

_GATHER_SECONDS = 0.1
"""Pause between two exchanges, so that one tells many changes."""

_RETRY_SECONDS = 1.0
"""Pause after an exchange that failed."""

_MAX_CHANGES = 200
"""The most changes that one exchange tells; each is a statement."""


class CircuitNews(msgspec.Struct, frozen=True):
    """The result of an exchange."""

    open: Mapping[str, OpenCircuit]
    """By destination."""
    changing: Collection[str]
    """Destinations that changed here during the exchange, so that it does not count for them."""
    claimed_until: int
    """The claimed trials may start only before this, by the steady clock."""


def merged(before: CircuitChange | None, change: CircuitChange) -> CircuitChange:
    """Return the change to tell, if the one before was not told yet."""
    if before is not None and before.event is CircuitEvent.Opened and change.event is CircuitEvent.Failed:
        return msgspec.structs.replace(change, event=CircuitEvent.Opened)
    return change


class SharedCircuits:
    """Exchanges the circuits of this gateway with the others. Does nothing if the store has only one gateway."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        apply: Callable[[CircuitNews], None],
        try_alone: Callable[[Collection[str], int], None],
    ) -> None:
        """Wire it.

        Args:
            store: the store of the gateways.
            clock: its steady clock is that of the circuits.
            apply: follows the other gateways.
            try_alone: called after an exchange failed, with the trials to allow until a moment without a claim.
        """
        self._store = store
        self._clock = clock
        self._apply = apply
        self._try_alone = try_alone
        self._changes: dict[str, CircuitChange] = {}
        self._trials: set[str] = set()
        self._wake = asyncio.Event()
        self._exchanging = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._exchanged_at: float | None = None
        """Loop time at which the last exchange that succeeded began."""
        self._failing_since: int | None = None
        """Steady time since which the exchanges fail."""

    @property
    def is_ready(self) -> bool:
        """False while this gateway does not know which circuits are open, but will know soon."""
        if not self._store.is_shared or self._failing_since is not None:
            return True
        return self._exchanged_at is not None and self._loop.time() - self._exchanged_at < _STALE_SECONDS

    def note(self, destination: str, event: CircuitEvent, error: str = "") -> None:
        """Tell the other gateways soon what happened to a circuit here."""
        if self._store.is_shared:
            self._changes[destination] = merged(
                self._changes.get(destination), CircuitChange(destination, event, error)
            )
            self._wake.set()

    def ask(self) -> None:
        """Find out soon which circuits are open, because a destination begins to fail."""
        self._wake.set()

    async def tell(self) -> None:
        """Tell the other gateways now what was noted, unless exchanges fail."""
        if self._changes and self._failing_since is None:
            await self.exchange()

    async def refresh(self, trials: Collection[str]) -> None:
        """Claim trials, and follow the other gateways. If exchanges fail, do not wait for the next one."""
        self._trials.update(trials)
        if self._failing_since is None:
            await self.exchange()
        else:
            self.ask()

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            self._wake.clear()
            await self.exchange()
            await asyncio.sleep(_GATHER_SECONDS if self._failing_since is None else _RETRY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EXCHANGE_SECONDS):
                    await self._wake.wait()

    async def tell_last(self) -> None:
        """Tell what the last attempts of this gateway showed, before it stops."""
        self._trials.clear()
        await self.tell()

    async def exchange(self) -> None:
        """Tell the others what changed here, claim trials, and follow the others."""
        async with self._exchanging:
            changes = dict(itertools.islice(self._changes.items(), _MAX_CHANGES))
            self._changes = dict(itertools.islice(self._changes.items(), _MAX_CHANGES, None))
            trials, self._trials = self._trials, set()
            sent_at, began_at = self._clock.steady(), self._loop.time()
            times = TrialTimes(
                self._clock.real_seconds(circuit.TRIAL_EVERY), self._clock.real_seconds(circuit.TRIAL_CLAIM)
            )
            found: list[OpenCircuit] | None = None
            try:
                found = await self._store.exchange_circuits(list(changes.values()), trials, times)
            except model.StoreUnavailableError as error:
                self._note_failure(error, trials)
            finally:
                if found is None:
                    changes.update({key: merged(changes.get(key), one) for key, one in self._changes.items()})
                    self._changes = changes
                if self._changes:
                    self._wake.set()
            if found is not None:
                if self._failing_since is not None:
                    _log.info("circuits_shared_again")
                self._failing_since, self._exchanged_at = None, began_at
                by_destination = {one.destination: one for one in found}
                self._apply(CircuitNews(by_destination, self._changes.keys(), sent_at + circuit.TRIAL_CLAIM))

    def _note_failure(self, error: model.StoreUnavailableError, trials: Collection[str]) -> None:
        now = self._clock.steady()
        if self._failing_since is None:
            self._failing_since = now
            _log.warning("circuits_not_shared", reason=str(error))
        is_alone = now - self._failing_since > circuit.TRIAL_EVERY
        self._try_alone(trials if is_alone else (), now + circuit.TRIAL_CLAIM)
