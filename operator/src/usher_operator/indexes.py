"""The children of this install that are in place, by object, by what they were made of, and by published hostname."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import types
from usher_operator import parsing
from usher_operator.view import Install, Key, ObjectRef, PublishedDocument


class ChildIndex:
    """What was read of children last. It holds no rule of whom a change concerns: that is the cache's."""

    def __init__(self, install: Install) -> None:
        self._install = install
        self.by_ref: dict[ObjectRef, parsing.ChildRecord] = {}
        self.foreign: set[ObjectRef] = set()
        """Children of other installs, which are left alone."""
        self._by_key: dict[Key, dict[ObjectRef, parsing.ChildRecord]] = {}
        self._hosts: dict[str, set[Key]] = {}

    @property
    def hosts(self) -> Iterable[str]:
        """Hostnames in published documents."""
        return self._hosts

    @property
    def keys(self) -> Iterable[Key]:
        """Keys that have a child."""
        return self._by_key

    def of(self, key: Key) -> tuple[parsing.ChildRecord, ...]:
        """The children of a key."""
        return tuple(self._by_key.get(key, {}).values())

    def config_of(self, key: Key) -> parsing.ChildRecord | None:
        """The config Secret of a key, tombstone or not."""
        if key.kind not in {"Listener", "Destination"}:
            return None
        return next((child for child in self._by_key.get(key, {}).values() if child.is_config), None)

    def published(self, key: Key) -> PublishedDocument | None:
        """The document in the config Secret of a key."""
        child = self.config_of(key)
        return child.published if child is not None else None

    def listener_document(self, key: Key) -> documents.ListenerDocument | None:
        """The published document of a Listener."""
        found = self.published(key)
        return found.document if found is not None and isinstance(found.document, documents.ListenerDocument) else None

    def hosts_of(self, key: Key) -> frozenset[str]:
        """Hostnames in the published document of a Listener."""
        document = self.listener_document(key)
        return frozenset(address.host for address in document.addresses) if document is not None else frozenset()

    def published_at(self, hostname: str) -> frozenset[Key]:
        """Listeners whose published document has a hostname."""
        return frozenset(self._hosts.get(hostname, ()))

    def put(self, ref: ObjectRef, raw: dict[str, Any] | None, keys: model.Keys | None) -> parsing.ChildRecord | None:
        """Take a child as it is now, and return it; one that is gone, or is not ours any more, leaves."""
        self._drop(ref)
        full = {**raw, "apiVersion": ref.api_version, "kind": ref.kind} if raw is not None else None
        if full is not None and parsing.is_foreign(full, self._install.controller_name):
            self.foreign.add(ref)
        else:
            self.foreign.discard(ref)
        child = parsing.parse_child(full, self._install.controller_name, keys) if full is not None else None
        if child is None or not self._is_in_its_place(child):
            return None
        self.by_ref[ref] = child
        self._by_key.setdefault(child.key, {})[ref] = child
        if child.is_config:
            for host in self.hosts_of(child.key):
                self._hosts.setdefault(host, set()).add(child.key)
        return child

    def _is_in_its_place(self, child: parsing.ChildRecord) -> bool:
        """Whether a Secret is where we would make it: labels and annotations can be written by any tenant."""
        if child.state.ref.kind != "Secret":
            return True
        return child.state.ref.namespace == (self._install.config_namespace if child.is_config else child.key.namespace)

    def _drop(self, ref: ObjectRef) -> None:
        before = self.by_ref.get(ref)
        if before is None:
            return
        if before.is_config:
            for host in self.hosts_of(before.key):
                self._hosts[host].discard(before.key)
                if not self._hosts[host]:
                    del self._hosts[host]
        del self.by_ref[ref]
        siblings = self._by_key[before.key]
        del siblings[ref]
        if not siblings:
            del self._by_key[before.key]


TargetKind = Literal["Secret", "Tenant", "Destination", "ListenerClass", "Hostname", "Namespace"]
Target = tuple[TargetKind, str]
"""What is referred to: its kind, and ``namespace/name`` or the name alone."""


class ReferenceIndex:
    """Reverse maps over every Listener and Destination."""

    def __init__(self) -> None:
        self._targets: dict[Key, frozenset[Target]] = {}
        self._users: dict[Target, set[Key]] = {}

    def set(self, key: Key, targets: frozenset[Target]) -> None:
        """What a key refers to now; empty: nothing (any more)."""
        before = self._targets.get(key, frozenset())
        for gone in before - targets:
            users = self._users[gone]
            users.discard(key)
            if not users:
                del self._users[gone]
        for new in targets - before:
            self._users.setdefault(new, set()).add(key)
        if targets:
            self._targets[key] = targets
        else:
            self._targets.pop(key, None)

    def targets(self, key: Key) -> frozenset[Target]:
        """What a key refers to."""
        return self._targets.get(key, frozenset())

    def users(self, kind: TargetKind, path: str) -> frozenset[Key]:
        """Who refers to something."""
        return frozenset(self._users.get((kind, path), ()))


def class_name(one: resources.Listener) -> str:
    """The ListenerClass of a Listener."""
    return str(types.value_or_default(one.spec.listener_class_name, "Listener.spec.listenerClassName"))


def targets_of(one: resources.Resource) -> frozenset[Target]:
    """Everything that a Listener or Destination refers to; of others nothing."""
    return frozenset(_targets_of(one))


def _targets_of(one: resources.Resource) -> Iterator[Target]:
    match one:
        case resources.Listener():
            namespace = one.metadata.namespace
            yield "Tenant", f"{namespace}/{one.spec.tenant_ref.name}"
            yield "ListenerClass", class_name(one)
            for route in one.spec.routes or ():
                yield "Destination", f"{namespace}/{route.destination_ref.name}"
            for address in one.spec.addresses or ():
                yield "Hostname", address.hostname
        case resources.Destination():
            namespace = one.metadata.namespace
            if one.spec.tenant_ref is not None:
                yield "Tenant", f"{namespace}/{one.spec.tenant_ref.name}"
        case _:
            return
    yield "Namespace", namespace
    for name in set(secret_names(one.spec)):
        yield "Secret", f"{namespace}/{name}"


def secret_names(value: object) -> Iterable[str]:
    """Names of the Secrets that are referred to anywhere inside."""
    match value:
        case types.SecretRef() | types.SecretKeyRef():
            yield value.name
        case msgspec.Struct():
            for name in value.__struct_fields__:
                yield from secret_names(getattr(value, name))
        case list():
            for item in value:
                yield from secret_names(item)
