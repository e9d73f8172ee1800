"""Programs from Debian's packages, installed if they are missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

FOR_ADMINISTRATORS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # Folders of programs that not every PATH has


class MissingError(Exception):
    """Programs are missing and cannot be installed; the message names them."""


def missing(programs: Mapping[str, str]) -> list[str]:
    """Return the packages of the programs (name or path -> package) that this machine lacks."""
    return sorted({package for program, package in programs.items() if not _exists(program)})


def install_missing(programs: Mapping[str, str]) -> None:
    """Install the packages of missing programs.

    Raises:
        MissingError: This machine has no apt-get, or it failed.
    """
    packages = missing(programs)
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise MissingError(f"this needs {', '.join(packages)}: install what is missing.")
    print(f"Installing {', '.join(packages)} from Debian ...", file=sys.stderr, flush=True)
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "--quiet=2", *command], stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise MissingError(f"`apt-get {' '.join(command)}` ended with code {done.returncode}")


def _exists(program: str) -> bool:
    if program.startswith("/"):
        return Path(program).exists()
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *FOR_ADMINISTRATORS])) is not None
