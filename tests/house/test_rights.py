"""docs/security.md lists exactly the rights of the shipped manifests, and docs/api.md what the audit log records."""

import re

import yaml

from support import rights, source
from usher_gateway.access import audit, tokens

PEOPLE = source.ROOT / "crds" / "access" / "people.yaml"


def test_security_page_lists_exactly_the_shipped_rights() -> None:
    assert sorted(rights.listed()) == sorted(rights.rights_of(rights.roles()))
    assert all(rights.listed().values())


def test_no_role_grants_secrets_in_all_namespaces_or_any_wildcard() -> None:
    for role in rights.roles():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            is_bound_everywhere = role["kind"] == "ClusterRole" and role["metadata"]["name"] != "usher-agency"
            assert not (is_bound_everywhere and "secrets" in rule["resources"])


def test_operator_gets_only_named_secrets_beside_the_gateways() -> None:
    """It may create Secrets there, so with `get` it could make and read a token of each account."""
    unnamed = [
        role["metadata"]["name"]
        for role in rights.roles()
        for rule in role["rules"]
        if role["metadata"].get("namespace") == "usher-system" and "secrets" in rule["resources"]
        if "get" in rule["verbs"] and not rule.get("resourceNames")
    ]
    assert unnamed == []


def test_manifests_bind_the_role_of_agencies_nowhere() -> None:
    bindings = [
        manifest
        for file in rights.MANIFESTS
        for manifest in yaml.safe_load_all(file.read_text("utf-8"))
        if manifest["kind"] in {"RoleBinding", "ClusterRoleBinding"}
    ]
    assert bindings
    assert [binding["metadata"]["name"] for binding in bindings if binding["roleRef"]["name"] == "usher-agency"] == []


def roles_of_people() -> dict[str, set[str]]:
    """The scopes of each role of crds/access/people.yaml: a right on the group `usher.dev` is a scope."""
    return {
        role["metadata"]["name"]: {
            f"{resource}:{verb}" for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
        }
        for role in yaml.safe_load_all(PEOPLE.read_text("utf-8"))
    }


def test_roles_of_people_grant_every_scope_as_the_page_says() -> None:
    roles = roles_of_people()
    assert set().union(*roles.values()) == set(tokens.Scope)
    rows = source.table_rows(rights.PAGE.read_text("utf-8"))
    assert {
        row[0].strip("`"): set(re.findall(r"\w+:\w+", row[1])) for row in rows if row[0].strip("`") in roles
    } == roles


def test_api_page_lists_exactly_the_actions_of_the_audit_log() -> None:
    (listed,) = re.findall(r"`action`\n\((.+?)\), `selection`", (source.DOCS / "api.md").read_text("utf-8"))
    assert sorted(re.findall(r"`([^`]+)`", listed)) == sorted(audit.ACTIONS)


def test_standard_roles_of_a_cluster_get_no_personal_data_and_no_changes() -> None:
    (aggregated,) = [role for role in yaml.safe_load_all(PEOPLE.read_text("utf-8")) if "labels" in role["metadata"]]
    assert roles_of_people()[aggregated["metadata"]["name"]] == tokens.OBSERVE_SCOPES


def test_no_right_of_people_has_a_verb_of_kubernetes() -> None:
    """A role that may `get` or `list` everything must not give personal data."""
    verbs = {scope.partition(":")[2] for scope in tokens.Scope}
    usual = {
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "use",
        "bind",
        "escalate",
    }
    assert not verbs & usual
