"""How a hostname faces the outside: which class decides, which certificate it has, and how far that is. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from usher_gateway import documents, resources
from usher_gateway.resources import condition, listener_class, single
from usher_operator import compiling, conditions
from usher_operator.children import certificate, routing
from usher_operator.view import CachedResource, ChildState, ConditionStatus, Key, View


class State(msgspec.Struct, frozen=True):
    """Whether something holds, for one hostname."""

    status: ConditionStatus
    reason: str
    message: str = ""
    unknown_secret: str = ""
    """See Plan.unknown_secrets."""


class Tls(msgspec.Struct, frozen=True):
    """Where the certificate of a hostname comes from."""

    secret_name: str = ""
    """``""``: something else terminates TLS."""
    issuer: listener_class.IssuerRef | None = None
    """cert-manager makes it; None: it is provided."""
    problem: State | None = None
    """Why there can be none."""


def worst(states: Iterable[State]) -> State | None:
    """The first that does not hold, else the first that is not known, else the first; None of none."""
    ranked = sorted(states, key=lambda state: ("False", "Unknown", "True").index(state.status))
    return ranked[0] if ranked else None


def class_of(view: View, hostname: str) -> CachedResource[resources.ListenerClass] | None:
    """The class that decides how a hostname is exposed; None where none of ours does.

    Its own class, or that of the oldest listener that has it.
    """
    own = [one for one in view.classes.values() if one.resource.spec.hostname == hostname]
    if own:
        first = min(own, key=lambda one: (one.created, one.resource.metadata.name))
        return first if compiling.is_ours(view, first) else None
    found = [view.listener(document.key) for document in view.listeners_at(hostname)]
    for one in sorted((one for one in found if one is not None), key=compiling.age):
        of_listener = compiling.our_class(view, single.class_name(one.resource))
        if of_listener is not None:
            return of_listener
    return None


def exposure_type(spec: listener_class.ListenerClassSpec) -> str:
    """``Ingress``, ``HTTPRoute`` or ``None``."""
    return spec.exposure.type if spec.exposure else "None"


def is_by_path(spec: listener_class.ListenerClassSpec) -> bool:
    """Whether only exact paths are routed."""
    return spec.exposure is not None and spec.exposure.scope == "Path"


def tls_of(spec: listener_class.ListenerClassSpec, hostname: str) -> Tls:
    """Where the certificate of a hostname comes from."""
    tls = spec.tls
    if tls is None or tls.mode == "External":
        return Tls()
    made = f"{routing.object_name(hostname)}-tls"
    if tls.mode == "PerHostname":
        return Tls(made, tls.issuer_ref)
    if tls.issuer_ref is None or tls.mode == "Provided":
        return Tls(tls.secret_name) if tls.secret_name else Tls(problem=_no_source())
    if hostname == spec.hostname:
        return Tls(tls.secret_name or made, tls.issuer_ref)
    return Tls(tls.secret_name or f"{routing.object_name(spec.hostname)}-tls", problem=_not_covered(hostname))


def _no_source() -> State:
    message = "the class's `spec.tls` must have `issuerRef` or `secretName`"
    return State("False", conditions.Reason.IssuerNotFound, message)


def _not_covered(hostname: str) -> State:
    message = (
        f"the class's certificate is for its own hostname only, not for `{hostname}`; the class must have "
        "`tls.mode: PerHostname`, or the listener no such address"
    )
    return State("False", conditions.Reason.Failed, message)


def certificate_state(view: View, spec: listener_class.ListenerClassSpec, hostname: str) -> State:
    """CertificateReady of a hostname."""
    tls = tls_of(spec, hostname)
    if tls.problem is not None:
        return tls.problem
    if not tls.secret_name:
        return State("True", conditions.Reason.External)
    if tls.issuer is None:
        return _provided(view, tls.secret_name)
    if not view.features.cert_manager:
        message = "cert-manager must be installed, or the class must have `tls.mode: Provided` or `External`"
        return State("False", conditions.Reason.CertManagerMissing, message)
    missing = _missing_issuer(view, tls.issuer)
    return missing or _issued(view, hostname)


def _provided(view: View, name: str) -> State:
    namespace = view.install.data_plane_namespace
    match view.secret_state(f"{namespace}/{name}"):
        case None:
            message = f"looking for Secret `{name}` in namespace `{namespace}`"
            return State("Unknown", conditions.PENDING, message, f"{namespace}/{name}")
        case "NotFound":
            message = f"Secret `{name}` with the certificate must exist in namespace `{namespace}`"
            return State("False", conditions.Reason.SecretNotFound, message)
        case _:
            return State("True", conditions.Reason.Provided)


def _missing_issuer(view: View, issuer: listener_class.IssuerRef) -> State | None:
    ref = certificate.issuer_reference(issuer)
    known = view.features.issuers
    if known is None or ref["group"] != certificate.GROUP or (ref["kind"], ref["name"]) in known:
        return None
    where = f" in namespace `{view.install.data_plane_namespace}`" if ref["kind"] == "Issuer" else ""
    message = f"{ref['kind']} `{ref['name']}` must exist{where}"
    return State("False", conditions.Reason.IssuerNotFound, message)


def _issued(view: View, hostname: str) -> State:
    found = [child for child in _children(view, hostname, "Certificate") if child.status]
    told = _conditions(found[0].status) if found else {}
    ready, issuing = told.get("Ready", {}), told.get("Issuing", {})
    if ready.get("status") == "True":
        return State("True", conditions.Reason.Issued)
    if issuing.get("status") == "False" and issuing.get("reason") == "Failed":
        return State("False", conditions.Reason.Failed, f"cert-manager: {issuing.get('message', '')}")
    if ready:
        message = f"cert-manager is issuing the certificate of `{hostname}`: {ready.get('message', '')}"
        return State("False", conditions.Reason.Pending, message)
    return State("Unknown", conditions.PENDING, f"cert-manager has not said anything of `{hostname}` yet")


def exposed_state(view: View, spec: listener_class.ListenerClassSpec, hostname: str) -> State:
    """Exposed of a hostname."""
    match spec.exposure:
        case listener_class.Exposure(type="Ingress", ingress=given):
            return _missing_ingress_class(view, given) or _has_address(view, hostname)
        case listener_class.Exposure(type="HTTPRoute", http_route=listener_class.HttpRoute(parent_ref=parent)):
            return _attached(view, hostname, parent)
        case _:
            return State("True", conditions.Reason.NotExposed)


def _missing_ingress_class(view: View, given: listener_class.Ingress | None) -> State | None:
    name = given.class_name if given else None
    if name is None and view.features.default_ingress_class:
        return None
    if name is not None and name in view.features.ingress_classes:
        return None
    message = "there is no default IngressClass: the class must have `exposure.ingress.className`"
    if name is not None:
        message = f"IngressClass `{name}` must exist"
    return State("False", conditions.Reason.IngressClassNotFound, message)


def _has_address(view: View, hostname: str) -> State:
    found = _children(view, hostname, "Ingress")
    if not found:
        return State("Unknown", conditions.PENDING, f"`{hostname}` has no Ingress yet")
    for child in found:
        if not child.status.get("loadBalancer", {}).get("ingress"):
            message = (
                f"the ingress controller must give Ingress `{child.ref.name}` an address; it must run, serve this "
                "class, and publish its address"
            )
            return State("False", conditions.Reason.AddressNotAssigned, message)
    return State("True", conditions.Reason.Exposed)


def _attached(view: View, hostname: str, parent: listener_class.ParentRef) -> State:
    if not view.features.gateway_api:
        message = "the Gateway API (HTTPRoute) must be installed, or the class must have another `exposure.type`"
        return State("False", conditions.Reason.GatewayAPIMissing, message)
    found = _children(view, hostname, "HTTPRoute")
    states = [_accepted(child, parent, view.install.data_plane_namespace) for child in found]
    return worst(states) or State("Unknown", conditions.PENDING, f"`{hostname}` has no HTTPRoute yet")


def _accepted(child: ChildState, parent: listener_class.ParentRef, namespace: str) -> State:
    gateway = f"Gateway `{parent.namespace}/{parent.name}`"
    said = [
        _conditions(entry)
        for entry in child.status.get("parents") or ()
        if _is_parent(entry.get("parentRef", {}), parent, namespace)
    ]
    if any(told.get("Accepted", {}).get("status") == "True" and not _false(told, "ResolvedRefs") for told in said):
        return State("True", conditions.Reason.Exposed)
    for told in said:
        refused = _false(told, "Accepted") or _false(told, "ResolvedRefs")
        if refused is not None:
            return _refused(refused, gateway)
    message = f"no controller has taken the HTTPRoute; {gateway} must exist, and its controller must run"
    return State("Unknown", conditions.PENDING, message)


def _refused(told: Mapping[str, Any], gateway: str) -> State:
    why = f"{told.get('reason', '')}: {told.get('message', '')}"
    if told.get("reason") == conditions.Reason.NotAllowedByListeners:
        message = f"{gateway} must allow routes from the data plane's namespace (`allowedRoutes`); {why}"
        return State("False", conditions.Reason.NotAllowedByListeners, message)
    message = f"{gateway} must have a listener that this hostname fits; {why}"
    return State("False", conditions.Reason.NoMatchingParent, message)


def _false(told: Mapping[str, Mapping[str, Any]], type_: str) -> Mapping[str, Any] | None:
    found = told.get(type_)
    return found if found is not None and found.get("status") == "False" else None


def _is_parent(ref: Mapping[str, Any], parent: listener_class.ParentRef, namespace: str) -> bool:
    wanted = (parent.namespace, parent.name, parent.section_name or "")
    return (ref.get("namespace", namespace), ref.get("name"), ref.get("sectionName", "")) == wanted


def _conditions(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(one.get("type")): one for one in status.get("conditions") or ()}


def _children(view: View, hostname: str, kind: str) -> list[ChildState]:
    found = view.children(Key("Hostname", "", hostname))
    return sorted((child for child in found if child.ref.kind == kind), key=lambda child: child.ref)


def unroutable(
    one: resources.Listener, document: documents.Listener, host: str, spec: listener_class.ListenerClassSpec
) -> list[condition.Finding]:
    """What is told of a hostname that the class cannot expose. The path itself is not: it may be a secret."""
    paths = [address.path for address in document.addresses if address.host == host]
    if exposure_type(spec) == "None":
        return []
    if not routing.is_host_routable(host):
        message = f"`{host}` must be a name: an IP address cannot be exposed"
    elif is_by_path(spec) and not all(map(routing.is_path_routable, paths)):
        message = f"a path at `{host}` must not have `//`, `/./`, `/../` or `%2F`, nor a `%` without two hex digits"
    else:
        return []
    reason = condition.Reason.UnsupportedValue
    return [condition.Finding("Listener", resources.key_of(one), "spec.addresses", reason, message)]
