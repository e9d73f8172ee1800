"""The rights of the shipped roles, as their manifests grant them and as docs/security.md lists them."""

from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from support import source

PAGE = source.DOCS / "security.md"
MANIFESTS = sorted((source.ROOT / "operator" / "rbac").rglob("*.yaml"))

Right = tuple[str, str, str, str]  # Role, namespace, objects and verbs, as the page writes them


def roles() -> Iterator[dict[str, Any]]:
    for file in MANIFESTS:
        yield from (
            manifest
            for manifest in yaml.safe_load_all(file.read_text("utf-8"))
            if manifest["kind"] in {"Role", "ClusterRole"}
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
    """Return the rights in the table of the page, each with its reason."""
    rows = [row for row in source.table_rows(PAGE.read_text("utf-8")) if len(row) == 5]
    return {(row[0].strip("`"), row[1].strip("`"), row[2], row[3]): row[4] for row in rows}
