"""Limits of the operating system process: file descriptors, memory, and how often the garbage collector runs."""

import contextlib
import gc
import os
import resource
from pathlib import Path

import msgspec
import structlog

_log = structlog.get_logger(__name__)

# Descriptors kept for everything but connections and attempts: the store, files, name servers and the admin port.
RESERVED_DESCRIPTORS = 512

MAX_ATTEMPTS = 4096  # The most attempts in flight that a process plans for

# Memory of a running attempt in addition to its body, with its TLS connection (docs/performance.md).
_ATTEMPT_BYTES = 64 * 1024

_ATTEMPTS_MEMORY_SHARE = 8  # Attempts may use 1/8 of the memory

_MIN_ATTEMPTS = 64

# Where a container finds its limit of memory: cgroup version 2, version 1.
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class DescriptorPlan(msgspec.Struct, frozen=True):
    """How a process divides its file descriptors, so that a flood of connections leaves enough for the rest."""

    soft_limit: int
    """The soft limit to set."""
    connections: int
    """How many connections the public port may have open."""
    idle: int
    """How many idle connections to destinations may stay open for later requests."""
    attempts: int
    """How many attempts may be in flight."""


def plan_descriptors(soft_limit: int, hard_limit: int, *, connections: int, idle: int, attempts: int) -> DescriptorPlan:
    """Divide the descriptors that the process may have (pure). The last three arguments are the wanted numbers."""
    new_limit = max(soft_limit, min(connections + idle + attempts + RESERVED_DESCRIPTORS, hard_limit))
    possible_connections = min(connections, max(new_limit - RESERVED_DESCRIPTORS - idle - attempts, new_limit // 2))
    left = new_limit - possible_connections
    possible_attempts = min(attempts, max(left - RESERVED_DESCRIPTORS - idle, left // 4))
    left -= possible_attempts
    possible_idle = min(idle, max(left - RESERVED_DESCRIPTORS, left // 4))
    return DescriptorPlan(new_limit, possible_connections, possible_idle, possible_attempts)


def reserve_descriptors(connections: int, idle: int, attempts: int) -> DescriptorPlan:
    """Raise the soft limit of this process as far as needed and allowed, and return how to divide it."""
    soft_limit, hard_limit = (
        1 << 30 if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    planned = plan_descriptors(soft_limit, hard_limit, connections=connections, idle=idle, attempts=attempts)
    if planned.soft_limit > soft_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (planned.soft_limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if planned.connections < connections:
        _log.warning(
            "connections_limited", connections=planned.connections, hint="raise the limit of open files (ulimit -n)"
        )
    return planned


def attempts_for_memory(memory_bytes: int) -> int:
    """Return how many attempts may be in flight in a process with this much memory (pure)."""
    return max(_MIN_ATTEMPTS, min(MAX_ATTEMPTS, memory_bytes // _ATTEMPTS_MEMORY_SHARE // _ATTEMPT_BYTES))


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or less if a container limits it."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # the file is missing, or holds "max"
            available = min(available, int(file.read_text(encoding="ascii")))
    return available


def collect_garbage_rarely() -> None:
    """Raise the thresholds of the garbage collector.

    Reference counting frees an arrival. A full collection would only walk the large recent index of the ledger again
    and again (docs/decisions/0014).
    """
    gc.set_threshold(50_000, 20, 100)


def exempt_live_objects_from_collection() -> None:
    """Collect once, then tell the collector to skip every object that is alive now.

    Call this rarely and only when little but long-lived objects exists, because an exempt object is never collected.
    """
    gc.collect()
    gc.freeze()
