"""The chart on a real node: from `helm install` to visits over TLS and equal books."""

from collections.abc import Iterator
from typing import Any

import pytest

from local_cluster import routes
from support import releases, tls_endpoint, waiting, webhooks

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

ACME = {"tls": {"mode": "PerHostname", "issuerRef": {"name": "acme", "kind": "ClusterIssuer"}}}


@pytest.fixture
def bare(release: releases.Release) -> Iterator[webhooks.Webhook]:
    """A listener that is not created yet."""
    new_webhook = webhooks.Webhook(release)
    yield new_webhook
    new_webhook.remove()


def test_visits_over_tls_reach_the_receiver_and_the_books_are_equal(webhook: webhooks.Webhook) -> None:
    sent = webhook.start_visits(200).wait()
    counts = webhook.assert_books_equal(sent)
    assert counts["duplicates"] == 0


def test_visits_pass_a_gateway_of_the_gateway_api(bare: webhooks.Webhook) -> None:
    bare.site.make_namespace(bare.namespace)
    bare.site.apply(*gateway(bare))
    parent = {"namespace": bare.namespace, "name": "gateway"}
    bare.create({"exposure": {"type": "HTTPRoute", "httpRoute": {"parentRef": parent}}, "tls": {"mode": "External"}})
    bare.wait_ready()
    bare.assert_books_equal(bare.start_visits(50).wait())


def test_certificate_of_an_acme_server_is_served(bare: webhooks.Webhook) -> None:
    local = bare.site.local
    if local is None:
        pytest.skip("the ACME server of the local node issues the certificate")
    bare.site.apply(routes.acme_issuer(local.plane.layout))
    bare.create(webhooks.INGRESS | ACME)
    bare.wait_ready(240)
    root = bare.site.folder / "acme.crt"
    root.write_bytes(routes.acme_authority(local.plane.layout))
    bare.assert_books_equal(bare.start_visits(50, authority_file=root).wait())


def test_certificate_close_to_its_end_is_renewed_under_load(
    release: releases.Release, webhook: webhooks.Webhook
) -> None:
    authority = webhooks.authority(webhook.site)
    first = tls_endpoint.serial_number(webhook.hostname, authority)
    started = [pod["metadata"]["uid"] for pod in release.pods("gateway")]
    sender = webhook.start_visits(600, rate=30)
    certificates = webhook.site.get("certificates", f"--namespace={release.namespace}")
    (name,) = [
        certificate["metadata"]["name"]
        for certificate in certificates
        if webhook.hostname in certificate["spec"]["dnsNames"]
    ]
    # It lasts for 90 days, all of which but 20 s count as close to its end.
    release.kubectl("patch", "certificate", name, "--type=merge", '--patch={"spec": {"renewBefore": "2159h59m40s"}}')

    def another() -> bool:
        return tls_endpoint.serial_number(webhook.hostname, authority) != first

    waiting.poll(another, limit_seconds=150)
    sent = sender.wait()
    assert sent["retries"] == 0
    webhook.assert_books_equal(sent)
    assert [pod["metadata"]["uid"] for pod in release.pods("gateway")] == started


def test_class_says_what_keeps_purple_from_its_hostname(release: releases.Release, webhook: webhooks.Webhook) -> None:
    def problem() -> str:
        listener_class = release.site.get("listenerclass", webhook.namespace)
        conditions = {each["type"]: each for each in listener_class["status"]["conditions"]}
        return str(conditions.get("Reachable", {}).get("message", ""))

    waiting.poll(problem, lambda message: "is not trusted" in message, limit_seconds=150)
    release.kubectl("scale", release.gateway, "--replicas=0")
    try:
        waiting.poll(problem, lambda message: "no gateway is ready" in message, limit_seconds=150)
    finally:
        release.kubectl("scale", release.gateway, "--replicas=1")
    release.wait_ready()
    waiting.poll(problem, lambda message: "is not trusted" in message, limit_seconds=150)


def test_removed_hostname_is_no_longer_served(release: releases.Release, webhook: webhooks.Webhook) -> None:
    webhook.apply_class(webhooks.INGRESS | webhooks.ISSUED | {"retiredAddressDays": 0})
    shop = f"shop.{webhook.hostname}"
    path = "/hooks/purple-0123456789abcdefghij"
    webhook.apply_listener(addresses=[{"name": "shop", "hostname": shop, "path": path}])
    webhook.wait_url(f"https://{shop}{path}")
    webhook.start_visits(20, url=f"https://{shop}{path}").wait()

    webhook.apply_listener()
    webhook.wait_url(f"https://{webhook.hostname}/")
    authority = webhooks.authority(webhook.site)
    waiting.poll(lambda: not tls_endpoint.serves(shop, path, authority), limit_seconds=150)
    kinds = "ingresses,certificates"
    children: list[dict[str, Any]] = release.site.get(kinds, f"--namespace={release.namespace}")
    assert not [child for child in children if shop in str(child["spec"])]
    webhook.start_visits(20).wait()


def gateway(webhook: webhooks.Webhook) -> list[dict[str, Any]]:
    """Return a Gateway for the webhook's hostname, and its certificate."""
    secret = "gateway-tls"
    metadata = {"name": "gateway", "namespace": webhook.namespace}
    listener = {
        "name": "https",
        "hostname": webhook.hostname,
        "port": 443,
        "protocol": "HTTPS",
        "tls": {"mode": "Terminate", "certificateRefs": [{"name": secret}]},
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    return [
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": metadata,
            "spec": {
                "secretName": secret,
                "dnsNames": [webhook.hostname],
                "issuerRef": {"name": "authority", "kind": "ClusterIssuer"},
            },
        },
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": metadata,
            "spec": {"gatewayClassName": "traefik", "listeners": [listener]},
        },
    ]
