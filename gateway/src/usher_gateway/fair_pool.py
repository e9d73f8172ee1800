"""Slots, or bytes of memory, for work that runs at the same time, shared fairly.

A namespace may use as much as it leaves free, and a tenant as much as its namespace leaves. So one namespace alone gets
half the pool, and n namespaces that want everything leave 1/(n + 1) of it to the next one.
"""


class FairPool:
    """A number of slots or bytes, and who uses them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._used_by_namespace: dict[str, int] = {}
        self._used_by_tenant: dict[str, int] = {}

    @property
    def namespaces(self) -> int:
        """How many namespaces use a part of it."""
        return len(self._used_by_namespace)

    def admits(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant of a namespace may take more."""
        available = self.free - self._used_by_namespace.get(namespace, 0)
        return available > 0 and self._used_by_tenant.get(tenant, 0) < available

    def take(self, namespace: str, tenant: str, amount: int = 1) -> None:
        """Take a slot, or an amount in bytes. It may be more than is free."""
        self.free -= amount
        self._used_by_namespace[namespace] = self._used_by_namespace.get(namespace, 0) + amount
        self._used_by_tenant[tenant] = self._used_by_tenant.get(tenant, 0) + amount

    def give_back(self, namespace: str, tenant: str, amount: int = 1) -> None:
        """Give back what ``take`` took."""
        self.free += amount
        for used, holder in ((self._used_by_namespace, namespace), (self._used_by_tenant, tenant)):
            used[holder] -= amount
            if not used[holder]:
                del used[holder]
