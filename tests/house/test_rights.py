"""docs/security.md lists exactly the rights of the shipped manifests, each with its reason."""

import yaml

from support import rights


def test_security_page_lists_exactly_the_shipped_rights() -> None:
    assert sorted(rights.listed()) == sorted(rights.rights_of(rights.roles()))
    assert all(rights.listed().values())


def test_no_role_grants_secrets_in_all_namespaces_or_any_wildcard() -> None:
    for role in rights.roles():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            is_bound_everywhere = role["kind"] == "ClusterRole" and role["metadata"]["name"] != "usher-agency"
            assert not (is_bound_everywhere and "secrets" in rule["resources"])


def test_manifests_bind_the_role_of_agencies_nowhere() -> None:
    bindings = [
        manifest
        for file in rights.MANIFESTS
        for manifest in yaml.safe_load_all(file.read_text("utf-8"))
        if manifest["kind"] in {"RoleBinding", "ClusterRoleBinding"}
    ]
    assert bindings
    assert [binding["metadata"]["name"] for binding in bindings if binding["roleRef"]["name"] == "usher-agency"] == []
