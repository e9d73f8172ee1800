"""Limits the memory that running attempts' requests take, shared fairly among namespaces and tenants.

Only the finished request shows how large it is: a transform can turn a small body into megabytes. An attempt counts as
much as its tenant's requests did lately, and is checked three times:

- It starts only if its tenant may take more memory.
- It makes its request only if its tenant still may.
- It keeps a large request only if its tenant still may. Nothing else runs between this check and the one before, so all
  requests together exceed the limit by one at most.

An attempt that fails the last two checks returns its delivery to the backlog. A tenant for which no large request is
expected passes the first two, so others' large requests do not delay it.
"""

import msgspec

from usher_gateway.fair_pool import FairPool

LARGE_REQUEST_BYTES = 16 * 1024  # Smaller requests do not count

# A large request is in memory twice: as the body that was made, and in the buffer of its connection.
_COPIES = 2


class _Attempt(msgspec.Struct):
    namespace: str
    tenant: str
    bytes: int = 0
    """Memory that is counted for its request."""


class RequestMemory:
    """The memory that running attempts' requests take, by their deliveries' keys."""

    def __init__(self, max_bytes: int) -> None:
        self._pool = FairPool(max_bytes)
        self._attempts: dict[int, _Attempt] = {}
        self.expected: dict[str, int] = {}
        """Tenant with large requests -> expected memory for the next one. Falls by a quarter with each smaller one."""
        self._has_freed = False

    def admits(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant of a namespace may start another attempt."""
        return tenant not in self.expected or self._pool.admits(namespace, tenant)

    def start(self, key: int, namespace: str, tenant: str) -> None:
        """Count the memory expected for an attempt's request."""
        attempt = self._attempts[key] = _Attempt(namespace, tenant)
        if tenant in self.expected:
            self._count(attempt, self.expected[tenant])

    def may_make(self, key: int) -> bool:
        """Return whether an attempt may make its request now, and stop counting its expected memory."""
        attempt = self._attempts[key]
        if self._is_ordinary(attempt):
            return True
        self._count(attempt, 0)
        return self.admits(attempt.namespace, attempt.tenant)

    def may_keep(self, key: int, length: int) -> bool:
        """Return whether an attempt may keep the request that it made, and count it. ``length``: its body's, in bytes.

        A request that may not be kept is expected again, so its tenant starts nothing before it may.
        """
        attempt = self._attempts[key]
        if length <= LARGE_REQUEST_BYTES and self._is_ordinary(attempt):
            return True
        size = length * _COPIES if length > LARGE_REQUEST_BYTES else 0
        expected = max(size, self.expected.pop(attempt.tenant, 0) * 3 // 4)
        if expected > LARGE_REQUEST_BYTES:
            self.expected[attempt.tenant] = expected
        if size and not self._pool.admits(attempt.namespace, attempt.tenant):
            return False
        self._count(attempt, size)
        return True

    def end(self, key: int) -> None:
        """Forget an attempt that has ended."""
        attempt = self._attempts.pop(key)
        if attempt.bytes:
            self._count(attempt, 0)

    def take_freed(self) -> bool:
        """Return whether memory was freed since the last call, so that more tenants may be admitted."""
        has_freed, self._has_freed = self._has_freed, False
        return has_freed

    def _is_ordinary(self, attempt: _Attempt) -> bool:
        """Return whether nothing is counted for an attempt, and no large request is expected."""
        return not attempt.bytes and attempt.tenant not in self.expected

    def _count(self, attempt: _Attempt, size: int) -> None:
        if attempt.bytes:
            self._pool.give_back(attempt.namespace, attempt.tenant, attempt.bytes)
            self._has_freed = True
        if size:
            self._pool.take(attempt.namespace, attempt.tenant, size)
        attempt.bytes = size
