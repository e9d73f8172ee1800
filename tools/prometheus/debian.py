"""The Prometheus of the tests: Debian's package, unpacked into the cache.

The package is not installed, because its installation would start a service on port 9090. apt checks the signature.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local_cluster import cache

_PACKAGE = "prometheus"
_ENTRY = "prometheus/debian"


class PrometheusError(Exception):
    """Prometheus could not be fetched; the message has a hint."""


class NotDebianError(PrometheusError):
    """The machine has neither Prometheus nor apt."""


def programs() -> Path:
    """Return the folder with ``prometheus`` and ``promtool``: the machine's, or the cache's after the first call.

    Raises:
        NotDebianError: The machine has neither the programs nor apt.
        PrometheusError: apt could not fetch the package.
    """
    installed = shutil.which("prometheus")
    if installed is not None and shutil.which("promtool") is not None:
        return Path(installed).parent
    entry = cache.folder() / _ENTRY
    with cache.locked(entry):
        if not entry.exists():
            _fetch(entry)
    return entry / "usr" / "bin"


def _fetch(entry: Path) -> None:
    if shutil.which("apt-get") is None:
        raise NotDebianError("the tests of alerts need `prometheus` and `promtool` (2.42 or later) on PATH")
    print("Fetching Debian's Prometheus into the cache (once, 19 MB) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=entry.parent) as folder:
        if not _download(folder):
            _run("apt-get", "update", "--quiet=2")
            if not _download(folder):
                raise PrometheusError("apt-get found no package `prometheus`: is a Debian mirror configured?")
        (archive,) = Path(folder).glob("*.deb")
        draft = Path(folder, "files")
        _run("dpkg-deb", "--extract", str(archive), str(draft))
        shutil.move(draft, entry)


def _download(folder: str) -> bool:
    """Return whether apt could download the package with its present lists."""
    command = ["apt-get", "download", "--quiet=2", "-o", "APT::Sandbox::User=root", _PACKAGE]
    done = subprocess.run(command, cwd=folder, check=False, stdout=sys.stderr, timeout=300)
    return done.returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise PrometheusError(f"`{' '.join(command)}` ended with code {done.returncode}:\n{done.stderr[-2000:]}")
