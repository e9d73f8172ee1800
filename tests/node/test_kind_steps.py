"""The commands of `make kind` after its cluster exists, from no Usher to the first visits.

The node of these tests has an Ingress controller and cert-manager already, which are the steps left out here.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kind_cluster import steps
from local_cluster import helm, isolation, programs
from support import sites, waiting

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SYSTEM = "usher-system"
DEFINITIONS = [f"{kind}.usher.dev" for kind in ("listenerclasses", "tenants", "listeners", "destinations")]


class Shell:
    """A shell of a user who has kubectl, helm and usher on the PATH."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        (folder / "kubectl").symlink_to(programs.kubectl())
        (folder / "helm").symlink_to(helm.find())
        path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = os.environ | {"PATH": path, "KUBECONFIG": str(kubeconfig)}

    def run(self, command: str) -> str:
        """Run a command in the root of the project, and return what it prints."""
        done = subprocess.run(
            shlex.split(command), cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(site: sites.Site, tmp_path: Path) -> Iterator[Shell]:
    if site.local is None:
        pytest.skip("the image of a given cluster has another name")
    site.local.tag(site.image, f"docker.io/library/{steps.IMAGE}")
    site.local.make_volume(SYSTEM)
    user = Shell(site.kubectl.kubeconfig, tmp_path)
    yield user
    user.run(f"helm uninstall usher --namespace {SYSTEM} --ignore-not-found --wait")
    later = "--ignore-not-found --wait=false"
    user.run(f"kubectl delete namespace agency {SYSTEM} {SYSTEM}-config {later}")
    user.run(f"kubectl delete persistentvolume {SYSTEM} {later}")
    user.run(f"kubectl delete customresourcedefinition {' '.join(DEFINITIONS)} --ignore-not-found")


def test_commands_lead_from_an_empty_cluster_to_the_first_visits(shell: Shell) -> None:
    for command in steps.commands(steps.USHER, steps.AGENCY):
        shell.run(command)
    print_url, *visit = steps.commands(steps.VISIT)
    url = shell.run(print_url)
    assert url.startswith("https://hooks.usher.example/")
    for command in visit:
        shell.run(command.replace("URL", url).replace("127.0.0.1", isolation.ADDRESS))

    def total() -> dict[str, int]:
        usage: dict[str, dict[str, int]] = json.loads(shell.run(f"{visit[-1]} --output=json"))
        return usage["total"]

    waiting.poll(total, lambda counts: counts["visits"] == counts["delivered"] > 0)
