"""Limits the CPU time for expressions and bodies, so that one tenant's work does not delay the others.

The core that evaluates an expression holds the interpreter's lock and cannot be interrupted: an evaluation stops the
event loop while it runs, in whatever thread it runs. The static bounds in `expressions` keep each evaluation short, and
these limits bound the sum:

- A route has at most ``SLOW_EVALUATIONS`` slow evaluations among the last ``WINDOW`` (`RouteCost`).
- One arrival's evaluations take at most ``ARRIVAL_SECONDS`` together (`ArrivalBudget`).
- The evaluations for one namespace's expensive arrivals take at most ``ARRIVALS_SHARE`` of a core. Beyond it
  nothing is evaluated for an arrival.
- A namespace's transforms and costly answers take at most ``ATTEMPTS_SHARE`` of a core. Beyond it
  attempts wait, because no sender waits for a delivery.

A namespace's tenants share its time equally (`TenantBudgets`). If an expression is not evaluated for an arrival, the
delivery is held (``ExpressionTooSlow``), and an attempt evaluates it after the next hold review. All times are CPU
times of the evaluating thread.

A body of a few hundred bytes can cost a thousand times as much as an ordinary one: it may inflate to 8 MiB, or contain
thousands of numbers. The bodies' budget (`BodyBudgets`) is checked before a body is inflated and parsed. While it is
spent, the gateway answers 503 to the listener, or to all the tenant's listeners.

Each arrival's first ``ORDINARY_SECONDS`` are free. An ordinary body takes 0.02 to 0.1 ms, so ordinary visits spend
nothing at any rate, and `maximums.requestsPerSecond` limits them. One listener cannot spend its tenant's whole budget.
"""

import asyncio
import collections
import time
from collections.abc import Callable

from usher_gateway import model

SLOW_SECONDS = 0.005  # An evaluation that takes at least this long is slow
SLOW_EVALUATIONS = 3  # A route is held after this many slow evaluations among the last `WINDOW`

WINDOW = 100

# The evaluations for an arrival count against its tenant's budget if they take at least this long together. Most
# evaluations take 0.02 ms.
EXPENSIVE_SECONDS = 0.001

# Once the evaluations for an arrival have taken this long together, its other routes are not evaluated.
ARRIVAL_SECONDS = 0.02

ARRIVALS_SHARE = 0.1
ARRIVALS_BURST_SECONDS = 0.5  # A tenant that used less than its part may use up to this much at once

ATTEMPTS_SHARE = 0.25
ATTEMPTS_BURST_SECONDS = 0.05  # Short, because the event loop may stop for all of it


class CpuBudgets:
    """The CPU time that each owner, such as a tenant, has left: ``share`` of a core.

    ``now`` returns monotonic seconds.
    """

    def __init__(self, now: Callable[[], float], *, share: float, burst_seconds: float) -> None:
        self._now = now
        self._share = share
        self._burst_seconds = burst_seconds
        self._left: dict[str, tuple[float, float]] = {}  # Owner -> (seconds left, at this time). They may be negative.

    def spend(self, owner: str, cpu_seconds: float) -> None:
        """Subtract CPU time; a negative one gives it back."""
        seconds_left, now = self._left_now(owner)
        self._left[owner] = (seconds_left - cpu_seconds, now)

    def is_spent(self, owner: str) -> bool:
        """True if an owner has used up its time."""
        return owner in self._left and self._left_now(owner)[0] <= 0

    def seconds_until_left(self, owner: str) -> float:
        """Return how long until an owner has time again; 0.0 if it has."""
        return max(0.0, -self._left_now(owner)[0] / self._share)

    def forget_full(self, owner: str) -> bool:
        """Forget an owner that has all its time again; return whether it had."""
        is_full = self._left_now(owner)[0] >= self._burst_seconds
        if is_full:
            self._left.pop(owner, None)
        return is_full

    def _left_now(self, owner: str) -> tuple[float, float]:
        now = self._now()
        seconds_left, at = self._left.get(owner, (self._burst_seconds, now))
        return min(self._burst_seconds, seconds_left + (now - at) * self._share), now


class TenantBudgets:
    """The CPU time that each tenant has left: a namespace's tenants share ``share`` of a core.

    The time that a tenant uses counts once for each tenant in its namespace that has used some lately. So together they
    use one tenant's share, and a tenant that uses less than its part never waits for the others.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        *,
        share: float = ARRIVALS_SHARE,
        burst_seconds: float = ARRIVALS_BURST_SECONDS,
    ) -> None:
        self._budgets = CpuBudgets(now, share=share, burst_seconds=burst_seconds)
        self._recent: dict[str, dict[str, None]] = {}  # Namespace -> the tenants that have used time lately
        self._turns: dict[str, asyncio.Lock] = {}

    def is_spent(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant has used up its time."""
        return namespace in self._recent and self._budgets.is_spent(f"{namespace}/{tenant}")

    async def wait(self, namespace: str, tenant: str) -> None:
        """Wait until a tenant has time again. Only one attempt at a time waits for each tenant."""
        owner = f"{namespace}/{tenant}"
        async with self._turns.setdefault(owner, asyncio.Lock()):
            seconds = self._budgets.seconds_until_left(owner)
            if seconds:
                await asyncio.sleep(seconds)

    def spend(self, namespace: str, tenant: str, cpu_seconds: float) -> None:
        """Subtract the time that an arrival or an attempt has used."""
        recent = self._recent.setdefault(namespace, {})
        # Forget tenants up to the first that lacks time; it goes behind the others, which are checked next.
        while recent:
            other = next(iter(recent))
            del recent[other]
            if not self._budgets.forget_full(f"{namespace}/{other}"):
                recent[other] = None
                break
        recent[tenant] = None
        self._budgets.spend(f"{namespace}/{tenant}", cpu_seconds * len(recent))


class RouteCost:
    """The cost of evaluating one route's expression, which shows whether it is too slow."""

    __slots__ = ("_evaluations", "_slow", "is_too_slow")

    def __init__(self) -> None:
        self._evaluations = 0
        self._slow: collections.deque[int] | None = None
        """The numbers of the last ``SLOW_EVALUATIONS`` slow evaluations. None before the first."""
        self.is_too_slow = False  # True if the route is held. It stays so until its document changes.

    def note(self, cpu_seconds: float) -> None:
        """Note how long an evaluation took."""
        self._evaluations += 1
        if cpu_seconds >= SLOW_SECONDS:
            self._slow = self._slow or collections.deque(maxlen=SLOW_EVALUATIONS)
            self._slow.append(self._evaluations)
            if len(self._slow) == SLOW_EVALUATIONS and self._evaluations - self._slow[0] < WINDOW:
                self.is_too_slow = True


class ArrivalBudget:
    """The time left for one arrival's evaluations: none if its tenant has used up its time."""

    __slots__ = ("_budgets", "_limit_seconds", "_listener", "_used_seconds")

    def __init__(self, listener: model.ListenerName, budgets: TenantBudgets) -> None:
        self._listener = listener
        self._budgets = budgets
        self._limit_seconds = 0.0 if budgets.is_spent(listener.namespace, listener.tenant) else ARRIVAL_SECONDS
        self._used_seconds = 0.0

    @property
    def is_spent(self) -> bool:
        """True if nothing further may be evaluated."""
        return self._used_seconds >= self._limit_seconds

    def note(self, cpu_seconds: float) -> None:
        """Note how long an evaluation took."""
        self._used_seconds += cpu_seconds

    def close(self) -> None:
        """Charge the evaluations to the tenant if they are expensive together."""
        if self._used_seconds >= EXPENSIVE_SECONDS:
            self._budgets.spend(self._listener.namespace, self._listener.tenant, self._used_seconds)


ORDINARY_SECONDS = 0.00025

_SECONDS_PER_STORED_BYTE = 1e-8  # Estimated time that the store takes to write a byte of a body

LISTENER_SHARE = 0.05
LISTENER_BURST_SECONDS = 0.1  # Enough for about 50 bodies of 100 KiB at once, and 25 of them a second

TENANT_SHARE = 0.1
TENANT_BURST_SECONDS = 0.2


class BodyBudgets:
    """The CPU time that each listener and tenant has left for inflating, parsing and hashing bodies."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._listeners = CpuBudgets(now, share=LISTENER_SHARE, burst_seconds=LISTENER_BURST_SECONDS)
        self._tenants = CpuBudgets(now, share=TENANT_SHARE, burst_seconds=TENANT_BURST_SECONDS)
        self._has_expensive = False  # False until a body was expensive; until then no names are built and looked up

    def is_spent(self, listener: model.ListenerName) -> bool:
        """True if the listener or its tenant has used up its time."""
        if not self._has_expensive:
            return False
        return self._listeners.is_spent(listener.key) or self._tenants.is_spent(listener.tenant_key)

    def charge(self, listener: model.ListenerName, cpu_seconds: float, stored_bytes: int = 0) -> None:
        """Subtract an arrival's time beyond an ordinary one's, with the time to store its body."""
        cpu_seconds += stored_bytes * _SECONDS_PER_STORED_BYTE
        if cpu_seconds > ORDINARY_SECONDS:
            self._spend(listener, cpu_seconds - ORDINARY_SECONDS)

    def _spend(self, listener: model.ListenerName, cpu_seconds: float) -> None:
        self._has_expensive = True
        self._listeners.spend(listener.key, cpu_seconds)
        self._tenants.spend(listener.tenant_key, cpu_seconds)
