"""Decides which listener may have which address: hostnames that a class allows, hostname owners, paths taken.

A ListenerClass's hostname is reserved for its listeners without ``addresses``. Every other hostname belongs to one
tenant: to the one that holds it already, else to the first that asks. A tenant holds a hostname while its document has
an address there, whether or not its resources exist at this moment. An address at its class's hostname gives a tenant
no hold on that hostname. Within a hostname an address (path and query) belongs to the first listener that takes it.
"""

from collections.abc import Callable, Collection, Container, Iterable, Mapping

import msgspec

from usher_gateway import documents
from usher_gateway.resources import conditions, listener_class

IMPLICIT_HOSTNAME = "localhost"  # Where listeners answer if the files have no ListenerClass at all
Owner = tuple[str, str]  # (namespace, tenant)


class HostnamePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A ListenerClass as one namespace's listeners see it."""

    spec: listener_class.ListenerClassSpec
    namespace_labels: Mapping[str, str]
    reserved: Container[str] = frozenset()  # The hostnames that classes have, or had while retired addresses are there
    is_implicit: bool = False  # True if the files have no ListenerClass, so that every hostname is allowed

    @property
    def permits_namespace(self) -> bool:
        """True if listeners in this namespace may use the class."""
        return permits(self.spec.namespaces, self.namespace_labels)

    def refusal(self, hostname: str) -> conditions.Reason | None:
        """Return why this namespace may not name a hostname; None if it may."""
        if self.is_implicit:
            return None
        if hostname in self.reserved:
            return conditions.Reason.HostnameReserved
        for allowed in self.spec.allowed_hostnames:
            if matches(allowed.hostname, hostname) and permits(allowed.namespaces, self.namespace_labels):
                return None
        return conditions.Reason.HostnameNotAllowed

    def can_claim(self, hostname: str) -> bool:
        """Return True if a listener in this namespace may claim a hostname."""
        return self.permits_namespace and self.refusal(hostname) is None


class AddressClaims:
    """The owners of hostnames, and the addresses that listeners have taken so far."""

    def __init__(self, owners: Mapping[str, Owner], is_over_limit: Callable[[str, str, int], bool]) -> None:
        """Prepare the claims.

        ``owners`` has the tenant to which each hostname belongs. ``is_over_limit`` takes (namespace, hostname, limit),
        and returns True if as many hostnames in the namespace come before this one.
        """
        self._owners, self._is_over_limit = owners, is_over_limit
        self._taken: dict[documents.Place, str] = {}

    def may_have(self, hostname: str, owner: Owner) -> bool:
        """Return True if a hostname belongs to this tenant or to no tenant."""
        return self._owners.get(hostname, owner) == owner

    def may_keep(self, address: documents.Address, owner: Owner) -> bool:
        """Return True if a tenant may keep an address that it had. Nobody else gets an address from a class."""
        return address.is_class_address or self.may_have(address.host, owner)

    def is_over_limit(self, hostname: str, namespace: str, spec: listener_class.ListenerClassSpec) -> bool:
        """Return True if a namespace has as many other hostnames already as its class allows."""
        limit = spec.maximums.hostnames_per_namespace
        return limit is not None and self._is_over_limit(namespace, hostname, limit)

    def take(self, address: documents.Address, listener_key: str) -> bool:
        """Give an address to a listener; False if another listener has it."""
        return self._taken.setdefault(address.place, listener_key) == listener_key


def owners_of(
    claims: Iterable[tuple[str, Owner]], holders: Mapping[str, Collection[Owner]] | None = None
) -> dict[str, Owner]:
    """Return which tenant gets each claimed hostname. The claims are in order of precedence.

    ``holders`` has the tenants that have a hostname now. One of them keeps it, even if none claims it.
    """
    owners: dict[str, Owner] = {}
    for hostname, owner in claims:
        held_by = holders.get(hostname) if holders else None
        if not held_by or owner in held_by:
            owners.setdefault(hostname, owner)
    unclaimed = {host: min(held_by) for host, held_by in (holders or {}).items() if held_by}
    return {**unclaimed, **owners}


def matches(pattern: str, hostname: str) -> bool:
    """Return True if a pattern allows a hostname. ``*.x`` matches one or more labels before ``x``."""
    return hostname.endswith(pattern[1:]) if pattern.startswith("*.") else hostname == pattern


def first_overlap(patterns: Iterable[str], others: Collection[str]) -> str | None:
    """Return the first pattern that allows a hostname that another one allows too; None if none does."""
    suffixes = {other[2:] for other in others if other.startswith("*.")}
    parents_of_others = {parent for other in others for parent in _parents(other.removeprefix("*."))}
    for pattern in patterns:
        name = pattern.removeprefix("*.")
        is_below_other = any(parent in suffixes for parent in _parents(name))
        is_above_other = name != pattern and name in parents_of_others
        if pattern in others or is_below_other or is_above_other:
            return pattern
    return None


def _parents(hostname: str) -> list[str]:
    labels = hostname.split(".")
    return [".".join(labels[start:]) for start in range(1, len(labels))]


def permits(namespaces: listener_class.Namespaces, labels: Mapping[str, str]) -> bool:
    """Return True if a ListenerClass's ``namespaces`` selects a namespace with these labels."""
    if namespaces.from_ == "All":
        return True
    selector = namespaces.selector or listener_class.LabelSelector()
    if any(labels.get(key) != value for key, value in selector.match_labels.items()):
        return False
    return all(_meets(requirement, labels) for requirement in selector.match_expressions)


def _meets(requirement: listener_class.SelectorRequirement, labels: Mapping[str, str]) -> bool:
    values = requirement.values
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in values
        case "NotIn":
            return labels.get(requirement.key) not in values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels
