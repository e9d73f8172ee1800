"""The shell of `make node` leaves no files outside of its folder."""

import subprocess
from pathlib import Path

import playground
from support import clusters


def test_programs_of_the_shell_write_nothing_into_the_home_folder(cluster: clusters.Cluster, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "shell"
    home.mkdir()
    folder.mkdir()
    environment = playground.environment(cluster.kubeconfig, folder) | {"HOME": str(home)}
    for command in ("kubectl get namespaces", "helm list"):
        subprocess.run(["bash", "-c", command], env=environment, check=True)
    assert list(home.iterdir()) == []
