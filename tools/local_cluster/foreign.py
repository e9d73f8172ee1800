"""Other projects' custom resource definitions, with which the API server validates Usher's children and the chart."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local_cluster import toolchain

MODULE = Path(__file__).parent / "go" / "foreign_crds"


@dataclass(frozen=True)
class Foreign:
    """A project's definitions: their Go module, their folder in it, and the group that their names end with."""

    module: str
    folder: str
    group: str
    plurals: tuple[str, ...] = ()
    """The kinds that are needed; empty: all."""


GATEWAY_API = Foreign("sigs.k8s.io/gateway-api", "config/crd/standard", "gateway.networking.k8s.io")
CERT_MANAGER = Foreign("github.com/cert-manager/cert-manager", "deploy/crds", "cert-manager.io")
PROMETHEUS_OPERATOR = Foreign(
    "github.com/prometheus-operator/prometheus-operator",
    "example/prometheus-operator-crd",
    "monitoring.coreos.com",
    ("podmonitors", "prometheusrules", "servicemonitors"),
)
ALL = (GATEWAY_API, CERT_MANAGER)  # The definitions of Usher's children


def files(foreign: Foreign) -> list[Path]:
    """Return the definitions' files in Go's module cache; download them if needed, checked by go.sum."""
    answer = subprocess.run(
        [toolchain.find(), "mod", "download", "-json", foreign.module],
        cwd=MODULE,
        env=toolchain.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    told = json.loads(answer.stdout or "{}")
    if answer.returncode != 0 or "Dir" not in told:
        raise toolchain.ToolchainError(f"could not fetch {foreign.module}: {told.get('Error', answer.stderr)}")
    definitions = sorted((Path(told["Dir"]) / foreign.folder).glob("*.yaml"))
    return [file for file in definitions if not foreign.plurals or file.stem.rpartition("_")[2] in foreign.plurals]
