"""The project as a whole: targets, dependencies, licence, and no trace of a developer's machine."""

import itertools
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

from support import source

MAKEFILE = (source.ROOT / "Makefile").read_text("utf-8")
REQUIREMENTS = source.ROOT / "requirements"


def normal(name: str) -> str:
    """The normalised name (PEP 503) of the distribution that a requirement asks for."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", name, maxsplit=1)[0]).lower()


def dependencies(package: str) -> set[str]:
    project = tomllib.loads((source.ROOT / package / "pyproject.toml").read_text("utf-8"))["project"]
    optional = project.get("optional-dependencies", {}).values()
    return {normal(name) for name in [*project["dependencies"], *itertools.chain.from_iterable(optional)]}


def pins(requirements: Path) -> set[str]:
    """The lines `name==version` of a file, each of which has hashes and no address."""
    text = requirements.read_text("utf-8")
    assert "://" not in text
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]  # the first part is the header of pip-compile
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
    return {entry.split(" ", 1)[0] for entry in entries}


def test_makefile_and_readme_state_the_same_size() -> None:
    printed = re.search(r"Installing Usher into \S+ \(once, (\d+ MB)\)", MAKEFILE)
    assert printed is not None
    stated = re.findall(r"\b1 minute[^|.]*?, (\d+ MB)", (source.ROOT / "README.md").read_text("utf-8"))
    assert stated == [printed[1]] * 2


def test_make_help_lists_every_target() -> None:
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


def test_make_clean_leaves_the_data_folder_of_usher_run(tmp_path: Path) -> None:
    make = shutil.which("make")
    assert make
    (tmp_path / "Makefile").write_text(MAKEFILE)
    install_key, cache = tmp_path / "data" / "install.key", tmp_path / ".mypy_cache" / "cached"
    for file in (install_key, cache):
        file.parent.mkdir()
        file.touch()
    subprocess.run([make, "clean"], cwd=tmp_path, capture_output=True, timeout=30, check=True)
    assert install_key.exists()
    assert not cache.exists()


def test_ci_runs_make_test_and_the_tests_on_a_node() -> None:
    run = (source.ROOT / ".ci" / "run").read_text("utf-8")
    assert re.findall(r"^ *(make .+)$", run, re.MULTILINE) == ["make test", "make test-node"]
    assert re.search(r"^test: check ", MAKEFILE, re.MULTILINE), "make test includes make check"


def test_dependencies_page_explains_exactly_the_dependencies() -> None:
    rows = {normal(row[0].strip("`")): row for row in source.table_rows((source.DOCS / "dependencies.md").read_text())}
    dependencies_of_usher = (dependencies("gateway") | dependencies("operator")) - {"usher-gateway"}
    assert set(rows) == dependencies_of_usher
    for name, row in rows.items():
        assert len(row) == 4, name
        assert all(len(cell) > 3 for cell in row), f"{name}: say why, who maintains it, and what was compared"


def test_every_requirement_is_pinned_with_hashes() -> None:
    pinned = {normal(pin) for pin in pins(REQUIREMENTS / "dev.txt")}
    tools = {
        normal(line) for line in (REQUIREMENTS / "dev.in").read_text().splitlines() if line and line[0] not in "#-"
    }
    required = tools | dependencies("gateway") | dependencies("operator")
    assert required - {"usher-gateway"} <= pinned


def test_image_has_the_runtime_dependencies_that_the_tests_use() -> None:
    image, build, dev = (pins(REQUIREMENTS / name) for name in ("image.txt", "build.txt", "dev.txt"))
    assert image <= dev, "run make requirements"
    assert build <= dev, "run make requirements"
    names = {normal(pin) for pin in image}
    required = (dependencies("gateway") | dependencies("operator")) - {"usher-gateway", "kubernetes"}
    assert required <= names
    assert names & {"kubernetes", "pip", "pytest", "hatchling"} == set()


def test_packages_and_chart_have_one_version() -> None:
    chart = (source.ROOT / "charts" / "usher" / "Chart.yaml").read_text("utf-8")
    versions = set(re.findall(r'^(?:version|appVersion): "?([^"\n]+)"?$', chart, re.MULTILINE))
    for package in ("gateway", "operator"):
        project = tomllib.loads((source.ROOT / package / "pyproject.toml").read_text("utf-8"))["project"]
        versions.add(project["version"])
    assert len(versions) == 1


def test_operator_folder_is_not_a_package() -> None:
    """Python would import `operator/__init__.py` in place of the standard library's `operator`."""
    assert not (source.ROOT / "operator" / "__init__.py").exists()


def traces() -> list[str]:
    """Texts that only this machine or a package registry can have put into a file."""
    registries = ["pypi" + ".org", "python" + "hosted.org", "index" + "-url"]
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60, check=False
    )
    configured = re.findall(r"https?://(?:[^@/'\s]+@)?([\w.-]+)", listed.stdout)
    here = [str(source.ROOT), str(Path.home())]
    machine = [socket.gethostname()] if len(socket.gethostname()) > 8 else []
    return [*registries, *configured, *(place for place in here if len(Path(place).parts) > 2), *machine]


def test_no_file_names_a_registry_or_a_path_of_this_machine() -> None:
    flags = {source.ROOT / "Makefile", *REQUIREMENTS.glob("*.txt")}  # pip-compile's own options contain the word
    for trace in traces():
        allowed = flags if trace.startswith("index") else set()
        naming = [
            source.shown(file) for file in source.files() if file not in allowed and trace.encode() in file.read_bytes()
        ]
        assert naming == []


def test_no_file_names_a_home_directory() -> None:
    home = re.compile(rb"(?<![\w./])/(?:home|Users)/\w+/|(?<![\w./])/root/\w")
    naming = [source.shown(file) for file in source.files() if home.search(file.read_bytes())]
    assert naming == []
