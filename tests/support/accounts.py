"""Service accounts with exactly the shipped permissions, and the files with which a program uses them."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import kubeconfigs
from support import api, audit
from usher_operator.state.values import AGENCY_ROLE


@dataclass(frozen=True)
class Account:
    """A service account and its files; ``folder`` has the files of a pod's mount: token, ca.crt, namespace."""

    namespace: str
    name: str
    endpoint: kubeconfigs.Endpoint
    token: str
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def user(self) -> str:
        """The account's user name in the audit log."""
        return audit.account_name(self.namespace, self.name)

    def at(self, endpoint: kubeconfigs.Endpoint, folder: Path) -> "Account":
        """Return the same account with another endpoint, for example a proxy."""
        return written(Account(self.namespace, self.name, endpoint, self.token, folder))


def written(account: Account) -> Account:
    """Write an account's files."""
    account.folder.mkdir(parents=True, exist_ok=True)
    kubeconfigs.write(account.folder / "token", account.token)
    (account.folder / "ca.crt").write_bytes(account.endpoint.authority)
    (account.folder / "namespace").write_text(account.namespace, "utf-8")
    text = kubeconfigs.with_token(account.endpoint, account.token, account.namespace)
    kubeconfigs.write(account.kubeconfig, text)
    return account


async def log_in(server: api.Api, endpoint: kubeconfigs.Endpoint, account: api.Resource, folder: Path) -> Account:
    """Create an account if it does not exist, and return it with a token and its files."""
    metadata = {"name": account.name, "namespace": account.namespace}
    await server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    token = await server.token(account)
    return written(Account(account.namespace, account.name, endpoint, token, folder))


def moved(documents: Iterable[Mapping[str, Any]], namespaces: Mapping[str, str], suffix: str) -> list[dict[str, Any]]:
    """Move the shipped permissions to other namespaces, so that several installs fit into one cluster.

    Cluster-scoped objects get the suffix, except the role of agencies, whose name the operator knows. The rules do not
    change.
    """
    rights = [dict(copy.deepcopy(each)) for each in documents if each["kind"] != "Namespace"]
    own = {each["metadata"]["name"] for each in rights if each["kind"] == "ClusterRole"}
    for each in rights:
        metadata = each["metadata"]
        if "namespace" in metadata:
            metadata["namespace"] = namespaces[metadata["namespace"]]
        elif metadata["name"] != AGENCY_ROLE:
            metadata["name"] += suffix
        if each.get("roleRef", {}).get("kind") == "ClusterRole" and each["roleRef"]["name"] in own:
            each["roleRef"]["name"] += suffix
        for subject in each.get("subjects", []):
            subject["namespace"] = namespaces[subject["namespace"]]
    return rights


def admission(namespace: str, operators: Iterable[Account]) -> dict[str, Any]:
    """Return the binding that admits a namespace for the operators of installs."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": AGENCY_ROLE, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AGENCY_ROLE},
        "subjects": [
            {"kind": "ServiceAccount", "name": operator.name, "namespace": operator.namespace} for operator in operators
        ],
    }


async def grant(server: api.Api, rights: Iterable[Mapping[str, Any]]) -> None:
    """Apply permissions, roles before their bindings."""
    for each in sorted(rights, key=lambda right: right["kind"].endswith("Binding")):
        await server.apply(each)


async def withdraw(server: api.Api, rights: Iterable[Mapping[str, Any]]) -> None:
    """Delete the cluster-scoped permissions; the others are deleted with their namespace."""
    for each in rights:
        if "namespace" not in each["metadata"] and each["metadata"]["name"] != AGENCY_ROLE:
            await server.delete(api.of(each))
