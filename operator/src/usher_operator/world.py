"""What plan() reads: a view of everything that the operator knows at one moment. Types only; cache.py provides it.

Lookups cost no more than their answer is long: plan() asks them for one key at a time, thousands of times.
"""

from collections.abc import Collection, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

import msgspec

from usher_gateway import documents, model, resources
from usher_operator import objects

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


class Seen(msgspec.Struct, Generic[ResourceT], frozen=True, kw_only=True):
    """A resource as the API server has it."""

    resource: ResourceT
    uid: str
    created: str
    """``metadata.creationTimestamp``."""
    conditions: tuple[objects.Condition, ...] = ()
    """Of its status, as last seen or written; those of others are left out."""
    fields: Mapping[str, Any] = {}
    """The rest of its status (``installKeyFingerprint``)."""


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that is there but cannot be read as our type: another version's schema let it in."""

    uid: str
    generation: int
    message: str
    """What is wrong with which field; no values."""
    conditions: tuple[objects.Condition, ...] = ()
    fields: Mapping[str, Any] = {}


class Published(msgspec.Struct, frozen=True):
    """A document in its config Secret; tombstones are left out."""

    document: documents.Listener | documents.Destination
    hash: str


class SeenChild(msgspec.Struct, frozen=True):
    """A child in place, with what its controller says of it."""

    ref: objects.Ref
    generation: int
    desired: str
    """Annotation ``usher.dev/desired``; ``""`` where it is missing."""
    status: Mapping[str, Any] = {}


SecretState = Literal["Found", "NotLabelled", "NotFound"]
"""Found: with the label ``usher.dev/watch``. What is known of a Secret that is not in the labelled watch comes from
one GET."""


class Features(msgspec.Struct, frozen=True, kw_only=True):
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


class Applied(msgspec.Struct, frozen=True):
    """What one gateway runs of a document."""

    hash: str
    """``""``: none."""
    rejected: str = ""
    """Why the newest one is not run."""


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """One ready gateway."""

    name: str
    reachable: bool = True
    """Whether its admin port answers; if not, the rest is what it said last."""
    applied: Mapping[objects.Key, Applied] = {}
    listeners: Mapping[str, ListenerReport] = {}
    """By ``namespace/name``."""
    destinations: Mapping[str, DestinationReport] = {}


class Halted(msgspec.Struct, frozen=True):
    """A removal that waits for a person."""

    digest: str
    """Value of ``usher.dev/confirm-removals`` that lets it through."""
    listeners: tuple[str, ...]
    """``namespace/name``, sorted."""


class World(Protocol):
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
    def features(self) -> Features:
        """What the cluster offers."""

    @property
    def gateways(self) -> tuple[Gateway, ...] | None:
        """The ready gateways, by name; None before they were asked for the first time."""

    @property
    def halted(self) -> Halted | None:
        """The removal that waits."""

    @property
    def classes(self) -> Mapping[str, Seen[resources.ListenerClass]]:
        """Every ListenerClass, other installs' too."""

    def tenant(self, path: str) -> Seen[resources.Tenant] | None:
        """By ``namespace/name``."""

    def listener(self, path: str) -> Seen[resources.Listener] | None:
        """By ``namespace/name``."""

    def destination(self, path: str) -> Seen[resources.Destination] | None:
        """By ``namespace/name``."""

    def unreadable(self, key: objects.Key) -> Unreadable | None:
        """A resource that is there, and that the lookups above do not find."""

    def listeners_in(self, namespace: str) -> Collection[Seen[resources.Listener]]:
        """Every Listener of a namespace, in any order."""

    def destinations_in(self, namespace: str) -> Collection[Seen[resources.Destination]]:
        """Every Destination of a namespace, in any order."""

    def listeners_of(self, tenant_path: str) -> Collection[Seen[resources.Listener]]:
        """The Listeners that refer to a Tenant, in any order."""

    def claimants(self, hostname: str) -> Collection[Seen[resources.Listener]]:
        """The Listeners that name a hostname in ``addresses``, in any order."""

    def listeners_at(self, hostname: str) -> Collection[documents.Listener]:
        """The published documents that have an address at a hostname, in any order."""

    def incumbent(self, hostname: str) -> tuple[str, str] | None:
        """(namespace, tenant) of whoever has a hostname by a published document, or one that is being written."""

    def published(self, key: objects.Key) -> Published | None:
        """What stands in the config Secret of a Listener or Destination."""

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace; empty where it is not known."""

    def secret(self, path: str) -> resources.Secret | None:
        """A labelled Secret by ``namespace/name``."""

    def secret_state(self, path: str) -> SecretState | None:
        """What is known of a Secret; None: nothing, it has to be looked for."""

    def children(self, key: objects.Key) -> Collection[SeenChild]:
        """The children in place of a key that this install made, in any order."""

    def behind_since(self, key: objects.Key) -> int | None:
        """Since when (microseconds) the plans of a key say ``is_behind``; None where the last one did not."""
