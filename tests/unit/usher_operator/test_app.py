"""The operator reads each kind only in the namespaces where it needs it, and has rights only there."""

import pathlib

import pytest
import yaml

from support import rights
from usher_operator.app import Operator
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds


@pytest.fixture
def operator(tmp_path: pathlib.Path) -> Operator:
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://k.test:6443"}}],
        "users": [{"name": "u", "user": {"token": "abc"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    return Operator(OperatorSettings(kubeconfig=path), {})


def read_everywhere(operator: Operator) -> set[kinds.WatchedKind]:
    return {kind for kind in operator.resync.kinds if operator.resync.collection(kind) == kind.collection()}


def test_only_custom_resources_of_users_are_read_in_all_namespaces(operator: Operator) -> None:
    """Whoever may edit one namespace can create large objects of any other kind there, such as Issuers."""
    namespaced = {kind for kind in read_everywhere(operator) if kind.namespaced}
    assert namespaced == {kinds.TENANT, kinds.LISTENER, kinds.DESTINATION}


def test_cluster_role_grants_lists_only_of_kinds_that_are_read_in_all_namespaces(operator: Operator) -> None:
    (role,) = [
        role for role in rights.roles() if role["metadata"]["name"] == "usher-operator" and role["kind"] != "Role"
    ]
    listed = {
        (group, plural)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for plural in rule["resources"]
        if "list" in rule["verbs"] and "resourceNames" not in rule
    }
    definitions = ("apiextensions.k8s.io", "customresourcedefinitions")
    assert listed == {(kind.group, kind.plural) for kind in read_everywhere(operator)} | {definitions}


def test_kopf_watches_no_kind_that_users_can_create_in_their_namespaces() -> None:
    """Kopf lists all namespaces at once, in pages of any size."""
    assert [kind.name for kind in kinds.WATCHED_BY_KOPF if kind.namespaced] == []
