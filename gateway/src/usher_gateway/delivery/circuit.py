"""The circuit of a destination: a dead system costs one trial attempt a minute, a recovered one is not run over.

Pure: a frozen state, an event and the time in; the next state out. Times are microseconds of any clock that only
grows.
"""

import enum

import msgspec

from usher_gateway import model

OPENS_AFTER = 5
"""Consecutive failures that open a circuit."""

TRIAL_EVERY = 60 * model.MICROSECONDS
"""How long an open circuit waits from one trial attempt's failure to the next trial."""

UNLIMITED = 1 << 30
"""The limit of a circuit that does not limit."""


class CircuitState(enum.Enum):
    """Where a circuit stands."""

    Closed = "Closed"
    Open = "Open"
    Recovering = "Recovering"
    """Closed again, with a growing limit."""


class Circuit(msgspec.Struct, frozen=True):
    """The state of one destination's circuit."""

    state: CircuitState = CircuitState.Closed
    failures: int = 0
    """Consecutive ones."""
    trial_at: int = 0
    """When the next trial may start; for Open."""
    limit: int = UNLIMITED
    """Attempts that may be in flight together; 1 while open."""
    successes: int = 0
    """Since the limit last changed; for Recovering."""


CLOSED = Circuit()
"""Where every circuit starts."""


def may_start(circuit: Circuit, in_flight: int, now: int) -> bool:
    """Whether one more attempt may start beside ``in_flight`` ones."""
    if circuit.state is CircuitState.Open:
        return in_flight == 0 and now >= circuit.trial_at
    return in_flight < circuit.limit


def succeeded(circuit: Circuit, concurrency: int) -> Circuit:
    """After an attempt that shows the destination well. ``concurrency`` is where the slow start ends."""
    if circuit.state is CircuitState.Open:
        return Circuit(CircuitState.Recovering, limit=1)
    if circuit.state is CircuitState.Closed:
        return circuit if circuit.failures == 0 else CLOSED
    if circuit.successes + 1 < circuit.limit:
        return msgspec.structs.replace(circuit, failures=0, successes=circuit.successes + 1)
    if circuit.limit * 2 >= concurrency:
        return CLOSED
    return Circuit(CircuitState.Recovering, limit=circuit.limit * 2)


def failed(circuit: Circuit, now: int) -> Circuit:
    """After an attempt whose failure speaks of the destination."""
    failures = circuit.failures + 1
    if circuit.state is CircuitState.Open:
        return msgspec.structs.replace(circuit, failures=failures, trial_at=max(circuit.trial_at, now + TRIAL_EVERY))
    if failures >= OPENS_AFTER:
        return Circuit(CircuitState.Open, failures=failures, trial_at=now + TRIAL_EVERY, limit=1)
    if circuit.state is CircuitState.Recovering:
        return Circuit(CircuitState.Recovering, failures=failures, limit=1)
    return msgspec.structs.replace(circuit, failures=failures)
