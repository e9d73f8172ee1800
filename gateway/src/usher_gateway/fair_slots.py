"""Slots for work that runs at the same time, shared fairly.

A namespace may use as many slots as it leaves free, and a tenant as many as its namespace leaves. So one namespace
alone gets half of the slots, and n namespaces that want everything leave 1/(n + 1) of them to the next one.
"""


class SlotPool:
    """A number of slots, and who uses them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size
        self._used_by_namespace: dict[str, int] = {}
        self._used_by_tenant: dict[str, int] = {}

    @property
    def namespaces(self) -> int:
        """How many namespaces use a slot."""
        return len(self._used_by_namespace)

    def admits(self, namespace: str, tenant: str) -> bool:
        """Return whether a tenant of a namespace may take another slot."""
        left = self.free - self._used_by_namespace.get(namespace, 0)
        return left > 0 and self._used_by_tenant.get(tenant, 0) < left

    def take(self, namespace: str, tenant: str) -> None:
        """Take a slot."""
        self.free -= 1
        self._used_by_namespace[namespace] = self._used_by_namespace.get(namespace, 0) + 1
        self._used_by_tenant[tenant] = self._used_by_tenant.get(tenant, 0) + 1

    def give_back(self, namespace: str, tenant: str) -> None:
        """Give back a slot that ``take`` took."""
        self.free += 1
        for used, holder in ((self._used_by_namespace, namespace), (self._used_by_tenant, tenant)):
            used[holder] -= 1
            if not used[holder]:
                del used[holder]
