"""The object kinds that the operator watches, and how it parses their raw objects. Pure.

The first half lists the kinds, with their paths at the API server. The second half parses raw objects into the typed
records that the cache keeps for custom resources and children, without unused fields.
"""

import hashlib
import re
from typing import Any, Literal, TypeVar

import msgspec

from usher_gateway import config_secret, documents, model, resources
from usher_gateway.resources import types
from usher_gateway.resources.listener import DEFAULT_CLASS
from usher_operator.state import child_labels
from usher_operator.state.values import (
    CachedResource,
    ChildState,
    ConditionType,
    Key,
    ObjectRef,
    PublishedDocument,
    StatusCondition,
    UnreadableResource,
)

FIELD_MANAGER = "usher-operator"  # Owner of the fields that commands write

Feature = Literal["", "gateway_api", "cert_manager"]


class WatchedKind(msgspec.Struct, frozen=True):
    """One object kind."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    selector: str = ""
    """Label selector; empty: all."""
    feature: Feature = ""
    """The optional API that the kind belongs to; `""`: every cluster has the kind."""

    @property
    def api_version(self) -> str:
        """A manifest's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """The API group and version as a path."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def collection(self, namespace: str = "") -> str:
        """Path to all objects, or to one namespace's objects."""
        where = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.root}{where}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """Path to one object."""
        return f"{self.collection(namespace if self.namespaced else '')}/{name}"


_GROUP, _VERSION = types.API_VERSION.split("/")

# How listeners are exposed.
LISTENER_CLASS = WatchedKind("ListenerClass", _GROUP, _VERSION, "listenerclasses", namespaced=False)
TENANT = WatchedKind("Tenant", _GROUP, _VERSION, "tenants")  # A company
LISTENER = WatchedKind("Listener", _GROUP, _VERSION, "listeners")  # A webhook
DESTINATION = WatchedKind("Destination", _GROUP, _VERSION, "destinations")  # A receiving system
# A Secret in an agency's namespace that resources may reference, or a `<listener>-url` that the operator wrote.
AGENCY_SECRET = WatchedKind(
    "AgencySecret", "", "v1", "secrets", selector=f"{types.WATCH_LABEL} in (true,{child_labels.URL_VALUE})"
)
NAMESPACE = WatchedKind("Namespace", "", "v1", "namespaces", namespaced=False)  # The operator reads only the labels
# A Secret that the operator wrote in the configuration namespace.
SECRET = WatchedKind("Secret", "", "v1", "secrets", selector=child_labels.CHILD_SELECTOR)
# An Ingress that the operator wrote.
INGRESS = WatchedKind("Ingress", "networking.k8s.io", "v1", "ingresses", selector=child_labels.CHILD_SELECTOR)
# Names the Ingress controllers of the cluster.
INGRESS_CLASS = WatchedKind("IngressClass", "networking.k8s.io", "v1", "ingressclasses", namespaced=False)
# A Gateway API route that the operator wrote.
HTTP_ROUTE = WatchedKind(
    "HTTPRoute",
    "gateway.networking.k8s.io",
    "v1",
    "httproutes",
    selector=child_labels.CHILD_SELECTOR,
    feature="gateway_api",
)
# A certificate that the operator requested from cert-manager.
CERTIFICATE = WatchedKind(
    "Certificate", "cert-manager.io", "v1", "certificates", selector=child_labels.CHILD_SELECTOR, feature="cert_manager"
)
# Issues certificates in the data plane's namespace.
ISSUER = WatchedKind("Issuer", "cert-manager.io", "v1", "issuers", feature="cert_manager")
# Issues certificates in every namespace.
CLUSTER_ISSUER = WatchedKind(
    "ClusterIssuer", "cert-manager.io", "v1", "clusterissuers", namespaced=False, feature="cert_manager"
)

OWN = (LISTENER_CLASS, TENANT, LISTENER, DESTINATION)  # The custom resources
CHILDREN = (SECRET, INGRESS, HTTP_ROUTE, CERTIFICATE)  # Objects that the operator writes

# Objects that change often, and objects that users can create in their namespaces. The operator watches them itself,
# because kopf needs 1 ms of CPU per event, and lists every namespace in pages that may have any size.
WATCHED_BY_REFLECTORS = (*OWN, *CHILDREN, ISSUER)

# The platform's objects, which change rarely. Kopf watches them.
WATCHED_BY_KOPF = (NAMESPACE, INGRESS_CLASS, CLUSTER_ISSUER)

# All kinds that the operator reads and watches, except agencies' Secrets.
ALL = (*WATCHED_BY_REFLECTORS, *WATCHED_BY_KOPF)

BY_NAME = {kind.name: kind for kind in (*ALL, AGENCY_SECRET)}  # Name of a kind -> the kind

# Kind name -> its resource type.
RESOURCES: dict[str, type[resources.Resource]] = {
    kind: resource_type for (_, kind), resource_type in resources.KINDS.items()
}


def ref_of(kind: WatchedKind, namespace: str, name: str) -> ObjectRef:
    """Identify an object by its kind and name."""
    return ObjectRef(kind.api_version, kind.name, namespace, name)


def field_manager(controller_name: str) -> str:
    """Owner of the fields that an install's operator writes."""
    return f"{FIELD_MANAGER}-{config_secret.install_label(controller_name)}"


# Parsing


JsonObject = dict[str, Any]

_DIGEST_LENGTH = 64  # Characters of `usher.dev/desired`. Anybody who may edit a Secret can make it longer.

_OURS = frozenset(ConditionType)
_PREFIX = "usher.dev/"

ResourceT = TypeVar("ResourceT", bound=resources.Resource)


class ResourceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One custom resource, as the API server last sent it."""

    uid: str
    resource_version: str
    generation: int
    parsed: CachedResource[Any] | UnreadableResource
    observed_generation: int = 0
    """``status.observedGeneration``."""
    times: dict[str, str] = {}
    """Condition type -> its ``lastTransitionTime``."""


NO_HOSTNAMES = config_secret.TenantHostnames("", ())


class ChildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One child that exists in the cluster."""

    key: Key
    uid: str
    resource_version: str
    state: ChildState
    digest: str
    """Digest over content, labels and annotations; a different one means that somebody edited the child."""
    published: PublishedDocument | None = None
    """The document in a config Secret."""
    document_bytes: int = 0
    """Size of its envelope."""
    tombstone: str = ""
    """When the operator published its document's tombstone; `""`: it has none."""
    tenant_hostnames: config_secret.TenantHostnames = NO_HOSTNAMES
    """Hostnames that belong to a Listener's tenant by its document or its tombstone."""
    is_config: bool = False
    owner_uid: str = ""
    owner_generation: int = 0
    """The resource generation from which the document was compiled."""
    counts_for: str = ""
    """Namespace for which a Certificate's hostname counts; ``""``: for none."""
    unused_since: str = ""
    """When a Certificate's hostname was given up; ``""``: it is in use."""


def parse_resource(kind: str, raw: JsonObject, *, has_room: bool = True) -> ResourceRecord:
    """Parse a custom resource; without its spec if its namespace has no memory left."""
    metadata, status = raw["metadata"], raw.get("status") or {}
    stored = [condition for condition in status.get("conditions") or () if condition.get("type") in _OURS]
    common: dict[str, Any] = {
        "uid": metadata["uid"],
        "conditions": tuple(_condition(condition) for condition in stored),
        "fields": {name: value for name, value in status.items() if name not in {"conditions", "observedGeneration"}},
    }
    parsed: CachedResource[Any] | UnreadableResource
    try:
        if has_room:
            resource = convert(raw, RESOURCES[kind])
            parsed = CachedResource(resource=resource, created=metadata.get("creationTimestamp", ""), **common)
        else:
            parsed = _unreadable(raw, "", common)
    except msgspec.ValidationError as error:
        parsed = _unreadable(raw, _without_values(str(error)), common)
    return ResourceRecord(
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        parsed=parsed,
        observed_generation=status.get("observedGeneration", 0),
        times={condition["type"]: condition.get("lastTransitionTime", "") for condition in stored},
    )


def _unreadable(raw: JsonObject, problem: str, common: dict[str, Any]) -> UnreadableResource:
    raw_spec = raw.get("spec")
    spec: dict[str, Any] = raw_spec if isinstance(raw_spec, dict) else {}
    return UnreadableResource(
        generation=raw["metadata"].get("generation", 0),
        message=problem,
        controller_name=str(spec.get("controllerName", "")),
        class_name=str(spec.get("listenerClassName", DEFAULT_CLASS)),
        **common,
    )


def convert(raw: JsonObject, resource_type: type[ResourceT]) -> ResourceT:
    """Convert the raw object's fields that its type has, without metadata that no plan reads.

    Users can put hundreds of kilobytes into each object's labels and annotations.

    Raises:
        ValidationError: the object does not fit the type.
    """
    slim = {name: value for name, value in raw.items() if name not in {"metadata", "status"}}
    metadata = raw["metadata"]
    slim["metadata"] = {name: metadata[name] for name in ("name", "namespace", "generation") if name in metadata}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    if types.WATCH_LABEL in labels:
        slim["metadata"]["labels"] = {types.WATCH_LABEL: labels[types.WATCH_LABEL]}
    if types.CONFIRM_REMOVALS in annotations and resource_type is resources.ListenerClass:
        slim["metadata"]["annotations"] = {types.CONFIRM_REMOVALS: annotations[types.CONFIRM_REMOVALS]}
    for field, value in zip(("apiVersion", "kind"), _api_version_and_kind(resource_type), strict=True):
        slim.setdefault(field, value)  # the API server omits them in lists of core objects
    return msgspec.convert(slim, resource_type)


def parse_child(raw: JsonObject, controller_name: str, keys: model.Keys | None) -> ChildRecord | None:
    """Parse a child; None if another install made it, or none did."""
    metadata = raw["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    key = child_labels.owner_of(annotations)
    if key is None or not child_labels.is_ours(labels, controller_name):
        return None
    ref = ObjectRef(raw["apiVersion"], raw["kind"], metadata.get("namespace", ""), metadata["name"])
    is_config = config_secret.CONFIG_LABEL in labels
    envelope = _envelope(raw, keys) if is_config and keys is not None else None
    if envelope is not None and envelope.identity != (key.kind, key.path):
        envelope = None
    document = envelope.document if envelope is not None else None
    return ChildRecord(
        key=key,
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        state=ChildState(
            ref,
            metadata.get("generation", 0),
            annotations.get(config_secret.DESIRED_ANNOTATION, "")[:_DIGEST_LENGTH],
            {} if ref.kind == "Secret" else raw.get("status") or {},
            (raw.get("spec") or {}).get("ingressClassName", "") if ref.kind == "Ingress" else "",
        ),
        digest=digest_of(raw),
        published=PublishedDocument(
            _share_defaults(document), envelope.hash, envelope.owner, metadata["resourceVersion"]
        )
        if envelope is not None and document
        else None,
        document_bytes=config_secret.envelope_bytes(raw["data"]) if document is not None else 0,
        tombstone=envelope.tombstone if envelope is not None else "",
        tenant_hostnames=(envelope and envelope.tenant_hostnames) or NO_HOSTNAMES,
        is_config=is_config,
        owner_uid=labels.get(config_secret.OWNER_UID_LABEL, ""),
        owner_generation=envelope.generation if envelope is not None else 0,
        counts_for=annotations.get(child_labels.COUNTS_FOR_ANNOTATION, "") if ref.kind == "Certificate" else "",
        unused_since=annotations.get(child_labels.UNUSED_SINCE_ANNOTATION, "") if ref.kind == "Certificate" else "",
    )


def is_foreign(raw: JsonObject, controller_name: str) -> bool:
    """Return whether another install's operator made an object."""
    labels = raw["metadata"].get("labels") or {}
    install = labels.get(config_secret.INSTALL_LABEL, "")
    return labels.get(config_secret.MANAGED_LABEL) == "true" and install not in {
        "",
        config_secret.install_label(controller_name),
    }


def digest_of(manifest: JsonObject) -> str:
    """Hash content and Usher's labels and annotations. A Secret has the same digest as planned and as stored."""
    metadata = manifest["metadata"]
    content = {name: manifest[name] for name in ("type", "data", "spec", "immutable") if manifest.get(name)}
    for name in ("labels", "annotations"):
        content[name] = {key: value for key, value in (metadata.get(name) or {}).items() if key.startswith(_PREFIX)}
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


def _envelope(raw: JsonObject, keys: model.Keys) -> config_secret.Envelope | None:
    """The envelope in a config Secret; None if it was changed, or another install key signed it.

    After a rollback, a later release may have written it. The part that this release can read is the last good
    document.
    """
    try:
        return config_secret.decode_data(raw.get("data"), keys.document, known_part=True)
    except model.UsherError:
        return None


def _share_defaults(document: config_secret.Document) -> config_secret.Document:
    """The document with one shared object for its default fields, which saves memory."""
    if isinstance(document, documents.ListenerDocument) and document.fields == documents.DEFAULT_FIELDS:
        return msgspec.structs.replace(document, fields=documents.DEFAULT_FIELDS)
    return document


def _condition(raw: JsonObject) -> StatusCondition:
    status = raw.get("status")
    return StatusCondition(
        type=raw["type"],
        status=status if status in {"True", "False"} else "Unknown",
        reason=raw.get("reason", ""),
        message=raw.get("message", ""),
        observed_generation=raw.get("observedGeneration", 0),
    )


def _api_version_and_kind(resource_type: type[Any]) -> tuple[str, str]:
    return next(names for names, candidate in resources.KINDS.items() if candidate is resource_type)


def _without_values(message: str) -> str:
    """The message of msgspec without the values that it quotes."""
    return re.sub(r"'[^']*'", "'…'", message)
