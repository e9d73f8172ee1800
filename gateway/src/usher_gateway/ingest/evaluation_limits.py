"""Limits the time that expressions take from the event loop, so that one tenant's expressions do not delay others.

The core that evaluates an expression holds the interpreter's lock and cannot be interrupted: an evaluation stops the
event loop while it runs, in whatever thread it runs. The static bounds of `expressions` keep each evaluation short, and
these limits bound the sum:

- A route has at most ``SLOW_EVALUATIONS`` slow evaluations among the last ``WINDOW`` (`RouteCost`).
- The evaluations of one arrival take at most ``ARRIVAL_SECONDS`` together (`ArrivalBudget`).
- The expensive evaluations of one namespace take at most ``NAMESPACE_SHARE`` of a core (`NamespaceBudgets`).

A route beyond a limit is held (``ExpressionTooSlow``). All times are CPU times of the evaluating thread.
"""

import collections
import time
from collections.abc import Callable

SLOW_SECONDS = 0.005
"""An evaluation that takes at least this long is slow."""

SLOW_EVALUATIONS = 3
"""A route is held after this many slow evaluations among the last ``WINDOW``."""

WINDOW = 100

EXPENSIVE_SECONDS = 0.001
"""An evaluation that takes at least this long counts against its namespace's budget. Most take 0.02 ms."""

ARRIVAL_SECONDS = 0.02
"""Once the evaluations for an arrival have taken this long together, its other routes are not evaluated."""

NAMESPACE_SHARE = 0.1
NAMESPACE_BURST_SECONDS = 0.5
"""A namespace that used less than its share may use up to this much at once."""


class NamespaceBudgets:
    """What is left of each namespace's time for expensive evaluations. ``now`` returns monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}
        """Namespace -> (seconds left, at this time). It may be negative."""

    def spend(self, namespace: str, cpu_seconds: float) -> bool:
        """Subtract the time of an evaluation. Return False if the budget was spent before."""
        now = self._now()
        left, at = self._left.get(namespace, (NAMESPACE_BURST_SECONDS, now))
        left = min(NAMESPACE_BURST_SECONDS, left + (now - at) * NAMESPACE_SHARE)
        self._left[namespace] = (left - cpu_seconds, now)
        return left > 0


class RouteCost:
    """What the evaluations of one route's expression cost, and whether it is too slow."""

    __slots__ = ("_budgets", "_evaluations", "_namespace", "_slow", "is_too_slow")

    def __init__(self, namespace: str, budgets: NamespaceBudgets) -> None:
        self._namespace = namespace
        self._budgets = budgets
        self._evaluations = 0
        self._slow: collections.deque[int] | None = None
        """Which evaluations were slow: the numbers of the last ``SLOW_EVALUATIONS``. None before the first."""
        self.is_too_slow = False
        """True if the route is held. It stays so until its document changes."""

    def note(self, cpu_seconds: float) -> None:
        """Note the time of an evaluation."""
        self._evaluations += 1
        if cpu_seconds < EXPENSIVE_SECONDS:
            return
        if not self._budgets.spend(self._namespace, cpu_seconds):
            self.is_too_slow = True
        if cpu_seconds >= SLOW_SECONDS:
            self._slow = self._slow or collections.deque(maxlen=SLOW_EVALUATIONS)
            self._slow.append(self._evaluations)
            if len(self._slow) == SLOW_EVALUATIONS and self._evaluations - self._slow[0] < WINDOW:
                self.is_too_slow = True


class ArrivalBudget:
    """What is left of the time for the evaluations of one arrival."""

    __slots__ = ("seconds_left",)

    def __init__(self) -> None:
        self.seconds_left = ARRIVAL_SECONDS

    @property
    def is_spent(self) -> bool:
        """Whether no further route may be evaluated."""
        return self.seconds_left <= 0
