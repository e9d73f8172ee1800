"""Service accounts with the shipped rights and no more, and the files by which a program is one."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster import kubeconfigs
from support import api, audit


@dataclass(frozen=True)
class Account:
    """A service account and its files; ``folder`` is like the mount of a pod: token, ca.crt, namespace."""

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
        """Its name as a user, in the audit log."""
        return audit.account_name(self.namespace, self.name)

    def at(self, endpoint: kubeconfigs.Endpoint, folder: Path) -> "Account":
        """The same account by another way to the API server, as through a proxy."""
        return written(Account(self.namespace, self.name, endpoint, self.token, folder))


def written(account: Account) -> Account:
    """Writes an account's files."""
    account.folder.mkdir(parents=True, exist_ok=True)
    kubeconfigs.write(account.folder / "token", account.token)
    (account.folder / "ca.crt").write_bytes(account.endpoint.authority)
    (account.folder / "namespace").write_text(account.namespace, "utf-8")
    text = kubeconfigs.with_token(account.endpoint, account.token, account.namespace)
    kubeconfigs.write(account.kubeconfig, text)
    return account


async def log_in(server: api.Api, endpoint: kubeconfigs.Endpoint, account: api.Resource, folder: Path) -> Account:
    """An account (made if it is not there) with a token and its files."""
    metadata = {"name": account.name, "namespace": account.namespace}
    await server.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    token = await server.token(account)
    return written(Account(account.namespace, account.name, endpoint, token, folder))


def moved(documents: Iterable[Mapping[str, Any]], namespaces: Mapping[str, str], suffix: str) -> list[dict[str, Any]]:
    """Rights as shipped, in other namespaces, so that installs stand beside each other in one cluster.

    What is not in a namespace gets the suffix to its name: the rules stay as they are, to the letter.
    """
    rights = [dict(copy.deepcopy(each)) for each in documents if each["kind"] != "Namespace"]
    own = {each["metadata"]["name"] for each in rights if each["kind"] == "ClusterRole"}
    for each in rights:
        metadata = each["metadata"]
        if "namespace" in metadata:
            metadata["namespace"] = namespaces[metadata["namespace"]]
        elif each["kind"] in {"ClusterRole", "ClusterRoleBinding"}:
            metadata["name"] += suffix
        if each.get("roleRef", {}).get("kind") == "ClusterRole" and each["roleRef"]["name"] in own:
            each["roleRef"]["name"] += suffix
        for subject in each.get("subjects", []):
            subject["namespace"] = namespaces[subject["namespace"]]
    return rights


async def grant(server: api.Api, rights: Iterable[Mapping[str, Any]]) -> None:
    """Applies rights, roles before what binds them."""
    for each in sorted(rights, key=lambda right: right["kind"].endswith("Binding")):
        await server.apply(each)


async def withdraw(server: api.Api, rights: Iterable[Mapping[str, Any]]) -> None:
    """Deletes what is not in a namespace; the rest ends with its namespace."""
    for each in rights:
        if "namespace" not in each["metadata"]:
            await server.delete(api.of(each))
