"""What plan() reads (``View``) and what it returns (``Plan``): values and one protocol, no I/O.

``cache.Cache`` implements ``View``. A lookup costs no more than the size of its answer, because plan() makes
thousands of them, for one key at a time.
"""

import enum
from collections.abc import Collection, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec

from usher_gateway import documents, model, resources
from usher_gateway.resources.removal_limit import HaltedRemovals

Kind = Literal["ListenerClass", "Tenant", "Listener", "Destination", "Hostname"]
"""What has a plan of its own. ``Hostname`` is no resource: it stands for the children of one hostname."""


class Key(msgspec.Struct, frozen=True, order=True):
    """The unit of work: one resource, or one hostname."""

    kind: Kind
    namespace: str
    """``""`` for a ListenerClass and a Hostname."""
    name: str
    """Of the resource; of a Hostname the hostname itself."""

    @property
    def path(self) -> str:
        """``namespace/name``, or the name alone where there is no namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class ObjectRef(msgspec.Struct, frozen=True, order=True):
    """Which object of the API server a child is."""

    api_version: str
    kind: str
    namespace: str
    name: str


class DesiredChild(msgspec.Struct, frozen=True):
    """One object that is wanted, as it is to be applied (server-side, by force)."""

    ref: ObjectRef
    manifest: dict[str, Any]
    """The whole object, with labels and annotations, ``usher.dev/desired`` among them."""
    desired: str
    """SHA-256 of what is wanted: where the child in place says the same, there is nothing to write."""


class ConditionType(enum.StrEnum):
    """Every condition that the operator writes (design §7)."""

    Accepted = "Accepted"
    ResolvedRefs = "ResolvedRefs"
    CertificateReady = "CertificateReady"
    Exposed = "Exposed"
    Programmed = "Programmed"
    Ready = "Ready"
    Verified = "Verified"
    Receiving = "Receiving"
    Quarantining = "Quarantining"
    RoutesDegraded = "RoutesDegraded"
    Healthy = "Healthy"


INFORMATIONAL_CONDITIONS = frozenset(
    {
        ConditionType.Verified,
        ConditionType.Receiving,
        ConditionType.Quarantining,
        ConditionType.RoutesDegraded,
        ConditionType.Healthy,
    }
)
"""Conditions that are no part of Ready, and whose writes share a small budget."""

ConditionStatus = Literal["True", "False", "Unknown"]


class StatusCondition(msgspec.Struct, frozen=True):
    """A metav1.Condition without ``lastTransitionTime``: whoever writes it keeps or sets that."""

    type: str
    status: ConditionStatus
    reason: str
    message: str
    observed_generation: int


class ResourceStatus(msgspec.Struct, frozen=True):
    """The status of one resource: what is written of it, all of it."""

    observed_generation: int
    conditions: tuple[StatusCondition, ...]
    """In a fixed order; one that is not here is to be removed if it is ours."""
    fields: dict[str, Any] = {}
    """What else stands in ``status``: ``addresses`` of a Listener, ``installKeyFingerprint`` of a ListenerClass."""

    def condition(self, type_: str) -> StatusCondition | None:
        """One of the conditions."""
        return next((one for one in self.conditions if one.type == type_), None)


class Plan(msgspec.Struct, frozen=True):
    """What is wanted for one key. Equal views give equal plans."""

    key: Key
    children: tuple[DesiredChild, ...] | None = ()
    """All children of this key; one in place that is not here goes (a config Secret by way of a tombstone, under the
    brake). None: leave every child as it is."""
    status: ResourceStatus | None = None
    """None: write none (the resource is gone, is another install's, or the key is a Hostname)."""
    is_behind: bool = False
    """Whether gateways do not all run the wanted document: remember since when (View.behind_since), until a plan
    says otherwise."""
    again_at: int | None = None
    """When to plan again although nothing changed, by View.now."""
    unknown_secrets: tuple[str, ...] = ()
    """``namespace/name`` of Secrets of which it is not known why they are missing: look (one GET each), note it in the
    cache and plan again, before this status is written."""
    staying: tuple[ObjectRef, ...] = ()
    """Children in place that are wanted no more, and stay for now."""
    granted: tuple[str, ...] = ()
    """Hostnames that a Listener names and that its document is to have: while that is written, nobody else is to be
    granted them."""


ResourceT = TypeVar("ResourceT", resources.ListenerClass, resources.Tenant, resources.Listener, resources.Destination)


class Install(msgspec.Struct, frozen=True, kw_only=True):
    """Which install this operator is of, and where its things live."""

    controller_name: str = "usher.dev/usher"
    operator_namespace: str = "usher-system"
    config_namespace: str = "usher-config"
    data_plane_namespace: str = "usher-system"
    """Of Ingresses, HTTPRoutes, Certificates and their Secrets."""
    service_name: str = "usher-gateway"
    """The gateways' Service, in the data plane's namespace."""
    service_port: int = 8080
    trusted_proxies: tuple[str, ...] = ()
    """Added to those of every class."""


class CachedResource(msgspec.Struct, Generic[ResourceT], frozen=True, kw_only=True):
    """A resource as the API server has it."""

    resource: ResourceT
    uid: str
    created: str
    """``metadata.creationTimestamp``."""
    conditions: tuple[StatusCondition, ...] = ()
    """Of its status, as last seen or written; those of others are left out."""
    fields: Mapping[str, Any] = {}
    """The rest of its status (``installKeyFingerprint``)."""


class UnreadableResource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that is there but cannot be read as our type: another version's schema let it in."""

    uid: str
    generation: int
    message: str
    """What is wrong with which field; no values."""
    conditions: tuple[StatusCondition, ...] = ()
    fields: Mapping[str, Any] = {}


class PublishedDocument(msgspec.Struct, frozen=True):
    """A document in its config Secret; tombstones are left out."""

    document: documents.ListenerDocument | documents.DestinationDocument
    hash: str


class ChildState(msgspec.Struct, frozen=True):
    """A child in place, with what its controller says of it."""

    ref: ObjectRef
    generation: int
    desired: str
    """Annotation ``usher.dev/desired``; ``""`` where it is missing."""
    status: Mapping[str, Any] = {}


SecretState = Literal["Found", "NotLabelled", "NotFound"]
"""Found: with the label ``usher.dev/watch``. What is known of a Secret that is not in the labelled watch comes from
one GET."""


class ClusterFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster offers."""

    gateway_api: bool = False
    """HTTPRoute of gateway.networking.k8s.io/v1 is served."""
    cert_manager: bool = False
    """Certificate of cert-manager.io/v1 is served."""
    ingress_classes: Mapping[str, str] = {}
    """Name -> ``spec.controller``."""
    default_ingress_class: str = ""
    """The one annotated as default; ``""`` where there is none."""
    issuers: frozenset[tuple[str, str]] | None = None
    """(kind, name) of cert-manager's ClusterIssuers and of the Issuers in the data plane's namespace; None: not
    known."""


class ListenerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway says of a listener."""

    receiving: Literal["Receiving", "NoVisitYet", "Silent"] = "NoVisitYet"
    """Since the gateway's start."""
    verified: bool = False
    """Whether something was ever accepted."""
    refusing: bool = False
    """Whether what comes is refused, and nothing was accepted in between."""
    quarantined_share: float = 0.0
    """Of the arrivals of the last 15 minutes, 0 to 1."""
    slow_routes: tuple[str, ...] = ()
    """Routes held because an expression is too slow."""
    company_mismatch: bool = False


class DestinationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway says of a destination."""

    circuit_open: bool = False
    error: str = ""
    """What its last attempt came to, while the circuit is open: a code."""
    gone: bool = False
    """It answered 410."""


class AppliedDocument(msgspec.Struct, frozen=True):
    """What one gateway runs of a document."""

    hash: str
    """``""``: none."""
    rejected: str = ""
    """Why the newest one is not run."""


class GatewayReport(msgspec.Struct, frozen=True, kw_only=True):
    """One ready gateway."""

    name: str
    reachable: bool = True
    """Whether its admin port answers; if not, the rest is what it said last."""
    applied: Mapping[Key, AppliedDocument] = {}
    listeners: Mapping[str, ListenerReport] = {}
    """By ``namespace/name``."""
    destinations: Mapping[str, DestinationReport] = {}


class View(Protocol):
    """Everything that is known at one moment. Nothing changes while a plan is made."""

    @property
    def now(self) -> int:
        """Microseconds of a clock that only grows: for what has lasted for so long."""

    @property
    def install(self) -> Install:
        """Settings."""

    @property
    def keys(self) -> model.Keys | None:
        """Derived from the install key; None before there is one."""

    @property
    def features(self) -> ClusterFeatures:
        """What the cluster offers."""

    @property
    def gateways(self) -> tuple[GatewayReport, ...] | None:
        """The ready gateways, by name; None before they were asked for the first time."""

    @property
    def halted(self) -> HaltedRemovals | None:
        """The removal that waits."""

    @property
    def classes(self) -> Mapping[str, CachedResource[resources.ListenerClass]]:
        """Every ListenerClass, other installs' too."""

    def tenant(self, path: str) -> CachedResource[resources.Tenant] | None:
        """By ``namespace/name``."""

    def listener(self, path: str) -> CachedResource[resources.Listener] | None:
        """By ``namespace/name``."""

    def destination(self, path: str) -> CachedResource[resources.Destination] | None:
        """By ``namespace/name``."""

    def unreadable(self, key: Key) -> UnreadableResource | None:
        """A resource that is there, and that the lookups above do not find."""

    def listeners_in(self, namespace: str) -> Collection[CachedResource[resources.Listener]]:
        """Every Listener of a namespace, in any order."""

    def destinations_in(self, namespace: str) -> Collection[CachedResource[resources.Destination]]:
        """Every Destination of a namespace, in any order."""

    def listeners_of(self, tenant_path: str) -> Collection[CachedResource[resources.Listener]]:
        """The Listeners that refer to a Tenant, in any order."""

    def claimants(self, hostname: str) -> Collection[CachedResource[resources.Listener]]:
        """The Listeners that name a hostname in ``addresses``, in any order."""

    def listeners_at(self, hostname: str) -> Collection[documents.ListenerDocument]:
        """The published documents that have an address at a hostname, in any order."""

    def incumbent(self, hostname: str) -> tuple[str, str] | None:
        """(namespace, tenant) of whoever has a hostname by a published document, or one that is being written."""

    def published(self, key: Key) -> PublishedDocument | None:
        """What stands in the config Secret of a Listener or Destination."""

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace; empty where it is not known."""

    def secret(self, path: str) -> resources.Secret | None:
        """A labelled Secret by ``namespace/name``."""

    def secret_state(self, path: str) -> SecretState | None:
        """What is known of a Secret; None: nothing, it has to be looked for."""

    def children(self, key: Key) -> Collection[ChildState]:
        """The children in place of a key that this install made, in any order."""

    def behind_since(self, key: Key) -> int | None:
        """Since when (microseconds) the plans of a key say ``is_behind``; None where the last one did not."""
