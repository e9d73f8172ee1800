"""The operator's cache, filled from YAML, and the effect of applying plans to it."""

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from usher_gateway import config_secret, documents, model
from usher_gateway.resources import types
from usher_gateway.resources.removal_limit import HaltedRemovals
from usher_operator.plan import children, plan_and_note
from usher_operator.settings import BackendService, OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.memory import NamespaceMemory
from usher_operator.state.values import (
    AppliedDocument,
    ClusterFeatures,
    DesiredChild,
    GatewayReport,
    Key,
    Kind,
    ObjectRef,
    Plan,
    SecretAccess,
    StatusCondition,
    WriteFailure,
)

INSTALL_KEY = bytes(range(32))
KEYS = model.derive_keys(INSTALL_KEY)
NOW = 1_800_000_000 * model.MICROSECONDS
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WITHOUT_NAMESPACE = {kind.name for kind in kinds.ALL if not kind.namespaced}
_OF_THE_PLATFORM = (kinds.INGRESS_CLASS, kinds.ISSUER, kinds.CLUSTER_ISSUER)


class Cluster:
    """A cache with the objects of a cluster, and the keys that its changes queued.

    Objects are put in as the API server sends them. `apply` writes children and status as the operator does.

    Args:
        controller_name: the install.
        keys: derived from the install key.
        removes_at_once: whether `apply` deletes a child at once. If not, it leaves a tombstone of a document, and a
            mark on a Certificate that counts, until `end_removals`.
        memory: what each namespace may take; None: what the product allows.
    """

    def __init__(
        self,
        *,
        controller_name: str = "usher.dev/usher",
        keys: model.Keys | None = KEYS,
        removes_at_once: bool = True,
        memory: NamespaceMemory | None = None,
    ) -> None:
        self.now = NOW
        settings = OperatorSettings(controller_name=controller_name, backend=BackendService(service_port=8080))
        self.cache = Cache(settings, clock=lambda: self.now, confirmed_clock=lambda: self.now, memory=memory)
        self.cache.keys = keys
        self.cache.set_secret_access("", "Permitted")
        self.queue: set[Key] = set()  # The keys that changes concern and that were not applied since
        self.waiting: set[Key] = set()  # Listeners of which no address may go out of service yet
        self._objects: dict[ObjectRef, dict[str, Any]] = {}  # Everything as it is stored
        self._removes_at_once = removes_at_once
        self._version = 0

    def restarted(self, *, controller_name: str = "usher.dev/usher") -> "Cluster":
        """The same objects as a new operator, perhaps of another install, reads them."""
        other = Cluster(controller_name=controller_name)
        other.now, other._version = self.now, self._version
        other.set_features(self.cache.features)
        for ref, raw in self._objects.items():
            other._take(ref, raw)
        return other

    @property
    def objects(self) -> dict[ObjectRef, dict[str, Any]]:
        """Everything as it is stored."""
        return self._objects

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)

    # Objects of users and of the platform.

    def add(self, text: str) -> None:
        """Put objects of a YAML text in, in its order; an object that is there already is replaced."""
        for raw in yaml.load_all(text, _LOADER):
            self.put(raw)

    def put(self, raw: dict[str, Any]) -> frozenset[Key]:
        """Put an object in, with what the API server adds to it; returns the keys that this concerns.

        Its Namespace is made if it does not exist.
        """
        raw = copy.deepcopy(raw)
        metadata = raw["metadata"]
        if raw["kind"] not in _WITHOUT_NAMESPACE:
            metadata.setdefault("namespace", "default")
            if not self.has("Namespace", metadata["namespace"]):
                self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": metadata["namespace"]}})
        metadata.setdefault("uid", f"uid-of-{raw['kind'].lower()}-{metadata['name']}")
        metadata.setdefault("generation", 1)
        metadata["creationTimestamp"] = str(metadata.get("creationTimestamp", "2026-01-01T00:00:00Z"))
        metadata["resourceVersion"] = self._next_version()
        namespace = metadata.get("namespace", "")
        return self._take(ObjectRef(raw["apiVersion"], raw["kind"], namespace, metadata["name"]), raw)

    def _take(self, ref: ObjectRef, raw: dict[str, Any]) -> frozenset[Key]:
        """Store an object, and report it to the cache. The watch does not report a Secret without a label."""
        self._objects[ref] = raw
        kind = self.cache.kind_of(ref)
        if kind is kinds.AGENCY_SECRET and not _is_watched(raw):
            concerned = self.cache.remove(kind, ref.namespace, ref.name)
            concerned |= self.look_up(f"{ref.namespace}/{ref.name}")
        else:
            concerned = self.cache.put(kind, raw)
        self.queue |= concerned
        return concerned

    def delete(self, kind: str, path: str) -> frozenset[Key]:
        """Delete an object, if it is there; returns the keys that this concerns."""
        namespace, _, name = path.rpartition("/")
        return self._forget(self._ref(kind, namespace, name))

    def _forget(self, ref: ObjectRef) -> frozenset[Key]:
        self._next_version()
        self._objects.pop(ref, None)
        concerned = self.cache.remove(self.cache.kind_of(ref), ref.namespace, ref.name)
        self.queue |= concerned
        return concerned

    def _ref(self, kind: str, namespace: str, name: str) -> ObjectRef:
        return kinds.ref_of(kinds.BY_NAME[kind], namespace, name)

    def edit(self, kind: Kind, path: str, **spec: Any) -> frozenset[Key]:
        """Change fields of a spec (None removes one): the generation goes up."""
        raw = self.raw(kind, path)
        merged = {**raw.get("spec", {}), **spec}
        raw["spec"] = {name: value for name, value in merged.items() if value is not None}
        raw["metadata"]["generation"] += 1
        return self.put(raw)

    def edit_metadata(self, kind: str, path: str, **metadata: Any) -> frozenset[Key]:
        raw = self.raw(kind, path)
        raw["metadata"].update(metadata)
        return self.put(raw)

    def edit_status(self, kind: Kind, path: str, **status: Any) -> frozenset[Key]:
        """Change fields of a stored status, as somebody else than the operator."""
        raw = self.raw(kind, path)
        return self.put({**raw, "status": {**raw.get("status", {}), **status}})

    def make_unreadable(self, kind: Kind, path: str) -> None:
        """Let another version's schema accept a value that this version cannot parse."""
        self.edit(kind, path, state=["Unreadable"], hostname=["unreadable"])

    def has(self, kind: str, path: str) -> bool:
        """Return True if an object is stored."""
        namespace, _, name = path.rpartition("/")
        return self._ref(kind, namespace, name) in self._objects

    def raw(self, kind: str, path: str) -> dict[str, Any]:
        """A copy of an object as it is stored."""
        namespace, _, name = path.rpartition("/")
        return copy.deepcopy(self._objects[self._ref(kind, namespace, name)])

    def set_access(self, namespace: str, access: SecretAccess) -> frozenset[Key]:
        """Set the operator's access to the Secrets of a namespace, instead of that to all namespaces."""
        if self.cache.secret_access("") != "Denied":
            self.queue |= self.cache.set_secret_access("", "Denied")
            for other in {ref.namespace for ref in self._objects if ref.namespace}:
                self.queue |= self.cache.set_secret_access(other, "Permitted")
        concerned = self.cache.set_secret_access(namespace, access)
        self.queue |= concerned
        return concerned

    def set_features(self, features: ClusterFeatures) -> None:
        """Set which optional APIs and objects the cluster has."""
        for ref in [ref for ref in self._objects if kinds.BY_NAME[ref.kind] in _OF_THE_PLATFORM]:
            self._forget(ref)
        self.queue |= self.cache.set_served(kinds.HTTP_ROUTE, served=features.gateway_api)
        self.queue |= self.cache.set_served(kinds.CERTIFICATE, served=features.cert_manager)
        for name, controller in features.ingress_classes.items():
            is_default = name == features.default_ingress_class
            annotations = {"ingressclass.kubernetes.io/is-default-class": "true"} if is_default else {}
            self._put_of_platform(kinds.INGRESS_CLASS, name, annotations, {"controller": controller})
        for kind_name, name in features.issuers or ():
            self.queue |= self.cache.set_served(kinds.BY_NAME[kind_name], served=True)
            self._put_of_platform(kinds.BY_NAME[kind_name], name, {}, {})

    def _put_of_platform(self, kind: kinds.WatchedKind, name: str, annotations: Any, spec: Any) -> None:
        metadata = {"name": name, "annotations": annotations}
        if kind.namespaced:
            metadata["namespace"] = self.cache.settings.data_plane_namespace
        self.put({"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata, "spec": spec})

    def look_up(self, path: str) -> frozenset[Key]:
        """Look up a Secret that the cache does not have; returns the keys that this concerns."""
        namespace, _, name = path.partition("/")
        stored = self._objects.get(self._ref("Secret", namespace, name))
        if stored is not None and _is_watched(stored):
            concerned = self.cache.put(kinds.AGENCY_SECRET, stored)
        else:
            concerned = self.cache.note_missing(path, "NotLabelled" if stored is not None else "NotFound")
        self.queue |= concerned
        return concerned

    # Plans.

    def every_key(self) -> list[Key]:
        """Every key that may have a plan: hostnames last, because they need what the others publish."""
        return sorted(self.cache.all_keys(), key=lambda key: (key.kind == "Hostname", key))

    def plan(self, key: Key) -> Plan:
        """Plan a key as the operator does: look up the Secrets that the plan does not know, and ask to retire."""
        planned = plan_and_note(self.cache, key)
        if planned.unknown_secrets:
            for path in planned.unknown_secrets:
                self.look_up(path)
            planned = plan_and_note(self.cache, key)
        leaving = [removal for removal in (planned.retiring, planned.ending) if removal is not None]
        if leaving and key not in self.waiting:
            self.cache.allow_retirement(key, frozenset(address for removal in leaving for address in removal.addresses))
            planned = plan_and_note(self.cache, key)
            self.cache.allow_retirement(key, frozenset())
        return planned

    def apply(self, planned: Plan) -> bool:
        """Write the children and the status of a plan; returns whether anything changed."""
        key, version = planned.key, self._version
        removed: list[kinds.ChildRecord] = []
        self.queue |= self.cache.grant(key, planned.granted)
        if planned.children is not None:
            for child in planned.children:
                self._write(child)
            kept = {child.ref for child in planned.children} | set(planned.staying)
            unwanted = [child for child in self.cache.child_index.of(key) if child.state.ref not in kept]
            removed = [child for child in unwanted if self._remove(child)]
        self.cache.set_behind(key, is_behind=planned.is_behind)
        self.queue |= self.cache.end_grant(key)
        if planned.status is not None and self.has(key.kind, key.path):
            self._write_status(planned)
        if not removed:
            self.queue.discard(key)
        return version != self._version

    def _write(self, child: DesiredChild) -> None:
        existing = self.cache.child_index.by_ref.get(child.ref)
        if existing is not None and existing.state.desired == child.desired:
            return
        uid = existing.uid if existing is not None else f"child-{self._version}"
        status = self._objects[child.ref].get("status", {}) if existing is not None else {}
        self.put({**child.manifest, "metadata": {**child.manifest["metadata"], "uid": uid}, "status": status})

    def _remove(self, child: kinds.ChildRecord) -> bool:
        """Delete a child, or leave what the operator leaves of it for a while; returns whether to plan again."""
        if self._removes_at_once or not (child.is_config or child.counts_for):
            if child.is_config:
                self._write(self._tombstone(child))
            self._forget(child.state.ref)
        elif child.tombstone or child.unused_since:
            return False
        else:
            self._write(self._unused_certificate(child) if child.counts_for else self._tombstone(child))
            return child.is_config
        return True

    def _unused_certificate(self, child: kinds.ChildRecord) -> DesiredChild:
        return children.build_unused_certificate(
            child.key.name,
            self._objects[child.state.ref]["spec"],
            self.cache.settings,
            counts_for=child.counts_for,
            since="2026-01-01T00:00:00Z",
        )

    def _tombstone(self, child: kinds.ChildRecord) -> DesiredChild:
        key, settings = child.key, self.cache.settings
        envelope = config_secret.tombstone_of(
            "Destination" if key.kind == "Destination" else "Listener",
            config_secret.Owner(key.namespace, key.name, child.owner_uid, settings.install_label),
            child.owner_generation,
            "2026-01-01T00:00:00Z",
            KEYS.document,
            held=child.tenant_hostnames if child.tenant_hostnames.tenant else None,
        )
        return children.build_config_secret(envelope, settings, child.state.ref.name)

    def end_removals(self) -> None:
        """Delete what is left of removed children, as the operator does after a while."""
        for child in list(self.cache.child_index.by_ref.values()):
            if child.tombstone or child.unused_since:
                self._forget(child.state.ref)

    def _write_status(self, planned: Plan) -> None:
        assert planned.status is not None
        raw = self.raw(planned.key.kind, planned.key.path)
        status: dict[str, Any] = {
            **planned.status.fields,
            "observedGeneration": planned.status.observed_generation,
            "conditions": [_raw_condition(condition) for condition in planned.status.conditions.values()],
        }
        if raw.get("status") != status:
            self.put({**raw, "status": status})

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
        condition = status.conditions.get(condition_type)
        assert condition is not None, f"{path} has no {condition_type}"
        return condition

    # Gateways and controllers.

    def set_gateways(self, *gateways: GatewayReport, unheard: tuple[str, ...] = ()) -> None:
        """Set what the ready gateways report. A change concerns every document, as `GatewayObserver` says."""
        self.queue |= self.cache.set_gateways(gateways, unheard=unheard)
        self.queue |= {key for key in self.cache.all_keys() if key.kind in {"Listener", "Destination"}}

    def gateways_run_it(self, *names: str, **about: Any) -> None:
        """Let gateways run everything that is published."""
        self.set_gateways(*(self.gateway(name, **about) for name in names or ("gateway-0",)))

    def gateway(self, name: str, **about: Any) -> GatewayReport:
        """The report of a gateway that runs everything that is published."""
        children = self.cache.child_index.by_ref.values()
        applied = {child.key: AppliedDocument(child.published.hash) for child in children if child.published}
        return GatewayReport(name=name, **{"applied": applied, **about})

    def set_halted(self, *halted: HaltedRemovals) -> None:
        """Set the removals that wait for a confirmation."""
        self.queue |= self.cache.set_halted(halted)

    def fail_writes(self, key: Key, failure: WriteFailure | None) -> None:
        """Set why the children of a key could not be written; None: they were."""
        self.queue |= self.cache.set_write_failure(key, failure)

    def controllers_say(self, kind: str, status: Mapping[str, Any]) -> None:
        """Write a status on every object of a kind, as its controller does."""
        for ref, raw in list(self._objects.items()):
            if ref.kind == kind:
                self.put({**raw, "status": status})


def _is_watched(secret: dict[str, Any]) -> bool:
    return types.WATCH_LABEL in (secret["metadata"].get("labels") or {})


def _raw_condition(condition: StatusCondition) -> dict[str, Any]:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": condition.observed_generation,
    }


LISTENER = Key("Listener", "default", "lobby")


def document(cluster: Cluster, key: Key = LISTENER) -> documents.ListenerDocument | documents.DestinationDocument:
    """Return what is published of a resource, once everything is planned."""
    cluster.settle()
    published = cluster.cache.published(key)
    assert published is not None
    return published.document


def listener_document(cluster: Cluster, key: Key = LISTENER) -> documents.ListenerDocument:
    """Return a listener's published document."""
    listener = document(cluster, key)
    assert isinstance(listener, documents.ListenerDocument)
    return listener


def addresses(cluster: Cluster, key: Key = LISTENER) -> list[str]:
    """Return the hostnames of a listener's published addresses."""
    return [address.host for address in listener_document(cluster, key).addresses]
