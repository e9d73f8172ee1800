"""File descriptors: a flood of connections must leave enough of them for the store and for deliveries."""

import resource

import msgspec
import structlog

_log = structlog.get_logger(__name__)

OTHERS = 1_024
"""Kept for what is no connection at the public port, and none that is kept idle: attempts, the store, files, the admin
port."""


class Plan(msgspec.Struct, frozen=True):
    """How the descriptors of a process are shared out."""

    soft: int
    """The soft limit to set."""
    connections: int
    """Connections at the public port that may be open."""
    idle: int
    """Connections to destinations that may be kept for later requests."""


def plan(soft: int, hard: int, connections: int, idle: int) -> Plan:
    """Share out what the limits of the process allow (pure); ``connections`` and ``idle`` are what is wanted."""
    new_soft = max(soft, min(connections + idle + OTHERS, hard))
    fitting = min(connections, max(new_soft - OTHERS - idle, new_soft // 2))
    left = new_soft - fitting
    return Plan(new_soft, fitting, min(idle, max(left - OTHERS, left // 4)))


def reserve(connections: int, idle: int) -> Plan:
    """Raise the process's limit as far as that takes and is allowed; how it is shared out."""
    soft, hard = (
        1 << 30 if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    planned = plan(soft, hard, connections, idle)
    if planned.soft > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (planned.soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if planned.connections < connections:
        _log.warning(
            "fewer_connections", connections=planned.connections, hint="raise the limit of open files (ulimit -n)"
        )
    return planned
