"""How much memory each namespace's resources take. Pure.

An agency can fill its namespace with resources: 500 Listeners with long expressions took 500 MB. A resource over
the limit is treated as one that cannot be read: the operator keeps only its status, and its document stays in force.
"""

import sys
from typing import Any

from usher_operator.state.view import Key, Kind

# For a namespace's specs and compiled filters: enough for 2,600 customers with two routes and two Destinations each.
MOST_BYTES = 48 * 1024 * 1024

# The part that must be free before what was left out is read again: not every edit at the limit causes a reading.
_FREE_PART = 1 / 8

_OBJECT_BYTES = 2048  # Of a resource besides its spec

# A gateway keeps each route's filter compiled: a list of short constants takes this much for a character.
_FILTER_BYTES = 48


class NamespaceMemory:
    """Decides which resources a namespace has memory for: those that came first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes: dict[Key, int] = {}
        self._used: dict[str, int] = {}  # Bytes by namespace
        self._left_out: dict[str, set[Key]] = {}

    def admit(self, key: Key, spec: object) -> bool:
        """Return whether there is room for a resource's spec, in place of its previous one."""
        self.forget(key)
        size = _OBJECT_BYTES + _bytes_of(spec) + _FILTER_BYTES * _filter_characters(spec)
        if self._used.get(key.namespace, 0) + size > self._most_bytes:
            self._left_out.setdefault(key.namespace, set()).add(key)
            return False
        self._bytes[key] = size
        self._used[key.namespace] = self._used.get(key.namespace, 0) + size
        return True

    def forget(self, key: Key) -> None:
        """Free a resource's memory."""
        self._left_out.get(key.namespace, set()).discard(key)
        self._used[key.namespace] = self._used.get(key.namespace, 0) - self._bytes.pop(key, 0)
        if not self._used[key.namespace]:
            del self._used[key.namespace]

    def take_readable(self, namespace: str) -> set[Kind]:
        """Return, once, the kinds that were left out, if there is room now."""
        has_room = self._used.get(namespace, 0) <= self._most_bytes * (1 - _FREE_PART)
        return {key.kind for key in self._left_out.pop(namespace, set())} if has_room else set()


def _filter_characters(spec: Any) -> int:
    """How long a Listener's filters are together. The spec may have any form."""
    routes = spec.get("routes") if isinstance(spec, dict) else None
    filters = (
        [route.get("when") for route in routes or () if isinstance(route, dict)] if isinstance(routes, list) else []
    )
    return sum([len(text) for text in filters if isinstance(text, str)])


def _bytes_of(value: Any) -> int:
    """A JSON value's memory. One emoji makes each character of its text take four bytes."""
    match value:
        case dict():
            return sum(_bytes_of(name) + _bytes_of(member) for name, member in value.items())
        case list():
            return sum(map(_bytes_of, value))
    return sys.getsizeof(value)
