"""The gauges that count what the operator's cache holds."""

from support.cache_samples import certificate, listener
from usher_operator.run.health import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Reachability


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
        conditions = [{"type": "Ready", "status": ready, "reason": "Ready", "message": ""}] if ready else []
        cache.put(kinds.LISTENER, {**listener(name, tenant=tenant), "status": {"conditions": conditions}})
    metrics.set_objects(cache)
    assert shown(metrics, "usher_operator_listeners_not_ready") == {("agency", "acme"): 2, ("agency", "inn"): 0}


def test_expiry_of_certificates_is_shown_by_hostname() -> None:
    cache, metrics = Cache(OperatorSettings()), OperatorMetrics()
    expiring = {"notAfter": "1970-01-02T00:00:00Z"}
    cache.put(kinds.CERTIFICATE, {**certificate("hooks.example.com"), "status": expiring})
    cache.put(kinds.CERTIFICATE, certificate("new.example.com"))
    unused = certificate("unused.example.com", since="1970-01-01T00:00:00Z")
    cache.put(kinds.CERTIFICATE, {**unused, "status": expiring})
    metrics.set_objects(cache)
    assert shown(metrics, "usher_operator_certificate_expiry_timestamp_seconds") == {("hooks.example.com",): 86400.0}


def test_hostname_is_shown_as_unreachable_while_it_is_checked() -> None:
    cache, metrics = Cache(OperatorSettings()), OperatorMetrics()
    cache.set_reachability("down.example.com", Reachability("DNS has no address"))
    cache.set_reachability("up.example.com", Reachability())
    cache.set_reachability("new.example.com", Reachability(is_checked=False))
    metrics.set_objects(cache)
    by_hostname = {("down.example.com",): 1, ("up.example.com",): 0}
    assert shown(metrics, "usher_operator_hostname_unreachable") == by_hostname
    cache.set_reachability("down.example.com", None)
    metrics.set_objects(cache)
    assert shown(metrics, "usher_operator_hostname_unreachable") == {("up.example.com",): 0}
