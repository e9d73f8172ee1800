"""The cache: everything that the operator knows of the cluster, as plan() reads it (``View``).

Each change returns the keys that have to be planned again: those whose own resource or children changed, and those
whose last plan read something that differs now (`reads`). A change that no plan reads, such as the watch event of the
operator's own write or a new resourceVersion alone, returns none. No method awaits, so the cache never changes while a
plan is made.
"""

import collections
import itertools
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.kube.client import is_older
from usher_gateway.resources import types
from usher_gateway.resources.hostnames import Owner
from usher_gateway.resources.removal_limit import HaltedRemovals, confirmations_of, smallest_limit
from usher_operator import children, kinds
from usher_operator.indexes import ChildIndex, ClassUseIndex, GroupIndex, HolderIndex, OptionalApis, SecretIndex
from usher_operator.plan import plan
from usher_operator.reads import Reads, Subject, lookup
from usher_operator.settings import OperatorSettings
from usher_operator.siblings import Claim, Place, Siblings
from usher_operator.view import (
    ADDRESSES_FIELD,
    FINGERPRINT_FIELD,
    CachedResource,
    ChildState,
    ClusterFeatures,
    GatewayReport,
    Install,
    Key,
    Kind,
    ListenerReadiness,
    ObjectRef,
    Plan,
    PublishedDocument,
    SecretAccess,
    SecretState,
    UnreadableResource,
    View,
    WriteFailure,
    address_path,
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
        self._used_classes = ClassUseIndex()
        self._secrets = SecretIndex(clock)
        self._with_documents: GroupIndex[str] = GroupIndex()
        """Listeners and Destinations by namespace."""
        self.reads = Reads()
        """What the last plan of each key read."""
        self._granted: dict[str, tuple[Key, Owner]] = {}
        self._stored_holders = HolderIndex()
        """The tenants that hold hostnames by the stored status of a Listener."""
        self._reported: dict[Key, config_secret.HeldHostnames] = {}
        """The hostnames of documents that gateways run although their config Secrets are gone."""
        self._reported_holders = HolderIndex()
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

    @lookup("Tenant")
    def tenant(self, path: str) -> CachedResource[resources.Tenant] | None:
        """By ``namespace/name``."""
        return self._cached("Tenant", path, resources.Tenant)

    @lookup("Listener")
    def listener(self, path: str) -> CachedResource[resources.Listener] | None:
        """By ``namespace/name``."""
        return self._cached("Listener", path, resources.Listener)

    @lookup("Destination")
    def destination(self, path: str) -> CachedResource[resources.Destination] | None:
        """By ``namespace/name``."""
        return self._cached("Destination", path, resources.Destination)

    @lookup()
    def unreadable(self, key: Key) -> UnreadableResource | None:
        """A resource that exists but that this version cannot parse."""
        record = self.records.get(key)
        return record.parsed if record is not None and isinstance(record.parsed, UnreadableResource) else None

    @lookup()
    def rank(self, key: Key) -> int:
        """How many Listeners, or Destinations, of its namespace come before one."""
        return self._siblings.rank(key)

    @lookup("Company")
    def tenants_of(self, company: str, limit: int) -> Sequence[str]:
        """The first names of the Tenants of a company; ``company``: ``namespace/companyID``."""
        return self._siblings.tenants_of(company, limit)

    @lookup("Tenant")
    def listeners_of(self, tenant_path: str, limit: int) -> Mapping[ListenerReadiness, Sequence[str]]:
        """The first names of the Tenant's Listeners, of all installs, by state."""
        return self._siblings.listeners_of(tenant_path, limit)

    @lookup()
    def classes_using(self, key: Key) -> Collection[str]:
        """The ListenerClasses of the Listeners that refer to a Tenant or a Destination."""
        return self._used_classes.of(key)

    @lookup("Hostname")
    def claimants(self, hostname: str) -> Sequence[Key]:
        """The oldest Listener of each namespace and class that names a hostname and whose Tenant and class exist."""
        return self._siblings.claimants(hostname, self._can_have_claims)

    @lookup("Hostname")
    def claimants_in(self, hostname: str, namespace: str) -> Sequence[Key]:
        """The Listeners of a namespace that name a hostname, the oldest first."""
        return self._siblings.claimants_in(namespace, hostname)

    @lookup("Address")
    def namers(self, address: str, tenant: str) -> Sequence[Key]:
        """The Listeners that name an address: those whose documents have it, and a tenant's oldest of each class."""
        published = (key for key in self.child_index.published_with(address) if self._names(key, address))
        oldest = self._siblings.claimants((tenant, address), self._can_have_claims)
        return list(dict.fromkeys((*published, *oldest)))

    @lookup("Hostname")
    def is_reserved(self, hostname: str) -> bool:
        """True if no Listener may name a hostname, because a class has it or had it."""
        if any(listener_class.resource.spec.hostname == hostname for listener_class in self._classes.values()):
            return True
        return hostname in self.child_index.shared_hosts and not self._holders(hostname)

    @lookup("Hostname")
    def class_at(self, hostname: str) -> str:
        """The ListenerClass of this install that the first Listener with a published document at a hostname has."""
        listeners = (self._parsed(key, resources.Listener) for key in self._siblings.oldest_at(hostname))
        names = (cached.resource.class_name for cached in listeners if cached is not None)
        return next((name for name in names if self._is_our_class(name)), "")

    def listeners_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        """The published documents with an address at a hostname, including those whose removal is halted.

        Not a lookup, because the answer may be long: a change of a document always concerns its hostnames.
        """
        return self._documents_of(self.child_index.published_at(hostname))

    @lookup("Address")
    def absent_with(self, address: str, tenant: str) -> Sequence[Key]:
        """The Listeners of a tenant that cannot be found and whose published documents have an address."""
        absent = (key for key in self.child_index.published_with(address) if not self._tenant_of(key))
        return [key for key in absent if self._is_published_for(key, tenant)]

    @lookup("Hostname")
    def has_listeners_at(self, hostname: str) -> bool:
        """True if a published document has an address at a hostname."""
        return bool(self.child_index.published_at(hostname))

    @lookup("Hostname")
    def has_lost_listeners_at(self, hostname: str) -> bool:
        """True if neither a document nor a tombstone has a hostname, but the stored status of a Listener has it."""
        return bool(self._stored_holders.keys_of(hostname)) and not self.child_index.held.keys_of(hostname)

    @lookup("Hostname")
    def holders(self, hostname: str) -> Collection[Owner]:
        """The tenants that have a hostname: by a document that is being written, else by the best evidence."""
        return self._holders(hostname)

    @lookup("Hostname")
    def only_holder(self, hostname: str) -> Key | None:
        """The Listener by which a tenant has a hostname; None if there are several or none."""
        granted, evidence = self._granted.get(hostname), self._evidence_of(hostname)
        holding = evidence.keys_of(hostname) if evidence is not None else frozenset()
        if granted is not None:
            return granted[0] if holding <= {granted[0]} else None
        return next(iter(holding)) if len(holding) == 1 else None

    @lookup()
    def holds(self, key: Key, hostname: str) -> bool:
        """True if a Listener has a hostname by its document, its tombstone or its status, or as a gateway reports."""
        granted = self._granted.get(hostname)
        is_granted = granted is not None and granted[0] == key
        return is_granted or any(key in index.keys_of(hostname) for index in self._evidence)

    @lookup("Hostname")
    def shown_holders(self, hostname: str) -> Collection[Owner]:
        """The tenants of the Listeners that name a hostname and whose stored status shows it as their own."""
        return self._stored_holders.holders(hostname)

    @property
    def _evidence(self) -> tuple[HolderIndex, ...]:
        """Who holds hostnames: the best evidence first. A later index counts where no earlier one has a Listener."""
        return self.child_index.held, self._stored_holders, self._reported_holders

    def _evidence_of(self, hostname: str) -> HolderIndex | None:
        return next((index for index in self._evidence if index.keys_of(hostname)), None)

    def _holders(self, hostname: str) -> frozenset[Owner]:
        granted, evidence = self._granted.get(hostname), self._evidence_of(hostname)
        if granted is not None:
            return frozenset({granted[1]})
        return evidence.holders(hostname) if evidence is not None else frozenset()

    def grant(self, key: Key, hostnames: Collection[str]) -> KeySet:
        """Give hostnames to a Listener while its document is written; returns the other keys to plan again."""
        if not hostnames:
            return _NO_KEYS
        owner = key.namespace, self._tenant_of(key)
        self._granted.update(dict.fromkeys(hostnames, (key, owner)))
        return self._readers_of_hostnames(hostnames) - {key}

    def end_grant(self, key: Key) -> KeySet:
        """End the grants of a Listener once its document was written or failed; returns other keys to plan again."""
        hosts = [host for host, (holder, _) in self._granted.items() if holder == key]
        for host in hosts:
            del self._granted[host]
        return self._readers_of_hostnames(hosts) - {key}

    @lookup()
    def published(self, key: Key) -> PublishedDocument | None:
        """The document in the config Secret of a key."""
        return self.child_index.published(key)

    @lookup("Namespace")
    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace."""
        return self._namespaces.get(namespace, {})

    @lookup("Namespace")
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
        return bool(self._with_documents.keys_of(namespace))

    @lookup("Secret")
    def secret(self, path: str) -> resources.Secret | None:
        """A labelled Secret."""
        return self._secrets.get(path)

    @lookup("Secret")
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

    @lookup()
    def children(self, key: Key) -> Collection[ChildState]:
        """The existing children of a key."""
        return tuple(child.state for child in self.child_index.of(key))

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
        namespaces = {namespace for namespace, _ in self._holders(key.name)}
        return namespaces.pop() if len(namespaces) == 1 else ""

    def all_keys(self) -> KeySet:
        """Every key with a resource or a child, and every hostname in a published document."""
        hosts = itertools.chain(
            self.child_index.hosts, (each.resource.spec.hostname for each in self._classes.values())
        )
        return frozenset((*self.records, *self.child_index.keys, *map(hostname_key, hosts)))

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

    def plan(self, key: Key) -> Plan:
        """Plan a key, and note what the plan reads."""
        with self.reads.of_plan(key):
            planned = plan(self, key)
        if not planned.children and not self._is_left(key):
            self.reads.forget(key)
        return planned

    def _is_left(self, key: Key) -> bool:
        """True if a key has a resource or a child, or something has or had an address at its hostname."""
        if key in self.records or self.child_index.of(key):
            return True
        has_documents = self.child_index.published_at(key.name) or self._stored_holders.keys_of(key.name)
        return key.kind == "Hostname" and bool(has_documents)

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
                return self._set_own(key, None)
            self._ending.pop(key, None)
            return self._set_own(key, kinds.parse_resource(key.kind, raw))
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
            return self._set_own(key, None)
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
        if not namespace:
            return frozenset(key for key in self.records if key.kind in {"Listener", "Destination"})
        return self.reads.changed(self, [("Namespace", namespace)])

    def set_gateways(self, gateways: tuple[GatewayReport, ...]) -> KeySet:
        """Set what the gateways report; returns the keys that read another holder of a hostname before.

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
        return self._readers_of_hostnames(changed)

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

    @lookup()
    def write_failure(self, key: Key) -> WriteFailure | None:
        """Why the children of a key are not as planned; None if all of them were written."""
        return self._write_failures.get(key)

    def set_write_failure(self, key: Key, failure: WriteFailure | None) -> KeySet:
        """Set the result of the last attempt to write the children of a key."""
        if failure == self._write_failures.get(key):
            return _NO_KEYS
        if failure is None:
            del self._write_failures[key]
        else:
            self._write_failures[key] = failure
        return self.reads.changed(self, [(key.kind, key.path)]) | {key}

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
        """Keys whose last plan looked for a Secret."""
        return self.reads.readers(("Secret", path))

    def forget_missing(self) -> None:
        """Forget the results of all lookups."""
        self._secrets.forget_missing()

    # Implementation.

    def _cached(self, kind: Kind, path: str, resource_type: type[ResourceT]) -> CachedResource[ResourceT] | None:
        namespace, _, name = path.partition("/")
        return self._parsed(Key(kind, namespace, name), resource_type)

    def _parsed(self, key: Key, resource_type: type[ResourceT]) -> CachedResource[ResourceT] | None:
        record = self.records.get(key)
        if record is None or not isinstance(record.parsed, CachedResource):
            return None
        assert isinstance(record.parsed.resource, resource_type)
        return record.parsed

    def _tenant_of(self, key: Key) -> str:
        """The name of the Tenant of a Listener; ``""`` if the Listener cannot be found."""
        cached = self._parsed(key, resources.Listener)
        return cached.resource.spec.tenant_ref.name if cached is not None else ""

    def _names(self, key: Key, address: str) -> bool:
        """True if a Listener names an address with its path."""
        return (self._tenant_of(key), address) in self._siblings.claims_of(key)

    def _is_published_for(self, key: Key, tenant: str) -> bool:
        """True if the published document of a Listener is of a tenant."""
        document = self.child_index.listener_document(key)
        return document is not None and document.tenant.name == tenant

    def _documents_of(self, keys: Iterable[Key]) -> list[documents.ListenerDocument]:
        published = (self.child_index.listener_document(key) for key in keys)
        return [document for document in published if document is not None]

    def _is_our_class(self, name: str) -> bool:
        cached = self._classes.get(name)
        return cached is not None and cached.resource.spec.controller_name == self._install.controller_name

    def _readers_of_hostnames(self, hostnames: Iterable[str]) -> KeySet:
        return self.reads.changed(self, [("Hostname", hostname) for hostname in hostnames])

    def _set_own(self, key: Key, record: kinds.ResourceRecord | None) -> KeySet:
        """Set a custom resource; None: it is gone."""
        former = self.records.get(key)
        if record is None:
            for kept in (self.records, self._edited, self._behind, self._write_failures):
                kept.pop(key, None)
        else:
            self.records[key] = record
            if former is not None and former.uid == record.uid and former.generation < record.generation:
                self._edited[key] = record.generation
        if former is record or (former and record and (former.uid, former.parsed) == (record.uid, record.parsed)):
            return _NO_KEYS
        change = _Change(keys={key})
        if key.kind == "ListenerClass":
            self._set_class(key.name, former and former.parsed, record and record.parsed, change)
        elif _declared(former) == _declared(record):
            self._arrange(key, change)
        else:
            self._index(key, change)
            self._arrange(key, change)
            if key.kind != "Destination" or _tenant_ref(former) != _tenant_ref(record):
                change.subjects.add((key.kind, key.path))
            if key.kind == "Tenant" and (former is None or record is None):  # claims of its Listeners begin or end
                for listener in self._siblings.listeners_of_tenant(key.path):
                    change.subjects |= _subjects_of(self._siblings.claims_of(listener))
        return self._concerned(change)

    def _concerned(self, change: "_Change") -> KeySet:
        """The keys to plan again after a change, once every index is up to date."""
        return self.reads.changed(self, change.subjects) | change.keys

    def _set_class(self, name: str, former: object, present: object, change: "_Change") -> None:
        """Set a class. A change of what other plans read of it is rare, and may concern every key."""
        self._classes.pop(name, None)
        if isinstance(present, CachedResource):
            self._classes[name] = present
        if _read_by_others(former) == _read_by_others(present):
            return
        maximums = [each.resource.spec.maximums for each in self.our_classes() if each.resource.spec.maximums]
        self._siblings.set_limits(
            {
                "Listener": [maximum.listeners_per_namespace for maximum in maximums],
                "Destination": [maximum.destinations_per_namespace for maximum in maximums],
                "Hostname": [maximum.hostnames_per_namespace for maximum in maximums],
            }
        )
        for key, other in self.records.items():  # a Listener counts only if its class is ours
            if isinstance(other.parsed, CachedResource) and getattr(other.parsed.resource, "class_name", "") == name:
                self._arrange(key, change)
        change.keys |= self.all_keys()

    def _index(self, key: Key, change: "_Change") -> None:
        """Index what a Tenant, Listener or Destination names. One that cannot be read needs what it needed before."""
        record = self.records.get(key)
        cached = record.parsed if record is not None and isinstance(record.parsed, CachedResource) else None
        resource = cached.resource if cached is not None else None
        if key.kind == "Tenant":
            change.subjects |= {("Company", company) for company in self._siblings.companies_of(key)}
            self._siblings.group_by_company(key, resource.spec.company_id if resource is not None else None)
            change.subjects |= {("Company", company) for company in self._siblings.companies_of(key)}
            return
        if resource is not None or record is None:
            self._secrets.set_needed(key, _needed_secrets(resource))
            self._with_documents.set(key, [key.namespace] if resource is not None else [])
        if key.kind == "Listener":
            if resource is not None or record is None:
                change.keys |= {used for used in self._used_classes.set(key, resource) if used in self.records}
            change.subjects |= _subjects_of(self._siblings.claims_of(key))
            self._siblings.claim(key, cached)
            change.subjects |= _subjects_of(self._siblings.claims_of(key))

    def _arrange(self, key: Key, change: "_Change") -> None:
        """Put a Listener or a Destination in its place among its siblings."""
        if key.kind not in {"Listener", "Destination"}:
            return
        record = self.records.get(key)
        cached = record.parsed if record is not None and isinstance(record.parsed, CachedResource) else None
        if key.kind == "Listener":
            document = self.child_index.listener_document(key)
            change.subjects |= _subjects_of_document(key, document)
            exposed = _exposed_by(document)
            hostnames = self._siblings.expose(key, cached, exposed) | self._note_stored_hostnames(key, cached)
            change.subjects |= {("Hostname", hostname) for hostname in hostnames}
            change.keys |= self._siblings.summarize(key, cached)
            if cached is not None and self._is_foreign(cached.resource):
                cached = None
        self._note_ranks(self._siblings.reorder(key, self._place_of(key, cached)), change)
        if key.kind == "Listener":
            in_force = self.child_index.own_hosts_of(key)
            self._note_ranks(self._siblings.rank_hostnames(key, cached, in_force), change)

    def _note_ranks(self, ranked: Iterable[Key], change: "_Change") -> None:
        """Note the resources and the hostnames of namespaces that are over a limit now, or not any more."""
        for key in ranked:
            if key.kind == "Hostname":
                change.subjects.add((key.kind, key.path))
            else:
                change.keys.add(key)

    def _can_have_claims(self, namespace: str, tenant: str, class_name: str) -> bool:
        """True if a Tenant and a class of this install exist."""
        return self._is_our_class(class_name) and Key("Tenant", namespace, tenant) in self.records

    def _note_stored_hostnames(self, key: Key, cached: CachedResource[resources.Listener] | None) -> frozenset[str]:
        """Note the hostnames that a Listener names and that its stored status has; returns these and former ones."""
        former = self._stored_holders.hostnames_of(key)
        hostnames = _stored_hostnames(cached) if cached is not None else frozenset()
        self._stored_holders.set(key, (key.namespace, self._tenant_of(key)), hostnames)
        return former | hostnames

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

    def _put_agency_secret(self, namespace: str, name: str, raw: dict[str, Any]) -> KeySet:
        metadata, path = raw["metadata"], f"{namespace}/{name}"
        labels = metadata.get("labels") or {}
        self._secrets.set_version(namespace, name, (metadata["uid"], metadata["resourceVersion"]))
        is_child = labels.get(config_secret.MANAGED_LABEL) == "true"
        concerned = self._put_child(ref_of(kinds.SECRET, namespace, name), raw if is_child else None)
        if labels.get(types.WATCH_LABEL) == "true":
            self._secrets.put(path, raw)
        else:
            self._secrets.remove(path)
        return concerned | self.reads.changed(self, [("Secret", path)])

    def _remove_agency_secret(self, namespace: str, name: str) -> KeySet:
        path = f"{namespace}/{name}"
        self._secrets.set_version(namespace, name, None)
        concerned = self._put_child(ref_of(kinds.SECRET, namespace, name), None)
        self._secrets.remove(path)
        return concerned | self.reads.changed(self, [("Secret", path)])

    def _set_namespace(self, name: str, labels: dict[str, str] | None) -> KeySet:
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = labels
        return self.reads.changed(self, [("Namespace", name)])

    def _put_child(self, ref: ObjectRef, raw: dict[str, Any] | None) -> KeySet:
        former = self.child_index.by_ref.get(ref)
        present = self.child_index.put(ref, raw, self._keys)
        self._ignored.pop(ref, None)
        if present is None and raw is not None:
            self._ignored[ref] = raw["metadata"]["uid"], raw["metadata"]["resourceVersion"]
        change = _Change()
        for child in {id(record): record for record in (former, present) if record is not None}.values():
            change.subjects |= _subjects_of_child(child)
            if child.is_config:
                self._arrange(child.key, change)
        if ref.kind == kinds.CERTIFICATE.name:
            self._count_certificate(former, present, change)
        if _as_planned(former) != _as_planned(present):
            change.keys |= {child.key for child in (former, present) if child is not None}
        if _routed(former) != _routed(present):
            change.keys |= {hostname_key(host) for host in _published_hosts(former) | _published_hosts(present)}
        return self._concerned(change)

    def _count_certificate(
        self, former: kinds.ChildRecord | None, present: kinds.ChildRecord | None, change: "_Change"
    ) -> None:
        """Count the hostname of a Certificate for its namespace."""
        if former is not None and (present is None or present.key != former.key):
            self._note_ranks(self._siblings.count_certificate(former.key.name, ""), change)
        if present is not None:
            self._note_ranks(self._siblings.count_certificate(present.key.name, present.counts_for), change)

    def _on_features(self, changed: bool) -> KeySet:
        return self.all_keys() if changed else _NO_KEYS


class _Change(msgspec.Struct):
    """What a change may concern."""

    keys: set[Key] = msgspec.field(default_factory=set)
    """The keys to plan again in any case."""
    subjects: set[Subject] = msgspec.field(default_factory=set)
    """Subjects about which a lookup may have another answer now."""


def hostname_key(hostname: str) -> Key:
    """The key that owns the children of a hostname."""
    return Key("Hostname", "", hostname)


def ref_of(kind: kinds.WatchedKind, namespace: str, name: str) -> ObjectRef:
    """Identify an object of a kind."""
    return ObjectRef(kind.api_version, kind.name, namespace, name)


def _read_by_others(parsed: object) -> tuple[object, ...]:
    """The part of a class that plans of other keys read; ``parsed``: of its record, None without one."""
    match parsed:
        case CachedResource(resource=resources.ListenerClass(spec=spec)):
            return parsed.uid, parsed.created, spec, parsed.fields.get(FINGERPRINT_FIELD)
        case UnreadableResource():
            return parsed.uid, parsed.generation, parsed.message
    return ()


def _stored_hostnames(cached: CachedResource[resources.Listener]) -> frozenset[str]:
    """The hostnames that a Listener names and that its stored status shows as its own.

    The status of a Listener that had the address of its class until now may still show the class's hostname.
    """
    named = {address.hostname for address in cached.resource.spec.addresses or ()}
    shown = [entry for entry in cached.fields.get(ADDRESSES_FIELD) or () if isinstance(entry, dict)]
    return frozenset(named & {entry.get("hostname") for entry in shown if entry.get("name") != children.CLASS_ADDRESS})


def _declared(record: kinds.ResourceRecord | None) -> tuple[object, ...]:
    """The part of a resource that users write, without its status."""
    if record is None:
        return ()
    parsed = record.parsed
    if isinstance(parsed, CachedResource):
        return record.uid, parsed.resource, parsed.fields
    return record.uid, parsed.generation, parsed.message


def _tenant_ref(record: kinds.ResourceRecord | None) -> object:
    """The Tenant that a Destination names, which is all that Listeners read of it; unique if it cannot be read."""
    if record is None or not isinstance(record.parsed, CachedResource):
        return record
    return record.uid, record.parsed.resource.spec.tenant_ref


def _needed_secrets(resource: resources.Resource | None) -> list[str]:
    """The values of Secrets that a Listener or a Destination refers to: ``namespace/name/key``."""
    if not isinstance(resource, resources.Listener | resources.Destination):
        return []
    return [f"{resource.metadata.namespace}/{name}/{key}" for name, key in types.secret_keys(resource.spec)]


def _subjects_of(claims: Iterable[Claim]) -> set[Subject]:
    return {("Hostname", claim) if isinstance(claim, str) else ("Address", claim[1]) for claim in claims}


def _subjects_of_child(child: kinds.ChildRecord) -> set[Subject]:
    """What other plans read of a child: a document, who holds its hostnames, or the state of a hostname's route."""
    subjects: set[Subject] = {(child.key.kind, child.key.path)}
    hostnames = child.held.hostnames if child.held is not None else ()
    subjects |= _subjects_of_document(child.key, _published_document(child))
    return subjects | {("Hostname", hostname) for hostname in hostnames}


def _subjects_of_document(key: Key, document: documents.ListenerDocument | None) -> set[Subject]:
    subjects: set[Subject] = set()
    for address in document.addresses if document is not None else ():
        subjects |= {("Hostname", address.host), ("Address", address_path(key.namespace, address))}
    return subjects


def _exposed_by(document: documents.ListenerDocument | None) -> dict[str, bool]:
    """Map each hostname in a published document to True if its Listener owns a live address there."""
    if document is None:
        return {}
    own = {address.host for address in document.live_addresses if not address.is_class_address}
    return {address.host: address.host in own for address in document.addresses}


def _as_planned(child: kinds.ChildRecord | None) -> tuple[object, ...]:
    return (child.uid, child.digest, child.state.status, child.key) if child is not None else ()


def _published_document(child: kinds.ChildRecord | None) -> documents.ListenerDocument | None:
    document = child.published.document if child is not None and child.published is not None else None
    return document if isinstance(document, documents.ListenerDocument) else None


def _published_hosts(child: kinds.ChildRecord | None) -> set[str]:
    document = _published_document(child)
    return {address.host for address in document.addresses} if document is not None else set()


def _routed(child: kinds.ChildRecord | None) -> tuple[object, ...]:
    """The fields of a published document on which hostnames and their children depend."""
    document = _published_document(child)
    return (document.addresses, document.tenant.name, document.max_body_bytes) if document is not None else ()
