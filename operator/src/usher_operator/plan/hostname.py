"""Plans a hostname: its Ingress or HTTPRoute, its Certificate, and the states CertificateReady and Exposed. Pure.

The children belong to a hostname and not to a listener, so that a new listener on the class's hostname changes no
Ingress. Listeners and classes report their hostnames' states.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources import conditions, listener_class
from usher_operator.plan import children, common
from usher_operator.plan.children import RoutePart
from usher_operator.plan.common import PENDING, ConditionState
from usher_operator.state.values import CachedResource, ChildState, DesiredChild, Key, ObjectRef, OperatorReason, Plan
from usher_operator.state.view import View


class CertificateSource(msgspec.Struct, frozen=True):
    """The source of a hostname's certificate."""

    secret_name: str = ""
    """``""`` if something else terminates TLS."""
    issuer: listener_class.IssuerRef | None = None
    """Cert-manager's issuer; None if the Secret is provided."""
    problem: ConditionState | None = None
    """Why the hostname cannot have a certificate."""


def worst(states: Iterable[ConditionState]) -> ConditionState | None:
    """The first state that is False, else the first that is Unknown, else the first; None without any state."""
    ranked = sorted(states, key=lambda state: ("False", "Unknown", "True").index(state.status))
    return ranked[0] if ranked else None


def class_of(view: View, hostname: str) -> CachedResource[resources.ListenerClass] | None:
    """The class that decides how a hostname is exposed: the class that owns it, else its oldest listener's class.

    None if no class in this install decides.
    """
    own = [cached for cached in view.classes.values() if cached.resource.spec.hostname == hostname]
    if own:
        first = min(own, key=lambda cached: cached.age)
        return first if view.is_ours(first) else None
    return view.our_class(view.class_at(hostname))


def tls_of(spec: listener_class.ListenerClassSpec, hostname: str) -> CertificateSource:
    """The source of a hostname's certificate."""
    tls = spec.tls
    if tls.mode == "External":
        return CertificateSource()
    generated_name = f"{children.object_name(hostname)}-tls"
    if tls.mode == "PerHostname":
        return CertificateSource(generated_name, tls.issuer_ref)
    if tls.issuer_ref is None or tls.mode == "Provided":
        return CertificateSource(tls.secret_name) if tls.secret_name else CertificateSource(problem=_no_source())
    if hostname == spec.hostname:
        return CertificateSource(tls.secret_name or generated_name, tls.issuer_ref)
    return CertificateSource(
        tls.secret_name or f"{children.object_name(spec.hostname)}-tls", problem=_not_covered(hostname)
    )


def _no_source() -> ConditionState:
    message = "the class's `spec.tls` must have `issuerRef` or `secretName`"
    return ConditionState("False", OperatorReason.IssuerNotFound, message)


def _not_covered(hostname: str) -> ConditionState:
    message = (
        f"the class's certificate covers only the class's own hostname, not `{hostname}`; the class must have "
        "`tls.mode: PerHostname`, or the listener must not have this address"
    )
    return ConditionState("False", OperatorReason.Failed, message)


def certificate_state(view: View, spec: listener_class.ListenerClassSpec, hostname: str) -> ConditionState:
    """CertificateReady for a hostname."""
    tls = tls_of(spec, hostname)
    if tls.problem is not None:
        return tls.problem
    if not tls.secret_name:
        return ConditionState("True", OperatorReason.External)
    if tls.issuer is None:
        return _provided(view, tls.secret_name)
    if not view.features.cert_manager:
        message = "cert-manager must be installed, or the class must have `tls.mode: Provided` or `External`"
        return ConditionState("False", OperatorReason.CertManagerMissing, message)
    missing = _missing_issuer(view, tls.issuer)
    return missing or _issued(view, hostname)


def _provided(view: View, name: str) -> ConditionState:
    namespace = view.settings.data_plane_namespace
    match view.secret_state(f"{namespace}/{name}"):
        case None:
            message = f"looking for Secret `{name}` in namespace `{namespace}`"
            return ConditionState("Unknown", PENDING, message, f"{namespace}/{name}")
        case "NotFound":
            message = f"Secret `{name}` with the certificate must exist in namespace `{namespace}`"
            return ConditionState("False", OperatorReason.SecretNotFound, message)
        case "Forbidden":
            message = (
                f"the operator may not look whether Secret `{name}` exists in namespace `{namespace}`; the chart's "
                "`operator.certificateSecrets` must have its name"
            )
            return ConditionState("Unknown", PENDING, message)
        case _:
            return ConditionState("True", OperatorReason.Provided)


def _missing_issuer(view: View, issuer: listener_class.IssuerRef) -> ConditionState | None:
    usable = view.features.issuers
    if usable is None or issuer.group != listener_class.CERT_MANAGER_GROUP or (issuer.kind, issuer.name) in usable:
        return None
    where = f" in namespace `{view.settings.data_plane_namespace}`" if issuer.kind == "Issuer" else ""
    message = f"{issuer.kind} `{issuer.name}` must exist{where}"
    return ConditionState("False", OperatorReason.IssuerNotFound, message)


def _issued(view: View, hostname: str) -> ConditionState:
    certificates = [child for child in _children_of_kind(view, hostname, "Certificate") if child.status]
    reported = _conditions(certificates[0].status) if certificates else {}
    ready, issuing = reported.get("Ready", {}), reported.get("Issuing", {})
    if ready.get("status") == "True":
        return ConditionState("True", OperatorReason.Issued)
    if issuing.get("status") == "False" and issuing.get("reason") == "Failed":
        return ConditionState("False", OperatorReason.Failed, f"cert-manager: {issuing.get('message', '')}")
    if ready:
        message = f"cert-manager is issuing the certificate of `{hostname}`: {ready.get('message', '')}"
        return ConditionState("Unknown", PENDING, message)
    return ConditionState("Unknown", PENDING, f"cert-manager has not reported the certificate of `{hostname}` yet")


def exposed_state(view: View, spec: listener_class.ListenerClassSpec, hostname: str) -> ConditionState:
    """Exposed for a hostname."""
    match spec.exposure:
        case listener_class.Exposure(type="Ingress", ingress=ingress):
            missing = _missing_ingress_class(view, spec)
            if missing is None:
                return _has_address(view, hostname, ingress)
            return msgspec.structs.replace(missing, message=missing.message + _present_ingress(view, hostname))
        case listener_class.Exposure(type="HTTPRoute", http_route=listener_class.HttpRoute(parent_ref=parent)):
            return _attached(view, hostname, parent)
        case _:
            return ConditionState("True", OperatorReason.NotExposed)


def _missing_ingress_class(view: View, spec: listener_class.ListenerClassSpec) -> ConditionState | None:
    name = spec.exposure.ingress.class_name if spec.exposure.ingress else None
    if name is None and view.features.default_ingress_class:
        return None
    if name is not None and name in view.features.ingress_classes:
        return None
    message = _name_ingress_class(view, name) if view.features.ingress_classes else _create_ingress_class(name)
    return ConditionState("False", OperatorReason.IngressClassNotFound, message)


def _create_ingress_class(name: str | None) -> str:
    missing = f"IngressClass `{name}`" if name is not None else "default IngressClass"
    message = (
        f"there is no {missing}, and the cluster has none: create one with your controller's name in "
        "`spec.controller` (some controllers, such as Contour, install none)"
    )
    return message if name is not None else f"{message}, and name it in `exposure.ingress.className`"


def _name_ingress_class(view: View, name: str | None) -> str:
    existing = "the cluster has " + ", ".join(f"`{class_name}`" for class_name in sorted(view.features.ingress_classes))
    if name is None:
        return f"there is no default IngressClass: the class must have `exposure.ingress.className`; {existing}"
    return (
        f"there is no IngressClass `{name}`; {existing}: `exposure.ingress.className` must name one that exists, or "
        f"you must create `{name}` with your controller's name in `spec.controller`"
    )


def _present_ingress(view: View, hostname: str) -> str:
    """Say that an Ingress stays although the class names no IngressClass that exists; ``""``: there is none."""
    ingresses = _children_of_kind(view, hostname, "Ingress")
    if not ingresses:
        return ""
    name = ingresses[0].ingress_class
    return f"; the present Ingress{f' (class `{name}`)' if name in view.features.ingress_classes else ''} stays"


def _balancer_addresses(ingress: ChildState) -> list[dict[str, Any]]:
    return ingress.status.get("loadBalancer", {}).get("ingress") or []


def _has_address(view: View, hostname: str, ingress: listener_class.Ingress | None) -> ConditionState:
    ingresses = _children_of_kind(view, hostname, "Ingress")
    if not ingresses:
        return ConditionState("Unknown", PENDING, f"`{hostname}` has no Ingress yet")
    for child in ingresses:
        if not _balancer_addresses(child):
            name = (
                f"IngressClass `{ingress.class_name}`" if ingress and ingress.class_name else "the default IngressClass"
            )
            message = (
                f"the controller of {name} must give Ingress `{child.ref.namespace}/{child.ref.name}` an address: "
                "it must run, serve this IngressClass, and publish its address"
            )
            return ConditionState("False", OperatorReason.AddressNotAssigned, message)
    return ConditionState("True", OperatorReason.Exposed)


def _attached(view: View, hostname: str, parent: listener_class.ParentRef) -> ConditionState:
    if not view.features.gateway_api:
        message = "the Gateway API (HTTPRoute) must be installed, or the class must have another `exposure.type`"
        return ConditionState("False", OperatorReason.GatewayAPIMissing, message)
    routes = _children_of_kind(view, hostname, "HTTPRoute")
    states = [_accepted(child, parent, view.settings.data_plane_namespace) for child in routes]
    return worst(states) or ConditionState("Unknown", PENDING, f"`{hostname}` has no HTTPRoute yet")


def _accepted(child: ChildState, parent: listener_class.ParentRef, namespace: str) -> ConditionState:
    gateway = f"Gateway `{parent.namespace}/{parent.name}`"
    said = [
        _conditions(entry)
        for entry in child.status.get("parents") or ()
        if _is_parent(entry.get("parentRef", {}), parent, namespace)
    ]
    if any(
        reported.get("Accepted", {}).get("status") == "True" and not _false(reported, "ResolvedRefs")
        for reported in said
    ):
        return ConditionState("True", OperatorReason.Exposed)
    for reported in said:
        refused = _false(reported, "Accepted") or _false(reported, "ResolvedRefs")
        if refused is not None:
            return _refused(refused, gateway)
    message = f"no controller has accepted the HTTPRoute; {gateway} must exist, and its controller must run"
    return ConditionState("Unknown", PENDING, message)


def _refused(reported: Mapping[str, Any], gateway: str) -> ConditionState:
    why = f"{reported.get('reason', '')}: {reported.get('message', '')}"
    if reported.get("reason") == OperatorReason.NotAllowedByListeners:
        message = f"{gateway} must allow routes from the data plane's namespace (`allowedRoutes`); {why}"
        return ConditionState("False", OperatorReason.NotAllowedByListeners, message)
    message = f"{gateway} must have a listener whose hostname matches; {why}"
    return ConditionState("False", OperatorReason.NoMatchingParent, message)


def _false(reported: Mapping[str, Mapping[str, Any]], condition_type: str) -> Mapping[str, Any] | None:
    condition = reported.get(condition_type)
    return condition if condition is not None and condition.get("status") == "False" else None


def _is_parent(ref: Mapping[str, Any], parent: listener_class.ParentRef, namespace: str) -> bool:
    expected = (parent.namespace, parent.name, parent.section_name or "")
    return (ref.get("namespace", namespace), ref.get("name"), ref.get("sectionName", "")) == expected


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(condition.get("type")): condition for condition in status.get("conditions") or ()}


def checked_addresses(view: View, hostname: str) -> frozenset[str] | None:
    """IP addresses from a hostname's Ingresses, if requests to the hostname should lead to a gateway.

    None without a check: Usher made no route, the route has no address or certificate yet, or no URL at the hostname
    has a token, so that the route may lack the check's path. An Ingress that stays, because its successor cannot be
    made or does not work yet, is checked.
    """
    cached_class = class_of(view, hostname)
    if cached_class is None or cached_class.resource.spec.exposure.type == "None":
        return None
    has_token = any(
        address.host == hostname and address.path.startswith(documents.TOKEN_PREFIX)
        for document in view.listeners_at(hostname)
        for address in document.live_addresses
    )
    spec = cached_class.resource.spec
    ingresses = [_balancer_addresses(child) for child in _children_of_kind(view, hostname, "Ingress")]
    has_route = all(ingresses) if ingresses else exposed_state(view, spec, hostname).status == "True"
    if not has_token or not has_route or certificate_state(view, spec, hostname).status != "True":
        return None
    return frozenset(entry["ip"] for addresses in ingresses for entry in addresses if entry.get("ip"))


def ingress_class(view: View, hostname: str) -> str:
    """The IngressClass name in a hostname's Ingresses; ``""`` without one."""
    return next((child.ingress_class for child in _children_of_kind(view, hostname, "Ingress")), "")


def provided_secret(view: View, hostname: str) -> str:
    """The Secret with a hostname's certificate that somebody else than cert-manager made; ``""`` without one."""
    cached_class = class_of(view, hostname)
    tls = tls_of(cached_class.resource.spec, hostname) if cached_class is not None else CertificateSource()
    return tls.secret_name if tls.issuer is None and tls.problem is None else ""


def _children_of_kind(view: View, hostname: str, kind: str) -> list[ChildState]:
    of_hostname = view.children(Key("Hostname", "", hostname))
    return sorted((child for child in of_hostname if child.ref.kind == kind), key=lambda child: child.ref)


def unroutable(
    listener: resources.Listener,
    document: documents.ListenerDocument,
    host: str,
    spec: listener_class.ListenerClassSpec,
) -> list[conditions.Finding]:
    """Findings about a hostname that the class cannot expose. They do not name the path, which may be a secret."""
    paths = [address.path for address in document.addresses if address.host == host]
    if spec.exposure.type == "None":
        return []
    if not children.is_host_routable(host):
        message = f"`{host}` must be a hostname: Usher cannot expose an IP address"
    elif spec.exposure.scope == "Path" and not all(map(children.is_path_routable, paths)):
        message = (
            f"a path at `{host}` must not have `%`, `//`, `/./` or `/../`, because the class routes exact paths "
            "(`exposure.scope: Path`)"
        )
    else:
        return []
    reason = conditions.Reason.UnsupportedValue
    return [conditions.Finding("Listener", listener.key, "spec.addresses", reason, message)]


_ROUTES = frozenset({"Ingress", "HTTPRoute"})


def plan(view: View, key: Key) -> Plan:
    """The plan for a hostname. It has no status."""
    if common.publishing_state(view):
        return Plan(key, None)
    cached_class = class_of(view, key.name)
    if cached_class is None:
        # without a class, published documents stay exposed as they are, and so do those whose config Secrets are lost
        is_in_use = view.has_listeners_at(key.name) or view.has_lost_listeners_at(key.name)
        return Plan(key, None if is_in_use else ())
    spec = cached_class.resource.spec
    if key.name != spec.hostname and _is_left(view, key.name):
        # its route and its certificate stay as they were, as the retired addresses do
        return Plan(key, None)
    if spec.exposure.type == "HTTPRoute" and not view.features.gateway_api:
        # an old Ingress stays until the cluster can have the HTTPRoute
        return Plan(key, None)
    desired = tuple(_children(view, key.name, spec))
    others = tuple(child for child in desired if child.ref.kind != "Ingress")
    if others != desired and _missing_ingress_class(view, spec):
        # no controller serves an Ingress whose class does not exist, so the routes stay as they are until it does
        return Plan(key, others, staying=tuple(sorted(child.ref for child in view.children(key))))
    return Plan(key, desired, staying=_old_routes(view, key, desired, spec))


def _is_left(view: View, hostname: str) -> bool:
    """True if documents have addresses at a hostname without a class, and all these addresses will end.

    These are retired addresses, and addresses from a class that had the hostname until now.
    """
    at_host = (
        address
        for document in view.listeners_at(hostname)
        for address in document.addresses
        if address.host == hostname
    )
    return view.has_listeners_at(hostname) and all(
        address.retired_at or address.is_class_address for address in at_host
    )


def _old_routes(
    view: View, key: Key, desired: tuple[DesiredChild, ...], spec: listener_class.ListenerClassSpec
) -> tuple[ObjectRef, ...]:
    """Children for the other route kind, with their certificate; they stay until the new route works."""
    kinds = {child.ref.kind for child in desired} & _ROUTES
    others = {child.ref for child in view.children(key)} - {child.ref for child in desired}
    if not kinds or all(ref.kind in kinds or ref.kind not in _ROUTES for ref in others):
        return ()
    if exposed_state(view, spec, key.name).status == "True":
        return ()
    return tuple(sorted(ref for ref in others if ref.kind not in kinds))


def _children(view: View, hostname: str, spec: listener_class.ListenerClassSpec) -> list[DesiredChild]:
    is_wanted = hostname == spec.hostname or view.has_listeners_at(hostname)
    if not is_wanted:
        return []
    tls = tls_of(spec, hostname)
    desired = [_route(view, part, spec, tls.secret_name) for part in _parts(view, hostname, spec)]
    if tls.issuer is not None and view.features.cert_manager:
        counts_for = _namespace_of(view, hostname, spec)
        certificate = children.build_certificate(
            hostname, tls.secret_name, tls.issuer, view.settings, counts_for=counts_for
        )
        desired.append(certificate)
    return desired


def _namespace_of(view: View, hostname: str, spec: listener_class.ListenerClassSpec) -> str:
    """The namespace whose hostname limit a hostname counts against.

    ``""`` if the class has no such limit, and for a class hostname.
    """
    if hostname == spec.hostname or spec.maximums.hostnames_per_namespace is None:
        return ""
    holding = (document.namespace for document in view.listeners_at(hostname) if hostname in document.own_hostnames)
    return min(holding, default="")


def _parts(view: View, hostname: str, spec: listener_class.ListenerClassSpec) -> list[RoutePart]:
    if spec.exposure.type == "None" or not children.is_host_routable(hostname):
        return []
    if spec.exposure.scope == "Hostname":
        return [RoutePart(children.object_name(hostname), hostname, prefix="/")]
    published = view.listeners_at(hostname)
    paths = [address.path for document in published for address in document.addresses if address.host == hostname]
    if hostname == spec.hostname:  # also before its first listener, so that a listener changes no route
        paths.append(documents.TOKEN_PREFIX)
    return children.split_by_path(hostname, paths)


def _route(view: View, part: RoutePart, spec: listener_class.ListenerClassSpec, secret_name: str) -> DesiredChild:
    match spec.exposure:
        case listener_class.Exposure(type="HTTPRoute", http_route=listener_class.HttpRoute(parent_ref=parent)):
            return children.build_http_route(part, parent, view.settings)
        case _:
            return children.build_ingress(part, spec.exposure, secret_name, view.settings, view.features)
