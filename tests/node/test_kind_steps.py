"""The commands that `make node` prints, in its shell, from no Usher to the first visits.

They are those of `make kind`, without the steps for an Ingress controller and cert-manager, which the node has.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import playground
from support import sites, waiting

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
SYSTEM = "usher-system"
DEFINITIONS = [f"{kind}.usher.dev" for kind in ("listenerclasses", "tenants", "listeners", "destinations")]


class Shell:
    """The shell of `make node`."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._environment = playground.environment(kubeconfig, folder)

    def run(self, command: str) -> str:
        """Run a command in the root of the project, and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(site: sites.Site, tmp_path: Path) -> Iterator[Shell]:
    if site.local is None:
        pytest.skip("the image of a given cluster has another name")
    site.local.tag(site.image, playground.IMAGE)
    playground.furnish(site.local, archive=None)
    user = Shell(site.kubectl.kubeconfig, tmp_path)
    yield user
    user.run(f"helm uninstall usher --namespace {SYSTEM} --ignore-not-found --wait")
    later = "--ignore-not-found --wait=false"
    user.run(f"kubectl delete namespace agency {SYSTEM} {SYSTEM}-config {later}")
    user.run(f"kubectl delete storageclass {playground.STORAGE_CLASS}")  # other tests make volumes without a class
    volumes = " ".join(f"{playground.STORAGE_CLASS}-{number}" for number in range(playground.VOLUMES))
    user.run(f"kubectl delete persistentvolume {volumes} {later}")
    user.run(f"kubectl delete customresourcedefinition {' '.join(DEFINITIONS)} --ignore-not-found")


def test_commands_lead_from_an_empty_cluster_to_the_first_visits(shell: Shell) -> None:
    commands = playground.commands()
    for command in commands:
        shell.run(command)

    def total() -> dict[str, int]:
        usage: dict[str, dict[str, int]] = json.loads(shell.run(f"{commands[-1]} --output=json"))
        return usage["total"]

    waiting.poll(total, lambda counts: counts["visits"] == counts["delivered"] > 0)
