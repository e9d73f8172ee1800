"""`make kind` runs the commands that docs/install.md shows, with flags that the programs have."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kind_cluster import steps

ROOT = Path(__file__).parents[3]
VERSION = steps.IMAGE.partition(":")[2]
SHOWN = steps.commands(steps.ROUTES, steps.USHER, steps.AGENCY, steps.VISIT)


# In the pages, because the nodes of a real cluster do not have the image as kind's do.
FROM_REGISTRY = " --set image.repository=registry.example.com/usher"


def test_page_shows_every_command() -> None:
    shown = [command.replace(FROM_REGISTRY, "") for command in steps.commands(*blocks("docs/install.md"))]
    assert [command for command in SHOWN if command not in shown] == []


@pytest.mark.parametrize("page", ["README.md", "docs/install.md", "docs/operator.md"])
def test_page_installs_the_image_that_it_pushes(page: str) -> None:
    commands = steps.commands(*blocks(page))
    assert [command for command in commands if f"docker push registry.example.com/usher:{VERSION}" in command]
    installs = [command for command in commands if command.startswith("helm upgrade --install usher")]
    assert installs[0].count(FROM_REGISTRY) == 1


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_files_of_the_commands_exist() -> None:
    named = [
        word.partition("=")[2] or word
        for command in [*steps.commands(steps.CLUSTER), *SHOWN]
        for word in shlex.split(command)
    ]
    files = [word for word in named if word.startswith(("examples/", "charts/"))]
    assert len(files) >= 5
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_image_is_the_one_of_the_chart() -> None:
    chart = (ROOT / "charts" / "usher" / "Chart.yaml").read_text("utf-8")
    version = re.search(r'^appVersion: "(.+)"$', chart, re.MULTILINE)
    assert version is not None
    assert f"usher:{version[1]}" == steps.IMAGE


class Machine:
    """A machine whose docker, kind, kubectl, helm and make are scripts that write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self._folder = folder
        for name in ("docker", "kind", "kubectl", "helm", "make"):
            self.add(name, "exit 0")

    def add(self, program: str, script: str) -> None:
        file = self._folder / program
        file.write_text(f'#!/bin/sh\necho "{program} $*" >> {self.calls}\n{script}\n')
        file.chmod(0o755)

    def up(self) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        environment = os.environ | {"PATH": f"{self._folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "tools")}
        command = [sys.executable, "-m", "kind_cluster", "up"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


def test_second_run_keeps_the_cluster_and_the_namespace(tmp_path: Path) -> None:
    machine = Machine(tmp_path)  # whose cluster and namespace exist: `kind get kubeconfig` succeeds
    assert machine.up().returncode == 0
    assert "kind export kubeconfig --name usher" in machine.called()
    assert [call for call in machine.called() if "create cluster" in call or "create namespace" in call] == []


def test_first_run_creates_the_cluster_and_the_namespace(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add("kind", 'test "$1" != get')
    machine.add("kubectl", 'test "$1" != get')
    assert machine.up().returncode == 0
    assert "kind create cluster --name usher --config examples/kubernetes/kind.yaml --wait 2m" in machine.called()
    assert "kubectl create namespace agency" in machine.called()


def test_engine_without_a_daemon_ends_the_run_before_it_changes_anything(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add("docker", "echo 'Cannot connect to the Docker daemon.' >&2; exit 1")
    run = machine.up()
    assert run.returncode == 1
    assert run.stderr == "make kind needs docker with a running daemon: Cannot connect to the Docker daemon.\n"
    assert machine.called() == ["docker version"]


def test_failure_says_how_to_go_on(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add("helm", "exit 7")
    run = machine.up()
    assert run.returncode == 7
    assert "export KUBECONFIG=" in run.stderr
    assert "run `make kind` again" in run.stderr
    assert not any(call.startswith("kubectl apply") for call in machine.called())


def test_charts_from_repositories_have_a_version() -> None:
    fetched = [shlex.split(command) for command in steps.commands(steps.ROUTES)]
    assert [words for words in fetched if "--version" not in words] == []
