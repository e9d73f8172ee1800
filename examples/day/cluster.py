"""A cluster with Usher's definitions, namespaces and rights in it: a local control plane, or one that is given."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from support import accounts, clusters, kubectl
from support.local_cluster import control_plane, kubeconfigs, programs
from usher_gateway import model

ROOT = Path(__file__).parents[2]
SYSTEM, CONFIGURATION, AGENCY = "usher-system", "usher-config", "agency"
OPERATOR, GATEWAY = "usher-operator", "usher-gateway"
CLASS = "public"
KINDS = "listenerclasses,tenants,destinations,listeners"
_TOKEN_MINUTES = 60
RENEW_SECONDS = 900.0
"""From one token of an account to the next; a cluster may give shorter ones than were asked for."""


class Cluster(msgspec.Struct, frozen=True):
    """How to reach it, as its administrator."""

    kubectl: kubectl.Kubectl
    endpoint: kubeconfigs.Endpoint
    folder: Path
    """For files of accounts."""
    is_given: bool
    namespace: str = SYSTEM
    """Usher's own, where the accounts are."""

    def account(self, name: str) -> Path:
        """The kubeconfig of a service account in Usher's own namespace, good as long as `stay_logged_in` runs."""
        token = self.kubectl.run(*self._ask_for_token(name)).strip()
        account = accounts.written(accounts.Account(self.namespace, name, self.endpoint, token, self.folder / name))
        text = kubeconfigs.with_token_file(self.endpoint, "token", self.namespace)
        return kubeconfigs.write(account.kubeconfig, text)

    async def stay_logged_in(self, *names: str, every_seconds: float = RENEW_SECONDS) -> None:
        """Renew the tokens of accounts, for ever; programs read them anew."""
        while True:
            await asyncio.sleep(every_seconds)
            for name in names:
                with contextlib.suppress(kubectl.KubectlError):  # the next time comes while the token is still good
                    token = await self.kubectl(*self._ask_for_token(name))
                    fresh = kubeconfigs.write(self.folder / name / "token.new", token.strip())
                    fresh.replace(self.folder / name / "token")

    def _ask_for_token(self, name: str) -> tuple[str, ...]:
        return "create", "token", name, f"--namespace={self.namespace}", f"--duration={_TOKEN_MINUTES}m"

    async def secrets(self, namespace: str) -> dict[str, dict[str, str]]:
        """Name -> decoded values, of every Secret of a namespace."""
        found = await self.kubectl.json("get", "secrets", f"--namespace={namespace}")
        return {one["metadata"]["name"]: _decoded(one.get("data") or {}) for one in found}

    async def resources(self) -> list[dict[str, Any]]:
        """Usher's resources: the class, and what the agency has."""
        found: list[dict[str, Any]] = await self.kubectl.json("get", KINDS, f"--namespace={AGENCY}")
        return [one for one in found if one["metadata"].get("namespace") or one["metadata"]["name"] == CLASS]


def _decoded(data: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


@contextlib.contextmanager
def reached(kubeconfig: Path | None, folder: Path) -> Iterator[Cluster]:
    """A cluster for the time of a ``with`` block: the one of a kubeconfig, or a control plane of its own.

    Raises:
        ConfigurationError: There is no such kubeconfig.
    """
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise model.ConfigurationError(
                f"there is no kubeconfig {kubeconfig}", "Say KUBECONFIG=FILE, or leave it out."
            )
        call = kubectl.Kubectl(programs.kubectl(), kubeconfig.absolute(), folder / "kubectl-cache")
        yield Cluster(call, clusters.endpoint(call), folder, is_given=True)
        return
    with control_plane.running(folder / "control-plane") as running:
        call = kubectl.Kubectl(programs.kubectl(), running.kubeconfig, folder / "kubectl-cache")
        yield Cluster(call, running.endpoint, folder, is_given=False)


def version(cluster: Cluster) -> str:
    """What the API server calls itself."""
    return str(json.loads(cluster.kubectl.run("version", "--output=json"))["serverVersion"]["gitVersion"])


@contextlib.contextmanager
def furnished(cluster: Cluster) -> Iterator[None]:
    """Definitions, namespaces and rights, as an install has them; of a given cluster they are taken away again.

    Raises:
        ConfigurationError: The cluster has one of these namespaces, or the class, already.
    """
    call = cluster.kubectl
    _refuse_what_is_there(call)
    call.run("apply", "--server-side", *_files(*clusters.own_definitions()))
    names = [f"crd/{kind}.usher.dev" for kind in KINDS.split(",")]
    call.run("wait", "--for=condition=Established", "--timeout=30s", *names)
    try:
        for namespace in (SYSTEM, CONFIGURATION, AGENCY):
            call.run("create", "namespace", namespace)
        call.run("apply", "--server-side", *_files(ROOT / "crds" / "access", ROOT / "operator" / "rbac"))
        yield
    finally:
        if cluster.is_given:
            remove(call)


def _refuse_what_is_there(call: kubectl.Kubectl) -> None:
    found = call.run("get", "namespaces", SYSTEM, CONFIGURATION, AGENCY, "--ignore-not-found", "--output=name").split()
    with contextlib.suppress(kubectl.KubectlError):  # without the definition there is no class
        found += call.run("get", "listenerclass", CLASS, "--ignore-not-found", "--output=name").split()
    if found:
        raise model.ConfigurationError(
            f"the cluster has {', '.join(found)} already",
            "They would be changed, and deleted at the end: take another cluster, or delete them if nobody needs them.",
        )


def remove(call: kubectl.Kubectl) -> None:
    """Until it is gone, so that another run can begin."""
    access = _files(ROOT / "crds" / "access", ROOT / "operator" / "rbac")
    call.run("delete", "listenerclass", CLASS, "--ignore-not-found")
    call.run("delete", "--ignore-not-found", "--wait=false", *access)
    call.run("delete", "namespaces", SYSTEM, CONFIGURATION, AGENCY, "--ignore-not-found", "--timeout=50s")


def _files(*paths: Path) -> list[str]:
    return [f"--filename={path}" for path in paths]
