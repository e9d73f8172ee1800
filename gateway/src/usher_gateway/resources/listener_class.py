"""ListenerClass: how listeners are exposed. The platform team owns it, as it owns a GatewayClass."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import conditions, types

CERT_MANAGER_GROUP = "cert-manager.io"  # API group of cert-manager


class SelectorRequirement(types.Model, frozen=True, kw_only=True):
    """One condition on a namespace's labels."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Requires("operator", "In", "values"),
        types.Requires("operator", "NotIn", "values"),
    )

    key: types.LabelKey
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], msgspec.Meta(description="How the label is compared.")
    ]
    values: Annotated[list[types.LabelValue], types.entries("Values for In and NotIn.", 16, types.LIST_ATOMIC)] = []


class LabelSelector(types.Model, frozen=True, kw_only=True):
    """Selects namespaces by their labels, as everywhere in Kubernetes."""

    match_labels: types.Labels = {}
    match_expressions: Annotated[
        list[SelectorRequirement], types.entries("Conditions that must hold, all of them.", 8, types.LIST_ATOMIC)
    ] = []


class Namespaces(types.Model, frozen=True, kw_only=True):
    """All namespaces, or those that a selector selects."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("from", {"Selector": "selector"}),)

    from_: Annotated[
        Literal["All", "Selector"], msgspec.Meta(description="All namespaces, or those that `selector` selects.")
    ] = msgspec.field(name="from")
    selector: LabelSelector | None = None


class AllowedHostname(types.Model, frozen=True, kw_only=True):
    """A host name or a pattern that listeners in some namespaces may use."""

    hostname: types.HostnamePattern
    namespaces: Namespaces = Namespaces(from_="All")


class Ingress(types.Model, frozen=True, kw_only=True):
    """Settings for Ingress objects."""

    class_name: (
        Annotated[types.ObjectName, msgspec.Meta(description="The IngressClass. The cluster's default if left out.")]
        | None
    ) = None
    annotations: Annotated[
        dict[types.AnnotationKey, Annotated[str, types.text("Value of an annotation.", 4096, shortest=0)]],
        types.entries("Annotations of each Ingress.", 32),
    ] = {}


class ParentRef(types.Model, frozen=True, kw_only=True):
    """The Gateway to which routes attach."""

    namespace: types.NamespaceName
    name: Annotated[types.ObjectName, msgspec.Meta(description="Name of the Gateway.")]
    section_name: (
        Annotated[types.ObjectName, msgspec.Meta(description="One of the Gateway's listeners. All if left out.")] | None
    ) = None


class HttpRoute(types.Model, frozen=True, kw_only=True):
    """Settings for HTTPRoute objects."""

    parent_ref: ParentRef


class Exposure(types.Model, frozen=True, kw_only=True):
    """How requests from outside reach the gateway."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("type", {"Ingress": "ingress", "HTTPRoute": "httpRoute"}),)

    type: Annotated[
        Literal["Ingress", "HTTPRoute", "None"],
        msgspec.Meta(
            description="Object that the operator creates for each host name. None: something else routes "
            "to the gateway."
        ),
    ]
    scope: Annotated[
        Literal["Hostname", "Path"],
        msgspec.Meta(description="Hostname: every path is routed. Path: `/v1/` and the listeners' own paths."),
    ] = "Hostname"
    ingress: Ingress | None = None
    http_route: HttpRoute | None = None


class IssuerRef(types.Model, frozen=True, kw_only=True):
    """A cert-manager issuer."""

    name: Annotated[types.ObjectName, msgspec.Meta(description="Name of the issuer.")]
    kind: Annotated[
        str, types.text("Kind of the issuer, such as `Issuer` or `ClusterIssuer`.", 63, r"^[A-Z][A-Za-z0-9]*$")
    ] = "Issuer"
    group: Annotated[types.ObjectName, msgspec.Meta(description="API group of the issuer.")] = CERT_MANAGER_GROUP


class TlsSpec(types.Model, frozen=True, kw_only=True):
    """Where TLS is terminated, and with which certificate."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Requires("mode", "PerHostname", "issuerRef"),
        types.Requires("mode", "Provided", "secretName"),
    )

    mode: Annotated[
        Literal["Class", "PerHostname", "Provided", "External"],
        msgspec.Meta(
            description="Class: one certificate for the class's host name. PerHostname: one for each host name. "
            "Provided: an existing Secret. External: something in front terminates TLS."
        ),
    ]
    issuer_ref: IssuerRef | None = None
    secret_name: (
        Annotated[
            types.ObjectName, msgspec.Meta(description="Secret of type `kubernetes.io/tls` in the gateway's namespace.")
        ]
        | None
    ) = None


class ClientAddress(types.Model, frozen=True, kw_only=True):
    """Where the sender's address comes from."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Requires("from", "XForwardedFor", "trustedProxies"),)

    from_: Annotated[
        Literal["Connection", "XForwardedFor"],
        msgspec.Meta(
            description="Connection: the peer of the connection. XForwardedFor: the header X-Forwarded-For "
            "of trusted proxies."
        ),
    ] = msgspec.field(name="from")
    trusted_proxies: Annotated[
        list[types.Cidr],
        types.entries("Address ranges of the proxies whose X-Forwarded-For is trusted.", 64, types.LIST_SET),
    ] = []


class Maximums(types.Model, frozen=True, kw_only=True):
    """Limits for a listener or a namespace with this class."""

    max_body_bytes: Annotated[
        int,
        types.number("Largest body after inflating, in bytes. Larger bodies are quarantined.", 1024, 8 * 1024 * 1024),
    ] = 256 * 1024
    requests_per_second: Annotated[
        int,
        types.number(
            "Requests per second of one listener, as a mean over 8 s. Above it the answer is 503.", 1, 100_000
        ),
    ] = 500
    stored_bytes_per_tenant: Annotated[
        int,
        types.number(
            "Bytes of bodies that a gateway stores for one tenant. At the limit it answers only this "
            "tenant's arrivals with 503. If left out: half of the free space.",
            1024 * 1024,
            2**50,
        ),
    ] = 0
    listeners_per_namespace: (
        Annotated[int, types.number("Listeners of this class in one namespace. No limit if left out.", 1, 100_000)]
        | None
    ) = None
    destinations_per_namespace: (
        Annotated[
            int, types.number("Destinations in a namespace that may use this class. No limit if left out.", 1, 100_000)
        ]
        | None
    ) = None
    hostnames_per_namespace: (
        Annotated[
            int,
            types.number(
                "Different hostnames in the `addresses` of a namespace's listeners, with those of "
                "retired addresses. A hostname for which the operator requested a certificate counts for 7 more days "
                "after it was given up, because certificate authorities limit certificates. No limit if left out.",
                0,
                100_000,
            ),
        ]
        | None
    ) = None


class ListenerClassSpec(types.Model, frozen=True, kw_only=True):
    """How listeners with this class are exposed, and their limits."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Immutable("controllerName"),
        types.Combination("exposure.type", "HTTPRoute", "tls.mode", ("External",)),
    )

    controller_name: Annotated[
        str,
        types.text(
            "The install that serves this class, such as `usher.dev/usher`. It cannot be changed.",
            253,
            r"^[-a-z0-9.]+/[-A-Za-z0-9._~/]+$",
        ),
    ]
    hostname: Annotated[
        types.Hostname,
        msgspec.Meta(
            description="The class's own host name in lower case, without `https://` and a port. Its listeners share "
            "it and differ by the token in the path."
        ),
    ]
    namespaces: Annotated[
        Namespaces, msgspec.Meta(description="Namespaces whose listeners may use this class. All if left out.")
    ] = Namespaces(from_="All")
    allowed_hostnames: Annotated[
        list[AllowedHostname],
        types.entries(
            "Host names that listeners may use, and from which namespaces. None if left out.", 256, types.LIST_ATOMIC
        ),
    ] = []
    exposure: Exposure = Exposure(type="None")
    tls: TlsSpec = TlsSpec(mode="External")
    client_address: ClientAddress = ClientAddress(from_="Connection")
    maximums: Maximums = Maximums()
    retired_address_days: Annotated[
        int, types.number("Days from the last arrival at a retired address until it ends. 0 ends it at once.", 0, 365)
    ] = 7
    removal_limit: (
        Annotated[
            int,
            types.number(
                "Listeners, and destinations, of one namespace that may be removed within ten minutes "
                "without a confirmation. If left out: 5, or 10 % of a larger namespace.",
                0,
                100_000,
            ),
        ]
        | None
    ) = None

    @property
    def hostname_patterns(self) -> list[str]:
        """The class's own hostname, and those that its listeners may name."""
        return [self.hostname, *(allowed.hostname for allowed in self.allowed_hostnames)]


class ListenerClass(types.ResourceBase, frozen=True, kw_only=True):
    """How listeners are exposed. It is cluster-scoped, and the platform team owns it."""

    kind_name: ClassVar[str] = "ListenerClass"
    namespaced: ClassVar[bool] = False

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["ListenerClass"]
    metadata: types.NamedMetadata
    spec: ListenerClassSpec


def check_class(listener_class: ListenerClass) -> list[conditions.Finding]:
    """Return what the schema cannot check in one class."""
    return [
        conditions.finding(
            listener_class,
            f"spec.clientAddress.trustedProxies[{index}]",
            conditions.Reason.UnsupportedValue,
            "is not an address range; write one such as 203.0.113.0/24",
        )
        for index, proxy in enumerate(listener_class.spec.client_address.trusted_proxies)
        if types.network_of(proxy) is None
    ]
