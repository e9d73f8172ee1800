"""Plans of hostnames: their routes and certificates, and which of them stay while a class is absent or changes."""

from typing import Any

import msgspec
import pytest

from support import plan_reasons, plan_samples
from support.planning import Cluster, addresses
from usher_gateway import model
from usher_operator.state import child_labels
from usher_operator.state.values import Key

HOSTNAME = Key("Hostname", "", "hooks.example.com")


def test_hostnames_of_a_namespace_are_limited(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", maximums={"hostnamesPerNamespace": 1})
    cluster.add(plan_samples.listener("second", "addresses: [{name: a, hostname: www.example.org}]", created="02"))
    cluster.settle()
    both = "addresses: [{name: a, hostname: other.example.org}, {name: b, hostname: www.example.org}]"
    cluster.add(plan_samples.listener("older", both, created="01"))
    cluster.settle()
    assert addresses(cluster, Key("Listener", "default", "second")) == ["www.example.org"]
    assert addresses(cluster, Key("Listener", "default", "older")) == ["www.example.org"]
    refused = cluster.condition("Listener", "default/older", "Accepted")
    assert (refused.status, refused.reason) == ("False", "LimitExceeded")
    assert "`other.example.org` is one hostname too many" in refused.message


def test_retired_hostname_counts_against_the_limit(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", maximums={"hostnamesPerNamespace": 1})
    cluster.add(plan_samples.listener("second", "addresses: [{name: a, hostname: www.example.org}]"))
    cluster.settle()
    cluster.add(plan_samples.listener("second", "addresses: [{name: a, hostname: other.example.org}]"))
    cluster.settle()
    assert addresses(cluster, Key("Listener", "default", "second")) == ["www.example.org"]
    refused = cluster.condition("Listener", "default/second", "Accepted")
    assert (refused.status, refused.reason) == ("False", "LimitExceeded")
    assert "the hostnames of retired addresses count until they end" in refused.message
    cluster.edit("ListenerClass", "public", retiredAddressDays=0)
    cluster.settle()
    assert addresses(cluster, Key("Listener", "default", "second")) == ["other.example.org"]


@pytest.mark.parametrize(
    ("hostname", "maximums", "counts_for"),
    [
        ("www.example.org", {"hostnamesPerNamespace": 1}, "default"),
        ("www.example.org", None, None),
        (HOSTNAME.name, {"hostnamesPerNamespace": 1}, None),
    ],
)
def test_certificate_says_for_which_namespace_its_hostname_counts(
    cluster: Cluster, hostname: str, maximums: dict[str, int] | None, counts_for: str | None
) -> None:
    cluster.edit("ListenerClass", "public", maximums=maximums, tls=plan_samples.PER_HOSTNAME)
    cluster.add(plan_samples.listener("second", "addresses: [{name: a, hostname: www.example.org}]", created="02"))
    cluster.settle()
    desired = cluster.plan(Key("Hostname", "", hostname)).children or ()
    (certificate,) = [child.manifest for child in desired if child.ref.kind == "Certificate"]
    assert certificate["metadata"]["annotations"].get(child_labels.COUNTS_FOR_ANNOTATION) == counts_for


def test_new_listener_on_the_class_hostname_changes_no_ingress(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_samples.PER_HOSTNAME)
    cluster.settle()
    original_plan = cluster.plan(HOSTNAME)
    cluster.add(plan_samples.listener("second"))
    cluster.settle()
    assert original_plan.children
    assert cluster.plan(HOSTNAME) == original_plan


def test_old_ingress_stays_while_the_gateway_api_is_missing(cluster: Cluster) -> None:
    plan_reasons.without(plan_reasons.EXTERNAL, plan_samples.HTTP_ROUTE, gateway_api=False)(cluster)
    assert cluster.plan(HOSTNAME).children is None


def ingress_class_of(cluster: Cluster) -> str:
    (ingress,) = [child.ref for child in cluster.cache.children(HOSTNAME) if child.ref.kind == "Ingress"]
    name: str = cluster.raw("Ingress", f"{ingress.namespace}/{ingress.name}")["spec"]["ingressClassName"]
    return name


def test_ingress_keeps_its_class_until_the_new_one_exists(cluster: Cluster) -> None:
    plan_reasons.exposed(plan_samples.INGRESS, plan_samples.PER_HOSTNAME, Ingress=plan_reasons.ADDRESS)(cluster)
    original_children = {child.ref for child in cluster.cache.children(HOSTNAME)}
    new_ingress = {"type": "Ingress", "ingress": {"className": "contour"}}
    cluster.edit("ListenerClass", "public", exposure=new_ingress, tls=plan_reasons.PROVIDED)
    cluster.settle()
    assert ingress_class_of(cluster) == "nginx"
    assert {child.ref for child in cluster.cache.children(HOSTNAME)} == original_children, "also the certificate stays"
    exposed = cluster.condition("ListenerClass", "public", "Exposed")
    assert exposed.reason == "IngressClassNotFound"
    assert exposed.message.endswith("; the present Ingress (class `nginx`) stays")
    cluster.put(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IngressClass",
            "metadata": {"name": "contour"},
            "spec": {"controller": "projectcontour.io/ingress-controller"},
        }
    )
    assert HOSTNAME in cluster.queue
    cluster.settle()
    assert ingress_class_of(cluster) == "contour"


@pytest.mark.parametrize("exposure", [plan_samples.INGRESS, {"type": "Ingress", "ingress": {}}])
def test_ingress_stays_when_its_class_is_deleted(cluster: Cluster, exposure: dict[str, Any]) -> None:
    with_default = msgspec.structs.replace(plan_samples.FEATURES, default_ingress_class="nginx")
    cluster.set_features(with_default)
    plan_reasons.exposed(exposure, plan_reasons.EXTERNAL, Ingress=plan_reasons.ADDRESS)(cluster)
    (original_ingress,) = cluster.cache.children(HOSTNAME)
    cluster.set_features(msgspec.structs.replace(with_default, ingress_classes={}, default_ingress_class=""))
    cluster.settle()
    exposed = cluster.condition("ListenerClass", "public", "Exposed")
    assert exposed.reason == "IngressClassNotFound"
    assert exposed.message.endswith("; the present Ingress stays")
    assert list(cluster.cache.children(HOSTNAME)) == [original_ingress]


@pytest.mark.parametrize(
    ("ingress", "classes", "message"),
    [
        (
            {"className": "contour"},
            {},
            (
                "there is no IngressClass `contour`, and the cluster has none: create one with your controller's name "
                "in `spec.controller` (some controllers, such as Contour, install none)"
            ),
        ),
        (
            {},
            {},
            (
                "there is no default IngressClass, and the cluster has none: create one with your controller's name in "
                "`spec.controller` (some controllers, such as Contour, install none), and name it in "
                "`exposure.ingress.className`"
            ),
        ),
        (
            {"className": "contour"},
            {"traefik": "traefik.io/ingress-controller", "nginx": "k8s.io/ingress-nginx"},
            (
                "there is no IngressClass `contour`; the cluster has `nginx`, `traefik`: `exposure.ingress.className` "
                "must name one that exists, or you must create `contour` with your controller's name in "
                "`spec.controller`"
            ),
        ),
        (
            {},
            {"nginx": "k8s.io/ingress-nginx"},
            (
                "there is no default IngressClass: the class must have `exposure.ingress.className`; the cluster has "
                "`nginx`"
            ),
        ),
    ],
)
def test_message_about_a_missing_ingress_class_says_what_to_do(
    cluster: Cluster, ingress: dict[str, str], classes: dict[str, str], message: str
) -> None:
    exposure = {"type": "Ingress", "ingress": ingress}
    plan_reasons.without(plan_reasons.EXTERNAL, exposure, ingress_classes=classes)(cluster)
    assert cluster.condition("ListenerClass", "public", "Exposed").message == message


def test_http_route_stays_while_the_ingress_class_is_missing(cluster: Cluster) -> None:
    plan_reasons.exposed(plan_samples.HTTP_ROUTE, plan_reasons.EXTERNAL)(cluster)
    plan_reasons.without(plan_reasons.EXTERNAL, ingress_classes={})(cluster)
    assert [child.ref.kind for child in cluster.cache.children(HOSTNAME)] == ["HTTPRoute"]


def test_new_hostname_gets_only_its_certificate_while_the_ingress_class_is_missing(cluster: Cluster) -> None:
    plan_reasons.without(plan_samples.PER_HOSTNAME, ingress_classes={})(cluster)
    assert [child.ref.kind for child in cluster.cache.children(HOSTNAME)] == ["Certificate"]


def test_hostname_without_listeners_loses_its_ingress_of_a_missing_class(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_reasons.EXTERNAL)
    cluster.edit("Listener", plan_samples.LISTENER, **plan_reasons.address("www.example.org"))
    cluster.settle()
    key = Key("Hostname", "", "www.example.org")
    cluster.set_features(msgspec.structs.replace(plan_samples.FEATURES, ingress_classes={}))
    cluster.settle()
    assert cluster.cache.children(key)
    cluster.delete("Listener", plan_samples.LISTENER)
    cluster.settle()
    cluster.set_gateways()
    cluster.settle()
    assert not cluster.cache.children(key)


def test_hostname_without_listeners_loses_its_children(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_reasons.EXTERNAL)
    cluster.edit("Listener", plan_samples.LISTENER, **plan_reasons.address("www.example.org"))
    cluster.settle()
    key = Key("Hostname", "", "www.example.org")
    assert cluster.plan(key).children
    cluster.delete("Listener", plan_samples.LISTENER)
    cluster.settle()
    assert cluster.plan(key).children is None, "a gateway may still serve it"
    cluster.set_gateways()
    assert cluster.plan(key).children == ()


def test_older_of_two_classes_decides_about_their_hostname(cluster: Cluster) -> None:
    text = plan_samples.OBJECTS.split("---", maxsplit=1)[0]
    text = text.replace("{name: public}", '{name: another, creationTimestamp: "2025-01-01T00:00:00Z"}')
    cluster.add(text.replace("{type: None}", "{type: Ingress, ingress: {className: nginx}}"))
    cluster.settle()
    (child,) = cluster.plan(HOSTNAME).children or ()
    assert child.ref.kind == "Ingress"


def test_hostname_of_another_install_changes_no_child(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_reasons.EXTERNAL)
    text = plan_samples.OBJECTS.split("---", maxsplit=1)[0].replace("usher.dev/usher", "example.com/other")
    cluster.add(text.replace("{name: public}", '{name: theirs, creationTimestamp: "2025-01-01T00:00:00Z"}'))
    assert cluster.plan(Key("ListenerClass", "", "theirs")).status is None
    assert cluster.plan(HOSTNAME).children is None


def test_class_without_a_status_is_not_served_after_a_minute(cluster: Cluster) -> None:
    cluster.add(plan_samples.listener_class("theirs", "example.com/other", "theirs.example.com"))
    theirs = Key("ListenerClass", "", "theirs")
    assert cluster.plan(theirs).status is None
    cluster.settle()
    cluster.now += 60 * model.MICROSECONDS
    cluster.settle()
    condition = cluster.condition("ListenerClass", "theirs", "Accepted")
    assert (condition.reason, "`example.com/other`" in condition.message) == ("NotServed", True)


def test_class_that_another_operator_serves_gets_no_status_of_ours(cluster: Cluster) -> None:
    cluster.add(plan_samples.listener_class("theirs", "example.com/other", "theirs.example.com"))
    other = cluster.restarted(controller_name="example.com/other")
    other.settle()
    ours = other.restarted()
    ours.now += 60 * model.MICROSECONDS
    ours.settle()
    assert ours.plan(Key("ListenerClass", "", "theirs")).status is None


def test_class_certificate_covers_no_other_hostname(cluster: Cluster) -> None:
    tls = {"mode": "Class", "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}}
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=tls)
    cluster.edit("Listener", plan_samples.LISTENER, **plan_reasons.address("www.example.org"))
    cluster.settle()
    condition = cluster.condition("Listener", plan_samples.LISTENER, "CertificateReady")
    assert (condition.reason, "PerHostname" in condition.message) == ("Failed", True)
    children = cluster.plan(Key("Hostname", "", "www.example.org")).children or ()
    assert [child.ref.kind for child in children] == ["Ingress"]
