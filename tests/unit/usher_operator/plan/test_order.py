"""Plans do not depend on the order of creation, and equal what files give."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from support import planning
from support.planning import Cluster
from usher_gateway import documents
from usher_gateway.resources import compiler
from usher_operator.state.values import CachedResource, Key, Plan

HOSTS = ["a.example.org", "b.example.org", "hooks.example.com", "elsewhere.example"]
CLASS: dict[str, Any] = {
    "apiVersion": "usher.dev/v1alpha1",
    "kind": "ListenerClass",
    "metadata": {"name": "public"},
    "spec": {
        "controllerName": "usher.dev/usher",
        "hostname": "hooks.example.com",
        "allowedHostnames": [{"hostname": "*.example.org"}],
        "exposure": {"type": "Ingress", "scope": "Path", "ingress": {"className": "nginx"}},
        "tls": {"mode": "External"},
        "maximums": {"listenersPerNamespace": 3, "destinationsPerNamespace": 1},
    },
}
NAMES = st.sampled_from(["one", "two", "three", "four", "five"])
NAMESPACES = st.sampled_from(["red", "blue"])
TENANTS = st.sampled_from(["acme", "beta"])


def resource(kind: str, spec: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    meta = st.fixed_dictionaries(
        {
            "name": TENANTS if kind == "Tenant" else NAMES,
            "namespace": NAMESPACES,
            "creationTimestamp": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
        }
    )
    api = st.just("usher.dev/v1alpha1")
    return st.fixed_dictionaries({"apiVersion": api, "kind": st.just(kind), "metadata": meta, "spec": spec})


ADDRESS = st.fixed_dictionaries(
    {"hostname": st.sampled_from(HOSTS)}, optional={"path": st.sampled_from(["/x.php", "/y//z"])}
)
LISTENER_SPEC = st.fixed_dictionaries(
    {
        "tenantRef": st.fixed_dictionaries({"name": TENANTS}),
        "listenerClassName": st.sampled_from(["public", "public", "public", "none"]),
        "authentication": st.just({"type": "None"}),
        "routes": st.just([{"name": "crm", "destinationRef": {"name": "one"}}]),
    },
    optional={
        "addresses": st.lists(ADDRESS, min_size=1, max_size=2).map(
            lambda addresses: [{"name": f"a{number}", **address} for number, address in enumerate(addresses)]
        )
    },
)
DESTINATION_SPEC = st.fixed_dictionaries(
    {"type": st.just("HTTP"), "http": st.just({"url": "https://crm.example/"})},
    optional={"tenantRef": st.fixed_dictionaries({"name": TENANTS})},
)
AGENCIES = st.lists(
    resource("Listener", LISTENER_SPEC)
    | resource("Destination", DESTINATION_SPEC)
    | resource("Tenant", st.just({}))
    | resource("Listener", LISTENER_SPEC),
    max_size=14,
    unique_by=lambda manifest: (manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"]),
)


def cluster_of(manifests: list[dict[str, Any]]) -> Cluster:
    cluster = Cluster()
    cluster.set_gateways()  # they were asked, so a hostname that two tenants claim is decided
    for raw in manifests:
        meta = raw["metadata"]
        cluster.put({**raw, "metadata": {**meta, "uid": f"{meta.get('namespace')}/{meta['name']}"}})
    return cluster


def settled(manifests: list[dict[str, Any]]) -> dict[Key, Plan]:
    cluster = cluster_of(manifests)
    cluster.settle()
    return {key: cluster.plan(key) for key in cluster.every_key()}


@settings(max_examples=30)
@given(AGENCIES, st.randoms(use_true_random=False))
def test_order_of_creation_changes_no_plan(manifests: list[dict[str, Any]], chance: Any) -> None:
    shuffled = [CLASS, *manifests]
    chance.shuffle(shuffled)
    assert settled([CLASS, *manifests]) == settled(shuffled)


def without_uids(
    document: documents.ListenerDocument | documents.DestinationDocument,
) -> documents.ListenerDocument | documents.DestinationDocument:
    """Return a document as objects from files give it: they have no uids."""
    if isinstance(document, documents.DestinationDocument):
        return msgspec.structs.replace(document, uid=msgspec.UNSET)
    routes = [msgspec.structs.replace(route, destination_uid=msgspec.UNSET) for route in document.routes]
    return msgspec.structs.replace(document, routes=tuple(routes))


@settings(max_examples=40)
@given(AGENCIES)
def test_operator_publishes_the_documents_that_files_give(manifests: list[dict[str, Any]]) -> None:
    cluster = cluster_of([CLASS, *manifests])
    cluster.settle()
    cache = cluster.cache
    children = cache.child_index.by_ref.values()
    published = {child.key: child.published.document for child in children if child.published is not None}
    readable = (record.parsed for record in cache.records.values() if isinstance(record.parsed, CachedResource))
    oldest_first = sorted(readable, key=lambda cached: (cached.created, cached.uid))
    collected = compiler.collect((cached.resource for cached in oldest_first), {})
    compiled = compiler.compile_resources(
        collected, compiler.CompileContext(keys=planning.KEYS, now=planning.NOW)
    ).snapshot
    by_kind: dict[str, dict[str, documents.ListenerDocument | documents.DestinationDocument]] = {
        "Listener": {},
        "Destination": {},
    }
    for key, document in published.items():
        by_kind[key.kind][key.path] = without_uids(document)
    assert by_kind == {"Listener": compiled.listeners, "Destination": compiled.destinations}
