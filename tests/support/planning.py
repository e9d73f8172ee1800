"""The operator's cache, filled from YAML, and the effect of applying plans to it."""

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from usher_gateway import model
from usher_gateway.resources import types
from usher_operator import kinds
from usher_operator.cache import Cache
from usher_operator.settings import OperatorSettings
from usher_operator.view import (
    AppliedDocument,
    ClusterFeatures,
    DesiredChild,
    GatewayReport,
    Key,
    Kind,
    ObjectRef,
    Plan,
    SecretState,
    StatusCondition,
)

INSTALL_KEY = bytes(range(32))
KEYS = model.derive_keys(INSTALL_KEY)
NOW = 1_800_000_000 * model.MICROSECONDS
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FIRST_CLASS = ("ListenerClass", "Tenant", "Destination", "Listener")
_ROUTE_KINDS = (kinds.INGRESS_CLASS, kinds.ISSUER, kinds.CLUSTER_ISSUER)


class Cluster:
    """A cache with the objects of a cluster, the keys that its changes queued, and the last plan of each key.

    Objects are put in as the API server sends them. `apply` writes children and status as the operator does, except
    that it removes a child at once.
    """

    def __init__(self, *, controller_name: str = "usher.dev/usher", keys: model.Keys | None = KEYS) -> None:
        self.now = NOW
        settings = OperatorSettings(controller_name=controller_name)
        self.cache = Cache(settings, clock=lambda: self.now, wall_clock=lambda: self.now)
        self.cache.set_keys(keys)
        self.cache.set_secret_access("", "Permitted")
        self.raws: dict[Key, dict[str, Any]] = {}
        """The custom resources as they are stored."""
        self.queue: set[Key] = set()
        """The keys that changes since the last `settle` concern."""
        self.waiting: set[Key] = set()
        """Listeners whose edits may not take addresses out of service yet."""
        self._children: dict[ObjectRef, dict[str, Any]] = {}
        """The children as they are stored."""
        self._version = 0

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)

    # Objects of users and of the platform.

    def add(self, text: str) -> None:
        """Put objects of a YAML text in, in its order; an object that is there already is replaced."""
        for raw in yaml.load_all(text, _LOADER):
            self.put(raw)

    def put(self, raw: dict[str, Any]) -> None:
        """Put an object in, with what the API server adds to it."""
        raw = copy.deepcopy(raw)
        kind, metadata = raw["kind"], raw["metadata"]
        if kind not in {"ListenerClass", "Namespace"}:
            metadata.setdefault("namespace", "default")
        metadata.setdefault("uid", f"uid-of-{kind.lower()}-{metadata['name']}")
        metadata.setdefault("generation", 1)
        metadata["creationTimestamp"] = str(metadata.get("creationTimestamp", "2026-01-01T00:00:00Z"))
        metadata["resourceVersion"] = self._next_version()
        if kind == "Secret":
            self._put_secret(raw)
        elif kind == "Namespace":
            self.queue |= self.cache.put(kinds.NAMESPACE, raw)
        else:
            self.raws[Key(kind, metadata.get("namespace", ""), metadata["name"])] = raw
            self.queue |= self.cache.put(kinds.BY_NAME[kind], raw)

    def _put_secret(self, raw: dict[str, Any]) -> None:
        """Put an agency's Secret in. The watch does not report one without the label, and a lookup says so."""
        metadata = raw["metadata"]
        if (metadata.get("labels") or {}).get(types.WATCH_LABEL) == "true":
            self.queue |= self.cache.put(kinds.AGENCY_SECRET, raw)
        else:
            self.queue |= self.cache.remove(kinds.AGENCY_SECRET, metadata["namespace"], metadata["name"])
            path = f"{metadata['namespace']}/{metadata['name']}"
            self.look_up(path, "NotLabelled")
            self.queue |= self.cache.missed_by(path)

    def delete(self, kind: Kind | str, path: str) -> None:
        """Delete a resource or an agency's Secret."""
        namespace, _, name = path.rpartition("/")
        if kind == "Secret":
            self.queue |= self.cache.remove(kinds.AGENCY_SECRET, namespace, name)
        else:
            self.raws.pop(Key(kind, namespace, name), None)  # type: ignore[arg-type]
            self.queue |= self.cache.remove(kinds.BY_NAME[kind], namespace, name)

    def edit(self, kind: Kind, path: str, **spec: Any) -> None:
        """Change fields of a spec (None removes one): the generation goes up."""
        raw = self.raw(kind, path)
        merged = {**raw.get("spec", {}), **spec}
        raw["spec"] = {name: value for name, value in merged.items() if value is not None}
        raw["metadata"]["generation"] += 1
        self.put(raw)

    def edit_metadata(self, kind: Kind, path: str, **metadata: Any) -> None:
        """Change fields of the metadata."""
        raw = self.raw(kind, path)
        raw["metadata"].update(metadata)
        self.put(raw)

    def make_unreadable(self, kind: Kind, path: str) -> None:
        """Let another version's schema accept a value that this version cannot parse."""
        self.edit(kind, path, state=["Unreadable"], hostname=["unreadable"])

    def raw(self, kind: Kind, path: str) -> dict[str, Any]:
        """A copy of a resource as it is stored."""
        namespace, _, name = path.rpartition("/")
        return copy.deepcopy(self.raws[Key(kind, namespace, name)])

    def set_keys(self, keys: model.Keys | None) -> None:
        """Set the install key."""
        self.cache.set_keys(keys)

    def set_access(self, namespace: str, access: Any) -> None:
        """Set the operator's access to the Secrets of a namespace, instead of that to all namespaces."""
        self.cache.set_secret_access("", "Denied")
        for other in {key.namespace for key in self.raws if key.namespace}:
            self.queue |= self.cache.set_secret_access(other, "Permitted")
        self.queue |= self.cache.set_secret_access(namespace, access)

    def set_features(self, features: ClusterFeatures) -> None:
        """Set which optional APIs and objects the cluster has."""
        for kind in (kinds.HTTP_ROUTE, kinds.CERTIFICATE, *_ROUTE_KINDS):
            for namespace, name in list(self.cache.versions(kind)) if kind in _ROUTE_KINDS else ():
                self.queue |= self.cache.remove(kind, namespace, name)
        self.queue |= self.cache.set_served(kinds.HTTP_ROUTE, served=features.gateway_api)
        self.queue |= self.cache.set_served(kinds.CERTIFICATE, served=features.cert_manager)
        for name, controller in features.ingress_classes.items():
            is_default = name == features.default_ingress_class
            annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if is_default else {}
            self._put_plain(kinds.INGRESS_CLASS, "", name, annotations, spec={"controller": controller})
        for kind_name, name in features.issuers or ():
            kind = kinds.BY_NAME[kind_name]
            self.queue |= self.cache.set_served(kind, served=True)
            namespace = "" if kind is kinds.CLUSTER_ISSUER else self.cache.install.data_plane_namespace
            self._put_plain(kind, namespace, name, {})

    def _put_plain(self, kind: kinds.WatchedKind, namespace: str, name: str, annotations: Any, **fields: Any) -> None:
        metadata = {"namespace": namespace, "name": name, "uid": name, "resourceVersion": self._next_version()}
        self.queue |= self.cache.put(kind, {"metadata": {**metadata, "annotations": annotations}, **fields})

    def look_up(self, path: str, state: SecretState) -> None:
        """Note what a lookup of an agency's Secret found."""
        self.cache.note_missing(path, state)

    # Plans.

    def every_key(self) -> list[Key]:
        """Every key that may have a plan: hostnames last, because they need what the others publish."""
        return sorted(self.cache.all_keys(), key=lambda key: (key.kind == "Hostname", key))

    def plan(self, key: Key) -> Plan:
        """Plan a key as the operator does: look up the Secrets that the plan does not know, and ask to retire."""
        planned = self.cache.plan(key)
        if planned.unknown_secrets:
            for path in planned.unknown_secrets:
                self.look_up(path, "NotFound")
            planned = self.cache.plan(key)
        if planned.retiring and key not in self.waiting:
            self.cache.allow_retirement(key, frozenset(planned.retiring.addresses))
            planned = self.cache.plan(key)
            self.cache.allow_retirement(key, frozenset())
        return planned

    def apply(self, planned: Plan) -> bool:
        """Write the children and the status of a plan; returns whether anything changed."""
        version = self._version
        self.queue |= self.cache.grant(planned.key, planned.granted)
        if planned.children is not None:
            for child in planned.children:
                self._write(child)
            kept = {child.ref for child in planned.children} | set(planned.staying)
            for existing in list(self.cache.children(planned.key)):
                if existing.ref not in kept:
                    self._remove(existing.ref)
        self.cache.set_behind(planned.key, is_behind=planned.is_behind)
        self.queue |= self.cache.end_grant(planned.key)
        if planned.status is not None and planned.key in self.raws:
            self._write_status(planned)
        self.queue.discard(planned.key)
        return version != self._version

    def _write(self, child: DesiredChild) -> None:
        existing = self.cache.child_index.by_ref.get(child.ref)
        if existing is not None and existing.state.desired == child.desired:
            return
        version = self._next_version()
        stored = self._children.get(child.ref, {}) if existing is not None else {}
        metadata = {**child.manifest["metadata"], "resourceVersion": version, "generation": 1}
        metadata["uid"] = existing.uid if existing is not None else f"child-{version}"
        self._put_child(child.ref, {**child.manifest, "metadata": metadata, "status": stored.get("status", {})})

    def _put_child(self, ref: ObjectRef, raw: dict[str, Any]) -> None:
        self._children[ref] = raw
        self.queue |= self.cache.put(self.cache.kind_of(ref), raw)

    def _remove(self, ref: ObjectRef) -> None:
        self._next_version()
        self.queue |= self.cache.remove(self.cache.kind_of(ref), ref.namespace, ref.name)

    def _write_status(self, planned: Plan) -> None:
        assert planned.status is not None
        raw = self.raws[planned.key]
        status: dict[str, Any] = {
            **planned.status.fields,
            "observedGeneration": planned.status.observed_generation,
            "conditions": [_raw_condition(condition) for condition in planned.status.conditions.values()],
        }
        if raw.get("status") != status:
            raw = {**raw, "status": status}
            raw["metadata"] = {**raw["metadata"], "resourceVersion": self._next_version()}
            self.raws[planned.key] = raw
            self.queue |= self.cache.put(kinds.BY_NAME[planned.key.kind], raw)

    def settle(self) -> int:
        """Plan everything, and apply it, until nothing changes; returns how many rounds that took."""
        for rounds in range(1, 10):
            changed = [self.apply(self.plan(key)) for key in self.every_key()]
            if not any(changed):
                return rounds
        raise AssertionError("plans do not come to rest")

    def condition(self, kind: Kind, path: str, condition_type: str) -> StatusCondition:
        """A condition of a plan that is made now."""
        namespace, _, name = path.rpartition("/")
        status = self.plan(Key(kind, namespace, name)).status
        assert status is not None
        condition = status.condition(condition_type)
        assert condition is not None, f"{path} has no {condition_type}"
        return condition

    # Gateways and controllers.

    def set_gateways(self, *gateways: GatewayReport) -> None:
        """Set what the ready gateways report. A change concerns every document, as `GatewayObserver` says."""
        self.queue |= self.cache.set_gateways(gateways)
        self.queue |= {key for key in self.cache.all_keys() if key.kind in {"Listener", "Destination"}}

    def gateways_run_it(self, *names: str, **about: Any) -> None:
        """Let gateways run everything that is published."""
        self.set_gateways(*(self.gateway(name, **about) for name in names or ("gateway-0",)))

    def gateway(self, name: str, **about: Any) -> GatewayReport:
        """The report of a gateway that runs everything that is published."""
        applied = {}
        for key in self.cache.published_keys():
            published = self.cache.published(key)
            assert published is not None
            applied[key] = AppliedDocument(published.hash)
        return GatewayReport(name=name, **{"applied": applied, **about})

    def controllers_say(self, kind: str, status: Mapping[str, Any]) -> None:
        """Write a status on every child of a kind, as its controller does."""
        for ref in list(self.cache.child_index.by_ref):
            if ref.kind == kind:
                raw = self._children[ref]
                metadata = {**raw["metadata"], "resourceVersion": self._next_version()}
                self._put_child(ref, {**raw, "metadata": metadata, "status": status})


def _raw_condition(condition: StatusCondition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": condition.observed_generation,
    }
