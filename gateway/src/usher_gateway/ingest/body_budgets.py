"""Limits the CPU time that bodies take, so that one listener's bodies do not delay other tenants.

A few hundred bytes can cost a thousand times as much as an ordinary body: they may inflate to 8 MiB, or contain
thousands of numbers. The budget is checked before a body is inflated and parsed. While it is spent, the gateway answers
503 to the listener, or to all listeners of the tenant.

The first ``ORDINARY_SECONDS`` of each arrival are free. An ordinary body takes 0.02 to 0.1 ms, so ordinary visits spend
nothing at any rate, and `maximums.requestsPerSecond` limits them. One listener cannot spend the budget of its tenant.
"""

import time
from collections.abc import Callable

from usher_gateway import model
from usher_gateway.ingest.evaluation_limits import CpuBudgets

ORDINARY_SECONDS = 0.00025

_SECONDS_PER_STORED_BYTE = 1e-8
"""CPU time of the store's writer, which compresses large bodies."""

LISTENER_SHARE = 0.05
LISTENER_BURST_SECONDS = 0.1
"""Enough for about 50 bodies of 100 KiB at once, and 25 of them a second."""

TENANT_SHARE = 0.1
TENANT_BURST_SECONDS = 0.2

_RESERVED_SECONDS = 0.02
"""The gateway charges a body with this while a thread inflates or hashes it. 8 MiB take about this long."""


class BodyBudgets:
    """The rest of each listener's and each tenant's CPU time for inflating, parsing and hashing bodies."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._listeners = CpuBudgets(now, share=LISTENER_SHARE, burst_seconds=LISTENER_BURST_SECONDS)
        self._tenants = CpuBudgets(now, share=TENANT_SHARE, burst_seconds=TENANT_BURST_SECONDS)
        self._has_expensive = False
        """False until a body was expensive; until then no names are built and looked up."""

    def is_spent(self, listener: model.ListenerName) -> bool:
        """True if the listener or its tenant has used up its time."""
        if not self._has_expensive:
            return False
        return self._listeners.is_spent(listener.key) or self._tenants.is_spent(_tenant_key(listener))

    def charge(self, listener: model.ListenerName, cpu_seconds: float, stored_bytes: int = 0) -> None:
        """Subtract the time of an arrival beyond that of an ordinary one, with the time to store its body."""
        cpu_seconds += stored_bytes * _SECONDS_PER_STORED_BYTE
        if cpu_seconds > ORDINARY_SECONDS:
            self._spend(listener, cpu_seconds - ORDINARY_SECONDS)

    def reserve(self, listener: model.ListenerName) -> None:
        """Subtract an estimate before a thread gets a body, so that no listener can fill the threads' queue."""
        self._spend(listener, _RESERVED_SECONDS)

    def settle(self, listener: model.ListenerName, cpu_seconds: float) -> None:
        """Replace the estimate of `reserve` by the time that the thread took."""
        self._spend(listener, cpu_seconds - _RESERVED_SECONDS)

    def _spend(self, listener: model.ListenerName, cpu_seconds: float) -> None:
        self._has_expensive = True
        self._listeners.spend(listener.key, cpu_seconds)
        self._tenants.spend(_tenant_key(listener), cpu_seconds)


def _tenant_key(listener: model.ListenerName) -> str:
    return f"{listener.namespace}/{listener.tenant}"
