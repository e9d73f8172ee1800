"""The cache: everything that the operator knows about the cluster, as plan() reads it (``View``).

Each change returns the keys that have to be planned again: those whose own resource or children changed, and those
whose last plan read something that differs now (`reads`). A change that no plan reads, such as the watch event for the
operator's own write or a new resourceVersion alone, returns none. No method awaits, so the cache never changes while a
plan is made.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec

from usher_gateway import config_secret, documents, resources
from usher_gateway.kube import is_older
from usher_gateway.resources import types
from usher_gateway.resources.listener_document import CLASS_ADDRESS
from usher_gateway.resources.removal_limit import HaltedRemovals
from usher_operator.state import kinds
from usher_operator.state.gateway_reports import ChangedHolders
from usher_operator.state.reads import Subject
from usher_operator.state.siblings import Claim, Place
from usher_operator.state.values import (
    ADDRESSES_FIELD,
    FINGERPRINT_FIELD,
    CachedResource,
    GatewayReport,
    Key,
    ListenerReadiness,
    ObjectRef,
    Reachability,
    SecretAccess,
    SecretState,
    UnreadableResource,
    WriteFailure,
    address_path,
    hostname_key,
)
from usher_operator.state.view import NO_VERSION, KeySet, Version, View

_NO_KEYS: KeySet = frozenset()


class Cache(View):
    """Changes the cluster's present state, and says which keys a change concerns."""

    def grant(self, key: Key, hostnames: Collection[str]) -> KeySet:
        """Give hostnames to a Listener while its document is written; returns the other keys to plan again."""
        if not hostnames:
            return _NO_KEYS
        owner = key.namespace, self._tenant_of(key)
        self._granted.update(dict.fromkeys(hostnames, (key, owner)))
        return self._readers_of_hostnames(hostnames) - {key}

    def end_grant(self, key: Key) -> KeySet:
        """End a Listener's grants once its document was written or failed; returns other keys to plan again."""
        hosts = [host for host, (holder, _) in self._granted.items() if holder == key]
        for host in hosts:
            del self._granted[host]
        return self._readers_of_hostnames(hosts) - {key}

    def abandon_classes(self, controller_name: str) -> None:
        """Note that this install does not serve a controllerName any more that it served before."""
        self._abandoned = {
            name
            for name, listener_class in self.classes.items()
            if listener_class.resource.spec.controller_name == controller_name
        }

    def allow_retirement(self, key: Key, addresses: frozenset[str]) -> None:
        """Let a Listener's next plan take these addresses out of service, and no others."""
        if addresses:
            self._retirements[key] = addresses
        else:
            self._retirements.pop(key, None)

    def take(self, kind: kinds.WatchedKind, raw: dict[str, Any]) -> KeySet:
        """Store an object from an answer or a list. If the cache lacks this version, its watch has to report it too."""
        about = raw["metadata"]
        if self.version_of(kind, about.get("namespace", ""), about["name"])[1] != about["resourceVersion"]:
            self._expect_event(kind.name)
        return self.put(kind, raw)

    def take_answer(self, kind: kinds.WatchedKind, raw: dict[str, Any], version_at_start: str) -> KeySet:
        """Take the answer to a write, unless the watch reported a later state or the deletion meanwhile.

        ``version_at_start``: the resourceVersion in the cache when the write began.
        """
        about = raw["metadata"]
        uid, version = self.version_of(kind, about.get("namespace", ""), about["name"])
        is_late = version != version_at_start and uid == about["uid"] and is_older(about["resourceVersion"], version)
        if is_late or about["uid"] in self._deleted_uids:
            return frozenset()
        return self.take(kind, raw)

    def put(self, kind: kinds.WatchedKind, raw: dict[str, Any]) -> KeySet:
        """Store an object's present state; returns the keys to plan again."""
        metadata = raw["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        self._versions.setdefault((kind.name, namespace), {})[name] = metadata["uid"], metadata["resourceVersion"]
        return self._set(kind, namespace, name, raw)

    def remove(self, kind: kinds.WatchedKind, namespace: str, name: str) -> KeySet:
        """Forget an object that was deleted; returns the keys to plan again."""
        uid, _ = self._forget_version(kind, namespace, name)
        self._deleted_uids.append(uid)
        return self._set(kind, namespace, name, None)

    def set_served(self, kind: kinds.WatchedKind, *, served: bool) -> KeySet:
        """Set whether the cluster serves an optional API's kind. Without the kind its children are gone."""
        gone: KeySet = _NO_KEYS
        if not served and kind in kinds.CHILDREN:
            for namespace, name in self.versions(kind):
                self._forget_version(kind, namespace, name)
                gone |= self._set(kind, namespace, name, None)
        return gone | self._on_features(self.optional.set_served(kind, served=served))

    def set_secret_access(self, namespace: str, access: SecretAccess) -> KeySet:
        """Set whether the operator may use a namespace's Secrets; `""`: all namespaces at once."""
        self.secrets.set_access(namespace, access)
        if not namespace:
            return frozenset(key for key in self.records if key.kind in {"Listener", "Destination"})
        return self.reads.changed(self, [("Namespace", namespace)])

    def set_gateways(
        self,
        gateways: tuple[GatewayReport, ...],
        *,
        unready: Sequence[GatewayReport] = (),
        unheard: tuple[str, ...] = (),
    ) -> KeySet:
        """Set what the gateways report; returns the keys whose vanished document, or hostname holder, is another.

        The caller knows which other keys the reports concern. ``unready``: last reports of gateways that are not
        ready, of which only the hostnames count; ``unheard``: see ``GatewayReports``.
        """
        return self._replan_holders(self.reports.take(gateways, unready, unheard))

    def set_halted(self, halted: tuple[HaltedRemovals, ...]) -> KeySet:
        """Set the removals that wait for a confirmation, by namespace."""
        if halted == self.halted:
            return _NO_KEYS
        self.halted = halted
        return frozenset(Key("ListenerClass", "", name) for name in self.classes)

    def set_write_failure(self, key: Key, failure: WriteFailure | None) -> KeySet:
        """Set how the last attempt to write a key's children ended."""
        if failure == self._write_failures.get(key):
            return _NO_KEYS
        if failure is None:
            del self._write_failures[key]
        else:
            self._write_failures[key] = failure
        return self.reads.changed(self, [(key.kind, key.path)]) | {key}

    def set_reachability(self, hostname: str, reachability: Reachability | None) -> KeySet:
        """Set whether requests to a hostname lead to a gateway; None: forget it."""
        if reachability is None:
            self.reachabilities.pop(hostname, None)
        else:
            self.reachabilities[hostname] = reachability
        return self._readers_of_hostnames([hostname])

    def take_changed_routes(self) -> set[str]:
        """Return the checked hostnames whose Ingress, HTTPRoute or Certificate changed since the last call."""
        changed, self._changed_routes = self._changed_routes, set()
        return changed

    def set_behind(self, key: Key, *, is_behind: bool) -> None:
        """Set whether a key's last plan says ``is_behind``."""
        if is_behind:
            self._behind.setdefault(key, self.now)
        else:
            self._behind.pop(key, None)

    def note_missing(self, path: str, state: SecretState) -> KeySet:
        """Note a missing Secret's lookup result."""
        self.secrets.note_missing(path, state)
        return self.reads.changed(self, [("Secret", path)])

    # Parts that the changes above share.

    def _forget_version(self, kind: kinds.WatchedKind, namespace: str, name: str) -> Version:
        versions = self._versions.get((kind.name, namespace), {})
        version = versions.pop(name, NO_VERSION)
        if not versions:
            self._versions.pop((kind.name, namespace), None)
        return version

    def _set(self, kind: kinds.WatchedKind, namespace: str, name: str, raw: dict[str, Any] | None) -> KeySet:
        """Take an object as it is now; None: it is gone."""
        if kind in kinds.OWN:
            key = Key(kind.name, namespace, name)  # type: ignore[arg-type]
            record = self._parse_own(key, raw)
            self._ending.pop(key, None)
            if raw and record and kind is not kinds.LISTENER_CLASS and "deletionTimestamp" in raw["metadata"]:
                self._ending[key], record = record, None
            return self._set_own(key, record)
        if kind in kinds.CHILDREN:
            return self._put_child(kinds.ref_of(kind, namespace, name), raw)
        labels = (raw["metadata"].get("labels") or {}) if raw is not None else {}
        if kind is kinds.AGENCY_SECRET:
            return self._set_agency_secret(namespace, name, labels, raw)
        if kind is kinds.NAMESPACE:
            if raw is None:
                self._namespaces.pop(name, None)
            else:
                self._namespaces[name] = labels
            return self.reads.changed(self, [("Namespace", name)])
        return self._on_features(self.optional.set(kind, name, raw))

    def _parse_own(self, key: Key, raw: dict[str, Any] | None) -> kinds.ResourceRecord | None:
        record = None
        if raw is None:
            self._memory.forget(key)
        else:
            has_room = not key.namespace or self._memory.admit(key, raw.get("spec"))
            record = kinds.parse_resource(key.kind, raw, has_room=has_room)
        for kind in self._memory.take_readable(key.namespace):
            self._read_again(kinds.BY_NAME[kind])
        return record

    def _readers_of_hostnames(self, hostnames: Iterable[str]) -> KeySet:
        return self.reads.changed(self, [("Hostname", hostname) for hostname in hostnames])

    def _set_own(self, key: Key, record: kinds.ResourceRecord | None) -> KeySet:
        """Set a custom resource; None: it is gone."""
        previous = self.records.get(key)
        if record is None:
            for by_key in (self.records, self._edited, self._behind, self._write_failures):
                by_key.pop(key, None)
        else:
            self.records[key] = record
            if previous is not None and previous.uid == record.uid and previous.generation < record.generation:
                self._edited[key] = record.generation
        if (previous and (previous.uid, previous.parsed)) == (record and (record.uid, record.parsed)):
            return _NO_KEYS
        change = _Change(keys={key})
        if key.kind == "ListenerClass":
            self._set_class(key.name, previous and previous.parsed, record and record.parsed, change)
        elif _declared(previous) == _declared(record):
            self._arrange(key, change)
        else:
            self._index(key, change)
            self._arrange(key, change)
            if key.kind != "Destination" or _tenant_ref(previous) != _tenant_ref(record):
                change.subjects.add((key.kind, key.path))
            if key.kind == "Tenant" and (previous is None or record is None):  # claims of its Listeners begin or end
                for listener in self._every_listener_of(key.path):
                    self._index_claims(listener)
                    change.subjects |= _subjects_of(self._claims.of(listener))
        return self._concerned(change)

    def _concerned(self, change: "_Change") -> KeySet:
        """The keys to plan again after a change, once every index except the sibling order is up to date."""
        for key in change.siblings:
            change.subjects |= {("Limit", sibling) for sibling in self._reorder(key)}
        return self.reads.changed(self, change.subjects) | change.keys

    def _set_class(self, name: str, previous: object, current: object, change: "_Change") -> None:
        """Set a class. A change in the fields that other plans read is rare, and may concern every key."""
        self.classes.pop(name, None)
        self._unreadable_classes.discard(name)
        if isinstance(current, CachedResource):
            self.classes[name] = current
            if current.is_unserved:
                self._abandoned.discard(name)
        elif current is not None:
            self._unreadable_classes.add(name)
        if _read_by_others(previous) == _read_by_others(current):
            return
        for key in [key for key in self.records if key.kind == "Listener"]:  # it counts only if its class is ours
            self._set_uses(key, {use for use in self._uses.groups_of(key) if use[1]}, change)
            listener = self._parsed(key, resources.Listener)
            if listener is not None and listener.resource.class_name == name:
                self._index_claims(key)
                self._arrange(key, change)
        change.keys |= self.all_keys()

    def _index(self, key: Key, change: "_Change") -> None:
        """Index what a Tenant, Listener or Destination names. One that cannot be read needs what it needed before."""
        cached = self._readable(key)
        resource = cached.resource if cached is not None else None
        is_read_or_gone = resource is not None or key not in self.records
        if key.kind == "Tenant":
            company_id = resource.spec.company_id if resource is not None else None
            companies = {f"{key.namespace}/{company_id}"} if company_id else set()
            change.subjects |= {("Company", company) for company in self._companies.groups_of(key) | companies}
            self._companies.set(key, dict.fromkeys(companies, ()))
            return
        if is_read_or_gone:
            change.subjects |= {("Secret", path) for path in self.secrets.set_needed(key, _needed_secrets(resource))}
        if key.kind == "Listener":
            if is_read_or_gone:
                self._set_uses(key, _uses(resource) if resource is not None else set(), change)
            change.subjects |= _subjects_of(self._claims.of(key))
            change.siblings |= _hostname_places(key.namespace, self._claims.hostnames_of(key))
            self._index_claims(key)
            change.subjects |= _subjects_of(self._claims.of(key))

    def _index_claims(self, key: Key) -> None:
        """Index what a Listener names, again when its Tenant or its class begins or ends to exist."""
        cached = self._parsed(key, resources.Listener)
        self._claims.set(key, cached, self._class_for_claims(cached.resource) if cached is not None else "")

    def _set_uses(self, key: Key, uses: set[tuple[Key, str]], change: "_Change") -> None:
        """Set what a Listener uses, with its class name, and with ``""`` too while that does not exist.

        Notes the Tenant and the Destinations whose classes change by that.
        """
        absent = {
            (used, "") for used, name in uses if name not in self.classes and name not in self._unreadable_classes
        }
        uses = uses | absent
        had_keys = {group: bool(self._uses.keys_of(group)) for group in self._uses.groups_of(key) ^ uses}
        self._uses.set(key, uses)
        changed = {group[0] for group, had in had_keys.items() if bool(self._uses.keys_of(group)) is not had}
        change.keys |= {used for used in changed if used in self.records}

    def _arrange(self, key: Key, change: "_Change") -> None:
        """Put a Listener or a Destination in its place among its siblings."""
        if key.kind not in {"Listener", "Destination"}:
            return
        change.siblings.add(key)
        if key.kind == "Listener":
            cached, document = self._parsed(key, resources.Listener), self.child_index.listener_document(key)
            exposed = _exposed_by(document, cached.created) if cached is not None else {}
            hostnames = self._exposed.groups_of(key) | exposed.keys() | self._note_stored_hostnames(key, cached)
            self._exposed.set(key, exposed)
            change.subjects |= {("Hostname", hostname) for hostname in hostnames}
            change.subjects |= _subjects_of_document(key, document)
            change.siblings |= _hostname_places(key.namespace, self._claims.hostnames_of(key))
            self._sum_up(key, cached, change)

    def _sum_up(self, key: Key, cached: CachedResource[resources.Listener] | None, change: "_Change") -> None:
        """Add a Listener to its Tenant's Listeners with the same state."""
        groups: dict[tuple[str, ListenerReadiness], Place] = {}
        if cached is not None:
            tenant_path = f"{key.namespace}/{cached.resource.spec.tenant_ref.name}"
            groups = {(tenant_path, ListenerReadiness.of(cached)): ()}
        change.subjects |= {("Listeners", path) for path, _ in self._summaries.groups_of(key) ^ groups.keys()}
        self._summaries.set(key, groups)

    def _reorder(self, key: Key) -> set[Key]:
        """Update a key's place among its siblings; returns those for which a limit may differ now."""
        group, place = (key.kind, key.namespace), self._place_of(key)
        order = self._order.members(group)
        concerned = {key}
        for limit in self._limits(key.kind):
            concerned |= {sibling for _, sibling in order[max(0, limit - 1) : limit + 1]}
        self._order.set(key, {group: place} if place is not None else {})
        return concerned

    def _limits(self, kind: str) -> set[int]:
        """Our classes' limits for a kind in a namespace."""
        maximums = [listener_class.resource.spec.maximums for listener_class in self.our_classes()]
        limits = [getattr(maximum, f"{kind.lower()}s_per_namespace") for maximum in maximums]
        return {limit for limit in limits if limit is not None}

    def _note_stored_hostnames(self, key: Key, cached: CachedResource[resources.Listener] | None) -> frozenset[str]:
        """Note the hostnames that a Listener names and that its stored status has; returns these and former ones."""
        previous_hostnames = self._stored_holders.hostnames_of(key)
        hostnames = _stored_hostnames(cached) if cached is not None else frozenset()
        self._stored_holders.set(key, dict.fromkeys(hostnames, self._tenant_of(key)))
        return previous_hostnames | hostnames

    def _place_of(self, key: Key) -> Place | None:
        """A resource's or hostname's place among its siblings; None if it does not count.

        A document in force counts until it is removed, because otherwise a namespace could exceed its limits by
        deletions that the removal limit halts, also if another install's Listeners have the names now.
        """
        if key.kind == "Hostname":
            return self._place_of_hostname(key.namespace, key.name)
        cached = self._readable(key)
        if cached is not None and self.is_foreign_class(getattr(cached.resource, "class_name", "")):
            cached = None
        is_published, created = self.child_index.published(key) is not None, cached.created if cached else ""
        return (not is_published, created) if cached is not None or is_published else None

    def _place_of_hostname(self, namespace: str, hostname: str) -> Place | None:
        """A hostname's place among its namespace's hostnames; None if it does not count.

        First come those in force that a Listener names, then those that have a Certificate already, then those that
        have only retired addresses or were given up, then the others.
        """
        is_in_force = bool(self.child_index.by_own_hostname.keys_of((namespace, hostname)))
        children_of_hostname = self.child_index.of(hostname_key(hostname))
        has_certificate = any(child.counts_for == namespace for child in children_of_hostname)
        firsts = self._claims.firsts(hostname)
        names = [name for name in ("", *self.classes) if not self.is_foreign_class(name)]
        ages = [firsts[namespace, name][0][0] for name in names if (namespace, name) in firsts]
        if ages:
            created, _uid = min(ages)
            return (0 if is_in_force else 1 if has_certificate else 3), created
        return (2, "") if is_in_force or has_certificate else None

    def _set_agency_secret(
        self, namespace: str, name: str, labels: dict[str, str], raw: dict[str, Any] | None
    ) -> KeySet:
        path = f"{namespace}/{name}"
        is_child = labels.get(config_secret.MANAGED_LABEL) == "true"
        concerned = self._put_child(kinds.ref_of(kinds.SECRET, namespace, name), raw if is_child else None)
        if raw is not None and labels.get(types.WATCH_LABEL) == "true":
            self.secrets.put(path, raw)
        else:
            self.secrets.remove(path)
        return concerned | self.reads.changed(self, [("Secret", path)])

    def _put_child(self, ref: ObjectRef, raw: dict[str, Any] | None) -> KeySet:
        previous = self.child_index.by_ref.get(ref)
        current = self.child_index.put(ref, raw, self.keys)
        change, children = _Change(), [child for child in (previous, current) if child is not None]
        for child in children:
            change.subjects |= _subjects_of_child(child)
            document = _published_document(child)
            change.siblings |= _hostname_places(child.key.namespace, document.own_hostnames if document else ())
            if child.counts_for:
                change.siblings |= _hostname_places(child.counts_for, [child.key.name])
            if child.is_config:
                change.keys |= self._replan_holders(self.reports.note_document(child.key, previous))
                self._arrange(child.key, change)
                config = self.child_index.config_of(child.key)
                if self._memory.set_document(child.key, config.document_bytes if config is not None else 0):
                    change.subjects.add(("Documents", child.key.namespace))
            is_checked = child.key.kind == "Hostname" and child.key.name in self.reachabilities
            if is_checked and _desired(previous) != _desired(current):
                self._changed_routes.add(child.key.name)
        if _as_planned(previous) != _as_planned(current):
            change.keys |= {child.key for child in children}
        if _routed(previous) != _routed(current):
            change.keys |= {hostname_key(host) for host in _published_hosts(previous) | _published_hosts(current)}
        return self._concerned(change)

    def _replan_holders(self, changed: ChangedHolders) -> KeySet:
        return self._readers_of_hostnames(changed.hostnames) | changed.keys

    def _on_features(self, changed: bool) -> KeySet:
        return self.all_keys() if changed else _NO_KEYS


class _Change(msgspec.Struct):
    """The keys and the subjects that a change may concern."""

    keys: set[Key] = msgspec.field(default_factory=set)
    """The keys to plan again in any case."""
    subjects: set[Subject] = msgspec.field(default_factory=set)
    """Subjects about which a lookup may have another answer now."""
    siblings: set[Key] = msgspec.field(default_factory=set)
    """Resources and hostnames (``Key("Hostname", namespace, hostname)``) whose place among siblings may differ now."""


def _read_by_others(parsed: object) -> tuple[object, ...]:
    """The class fields that other keys' plans read; ``parsed``: from its record, None without one."""
    match parsed:
        case CachedResource(resource=resources.ListenerClass(spec=spec)):
            return parsed.uid, parsed.created, spec, parsed.fields.get(FINGERPRINT_FIELD), parsed.is_unserved
        case UnreadableResource():
            return parsed.uid, parsed.generation, parsed.message
    return ()


def _stored_hostnames(cached: CachedResource[resources.Listener]) -> frozenset[str]:
    """The hostnames that a Listener names and that its stored status shows as its own.

    If a Listener had its class's address until now, its status may still show the class's hostname.
    """
    named = {address.hostname for address in cached.resource.spec.addresses}
    status_entries = [entry for entry in cached.fields.get(ADDRESSES_FIELD) or () if isinstance(entry, dict)]
    return frozenset(named & {entry.get("hostname") for entry in status_entries if entry.get("name") != CLASS_ADDRESS})


def _declared(record: kinds.ResourceRecord | None) -> tuple[object, ...]:
    """A resource as users write it, without its status."""
    if record is None:
        return ()
    parsed = record.parsed
    if isinstance(parsed, CachedResource):
        return record.uid, parsed.resource, parsed.fields
    return record.uid, parsed.generation, parsed.message


def _tenant_ref(record: kinds.ResourceRecord | None) -> object:
    """The Tenant that a Destination names, which is all that Listeners read from it; unique if it cannot be read."""
    if record is None or not isinstance(record.parsed, CachedResource):
        return record
    return record.uid, record.parsed.resource.spec.tenant_ref


def _needed_secrets(resource: resources.Resource | None) -> list[str]:
    """The Secret values that a Listener or a Destination refers to: ``namespace/name/key``."""
    if not isinstance(resource, resources.Listener | resources.Destination):
        return []
    return [f"{resource.metadata.namespace}/{name}/{key}" for name, key in types.secret_keys(resource.spec)]


def _uses(listener: resources.Listener) -> set[tuple[Key, str]]:
    """The Tenant and the Destinations to which a Listener refers, each with its class name."""
    namespace, class_name = listener.metadata.namespace, listener.class_name
    destinations = [route.destination_ref.name for route in listener.spec.routes]
    used = [Key("Tenant", namespace, listener.spec.tenant_ref.name)]
    return {(key, class_name) for key in (*used, *(Key("Destination", namespace, name) for name in destinations))}


def _hostname_places(namespace: str, hostnames: Iterable[str]) -> set[Key]:
    return {Key("Hostname", namespace, hostname) for hostname in hostnames}


def _subjects_of(claims: Iterable[Claim]) -> set[Subject]:
    return {("Hostname", claim) if isinstance(claim, str) else ("Address", claim[1]) for claim in claims}


def _subjects_of_child(child: kinds.ChildRecord) -> set[Subject]:
    """The subjects in a child that other plans read: a document, its hostnames, or a hostname's route."""
    subjects: set[Subject] = {(child.key.kind, child.key.path)}
    subjects |= _subjects_of_document(child.key, _published_document(child))
    return subjects | {("Hostname", hostname) for hostname in child.tenant_hostnames.hostnames}


def _subjects_of_document(key: Key, document: documents.ListenerDocument | None) -> set[Subject]:
    subjects: set[Subject] = set()
    for address in document.addresses if document is not None else ():
        subjects |= {("Hostname", address.host), ("Address", address_path(key.namespace, address))}
    return subjects


def _exposed_by(document: documents.ListenerDocument | None, created: str) -> dict[str, Place]:
    """A Listener's place at each hostname in its published document: first if it owns a live address there."""
    if document is None:
        return {}
    own = {address.host for address in document.live_addresses if not address.is_class_address}
    return {address.host: (address.host not in own, created) for address in document.addresses}


def _as_planned(child: kinds.ChildRecord | None) -> tuple[object, ...]:
    return (child.uid, child.digest, child.state.status, child.key) if child is not None else ()


def _desired(child: kinds.ChildRecord | None) -> str:
    return child.state.desired if child is not None else ""


def _published_document(child: kinds.ChildRecord | None) -> documents.ListenerDocument | None:
    return child.published.listener if child is not None and child.published is not None else None


def _published_hosts(child: kinds.ChildRecord | None) -> set[str]:
    document = _published_document(child)
    return {address.host for address in document.addresses} if document is not None else set()


def _routed(child: kinds.ChildRecord | None) -> tuple[object, ...]:
    """The published document's fields on which hostnames and their children depend."""
    document = _published_document(child)
    return (document.addresses, document.tenant.name, document.max_body_bytes) if document is not None else ()
