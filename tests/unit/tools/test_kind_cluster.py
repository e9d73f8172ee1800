"""`make kind` runs the commands that docs/install.md shows, with flags that the programs have."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kind_cluster import __main__ as command_line
from kind_cluster import steps
from local_cluster import helm, programs

ROOT = Path(__file__).parents[3]
SHOWN = steps.commands(steps.ROUTES, steps.USHER, steps.AGENCY, steps.VISIT)


def test_page_shows_every_command() -> None:
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [command for command in SHOWN if command not in steps.commands(*blocks)] == []


@pytest.mark.parametrize("command", [one for one in SHOWN if one.startswith(("kubectl", "helm"))])
def test_programs_have_the_flags_of_every_command(command: str) -> None:
    program, *words = shlex.split(command.partition(" -- ")[0])
    path = programs.kubectl() if program == "kubectl" else helm.find()
    name = words[: 2 if words[0] == "create" else 1]
    shown = subprocess.run([path, *name, "--help"], capture_output=True, text=True, check=True, timeout=30).stdout
    shown += subprocess.run([path, "options"], capture_output=True, text=True, check=False, timeout=30).stdout
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [flag for flag in flags if not re.search(rf"{flag}\b", shown)] == []


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


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "kind" else f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "argv", ["kind_cluster", "up"])
    assert command_line.main() == 1
    assert capsys.readouterr().err.endswith("not on the PATH: kind\n")
