"""Decisions of the local cluster before it starts a program."""

from pathlib import Path
from typing import Any

import pytest

from local_cluster import cache, programs, toolchain
from support import accounts


@pytest.mark.parametrize(
    ("version", "suits"),
    [("go1.26.8", True), ("go1.26", True), ("go1.25.9", False), ("go1.27.0", False), ("devel", False), ("", False)],
)
def test_only_the_go_release_of_kubernetes_suits(version: str, *, suits: bool) -> None:
    assert toolchain.suits(version) is suits


def test_cache_key_depends_on_the_content_of_the_sources(tmp_path: Path) -> None:
    source, checksums = tmp_path / "main.go", tmp_path / "go.sum"
    source.write_text("package main\n")
    checksums.write_text("")
    first = cache.key(source, checksums)
    assert cache.key(source, checksums) == first
    checksums.write_text("sum\n")
    assert cache.key(source, checksums) != first


def test_linker_flags_carry_the_version_of_kubernetes() -> None:
    values = dict(programs.kubernetes_versions())
    assert values["k8s.io/component-base/version.gitVersion"].startswith("v1.36.")
    assert values["k8s.io/client-go/pkg/version.gitMinor"] == "36"


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


def test_moved_rights_keep_their_rules() -> None:
    role, binding, inner = accounts.moved(SHIPPED, {"usher-system": "system-1"}, "-1")
    assert role == {"kind": "ClusterRole", "metadata": {"name": "usher-operator-1"}, "rules": [{"verbs": ["get"]}]}
    assert binding["metadata"]["name"] == "usher-operator-1"
    assert binding["roleRef"]["name"] == "usher-operator-1"
    assert binding["subjects"][0]["namespace"] == "system-1"
    assert inner["metadata"] == {"name": "usher-gateway", "namespace": "system-1"}
    assert inner["roleRef"]["name"] == "view", "not shipped: the cluster's own"
    assert SHIPPED[1]["metadata"] == {"name": "usher-operator"}, "what is shipped is left alone"
