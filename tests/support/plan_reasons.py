"""The table of test_reasons.py: each cause with the condition and the reason that it gives."""

import datetime
from collections.abc import Callable
from typing import Any

import msgspec

from support import plan_samples, planning
from support.planning import Cluster
from usher_gateway import documents, model
from usher_gateway.resources.removal_limit import HaltedRemovals, Removal
from usher_operator.state.values import (
    AppliedDocument,
    ConditionStatus,
    DegradedRoute,
    DestinationReport,
    HeldRoute,
    Key,
    Kind,
    ListenerReport,
    Reachability,
    WriteFailure,
)

BASIC = {"type": "Basic", "basic": {"secretRef": {"name": "purple"}}}
_HEADER = {"type": "Header", "header": {"name": "X-Key", "secretRef": {"name": "purple", "key": "none"}}}

_BAD_TLS = {
    "url": "https://crm.example/",
    "tls": {"authoritySecretRef": {"name": "purple", "key": "username"}},
}


class Case(msgspec.Struct, frozen=True):
    type: str
    status: ConditionStatus
    reason: str
    happens: Callable[[Cluster], object]
    kind: Kind = "Listener"
    path: str = plan_samples.LISTENER


def nothing(_: Cluster) -> None:
    """Change nothing."""


def edit(**spec: Any) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.edit("Listener", plan_samples.LISTENER, **spec)


def edit_class(**spec: Any) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.edit("ListenerClass", "public", **spec)


def address(hostname: str, path: str | None = None) -> dict[str, Any]:
    place = {"name": "a", "hostname": hostname}
    return {"addresses": [place | ({"path": path} if path else {})], "authentication": {"type": "None"}}


def class_is_gone(cluster: Cluster) -> None:
    cluster.delete("ListenerClass", "public")


def nobody_serves_the_class(cluster: Cluster) -> None:
    """Create the class again, for an operator that does not run."""
    class_is_gone(cluster)
    cluster.add(plan_samples.listener_class("public", "example.com/other", "hooks.example.com"))
    cluster.settle()
    cluster.now += 60 * model.MICROSECONDS


def gone(kind: Kind, name: str) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.delete(kind, f"default/{name}")


def claimed_by_an_older_one(*, same_tenant: bool) -> Callable[[Cluster], None]:
    def happens(cluster: Cluster) -> None:
        cluster.add(plan_samples.tenant("rival"))
        tenant = "acme" if same_tenant else "rival"
        spec = "addresses: [{name: a, hostname: www.example.org, path: /x}]\n  authentication: {type: None}"
        cluster.add(plan_samples.listener("first", spec, tenant=tenant, created="01"))
        cluster.settle()
        cluster.edit("Listener", plan_samples.LISTENER, **address("www.example.org", "/x"))

    return happens


def limited(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", maximums={"listenersPerNamespace": 1})
    cluster.add(plan_samples.listener("second"))


def too_large(cluster: Cluster) -> None:
    data = {"big": "eHh4" * 20_000}
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "big", "labels": _WATCH}, "data": data})
    headers = [
        {"name": f"X-{number}", "valueFrom": {"secretKeyRef": {"name": "big", "key": "big"}}} for number in range(20)
    ]
    cluster.edit("Destination", plan_samples.DESTINATION, http={"url": "https://crm.example/", "headers": headers})


_WATCH = {"usher.dev/watch": "true"}


def unreadable(cluster: Cluster) -> None:
    cluster.make_unreadable("Listener", plan_samples.LISTENER)


def key_changed(cluster: Cluster) -> None:
    cluster.cache.keys = model.derive_keys(bytes(32))


def secret_unlabelled(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, authentication=BASIC)
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "purple"}, "data": {}})


def secret_gone(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, authentication=BASIC)
    cluster.delete("Secret", "default/purple")


def exposed(exposure: dict[str, Any], tls: dict[str, Any], **says: Any) -> Callable[[Cluster], None]:
    """Change the exposure, and set the statuses that controllers write on its children."""

    def happens(cluster: Cluster) -> None:
        cluster.edit("ListenerClass", "public", exposure=exposure, tls=tls)
        cluster.settle()
        for kind, status in says.items():
            cluster.controllers_say(kind, status)

    return happens


def without(
    tls: dict[str, Any], exposure: dict[str, Any] = plan_samples.INGRESS, **features: Any
) -> Callable[[Cluster], None]:
    def happens(cluster: Cluster) -> None:
        cluster.set_features(msgspec.structs.replace(plan_samples.FEATURES, **features))
        exposed(exposure, tls)(cluster)

    return happens


def parent(*conditions: tuple[str, str, str]) -> dict[str, Any]:
    reported = [
        {"type": condition_type, "status": status, "reason": reason} for condition_type, status, reason in conditions
    ]
    return {"parents": [{"parentRef": {"namespace": "infra", "name": "edge"}, "conditions": reported}]}


TENANT = "default/acme"
ADDRESS = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
EXTERNAL = {"mode": "External"}
PROVIDED = {"mode": "Provided", "secretName": "wildcard"}
ISSUED = {"conditions": [{"type": "Ready", "status": "True"}]}
ISSUING = {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Issuing", "status": "True"}]}
FAILED = {
    "conditions": [{"type": "Ready", "status": "False"}, {"type": "Issuing", "status": "False", "reason": "Failed"}]
}


def provided(*, is_there: bool) -> Callable[[Cluster], None]:
    def happens(cluster: Cluster) -> None:
        if is_there:
            metadata = {"namespace": "usher-system", "name": "wildcard"}
            cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
        exposed(plan_samples.INGRESS, PROVIDED)(cluster)

    return happens


def late(*names: str, **about: Any) -> Callable[[Cluster], None]:
    """Make an edit that no gateway, or only ``names``, has applied for over 30 s."""

    def happens(cluster: Cluster) -> None:
        cluster.edit("Listener", plan_samples.LISTENER, silence={"afterSeconds": 60})
        old = cluster.gateway("gateway-old", **about)
        cluster.settle()
        cluster.set_gateways(old, *(cluster.gateway(name) for name in names))
        cluster.settle()
        cluster.now = planning.NOW + 31 * model.MICROSECONDS

    return happens


def rejected(cluster: Cluster) -> None:
    key = Key("Listener", "default", "lobby")
    late(applied={key: AppliedDocument("old", "its schema version is too new")})(cluster)


def no_gateway(cluster: Cluster) -> None:
    cluster.set_gateways()
    cluster.settle()
    cluster.now = planning.NOW + 31 * model.MICROSECONDS


def reports(**about: Any) -> Callable[[Cluster], None]:
    report = ListenerReport(**about)
    return lambda cluster: cluster.gateways_run_it(listeners={plan_samples.LISTENER: report})


def reachable(problem: str) -> Callable[[Cluster], None]:
    def happens(cluster: Cluster) -> None:
        cluster.edit("Listener", plan_samples.LISTENER, **address("www.example.org"))
        cluster.settle()
        cluster.queue |= cluster.cache.set_reachability("www.example.org", Reachability(problem))

    return happens


def class_is_unreachable(cluster: Cluster) -> None:
    cluster.queue |= cluster.cache.set_reachability(
        "hooks.example.com", Reachability("`hooks.example.com` answers 502")
    )


def company_is_shared(cluster: Cluster) -> None:
    cluster.edit("Tenant", TENANT, companyID="77")
    cluster.add(plan_samples.tenant("globex"))
    cluster.edit("Tenant", "default/globex", companyID="77")


def hostnames_are_shared(cluster: Cluster) -> None:
    cluster.add(plan_samples.listener_class("other", "example.com/other", "hooks.example.com"))


def visited(cluster: Cluster) -> None:
    """Let the gateways report a visit at every present address of the listener."""
    published = cluster.cache.published(Key("Listener", *plan_samples.LISTENER.split("/")))
    assert published is not None
    assert isinstance(published.document, documents.ListenerDocument)
    reports(verified_addresses=tuple(address.id for address in published.document.live_addresses))(cluster)


def class_moves(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", hostname="new.example.com")
    cluster.settle()


def retired_address_is_used(cluster: Cluster) -> None:
    class_moves(cluster)
    reports(retired_arrivals={"any": datetime.datetime.now(datetime.UTC)})(cluster)


def destination_reports(**about: Any) -> Callable[[Cluster], None]:
    report = DestinationReport(**about)
    return lambda cluster: cluster.gateways_run_it(destinations={plan_samples.DESTINATION: report})


def and_run(happens: Callable[[Cluster], object]) -> Callable[[Cluster], None]:
    """Apply a change, and let the gateways apply it too."""

    def both(cluster: Cluster) -> None:
        happens(cluster)
        cluster.settle()
        cluster.gateways_run_it()
        cluster.settle()

    return both


def edit_tenant(**spec: Any) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.edit("Tenant", TENANT, **spec)


def edit_destination(**spec: Any) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.edit("Destination", plan_samples.DESTINATION, **spec)


def halted(cluster: Cluster) -> None:
    cluster.set_halted(HaltedRemovals.of([Removal("Listener", "a", "b")]))


def not_admitted(cluster: Cluster) -> None:
    cluster.set_access("default", "Denied")


def url_secret_name_taken(cluster: Cluster) -> None:
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "lobby-url"}, "data": {"url": "cHc="}})


def not_admitted_and_a_secret_referenced(cluster: Cluster) -> None:
    token = {"type": "Bearer", "bearer": {"secretRef": {"name": "purple", "key": "token"}}}
    cluster.edit("Destination", plan_samples.DESTINATION, http={"url": "https://crm.example/", "authentication": token})
    not_admitted(cluster)


def only_these_namespaces(cluster: Cluster) -> None:
    selector = {"matchLabels": {"a": "b"}}
    cluster.edit("ListenerClass", "public", namespaces={"from": "Selector", "selector": selector})


def routed(**what: Any) -> list[dict[str, Any]]:
    return [{"name": "crm", "destinationRef": {"name": "crm"}, **what}]


def with_ingress(**says: Any) -> Callable[[Cluster], None]:
    return exposed(plan_samples.INGRESS, EXTERNAL, **says)


def with_certificate(*said: dict[str, Any]) -> Callable[[Cluster], None]:
    says = {"Certificate": said[0]} if said else {}
    return exposed(plan_samples.INGRESS, plan_samples.PER_HOSTNAME, **says)


def with_route(*conditions: tuple[str, str, str]) -> Callable[[Cluster], None]:
    says = {"HTTPRoute": parent(*conditions)} if conditions else {}
    return exposed(plan_samples.HTTP_ROUTE, EXTERNAL, **says)


LOBBY = Key("Listener", "default", "lobby")
HOSTNAME = Key("Hostname", "", "hooks.example.com")


def write_fails(key: Key, cause: Any = None) -> Callable[[Cluster], None]:
    def happens(cluster: Cluster) -> None:
        cluster.fail_writes(key, WriteFailure("apply /a/b: 403 Forbidden", cause))

    return happens


def write_fails_for_long(cluster: Cluster) -> None:
    write_fails(LOBBY)(cluster)
    cluster.settle()
    cluster.now = planning.NOW + 31 * model.MICROSECONDS


def deleted(kind: Kind, path: str) -> Callable[[Cluster], object]:
    """Let somebody delete an object that a foreign finalizer keeps."""
    return lambda cluster: cluster.edit_metadata(
        kind, path, deletionTimestamp="2026-01-02T00:00:00Z", finalizers=["example.com/hold"]
    )


def listener_fails(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, **address("www.elsewhere.example"))
    cluster.settle()


_LISTENER = [
    ("Accepted", "True", "Accepted", nothing),
    ("Accepted", "False", "ClassNotFound", class_is_gone),
    ("Accepted", "False", "ClassNotPermitted", only_these_namespaces),
    ("Accepted", "False", "HostnameConflict", claimed_by_an_older_one(same_tenant=False)),
    ("Accepted", "False", "PathConflict", claimed_by_an_older_one(same_tenant=True)),
    ("Accepted", "False", "HostnameReserved", edit(**address("hooks.example.com"))),
    ("Accepted", "False", "HostnameNotAllowed", edit(**address("www.elsewhere.example"))),
    ("Accepted", "False", "UnsupportedValue", edit(fields={"occurredAtZone": "Mars/Olympus"})),
    ("Accepted", "False", "UnsupportedValue", unreadable),
    ("Accepted", "False", "ExpressionInvalid", edit(routes=routed(when="visit.("))),
    ("Accepted", "False", "InstallKeyChanged", key_changed),
    ("Accepted", "Unknown", "Pending", lambda cluster: setattr(cluster.cache, "keys", None)),
    ("Accepted", "False", "NamespaceNotPermitted", not_admitted),
    ("Accepted", "False", "SecretNameTaken", url_secret_name_taken),
    ("Accepted", "False", "Deleted", deleted("Listener", plan_samples.LISTENER)),
    ("ResolvedRefs", "True", "ResolvedRefs", nothing),
    ("ResolvedRefs", "False", "TenantNotFound", gone("Tenant", "acme")),
    ("ResolvedRefs", "False", "DestinationNotFound", gone("Destination", "crm")),
    ("ResolvedRefs", "False", "SecretNotFound", secret_gone),
    ("ResolvedRefs", "False", "SecretKeyNotFound", edit(authentication=_HEADER)),
    ("ResolvedRefs", "False", "SecretNotLabelled", secret_unlabelled),
    ("CertificateReady", "True", "External", nothing),
    ("CertificateReady", "True", "Provided", provided(is_there=True)),
    ("CertificateReady", "False", "SecretNotFound", provided(is_there=False)),
    ("CertificateReady", "True", "Issued", with_certificate(ISSUED)),
    ("CertificateReady", "Unknown", "Pending", with_certificate(ISSUING)),
    ("CertificateReady", "False", "Failed", with_certificate(FAILED)),
    ("CertificateReady", "Unknown", "Pending", with_certificate()),
    ("CertificateReady", "False", "CertManagerMissing", without(plan_samples.PER_HOSTNAME, cert_manager=False)),
    ("CertificateReady", "False", "IssuerNotFound", without(plan_samples.PER_HOSTNAME, issuers=frozenset())),
    ("CertificateReady", "False", "IssuerNotFound", exposed(plan_samples.INGRESS, {"mode": "Class"})),
    ("Exposed", "True", "NotExposed", nothing),
    ("Exposed", "Unknown", "Pending", edit_class(exposure=plan_samples.INGRESS)),
    ("Exposed", "False", "AddressNotAssigned", with_ingress()),
    ("Exposed", "True", "Exposed", with_ingress(Ingress=ADDRESS)),
    ("Exposed", "False", "IngressClassNotFound", without(EXTERNAL, ingress_classes={})),
    ("Exposed", "False", "IngressClassNotFound", without(EXTERNAL, {"type": "Ingress", "ingress": {}})),
    ("Exposed", "False", "GatewayAPIMissing", without(EXTERNAL, plan_samples.HTTP_ROUTE, gateway_api=False)),
    ("Exposed", "Unknown", "Pending", with_route()),
    ("Exposed", "True", "Exposed", with_route(("Accepted", "True", "Accepted"))),
    ("Exposed", "False", "NotAllowedByListeners", with_route(("Accepted", "False", "NotAllowedByListeners"))),
    ("Exposed", "False", "NoMatchingParent", with_route(("Accepted", "False", "NoMatchingListenerHostname"))),
    (
        "Exposed",
        "False",
        "NoMatchingParent",
        with_route(("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")),
    ),
    ("Exposed", "False", "WriteForbidden", write_fails(HOSTNAME, "Forbidden")),
    ("Exposed", "False", "ObjectNameTaken", write_fails(HOSTNAME, "NameTaken")),
    ("Exposed", "False", "WriteConflict", write_fails(HOSTNAME, "Contested")),
    ("Exposed", "Unknown", "Pending", write_fails(HOSTNAME)),
    ("Programmed", "True", "Programmed", nothing),
    ("Programmed", "Unknown", "Pending", edit(silence={"afterSeconds": 60})),
    ("Programmed", "False", "GatewayRejected", rejected),
    ("Programmed", "False", "GatewayUnavailable", late()),
    ("Programmed", "False", "GatewayUnavailable", no_gateway),
    ("Programmed", "False", "PartiallyProgrammed", late("gateway-new")),
    ("Programmed", "False", "WriteForbidden", write_fails(LOBBY, "Forbidden")),
    ("Programmed", "False", "WriteConflict", write_fails(LOBBY, "Contested")),
    ("Programmed", "False", "WriteFailed", write_fails_for_long),
    ("Ready", "True", "Ready", nothing),
    ("Ready", "True", "Suspended", and_run(edit(state="Suspended"))),
    ("Ready", "True", "Suspended", and_run(edit_tenant(state="Suspended"))),
    ("Ready", "False", "HostnameNotAllowed", edit(**address("www.elsewhere.example"))),
    ("Reachable", "True", "Reachable", reachable("")),
    ("Reachable", "False", "Unreachable", reachable("DNS has no address for `www.example.org`")),
    ("Verified", "False", "NoVisitYet", nothing),
    ("Verified", "True", "Verified", visited),
    ("Receiving", "False", "NoVisitYet", nothing),
    ("Receiving", "True", "Receiving", reports(receiving="Receiving")),
    ("Receiving", "False", "Silent", reports(receiving="Silent")),
    ("Receiving", "False", "Refusing", reports(refusing=True, refused_reason="Unauthenticated")),
    ("Quarantining", "True", "Quarantining", reports(quarantining=True)),
    (
        "RoutesDegraded",
        "True",
        "ExpressionTooSlow",
        reports(degraded_routes=(DegradedRoute("crm", "ExpressionTooSlow"),)),
    ),
    ("RoutesDegraded", "True", "CompanyMismatch", reports(company_mismatch=True)),
    ("DeliveriesHeld", "True", "DeliveriesHeld", reports(held_deliveries=(HeldRoute("crm", "SecretNotFound"),))),
    ("TimesUntrusted", "True", "TimesUntrusted", reports(times_untrusted=True)),
    ("AddressRetired", "True", "AddressRetired", class_moves),
    ("AddressRetired", "True", "RetiredAddressUsed", retired_address_is_used),
]

_DESTINATION = [
    ("Accepted", "False", "ConfigTooLarge", too_large),
    ("Accepted", "False", "ExpressionInvalid", edit_destination(transform="visit.(")),
    ("Accepted", "False", "InstallKeyChanged", key_changed),
    ("Accepted", "False", "NamespaceNotPermitted", not_admitted_and_a_secret_referenced),
    ("Accepted", "False", "Deleted", deleted("Destination", plan_samples.DESTINATION)),
    ("Ready", "True", "Suspended", and_run(edit_destination(state="Paused"))),
    ("ResolvedRefs", "False", "CertificateInvalid", edit_destination(http=_BAD_TLS)),
    ("ResolvedRefs", "False", "TenantNotFound", edit_destination(tenantRef={"name": "nobody"})),
    ("Healthy", "True", "Healthy", destination_reports(health="Healthy")),
    ("Healthy", "Unknown", "NotTried", destination_reports(health="NotTried")),
    ("Healthy", "False", "Failing", destination_reports(health="Failing", error="ServerError", status=503)),
    ("Healthy", "False", "CircuitOpen", destination_reports(health="CircuitOpen", error="Timeout")),
    ("Healthy", "False", "AddressForbidden", destination_reports(health="AddressForbidden", error="AddressForbidden")),
    ("Healthy", "False", "SecretNotFound", destination_reports(health="SecretNotFound")),
    ("Healthy", "False", "TokenFailed", destination_reports(health="TokenFailed", error="TokenRefused")),
    ("Healthy", "False", "Gone", destination_reports(health="Gone", error="Gone", status=410)),
]
_TENANT = [
    ("Accepted", "False", "UnsupportedValue", edit_tenant(timeZone="Mars/Olympus")),
    ("Accepted", "False", "InstallKeyChanged", key_changed),
    ("Ready", "True", "Ready", nothing),
    ("Ready", "False", "Deleted", deleted("Tenant", TENANT)),
    ("Ready", "True", "Suspended", and_run(edit_tenant(state="Suspended"))),
    ("Ready", "False", "ListenersNotReady", listener_fails),
    ("Ready", "Unknown", "Pending", lambda cluster: cluster.add(plan_samples.listener("new"))),
    ("CompanyShared", "True", "CompanyShared", company_is_shared),
]
_CLASS = [
    ("Accepted", "False", "NotServed", nobody_serves_the_class),
    ("Accepted", "False", "InstallKeyChanged", key_changed),
    ("Accepted", "False", "RemovalsHalted", halted),
    ("Ready", "False", "RemovalsHalted", halted),
    ("Ready", "True", "Ready", nothing),
    ("HostnamesShared", "True", "HostnamesShared", hostnames_are_shared),
    ("Reachable", "False", "Unreachable", class_is_unreachable),
]


def _cases(kind: Kind, path: str, rows: list[Any]) -> list[Case]:
    return [
        Case(condition_type, status, reason, happens, kind, path) for condition_type, status, reason, happens in rows
    ]


CASES = [
    *_cases("Listener", plan_samples.LISTENER, _LISTENER),
    Case("Accepted", "False", "LimitExceeded", limited, path="default/second"),
    *_cases("Destination", plan_samples.DESTINATION, _DESTINATION),
    *_cases("Tenant", TENANT, _TENANT),
    *_cases("ListenerClass", "public", _CLASS),
]
