"""The cache: everything that the operator knows of the cluster, as plan() reads it (``View``).

Each change returns the keys that have to be planned again. A change that no plan reads, such as the watch event of the
operator's own write or a new resourceVersion alone, returns none. No method awaits, so the cache never changes while a
plan is made.
"""

import collections
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.kube.client import is_older
from usher_gateway.resources import types
from usher_gateway.resources.hostnames import Owner
from usher_gateway.resources.removal_limit import HaltedRemovals, confirmations_of, smallest_limit
from usher_operator import children, indexes, kinds
from usher_operator.indexes import ChildIndex, HolderIndex, OptionalApis, ReferenceIndex, SecretIndex
from usher_operator.settings import OperatorSettings
from usher_operator.siblings import Place, Siblings
from usher_operator.view import (
    ADDRESSES_FIELD,
    CachedResource,
    ChildState,
    ClusterFeatures,
    GatewayReport,
    Install,
    Key,
    Kind,
    ListenerReadiness,
    ObjectRef,
    PublishedDocument,
    SecretAccess,
    SecretState,
    UnreadableResource,
    View,
    WriteFailure,
)

KeySet = frozenset[Key]
ResourceT = TypeVar("ResourceT", resources.Tenant, resources.Listener, resources.Destination)
_NO_KEYS: KeySet = frozenset()

_DELETED_UIDS = 1000
"""More deletions than watches report between a write and its answer."""


def _monotonic_microseconds() -> int:
    return time.monotonic_ns() // 1000


def _wall_microseconds() -> int:
    return time.time_ns() // 1000


class Cache(View):
    """Keeps the present state of the cluster, and says which keys a change concerns.

    Args:
        settings: the install that the operator serves.
        clock: monotonic microseconds.
        wall_clock: the time of day in microseconds.
        expect_event: called with the kind of an object when a write or a list shows a change that its watch has to
            report.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        *,
        clock: Callable[[], int] = _monotonic_microseconds,
        wall_clock: Callable[[], int] = _wall_microseconds,
        expect_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._expect_event = expect_event
        self._clock, self._wall_clock = clock, wall_clock
        self._install = Install(
            controller_name=settings.controller_name,
            operator_namespace=settings.namespace,
            config_namespace=settings.configuration_namespace,
            data_plane_namespace=settings.data_plane_namespace,
            service_name=settings.backend.service_name,
            service_port=settings.backend.service_port,
        )
        self._keys: model.Keys | None = None
        self.optional = OptionalApis(settings.data_plane_namespace)
        self._gateways: tuple[GatewayReport, ...] | None = None
        self._halted: tuple[HaltedRemovals, ...] = ()
        self.records: dict[Key, kinds.ResourceRecord] = {}
        """Every custom resource, by key."""
        self._ending: dict[Key, tuple[str, str]] = {}
        """(uid, resourceVersion) of resources that somebody deleted and another program's finalizer still keeps. Plans
        treat them as gone. A deleted ListenerClass counts until it is gone, because its Listeners need it."""
        self._edited: dict[Key, int] = {}
        """Generation of each resource after its last edit while the operator runs."""
        self._classes: dict[str, CachedResource[resources.ListenerClass]] = {}
        self._siblings = Siblings()
        self._references = ReferenceIndex()
        self._secrets = SecretIndex(self._references, clock)
        self._granted: dict[str, tuple[Key, Owner]] = {}
        self._stored_holders = HolderIndex()
        """The tenants that hold hostnames by the stored status of a Listener."""
        self._reported: dict[Key, config_secret.HeldHostnames] = {}
        """The hostnames of documents that gateways run although their config Secrets are gone."""
        self._reported_holders = HolderIndex()
        self._absent: indexes.GroupIndex[str] = indexes.GroupIndex()
        """Listeners that do not exist, by the hostnames in their published documents."""
        self._namespaces: dict[str, dict[str, str]] = {}
        self._versions: dict[tuple[str, str, str], tuple[str, str]] = {}
        """(kind, namespace, name) -> (uid, resourceVersion), for kinds whose other records do not have them."""
        self.child_index = ChildIndex(self._install)
        """Every existing child of this install."""
        self._ignored: dict[ObjectRef, tuple[str, str]] = {}
        """(uid, resourceVersion) of objects that look like children but are not this install's."""
        self._deleted_uids: collections.deque[str] = collections.deque(maxlen=_DELETED_UIDS)
        """Of the children that were deleted last."""
        self._retirements: dict[Key, frozenset[str]] = {}
        """Addresses that the removal guard allowed to retire, until a document without them is published."""
        self._behind: dict[Key, int] = {}
        self._write_failures: dict[Key, WriteFailure] = {}

    # The view of plan().

    @property
    def now(self) -> int:
        """Monotonic microseconds."""
        return self._clock()

    @property
    def time(self) -> int:
        """The wall clock in microseconds."""
        return self._wall_clock()

    @property
    def install(self) -> Install:
        """The install that the operator serves."""
        return self._install

    @property
    def keys(self) -> model.Keys | None:
        """Keys derived from the install key; None before the operator has one."""
        return self._keys

    @property
    def features(self) -> ClusterFeatures:
        """Optional APIs and objects of the cluster."""
        return self.optional.features

    @property
    def gateways(self) -> tuple[GatewayReport, ...] | None:
        """The ready gateways; None before the operator first asked them."""
        return self._gateways

    @property
    def halted(self) -> tuple[HaltedRemovals, ...]:
        """The removals that wait for a confirmation, by namespace."""
        return self._halted

    @property
    def classes(self) -> Mapping[str, CachedResource[resources.ListenerClass]]:
        """Every ListenerClass that this version can parse."""
        return self._classes

    def tenant(self, path: str) -> CachedResource[resources.Tenant] | None:
        """By ``namespace/name``."""
        return self._cached("Tenant", path, resources.Tenant)

    def listener(self, path: str) -> CachedResource[resources.Listener] | None:
        """By ``namespace/name``."""
        return self._cached("Listener", path, resources.Listener)

    def destination(self, path: str) -> CachedResource[resources.Destination] | None:
        """By ``namespace/name``."""
        return self._cached("Destination", path, resources.Destination)

    def unreadable(self, key: Key) -> UnreadableResource | None:
        """A resource that exists but that this version cannot parse."""
        record = self.records.get(key)
        return record.parsed if record is not None and isinstance(record.parsed, UnreadableResource) else None

    def rank(self, key: Key) -> int:
        """How many Listeners, or Destinations, of its namespace come before one."""
        return self._siblings.rank(key)

    def tenants_of(self, namespace: str, company_id: str, limit: int) -> Sequence[str]:
        """The first names of the Tenants of a namespace that have a company id."""
        return self._siblings.tenants_of(namespace, company_id, limit)

    def listeners_of(self, tenant_path: str, limit: int) -> Mapping[ListenerReadiness, Sequence[str]]:
        """The first names of the Tenant's Listeners, of all installs, by state."""
        return self._siblings.listeners_of(tenant_path, limit)

    def classes_using(self, key: Key) -> Collection[str]:
        """The ListenerClasses of the Listeners that refer to a Tenant or a Destination."""
        return self._references.classes_using(key)

    def claimants(self, hostname: str) -> Iterator[CachedResource[resources.Listener]]:
        """The oldest Listener of each namespace and class that names a hostname and whose Tenant and class exist."""
        return self._listeners(self._siblings.claimants(hostname, self._can_have_claims))

    def claimants_in(self, namespace: str, hostname: str) -> Iterator[CachedResource[resources.Listener]]:
        """The Listeners of a namespace that name a hostname, the oldest first."""
        return self._listeners(self._siblings.claimants_in(namespace, hostname))

    def namers(self, owner: Owner, address: documents.Address) -> Iterator[CachedResource[resources.Listener]]:
        """The Listeners that name an address: those whose documents have it, and a tenant's oldest of each class."""
        namespace, tenant = owner
        path = indexes.address_path(namespace, address)
        published = (
            key for key in self.child_index.published_with(path) if ("Address", path) in self._references.targets(key)
        )
        oldest = self._siblings.claimants((tenant, path), self._can_have_claims)
        return self._listeners(dict.fromkeys((*published, *oldest)))

    def listeners_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        """The published documents with an address at a hostname, including those whose removal is halted."""
        published = [self.child_index.listener_document(key) for key in self.child_index.published_at(hostname)]
        return [document for document in published if document is not None]

    def absent_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        """The published documents with an address at a hostname whose Listeners cannot be found."""
        published = [self.child_index.listener_document(key) for key in self._absent.keys_of(hostname)]
        return [document for document in published if document is not None]

    @property
    def shared_hostnames(self) -> Collection[str]:
        """The hostnames at which published documents have addresses of a class, retired or not."""
        return self.child_index.shared_hosts

    def has_listeners_at(self, hostname: str) -> bool:
        """True if a published document has an address at a hostname."""
        return bool(self.child_index.published_at(hostname))

    def has_lost_listeners_at(self, hostname: str) -> bool:
        """True if neither a document nor a tombstone has a hostname, but the stored status of a Listener has it."""
        return bool(self._stored_holders.keys_of(hostname)) and not self.child_index.held.keys_of(hostname)

    def oldest_at(self, hostname: str) -> Iterator[CachedResource[resources.Listener]]:
        """The Listeners with a published document at a hostname: with addresses of their own there, then the oldest."""
        return self._listeners(self._siblings.oldest_at(hostname))

    def holders(self, hostname: str, *, besides: Key | None = None) -> Collection[Owner]:
        """The tenants that have a hostname: by a document that is being written, else by the best evidence.

        A later index is only read if no Listener has the hostname in an earlier one.
        """
        granted = self._granted.get(hostname)
        if granted is not None and granted[0] != besides:
            return frozenset({granted[1]})
        for index in (self.child_index.held, self._stored_holders, self._reported_holders):
            if index.keys_of(hostname):
                return index.holders(hostname, besides=besides)
        return frozenset()

    def shown_holders(self, hostname: str) -> Collection[Owner]:
        """The tenants of the Listeners that name a hostname and whose stored status shows it as their own."""
        return self._stored_holders.holders(hostname)

    def grant(self, key: Key, hostnames: Collection[str]) -> None:
        """Give hostnames to a Listener while its document is written."""
        listener = self.listener(key.path)
        if listener is not None:
            owner = key.namespace, listener.resource.spec.tenant_ref.name
            self._granted.update(dict.fromkeys(hostnames, (key, owner)))

    def end_grant(self, key: Key) -> KeySet:
        """End the grants of a Listener once its document was written or failed; returns the keys to plan again."""
        hosts = [host for host, (holder, _) in self._granted.items() if holder == key]
        for host in hosts:
            del self._granted[host]
        lost = [host for host in hosts if key not in self.child_index.published_at(host)]
        return frozenset().union(*(self._references.users("Hostname", host) for host in lost)) - {key}

    def published(self, key: Key) -> PublishedDocument | None:
        """The document in the config Secret of a key."""
        return self.child_index.published(key)

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace."""
        return self._namespaces.get(namespace, {})

    def secret_access(self, namespace: str) -> SecretAccess:
        """The operator's access to the Secrets of a namespace, or of all namespaces at once if the name is empty."""
        return self._secrets.access(namespace)

    def agency_secrets(self, namespace: str) -> dict[tuple[str, str], tuple[str, str]]:
        """(namespace, name) -> (uid, resourceVersion) of the known Secrets of an agency's namespace; `""`: of all."""
        return self._secrets.versions(namespace)

    def kind_of(self, child: ObjectRef) -> kinds.WatchedKind:
        """The kind whose watch reports a child."""
        is_agencys = child.kind == kinds.SECRET.name and child.namespace != self._install.config_namespace
        return kinds.AGENCY_SECRET if is_agencys else kinds.BY_NAME[child.kind]

    def has_documents_of(self, namespace: str) -> bool:
        """True if a namespace has a Listener or a Destination."""
        return self._references.has_users("Namespace", namespace)

    def secret(self, path: str) -> resources.Secret | None:
        """A labelled Secret."""
        return self._secrets.get(path)

    def secret_state(self, path: str) -> SecretState | None:
        """State of a Secret; None if it has to be looked up."""
        return self._secrets.state(path)

    def may_retire(self, key: Key, addresses: frozenset[str]) -> bool:
        """True if the removal guard allowed it."""
        return addresses <= self._retirements.get(key, frozenset())

    def allow_retirement(self, key: Key, addresses: frozenset[str]) -> None:
        """Let the next plan of a Listener take these addresses out of service, and no others."""
        if addresses:
            self._retirements[key] = addresses
        else:
            self._retirements.pop(key, None)

    def is_edited(self, key: Key) -> bool:
        """True if a resource was edited while the operator runs, and its document was compiled before the edit."""
        child, edited = self.child_index.config_of(key), self._edited.get(key, 0)
        return child is not None and edited > child.owner_generation

    def children(self, key: Key) -> Collection[ChildState]:
        """The existing children of a key."""
        return [child.state for child in self.child_index.of(key)]

    def behind_since(self, key: Key) -> int | None:
        """Since when a key's plans say ``is_behind``."""
        return self._behind.get(key)

    # Lookups for the other parts of the operator.

    def lane_of(self, key: Key) -> str:
        """The namespace whose changes cause the work for a key; `""` for classes and their hostnames."""
        if key.kind != "Hostname" or any(
            listener_class.resource.spec.hostname == key.name for listener_class in self._classes.values()
        ):
            return key.namespace
        namespaces = {namespace for namespace, _ in self.holders(key.name)}
        return namespaces.pop() if len(namespaces) == 1 else ""

    def all_keys(self) -> KeySet:
        """Every key with a resource or a child, and every hostname in a published document."""
        return frozenset((*self.records, *self.child_index.keys, *map(hostname_key, self.child_index.hosts)))

    def published_keys(self) -> list[Key]:
        """The keys whose document is in force."""
        return [child.key for child in self.child_index.by_ref.values() if child.published is not None]

    def our_classes(self) -> list[CachedResource[resources.ListenerClass]]:
        """The ListenerClasses that this install serves."""
        controller_name = self._install.controller_name
        return [
            listener_class
            for listener_class in self._classes.values()
            if listener_class.resource.spec.controller_name == controller_name
        ]

    def confirmations(self) -> frozenset[str]:
        """Digests of the removals that users confirmed on classes of this install."""
        digests = [
            confirmations_of(listener_class.resource.metadata.annotations) for listener_class in self.our_classes()
        ]
        return frozenset().union(*digests)

    @property
    def removal_limit(self) -> int | None:
        """The removal limit of the install; None means the usual one."""
        return smallest_limit(listener_class.resource.spec.removal_limit for listener_class in self.our_classes())

    # Changes; each returns the keys to plan again.

    def take(self, kind: kinds.WatchedKind, raw: dict[str, Any]) -> KeySet:
        """Take an object from an answer or a list. If it is new, its watch has to report it too."""
        about = raw["metadata"]
        if self.version_of(kind, about.get("namespace", ""), about["name"])[1] != about["resourceVersion"]:
            self._expect_event(kind.name)
        return self.put(kind, raw)

    def take_answer(self, kind: kinds.WatchedKind, raw: dict[str, Any], version_at_start: str) -> KeySet:
        """Take the answer to a write, unless the watch has reported a later state or the end since the write began.

        Args:
            kind: of the object.
            raw: the object as the server answered.
            version_at_start: the resourceVersion in the cache when the write began.
        """
        about = raw["metadata"]
        uid, version = self.version_of(kind, about.get("namespace", ""), about["name"])
        is_late = version != version_at_start and uid == about["uid"] and is_older(about["resourceVersion"], version)
        if is_late or about["uid"] in self._deleted_uids:
            return frozenset()
        return self.take(kind, raw)

    def put(self, kind: kinds.WatchedKind, raw: dict[str, Any]) -> KeySet:
        """Take the present state of an object."""
        namespace, name = raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
        if kind in kinds.OWN:
            key = Key(kind.name, namespace, name)  # type: ignore[arg-type]
            if kind is not kinds.LISTENER_CLASS and "deletionTimestamp" in raw["metadata"]:
                self._ending[key] = raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]
                return self._remove_own(key)
            self._ending.pop(key, None)
            return self._put_own(key, raw)
        if kind in kinds.CHILDREN:
            return self._put_child(ref_of(kind, namespace, name), raw)
        if kind is kinds.AGENCY_SECRET:
            return self._put_agency_secret(namespace, name, raw)
        self._versions[kind.name, namespace, name] = raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]
        if kind is kinds.NAMESPACE:
            return self._set_namespace(name, raw["metadata"].get("labels") or {})
        return self._on_features(self.optional.put(kind, raw))

    def version_of(self, kind: kinds.WatchedKind, namespace: str, name: str) -> tuple[str, str]:
        """(uid, resourceVersion) of an object in the cache; empty if it is not there."""
        if kind in kinds.OWN:
            key = Key(kind.name, namespace, name)  # type: ignore[arg-type]
            record = self.records.get(key)
            return (record.uid, record.resource_version) if record is not None else self._ending.get(key, ("", ""))
        if kind is kinds.AGENCY_SECRET:
            return self._secrets.version_of(namespace, name)
        if kind not in kinds.CHILDREN:
            return self._versions.get((kind.name, namespace, name), ("", ""))
        ref = ref_of(kind, namespace, name)
        child = self.child_index.by_ref.get(ref)
        return (child.uid, child.resource_version) if child is not None else self._ignored.get(ref, ("", ""))

    def remove(self, kind: kinds.WatchedKind, namespace: str, name: str) -> KeySet:
        """Forget an object that was deleted."""
        if kind in kinds.OWN:
            key = Key(kind.name, namespace, name)  # type: ignore[arg-type]
            self._ending.pop(key, None)
            return self._remove_own(key)
        if kind in kinds.CHILDREN:
            self._deleted_uids.append(self.version_of(kind, namespace, name)[0])
            return self._put_child(ref_of(kind, namespace, name), None)
        if kind is kinds.AGENCY_SECRET:
            return self._remove_agency_secret(namespace, name)
        self._versions.pop((kind.name, namespace, name), None)
        if kind is kinds.NAMESPACE:
            return self._set_namespace(name, None)
        return self._on_features(self.optional.remove(kind, namespace, name))

    def versions(self, kind: kinds.WatchedKind) -> dict[tuple[str, str], tuple[str, str]]:
        """(namespace, name) -> (uid, resourceVersion) of every object of a kind that was last seen, used or not."""
        if kind in kinds.OWN:
            names = [(key.namespace, key.name) for key in (*self.records, *self._ending) if key.kind == kind.name]
        elif kind in kinds.CHILDREN:
            refs = (*self.child_index.by_ref, *self._ignored)
            names = [(ref.namespace, ref.name) for ref in refs if self.kind_of(ref) is kind]
        else:
            names = [(namespace, name) for of, namespace, name in self._versions if of == kind.name]
        return {name: self.version_of(kind, *name) for name in names}

    def set_keys(self, keys: model.Keys | None) -> None:
        """Set the keys. The documents in config Secrets are parsed with them from the next complete list on."""
        self._keys = keys

    def set_served(self, kind: kinds.WatchedKind, *, served: bool) -> KeySet:
        """Set whether the cluster serves a kind of an optional API. Without the kind its children are gone."""
        gone: KeySet = _NO_KEYS
        if not served and kind in kinds.CHILDREN:
            for ref in [ref for ref in self.child_index.by_ref if ref.kind == kind.name]:
                gone |= self._put_child(ref, None)
        return gone | self._on_features(self.optional.set_served(kind, served=served))

    def set_secret_access(self, namespace: str, access: SecretAccess) -> KeySet:
        """Set whether the operator may use the Secrets of a namespace; `""`: of all namespaces at once."""
        self._secrets.set_access(namespace, access)
        if namespace:
            return self._with_rivals(self._references.users("Namespace", namespace))
        return frozenset(key for key in self.records if key.kind in {"Listener", "Destination"})

    def set_gateways(self, gateways: tuple[GatewayReport, ...]) -> KeySet:
        """Set what the gateways report; returns the Listeners that name a hostname whose holder may differ now.

        The caller knows which other keys the reports concern.
        """
        self._gateways = gateways
        former = self._reported
        self._reported = {key: held for gateway in gateways if gateway.reachable for key, held in gateway.held.items()}
        changed: set[str] = set()
        for key in former.keys() | self._reported.keys():
            held = self._reported.get(key)
            if held != former.get(key):
                changed |= self._reported_holders.hostnames_of(key)
                self._reported_holders.set(
                    key, (key.namespace, held.tenant if held else ""), held.hostnames if held else ()
                )
                changed |= self._reported_holders.hostnames_of(key)
        return frozenset().union(*(self._references.users("Hostname", host) for host in changed))

    def stale_uid(self, key: Key) -> str:
        """The owner's uid of a document that a gateway runs without a config Secret; ``""`` if none does."""
        uids = [gateway.stale.get(key, "") for gateway in self._gateways or () if gateway.reachable]
        return max(uids, default="")

    def set_halted(self, halted: tuple[HaltedRemovals, ...]) -> KeySet:
        """Set the removals that wait for a confirmation, by namespace."""
        if halted == self._halted:
            return _NO_KEYS
        self._halted = halted
        return frozenset(Key("ListenerClass", "", name) for name in self._classes)

    def write_failure(self, key: Key) -> WriteFailure | None:
        """Why the children of a key are not as planned; None if all of them were written."""
        return self._write_failures.get(key)

    def set_write_failure(self, key: Key, failure: WriteFailure | None) -> KeySet:
        """Set the result of the last attempt to write the children of a key; for a hostname, listeners report it."""
        if failure == self._write_failures.get(key):
            return _NO_KEYS
        if failure is None:
            del self._write_failures[key]
        else:
            self._write_failures[key] = failure
        if key.kind == "Hostname":
            return self._references.users("Hostname", key.name) | self.child_index.published_at(key.name)
        return frozenset({key})

    def set_behind(self, key: Key, *, is_behind: bool) -> None:
        """Set whether the last plan of a key says ``is_behind``."""
        if is_behind:
            self._behind.setdefault(key, self.now)
        else:
            self._behind.pop(key, None)

    @property
    def behind(self) -> Collection[Key]:
        """The keys whose document is not in force on every gateway."""
        return self._behind.keys()

    def note_missing(self, path: str, state: SecretState) -> None:
        """Note the result of a lookup of a missing Secret."""
        self._secrets.note_missing(path, state)

    @property
    def missing(self) -> dict[str, SecretState]:
        """State of each missing Secret, by path."""
        return self._secrets.missing

    def missed_by(self, path: str) -> KeySet:
        """Keys that may need a Secret: those that refer to it; in the data plane's namespace those with a hostname."""
        users = self._users_of_secret(path)
        if path.partition("/")[0] == self._install.data_plane_namespace:
            users |= {key for key in self.records if key.kind in {"ListenerClass", "Listener"}}
        return users

    def forget_missing(self) -> KeySet:
        """Forget the results of all lookups; returns the keys that need one of the Secrets."""
        users = [self.missed_by(path) for path in self._secrets.missing]
        self._secrets.forget_missing()
        return frozenset().union(*users)

    # Implementation.

    def _cached(self, kind: Kind, path: str, resource_type: type[ResourceT]) -> CachedResource[ResourceT] | None:
        namespace, _, name = path.partition("/")
        record = self.records.get(Key(kind, namespace, name))
        if record is None or not isinstance(record.parsed, CachedResource):
            return None
        assert isinstance(record.parsed.resource, resource_type)
        return record.parsed

    def _listeners(self, keys: Iterable[Key]) -> Iterator[CachedResource[resources.Listener]]:
        listeners = (self.listener(key.path) for key in keys if key.kind == "Listener")
        return (listener for listener in listeners if listener is not None)

    def _put_own(self, key: Key, raw: dict[str, Any]) -> KeySet:
        record, previous_record = kinds.parse_resource(key.kind, raw), self.records.get(key)
        self.records[key] = record
        if (
            previous_record is not None
            and previous_record.uid == record.uid
            and previous_record.generation < record.generation
        ):
            self._edited[key] = record.generation
        concerned = self._set_class(key, record.parsed) if key.kind == "ListenerClass" else _NO_KEYS
        if (
            previous_record is not None
            and previous_record.uid == record.uid
            and previous_record.parsed == record.parsed
        ):
            return _NO_KEYS
        concerned |= self._rearrange(key)
        if previous_record is not None and _declared(previous_record) == _declared(record):
            return concerned | {key}
        former = self._references.targets(key)
        parsed = record.parsed
        now = indexes.targets_of(parsed.resource) if isinstance(parsed, CachedResource) else former
        concerned |= self._set_references(key, now)
        if key.kind != "Destination" or previous_record is None or _tenant_ref(previous_record) != _tenant_ref(record):
            dependants = self._dependants(key)
            concerned |= self._with_rivals(dependants) if key.kind == "ListenerClass" else dependants
        return concerned | {key} | self._rivals(key, former, now)

    def _remove_own(self, key: Key) -> KeySet:
        if self.records.pop(key, None) is None:
            return _NO_KEYS
        self._edited.pop(key, None)
        self._behind.pop(key, None)
        self._write_failures.pop(key, None)
        concerned = self._set_class(key, None) if key.kind == "ListenerClass" else _NO_KEYS
        concerned |= self._rearrange(key) | self._with_rivals(self._dependants(key))
        former = self._references.targets(key)
        concerned |= self._set_references(key, frozenset())
        return concerned | {key} | self._rivals(key, former, frozenset())

    def _set_references(self, key: Key, targets: frozenset[indexes.Target]) -> KeySet:
        """Set the targets of a key; returns the Tenants and Destinations that may have another owner now."""
        former = self._references.targets(key)
        concerned = indexes.owned_by_class(key.namespace, former | targets) if key.kind == "Listener" else ()
        former_classes = {used: frozenset(self.classes_using(used)) for used in concerned}
        self._secrets.set_references(key, targets)
        if key.kind == "Listener":
            cached = self.listener(key.path)
            tenant = cached.resource.spec.tenant_ref.name if cached is not None else ""
            hosts = (path for kind, path in targets if kind == "Hostname")
            addresses = ((tenant, path) for kind, path in targets if kind == "Address")
            self._siblings.claim(key, cached, (*hosts, *addresses))
        return frozenset(
            used for used in concerned if former_classes[used] != self.classes_using(used) and used in self.records
        )

    def _set_class(self, key: Key, parsed: object) -> KeySet:
        """Set a class; returns the keys for which its hostname or its install now counts in another way."""
        reserved, former = self._class_hostnames, self._classes.get(key.name)
        self._classes.pop(key.name, None)
        if isinstance(parsed, CachedResource):
            self._classes[key.name] = parsed
        ours = [
            listener_class.resource.spec.maximums
            for listener_class in self.our_classes()
            if listener_class.resource.spec.maximums
        ]
        self._siblings.set_limits(
            {
                "Listener": [maximums.listeners_per_namespace for maximums in ours],
                "Destination": [maximums.destinations_per_namespace for maximums in ours],
                "Hostname": [maximums.hostnames_per_namespace for maximums in ours],
            }
        )
        changed = reserved ^ self._class_hostnames
        concerned = frozenset().union(*(self._references.users("Hostname", host) for host in changed))
        present = self._classes.get(key.name)
        if _patterns(former) != _patterns(present):
            concerned |= frozenset(Key("ListenerClass", "", name) for name in self._classes)
        if _owner_and_age(former) != _owner_and_age(present):  # rare, and may change the owner of any resource
            concerned |= frozenset(own for own in self.records if own.kind != "Listener" or self._has_no_class(own))
        return concerned

    def _has_no_class(self, key: Key) -> bool:
        listener = self.listener(key.path)
        return listener is None or listener.resource.class_name not in self._classes

    @property
    def _class_hostnames(self) -> frozenset[str]:
        return frozenset(listener_class.resource.spec.hostname for listener_class in self._classes.values())

    def _rearrange(self, key: Key) -> KeySet:
        """Put a key in its place among its siblings; returns the keys whose plan reads another result now.

        These are the siblings that are over a limit now, or not any more, and the Tenants whose summary changed.
        """
        match key.kind:
            case "ListenerClass":  # its listeners count only if the class is ours
                users = self._references.users("ListenerClass", key.name)
                return frozenset().union(*map(self._rearrange, users))
            case "Tenant":
                tenant = self.tenant(key.path)
                return self._siblings.group_by_company(key, tenant.resource.spec.company_id if tenant else None)
            case "Listener" | "Destination":
                pass
            case _:
                return _NO_KEYS
        record = self.records.get(key)
        cached = record.parsed if record is not None and isinstance(record.parsed, CachedResource) else None
        concerned = _NO_KEYS
        if key.kind == "Listener":
            exposed = self._exposed_by(key)
            self._siblings.expose(key, cached, exposed)
            self._absent.set(key, exposed if cached is None else ())
            concerned = self._siblings.summarize(key, cached)
            if cached is not None and self._is_foreign(cached.resource):
                cached = None
        concerned |= self._siblings.reorder(key, self._place_of(key, cached))
        if key.kind == "Listener":
            concerned |= self._siblings.rank_hostnames(key, cached, self.child_index.own_hosts_of(key))
            concerned |= self._note_stored_hostnames(key, cached)
        return concerned

    def _can_have_claims(self, namespace: str, tenant: str, class_name: str) -> bool:
        """True if a Tenant and a class of this install exist."""
        own_class = self._classes.get(class_name)
        is_ours = own_class is not None and own_class.resource.spec.controller_name == self._install.controller_name
        return is_ours and Key("Tenant", namespace, tenant) in self.records

    def _note_stored_hostnames(self, key: Key, cached: CachedResource[resources.Listener] | None) -> KeySet:
        """Note the hostnames that a Listener names and that its stored status has; returns the keys concerned."""
        former = self._stored_holders.hostnames_of(key)
        if cached is None:
            self._stored_holders.set(key, (key.namespace, ""), ())
        else:
            owner = key.namespace, cached.resource.spec.tenant_ref.name
            self._stored_holders.set(key, owner, _stored_hostnames(cached))
        changed = former ^ self._stored_holders.hostnames_of(key)
        vacant = [host for host in changed if not self.child_index.held.keys_of(host)]
        namers = (self._references.users("Hostname", host) for host in vacant)
        return frozenset(map(hostname_key, vacant)).union(*namers) - {key}

    def _exposed_by(self, key: Key) -> dict[str, bool]:
        """Map each hostname in a Listener's published document to True if the Listener owns a live address there."""
        document = self.child_index.listener_document(key)
        if document is None:
            return {}
        own = {address.host for address in document.live_addresses if not address.is_class_address}
        return {address.host: address.host in own for address in document.addresses}

    def _place_of(self, key: Key, cached: CachedResource[Any] | None) -> Place | None:
        """The place of a resource among its siblings; None if it does not count.

        A document in force counts until it is removed, because otherwise a namespace could exceed its limits by
        deletions that the removal limit halts, also if Listeners of another install have the names now.
        """
        is_published, created = self.child_index.published(key) is not None, cached.created if cached else ""
        return (not is_published, created) if cached is not None or is_published else None

    def _is_foreign(self, listener: resources.Listener) -> bool:
        """True if another install serves a Listener."""
        listener_class = self._classes.get(listener.class_name)
        return (
            listener_class is not None and listener_class.resource.spec.controller_name != self._install.controller_name
        )

    def _dependants(self, key: Key) -> KeySet:
        """Keys that refer to a resource."""
        match key.kind:
            case "Tenant" | "Destination":
                return self._references.users(key.kind, key.path)
            case "ListenerClass":
                listeners = self._references.users("ListenerClass", key.name)
                return listeners.union(
                    *({hostname_key(host) for host in self.child_index.hosts_of(listener)} for listener in listeners)
                )
        return _NO_KEYS

    def _with_rivals(self, keys: KeySet) -> KeySet:
        """Return keys that may have lost the right to a hostname, and the others that claim it if it is vacant."""
        targets = frozenset().union(*(self._references.targets(key) for key in keys if key.kind == "Listener"))
        vacant = [path for kind, path in targets if kind == "Hostname" and not self.holders(path)]
        return keys.union(*(self._references.users("Hostname", host) for host in vacant))

    def _rivals(self, key: Key, former: frozenset[indexes.Target], now: frozenset[indexes.Target]) -> KeySet:
        """For a Listener: the others for which a change of its addresses makes a difference.

        These are the listeners of its namespace that name or have the same address. A hostname that somebody holds
        stays with its tenant whatever others claim, so only a claim that ends at a vacant hostname concerns others.
        """
        if key.kind != "Listener":
            return _NO_KEYS
        has_other_owner = any(kind in {"Tenant", "ListenerClass"} for kind, _ in former ^ now)
        concerned: set[Key] = set()
        for kind, path in former | now if has_other_owner else former ^ now:
            if kind == "Address":
                concerned |= self._references.users(kind, path) | self.child_index.published_with(path)
            elif kind == "Hostname" and (kind, path) in former and not self.holders(path):
                concerned |= self._references.users(kind, path)
        return frozenset(concerned)

    def _put_agency_secret(self, namespace: str, name: str, raw: dict[str, Any]) -> KeySet:
        metadata, path = raw["metadata"], f"{namespace}/{name}"
        labels = metadata.get("labels") or {}
        self._secrets.set_version(namespace, name, (metadata["uid"], metadata["resourceVersion"]))
        is_child = labels.get(config_secret.MANAGED_LABEL) == "true"
        concerned = self._put_child(ref_of(kinds.SECRET, namespace, name), raw if is_child else None)
        is_credential = labels.get(types.WATCH_LABEL) == "true"
        has_changed = self._secrets.put(path, raw) if is_credential else self._secrets.remove(path)
        return concerned | self._users_of_secret(path) if has_changed else concerned

    def _remove_agency_secret(self, namespace: str, name: str) -> KeySet:
        path = f"{namespace}/{name}"
        self._secrets.set_version(namespace, name, None)
        concerned = self._put_child(ref_of(kinds.SECRET, namespace, name), None)
        return concerned | self._users_of_secret(path) if self._secrets.remove(path) else concerned

    def _users_of_secret(self, path: str) -> KeySet:
        """The keys that refer to a Secret, and the Listener for whose URL its name is reserved."""
        namespace, _, name = path.partition("/")
        users = self._references.users("Secret", path)
        owner = Key("Listener", namespace, name.removesuffix(children.URL_SUFFIX))
        return users | {owner} if name.endswith(children.URL_SUFFIX) and owner in self.records else users

    def _set_namespace(self, name: str, labels: dict[str, str] | None) -> KeySet:
        previous_labels = self._namespaces.get(name)
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        if previous_labels == labels:
            return _NO_KEYS
        concerned = self._with_rivals(self._references.users("Namespace", name))
        if previous_labels is None:  # at the start there are too many namespaces to search the records for each
            return concerned
        return concerned | {key for key in self.records if key.kind == "Tenant" and key.namespace == name}

    def _put_child(self, ref: ObjectRef, raw: dict[str, Any] | None) -> KeySet:
        previous_child = self.child_index.by_ref.get(ref)
        hosts = self.child_index.hosts_of(previous_child.key) if previous_child is not None else frozenset()
        shared = frozenset(self.child_index.shared_hosts)
        child = self.child_index.put(ref, raw, self._keys)
        self._ignored.pop(ref, None)
        if child is None and raw is not None:
            self._ignored[ref] = raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]
        owners = {record.key for record in (previous_child, child) if record is not None and record.is_config}
        concerned = frozenset().union(*map(self._rearrange, owners))
        for host in shared ^ self.child_index.shared_hosts:
            concerned |= self._references.users("Hostname", host)
        if ref.kind == kinds.CERTIFICATE.name:
            concerned |= self._count_certificate(previous_child, child)
        if previous_child is not None and child is not None and _as_planned(previous_child) == _as_planned(child):
            return concerned
        return concerned | self._on_child(previous_child, child, hosts)

    def _count_certificate(self, previous: kinds.ChildRecord | None, present: kinds.ChildRecord | None) -> KeySet:
        """Count the hostname of a Certificate for its namespace; returns the Listeners concerned."""
        concerned = _NO_KEYS
        if previous is not None and (present is None or present.key != previous.key):
            concerned |= self._siblings.count_certificate(previous.key.name, "")
        if present is not None:
            concerned |= self._siblings.count_certificate(present.key.name, present.counts_for)
        return concerned

    def _on_child(
        self,
        previous: kinds.ChildRecord | None,
        present: kinds.ChildRecord | None,
        hosts: frozenset[str],
    ) -> KeySet:
        concerned: set[Key] = {child.key for child in (previous, present) if child is not None}
        for key in list(concerned):
            if key.kind == "Hostname":  # listeners and classes report the state of their hostnames
                concerned |= self.child_index.published_at(key.name)
                concerned |= {
                    Key("ListenerClass", "", name)
                    for name, listener_class in self._classes.items()
                    if listener_class.resource.spec.hostname == key.name
                }
        owner = next((child.key for child in (previous, present) if child is not None and child.is_config), None)
        if owner is not None:
            now = self.child_index.hosts_of(present.key) if present is not None else frozenset()
            changed = previous is None or present is None or _routed(previous) != _routed(present)
            for host in (hosts | now) if changed else ():
                concerned.add(hostname_key(host))
            for host in self._hosts_with_other_holders(previous, present):
                concerned |= self._references.users("Hostname", host)
            for host in _held(previous) ^ _held(present):  # the only other listener there is alone now, or not any more
                concerned |= self.child_index.only_other_holder(host, owner)
            for address, _is_retired in _addresses(previous) ^ _addresses(present):
                concerned |= self._references.users("Address", address) | self.child_index.published_with(address)
        return frozenset(concerned)

    def _hosts_with_other_holders(
        self, previous: kinds.ChildRecord | None, present: kinds.ChildRecord | None
    ) -> Iterator[str]:
        """The hostnames that a tenant holds only since a child changed, or does not hold any more."""
        child = present or previous
        for host in _held(previous) | _held(present):
            others = self.child_index.held.holders(host, besides=child.key if child is not None else None)
            if others | _holder(previous, host) != others | _holder(present, host):
                yield host

    def _on_features(self, changed: bool) -> KeySet:
        """Keys whose exposure may change: all classes, listeners and hostnames."""
        if not changed:
            return _NO_KEYS
        return frozenset(key for key in self.all_keys() if key.kind in {"ListenerClass", "Listener", "Hostname"})


def hostname_key(hostname: str) -> Key:
    """The key that owns the children of a hostname."""
    return Key("Hostname", "", hostname)


def ref_of(kind: kinds.WatchedKind, namespace: str, name: str) -> ObjectRef:
    """Identify an object of a kind."""
    return ObjectRef(kind.api_version, kind.name, namespace, name)


def _owner_and_age(cached: CachedResource[resources.ListenerClass] | None) -> tuple[object, ...]:
    """The part of a class that decides which install owns other resources."""
    if cached is None:
        return ()
    return cached.created, cached.resource.spec.controller_name, cached.resource.spec.namespaces


def _patterns(cached: CachedResource[resources.ListenerClass] | None) -> list[str]:
    return cached.resource.spec.hostname_patterns if cached is not None else []


def _stored_hostnames(cached: CachedResource[resources.Listener]) -> frozenset[str]:
    """The hostnames that a Listener names and that its stored status shows as its own.

    The status of a Listener that had the address of its class until now may still show the class's hostname.
    """
    named = {address.hostname for address in cached.resource.spec.addresses or ()}
    shown = [entry for entry in cached.fields.get(ADDRESSES_FIELD) or () if isinstance(entry, dict)]
    return frozenset(named & {entry.get("hostname") for entry in shown if entry.get("name") != children.CLASS_ADDRESS})


def _declared(record: kinds.ResourceRecord) -> tuple[object, ...]:
    """The part of a resource that users write, without its status."""
    parsed = record.parsed
    if isinstance(parsed, CachedResource):
        return record.uid, parsed.resource, parsed.fields
    return record.uid, parsed.generation, parsed.message


def _tenant_ref(record: kinds.ResourceRecord) -> object:
    """The Tenant that a Destination names, which is all that Listeners read of it; unique if it cannot be read."""
    parsed = record.parsed
    return parsed.resource.spec.tenant_ref if isinstance(parsed, CachedResource) else record


def _as_planned(child: kinds.ChildRecord) -> tuple[object, ...]:
    return child.uid, child.digest, child.state.status, child.key


def _held(child: kinds.ChildRecord | None) -> frozenset[str]:
    return frozenset(child.held.hostnames) if child is not None and child.held is not None else frozenset()


def _holder(child: kinds.ChildRecord | None, hostname: str) -> frozenset[Owner]:
    """The tenant that holds a hostname by a child; empty if none does."""
    if child is None or child.held is None or hostname not in child.held.hostnames:
        return frozenset()
    return frozenset({(child.key.namespace, child.held.tenant)})


def _addresses(child: kinds.ChildRecord | None) -> frozenset[tuple[str, bool]]:
    """Path (`address_path`) of each address in a published document, and whether the address is retired."""
    document = child.published.document if child is not None and child.published is not None else None
    if child is None or not isinstance(document, documents.ListenerDocument):
        return frozenset()
    namespace = child.key.namespace
    return frozenset(
        (indexes.address_path(namespace, address), address.retired_at > 0) for address in document.addresses
    )


def _routed(child: kinds.ChildRecord) -> tuple[object, ...]:
    """The fields of a published document on which hostnames and their children depend."""
    published = child.published
    if published is None or not isinstance(published.document, documents.ListenerDocument):
        return ()
    return published.document.addresses, published.document.tenant.name, published.document.max_body_bytes
