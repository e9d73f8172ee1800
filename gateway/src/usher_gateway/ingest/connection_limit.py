"""Decides which connection of the public port is closed if there are too many. Pure.

A connection *waits* while it has no request that is being answered: it is new, idle, or its header is incomplete. If
the port is full, the connection that has waited longest gives way to a new one. Connections that never asked for
a known listener give way first, so that a stranger who holds thousands of connections cannot shut Purple out. Each
source (an IPv4 address, or the /64 network of an IPv6 address) has its own limit; at that limit its own connections
give way.
"""

import ipaddress
from collections.abc import Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)


class ConnectionLimit(Generic[C]):
    """Counts open connections, and orders those that wait. Each operation takes constant time."""

    def __init__(self, *, connections: int, per_source: int) -> None:
        self._connections, self._per_source = connections, per_source
        self._sources: dict[C, str] = {}
        self._open: dict[str, int] = {}
        """Source -> open connections."""
        self._waiting: dict[str, tuple[dict[C, None], dict[C, None]]] = {}
        """Source -> its waiting connections, longest first: those of strangers, and those with a known listener."""
        self._strangers: dict[C, None] = {}
        """All waiting connections that never asked for a known listener, longest first."""
        self._known: dict[C, None] = {}

    def is_full(self, source: str) -> bool:
        """Return whether a new connection of a source needs another one to give way."""
        return self._is_source_full(source) or len(self._sources) >= self._connections

    def longest_waiting(self, source: str) -> C | None:
        """Return the connection that gives way to a new one of ``source``; None if all are answering requests."""
        groups = (self._strangers, self._known)
        if self._is_source_full(source):
            groups = self._waiting.get(source, ({}, {}))
        return next((connection for group in groups for connection in group), None)

    def add(self, connection: C, source: str) -> None:
        """Add a new connection. It waits."""
        self._sources[connection] = source
        self._open[source] = self._open.get(source, 0) + 1
        self.wait(connection, is_known=False)

    def wait(self, connection: C, *, is_known: bool) -> None:
        """Note that a connection waits from now on. ``is_known``: it has asked for a known listener."""
        source = self._sources.get(connection)
        if source is not None:
            (self._known if is_known else self._strangers)[connection] = None
            if source not in self._waiting:
                self._waiting[source] = ({}, {})
            self._waiting[source][is_known][connection] = None

    def work(self, connection: C) -> None:
        """Note that a connection has a request to answer."""
        source = self._sources.get(connection)
        group = self._strangers if connection in self._strangers else self._known
        if source is not None and connection in group:
            del group[connection]
            del self._waiting[source][group is self._known][connection]

    def remove(self, connection: C) -> None:
        """Forget a connection that was closed. Idempotent."""
        self.work(connection)
        source = self._sources.pop(connection, None)
        if source is not None:
            self._open[source] -= 1
            if not self._open[source]:
                del self._open[source]
                self._waiting.pop(source, None)

    def _is_source_full(self, source: str) -> bool:
        return self._open.get(source, 0) >= self._per_source


def source_of(address: str) -> str:
    """Return the source that an address counts towards: itself, or its /64 network, because hosts get a whole one."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))
