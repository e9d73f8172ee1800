"""Builds programs from Go modules into the cache, and shows the progress."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from local_cluster import cache, toolchain

MODULES = Path(__file__).parent / "go"
EVERY_SECONDS = 20.0  # Seconds between two lines of progress if the output is not a terminal


class BuildError(Exception):
    """A program could not be built; the message ends with Go's output."""


@dataclass(frozen=True)
class Program:
    """A program of a Go module in `go/`."""

    name: str
    title: str
    module: str
    """Folder of the module in `go/`."""
    package: str
    packages: int
    """About how many packages a build from nothing compiles."""
    minutes: str
    """How long that takes on 2 cores."""
    versions: tuple[tuple[str, str], ...] = ()
    """Variables that are set at link time, such as versions."""
    prepare: Callable[[Path], None] | None = None
    """Changes a copy of the module in which the program is then built."""

    @property
    def folder(self) -> Path:
        return MODULES / self.module


def build(program: Program) -> Path:
    """Return a program. Build it if the cache has none of these sources, which takes minutes."""
    entry = cache.folder() / program.name / cache.key(*_sources(program.folder))
    with cache.locked(entry):
        if not entry.exists():
            _build(program, entry)
    return entry


def module_version(module: str, requirement: str) -> str:
    """Return the version, such as ``v1.2.3``, that the go.mod of a module in `go/` requires."""
    file = MODULES / module / "go.mod"
    required = re.search(rf"^\s+{re.escape(requirement)} (v\S+)", file.read_text("utf-8"), re.MULTILINE)
    if required is None:
        raise BuildError(f"{file} names no version of {requirement}")
    return required[1]


def _sources(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in {".go", ".mod", ".sum"})


def _build(program: Program, entry: Path) -> None:
    draft, copy = entry.with_name(f"{entry.name}.new"), entry.with_name(f"{entry.name}.module")
    folder = program.folder
    try:
        if program.prepare is not None:
            shutil.rmtree(copy, ignore_errors=True)  # of a build that was interrupted
            folder = Path(shutil.copytree(folder, copy))
            program.prepare(folder)
        _compile(program, folder, draft)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    draft.rename(entry)


def _compile(program: Program, folder: Path, target: Path) -> None:
    variables = [f"-X {name}={value}" for name, value in program.versions]
    flags = f"-ldflags={' '.join(['-s -w', *variables])}"
    command = [toolchain.find(), "build", "-v", "-trimpath", "-buildvcs=false", flags, "-o", target, program.package]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=toolchain.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = _follow(program, process.stderr)
    if process.wait() != 0:
        raise BuildError(f"{program.title} could not be built:\n" + "\n".join(said[-20:]))


def _follow(program: Program, lines: Iterable[str]) -> list[str]:
    """Show the progress of Go by its output, a line per module and package; return the whole output."""
    print(f"Building {program.title} for the tests: once, {program.minutes} on 2 cores ...", file=sys.stderr)
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
            built = f"{packages} of about {program.packages:,} packages built"
            _show(f"  {now - started:4.0f} s: {modules} modules fetched, {built}")
    _show(f"  {time.monotonic() - started:4.0f} s: done\n")
    return said


def _show(line: str) -> None:
    terminal = sys.stderr.isatty()
    sys.stderr.write(f"\r{line}{'' if terminal else os.linesep}")
    sys.stderr.flush()
