"""`make kind` runs the commands that docs/install.md shows, with flags that the programs have."""

import re
import shlex
from pathlib import Path

from kind_cluster import steps

ROOT = Path(__file__).parents[3]
SHOWN = steps.commands(steps.ROUTES, steps.USHER, steps.AGENCY, steps.VISIT)


def test_page_shows_every_command() -> None:
    assert [command for command in SHOWN if command not in steps.commands(*blocks("docs/install.md"))] == []


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
