"""The choice of a container engine, the command that builds the image, and what the offline build needs."""

from pathlib import Path

import pytest

from container_image import engine


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only one on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def install(folder: Path, name: str, script: str = "exit 0") -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_first_working_engine_builds_the_image(programs: Path) -> None:
    install(programs, "buildah")
    assert engine.find() == "buildah"
    install(programs, "docker")
    assert engine.find() == "docker"


def test_engine_that_does_not_work_is_passed_over(programs: Path) -> None:
    install(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    install(programs, "podman")
    assert engine.find() == "podman"


def test_machine_without_an_engine_is_told_what_to_install(programs: Path) -> None:
    install(programs, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    with pytest.raises(engine.ImageError) as refused:
        engine.find()
    assert str(refused.value).splitlines() == [
        "An image needs docker, podman or buildah. None of them works here:",
        "  docker: Cannot connect to the Docker daemon",
        "  podman: not installed",
        "  buildah: not installed",
    ]


def test_wanted_engine_is_not_replaced_by_another(programs: Path) -> None:
    install(programs, "docker")
    with pytest.raises(engine.ImageError, match="podman cannot build the image: not installed"):
        engine.find("podman")


def test_command_names_image_base_and_wheelhouse() -> None:
    command = engine.command("podman", "shop/usher:1", base="python:3.12-slim", wheelhouse=Path("wheels"))
    assert command[:3] == ["podman", "build", "--tag=shop/usher:1"]
    assert "--build-arg=BASE_IMAGE=python:3.12-slim" in command
    assert f"--build-context=wheelhouse={Path('wheels').absolute()}" in command
    assert f"--build-arg=VERSION={engine.version()}" in command
