"""Indexes that the cache keeps: existing children, the classes in use, Secrets, and optional APIs."""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Generic, TypeVar

import msgspec

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.resources import types
from usher_gateway.resources.hostnames import Owner
from usher_gateway.resources.removal_limit import RemovalKind
from usher_gateway.resources.secret import MAX_VALUE_BYTES
from usher_operator.settings import OperatorSettings
from usher_operator.state import child_labels, kinds
from usher_operator.state.values import (
    ClusterFeatures,
    Key,
    Kind,
    ObjectRef,
    PublishedDocument,
    SecretAccess,
    SecretState,
    address_path,
)

_NO_KEYS: frozenset[Key] = frozenset()
Group = TypeVar("Group", bound=Hashable)


class GroupIndex(Generic[Group]):
    """Keys in groups; a key may be in several."""

    def __init__(self) -> None:
        self._keys: dict[Group, set[Key]] = {}
        self._groups: dict[Key, tuple[Group, ...]] = {}  # Tuples, because a set takes four times the memory

    def set(self, key: Key, groups: Iterable[Group]) -> None:
        """Set a key's groups; empty if it is in no group any more."""
        previous_groups, new_groups = self.groups_of(key), frozenset(groups)
        for group in previous_groups - new_groups:
            keys = self._keys[group]
            keys.discard(key)
            if not keys:
                del self._keys[group]
        for group in new_groups - previous_groups:
            self._keys.setdefault(group, set()).add(key)
        if new_groups:
            self._groups[key] = tuple(new_groups)
        else:
            self._groups.pop(key, None)

    @property
    def groups(self) -> AbstractSet[Group]:
        """Every group that has a key. Do not keep or change the result."""
        return self._keys.keys()

    def groups_of(self, key: Key) -> frozenset[Group]:
        """A key's groups."""
        return frozenset(self._groups.get(key, ()))

    def keys_of(self, group: Group) -> AbstractSet[Key]:
        """A group's keys. Do not keep or change the result."""
        return self._keys.get(group, _NO_KEYS)


class HolderIndex:
    """The tenants that hold hostnames, by the Listeners that say so."""

    def __init__(self) -> None:
        self._hosts: GroupIndex[str] = GroupIndex()
        self._tenants: dict[Key, Mapping[str, str]] = {}  # Hostname -> name of the tenant
        self._counts: dict[str, Counter[Owner]] = {}  # By how many Listeners each tenant holds a hostname

    def set(self, key: Key, tenants: Mapping[str, str]) -> None:
        """Set the hostnames that tenants hold by a Listener: hostname -> name of the tenant."""
        self._count(key, -1)
        self._hosts.set(key, tenants)
        if tenants:
            self._tenants[key] = tenants
        else:
            self._tenants.pop(key, None)
        self._count(key, 1)

    def _count(self, key: Key, change: int) -> None:
        for hostname, tenant in self._tenants.get(key, {}).items():
            counts, owner = self._counts.setdefault(hostname, Counter()), (key.namespace, tenant)
            counts[owner] += change
            if not counts[owner]:
                del counts[owner]
            if not counts:
                del self._counts[hostname]

    def hostnames_of(self, key: Key) -> frozenset[str]:
        """The hostnames that tenants hold by a Listener."""
        return self._hosts.groups_of(key)

    def keys_of(self, hostname: str) -> AbstractSet[Key]:
        """The Listeners by which tenants hold a hostname. Do not keep or change the result."""
        return self._hosts.keys_of(hostname)

    def holders(self, hostname: str) -> frozenset[Owner]:
        """The tenants that hold a hostname."""
        return frozenset(self._counts.get(hostname, ()))


class ChildIndex:
    """Existing children by object, by the key that owns them, and by published hostname."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self.by_ref: dict[ObjectRef, kinds.ChildRecord] = {}
        self.foreign: set[ObjectRef] = set()  # Children of other installs, which this operator never writes
        self._by_key: dict[Key, dict[ObjectRef, kinds.ChildRecord]] = {}
        self.by_hostname: GroupIndex[str] = GroupIndex()  # Listeners by the hostnames in their published document
        self.by_address: GroupIndex[str] = GroupIndex()
        """Listeners by the address paths (`address_path`) in their published document."""
        self.by_class_hostname: GroupIndex[str] = GroupIndex()
        """Listeners by the hostnames at which their published document has addresses of a class."""
        self.by_own_hostname: GroupIndex[tuple[str, str]] = GroupIndex()
        """Listeners by namespace and hostname: their tenant's hostnames in their published document."""
        self._in_force: GroupIndex[tuple[Kind, str]] = GroupIndex()
        """Keys whose document is in force, by kind and namespace."""
        self.tombstones: GroupIndex[str] = GroupIndex()  # Keys that have a tombstone, by namespace
        self._addresses: Counter[tuple[RemovalKind, str]] = Counter()
        """Each namespace's number of addresses in force: ``Address`` counts those that are not retired."""
        self.listeners_in_force = 0  # Number of published documents of Listeners
        self.holders = HolderIndex()  # The tenants that hold hostnames by a document or a tombstone

    @property
    def keys(self) -> Iterable[Key]:
        """Keys that have a child."""
        return self._by_key

    def of(self, key: Key) -> tuple[kinds.ChildRecord, ...]:
        """A key's children."""
        return tuple(self._by_key.get(key, {}).values())

    def config_of(self, key: Key) -> kinds.ChildRecord | None:
        """A key's config Secret, with a document or a tombstone."""
        if key.kind not in {"Listener", "Destination"}:
            return None
        return next((child for child in self._by_key.get(key, {}).values() if child.is_config), None)

    def published(self, key: Key) -> PublishedDocument | None:
        """The document in a key's config Secret."""
        child = self.config_of(key)
        return child.published if child is not None else None

    def listener_document(self, key: Key) -> documents.ListenerDocument | None:
        """A Listener's published document."""
        published = self.published(key)
        return published.listener if published is not None else None

    def namespaces_with(self, kind: Kind) -> frozenset[str]:
        """The namespaces where a kind has a published document."""
        return frozenset(namespace for kind_in_force, namespace in self._in_force.groups if kind_in_force == kind)

    def count_in_force(self, namespace: str) -> dict[RemovalKind, int]:
        """How many published documents a namespace has, and how many addresses they have."""
        return {
            "Listener": len(self._in_force.keys_of(("Listener", namespace))),
            "Destination": len(self._in_force.keys_of(("Destination", namespace))),
            "Address": self._addresses["Address", namespace],
            "RetiredAddress": self._addresses["RetiredAddress", namespace],
        }

    def put(self, ref: ObjectRef, raw: dict[str, Any] | None, keys: model.Keys | None) -> kinds.ChildRecord | None:
        """Take a child as it is now, and return its record; None if it is gone or does not belong to this install."""
        self._drop(ref)
        full = {**raw, "apiVersion": ref.api_version, "kind": ref.kind} if raw is not None else None
        if full is not None and kinds.is_foreign(full, self._settings.controller_name):
            self.foreign.add(ref)
        else:
            self.foreign.discard(ref)
        child = kinds.parse_child(full, self._settings.controller_name, keys) if full is not None else None
        if child is None or not self._is_where_we_write(child):
            return None
        self.by_ref[ref] = child
        self._by_key.setdefault(child.key, {})[ref] = child
        if child.published is not None:
            self.listeners_in_force += child.key.kind == "Listener"
            self._addresses.update(_address_counts(child))
        if child.is_config:
            self._index_config(child.key)
        return child

    def _is_where_we_write(self, child: kinds.ChildRecord) -> bool:
        """True if a Secret has the place and the name that the operator gives it.

        Any tenant can set labels and annotations, and an annotation may be 256 KiB long. The cache keeps nothing from
        such a Secret.
        """
        ref, key = child.state.ref, child.key
        if ref.kind != "Secret":
            return True
        if child.is_config:
            name = config_secret.secret_name(key.kind, key.path)
            return (ref.namespace, ref.name) == (self._settings.configuration_namespace, name)
        return (ref.namespace, ref.name) == (child.key.namespace, child_labels.url_secret_name(child.key.name))

    def _drop(self, ref: ObjectRef) -> None:
        child = self.by_ref.get(ref)
        if child is None:
            return
        if child.published is not None:
            self.listeners_in_force -= child.key.kind == "Listener"
            self._addresses.subtract(_address_counts(child))
        del self.by_ref[ref]
        siblings = self._by_key[child.key]
        del siblings[ref]
        if not siblings:
            del self._by_key[child.key]
        if child.is_config:
            self._index_config(child.key)

    def _index_config(self, key: Key) -> None:
        """Index a key's present config Secret."""
        child, document = self.config_of(key), self.listener_document(key)
        addresses = document.addresses if document is not None else ()
        self.by_hostname.set(key, (address.host for address in addresses))
        self.by_address.set(key, (address_path(key.namespace, address) for address in addresses))
        self.by_class_hostname.set(key, (address.host for address in addresses if address.is_class_address))
        own_hostnames = document.own_hostnames if document is not None else ()
        self.by_own_hostname.set(key, ((key.namespace, hostname) for hostname in own_hostnames))
        is_in_force = child is not None and child.published is not None
        self._in_force.set(key, [(key.kind, key.namespace)] if is_in_force else [])
        self.tombstones.set(key, [key.namespace] if child is not None and child.tombstone else [])
        owned = child.tenant_hostnames if child is not None else kinds.NO_HOSTNAMES
        self.holders.set(key, dict.fromkeys(owned.hostnames, owned.tenant))


def _address_counts(child: kinds.ChildRecord) -> dict[tuple[RemovalKind, str], int]:
    """How many addresses a document has, and how many are retired."""
    document = child.published.listener if child.published is not None else None
    if document is None:
        return {}
    retired, namespace = len(document.retired_addresses), child.key.namespace
    return {("Address", namespace): len(document.addresses) - retired, ("RetiredAddress", namespace): retired}


_MISS_MICROSECONDS = 60_000_000  # How long the result of a lookup of a missing Secret is used
_MAX_VALUE_LENGTH = 2 * MAX_VALUE_BYTES  # Length in base64 of a value that is certainly longer than any value in use


class SecretIndex:
    """Agencies' Secrets: values to which resources refer, and which other Secrets are absent.

    It keeps nothing else from a Secret, because anything else may be large.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._needed: GroupIndex[str] = GroupIndex()
        """Listeners and Destinations by the values that they refer to: ``namespace/name/key``."""
        self._secrets: dict[str, resources.Secret] = {}
        self._access: dict[str, SecretAccess] = {}  # Access by namespace; the empty name means all namespaces at once
        self._misses: dict[str, tuple[SecretState, int]] = {}
        """Missing Secret -> its state, and when it was looked up; the longest ago first."""

    def access(self, namespace: str) -> SecretAccess:
        """The operator's access to a namespace's Secrets, or to all namespaces at once if the name is empty."""
        everywhere = self._access.get("", "Unknown")
        return self._access.get(namespace, "Unknown") if everywhere == "Denied" else everywhere

    def set_access(self, namespace: str, access: SecretAccess) -> None:
        """Set the access to a namespace; `""`: to all namespaces at once."""
        if not namespace:
            self._access = {"": access}
        elif access == "Unknown":
            self._access.pop(namespace, None)
        else:
            self._access[namespace] = access

    def get(self, path: str) -> resources.Secret | None:
        """A labelled Secret by ``namespace/name``."""
        return self._secrets.get(path)

    def state(self, path: str) -> SecretState | None:
        """A Secret's state; None if it has to be looked up."""
        if path in self._secrets:
            return "Found"
        state, since = self._misses.get(path, (None, 0))
        return state if self._clock() - since < _MISS_MICROSECONDS else None

    def put(self, path: str, raw: Mapping[str, Any]) -> None:
        """Take a labelled Secret."""
        namespace, _, name = path.partition("/")
        used = {
            key: _cut(value) for key, value in (raw.get("data") or {}).items() if self._needed.keys_of(f"{path}/{key}")
        }
        metadata = {"name": name, "namespace": namespace, "labels": {types.WATCH_LABEL: "true"}}
        self._misses.pop(path, None)
        try:
            self._secrets[path] = kinds.convert({"metadata": metadata, "data": used}, resources.Secret)
        except msgspec.ValidationError:
            self._secrets.pop(path, None)

    def remove(self, path: str) -> None:
        """Forget a Secret that is gone or not labelled any more."""
        self._misses.pop(path, None)
        self._secrets.pop(path, None)

    def set_needed(self, key: Key, values: Collection[str]) -> set[str]:
        """Set the values to which a resource refers; keep no value that nothing refers to any more.

        If a value is needed that was not kept, the Secret is forgotten, so that a plan looks it up again. Returns such
        Secrets' paths.
        """
        previous_paths, forgotten = self._needed.groups_of(key), set()
        for path in frozenset(values) - previous_paths:
            secret = path.rpartition("/")[0]
            if not self._needed.keys_of(path) and self._secrets.pop(secret, None) is not None:
                forgotten.add(secret)
        self._needed.set(key, values)
        for path in previous_paths - frozenset(values):
            secret, _, unused = path.rpartition("/")
            if secret in self._secrets and not self._needed.keys_of(path):
                cached = self._secrets[secret]
                needed_data = {name: value for name, value in cached.data.items() if name != unused}
                self._secrets[secret] = msgspec.structs.replace(cached, data=needed_data)
        return forgotten

    def note_missing(self, path: str, state: SecretState) -> None:
        """Note a missing Secret's lookup result."""
        self._misses.pop(path, None)
        self._misses[path] = (state, self._clock())  # at the end, because missing() returns the first ones

    def missing(self, most: int) -> list[str]:
        """Return missing Secrets, up to ``most`` per namespace: those that were looked up longest ago."""
        counts: Counter[str] = Counter()
        paths = []
        for path in self._misses:
            namespace = path.partition("/")[0]
            counts[namespace] += 1
            if counts[namespace] <= most:
                paths.append(path)
        return paths

    def forget_missing(self) -> None:
        """Forget all lookup results."""
        self._misses.clear()


def _cut(value: Any) -> Any:
    """A Secret's value, cut if it is so long that compile() refuses it anyway."""
    return value[:_MAX_VALUE_LENGTH] if isinstance(value, str) else value


class OptionalApis:
    """Tracks which optional APIs the cluster serves; `features` sums it up for plans."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str], Mapping[str, Any]] = {}
        """IngressClasses and issuers by kind and name."""
        self._served: set[str] = set()  # Names of the kinds of optional APIs that the cluster serves
        self.features = ClusterFeatures()

    def set(self, kind: kinds.WatchedKind, name: str, raw: Mapping[str, Any] | None) -> bool:
        """Take an IngressClass or an issuer as it is now; None: it is gone. Returns whether `features` changed."""
        if raw is None:
            self._objects.pop((kind.name, name), None)
        else:
            self._objects[kind.name, name] = raw if kind is kinds.INGRESS_CLASS else {}
        return self._refresh()

    def is_served(self, kind: kinds.WatchedKind) -> bool:
        """True if the cluster serves a kind. One API's kinds may appear one by one."""
        return not kind.feature or kind.name in self._served

    def set_served(self, kind: kinds.WatchedKind, *, served: bool) -> bool:
        """Note whether the cluster serves an optional API's kind; returns whether `features` changed."""
        if served:
            self._served.add(kind.name)
        else:
            self._served.discard(kind.name)
            self._objects = {path: raw for path, raw in self._objects.items() if path[0] != kind.name}
        return self._refresh()

    def _refresh(self) -> bool:
        previous_features = self.features
        classes = {name: raw for (kind, name), raw in self._objects.items() if kind == kinds.INGRESS_CLASS.name}
        issuers = frozenset(path for path in self._objects if path[0] != kinds.INGRESS_CLASS.name)
        has_certificates = self.is_served(kinds.CERTIFICATE)
        self.features = ClusterFeatures(
            gateway_api=self.is_served(kinds.HTTP_ROUTE),
            cert_manager=has_certificates,
            ingress_classes={name: (raw.get("spec") or {}).get("controller", "") for name, raw in classes.items()},
            default_ingress_class=min((name for name, raw in classes.items() if _is_default(raw)), default=""),
            issuers=issuers if has_certificates else None,
        )
        return msgspec.structs.astuple(previous_features) != msgspec.structs.astuple(self.features)


def _is_default(ingress_class: Mapping[str, Any]) -> bool:
    annotations = ingress_class["metadata"].get("annotations") or {}
    return bool(annotations.get("ingressclass.kubernetes.io/is-default-class") == "true")
