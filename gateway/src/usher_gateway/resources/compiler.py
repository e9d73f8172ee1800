"""Resources to documents and conditions: pure, knows no Kubernetes client, decides nothing by the clock.

One order is kept throughout: that of the resources given (files: as they stand; a cluster: oldest first).
"""

from collections.abc import Iterable, Mapping

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources import conditions, hostnames, listener_class, single, types

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
    findings: tuple[conditions.Finding, ...]
    conditions: dict[tuple[str, str], list[conditions.CompiledCondition]]
    """(kind, key) -> Accepted, and ResolvedRefs for listeners and destinations."""


def collect(objects: Iterable[resources.Resource], namespaces: Mapping[str, dict[str, str]]) -> Resources:
    """Resources sorted by kind, order kept."""
    found = Resources({}, {}, {}, {}, {}, dict(namespaces))
    for one in objects:
        match one:
            case resources.ListenerClass():
                found.classes[one.key] = one
            case resources.Tenant():
                found.tenants[one.key] = one
            case resources.Listener():
                found.listeners[one.key] = one
            case resources.Destination():
                found.destinations[one.key] = one
            case resources.Secret():
                found.secrets[one.key] = one
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
        self.findings: list[conditions.Finding] = []
        reserved = frozenset(one.spec.hostname for one in given.classes.values())
        self._claims = hostnames.Claims(hostnames.owners_of(self._claimants(reserved), options.incumbents), reserved)

    def conditions(self) -> dict[tuple[str, str], list[conditions.CompiledCondition]]:
        """The conditions of every resource that has any."""
        by_object: dict[tuple[str, str], list[conditions.Finding]] = {}
        for found in self.findings:
            by_object.setdefault((found.kind, found.key), []).append(found)
        told: dict[tuple[str, str], list[conditions.CompiledCondition]] = {}
        for kind, keys, wanted in (
            ("ListenerClass", self._given.classes, ("Accepted",)),
            ("Tenant", self._given.tenants, ("Accepted",)),
            ("Listener", self._given.listeners, ("Accepted", "ResolvedRefs")),
            ("Destination", self._given.destinations, ("Accepted", "ResolvedRefs")),
        ):
            for key in keys:
                told[kind, key] = conditions.conditions_of(by_object.get((kind, key), ()), wanted)
        return told

    def check_classes(self) -> None:
        """What the schema cannot say of a class; and a notice where there is none."""
        if self._options.implicit_class and not self._given.classes and self._given.listeners:
            message = f"there is none: listeners answer at `{_IMPLICIT.hostname}` and at the hostnames they name"
            reason = conditions.Reason.ImplicitClass
            self.findings.append(conditions.Finding("ListenerClass", "", "", reason, message, "notice"))
            self.findings.extend(map(single.named_without_classes, self._naming_a_class()))
        for one in self._given.classes.values():
            self.findings.extend(single.check_class(one))

    def _naming_a_class(self) -> Iterable[resources.Listener]:
        usual = types.DEFAULTS["Listener.spec.listenerClassName"]
        return (one for one in self._given.listeners.values() if single.class_name(one) != usual)

    def check_tenants(self) -> None:
        """What the schema cannot say of a tenant."""
        for one in self._given.tenants.values():
            self.findings.extend(single.check_tenant(one))

    def compile_destinations(self) -> dict[str, documents.Destination]:
        """The destination documents."""
        compiled = {}
        known = self._options.previous.destinations
        for key in self._within_limit("Destination", self._given.destinations, known):
            one = self._given.destinations[key]
            ref = one.spec.tenant_ref
            site = single.Site(
                tenant=self._given.tenants.get(f"{one.metadata.namespace}/{ref.name}") if ref else None,
                secrets=self._given.secrets,
                require_watch_label=self._options.require_watch_label,
            )
            document, findings = single.compile_destination(one, site, known.get(key))
            self.findings.extend(findings)
            if document is not None:
                compiled[key] = document
        return compiled

    def compile_listeners(self) -> dict[str, documents.Listener]:
        """The listener documents."""
        compiled = {}
        known = self._options.previous.listeners
        for key in self._within_limit("Listener", self._given.listeners, known):
            document, findings = single.compile_listener(self._given.listeners[key], self._site(key, known.get(key)))
            self.findings.extend(findings)
            if document is not None:
                compiled[key] = document
        return compiled

    def _site(self, key: str, previous: documents.Listener | None) -> single.ListenerSite:
        one = self._given.listeners[key]
        return single.ListenerSite(
            tenant=self._tenant(one),
            secrets=self._given.secrets,
            require_watch_label=self._options.require_watch_label,
            keys=self._options.keys,
            policy=self._policy(one),
            labels=self._labels(one.metadata.namespace),
            claims=self._claims,
            destinations=self._given.destinations,
            trusted_proxies=self._options.trusted_proxies,
            previous=previous,
        )

    def _tenant(self, one: resources.Listener) -> resources.Tenant | None:
        return self._given.tenants.get(f"{one.metadata.namespace}/{one.spec.tenant_ref.name}")

    def _policy(self, one: resources.Listener) -> hostnames.Policy | None:
        found = self._given.classes.get(single.class_name(one))
        if found is not None:
            return hostnames.Policy(found.spec)
        if self._given.classes or not self._options.implicit_class:
            return None
        return hostnames.Policy(_IMPLICIT, implicit=True)

    def _claimants(self, reserved: frozenset[str]) -> Iterable[resources.Listener]:
        """Listeners whose explicit hostnames count: those with a tenant, a class that permits them, and leave."""
        for one in self._given.listeners.values():
            policy = self._policy(one)
            if policy is None or self._tenant(one) is None:
                continue
            claim = hostnames.claim_of(one, policy, self._labels(one.metadata.namespace), reserved)
            if claim is not None:
                yield claim

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
            one = self._given.listeners[key] if kind == "Listener" else self._given.destinations[key]
            self.findings.append(single.over_limit(one, limit))
        return [key for key in keys if key in allowed]

    def _limit(self, kind: str, namespace: str, key: str) -> int | None:
        """The maximum of the listener's class, or the highest among the classes that the namespace may use."""
        if kind == "Listener":
            found = self._given.classes.get(single.class_name(self._given.listeners[key]))
            return single.listener_limit(found.spec if found else None)
        specs = [one.spec for one in self._given.classes.values()]
        return single.destination_limit(specs, self._labels(namespace))

    def _labels(self, namespace: str) -> Mapping[str, str]:
        return single.namespace_labels(namespace, self._given.namespaces.get(namespace, {}))
