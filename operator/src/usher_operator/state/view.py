"""Everything that the operator knows about the cluster, and every question that plans and other parts ask.

`Cache` adds the changes. A lookup that plans make is marked with `lookup`, so that `Reads` notes its answer. It costs
no more than the size of its answer, because plan() makes thousands of them, for one key at a time.
"""

import collections
import itertools
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from usher_gateway import documents, model, resources
from usher_gateway.resources.hostnames import Owner
from usher_gateway.resources.removal_limit import HaltedRemovals, confirmations_of, smallest_limit
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.confirmed_clock import steady_microseconds, wall_microseconds
from usher_operator.state.gateway_reports import GatewayReports
from usher_operator.state.indexes import ChildIndex, GroupIndex, HolderIndex, OptionalApis, SecretIndex
from usher_operator.state.memory import NamespaceMemory
from usher_operator.state.reads import Reads, lookup
from usher_operator.state.siblings import Claim, ClaimIndex, Members, OrderedGroups
from usher_operator.state.values import (
    CachedResource,
    ChildState,
    ClusterFeatures,
    ConditionStatus,
    Key,
    ListenerReadiness,
    ObjectRef,
    PublishedDocument,
    Reachability,
    SecretAccess,
    SecretState,
    UnreadableResource,
    WriteFailure,
    hostname_key,
    path_key,
)

KeySet = frozenset[Key]
Version = tuple[str, str]  # (uid, resourceVersion)
NO_VERSION: Version = ("", "")  # The object is not there
ResourceT = TypeVar("ResourceT", resources.Tenant, resources.Listener, resources.Destination)

_DELETED_UIDS = 1000  # More deletions than watches report between a write and its answer

_LISTENER_STATES = tuple(
    ListenerReadiness(ready, is_held=is_held, is_suspended=is_suspended)
    for ready in typing.get_args(ConditionStatus)
    for is_held in (False, True)
    for is_suspended in (False, True)
)


class View:
    """The cluster's present state.

    Args:
        clock: monotonic microseconds.
        confirmed_clock: the time by which addresses end, in microseconds.
        expect_event: called with an object's kind when a write or a list shows a change that its watch has to
            report.
        read_again: called with a kind whose objects have to be read, because their namespace has memory again.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        *,
        clock: Callable[[], int] = steady_microseconds,
        confirmed_clock: Callable[[], int] = wall_microseconds,
        expect_event: Callable[[str], None] = lambda _: None,
        read_again: Callable[[kinds.WatchedKind], None] = lambda _: None,
        memory: NamespaceMemory | None = None,
    ) -> None:
        self._expect_event, self._read_again = expect_event, read_again
        self._memory = memory or NamespaceMemory()
        self._clock, self._confirmed_clock = clock, confirmed_clock
        self.settings = settings
        self.keys: model.Keys | None = None
        """Derived from the install key; None before the operator has one. Config Secrets are parsed with them when they
        are put into the cache."""
        self.optional = OptionalApis()
        # removals that wait for a confirmation, by namespace; None before the first decision since the start
        self.halted: tuple[HaltedRemovals, ...] | None = None
        self.records: dict[Key, kinds.ResourceRecord] = {}  # Every custom resource, by key
        self._ending: dict[Key, kinds.ResourceRecord] = {}
        """Resources that somebody deleted and another program's finalizer still keeps. Plans treat them as gone. A
        deleted ListenerClass counts until it is gone, because its Listeners need it."""
        self._edited: dict[Key, int] = {}  # Generation of each resource after its last edit while the operator runs
        self.classes: dict[str, CachedResource[resources.ListenerClass]] = {}
        """Every ListenerClass that this version can parse, also if another install serves it."""
        self._unreadable_classes: set[str] = set()
        self._order: OrderedGroups[tuple[str, str]] = OrderedGroups()
        """Listeners, Destinations and hostnames by (kind, namespace), in the order in which they count against a
        limit."""
        self._companies: OrderedGroups[str] = OrderedGroups()  # Tenants by company (`namespace/companyID`)
        self._summaries: OrderedGroups[tuple[str, ListenerReadiness]] = OrderedGroups()  # Listeners by Tenant and state
        self._exposed: OrderedGroups[str] = OrderedGroups()
        """Listeners by the hostnames in their published document: with addresses of their own, then the oldest."""
        self._claims = ClaimIndex()
        self._uses: GroupIndex[tuple[Key, str]] = GroupIndex()
        """Listeners by the Tenant and the Destinations that they refer to, each with its class name."""
        self.secrets = SecretIndex(clock)
        self.reads = Reads()  # The lookups of the last plan of each key
        self._granted: dict[str, tuple[Key, Owner]] = {}
        self._stored_holders = HolderIndex()  # The tenants that hold hostnames by the stored status of a Listener
        self._namespaces: dict[str, dict[str, str]] = {}
        self._versions: dict[tuple[str, str], dict[str, Version]] = {}
        """Kind name, and namespace -> name -> (uid, resourceVersion) for each object."""
        self.child_index = ChildIndex(settings)  # Every existing child of this install
        self.reports = GatewayReports(self.child_index)
        self._deleted_uids: collections.deque[str] = collections.deque(maxlen=_DELETED_UIDS)
        """Uids of the objects that were deleted last."""
        self._abandoned: set[str] = set()
        """Classes that this install served under another controllerName, by name, until their status says so."""
        self._retirements: dict[Key, frozenset[str]] = {}
        """Addresses that the removal guard allowed to retire, until a document without them is published."""
        self._behind: dict[Key, int] = {}
        self._write_failures: dict[Key, WriteFailure] = {}
        self.reachabilities: dict[str, Reachability] = {}  # The last check of each hostname
        self._changed_routes: set[str] = set()
        """Checked hostnames whose Ingress, HTTPRoute or Certificate changed since they were last taken."""

    # The lookups for plan().

    @property
    def now(self) -> int:
        """Monotonic microseconds, to measure durations."""
        return self._clock()

    @property
    def time(self) -> int:
        """The time by which addresses end, in microseconds: a jump in a wall clock does not change it."""
        return self._confirmed_clock()

    @property
    def features(self) -> ClusterFeatures:
        """The cluster's optional APIs and objects."""
        return self.optional.features

    @lookup("Tenant")
    def tenant(self, path: str) -> CachedResource[resources.Tenant] | None:
        """By ``namespace/name``."""
        return self._parsed(path_key("Tenant", path), resources.Tenant)

    @lookup("Listener")
    def listener(self, path: str) -> CachedResource[resources.Listener] | None:
        """By ``namespace/name``."""
        return self._parsed(path_key("Listener", path), resources.Listener)

    @lookup("Destination")
    def destination(self, path: str) -> CachedResource[resources.Destination] | None:
        """By ``namespace/name``."""
        return self._parsed(path_key("Destination", path), resources.Destination)

    @lookup()
    def unreadable(self, key: Key) -> UnreadableResource | None:
        """A resource that exists but that this version cannot parse, so that the lookups above do not find it."""
        record = self.records.get(key)
        return record.parsed if record is not None and isinstance(record.parsed, UnreadableResource) else None

    @lookup()
    def ending(self, key: Key) -> UnreadableResource | None:
        """A resource that was deleted and still exists, because finalizers keep it. Usher takes it out of service."""
        record = self._ending.get(key)
        if record is None:
            return None
        return UnreadableResource(
            uid=record.uid,
            generation=record.generation,
            message="",
            class_name=getattr(getattr(record.parsed, "resource", record.parsed), "class_name", ""),
            conditions=record.parsed.conditions,
            fields=record.parsed.fields,
        )

    def record_of(self, key: Key) -> kinds.ResourceRecord | None:
        """A resource as it was last read, also one that was deleted and still exists."""
        return self.records.get(key) or self._ending.get(key)

    @lookup("Limit")
    def is_over_limit(self, key: Key, limit: int) -> bool:
        """True if at least this many Listeners, Destinations or hostnames come before one in its namespace.

        Published ones count first, also deleted ones whose documents are in force; then the oldest. Other installs'
        Listeners do not count. A hostname's key is ``Key("Hostname", namespace, hostname)`` here.
        """
        return self.rank(key) >= limit

    def rank(self, key: Key) -> int:
        """How many Listeners, Destinations or hostnames come before one in its namespace."""
        return self._order.rank((key.kind, key.namespace), key)

    @lookup("Company")
    def tenants_of(self, company: str, limit: int) -> Sequence[str]:
        """The first names among a company's Tenants; ``company``: ``namespace/companyID``."""
        return [key.name for _, key in self._companies.members(company)[:limit]]

    @lookup("Listeners")
    def listeners_of(self, tenant_path: str, limit: int) -> Mapping[ListenerReadiness, Sequence[str]]:
        """A Tenant's Listeners in all installs: for each state the first names, at most ``limit``."""
        members = {state: self._summaries.members((tenant_path, state)) for state in _LISTENER_STATES}
        return {state: [key.name for _, key in of_state[:limit]] for state, of_state in members.items() if of_state}

    def listeners_using(self, key: Key) -> Iterable[Key]:
        """The Listeners that refer to a Tenant or a Destination. Not a lookup, as `classes_using`."""
        names = self.classes_using(key)
        return itertools.chain.from_iterable(self._uses.keys_of((key, name)) for name in names)

    def classes_using(self, key: Key) -> Collection[str]:
        """ListenerClass names of the Listeners that refer to a Tenant or a Destination.

        ``""`` stands for those that do not exist. Not a lookup: `Cache` plans the keys again whose classes change.
        """
        names = (*self.classes, *self._unreadable_classes, "")
        return [name for name in names if self._uses.keys_of((key, name))]

    @lookup("Hostname")
    def claimants(self, hostname: str) -> Sequence[Key]:
        """For each namespace and class, the oldest Listener that names a hostname and whose Tenant and class exist.

        The oldest comes first. Other installs' Listeners are left out.
        """
        return self._oldest_claimants(hostname)

    @lookup("Hostname")
    def claimants_in(self, hostname: str, namespace: str) -> Sequence[Key]:
        """As `claimants`, for one namespace, with each class's oldest Listener under a second Tenant."""
        firsts = self._claims.firsts(hostname)
        return _in_order(firsts.get((namespace, class_name), ())[:2] for class_name in self.our_class_names())

    @lookup("Hostname")
    def claimants_of(self, hostname: str, namespace: str, tenant: str) -> Sequence[Key]:
        """As `claimants`, for one Tenant."""
        return _in_order(
            self._claims.first_of(hostname, namespace, class_name, tenant) for class_name in self.our_class_names()
        )

    @lookup("Address")
    def namers(self, address: str, tenant: str) -> Sequence[Key]:
        """The Listeners that name an address (`address_path`) with its path and may come first, in any order.

        These are the namespace's Listeners whose published documents have it, and the tenant's oldest one in each
        class.
        """
        published = [
            key
            for key in self.child_index.by_address.keys_of(address)
            if (self._tenant_of(key), address) in self._claims.of(key)
        ]
        return list(dict.fromkeys((*published, *self._oldest_claimants((tenant, address)))))

    @lookup("Hostname")
    def is_reserved(self, hostname: str) -> bool:
        """True if no Listener may name a hostname, because a class has it or had it.

        A former one stays reserved while documents have the class's addresses there, unless a tenant holds it: a class
        edit and its revert take no hostname from a tenant.
        """
        if any(listener_class.resource.spec.hostname == hostname for listener_class in self.classes.values()):
            return True
        return hostname in self.child_index.by_class_hostname.groups and not self._holders(hostname)

    @lookup("Hostname")
    def class_at(self, hostname: str) -> str:
        """This install's ListenerClass that the first Listener with a published document at a hostname has.

        First come the Listeners with an address of their own there that is not retired, then the oldest. ``""``: none.
        """
        listeners = (self._parsed(key, resources.Listener) for _, key in self._exposed.members(hostname))
        names = (cached.resource.class_name for cached in listeners if cached is not None)
        return next((name for name in names if self.our_class(name) is not None), "")

    def listeners_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        """The published documents that have an address at a hostname, in any order. Only for a Hostname's plan.

        Not a lookup, because the answer may be long: a changed document always concerns its hostnames.
        """
        published = map(self.child_index.listener_document, self.child_index.by_hostname.keys_of(hostname))
        return [document for document in published if document is not None]

    @lookup("Address")
    def absent_with(self, address: str, tenant: str) -> Sequence[Key]:
        """A tenant's Listeners that cannot be found and whose published documents have an address."""
        absent = [key for key in self.child_index.by_address.keys_of(address) if not self._tenant_of(key)]
        published = ((key, self.child_index.listener_document(key)) for key in absent)
        return [key for key, document in published if document is not None and document.tenant.name == tenant]

    @lookup("Hostname")
    def has_listeners_at(self, hostname: str) -> bool:
        """True if a published document has an address at a hostname."""
        return bool(self.child_index.by_hostname.keys_of(hostname))

    @lookup("Hostname")
    def has_lost_listeners_at(self, hostname: str) -> bool:
        """True if neither a document nor a tombstone has a hostname, but a Listener's status or a gateway has it."""
        lost = self._stored_holders.keys_of(hostname) or self.reports.holders.keys_of(hostname)
        return bool(lost) and not self.child_index.holders.keys_of(hostname)

    @lookup("Hostname")
    def holders(self, hostname: str) -> Collection[Owner]:
        """The tenants that have a hostname: by a document that is being written, or else by documents and tombstones.

        If config Secrets are lost, the statuses stored for Listeners that still name the hostname decide, and last
        the gateways that run documents without a config Secret.
        """
        return self._holders(hostname)

    @lookup("Hostname")
    def only_holder(self, hostname: str) -> Key | None:
        """The Listener by which a tenant has a hostname; None if there are several or none."""
        granted, evidence = self._granted.get(hostname), self._evidence_of(hostname)
        holding = evidence.keys_of(hostname) if evidence is not None else frozenset()
        if granted is not None:
            return granted[0] if holding <= {granted[0]} else None
        return next(iter(holding)) if len(holding) == 1 else None

    @lookup("Hostname")
    def shown_holders(self, hostname: str) -> Collection[Owner]:
        """The tenants whose Listeners name a hostname and have a stored status that shows it as their own."""
        return self._stored_holders.holders(hostname)

    @lookup()
    def published(self, key: Key) -> PublishedDocument | None:
        """The document in a Listener's or Destination's config Secret."""
        return self.child_index.published(key)

    @lookup("Documents")
    def has_room_for_document(self, _namespace: str, key: Key, size: int) -> bool:
        """True if a key's namespace has memory for a document of this size in bytes."""
        return self._memory.has_room_for_document(key, size)

    @lookup("Namespace")
    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """A namespace's labels; empty if the namespace is not known."""
        return self._namespaces.get(namespace, {})

    @lookup("Namespace")
    def namespace_uid(self, namespace: str) -> str:
        """A namespace's ``metadata.uid``; ``""`` if the namespace is not known."""
        return self.version_of(kinds.NAMESPACE, "", namespace)[0]

    @lookup("Namespace")
    def secret_access(self, namespace: str) -> SecretAccess:
        """The operator's access to a namespace's Secrets, or to all namespaces at once if the name is empty."""
        return self.secrets.access(namespace)

    def kind_of(self, child: ObjectRef) -> kinds.WatchedKind:
        """The kind whose watch reports a child."""
        is_agencys = child.kind == kinds.SECRET.name and child.namespace != self.settings.configuration_namespace
        return kinds.AGENCY_SECRET if is_agencys else kinds.BY_NAME[child.kind]

    @lookup("Secret")
    def secret(self, path: str) -> resources.Secret | None:
        """A labelled Secret by ``namespace/name``."""
        return self.secrets.get(path)

    @lookup("Secret")
    def secret_state(self, path: str) -> SecretState | None:
        """A Secret's state; None if it has to be looked up."""
        return self.secrets.state(path)

    def may_retire(self, key: Key, addresses: frozenset[str]) -> bool:
        """True if a Listener's new document may take these addresses (``Address.id``) out of service."""
        return addresses <= self._retirements.get(key, frozenset())

    def is_abandoned(self, class_name: str) -> bool:
        """True if this install served a class under another controllerName, and the class does not say so yet."""
        return class_name in self._abandoned

    def is_edited(self, key: Key) -> bool:
        """True if a resource was edited while the operator runs, and its document was compiled before the edit."""
        child, edited = self.child_index.config_of(key), self._edited.get(key, 0)
        return child is not None and edited > child.owner_generation

    @lookup()
    def children(self, key: Key) -> Collection[ChildState]:
        """A key's existing children that this install made, in any order."""
        return tuple(child.state for child in self.child_index.of(key))

    def behind_since(self, key: Key) -> int | None:
        """Since when (microseconds) a key's plans say ``is_behind``; None if the last plan did not."""
        return self._behind.get(key)

    def lane_of(self, key: Key) -> str:
        """The namespace whose changes cause the work for a key; `""` for classes and their hostnames."""
        if key.kind != "Hostname" or any(
            listener_class.resource.spec.hostname == key.name for listener_class in self.classes.values()
        ):
            return key.namespace
        namespaces = {namespace for namespace, _ in self._holders(key.name)}
        return namespaces.pop() if len(namespaces) == 1 else ""

    def exists(self, key: Key) -> bool:
        """True if a key has a resource or a child, or something has or had an address at its hostname."""
        if key in self.records or self.child_index.of(key):
            return True
        has_documents = self.child_index.by_hostname.keys_of(key.name) or self._stored_holders.keys_of(key.name)
        return key.kind == "Hostname" and bool(has_documents)

    def all_keys(self) -> KeySet:
        """Every key with a resource, perhaps a deleted one, or a child, and every hostname in a published document."""
        of_classes = (listener_class.resource.spec.hostname for listener_class in self.classes.values())
        hostnames = map(hostname_key, (*self.child_index.by_hostname.groups, *of_classes))
        return frozenset((*self.records, *self._ending, *self.child_index.keys, *hostnames))

    def our_classes(self) -> list[CachedResource[resources.ListenerClass]]:
        """The ListenerClasses that this install serves."""
        return [listener_class for listener_class in self.classes.values() if self.is_ours(listener_class)]

    def our_class_names(self) -> list[str]:
        """Their names."""
        return [listener_class.resource.metadata.name for listener_class in self.our_classes()]

    def our_class(self, name: str) -> CachedResource[resources.ListenerClass] | None:
        """A ListenerClass that this install serves."""
        listener_class = self.classes.get(name)
        return listener_class if listener_class is not None and self.is_ours(listener_class) else None

    def is_ours(self, listener_class: CachedResource[resources.ListenerClass]) -> bool:
        """True if this install serves a class."""
        return listener_class.resource.spec.controller_name == self.settings.controller_name

    def is_foreign_class(self, name: str) -> bool:
        """True if another install serves a class. A class that does not exist belongs to every install."""
        return name in self.classes and self.our_class(name) is None

    def confirmations(self) -> frozenset[str]:
        """Digests of removals that users confirmed on this install's classes."""
        digests = [
            confirmations_of(listener_class.resource.metadata.annotations) for listener_class in self.our_classes()
        ]
        return frozenset().union(*digests)

    @property
    def removal_limit(self) -> int | None:
        """The install's removal limit; None means the usual one."""
        return smallest_limit(listener_class.resource.spec.removal_limit for listener_class in self.our_classes())

    def version_of(self, kind: kinds.WatchedKind, namespace: str, name: str) -> Version:
        """An object's (uid, resourceVersion) in the cache; empty if it is not there."""
        return self._versions.get((kind.name, namespace), {}).get(name, NO_VERSION)

    def versions(self, kind: kinds.WatchedKind, namespace: str = "") -> dict[tuple[str, str], Version]:
        """(namespace, name) -> (uid, resourceVersion) for a kind's objects; ``namespace``: only in this one."""
        return {
            (place, name): version
            for (kind_name, place), versions in self._versions.items()
            if kind_name == kind.name and namespace in {"", place}
            for name, version in versions.items()
        }

    @lookup()
    def write_failure(self, key: Key) -> WriteFailure | None:
        """Why a key's children are not as planned; None if all were written."""
        return self._write_failures.get(key)

    @lookup("Hostname")
    def reachability(self, hostname: str) -> Reachability | None:
        """A hostname's last check; None: not checked since the operator's start."""
        return self.reachabilities.get(hostname)

    @property
    def behind(self) -> Collection[Key]:
        """The keys whose document is not in force on every gateway."""
        return self._behind.keys()

    # Parts of the lookups above.

    @property
    def _evidence(self) -> tuple[HolderIndex, ...]:
        """The evidence of who holds hostnames, best first. A later index counts where no earlier one has a Listener."""
        return self.child_index.holders, self._stored_holders, self.reports.holders

    def _evidence_of(self, hostname: str) -> HolderIndex | None:
        return next((index for index in self._evidence if index.keys_of(hostname)), None)

    def _holders(self, hostname: str) -> frozenset[Owner]:
        granted, evidence = self._granted.get(hostname), self._evidence_of(hostname)
        if granted is not None:
            return frozenset({granted[1]})
        return evidence.holders(hostname) if evidence is not None else frozenset()

    def _readable(self, key: Key) -> CachedResource[Any] | None:
        record = self.records.get(key)
        return record.parsed if record is not None and isinstance(record.parsed, CachedResource) else None

    def _parsed(self, key: Key, resource_type: type[ResourceT]) -> CachedResource[ResourceT] | None:
        cached = self._readable(key)
        assert cached is None or isinstance(cached.resource, resource_type)
        return cached

    def _tenant_of(self, key: Key) -> str:
        """A Listener's Tenant name; ``""`` if the Listener cannot be found."""
        cached = self._parsed(key, resources.Listener)
        return cached.resource.spec.tenant_ref.name if cached is not None else ""

    def _every_listener_of(self, tenant_path: str) -> list[Key]:
        return [key for state in _LISTENER_STATES for _, key in self._summaries.members((tenant_path, state))]

    def _oldest_claimants(self, claim: Claim) -> list[Key]:
        """For each namespace and class, the oldest Listener with a claim and whose Tenant and class exist."""
        firsts = self._claims.firsts(claim).items()
        return _in_order(members[:1] for (_, name), members in firsts if self.our_class(name) is not None)

    def _class_for_claims(self, listener: resources.Listener) -> str:
        """The class by which a Listener may have what it names; ``""`` if its class or its Tenant does not exist."""
        name, tenant = listener.class_name, Key("Tenant", listener.metadata.namespace, listener.spec.tenant_ref.name)
        return name if self.is_foreign_class(name) or (name in self.classes and tenant in self.records) else ""


def _in_order(groups: Iterable[Members]) -> list[Key]:
    """The groups' keys, the oldest first."""
    return [key for _, key in sorted(itertools.chain.from_iterable(groups))]
