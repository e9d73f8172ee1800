"""`make kind` runs the commands that docs/install.md shows, with flags that the programs have."""

import functools
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from kind_cluster import steps
from local_cluster import helm, programs

ROOT = Path(__file__).parents[3]
SHOWN = steps.commands(steps.ROUTES, steps.USHER, steps.AGENCY, steps.VISIT)


def test_page_shows_every_command() -> None:
    assert [command for command in SHOWN if command not in steps.commands(*blocks("docs/install.md"))] == []


PAGES = ("README.md", "docs/install.md", "docs/moving-to-a-cluster.md", "charts/usher/README.md")
GROUPS = {("create",), ("create", "secret"), ("rollout",)}
"""Words of kubectl after which another word of the command's name comes."""


def blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@functools.cache
def help_of(program: str, *name: str) -> str:
    path = programs.kubectl() if program == "kubectl" else helm.find()
    shown = [
        subprocess.run([path, *words], capture_output=True, text=True, check=False, timeout=30).stdout
        for words in ((*name, "--help"), ("options",))
    ]
    return "\n".join(shown)


@pytest.mark.parametrize("page", PAGES)
def test_kubectl_and_helm_have_the_flags_that_a_page_uses(page: str) -> None:
    parts = [
        part.strip()
        for command in steps.commands(*blocks(page))
        for part in re.split(r"\|(?!\s*base64decode)|&&", command)
    ]
    spelled = [part for part in parts if part.startswith(("kubectl ", "helm "))]
    assert spelled
    missing = []
    for command in spelled:
        program, *words = shlex.split(command.partition(" -- ")[0])
        size = 1
        while tuple(words[:size]) in GROUPS:
            size += 1
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        shown = help_of(program, *words[:size])
        missing += [(command, flag) for flag in flags if not re.search(rf"{flag}\b", shown)]
    assert missing == []


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
