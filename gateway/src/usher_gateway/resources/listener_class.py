"""ListenerClass: how listeners are exposed; owned by the platform (compare GatewayClass)."""

from typing import Annotated, ClassVar, Literal

import msgspec

from usher_gateway.resources import metadata, types


class SelectorRequirement(types.Model, frozen=True, kw_only=True):
    """One condition on a namespace's labels."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=316, description="Label key.")]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[list[types.LabelValue], msgspec.Meta(max_length=64)] | None = None


class LabelSelector(types.Model, frozen=True, kw_only=True):
    """Chooses namespaces by their labels, as everywhere in Kubernetes."""

    match_labels: types.Labels | None = None
    match_expressions: Annotated[list[SelectorRequirement], msgspec.Meta(max_length=32)] | None = None


class Namespaces(types.Model, frozen=True, kw_only=True):
    """Which namespaces may: all, or those that a selector chooses."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("from", {"Selector": "selector"}),)

    from_: Literal["All", "Selector"] = msgspec.field(name="from")
    selector: LabelSelector | None = None


class AllowedHostname(types.Model, frozen=True, kw_only=True):
    """A hostname, or pattern, that listeners of some namespaces may claim."""

    hostname: types.HostnamePattern
    namespaces: Namespaces | None = None


class Ingress(types.Model, frozen=True, kw_only=True):
    """How Ingress objects are made."""

    class_name: types.ObjectName | None = None
    annotations: (
        Annotated[
            dict[str, Annotated[str, msgspec.Meta(max_length=4096)]],
            msgspec.Meta(max_length=32, description="Annotations put on each Ingress."),
        ]
        | None
    ) = None


class ParentRef(types.Model, frozen=True, kw_only=True):
    """A Gateway that routes attach to."""

    namespace: types.NamespaceName
    name: types.ObjectName
    section_name: types.ObjectName | None = None


class HttpRoute(types.Model, frozen=True, kw_only=True):
    """How HTTPRoute objects are made."""

    parent_ref: ParentRef


class Exposure(types.Model, frozen=True, kw_only=True):
    """How requests reach the gateway from outside."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Union("type", {"Ingress": "ingress", "HTTPRoute": "httpRoute"}),)

    type: Literal["Ingress", "HTTPRoute", "None"]
    scope: (
        Annotated[
            Literal["Hostname", "Path"],
            msgspec.Meta(description="Path: only the listeners' exact paths are routed. Default Hostname."),
        ]
        | None
    ) = None
    ingress: Ingress | None = None
    http_route: HttpRoute | None = None


class IssuerRef(types.Model, frozen=True, kw_only=True):
    """A cert-manager issuer."""

    name: types.ObjectName
    kind: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] | None = None
    group: Annotated[str, msgspec.Meta(min_length=1, max_length=253)] | None = None


class Tls(types.Model, frozen=True, kw_only=True):
    """Who terminates TLS, with which certificate."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Requires("mode", "PerHostname", "issuerRef"),
        types.Requires("mode", "Provided", "secretName"),
    )

    mode: Literal["Class", "PerHostname", "Provided", "External"]
    issuer_ref: IssuerRef | None = None
    secret_name: types.ObjectName | None = None


class ClientAddress(types.Model, frozen=True, kw_only=True):
    """Where the sender's address is taken from."""

    rules: ClassVar[tuple[types.Rule, ...]] = (types.Requires("from", "XForwardedFor", "trustedProxies"),)

    from_: Literal["Connection", "XForwardedFor"] = msgspec.field(name="from")
    trusted_proxies: (
        Annotated[list[types.Cidr], msgspec.Meta(max_length=64, extra_json_schema=types.LIST_SET)] | None
    ) = None


class Maximums(types.Model, frozen=True, kw_only=True):
    """What one listener or namespace of this class may use."""

    max_body_bytes: (
        Annotated[int, msgspec.Meta(ge=1024, le=8 * 1024 * 1024, description="Largest body. Default 262144.")] | None
    ) = None
    requests_per_second: (
        Annotated[int, msgspec.Meta(ge=1, le=100_000, description="Per listener. Default: no limit.")] | None
    ) = None
    listeners_per_namespace: Annotated[int, msgspec.Meta(ge=1, le=100_000, description="Default: no limit.")] | None = (
        None
    )
    destinations_per_namespace: (
        Annotated[int, msgspec.Meta(ge=1, le=100_000, description="Default: no limit.")] | None
    ) = None


class ListenerClassSpec(types.Model, frozen=True, kw_only=True):
    """How listeners of this class are exposed, and what they may use."""

    rules: ClassVar[tuple[types.Rule, ...]] = (
        types.Immutable("controllerName"),
        types.Combination("exposure.type", "HTTPRoute", "tls.mode", ("External",)),
    )

    controller_name: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=253,
            pattern=r"^[-a-z0-9.]+/[-A-Za-z0-9._~/]+$",
            description="Which install serves this class, such as `usher.dev/usher`.",
        ),
    ]
    hostname: types.Hostname
    namespaces: Namespaces | None = None
    allowed_hostnames: Annotated[list[AllowedHostname], msgspec.Meta(max_length=256)] | None = None
    exposure: Exposure | None = None
    tls: Tls | None = None
    client_address: ClientAddress | None = None
    maximums: Maximums | None = None


class ListenerClass(types.Model, frozen=True, kw_only=True):
    """How listeners are exposed; cluster-scoped, owned by the platform."""

    kind_name: ClassVar[str] = "ListenerClass"
    namespaced: ClassVar[bool] = False

    api_version: Literal["usher.dev/v1alpha1"]
    kind: Literal["ListenerClass"]
    metadata: metadata.NamedMetadata
    spec: ListenerClassSpec
