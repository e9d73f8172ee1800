"""Custom resource definitions of others, by which the API server judges Usher's children."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local_cluster import toolchain

MODULE = Path(__file__).parent / "go" / "foreign_crds"


@dataclass(frozen=True)
class Foreign:
    """A project's definitions: in which module, in which folder of it, and a name that all of theirs end with."""

    module: str
    folder: str
    group: str


GATEWAY_API = Foreign("sigs.k8s.io/gateway-api", "config/crd/standard", "gateway.networking.k8s.io")
CERT_MANAGER = Foreign("github.com/cert-manager/cert-manager", "deploy/crds", "cert-manager.io")
ALL = (GATEWAY_API, CERT_MANAGER)


def files(foreign: Foreign) -> list[Path]:
    """The definitions' files, in Go's module cache; fetched where they are not there yet, and checked by go.sum."""
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
    return sorted((Path(told["Dir"]) / foreign.folder).glob("*.yaml"))
