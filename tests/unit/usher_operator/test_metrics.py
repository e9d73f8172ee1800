"""The gauges that count what the operator's cache holds."""

from typing import Any

from usher_operator import children, kinds
from usher_operator.cache import Cache
from usher_operator.health import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.view import Key


def listener(name: str, tenant: str, ready: str | None) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "reason": "Ready", "message": ""}] if ready else []
    return {
        "apiVersion": "usher.dev/v1alpha1",
        "kind": "Listener",
        "metadata": {"name": name, "namespace": "agency", "uid": name, "resourceVersion": "1", "generation": 1},
        "spec": {"tenantRef": {"name": tenant}, "listenerClassName": "public", "routes": []},
        "status": {"conditions": conditions},
    }


def certificate(hostname: str, status: dict[str, str]) -> dict[str, Any]:
    settings = OperatorSettings()
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {
            "name": children.object_name(hostname),
            "namespace": settings.data_plane_namespace,
            "uid": hostname,
            "resourceVersion": "1",
            "labels": children.labels(settings.controller_name),
            "annotations": children.annotations(Key("Hostname", "", hostname)),
        },
        "status": status,
    }


def shown(metrics: OperatorMetrics, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_listeners_not_ready_are_counted_for_each_tenant() -> None:
    cache, metrics = Cache(OperatorSettings()), OperatorMetrics()
    for name, tenant, ready in (
        ("a", "acme", "True"),
        ("b", "acme", "False"),
        ("c", "acme", None),
        ("d", "inn", "True"),
    ):
        cache.put(kinds.LISTENER, listener(name, tenant, ready))
    metrics.set_objects(cache)
    assert shown(metrics, "usher_operator_listeners_not_ready") == {("agency", "acme"): 2, ("agency", "inn"): 0}


def test_expiry_of_certificates_is_shown_by_hostname() -> None:
    cache, metrics = Cache(OperatorSettings()), OperatorMetrics()
    cache.put(kinds.CERTIFICATE, certificate("hooks.example.com", {"notAfter": "1970-01-02T00:00:00Z"}))
    cache.put(kinds.CERTIFICATE, certificate("new.example.com", {}))
    unused = certificate("unused.example.com", {"notAfter": "1970-01-02T00:00:00Z"})
    unused["metadata"]["annotations"][children.UNUSED_SINCE_ANNOTATION] = "1970-01-01T00:00:00Z"
    cache.put(kinds.CERTIFICATE, unused)
    metrics.set_objects(cache)
    assert shown(metrics, "usher_operator_certificate_expiry_timestamp_seconds") == {("hooks.example.com",): 86400.0}
