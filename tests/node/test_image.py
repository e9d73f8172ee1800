"""The container image: built without a registry and without network, and run as the chart's pods run it."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from container_image import engine
from support import images

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]

CHART = yaml.safe_load((engine.ROOT / "charts" / "usher" / "Chart.yaml").read_text("utf-8"))


@pytest.mark.parametrize("program", ["usher", "usher-operator"])
def test_both_programs_answer_on_a_read_only_root(image: images.Image, program: str) -> None:
    assert image.run(program, "--version").strip() == CHART["appVersion"]
    assert f"Usage: {program}" in image.run(program, "--help")
    assert f"Usage: {program} run" in image.run(program, "run", "--help")


def test_programs_run_as_the_user_of_the_image_and_cannot_write(image: images.Image) -> None:
    assert image.config["User"] == "65532:65532"
    assert image.run("id", "-u").strip() == "65532"
    assert image.run("sh", "-c", "touch /opt/usher/new 2>&1 || true").strip().endswith("Read-only file system")
    programs = [image.root / "opt" / "usher", *(image.root / "opt" / "usher").rglob("*")]
    assert {file.lstat().st_uid for file in programs} == {0}
    assert [file for file in programs if not file.is_symlink() and file.stat().st_mode & 0o022] == []


def test_every_module_of_both_packages_can_be_imported(image: images.Image) -> None:
    script = """
import importlib, pkgutil, usher_gateway, usher_operator
for package in (usher_gateway, usher_operator):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            print(module.name)
"""
    imported = image.run("/opt/usher/bin/python", "-c", script).split()
    assert {"usher_gateway.app", "usher_operator.app"} <= set(imported)


@pytest.fixture(params=["65532:65532", "1000680000:0"], ids=["own-user", "user-of-openshift"])
def gateway(image: images.Image, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A gateway with the quickstart and a writable data folder."""
    manifests = (engine.ROOT / "examples" / "quickstart.yaml").read_text("utf-8")
    flags = ["--data=/tmp/data", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--log-format=json"]
    script = 'cat > /tmp/manifests.yaml; exec usher run /tmp/manifests.yaml "$@"'
    process = subprocess.Popen(
        image.command("sh", "-c", script, "sh", *flags, user=request.param),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(manifests)
    process.stdin.close()
    with process:
        yield process
        process.kill()


def test_gateway_serves_and_stops_on_a_read_only_root(gateway: subprocess.Popen[str]) -> None:
    assert gateway.stdout is not None
    lines = []
    for line in gateway.stdout:
        lines.append(line)
        if '"gateway_started"' in line:
            break
    started = json.loads(lines[-1])
    assert started["event"] == "gateway_started", lines
    with urllib.request.urlopen(f"{started['admin']}/readyz", timeout=20) as answer:
        assert answer.status == 200
    children = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text("ascii").split()
    os.kill(int(children[0]), signal.SIGTERM)
    assert gateway.wait(timeout=60) == 0
    assert '"gateway_stopped"' in gateway.stdout.read()


def test_image_is_small(image: images.Image) -> None:
    print(f"{image.megabytes:.0f} MB above the base, built in {image.build_seconds:.0f} s")
    assert image.megabytes < 120


def test_image_has_no_compiler_and_no_cache_of_a_package_manager(image: images.Image) -> None:
    compilers = {"cc", "gcc", "g++", "c++", "clang", "as", "ld", "rustc", "cargo", "go", "make"}
    folders = [image.root / folder for folder in ("opt/usher/bin", "usr/local/bin", "usr/bin", "bin", "usr/sbin")]
    programs = {file.name for folder in folders for file in folder.iterdir()}
    assert "usher" in programs
    assert programs & compilers == set()
    assert "pip" not in programs
    leftovers = [
        "**/*.whl",
        "opt/usher/**/*.pyx",
        "opt/usher/**/*.pyi",
        "**/.cache",
        "var/cache/apt/archives/*.deb",
        "var/lib/apt/lists/*_*",
        "source",
        "dist",
        "build",
    ]
    assert [leftover for pattern in leftovers for leftover in image.root.glob(pattern)] == []


def test_labels_say_what_the_image_is(image: images.Image) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in image.config["Labels"].items() if prefix in name}
    assert labels == {
        "title": "Usher",
        "description": "Gateway and Kubernetes operator for Purple WiFi's webhooks",
        "authors": "The Usher authors",
        "licenses": "Apache-2.0",
        "version": CHART["appVersion"],
        "revision": engine.revision(),
        "base.name": "localhost/usher-base:bookworm",
    }
