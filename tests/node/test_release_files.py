"""`make release` without network, twice: the same files."""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import release
from container_image import engine, offline

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two releases on one base image."""
    first, second = (tmp_path_factory.mktemp(name) for name in ("first", "second"))
    environment = offline.environment(tmp_path_factory.mktemp("buildah"))
    offline.add_base(environment)
    for folder in (first, second):
        flags = (f"BASE_IMAGE={offline.BASE}", f"WHEELHOUSE={offline.wheelhouse()}", f"ARGS=--folder={folder}")
        _run("make", "release", *flags, environment=environment)
        _run("buildah", "rmi", f"usher:{engine.version()}", environment=environment)
    yield first, second
    _run("buildah", "rmi", "--all", "--force", environment=environment)


def _run(*command: str, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=engine.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_builds_of_a_commit_are_alike(folders: tuple[Path, Path]) -> None:
    first, second = (sums(folder) for folder in folders)
    assert first == second
    for folder in folders:
        assert sums(folder) == {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in folder.iterdir()
            if file.name != release.CHECKSUMS
        }


def sums(folder: Path) -> dict[str, str]:
    lines = (folder / release.CHECKSUMS).read_text("ascii").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def test_release_has_wheels_image_chart_and_components(folders: tuple[Path, Path]) -> None:
    version = engine.version()
    image = f"usher-image-{version}-linux-{os.uname().machine}.tar"
    names = {file.name for file in folders[0].iterdir()}
    assert names == {
        f"usher_gateway-{version}-py3-none-any.whl",
        f"usher_operator-{version}-py3-none-any.whl",
        f"usher-{version}.tgz",
        f"usher-{version}.cdx.json",
        image,
        release.CHECKSUMS,
    }
    with tarfile.open(folders[0] / image) as archive:
        index = archive.extractfile("index.json")
        assert index is not None
        (manifest,) = json.load(index)["manifests"]
    assert manifest["annotations"] == {"org.opencontainers.image.ref.name": f"usher:{version}"}


def test_list_of_components_has_every_pinned_package(folders: tuple[Path, Path]) -> None:
    components = json.loads((folders[0] / f"usher-{engine.version()}.cdx.json").read_text("utf-8"))["components"]
    listed = {f"{component['name']}=={component['version']}" for component in components}
    text = (engine.ROOT / "requirements" / "image.txt").read_text("utf-8")
    assert listed == {line.split(" ")[0] for line in text.splitlines() if "==" in line and not line.startswith("#")}
