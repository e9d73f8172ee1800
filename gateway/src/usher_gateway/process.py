"""Limits of the operating system process: file descriptors, memory, and how often the garbage collector runs."""

import contextlib
import gc
import os
import resource
from pathlib import Path
from typing import NamedTuple

import structlog

_log = structlog.get_logger(__name__)

# Descriptors kept for everything but connections and attempts: the store, files, name servers and the admin port.
RESERVED_DESCRIPTORS = 512

_PARTS = (2, 16, 4)  # With too few descriptors, connections get 1/2 of them, idle ones 1/16 and attempts 1/4

MAX_ATTEMPTS = 4096  # The most attempts in flight that a process plans for

# Memory of a running attempt in addition to its body, with its TLS connection (docs/performance.md).
_ATTEMPT_BYTES = 64 * 1024

_ATTEMPTS_MEMORY_SHARE = 8  # Attempts may use 1/8 of the memory

_MIN_ATTEMPTS = 64

# Where a container finds its limit of memory: cgroup version 2, version 1.
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class DescriptorPlan(NamedTuple):
    """How many file descriptors each use may have, so that a flood of connections leaves enough for the others."""

    connections: int
    """Connections to the public port."""
    idle: int
    """Idle connections to destinations, which stay open for later requests."""
    attempts: int
    """Attempts in flight."""


def plan_descriptors(limit: int, wanted: DescriptorPlan) -> DescriptorPlan:
    """Divide the descriptors that the process may have (pure)."""
    if sum(wanted) + RESERVED_DESCRIPTORS <= limit:
        return wanted
    return DescriptorPlan(*[min(count, limit // part) for count, part in zip(wanted, _PARTS, strict=True)])


def reserve_descriptors(connections: int, idle: int, attempts: int) -> DescriptorPlan:
    """Raise this process's soft limit as far as needed and allowed, and return how to divide it."""
    wanted = DescriptorPlan(connections, idle, attempts)
    soft_limit, hard_limit = (
        1 << 30 if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    limit = max(soft_limit, min(sum(wanted) + RESERVED_DESCRIPTORS, hard_limit))
    if limit > soft_limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    planned = plan_descriptors(limit, wanted)
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
    """Raise the garbage collector's thresholds.

    Reference counting frees an arrival. A full collection would only walk the ledger's large recent index again
    and again (docs/decisions/0014).
    """
    gc.set_threshold(50_000, 20, 100)


def exempt_live_objects_from_collection() -> None:
    """Collect once, then tell the collector to skip every object that is alive now.

    Call this rarely and only when little but long-lived objects exists, because an exempt object is never collected.
    """
    gc.collect()
    gc.freeze()
