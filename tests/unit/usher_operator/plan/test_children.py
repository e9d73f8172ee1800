"""Names, paths and shortened URLs of children."""

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import plan_samples, planning
from support.planning import Cluster
from usher_gateway import documents
from usher_operator.plan import children
from usher_operator.state import child_labels
from usher_operator.state.values import ClusterFeatures, Key

HOSTS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?){0,4}", fullmatch=True)
PATHS = st.integers(0, 2_000).map(lambda number: f"/hooks/{number}") | st.sampled_from(["/a//b", "/a%2Fb", "/x.php"])
LOBBY = Key("Listener", "default", "lobby")
KEYS = st.sampled_from(
    [
        Key("Listener", "agency", "lobby"),
        Key("Destination", "agency", "crm"),
        Key("Hostname", "", "hooks.example.com"),
    ]
)


@settings(max_examples=50)
@given(HOSTS)
def test_object_name_of_a_hostname_is_valid_for_any_object(hostname: str) -> None:
    name = f"{children.object_name(hostname)}-1024-tls"
    assert len(name) <= 63
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)


def test_similar_hostnames_have_different_object_names() -> None:
    assert children.object_name("a.b.example") != children.object_name("a-b.example")


def test_hostnames_whose_hashes_begin_alike_have_different_object_names() -> None:
    """The SHA-256 of both begins with the same 32 bits, and both begin with the same 36 characters."""
    first = "purple-webhooks-of-a-shop-in-london-19798.customers.example"
    second = "purple-webhooks-of-a-shop-in-london-60163.customers.example"
    assert children.object_name(first) != children.object_name(second)


def test_object_name_has_at_least_128_bits_of_the_hash() -> None:
    digest = children.object_name("hooks.example.com").rpartition("-")[2]
    assert re.fullmatch(r"[a-z2-7]{26}", digest)


def test_paths_with_tokens_are_routed_by_their_prefix() -> None:
    parts = children.split_by_path("h.example", ["/v1/first-token", "/v1/second-token", "/hooks/purple.php"])
    assert [(part.prefix, part.paths) for part in parts] == [("/v1/", ()), ("", ("/hooks/purple.php",))]
    assert len({part.name for part in parts}) == 2


@settings(max_examples=30)
@given(st.sets(PATHS, max_size=200))
def test_each_routable_path_is_in_exactly_one_object(paths: set[str]) -> None:
    parts = children.split_by_path("h.example", paths)
    split_paths = [path for part in parts for path in part.paths]
    exact = [path for path in paths if not path.startswith("/v1/")]
    assert sorted(split_paths) == sorted(path for path in exact if children.is_path_routable(path))
    assert all(len(part.paths) <= children.MAX_PATHS_PER_ROUTE for part in parts)
    assert len({part.name for part in parts}) == len(parts)


def test_new_path_changes_one_object() -> None:
    paths = [f"/hooks/{number}" for number in range(500)]
    original_parts = set(children.split_by_path("h.example", paths))
    new_parts = set(children.split_by_path("h.example", [*paths, "/hooks/new"]))
    assert len(original_parts) > 4
    assert len(original_parts - new_parts) <= 1


def test_paths_chosen_for_their_hashes_divide_no_other_part() -> None:
    paths = [f"/hooks/{number}" for number in range(500)]
    chosen = [path for path in (f"/chosen/{number}" for number in range(30_000)) if children._digest(path) % 256 == 0]
    parts = children.split_by_path("h.example", [*paths, *chosen[:65]])
    assert len(chosen) > 65
    assert all(len(part.paths) <= children.MAX_PATHS_PER_ROUTE for part in parts)
    assert len(parts) < 30
    ordinary = children.split_by_path("h.example", paths)
    assert len(set(ordinary) & set(parts)) >= len(ordinary) - 1


@pytest.mark.parametrize("path", ["/a//b", "/a/./b", "/a/../b", "/a/..", "/a/.", "/a%2Fb", "/a%zz", "/a%"])
def test_path_that_the_api_server_rejects_is_not_routable(path: str) -> None:
    assert not children.is_path_routable(path)


@pytest.mark.parametrize("path", ["/a%20b", "/a%22b", "/a%0Ab", "/a%7Bb", "/a%60b", "/a b", '/a"b', "/a{b", "/ä", "a"])
def test_path_with_characters_that_a_url_encodes_is_not_routable(path: str) -> None:
    assert not children.is_path_routable(path)


@pytest.mark.parametrize("path", ["/", "/a.b/..c", "/hooks/purple.php", "/~x;y=1", "/-._~!$&'()*+,;=:@"])
def test_ordinary_path_is_routable(path: str) -> None:
    assert children.is_path_routable(path)


@given(KEYS)
def test_owner_in_annotations_is_read_back(key: Key) -> None:
    assert child_labels.owner_of(child_labels.annotations(key)) == key


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"usher.dev/owner": "a/b"},
        {"usher.dev/owner": "a/b", "usher.dev/owner-kind": "Pod"},
        {"usher.dev/owner": "b", "usher.dev/owner-kind": "Listener"},
        {"usher.dev/owner": "a/b", "usher.dev/owner-kind": "Hostname"},
        {"usher.dev/owner": "a/", "usher.dev/owner-kind": "Listener"},
    ],
)
def test_invalid_annotations_name_no_owner(annotations: dict[str, str]) -> None:
    assert child_labels.owner_of(annotations) is None


def test_child_is_ours_only_with_the_label_of_this_install() -> None:
    labels = child_labels.labels("usher.dev/usher", "uid")
    assert child_labels.is_ours(labels, "usher.dev/usher")
    assert not child_labels.is_ours(labels, "example.com/other")
    assert not child_labels.is_ours({"usher.dev/install": "usher.dev_usher"}, "usher.dev/usher")


def test_desired_annotation_is_the_hash_of_the_manifest(cluster: Cluster) -> None:
    (original, *_) = cluster.plan(Key("Destination", "default", "crm")).children or ()
    cluster.edit("Destination", plan_samples.DESTINATION, concurrency=3)
    (edited, *_) = cluster.plan(Key("Destination", "default", "crm")).children or ()
    assert original.ref == edited.ref
    assert original.desired != edited.desired
    for child in (original, edited):
        assert child.manifest["metadata"]["annotations"]["usher.dev/desired"] == child.desired


def test_child_has_no_label_of_gitops_tools(cluster: Cluster) -> None:
    cluster.edit("ListenerClass", "public", exposure=plan_samples.INGRESS, tls=plan_samples.PER_HOSTNAME)
    cluster.settle()
    desired = [child for key in cluster.every_key() for child in cluster.plan(key).children or ()]
    assert {child.ref.kind for child in desired} == {"Secret", "Ingress", "Certificate"}
    for child in desired:
        assert not any(label.startswith("app.kubernetes.io/") for label in child.manifest["metadata"]["labels"])


@pytest.mark.parametrize("controller", children.INGRESS_ANNOTATIONS)
def test_ingress_has_controller_annotations_that_the_class_may_override(cluster: Cluster, controller: str) -> None:
    annotations_of_controller = children.INGRESS_ANNOTATIONS[controller]
    first = next(iter(annotations_of_controller))
    exposure = {"type": "Ingress", "ingress": {"className": "mine", "annotations": {first: "given"}}}
    cluster.set_features(ClusterFeatures(ingress_classes={"mine": controller}))
    cluster.edit("ListenerClass", "public", exposure=exposure)
    (child,) = cluster.plan(Key("Hostname", "", "hooks.example.com")).children or ()
    annotations = child.manifest["metadata"]["annotations"]
    assert {name: annotations[name] for name in annotations_of_controller} == {
        **annotations_of_controller,
        first: "given",
    }


def test_url_secret_leaves_out_older_and_retired_tokens(cluster: Cluster) -> None:
    cluster.edit("Listener", plan_samples.LISTENER, token={"generation": 2, "alsoAccept": [{"generation": 1}]})
    cluster.settle()
    published = cluster.cache.published(LOBBY)
    assert published is not None
    assert isinstance(published.document, documents.ListenerDocument)
    listener = cluster.cache.listener(plan_samples.LISTENER)
    assert listener is not None
    named = children.named_addresses(listener, published.document, planning.INSTALL_KEY)
    assert [address.retired_at > 0 for address in published.document.addresses] == [False, False, True]
    assert list(named.values()) == [published.document.addresses[0]]


def test_url_secret_has_the_newest_of_retired_urls_that_are_shown_alike(cluster: Cluster) -> None:
    cluster.settle()
    cached, published = cluster.cache.listener(plan_samples.LISTENER), cluster.cache.published(LOBBY)
    assert cached is not None
    assert published is not None
    assert published.listener is not None
    newest, older = (
        documents.Address("hooks.example.com", path, retired_at=2) for path in ("/entrance-of-hall", "/entrance-of-bar")
    )
    document = msgspec.structs.replace(published.listener, addresses=(newest, older))
    shown = {"name": "class", "url": documents.shorten_url(newest.url)}
    assert shown["url"] == documents.shorten_url(older.url)
    cached = msgspec.structs.replace(cached, fields={"addresses": [shown]})
    assert children.named_addresses(cached, document, planning.INSTALL_KEY) == {"class": newest}
