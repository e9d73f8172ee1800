"""File descriptors: a flood of connections must leave enough of them for the store and for deliveries."""

import resource

import structlog

_log = structlog.get_logger(__name__)

OTHERS = 1_024
"""Kept for what is no connection at the public port: attempts, the store, files, the admin port."""


def plan(soft: int, hard: int, connections: int) -> tuple[int, int]:
    """(soft limit to set, connections that may be open), from the limits of the process (pure)."""
    wanted = connections + OTHERS
    new_soft = max(soft, min(wanted, hard))
    return new_soft, min(connections, max(new_soft - OTHERS, new_soft // 2))


def reserve(connections: int) -> int:
    """Raise the process's limit as far as that takes and is allowed; how many connections may be open."""
    soft, hard = (
        1 << 30 if limit == resource.RLIM_INFINITY else limit for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
    )
    new_soft, fitting = plan(soft, hard, connections)
    if new_soft > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (new_soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if fitting < connections:
        _log.warning("fewer_connections", connections=fitting, hint="raise the limit of open files (ulimit -n)")
    return fitting
