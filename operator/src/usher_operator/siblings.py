"""Orders resources among their siblings: for limits of a namespace, owners of hostnames, and sums of a Tenant.

Each change returns the keys whose plan reads another result now, and costs the same however many siblings a key has.
"""

import bisect
import itertools
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Generic, TypeVar

from usher_gateway import resources
from usher_gateway.resources.listener_document import fixed_addresses
from usher_operator.view import CachedResource, ConditionStatus, Key, ListenerReadiness, address_path

Group = TypeVar("Group", bound=Hashable)
Place = tuple[Any, ...]  # Sorts a key within its group; equal places go by key


class OrderedGroups(Generic[Group]):
    """Keys in groups, each of them in order. A change or a rank needs O(log n) comparisons in a group of n keys."""

    def __init__(self) -> None:
        self._groups: dict[Group, list[tuple[Place, Key]]] = {}
        self._places: dict[Key, Mapping[Group, Place]] = {}

    def set(self, key: Key, places: Mapping[Group, Place]) -> None:
        """Set the groups of a key, with its place in each; empty if it is in no group any more."""
        former = self._places.get(key, {})
        for group, place in former.items():
            if places.get(group) != place:
                members = self._groups[group]
                del members[bisect.bisect_left(members, (place, key))]
                if not members:
                    del self._groups[group]
        for group, place in places.items():
            if former.get(group) != place:
                bisect.insort(self._groups.setdefault(group, []), (place, key))
        if places:
            self._places[key] = places
        else:
            self._places.pop(key, None)

    def groups_of(self, key: Key) -> AbstractSet[Group]:
        """The groups of a key."""
        return self._places.get(key, {}).keys()

    def rank(self, group: Group, key: Key) -> int:
        """The number of keys that come before a key, which is in the group."""
        return bisect.bisect_left(self._groups[group], (self._places[key][group], key))

    def first_place(self, group: Group) -> Place | None:
        """The place of the first key of a group; None if the group is empty."""
        members = self._groups.get(group)
        return members[0][0] if members else None

    def iterate(self, group: Group, first: int = 0) -> Iterator[Key]:
        """Iterate over the keys of a group in order, from an index on."""
        members = self._groups.get(group, ())
        return (members[index][1] for index in range(first, len(members)))


_LISTENER_STATES = tuple(
    ListenerReadiness(ready, is_held=is_held, is_suspended=is_suspended)
    for ready in typing.get_args(ConditionStatus)
    for is_held in (False, True)
    for is_suspended in (False, True)
)


Claim = str | tuple[str, str]  # A hostname that a Listener names, or an address (`view.address_path`) with its tenant
_ClaimGroup = tuple[Claim, str, str, str]  # Claim, namespace, Tenant and class


class ClaimIndex:
    """The Listeners by what they name, their namespace, their Tenant and their class.

    Whether one of them may have what it names depends on nothing else. So the oldest of each group is enough to find
    the first claim, however many Listeners name the same.
    """

    def __init__(self) -> None:
        self._order: OrderedGroups[_ClaimGroup] = OrderedGroups()
        self._groups: dict[Claim, set[_ClaimGroup]] = {}  # The groups of each hostname and address

    def set(self, key: Key, cached: CachedResource[resources.Listener] | None) -> None:
        """Index what a Listener names; None: it cannot be found."""
        places: dict[_ClaimGroup, Place] = {}
        if cached is not None:
            listener, tenant = cached.resource, cached.resource.spec.tenant_ref.name
            claims: set[Claim] = {address.hostname for address in listener.spec.addresses or ()}
            claims |= {(tenant, address_path(key.namespace, address)) for address in fixed_addresses(listener)}
            places = {(claim, key.namespace, tenant, listener.class_name): _age(cached) for claim in claims}
        changed = self._order.groups_of(key) ^ places.keys()
        self._order.set(key, places)
        for group in changed:
            groups = self._groups.setdefault(group[0], set())
            if self._order.first_place(group) is not None:
                groups.add(group)
            else:
                groups.discard(group)
            if not groups:
                del self._groups[group[0]]

    def of(self, key: Key) -> frozenset[Claim]:
        """The hostnames and addresses that a Listener names."""
        return frozenset(claim for claim, *_ in self._order.groups_of(key))

    def oldest(self, claim: Claim, is_counted: Callable[[str, str, str], bool]) -> list[Key]:
        """The oldest Listener of each namespace and class that names a hostname or an address, the oldest first.

        Args:
            claim: the hostname or the address.
            is_counted: whether the Listeners of a namespace, a Tenant and a class count.
        """
        firsts: dict[tuple[str, str], tuple[Place, Key]] = {}
        for group in self._groups.get(claim, ()):
            _, namespace, tenant, class_name = group
            place = self._order.first_place(group)
            if place is not None and is_counted(namespace, tenant, class_name):
                first = place, next(self._order.iterate(group))
                firsts[namespace, class_name] = min(first, firsts.get((namespace, class_name), first))
        return [key for _, key in sorted(firsts.values())]


class Siblings:
    """The orders and groups of the resources that this install serves."""

    def __init__(self) -> None:
        self._limits: Mapping[str, AbstractSet[int]] = {"Listener": set(), "Destination": set(), "Hostname": set()}
        """The limits of our classes, by the kind that they limit."""
        self._order: OrderedGroups[tuple[str, str]] = OrderedGroups()
        """Listeners, Destinations and hostnames by (kind, namespace), in the order in which they count against a
        limit."""
        self._summaries: OrderedGroups[tuple[str, ListenerReadiness]] = OrderedGroups()  # Listeners by Tenant and state
        self._companies: OrderedGroups[str] = OrderedGroups()  # Tenants by company (`namespace/companyID`)
        self._namers: OrderedGroups[tuple[str, str]] = OrderedGroups()
        """Listeners by namespace and hostname that they name, the oldest first."""
        self._claims = ClaimIndex()
        self._hosts_in_force: OrderedGroups[tuple[str, str]] = OrderedGroups()
        """Listeners by namespace and hostname in their published document, except for addresses of a class."""
        self._exposed: OrderedGroups[str] = OrderedGroups()
        """Listeners by the hostnames in their published document: with addresses of their own, then the oldest."""
        self._certificates: dict[str, str] = {}  # Hostname -> the namespace for which its Certificate counts

    def rank(self, key: Key) -> int:
        """How many keys of its kind and namespace come before one; 0 if it does not count."""
        group = key.kind, key.namespace
        return self._order.rank(group, key) if group in self._order.groups_of(key) else 0

    def tenants_of(self, company: str, limit: int) -> Sequence[str]:
        """The first names of the Tenants of a company (``namespace/companyID``)."""
        return [key.name for key in itertools.islice(self._companies.iterate(company), limit)]

    def companies_of(self, key: Key) -> AbstractSet[str]:
        """The company of a Tenant (``namespace/companyID``); empty if it names none."""
        return frozenset(self._companies.groups_of(key))

    def listeners_of(self, tenant_path: str, limit: int) -> Mapping[ListenerReadiness, Sequence[str]]:
        """The first names of the Tenant's Listeners, by state."""
        return {
            state: [key.name for key in itertools.islice(self._summaries.iterate((tenant_path, state)), limit)]
            for state in _LISTENER_STATES
        }

    def listeners_of_tenant(self, tenant_path: str) -> list[Key]:
        """Every Listener of a Tenant."""
        return [key for state in _LISTENER_STATES for key in self._summaries.iterate((tenant_path, state))]

    def claimants(self, claim: Claim, is_counted: Callable[[str, str, str], bool]) -> Sequence[Key]:
        """The oldest Listener of each namespace and class with a claim; see `ClaimIndex.oldest`."""
        return self._claims.oldest(claim, is_counted)

    def claimants_in(self, namespace: str, hostname: str) -> list[Key]:
        """The Listeners of a namespace that name a hostname, the oldest first."""
        return list(self._namers.iterate((namespace, hostname)))

    def claim(self, key: Key, cached: CachedResource[resources.Listener] | None) -> None:
        """Set the claims of a Listener; None: it cannot be found."""
        self._claims.set(key, cached)

    def claims_of(self, key: Key) -> frozenset[Claim]:
        """The hostnames and the addresses that a Listener names."""
        return self._claims.of(key)

    def oldest_at(self, hostname: str) -> Iterator[Key]:
        """The Listeners with a published document at a hostname: with addresses of their own there, then the oldest."""
        return self._exposed.iterate(hostname)

    def set_limits(self, limits: Mapping[str, Iterable[int | None]]) -> None:
        """Set the limits of our classes, by the kind that they limit; None is no limit."""
        self._limits = {kind: {limit for limit in of_kind if limit is not None} for kind, of_kind in limits.items()}

    def group_by_company(self, key: Key, company_id: str | None) -> None:
        """Put a Tenant into the group of its company; None: it names none, or is gone."""
        self._companies.set(key, {f"{key.namespace}/{company_id}": ()} if company_id else {})

    def expose(
        self, key: Key, cached: CachedResource[resources.Listener] | None, hostnames: Mapping[str, bool]
    ) -> frozenset[str]:
        """Set the hostnames in the published document of a Listener: True for those where it owns a live address.

        Returns these and the former ones.
        """
        former = frozenset(self._exposed.groups_of(key))
        places = {host: (not is_own, cached.created) for host, is_own in hostnames.items()} if cached else {}
        self._exposed.set(key, places)
        return former | places.keys()

    def reorder(self, key: Key, place: Place | None) -> frozenset[Key]:
        """Set the place of a key among its siblings; returns the others for which a limit now differs."""
        group = (key.kind, key.namespace)
        edge = [
            (sibling, limit, self._order.rank(group, sibling) < limit)
            for limit in self._limits[key.kind]
            for sibling in itertools.islice(self._order.iterate(group, max(0, limit - 1)), 2)
        ]
        self._order.set(key, {group: place} if place is not None else {})
        return frozenset(
            sibling
            for sibling, limit, was_within in edge
            if sibling != key and (self._order.rank(group, sibling) < limit) != was_within
        )

    def rank_hostnames(
        self, key: Key, cached: CachedResource[resources.Listener] | None, in_force: AbstractSet[str]
    ) -> frozenset[Key]:
        """Update the order of a Listener's hostnames: those that it names or named, and those that it still has.

        ``in_force``: the hostnames in its published document, except for addresses of its class. Returns the hostnames
        for which a limit now differs.
        """
        named = {address.hostname for address in cached.resource.spec.addresses or ()} if cached is not None else set()
        namespace = key.namespace
        former = {host for _, host in (*self._namers.groups_of(key), *self._hosts_in_force.groups_of(key))}
        self._namers.set(key, _places_of_namer(namespace, named, cached) if cached is not None else {})
        self._hosts_in_force.set(key, {(namespace, host): () for host in in_force})
        return frozenset().union(*(self._reorder_hostname(namespace, host) for host in former | named | in_force))

    def count_certificate(self, host: str, namespace: str) -> frozenset[Key]:
        """Set for which namespace the Certificate of a hostname counts; `""`: there is none, or it does not count.

        Returns the hostnames for which a limit now differs.
        """
        former = self._certificates.get(host, "")
        if former == namespace:
            return frozenset()
        self._certificates[host] = namespace
        if not namespace:
            del self._certificates[host]
        return frozenset().union(*(self._reorder_hostname(each, host) for each in (former, namespace) if each))

    def _reorder_hostname(self, namespace: str, host: str) -> frozenset[Key]:
        """Update the place of a hostname; returns the hostnames for which a limit now differs, this one among them."""
        key = Key("Hostname", namespace, host)
        former = self._limits_met(key)
        others = self.reorder(key, self._place_of_hostname(namespace, host))
        return others if self._limits_met(key) == former else others | {key}

    def _limits_met(self, key: Key) -> AbstractSet[int]:
        """The limits within which a key is; none if it does not count."""
        if (key.kind, key.namespace) not in self._order.groups_of(key):
            return frozenset()
        rank = self.rank(key)
        return {limit for limit in self._limits[key.kind] if rank < limit}

    def _place_of_hostname(self, namespace: str, host: str) -> Place | None:
        """The place of a hostname among those of a namespace; None if it does not count.

        First come those in force that a Listener names, then those that have a Certificate already, then those that
        have only retired addresses or were given up, then the others.
        """
        is_in_force = next(self._hosts_in_force.iterate((namespace, host)), None) is not None
        has_certificate = self._certificates.get(host) == namespace
        oldest = self._namers.first_place((namespace, host))
        if oldest is not None:
            created, _uid = oldest
            return (0 if is_in_force else 1 if has_certificate else 3), created
        return (2, "") if is_in_force or has_certificate else None

    def summarize(self, key: Key, cached: CachedResource[resources.Listener] | None) -> frozenset[Key]:
        """Update the summary of a Listener's Tenant; returns the Tenants whose summary changed."""
        former = frozenset(self._summaries.groups_of(key))
        group = (_tenant_path(cached.resource), ListenerReadiness.of(cached)) if cached is not None else None
        self._summaries.set(key, {group: ()} if group is not None else {})
        changed = former ^ self._summaries.groups_of(key)
        return frozenset(Key("Tenant", key.namespace, path.partition("/")[2]) for path, _ in changed)


def _places_of_namer(
    namespace: str, hostnames: Iterable[str], cached: CachedResource[Any]
) -> dict[tuple[str, str], Place]:
    """The places of a Listener among those that name the same hostnames."""
    return dict.fromkeys(((namespace, host) for host in hostnames), _age(cached))


def _age(cached: CachedResource[Any]) -> Place:
    return cached.created, cached.uid


def _tenant_path(listener: resources.Listener) -> str:
    return f"{listener.metadata.namespace}/{listener.spec.tenant_ref.name}"
