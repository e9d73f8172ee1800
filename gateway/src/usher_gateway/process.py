"""Limits of the operating system process: file descriptors, and how often the garbage collector runs."""

import gc
import resource

import msgspec
import structlog

_log = structlog.get_logger(__name__)

RESERVED_DESCRIPTORS = 1_024
"""Descriptors kept for everything but public connections and idle connections: running attempts, the store, files and
the admin port."""


class DescriptorPlan(msgspec.Struct, frozen=True):
    """How a process divides its file descriptors, so that a flood of connections leaves enough for the rest."""

    soft_limit: int
    """The soft limit to set."""
    connections: int
    """How many connections the public port may have open."""
    idle: int
    """How many idle connections to destinations may stay open for later requests."""


def plan_descriptors(soft_limit: int, hard_limit: int, connections: int, idle: int) -> DescriptorPlan:
    """Divide the descriptors that the process may have (pure); ``connections`` and ``idle`` are the wanted numbers."""
    new_limit = max(soft_limit, min(connections + idle + RESERVED_DESCRIPTORS, hard_limit))
    possible_connections = min(connections, max(new_limit - RESERVED_DESCRIPTORS - idle, new_limit // 2))
    left = new_limit - possible_connections
    return DescriptorPlan(new_limit, possible_connections, min(idle, max(left - RESERVED_DESCRIPTORS, left // 4)))


def reserve_descriptors(connections: int, idle: int) -> DescriptorPlan:
    """Raise the soft limit of this process as far as needed and allowed, and return how to divide it."""
    soft_limit, hard_limit = (
        1 << 30 if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    planned = plan_descriptors(soft_limit, hard_limit, connections, idle)
    if planned.soft_limit > soft_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (planned.soft_limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if planned.connections < connections:
        _log.warning(
            "connections_limited", connections=planned.connections, hint="raise the limit of open files (ulimit -n)"
        )
    return planned


def collect_garbage_rarely() -> None:
    """Raise the thresholds of the garbage collector.

    Reference counting frees an arrival. A full collection would only walk the large recent index of the ledger again
    and again (docs/performance.md).
    """
    gc.set_threshold(50_000, 20, 100)


def exempt_live_objects_from_collection() -> None:
    """Collect once, then tell the collector to skip every object that is alive now.

    Call this rarely and only when little but long-lived objects exists, because an exempt object is never collected.
    """
    gc.collect()
    gc.freeze()
