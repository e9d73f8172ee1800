"""The cluster of a test run: a local one, or one that the user names."""

import contextlib
import json
import os
import secrets
import ssl
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from local_cluster import control_plane, foreign, kubeconfigs, kubectl, programs
from support import audit, waiting

# Variable with the kubeconfig of a cluster to use in place of a local one; `make test KUBECONFIG=…` sets it.
GIVEN = "USHER_TEST_KUBECONFIG"

MADE = "usher-tests"  # Label of the namespaces that tests create. Tests may delete everything in them.
_SERVED_SECONDS = 180.0  # Three API servers start at once, and each kubectl takes seconds on a busy machine
DEFINITIONS = Path(__file__).parents[2] / "crds"  # Folder of Usher's custom resource definitions


@dataclass(frozen=True)
class Cluster:
    """A cluster and its administrator's access."""

    kubectl: kubectl.Kubectl
    endpoint: kubeconfigs.Endpoint
    token: str
    audit: audit.Log
    """The requests to the API server; none for a given cluster, because its log is not readable."""

    @property
    def kubeconfig(self) -> Path:
        return self.kubectl.kubeconfig

    def define(self, files: Sequence[Path]) -> None:
        """Apply custom resource definitions, and wait until the server serves them.

        The server may answer requests for their objects with 404 for a moment after they are Established.
        """
        named = [f"--filename={file}" for file in files]
        self.kubectl.run("apply", "--server-side", "--force-conflicts", *named)
        self.kubectl.wait_established(*_definitions(files))
        served = ",".join(_definitions(files))
        waiting.poll(lambda: self._error_of_list(served), lambda error: not error, limit_seconds=_SERVED_SECONDS)

    def _error_of_list(self, kinds: str) -> str:
        try:
            self.kubectl.run("get", kinds, "--all-namespaces", "--output=name")
        except kubectl.KubectlError as error:
            return str(error)
        return ""

    def define_missing(self, foreign_definitions: foreign.Foreign) -> None:
        """Apply another project's definitions, unless the cluster already has a version of them."""
        names = self.kubectl.run("get", "customresourcedefinitions", "--output=name")
        if not any(name.endswith(f".{foreign_definitions.group}") for name in names.split()):
            self.define(foreign.files(foreign_definitions))


def _definitions(files: Sequence[Path]) -> list[str]:
    """Return the definitions' names from their file names (GROUP_PLURAL.yaml)."""
    pairs = [file.stem.split("_", 1) for file in files]
    return [f"{plural}.{group}" for group, plural in pairs if not plural.startswith("vap")]


def own_definitions() -> list[Path]:
    return sorted(DEFINITIONS.glob("usher.dev_*.yaml"))


def given() -> Path | None:
    """Return the kubeconfig that the user named, if any."""
    path = os.environ.get(GIVEN)
    return Path(path).absolute() if path else None


def require_local() -> None:
    """Skip a test if the user names a cluster.

    The test installs the chart under its usual names, and would change an install that the cluster has already.
    """
    if given() is not None:
        pytest.skip("a given cluster may have the chart under the same names")


def require_audit_log() -> None:
    """Skip a test of the requests that a program sent if the user names a cluster, whose audit log is not readable."""
    if given() is not None:
        pytest.skip("the audit log of a given cluster is not readable")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Provide the cluster of this run. A local one runs in the folder for the duration of the ``with`` block."""
    kubeconfig = given()
    if kubeconfig is None:
        with control_plane.running(folder / "cluster") as running, _administered(running.kubeconfig, folder) as ready:
            yield Cluster(*ready, audit.Log(running.layout.audit))
        return
    refuse_one_in_use(kubectl.Kubectl(programs.kubectl(), kubeconfig, folder / "kubectl-cache"))
    log = audit.Log(folder / "audit.log")
    log.path.touch()
    with _administered(kubeconfig, folder) as ready:
        yield Cluster(*ready, log)


@dataclass(frozen=True)
class Restorable:
    """A local cluster whose etcd can be backed up and restored."""

    plane: control_plane.ControlPlane
    cluster: Cluster

    def restart(self, backup: Path | None = None) -> None:
        """Restart the control plane, with the data of a backup if one is given, until it serves Usher's kinds again.

        A starting API server knows its own administrator earlier than the rights of other accounts.
        """
        self.plane.restart(backup)
        waiting.poll(self._serves_account, limit_seconds=control_plane.LIMIT_SECONDS)

    def _serves_account(self) -> bool:
        """Return whether the tests' account can read all kinds."""
        endpoint = self.cluster.endpoint
        context = ssl.create_default_context(cadata=endpoint.authority.decode())
        headers = {"Authorization": f"Bearer {self.cluster.token}"}
        try:
            for plural in ("listenerclasses", "tenants", "listeners", "destinations"):
                url = f"{endpoint.server}/apis/usher.dev/v1alpha1/{plural}"
                with urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context, timeout=10):
                    pass
        except OSError:
            return False
        return True


@contextlib.contextmanager
def restorable(folder: Path) -> Iterator[Restorable]:
    """Provide a restorable cluster with Usher's definitions for the duration of a ``with`` block."""
    plane = control_plane.ControlPlane(folder / "cluster", programs.control_plane())
    try:
        running = plane.start()
        with _administered(running.kubeconfig, folder) as ready:
            restorable_cluster = Cluster(*ready, audit.Log(running.layout.audit))
            restorable_cluster.define(own_definitions())
            yield Restorable(plane, restorable_cluster)
    finally:
        plane.stop()


def refuse_one_in_use(call: kubectl.Kubectl) -> None:
    """Refuse a cluster with resources of Usher, because tests delete definitions and thereby all of their objects.

    Raises:
        AssertionError: The cluster has such resources.
    """
    defined = call.run("get", "customresourcedefinitions", "--output=name").split()
    plurals = [name.partition("/")[2] for name in defined if name.endswith((".usher.dev", ".cert-manager.io"))]
    own_namespaces = call.run("get", "namespaces", f"--selector={MADE}", "--output=name").split()
    answer = json.loads(call.run("get", ",".join(plurals), "--all-namespaces", "--output=json")) if plurals else {}
    places = [each["metadata"] | {"kind": each["kind"]} for each in answer.get("items", ())]
    others = [each for each in places if f"namespace/{each.get('namespace')}" not in own_namespaces]
    named = sorted(f"{each['kind']} {each.get('namespace', '')}/{each['name']}" for each in others)
    assert not named, (
        f"{call.kubeconfig} leads to a cluster that is in use: the tests would delete {', '.join(named[:5])}"
        f" ({len(named)} in all). Give a cluster without them; if a run that was broken off left them, delete them"
    )


@contextlib.contextmanager
def _administered(kubeconfig: Path, folder: Path) -> Iterator[tuple[kubectl.Kubectl, kubeconfigs.Endpoint, str]]:
    """Create an administrator account with a token, because only kubectl supports the login of every kubeconfig."""
    call = kubectl.Kubectl(programs.kubectl(), kubeconfig, folder / "kubectl-cache")
    name = f"usher-tests-{secrets.token_hex(4)}"
    call.run("create", "namespace", name)
    try:
        call.run("create", "serviceaccount", "administrator", f"--namespace={name}")
        account = f"--serviceaccount={name}:administrator"
        call.run("create", "clusterrolebinding", name, "--clusterrole=cluster-admin", account)
        token = call.run("create", "token", "administrator", f"--namespace={name}", "--duration=12h").strip()
        yield call, kubectl.endpoint(call), token
    finally:
        call.run("delete", "clusterrolebinding", name, "--ignore-not-found")
        call.run("delete", "namespace", name, "--wait=false")
