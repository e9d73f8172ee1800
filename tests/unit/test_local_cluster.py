"""What the tests' cluster decides before anything is started."""

from pathlib import Path
from typing import Any

import pytest

from support import accounts
from support.local_cluster import cache, programs, toolchain


@pytest.mark.parametrize(
    ("version", "suits"),
    [("go1.26.8", True), ("go1.26", True), ("go1.25.9", False), ("go1.27.0", False), ("devel", False), ("", False)],
)
def test_one_go_suits(version: str, *, suits: bool) -> None:
    assert toolchain.suits(version) is suits


def test_an_entry_of_the_cache_is_named_by_what_it_is_made_of(tmp_path: Path) -> None:
    one, other = tmp_path / "main.go", tmp_path / "go.sum"
    one.write_text("package main\n")
    other.write_text("")
    first = cache.key(one, other)
    assert cache.key(one, other) == first
    other.write_text("sum\n")
    assert cache.key(one, other) != first


def test_the_api_server_tells_the_version_of_its_module() -> None:
    assert "-X k8s.io/component-base/version.gitVersion=v1.36." in programs.flags()
    assert "-X k8s.io/client-go/pkg/version.gitMinor=36" in programs.flags()


SHIPPED: list[dict[str, Any]] = [
    {"kind": "Namespace", "metadata": {"name": "usher-system"}},
    {"kind": "ClusterRole", "metadata": {"name": "usher-operator"}, "rules": [{"verbs": ["get"]}]},
    {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "usher-operator"},
        "roleRef": {"kind": "ClusterRole", "name": "usher-operator"},
        "subjects": [{"kind": "ServiceAccount", "name": "usher-operator", "namespace": "usher-system"}],
    },
    {
        "kind": "RoleBinding",
        "metadata": {"name": "usher-gateway", "namespace": "usher-system"},
        "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "usher-gateway", "namespace": "usher-system"}],
    },
]


def test_rights_move_to_other_namespaces_with_their_rules_as_they_are() -> None:
    role, binding, inner = accounts.moved(SHIPPED, {"usher-system": "system-1"}, "-1")
    assert role == {"kind": "ClusterRole", "metadata": {"name": "usher-operator-1"}, "rules": [{"verbs": ["get"]}]}
    assert binding["metadata"]["name"] == "usher-operator-1"
    assert binding["roleRef"]["name"] == "usher-operator-1"
    assert binding["subjects"][0]["namespace"] == "system-1"
    assert inner["metadata"] == {"name": "usher-gateway", "namespace": "system-1"}
    assert inner["roleRef"]["name"] == "view", "not shipped: the cluster's own"
    assert SHIPPED[1]["metadata"] == {"name": "usher-operator"}, "what is shipped is left alone"
