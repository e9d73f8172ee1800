"""How much memory each namespace's resources and documents take. Pure.

An agency can fill its namespace with resources: 500 Listeners with long expressions took 500 MB. A resource over
the limit is treated as one that cannot be read: the operator keeps only its status, and its document stays in force.

A document repeats a Secret's value as often as its resource refers to it: 700 Destinations with one value of 48 KiB in
14 headers each made a gateway of 1 GB. A document over the limit is not published.
"""

import sys
from typing import Any

from usher_operator.state.values import Key, Kind

# For a namespace's specs and compiled filters, and again for its documents: enough for 2,600 customers with two routes
# and two Destinations each.
MOST_BYTES = 48 * 1024 * 1024

# The part that must be free before what was left out is read again: not every edit at the limit causes a reading.
_FREE_PART = 1 / 8

_OBJECT_BYTES = 2048  # Of a resource besides its spec

# A gateway keeps each route's filter compiled: a list of short constants takes this much for a character.
_FILTER_BYTES = 48


class _Usage:
    """The size of each key in bytes, summed up by namespace."""

    def __init__(self) -> None:
        self._sizes: dict[Key, int] = {}
        self._sums: dict[str, int] = {}

    def set(self, key: Key, size: int) -> None:
        """Set a key's size; 0 forgets it."""
        total = self._sums.pop(key.namespace, 0) - self._sizes.pop(key, 0) + size
        if size:
            self._sizes[key] = size
        if total:
            self._sums[key.namespace] = total

    def size_of(self, key: Key) -> int:
        """A key's size."""
        return self._sizes.get(key, 0)

    def sum_of(self, namespace: str) -> int:
        """The size of a namespace's keys."""
        return self._sums.get(namespace, 0)


class NamespaceMemory:
    """Decides which resources and documents a namespace has memory for: those that came first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._specs, self._documents = _Usage(), _Usage()
        self._left_out: dict[str, set[Key]] = {}

    def admit(self, key: Key, spec: object) -> bool:
        """Return whether there is room for a resource's spec, in place of its previous one."""
        self.forget(key)
        size = _OBJECT_BYTES + _bytes_of(spec) + _FILTER_BYTES * _filter_characters(spec)
        if self._specs.sum_of(key.namespace) + size > self._most_bytes:
            self._left_out.setdefault(key.namespace, set()).add(key)
            return False
        self._specs.set(key, size)
        return True

    def forget(self, key: Key) -> None:
        """Free a resource's memory."""
        self._left_out.get(key.namespace, set()).discard(key)
        self._specs.set(key, 0)

    def take_readable(self, namespace: str) -> set[Kind]:
        """Return, once, the kinds that were left out, if there is room now."""
        has_room = self._specs.sum_of(namespace) <= self._most_bytes * (1 - _FREE_PART)
        return {key.kind for key in self._left_out.pop(namespace, set())} if has_room else set()

    def set_document(self, key: Key, size: int) -> bool:
        """Note the size of a key's published document in bytes, 0 without one.

        Returns True if another document of the namespace may have or lack room by that. A document is at most 1 MB, so
        every one has room while an eighth is free.
        """
        if size == self._documents.size_of(key):
            return False
        self._documents.set(key, size)
        return self._documents.sum_of(key.namespace) > self._most_bytes * (1 - _FREE_PART)

    def has_room_for_document(self, key: Key, size: int) -> bool:
        """Return whether a key may have a document of this size. One no larger than its present one always may."""
        current_size = self._documents.size_of(key)
        return size <= current_size or self._documents.sum_of(key.namespace) - current_size + size <= self._most_bytes


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
