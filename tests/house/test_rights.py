"""docs/security.md lists exactly the rights of the shipped manifests, each with its reason."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from support import source

PAGE = source.DOCS / "security.md"
MANIFESTS = sorted((source.ROOT / "operator" / "rbac").glob("*.yaml"))

Right = tuple[str, str, str, str]
"""Role, namespace, objects and verbs, as the page writes them."""


def roles() -> Iterator[dict[str, Any]]:
    for file in MANIFESTS:
        yield from (
            one for one in yaml.safe_load_all(file.read_text("utf-8")) if one["kind"] in {"Role", "ClusterRole"}
        )


def rights_of(roles: Iterable[dict[str, Any]]) -> Iterator[Right]:
    """Yield each right of roles, as the page writes it."""
    for role in roles:
        bound = role["metadata"].get(
            "namespace", "each admitted one" if role["metadata"]["name"] == "usher-agency" else "all"
        )
        for rule in role["rules"]:
            named = ", ".join(rule.get("resourceNames", ()))
            things = [f"`{name}`" for name in rule["resources"]]
            (group,) = rule["apiGroups"]
            text = ", ".join(things) + (f" of `{group}`" if group else "") + (f" named {named}" if named else "")
            yield role["metadata"]["name"], bound, text, ", ".join(rule["verbs"])


def listed() -> dict[Right, str]:
    rows = [row for row in source.table_rows(PAGE.read_text("utf-8")) if len(row) == 5]
    return {(row[0].strip("`"), row[1].strip("`"), row[2], row[3]): row[4] for row in rows}


def test_security_page_lists_exactly_the_shipped_rights() -> None:
    assert sorted(listed()) == sorted(rights_of(roles()))
    assert all(listed().values())


def test_no_role_grants_secrets_in_all_namespaces_or_any_wildcard() -> None:
    for role in roles():
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            is_bound_everywhere = role["kind"] == "ClusterRole" and role["metadata"]["name"] != "usher-agency"
            assert not (is_bound_everywhere and "secrets" in rule["resources"])


def test_manifests_bind_the_role_of_agencies_nowhere() -> None:
    bindings = [
        one
        for file in MANIFESTS
        for one in yaml.safe_load_all(file.read_text("utf-8"))
        if one["kind"] in {"RoleBinding", "ClusterRoleBinding"}
    ]
    assert bindings
    assert [one["metadata"]["name"] for one in bindings if one["roleRef"]["name"] == "usher-agency"] == []
