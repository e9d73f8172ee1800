"""Decides which connection to the public port is closed if there are too many. Pure.

A connection *waits* while it has no request that is being answered: it is new, idle, or its header is incomplete. If
the port is full, the connection that has waited longest gives way to a new one. Connections that never asked for
a known listener give way first, so that a stranger who holds thousands of connections cannot shut Purple out. Each
source (an IPv4 address, or the /64 network of an IPv6 address) has its own limit; at that limit its own connections
give way.

A connection that is within a TLS handshake or a body has a second limit (`UnfinishedLimit`), because it takes
memory, and a sender can keep it so on purpose.
"""

import ipaddress
from collections.abc import Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)

_Group = tuple[str, ...]  # The owners that members share: all of them, or the last two


class ConnectionLimit(Generic[C]):
    """Counts open connections, and orders those that wait. Each operation takes constant time."""

    def __init__(self, *, connections: int, per_source: int) -> None:
        self._connections, self._per_source = connections, per_source
        self._sources: dict[C, str] = {}
        self._open: dict[str, int] = {}  # Source -> open connections
        self._waiting: dict[str, tuple[dict[C, None], dict[C, None]]] = {}
        """Source -> its waiting connections, longest first: those of strangers, and those with a known listener."""
        self._strangers: dict[C, None] = {}
        """All waiting connections that never asked for a known listener, longest first."""
        self._known: dict[C, None] = {}

    def is_full(self, source: str) -> bool:
        """Return whether a source's new connection needs another one to give way."""
        return self._is_source_full(source) or len(self._sources) >= self._connections

    def longest_waiting(self, source: str) -> C | None:
        """Return the connection that gives way to a new one from ``source``; None if all are answering requests."""
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

    def source(self, connection: C) -> str:
        """Return an open connection's source; ``""`` if it was closed."""
        return self._sources.get(connection, "")

    def _is_source_full(self, source: str) -> bool:
        return self._open.get(source, 0) >= self._per_source


class UnfinishedLimit(Generic[C]):
    """Limits unfinished bodies or handshakes in number and bytes. An owner (listener, tenant, source) may have half.

    Over an owner's half, its own members give way. Over the limit in total, members of the largest owner do. Within
    a source or a tenant, members give way that belong to the tenant at one source with the most: behind a proxy all
    tenants have one source, and a tenant with thousands of listeners must not displace a neighbour's bodies. Within
    a listener, members give way from the source with the most. Among these, the one that has been unfinished longest
    gives way, or over a byte limit, the largest.
    """

    def __init__(self, *, members: int, total_bytes: int) -> None:
        self._limit, self._limit_bytes = members, total_bytes
        self._sizes: dict[C, int] = {}  # Member -> its bytes
        self._bytes = 0
        self._groups: dict[C, _Group] = {}
        self._groups_of: dict[str, dict[_Group, None]] = {}  # Owner -> the groups of its members
        self._members_of: dict[str | _Group, dict[C, None]] = {}  # Owner or group -> its members, longest first
        self._bytes_of: dict[str | _Group, int] = {}

    def __len__(self) -> int:
        """Return how many are unfinished."""
        return len(self._sizes)

    def add(self, member: C, owners: tuple[str, ...], size: int = 0) -> None:
        """Add a member. ``owners``: from the narrowest to the widest, such as listener, tenant and source."""
        self._sizes[member] = 0
        self._groups[member] = owners
        for key in _keys(owners):
            self._members_of.setdefault(key, {})[member] = None
            self._bytes_of.setdefault(key, 0)
        for owner in owners:
            self._groups_of.setdefault(owner, {})[_group_in(owner, owners)] = None
        self.grow(member, size)

    def grow(self, member: C, size: int) -> None:
        """Note that a member takes ``size`` more bytes. Does nothing if it was removed."""
        if member in self._sizes:
            self._sizes[member] += size
            self._bytes += size
            for key in _keys(self._groups[member]):
                self._bytes_of[key] += size

    def remove(self, member: C) -> None:
        """Forget a member that is finished or closed. Idempotent."""
        if member not in self._sizes:
            return
        self.grow(member, -self._sizes[member])
        del self._sizes[member]
        owners = self._groups.pop(member)
        for key in _keys(owners):
            del self._members_of[key][member]
            if not self._members_of[key]:
                del self._members_of[key], self._bytes_of[key]
        for owner in owners:
            group = _group_in(owner, owners)
            if group not in self._members_of:
                del self._groups_of[owner][group]
            if owner not in self._members_of:
                del self._groups_of[owner]

    def in_excess(self, member: C) -> C | None:
        """Return who gives way because a member was added or grew; None if no limit is exceeded."""
        for owner in self._groups.get(member, ()):
            if 2 * len(self._members_of[owner]) > self._limit:
                return self._oldest(owner)
            if 2 * self._bytes_of[owner] > self._limit_bytes:
                return self._largest(owner)
        if len(self._sizes) > self._limit:
            return self._oldest(max(self._groups_of, key=self._count))
        if self._bytes > self._limit_bytes:
            return self._largest(max(self._groups_of, key=self._bytes_of.__getitem__))
        return None

    def _count(self, key: str | _Group) -> int:
        return len(self._members_of[key])

    def _oldest(self, owner: str) -> C:
        group = max(self._groups_of[owner], key=self._count)
        return next(iter(self._members_of[group]))

    def _largest(self, owner: str) -> C:
        group = max(self._groups_of[owner], key=self._bytes_of.__getitem__)
        return max(self._members_of[group], key=self._sizes.__getitem__)


def _group_in(owner: str, owners: _Group) -> _Group:
    """Return the group in which a member competes with an owner's other members."""
    return owners if owner == owners[0] else owners[-2:]


def _keys(owners: _Group) -> "set[str | _Group]":
    """Return each owner and the groups."""
    return {*owners, owners, owners[-2:]}


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
