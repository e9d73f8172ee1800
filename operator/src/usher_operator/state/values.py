"""The values that plan() reads (with `View`), and its result (``Plan``). No I/O."""

import datetime
import enum
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import msgspec

from usher_gateway import documents, resources
from usher_gateway.config_secret import Owner as DocumentOwner
from usher_gateway.config_secret import TenantHostnames
from usher_gateway.resources.removal_limit import Removal

ADDRESSES_FIELD = "addresses"  # Status field of a Listener: its addresses with shortened URLs

# A ListenerClass's status field: fingerprint of the install key from which its URLs are derived.
FINGERPRINT_FIELD = "installKeyFingerprint"
HALTED_FIELD = "haltedRemovals"

# Secret in the operator's namespace that holds the install key.
INSTALL_KEY_SECRET = "usher-install-key"  # noqa: S105 - the name of an object

# ClusterRole that the platform binds in agencies' namespaces, and the bindings' name.
AGENCY_ROLE = "usher-agency"

OPERATOR_ACCOUNT = "usher-operator"  # Service account of the operator, in its own namespace

# Key kinds. `Hostname` is not a resource: it owns one hostname's children.
Kind = Literal["ListenerClass", "Tenant", "Listener", "Destination", "Hostname"]


class Key(msgspec.Struct, frozen=True, order=True):
    """The queue's unit of work: one resource, or one hostname."""

    kind: Kind
    namespace: str
    """``""`` for a ListenerClass and a Hostname."""
    name: str
    """The resource's name; for a Hostname the hostname itself."""

    @property
    def path(self) -> str:
        """``namespace/name``, or the name alone without a namespace."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


def path_key(kind: Kind, path: str) -> Key:
    """The key for a resource by its ``namespace/name``."""
    namespace, _, name = path.partition("/")
    return Key(kind, namespace, name)


def hostname_key(hostname: str) -> Key:
    """The key that owns a hostname's children."""
    return Key("Hostname", "", hostname)


def address_path(namespace: str, address: documents.Address) -> str:
    """Identify an address that Listeners in one namespace name."""
    return f"{namespace}/{address.host}{address.path}?{sorted(address.query)}"


class ObjectRef(msgspec.Struct, frozen=True, order=True):
    """Identifies an object in the API server."""

    api_version: str
    kind: str
    namespace: str
    name: str


class DesiredChild(msgspec.Struct, frozen=True):
    """A child as the operator applies it (server-side, with force)."""

    ref: ObjectRef
    manifest: dict[str, Any]
    """The whole object, with labels and annotations, ``usher.dev/desired`` among them."""
    desired: str
    """SHA-256 of the manifest. If the existing child has the same value, there is nothing to write."""


_ANY_KIND = ("ListenerClass", "Tenant", "Listener", "Destination")
_WITH_HOSTNAME, _WITH_DOCUMENT = ("ListenerClass", "Listener"), ("Listener", "Destination")


class ConditionType(enum.StrEnum):
    """Every condition that the operator writes, with the kinds that have it."""

    kinds: tuple[str, ...]
    group: Literal["", "Informational", "Abnormal"]
    Accepted = "Accepted", _ANY_KIND
    ResolvedRefs = "ResolvedRefs", _WITH_DOCUMENT
    CertificateReady = "CertificateReady", _WITH_HOSTNAME
    Exposed = "Exposed", _WITH_HOSTNAME
    Programmed = "Programmed", _WITH_DOCUMENT
    Ready = "Ready", _ANY_KIND
    Reachable = "Reachable", _WITH_HOSTNAME, "Informational"
    Verified = "Verified", ("Listener",), "Informational"
    Receiving = "Receiving", ("Listener",), "Informational"
    Quarantining = "Quarantining", ("Listener",), "Abnormal"
    RoutesDegraded = "RoutesDegraded", ("Listener",), "Abnormal"
    DeliveriesHeld = "DeliveriesHeld", ("Listener",), "Abnormal"
    TimesUntrusted = "TimesUntrusted", ("Listener",), "Abnormal"
    AddressRetired = "AddressRetired", ("Listener",), "Abnormal"
    CompanyShared = "CompanyShared", ("Tenant",), "Abnormal"
    HostnamesShared = "HostnamesShared", ("ListenerClass",), "Abnormal"
    Healthy = "Healthy", ("Destination",), "Informational"

    def __new__(cls, name: str, kinds: tuple[str, ...], group: Literal["", "Informational", "Abnormal"] = "") -> Self:
        """Make a condition whose value is its name."""
        condition = str.__new__(cls, name)
        condition._value_, condition.kinds, condition.group = name, kinds, group
        return condition


# Conditions that exist only while something is wrong.
ABNORMAL_CONDITIONS = frozenset(condition for condition in ConditionType if condition.group == "Abnormal")

# Conditions that Ready does not depend on; their writes share a small rate limit.
INFORMATIONAL_CONDITIONS = frozenset(condition for condition in ConditionType if condition.group)


class OperatorReason(enum.StrEnum):
    """Reasons that come from the cluster or from gateways; ``resources.conditions.Reason`` has those of compile()."""

    Accepted = "Accepted"
    Deleted = "Deleted"
    NamespaceNotPermitted = "NamespaceNotPermitted"
    SecretNameTaken = "SecretNameTaken"
    ConfigTooLarge = "ConfigTooLarge"
    InstallKeyChanged = "InstallKeyChanged"
    NotServed = "NotServed"
    RemovalsHalted = "RemovalsHalted"
    Issued = "Issued"
    Provided = "Provided"
    External = "External"
    Pending = "Pending"
    IssuerNotFound = "IssuerNotFound"
    CertManagerMissing = "CertManagerMissing"
    SecretNotFound = "SecretNotFound"
    Failed = "Failed"
    Exposed = "Exposed"
    NotExposed = "NotExposed"
    ObjectNameTaken = "ObjectNameTaken"
    GatewayAPIMissing = "GatewayAPIMissing"
    IngressClassNotFound = "IngressClassNotFound"
    NotAllowedByListeners = "NotAllowedByListeners"
    NoMatchingParent = "NoMatchingParent"
    AddressNotAssigned = "AddressNotAssigned"
    Programmed = "Programmed"
    GatewayRejected = "GatewayRejected"
    GatewayUnavailable = "GatewayUnavailable"
    PartiallyProgrammed = "PartiallyProgrammed"
    WriteForbidden = "WriteForbidden"
    WriteConflict = "WriteConflict"
    WriteFailed = "WriteFailed"
    Ready = "Ready"
    Suspended = "Suspended"
    ListenersNotReady = "ListenersNotReady"
    Reachable = "Reachable"
    Unreachable = "Unreachable"
    Verified = "Verified"
    Receiving = "Receiving"
    NoVisitYet = "NoVisitYet"
    Refusing = "Refusing"
    Silent = "Silent"
    Quarantining = "Quarantining"
    ExpressionTooSlow = "ExpressionTooSlow"
    CompanyMismatch = "CompanyMismatch"
    DeliveriesHeld = "DeliveriesHeld"
    TimesUntrusted = "TimesUntrusted"
    AddressRetired = "AddressRetired"
    RetiredAddressUsed = "RetiredAddressUsed"
    CompanyShared = "CompanyShared"
    HostnamesShared = "HostnamesShared"
    Healthy = "Healthy"
    NotTried = "NotTried"
    CircuitOpen = "CircuitOpen"
    Failing = "Failing"
    AddressForbidden = "AddressForbidden"
    TokenFailed = "TokenFailed"
    Gone = "Gone"


ConditionStatus = Literal["True", "False", "Unknown"]


class StatusCondition(msgspec.Struct, frozen=True):
    """A metav1.Condition without ``lastTransitionTime``, which the writer keeps or sets."""

    type: str
    status: ConditionStatus
    reason: str
    message: str
    observed_generation: int


class ResourceStatus(msgspec.Struct, frozen=True):
    """The whole status that the operator writes for one resource."""

    observed_generation: int
    conditions: Mapping[str, StatusCondition]
    """By type, because the API server rejects a status that has a type twice. In a fixed order. The writer removes the
    operator's conditions that are not in it."""
    fields: dict[str, Any] = {}
    """Other ``status`` fields: a Listener's ``addresses``, a ListenerClass's ``installKeyFingerprint``."""


class Plan(msgspec.Struct, frozen=True):
    """The children and the status that the operator wants for one key. Equal views give equal plans."""

    key: Key
    children: tuple[DesiredChild, ...] | None = ()
    """This key's children. The writer removes existing children that are not in it (a config Secret by way of a
    tombstone, under the removal limit). None: every child stays as it is."""
    status: ResourceStatus | None = None
    """None if no status is to be written: the resource is gone, another install owns it (``plan.ownership``), or the
    key is a Hostname."""
    is_behind: bool = False
    """True if some gateway does not run the wanted document, or if no operator has written a class's status. The
    cache remembers since when (View.behind_since)."""
    again_at: int | None = None
    """When to plan again even if nothing changes, by View.now; None: never."""
    unknown_secrets: tuple[str, ...] = ()
    """Secrets (``namespace/name``) that the labelled watch does not report. The reconciler looks each up with one GET
    and plans again before it writes this status."""
    unread_namespace: str = ""
    """Namespace whose Secrets have to be read before the key can be planned. All else in the plan is empty then."""
    staying: tuple[ObjectRef, ...] = ()
    """Existing children that are not wanted any more but stay for now."""
    retiring: Removal | None = None
    """Addresses that a Listener's newest version takes out of service. If the view does not allow that yet, the
    published document stays."""
    ending: Removal | None = None
    """Retired addresses whose time is over. If the view does not allow that they end, the document still has them."""
    keeps_vanished: bool = False
    """True if a document that only gateways have stays in force, because the Listener was declared again."""
    granted: tuple[str, ...] = ()
    """Hostnames that the Listener names and that its document has. No other listener gets them while the document is
    written."""


ResourceT = TypeVar("ResourceT", resources.ListenerClass, resources.Tenant, resources.Listener, resources.Destination)


class CachedResource(msgspec.Struct, Generic[ResourceT], frozen=True, kw_only=True):
    """A resource as the API server last sent it."""

    resource: ResourceT
    uid: str
    created: str
    """``metadata.creationTimestamp``."""
    conditions: tuple[StatusCondition, ...] = ()
    """The operator's conditions in its status, as last read or written."""
    fields: Mapping[str, Any] = {}
    """Its other status fields, such as ``installKeyFingerprint``."""

    @property
    def halted(self) -> Mapping[str, str]:
        """The namespaces of ``haltedRemovals`` in a ListenerClass's status, with the hash that confirms each."""
        return {entry["namespace"]: entry["hash"] for entry in self.fields.get(HALTED_FIELD) or ()}

    @property
    def key(self) -> Key:
        """The key for a resource that is in a namespace."""
        metadata = self.resource.metadata
        return Key(self.resource.kind_name, metadata.namespace, metadata.name)  # type: ignore[arg-type]

    @property
    def age(self) -> tuple[str, str]:
        """Sort key: the oldest resource first. The uid decides between equal times, because no user can choose it."""
        return self.created, self.uid

    @property
    def is_unserved(self) -> bool:
        """True if a class's status says that no operator serves it. One that serves it replaces the status."""
        return any(condition.reason == OperatorReason.NotServed for condition in self.conditions)


class UnreadableResource(msgspec.Struct, frozen=True, kw_only=True):
    """A resource that exists but that this version cannot parse, because another version's schema accepted it.

    Or one for which its namespace has no memory left (``memory.NamespaceMemory``).
    """

    uid: str
    generation: int
    message: str
    """The field that is wrong, and why; without values. ``""``: the namespace has no memory left for it."""
    controller_name: str = ""
    """The install that serves a ListenerClass; ``""``: not readable."""
    class_name: str = ""
    """A Listener's ListenerClass; ``""``: not readable."""
    conditions: tuple[StatusCondition, ...] = ()
    fields: Mapping[str, Any] = {}


class ListenerReadiness(msgspec.Struct, frozen=True):
    """The Listener fields that its Tenant sums up."""

    ready: ConditionStatus
    """Its Ready status; Unknown if it has none."""
    is_held: bool
    """True if its stored Ready says that its deliveries are held."""
    is_suspended: bool
    """True if its own ``state`` is Suspended."""

    @classmethod
    def of(cls, cached: CachedResource[resources.Listener]) -> "ListenerReadiness":
        """A Listener's readiness."""
        ready = next((condition for condition in cached.conditions if condition.type == ConditionType.Ready), None)
        return cls(
            ready=ready.status if ready is not None else "Unknown",
            is_held=ready is not None and ready.reason == "Suspended",
            is_suspended=cached.resource.spec.state == "Suspended",
        )


class PublishedDocument(msgspec.Struct, frozen=True):
    """A document in its config Secret. A tombstone is not one."""

    document: documents.ListenerDocument | documents.DestinationDocument
    hash: str
    owner: DocumentOwner
    """The object that it was made for."""
    version: str = ""
    """The config Secret's ``resourceVersion``."""

    @property
    def listener(self) -> documents.ListenerDocument | None:
        """The document, if it is a Listener's."""
        return self.document if isinstance(self.document, documents.ListenerDocument) else None


class ChildState(msgspec.Struct, frozen=True):
    """An existing child, with the status that its controller wrote."""

    ref: ObjectRef
    generation: int
    desired: str
    """Annotation ``usher.dev/desired``; ``""`` if it is missing."""
    status: Mapping[str, Any] = {}
    ingress_class: str = ""
    """An Ingress's ``spec.ingressClassName``; ``""``: it has none."""


# Found: the Secret has the label `usher.dev/watch`. The other states come from one GET. Forbidden: the operator may not
# read it; beside the gateways, it may read only the Secrets that the platform named.
SecretState = Literal["Found", "NotLabelled", "NotFound", "Forbidden"]


# The operator's access to a namespace's Secrets. Unknown: nothing has requested it yet.
SecretAccess = Literal["Unknown", "Permitted", "Denied"]


class ClusterFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster's optional APIs and objects."""

    gateway_api: bool = False
    """HTTPRoute (gateway.networking.k8s.io/v1) is served."""
    cert_manager: bool = False
    """Certificate (cert-manager.io/v1) is served."""
    ingress_classes: Mapping[str, str] = {}
    """Name -> ``spec.controller``."""
    default_ingress_class: str = ""
    """The IngressClass that is annotated as default; ``""`` if there is none."""
    issuers: frozenset[tuple[str, str]] | None = None
    """(kind, name) for cert-manager's ClusterIssuers and the Issuers in the data plane's namespace; None if the
    operator cannot list them."""


class DegradedRoute(msgspec.Struct, frozen=True, order=True):
    """A route that works only in part."""

    route: str
    reason: str = ""


class HeldRoute(DegradedRoute, frozen=True, order=True):
    """A route whose deliveries are held."""

    missing: str = ""
    """The object that must exist, such as a Secret."""


Moment = Annotated[datetime.datetime, msgspec.Meta(tz=True)]  # A time that a gateway reports


class ListenerReport(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One gateway's report about a listener, as ``GET /api/config`` has it."""

    receiving: str = "NoVisitYet"
    """``Receiving``, ``NoVisitYet`` or ``Silent``, since the gateway's start."""
    verified_addresses: tuple[str, ...] = ()
    """Present addresses (``Address.id``) that ever accepted a visit."""
    probed_addresses: tuple[str, ...] = ()
    """Present addresses (``Address.id``) that were probed since the gateway's start."""
    refusing: bool = False
    """True if the gateway refuses requests and accepted none in between."""
    refused_reason: str | None = None
    """Why it refused the last one."""
    quarantining: bool = False
    """True if over 5 % of the last 15 minutes' arrivals were quarantined, until half of that."""
    degraded_routes: tuple[DegradedRoute, ...] = ()
    company_mismatch: bool = False
    held_deliveries: tuple[HeldRoute, ...] = ()
    times_untrusted: bool = False
    """True if many bodies had a time that is not trusted."""
    retired_arrivals: dict[str, Moment] = {}
    """Retired address (``Address.id``) -> when the hour of its last arrival ended."""


class DestinationReport(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway's report about a destination, as ``GET /api/config`` has it."""

    health: str = "NotTried"
    """A reason for the condition Healthy."""
    error: str | None = None
    """Last error code while it is failing, such as ``ServerError``."""
    status: int | None = None
    """Last answer's HTTP status while it is failing."""


class AppliedDocument(msgspec.Struct, frozen=True):
    """The document version that one gateway runs."""

    hash: str
    """``""`` if it runs none."""
    rejected: str = ""
    """Why it does not run the newest version; ``""`` if it does not reject it."""


class GatewayReport(msgspec.Struct, frozen=True, kw_only=True):
    """One ready gateway, and what it reports."""

    name: str
    reachable: bool = True
    """True if its admin port answers. If not, the other fields are its last report."""
    refuses_token: bool = False
    """True if its admin port answers that the operator's token is wrong. It is not reachable then."""
    applied: dict[Key, AppliedDocument] = {}
    listeners: dict[str, ListenerReport] = {}
    """By ``namespace/name``."""
    destinations: dict[str, DestinationReport] = {}
    stale: Mapping[Key, str] = {}
    """This install's documents that the gateway runs although their config Secrets are gone for a while, with their
    owners' uids."""
    vanished: Mapping[Key, TenantHostnames] = {}
    """This install's Listeners whose documents the gateway runs although their config Secrets are gone."""


class WriteFailure(msgspec.Struct, frozen=True):
    """Why the last attempt could not write a key's children."""

    error: str
    """Request, status and reason."""
    cause: Literal["Forbidden", "NameTaken", "Contested"] | None = None
    """Forbidden: the API server refused it, so that another attempt does not help. NameTaken: another owner's object
    has a child's name. Contested: another program changes a child again and again; ``error`` names both."""


class Reachability(msgspec.Struct, frozen=True):
    """A hostname's last check result (`route_check`)."""

    problem: str = ""
    """Why requests do not lead to a gateway, and what must be done; ``""`` if they do."""
    is_checked: bool = True
    """False while the hostname has no Usher route with an address and a certificate, or no URL with a token."""
