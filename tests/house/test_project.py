"""The project as a whole: targets, dependencies, licence, and nothing of the machine it was made on."""

import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

from house import source

MAKEFILE = (source.ROOT / "Makefile").read_text("utf-8")
REQUIREMENTS = source.ROOT / "requirements"


def normal(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503), of a requirement that may have a version."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", name, maxsplit=1)[0]).lower()


def dependencies(package: str) -> set[str]:
    project = tomllib.loads((source.ROOT / package / "pyproject.toml").read_text("utf-8"))["project"]
    return {normal(name) for name in project["dependencies"]}


def test_every_target_is_in_make_help() -> None:
    make = shutil.which("make")
    assert make
    shown = subprocess.run(
        [make, "help"], cwd=source.ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    assert targets
    assert set(re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE)) == targets
    phony = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == targets


def test_the_gate_runs_what_the_readme_names() -> None:
    assert "exec make test" in (source.ROOT / ".ci" / "run").read_text("utf-8")
    assert re.search(r"^test: check ", MAKEFILE, re.MULTILINE), "make test includes make check"


def test_every_dependency_has_its_reason_and_no_other_has_one() -> None:
    rows = {normal(row[0].strip("`")): row for row in source.table_rows((source.DOCS / "dependencies.md").read_text())}
    wanted = (dependencies("gateway") | dependencies("operator")) - {"usher-gateway"}
    assert set(rows) == wanted
    for name, row in rows.items():
        assert len(row) == 4, name
        assert all(len(cell) > 3 for cell in row), f"{name}: what it saves, who keeps it, what was weighed"


def test_everything_that_is_installed_is_pinned_with_hashes() -> None:
    text = (REQUIREMENTS / "dev.txt").read_text("utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]  # before the first: how it was made
    pinned = {
        normal(entry) for entry in entries if re.match(r"[\w.\-]+==\S+ \\\n", entry) and "--hash=sha256:" in entry
    }
    assert len(pinned) == len([entry for entry in entries if re.match(r"[a-z0-9]", entry)])
    tools = {
        normal(line) for line in (REQUIREMENTS / "dev.in").read_text().splitlines() if line and line[0] not in "#-"
    }
    wanted = tools | dependencies("gateway") | dependencies("operator")
    assert wanted - {"usher-gateway"} <= pinned


def test_the_licence_is_apache_2() -> None:
    text = (source.ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    for package in ("gateway", "operator"):
        project = tomllib.loads((source.ROOT / package / "pyproject.toml").read_text("utf-8"))["project"]
        assert project["license"] == "Apache-2.0"


def traces() -> list[str]:
    """What only this machine, or a place to get packages from, could have put into a file."""
    registries = ["pypi" + ".org", "python" + "hosted.org", "index" + "-url"]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    )
    configured = re.findall(r"https?://(?:[^@/'\s]+@)?([\w.-]+)", listed.stdout)
    here = [str(source.ROOT), str(Path.home())]
    machine = [socket.gethostname()] if len(socket.gethostname()) > 8 else []
    return [*registries, *configured, *(place for place in here if len(Path(place).parts) > 2), *machine]


def test_no_file_names_a_registry_or_a_place_on_this_machine() -> None:
    flags = {source.ROOT / "Makefile", *REQUIREMENTS.glob("*.txt")}  # they say that pip-compile leaves the index out
    for trace in traces():
        allowed = flags if trace.startswith("index") else set()
        naming = [
            source.shown(file) for file in source.files() if file not in allowed and trace.encode() in file.read_bytes()
        ]
        assert naming == []


def test_no_file_names_a_home() -> None:
    home = re.compile(rb"(?<![\w./])/(?:home|Users)/\w+/|(?<![\w./])/root/\w")
    naming = [source.shown(file) for file in source.files() if home.search(file.read_bytes())]
    assert naming == []
