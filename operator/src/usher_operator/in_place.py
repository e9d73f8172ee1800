"""The children of this install that are in place, by object, by what they were made of, and by published hostname."""

from collections.abc import Iterable
from typing import Any

from usher_gateway import documents, model
from usher_operator import seen
from usher_operator.view import Install, Key, ObjectRef, PublishedDocument


class InPlace:
    """What was read of children last. It holds no rule of whom a change concerns: that is the cache's."""

    def __init__(self, install: Install) -> None:
        self._install = install
        self.by_ref: dict[ObjectRef, seen.Child] = {}
        self.foreign: set[ObjectRef] = set()
        """Children of other installs, which are left alone."""
        self._by_key: dict[Key, dict[ObjectRef, seen.Child]] = {}
        self._hosts: dict[str, set[Key]] = {}

    @property
    def hosts(self) -> Iterable[str]:
        """Hostnames in published documents."""
        return self._hosts

    @property
    def keys(self) -> Iterable[Key]:
        """Keys that have a child."""
        return self._by_key

    def of(self, key: Key) -> tuple[seen.Child, ...]:
        """The children of a key."""
        return tuple(self._by_key.get(key, {}).values())

    def config_of(self, key: Key) -> seen.Child | None:
        """The config Secret of a key, tombstone or not."""
        if key.kind not in {"Listener", "Destination"}:
            return None
        return next((child for child in self._by_key.get(key, {}).values() if child.is_config), None)

    def published(self, key: Key) -> PublishedDocument | None:
        """The document in the config Secret of a key."""
        child = self.config_of(key)
        return child.published if child is not None else None

    def listener_document(self, key: Key) -> documents.Listener | None:
        """The published document of a Listener."""
        found = self.published(key)
        return found.document if found is not None and isinstance(found.document, documents.Listener) else None

    def hosts_of(self, key: Key) -> frozenset[str]:
        """Hostnames in the published document of a Listener."""
        document = self.listener_document(key)
        return frozenset(address.host for address in document.addresses) if document is not None else frozenset()

    def published_at(self, hostname: str) -> frozenset[Key]:
        """Listeners whose published document has a hostname."""
        return frozenset(self._hosts.get(hostname, ()))

    def put(self, ref: ObjectRef, raw: dict[str, Any] | None, keys: model.Keys | None) -> seen.Child | None:
        """Take a child as it is now, and return it; one that is gone, or is not ours any more, leaves."""
        self._drop(ref)
        full = {**raw, "apiVersion": ref.api_version, "kind": ref.kind} if raw is not None else None
        if full is not None and seen.is_foreign(full, self._install.controller_name):
            self.foreign.add(ref)
        else:
            self.foreign.discard(ref)
        child = seen.read_child(full, self._install.controller_name, keys) if full is not None else None
        if child is None or not self._is_in_its_place(child):
            return None
        self.by_ref[ref] = child
        self._by_key.setdefault(child.key, {})[ref] = child
        if child.is_config:
            for host in self.hosts_of(child.key):
                self._hosts.setdefault(host, set()).add(child.key)
        return child

    def _is_in_its_place(self, child: seen.Child) -> bool:
        """Whether a Secret is where we would make it: labels and annotations can be written by any tenant."""
        if child.seen.ref.kind != "Secret":
            return True
        return child.seen.ref.namespace == (self._install.config_namespace if child.is_config else child.key.namespace)

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
