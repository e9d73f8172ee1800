"""The circuit breaker of a destination.

While the destination fails, it gets one trial attempt a minute. After it has recovered, the number of concurrent
attempts grows 1, 2, 4 … up to its limit, so that the backlog does not overload it.

Gateways on one database open and close their circuits together (``shared_circuits.py``). There, a trial may start only
at the gateway that has claimed it, and only for 5 s after the claim. So the next trial, which another gateway may make
if this one is gone, starts at least a minute later.

Pure: each function takes a frozen state and returns the next one. Times are microseconds of a clock that never goes
back.
"""

import enum

import msgspec

from usher_gateway import model

OPENS_AFTER = 5
"""Consecutive failures that open a circuit."""

TRIAL_EVERY = 60 * model.MICROSECONDS
"""How long an open circuit waits after a failed trial attempt before the next one."""

TRIAL_CLAIM = 5 * model.MICROSECONDS
"""How long a gateway that has claimed a trial may wait until it starts it."""

ALWAYS = 1 << 62
"""The end of a trial's time that does not end: only one gateway makes trials, so it claims none."""

UNLIMITED = 1 << 30
"""The limit of a closed circuit."""


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
    trial_until: int = ALWAYS
    """The trial may start only before this; 0: no trial was claimed."""
    limit: int = UNLIMITED
    """Attempts that may run at the same time. 1 while the circuit is open."""
    successes: int = 0
    """Successes since the limit last changed, while recovering."""


CLOSED = Circuit()
"""The state in which every circuit starts."""

RECOVERING = Circuit(CircuitState.Recovering, limit=1)
"""The state after a trial has succeeded, at this gateway or at another one."""


def may_start(circuit: Circuit, in_flight: int, now: int) -> bool:
    """Return whether another attempt may start while ``in_flight`` others run."""
    if circuit.state is CircuitState.Open:
        return in_flight == 0 and is_trial_time(circuit, now)
    return in_flight < circuit.limit


def is_trial_time(circuit: Circuit, now: int) -> bool:
    """Return whether an open circuit allows its next trial now."""
    return circuit.trial_at <= now < circuit.trial_until


def needs_claim(circuit: Circuit, now: int) -> bool:
    """Return whether the next trial is due, and a gateway may make it once it has claimed it."""
    return circuit.state is CircuitState.Open and now >= circuit.trial_at and now >= circuit.trial_until


def succeeded(circuit: Circuit, concurrency: int) -> Circuit:
    """Return the state after a success. The limit grows until it reaches ``concurrency``."""
    if circuit.state is CircuitState.Open:
        return RECOVERING
    if circuit.state is CircuitState.Closed:
        return circuit if circuit.failures == 0 else CLOSED
    if circuit.successes + 1 < circuit.limit:
        return msgspec.structs.replace(circuit, failures=0, successes=circuit.successes + 1)
    if circuit.limit * 2 >= concurrency:
        return CLOSED
    return Circuit(CircuitState.Recovering, limit=circuit.limit * 2)


def failed(circuit: Circuit, now: int, *, claims_trials: bool = False) -> Circuit:
    """Return the state after a failure that the destination caused.

    ``claims_trials``: other gateways may make the trials too, so that each has to be claimed.
    """
    failures = circuit.failures + 1
    if circuit.state is CircuitState.Open or failures >= OPENS_AFTER:
        trial_at = max(circuit.trial_at, now + TRIAL_EVERY)
        trial_until = 0 if claims_trials else ALWAYS
        return Circuit(CircuitState.Open, failures, trial_at, trial_until, limit=1)
    if circuit.state is CircuitState.Recovering:
        return Circuit(CircuitState.Recovering, failures=failures, limit=1)
    return msgspec.structs.replace(circuit, failures=failures)


def followed(circuit: Circuit, now: int, trial_at: int) -> Circuit:
    """Return the state while the circuit is open at the other gateways, with the next trial of all."""
    if circuit.state is CircuitState.Open:
        has_trial = now < circuit.trial_until
        return circuit if has_trial else msgspec.structs.replace(circuit, trial_at=trial_at)
    return Circuit(CircuitState.Open, OPENS_AFTER, trial_at, trial_until=0, limit=1)


def claimed(circuit: Circuit, now: int, until: int) -> Circuit:
    """Return the state of an open circuit after this gateway has claimed its trial."""
    return msgspec.structs.replace(circuit, trial_at=min(circuit.trial_at, now), trial_until=until)
