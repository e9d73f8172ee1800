"""Resources to documents and conditions: pure, knows no Kubernetes client, decides nothing by the clock.

One order is kept throughout: that of the resources given (files: as they stand; a cluster: oldest first).
"""

from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import (
    condition,
    defaults,
    destinations,
    hostnames,
    listener_class,
    listeners,
    secrets,
    tenants,
)

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"

_IMPLICIT = listener_class.ListenerClassSpec(controller_name="usher.dev/usher", hostname=hostnames.IMPLICIT_HOSTNAME)


class Resources(msgspec.Struct, frozen=True):
    """Everything declared, by key, in order."""

    classes: dict[str, resources.ListenerClass] = {}
    tenants: dict[str, resources.Tenant] = {}
    listeners: dict[str, resources.Listener] = {}
    destinations: dict[str, resources.Destination] = {}
    secrets: dict[str, resources.Secret] = {}
    namespaces: dict[str, dict[str, str]] = {}
    """Labels of namespaces, as far as they are known."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What compile() needs besides the resources."""

    keys: model.Keys
    previous: documents.Snapshot = documents.Snapshot({}, {})
    """The documents in force: last good ones are taken from here."""
    incumbents: Mapping[str, hostnames.Owner] = {}
    """Explicit hostname -> (namespace, tenant) that has it."""
    trusted_proxies: tuple[str, ...] = ()
    """Added to those of every class (``--trusted-proxies``)."""
    require_watch_label: bool = True
    """From files a Secret without the label is only warned of."""
    implicit_class: bool = False
    """From files: without any ListenerClass, listeners answer at ``localhost`` and at any explicit hostname."""


class Compiled(msgspec.Struct, frozen=True):
    """The documents, and what is to be told."""

    snapshot: documents.Snapshot
    findings: tuple[condition.Finding, ...]
    conditions: dict[tuple[str, str], list[condition.Condition]]
    """(kind, key) -> Accepted, and ResolvedRefs for listeners and destinations."""


def collect(objects: Iterable[resources.Resource], namespaces: Mapping[str, dict[str, str]]) -> Resources:
    """Resources sorted by kind, order kept."""
    found = Resources({}, {}, {}, {}, {}, dict(namespaces))
    for one in objects:
        match one:
            case resources.ListenerClass():
                found.classes[resources.key_of(one)] = one
            case resources.Tenant():
                found.tenants[resources.key_of(one)] = one
            case resources.Listener():
                found.listeners[resources.key_of(one)] = one
            case resources.Destination():
                found.destinations[resources.key_of(one)] = one
            case resources.Secret():
                found.secrets[resources.key_of(one)] = one
    return found


def compile_resources(given: Resources, options: Options) -> Compiled:
    """Every document that the resources give, every default filled in; what is wrong stands in the findings."""
    work = _Compilation(given, options)
    work.check_classes()
    work.check_tenants()
    compiled_destinations = work.compile_destinations()
    compiled_listeners = work.compile_listeners()
    return Compiled(
        documents.Snapshot(compiled_listeners, compiled_destinations), tuple(work.findings), work.conditions()
    )


class _Compilation:
    """One pass over the resources."""

    def __init__(self, given: Resources, options: Options) -> None:
        self._given = given
        self._options = options
        self.findings: list[condition.Finding] = []
        owners = hostnames.owners_of(self._claimants(), options.incumbents)
        self._claims = hostnames.Claims(owners, frozenset(one.spec.hostname for one in given.classes.values()))

    def conditions(self) -> dict[tuple[str, str], list[condition.Condition]]:
        """The conditions of every resource that has any."""
        by_object: dict[tuple[str, str], list[condition.Finding]] = {}
        for found in self.findings:
            by_object.setdefault((found.kind, found.key), []).append(found)
        told: dict[tuple[str, str], list[condition.Condition]] = {}
        for kind, keys, types in (
            ("ListenerClass", self._given.classes, ("Accepted",)),
            ("Tenant", self._given.tenants, ("Accepted",)),
            ("Listener", self._given.listeners, ("Accepted", "ResolvedRefs")),
            ("Destination", self._given.destinations, ("Accepted", "ResolvedRefs")),
        ):
            for key in keys:
                told[kind, key] = condition.conditions_of(by_object.get((kind, key), ()), types)
        return told

    def check_classes(self) -> None:
        """What the schema cannot say of a class; and a notice where there is none."""
        if self._options.implicit_class and not self._given.classes and self._given.listeners:
            message = f"there is none: listeners answer at `{_IMPLICIT.hostname}` and at the hostnames they name"
            reason = condition.Reason.ImplicitClass
            self.findings.append(condition.Finding("ListenerClass", "", "", reason, message, "notice"))
        for key, one in self._given.classes.items():
            proxies = (one.spec.client_address and one.spec.client_address.trusted_proxies) or ()
            for index in listeners.bad_networks(proxies):
                path = f"spec.clientAddress.trustedProxies[{index}]"
                self._find("ListenerClass", key, path, condition.Reason.UnsupportedValue, "is no address range")

    def check_tenants(self) -> None:
        """What the schema cannot say of a tenant."""
        for key, one in self._given.tenants.items():
            zone = one.spec.time_zone
            if zone is not None and not tenants.is_time_zone(zone):
                message = f"`{zone}` is no IANA time zone; write one such as Europe/London (UTC is used until then)"
                self._find("Tenant", key, "spec.timeZone", condition.Reason.UnsupportedValue, message)

    def compile_destinations(self) -> dict[str, documents.Destination]:
        """The destination documents."""
        compiled = {}
        known = self._options.previous.destinations
        for key in self._within_limit("Destination", self._given.destinations, known):
            one = self._given.destinations[key]
            previous = known.get(key)
            owner = one.spec.tenant_ref
            if owner is not None and f"{one.metadata.namespace}/{owner.name}" not in self._given.tenants:
                self._tenant_not_found("Destination", key, owner.name)
                continue
            document, findings = destinations.compile_destination(one, self._secrets("Destination", key), previous)
            self.findings.extend(findings)
            if document is not None:
                compiled[key] = document
        return compiled

    def compile_listeners(self) -> dict[str, documents.Listener]:
        """The listener documents."""
        compiled = {}
        known = self._options.previous.listeners
        for key in self._within_limit("Listener", self._given.listeners, known):
            document = self._listener(key, known.get(key))
            if document is not None:
                compiled[key] = document
        return compiled

    def _listener(self, key: str, previous: documents.Listener | None) -> documents.Listener | None:
        one = self._given.listeners[key]
        tenant = self._given.tenants.get(f"{one.metadata.namespace}/{one.spec.tenant_ref.name}")
        if tenant is None:
            self._tenant_not_found("Listener", key, one.spec.tenant_ref.name)
            return None
        policy = self._policy(one)
        if policy is None:
            message = f"ListenerClass `{_class_name(one)}` must exist"
            self._find("Listener", key, "spec.listenerClassName", condition.Reason.ClassNotFound, message)
            return listeners.refreshed(previous, tenant, self._claims) if previous else None
        if not hostnames.permits(policy.spec.namespaces, self._labels(one.metadata.namespace)):
            message = f"ListenerClass `{_class_name(one)}` may not be used from this namespace"
            self._find("Listener", key, "spec.listenerClassName", condition.Reason.ClassNotPermitted, message)
            return None
        around = listeners.Surroundings(
            self._options.keys,
            policy,
            tenant,
            self._labels(one.metadata.namespace),
            self._claims,
            self._given.destinations,
            self._options.trusted_proxies,
            previous,
        )
        document, findings = listeners.compile_listener(one, around, self._secrets("Listener", key))
        self.findings.extend(findings)
        return document

    def _policy(self, one: resources.Listener) -> hostnames.Policy | None:
        found = self._given.classes.get(_class_name(one))
        if found is not None:
            return hostnames.Policy(found.spec)
        if self._given.classes or not self._options.implicit_class:
            return None
        return hostnames.Policy(_IMPLICIT, implicit=True)

    def _claimants(self) -> Iterable[resources.Listener]:
        """Listeners whose explicit hostnames count: those with a tenant, a class that permits them, and leave."""
        open_claims = hostnames.Claims({}, frozenset(one.spec.hostname for one in self._given.classes.values()))
        for one in self._given.listeners.values():
            policy = self._policy(one)
            labels = self._labels(one.metadata.namespace)
            if policy is None or not hostnames.permits(policy.spec.namespaces, labels):
                continue
            allowed = [
                address
                for address in one.spec.addresses or ()
                if hostnames.refusal(address.hostname, policy, labels, open_claims) is None
            ]
            if allowed and f"{one.metadata.namespace}/{one.spec.tenant_ref.name}" in self._given.tenants:
                spec = msgspec.structs.replace(one.spec, addresses=allowed)
                yield msgspec.structs.replace(one, spec=spec)

    def _within_limit(self, kind: str, keys: Iterable[str], known: Mapping[str, object]) -> list[str]:
        """The keys that the class's maximum per namespace lets through; those that run already come first."""
        keys = list(keys)
        allowed, count = set(), dict[str, int]()
        for key in sorted(keys, key=lambda key: key not in known):
            namespace = key.partition("/")[0]
            limit = self._limit(kind, namespace, key)
            count[namespace] = count.get(namespace, 0) + 1
            if limit is None or count[namespace] <= limit:
                allowed.add(key)
                continue
            message = f"there may be at most {limit} of this kind in a namespace; remove one, or ask the platform"
            self._find(kind, key, "", condition.Reason.LimitExceeded, message)
        return [key for key in keys if key in allowed]

    def _limit(self, kind: str, namespace: str, key: str) -> int | None:
        """The maximum of the listener's class, or the highest among the classes that the namespace may use."""
        if kind == "Listener":
            found = self._given.classes.get(_class_name(self._given.listeners[key]))
            return found.spec.maximums.listeners_per_namespace if found and found.spec.maximums else None
        labels = self._labels(namespace)
        usable = [one.spec for one in self._given.classes.values() if hostnames.permits(one.spec.namespaces, labels)]
        limits = [spec.maximums.destinations_per_namespace if spec.maximums else None for spec in usable]
        given = [limit for limit in limits if limit is not None]
        return max(given) if given and len(given) == len(limits) else None

    def _labels(self, namespace: str) -> Mapping[str, str]:
        return {**self._given.namespaces.get(namespace, {}), _NAMESPACE_LABEL: namespace}

    def _secrets(self, kind: str, key: str) -> secrets.Resolution:
        return secrets.Resolution(self._given.secrets, (kind, key), require_label=self._options.require_watch_label)

    def _tenant_not_found(self, kind: str, key: str, name: str) -> None:
        message = f"Tenant `{name}` must exist in the same namespace"
        self._find(kind, key, "spec.tenantRef.name", condition.Reason.TenantNotFound, message)

    def _find(self, kind: str, key: str, path: str, reason: condition.Reason, message: str) -> None:
        self.findings.append(condition.Finding(kind, key, path, reason, message))


def _class_name(one: resources.Listener) -> str:
    return str(defaults.pick(one.spec.listener_class_name, "Listener.spec.listenerClassName"))
