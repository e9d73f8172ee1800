"""The cluster of `make run-kubernetes`: a local control plane, or the cluster of a given kubeconfig."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from local_cluster import control_plane, kubeconfigs, kubectl, programs
from usher_gateway import model

ROOT = Path(__file__).parents[1]
_RIGHTS = (ROOT / "crds" / "access", ROOT / "operator" / "rbac")
SYSTEM, CONFIGURATION, AGENCY = "usher-system", "usher-config", "agency"
OPERATOR, GATEWAY = "usher-operator", "usher-gateway"
CLASS = "public"
KINDS = "listenerclasses,tenants,destinations,listeners"
_TOKEN_MINUTES = 60
# How often account tokens are renewed. A cluster may issue tokens with a shorter life than requested.
RENEW_SECONDS = 900.0


class Cluster(msgspec.Struct, frozen=True):
    """A cluster, reached as its administrator."""

    kubectl: kubectl.Kubectl
    endpoint: kubeconfigs.Endpoint
    folder: Path
    """Where the files of service accounts go."""
    is_given: bool
    namespace: str = SYSTEM
    """The namespace of the operator, the gateway and their service accounts."""

    def account(self, name: str) -> Path:
        """Write and return the kubeconfig of a service account; `stay_logged_in` keeps its token valid."""
        token = self.kubectl.run(*self._ask_for_token(name)).strip()
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        kubeconfigs.write(folder / "token", token)
        text = kubeconfigs.with_token_file(self.endpoint, "token", self.namespace)
        return kubeconfigs.write(folder / "kubeconfig", text)

    async def stay_logged_in(self, *names: str, every_seconds: float = RENEW_SECONDS) -> None:
        """Renew the tokens of accounts until cancelled. Programs read the token file for each request."""
        while True:
            await asyncio.sleep(every_seconds)
            for name in names:
                with contextlib.suppress(kubectl.KubectlError):  # it tries again while the token is still valid
                    token = await self.kubectl(*self._ask_for_token(name))
                    fresh = kubeconfigs.write(self.folder / name / "token.new", token.strip())
                    fresh.replace(self.folder / name / "token")

    def _ask_for_token(self, name: str) -> tuple[str, ...]:
        return "create", "token", name, f"--namespace={self.namespace}", f"--duration={_TOKEN_MINUTES}m"

    async def secrets(self, namespace: str) -> dict[str, dict[str, str]]:
        """Return name -> decoded values for every Secret of a namespace."""
        secrets = await self.kubectl.json("get", "secrets", f"--namespace={namespace}")
        return {secret["metadata"]["name"]: _decoded(secret.get("data") or {}) for secret in secrets}

    async def resources(self) -> list[dict[str, Any]]:
        """Return the ListenerClass of the demonstration and the agency's resources."""
        objects: list[dict[str, Any]] = await self.kubectl.json("get", KINDS, f"--namespace={AGENCY}")
        return [
            resource
            for resource in objects
            if resource["metadata"].get("namespace") or resource["metadata"]["name"] == CLASS
        ]


def _decoded(data: Mapping[str, str]) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


@contextlib.contextmanager
def connect(kubeconfig: Path | None, folder: Path) -> Iterator[Cluster]:
    """Yield the cluster of a kubeconfig, or a local control plane that ends with the block.

    Raises:
        ConfigurationError: the kubeconfig does not exist.
    """
    if kubeconfig is not None:
        if not kubeconfig.is_file():
            raise model.ConfigurationError(
                f"there is no kubeconfig {kubeconfig}", "Say KUBECONFIG=FILE, or leave it out."
            )
        call = kubectl.Kubectl(programs.kubectl(), kubeconfig.absolute(), folder / "kubectl-cache")
        try:
            endpoint = kubectl.endpoint(call)
        except ValueError as error:
            raise model.ConfigurationError(str(error), "Add certificate-authority-data to it.") from error
        yield Cluster(call, endpoint, folder, is_given=True)
        return
    with control_plane.running(folder / "control-plane") as running:
        call = kubectl.Kubectl(programs.kubectl(), running.kubeconfig, folder / "kubectl-cache")
        yield Cluster(call, running.endpoint, folder, is_given=False)


def version(cluster: Cluster) -> str:
    """Return the version of the API server."""
    return str(json.loads(cluster.kubectl.run("version", "--output=json"))["serverVersion"]["gitVersion"])


@contextlib.contextmanager
def installed(cluster: Cluster) -> Iterator[None]:
    """Install definitions, namespaces and RBAC. From a given cluster they are removed at the end of the block.

    Raises:
        ConfigurationError: the cluster already has one of the namespaces, or the class.
    """
    call = cluster.kubectl
    _refuse_existing(call)
    call.run("apply", "--server-side", *_files(*sorted((ROOT / "crds").glob("usher.dev_*.yaml"))))
    call.wait_established(*(f"{kind}.usher.dev" for kind in KINDS.split(",")))
    try:
        for namespace in (SYSTEM, CONFIGURATION, AGENCY):
            call.run("create", "namespace", namespace)
        call.run("apply", "--server-side", *_files(*_RIGHTS))
        account = f"--serviceaccount={SYSTEM}:{OPERATOR}"
        call.run(
            "create", "rolebinding", "usher-agency", f"--namespace={AGENCY}", "--clusterrole=usher-agency", account
        )
        yield
    finally:
        if cluster.is_given:
            remove(call)


def _refuse_existing(call: kubectl.Kubectl) -> None:
    existing = call.run(
        "get", "namespaces", SYSTEM, CONFIGURATION, AGENCY, "--ignore-not-found", "--output=name"
    ).split()
    with contextlib.suppress(kubectl.KubectlError):  # the definition may not be installed
        existing += call.run("get", "listenerclass", CLASS, "--ignore-not-found", "--output=name").split()
    if existing:
        raise model.ConfigurationError(
            f"the cluster has {', '.join(existing)} already",
            "They would be changed, and deleted at the end: take another cluster, or delete them if nobody needs them.",
        )


def remove(call: kubectl.Kubectl) -> None:
    """Remove everything that `installed` created, and wait until it is gone."""
    call.run("delete", "listenerclass", CLASS, "--ignore-not-found")
    call.run("delete", "--ignore-not-found", "--wait=false", *_files(*_RIGHTS))
    call.run("delete", "namespaces", SYSTEM, CONFIGURATION, AGENCY, "--ignore-not-found", "--timeout=50s")


def _files(*paths: Path) -> list[str]:
    return [f"--filename={path}" for path in paths]
