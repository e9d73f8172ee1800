"""The circuit breaker of a destination.

While the destination fails, it gets one trial attempt a minute. After it has recovered, the number of concurrent
attempts grows 1, 2, 4 … up to its limit, so that the backlog does not overload it.

A circuit does not open while attempts for another tenant succeed, because then the destination fails at what one
tenant sends.

Gateways do not share circuits, so each gateway sends one trial a minute to a destination that fails.

Pure: each function takes a frozen state and returns the next one. Times are microseconds of a clock that never goes
back.
"""

import enum

import msgspec

from usher_gateway import model

OPENS_AFTER = 5  # Consecutive failures that open a circuit
TRIAL_EVERY = 60 * model.MICROSECONDS  # How long an open circuit waits after a failed trial attempt before the next one
UNLIMITED = 1 << 30  # The limit of a closed circuit


class CircuitState(enum.Enum):
    """The states of a circuit."""

    Closed = "Closed"
    Open = "Open"
    Recovering = "Recovering"
    """Closed again, with a limit that grows."""


class Circuit(msgspec.Struct, frozen=True):
    """The state of one destination's circuit."""

    state: CircuitState = CircuitState.Closed
    failures: int = 0
    """Consecutive failures."""
    trial_at: int = 0
    """When the next trial may start, if the circuit is open."""
    limit: int = UNLIMITED
    """Attempts that may run at the same time. 1 while the circuit is open."""
    successes: int = 0
    """Successes since the limit last changed, while recovering."""


CLOSED = Circuit()  # The state in which every circuit starts


def may_start(circuit: Circuit, in_flight: int, now: int) -> bool:
    """Return whether another attempt may start while ``in_flight`` others run."""
    if circuit.state is CircuitState.Open:
        return in_flight == 0 and now >= circuit.trial_at
    return in_flight < circuit.limit


def succeeded(circuit: Circuit, concurrency: int) -> Circuit:
    """Return the state after a success. The limit grows until it reaches ``concurrency``."""
    if circuit.state is CircuitState.Open:
        return Circuit(CircuitState.Recovering, limit=1)
    if circuit.state is CircuitState.Closed:
        return circuit if circuit.failures == 0 else CLOSED
    if circuit.successes + 1 < circuit.limit:
        return msgspec.structs.replace(circuit, failures=0, successes=circuit.successes + 1)
    if circuit.limit * 2 >= concurrency:
        return CLOSED
    return Circuit(CircuitState.Recovering, limit=circuit.limit * 2)


def failed(circuit: Circuit, now: int, *, takes_others: bool = False) -> Circuit:
    """Return the state after a failure that the destination caused.

    ``takes_others``: an attempt for another tenant succeeded within ``TRIAL_EVERY``.
    """
    failures = circuit.failures + 1
    if circuit.state is CircuitState.Open or (failures >= OPENS_AFTER and not takes_others):
        return Circuit(CircuitState.Open, failures, max(circuit.trial_at, now + TRIAL_EVERY), limit=1)
    if circuit.state is CircuitState.Recovering:
        return Circuit(CircuitState.Recovering, failures=failures, limit=1)
    return msgspec.structs.replace(circuit, failures=failures)
