"""Orders resources among their siblings: for a namespace's limits, hostname owners, and a Tenant's sums."""

import bisect
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Generic, TypeVar

from usher_gateway import resources
from usher_gateway.resources.listener_document import fixed_addresses
from usher_operator.state.values import CachedResource, Key, address_path

Group = TypeVar("Group", bound=Hashable)
Place = tuple[Any, ...]  # Sorts a key within its group; equal places go by key
Members = Sequence[tuple[Place, Key]]


class OrderedGroups(Generic[Group]):
    """Keys in groups, each group in order. A change or a rank needs O(log n) comparisons in a group with n keys."""

    def __init__(self) -> None:
        self._groups: dict[Group, list[tuple[Place, Key]]] = {}
        self._places: dict[Key, Mapping[Group, Place]] = {}

    def set(self, key: Key, places: Mapping[Group, Place]) -> None:
        """Set a key's groups, with its place in each; empty if it is in no group any more."""
        previous_places = self._places.get(key, {})
        for group, place in previous_places.items():
            if places.get(group) != place:
                members = self._groups[group]
                del members[bisect.bisect_left(members, (place, key))]
                if not members:
                    del self._groups[group]
        for group, place in places.items():
            if previous_places.get(group) != place:
                bisect.insort(self._groups.setdefault(group, []), (place, key))
        if places:
            self._places[key] = places
        else:
            self._places.pop(key, None)

    def groups_of(self, key: Key) -> AbstractSet[Group]:
        """A key's groups."""
        return self._places.get(key, {}).keys()

    def rank(self, group: Group, key: Key) -> int:
        """How many keys come before a key; 0 if it is not in the group."""
        place = self._places.get(key, {}).get(group)
        return bisect.bisect_left(self._groups[group], (place, key)) if place is not None else 0

    def members(self, group: Group) -> Members:
        """A group's keys in order, with their places. Do not keep or change the result."""
        return self._groups.get(group, ())


Claim = str | tuple[str, str]  # A hostname that a Listener names, or an address (`values.address_path`) with its tenant
ClaimGroup = tuple[Claim, str, str, str]  # Claim, namespace, class and Tenant


class ClaimIndex:
    """The Listeners by what they name, their namespace, their class and their Tenant.

    Whether one may have what it names depends on nothing else. So each group's oldest is enough to find
    the first claim, however many Listeners name the same. Users can name any number of classes and Tenants, so the
    Listeners whose class or Tenant does not exist have the class ``""`` here, and no lookup goes through the Tenants.
    """

    def __init__(self) -> None:
        self._order: OrderedGroups[ClaimGroup] = OrderedGroups()
        self._firsts: dict[Claim, dict[tuple[str, str], list[tuple[Place, Key]]]] = {}
        """Claim -> (namespace, class) -> each Tenant's oldest Listener, in order."""

    def set(self, key: Key, cached: CachedResource[resources.Listener] | None, class_name: str) -> None:
        """Index what a Listener names; None: it cannot be found. ``class_name``: `""` if it may have nothing."""
        places: dict[ClaimGroup, Place] = {}
        if cached is not None:
            listener, tenant = cached.resource, cached.resource.spec.tenant_ref.name
            claims: set[Claim] = {address.hostname for address in listener.spec.addresses}
            claims |= {(tenant, address_path(key.namespace, address)) for address in fixed_addresses(listener)}
            places = {(claim, key.namespace, class_name, tenant): cached.age for claim in claims}
        previous_members = {
            group: self._order.members(group)[:1] for group in self._order.groups_of(key) | places.keys()
        }
        self._order.set(key, places)
        for group, former_first in previous_members.items():
            first = self._order.members(group)[:1]
            if first != former_first:
                self._replace_first(group, former_first, first)

    def _replace_first(self, group: ClaimGroup, previous: Members, current: Members) -> None:
        """Replace a Tenant's oldest Listener; both are empty or have one."""
        claim, namespace, class_name, _ = group
        of_claim = self._firsts.setdefault(claim, {})
        firsts = of_claim.setdefault((namespace, class_name), [])
        for member in previous:
            del firsts[bisect.bisect_left(firsts, member)]
        for member in current:
            bisect.insort(firsts, member)
        if not firsts:
            del of_claim[namespace, class_name]
        if not of_claim:
            del self._firsts[claim]

    def of(self, key: Key) -> frozenset[Claim]:
        """The hostnames and addresses that a Listener names."""
        return frozenset(claim for claim, *_ in self._order.groups_of(key))

    def hostnames_of(self, key: Key) -> frozenset[str]:
        """The hostnames that a Listener names."""
        return frozenset(claim for claim in self.of(key) if isinstance(claim, str))

    def firsts(self, claim: Claim) -> Mapping[tuple[str, str], Members]:
        """Each Tenant's oldest Listener with a claim, by namespace and class. Do not keep or change the result."""
        return self._firsts.get(claim, {})

    def first_of(self, claim: Claim, namespace: str, class_name: str, tenant: str) -> Members:
        """The oldest Listener of a Tenant and a class with a claim; empty without one."""
        return self._order.members((claim, namespace, class_name, tenant))[:1]
