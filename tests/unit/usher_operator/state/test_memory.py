"""The memory that a namespace may take: its resources, and the documents made from them."""

from typing import Any

import pytest

from support.cache_samples import ALLOWED, klass, listener, raw, secret
from support.planning import KEYS, Cluster
from usher_operator.plan import plan_and_note
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.memory import NamespaceMemory
from usher_operator.state.values import Key


def long_listener(name: str, namespace: str = "agency") -> dict[str, Any]:
    """A Listener that takes 34 kB, because one character of each transform needs two bytes."""
    route = {"destinationRef": {"name": "crm"}, "transform": f"'€{'x' * 3_950}'"}
    spec = listener(name)["spec"] | {"routes": [{"name": f"r{number}", **route} for number in range(4)]}
    return raw("Listener", name, spec, namespace=namespace)


@pytest.mark.parametrize("routes", [[{"when": f"visit.email in [{'1,' * 490}1]"}] * 8, [None, {"when": 1}], {}, None])
def test_filters_count_with_the_memory_that_gateways_need_for_them(routes: object) -> None:
    memory, key = NamespaceMemory(370_000), Key("Listener", "agency", "a")
    is_long = isinstance(routes, list) and len(routes) == 8
    assert memory.admit(key, {"routes": routes}) is not is_long
    assert memory.admit(key, {"routes": routes[:7]} if isinstance(routes, list) else routes)


def test_resource_for_which_its_namespace_has_no_memory_is_not_read() -> None:
    read_again: list[kinds.WatchedKind] = []
    cache = Cache(OperatorSettings(), read_again=read_again.append, memory=NamespaceMemory(110_000))
    for name in ("a", "b", "c", "d"):
        cache.put(kinds.LISTENER, long_listener(name))
    cache.put(kinds.LISTENER, long_listener("a", "other"))
    assert [key.path for key in cache.records if cache.unreadable(key) is not None] == ["agency/d"]
    cache.keys = KEYS
    cache.put(kinds.NAMESPACE, {"metadata": {"name": "agency", "uid": "of-agency", "resourceVersion": "1"}})
    status = plan_and_note(cache, Key("Listener", "agency", "d")).status
    assert status is not None
    assert status.conditions["Accepted"].reason == "ConfigTooLarge"
    assert read_again == []
    for name in ("b", "c"):
        cache.remove(kinds.LISTENER, "agency", name)
    assert read_again == [kinds.LISTENER], "once"
    cache.put(kinds.LISTENER, long_listener("d"))
    assert cache.listener("agency/d") is not None


LONG = "YWJj" * 10_000


def headers(name: str, count: int) -> dict[str, Any]:
    """A Destination that refers to one Secret value of 30 kB in several headers."""
    value = {"secretKeyRef": {"name": "token", "key": "token"}}
    fields = [{"name": f"X-{number}", "valueFrom": value} for number in range(count)]
    return raw("Destination", name, {"type": "HTTP", "http": {"url": "https://crm.example", "headers": fields}})


def reason(cluster: Cluster, name: str) -> str:
    return cluster.condition("Destination", f"agency/{name}", "Accepted").reason


@pytest.fixture
def three() -> Cluster:
    """Three Destinations of 360 kB each in a namespace that may have documents of 1 MB."""
    cluster = Cluster(memory=NamespaceMemory(1_000_000))
    cluster.set_gateways()
    for manifest in (klass(**ALLOWED), raw("Tenant", "acme", {}), secret(value=LONG)):
        cluster.put(manifest)
    for name in ("a", "b", "c"):
        cluster.put(headers(name, 12))
        cluster.settle()
    return cluster


def test_document_for_which_its_namespace_has_no_memory_is_not_published(three: Cluster) -> None:
    assert [reason(three, name) for name in ("a", "b", "c")] == ["Accepted", "Accepted", "ConfigTooLarge"]
    documents = {name: three.cache.published(Key("Destination", "agency", name)) for name in ("a", "b", "c")}
    assert [name for name, document in documents.items() if document is not None] == ["a", "b"]


def test_shorter_document_makes_room_for_another(three: Cluster) -> None:
    three.put(headers("b", 30))
    three.settle()
    assert reason(three, "b") == "ConfigTooLarge", "the last good one stays"
    three.put(headers("b", 2))
    three.settle()
    assert [reason(three, name) for name in ("a", "b", "c")] == ["Accepted"] * 3


def test_other_namespace_has_memory_of_its_own(three: Cluster) -> None:
    three.put(secret(value=LONG) | {"metadata": secret()["metadata"] | {"namespace": "other"}})
    three.put(headers("c", 12) | {"metadata": headers("c", 12)["metadata"] | {"namespace": "other", "uid": "uid-o"}})
    three.settle()
    assert three.condition("Destination", "other/c", "Accepted").reason == "Accepted"


def test_unchanged_document_in_a_full_namespace_concerns_no_other() -> None:
    memory, key = NamespaceMemory(1_000), Key("Listener", "agency", "a")
    assert memory.set_document(key, 960)
    assert not memory.set_document(key, 960)
    assert memory.set_document(key, 950)
