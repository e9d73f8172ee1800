"""Build the image without a registry and without network, for tests: a base from Debian's packages, and a wheelhouse.

debootstrap makes the files of the base, and pip fetches the wheels. Both stay in the cache until what they are made of
changes. buildah keeps its images in a folder of the test, so nothing of the machine's own images changes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from container_image import engine
from local_cluster import cache, debian

BASE = "localhost/usher-base:bookworm"
RELEASE = "bookworm"
PACKAGES = "python3,ca-certificates"

_NEEDED = {"buildah": "buildah", "debootstrap": "debootstrap"}  # Programs, with the Debian package of each

_REQUIREMENTS = [engine.ROOT / "requirements" / name for name in ("build.txt", "image.txt")]


def prepare() -> None:
    """Install the programs that are missing, and fill the cache.

    Raises:
        ImageError: The machine is not suitable.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise engine.ImageError(
            "The image without a registry needs Linux and root: it mounts file systems and changes users."
        )
    try:
        debian.install_missing(_NEEDED)
    except debian.MissingError as error:
        raise engine.ImageError(str(error)) from error
    base_files()
    wheelhouse()


def base_files() -> Path:
    """Return an archive with the files of the base: Debian's smallest system with Python."""
    return _cached(f"image-base/{RELEASE}.tar", "files of a base image (once, 160 MB)", _make_base_files)


def _make_base_files(draft: Path) -> None:
    with tempfile.TemporaryDirectory(dir=draft.parent) as folder:
        root = Path(folder, "root")
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, str(root), quiet=True)
        for waste in [*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")]:
            waste.unlink()
        _run("tar", "--create", f"--file={draft}", "--numeric-owner", f"--directory={root}", ".")


def wheelhouse() -> Path:
    """Return a folder with the wheels of the image, of what builds it, and of pip."""
    return _cached(f"image-wheels/{cache.key(*_REQUIREMENTS)}", "wheels of the image (once, 26 MB)", _fetch_wheels)


def _fetch_wheels(draft: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    # The Python of the base, whichever one runs this.
    pip += ["--require-hashes", "--only-binary=:all:", "--python-version=3.11", f"--dest={draft}"]
    for requirements in _REQUIREMENTS:
        _run(*pip, f"--requirement={requirements}")


def add_base(environment: dict[str, str]) -> None:
    """Add the base to the images of the buildah with this environment."""

    def buildah(*arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *arguments], env=environment, check=True, capture_output=True, text=True, timeout=300
        )
        return done.stdout.strip()

    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(base_files()), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)


def environment(storage: Path) -> dict[str, str]:
    """Return the environment of a buildah that works below a folder, without a container runtime."""
    settings = storage / "storage.conf"
    settings.write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{storage}/run"\ngraphroot = "{storage}/images"\n', "utf-8"
    )
    return {**os.environ, "BUILDAH_ISOLATION": "chroot", "CONTAINERS_STORAGE_CONF": str(settings)}


def _cached(name: str, what: str, make: Callable[[Path], None]) -> Path:
    """Return an entry of the cache, which is made at the first call."""
    entry = cache.folder() / name
    with cache.locked(entry):
        if not entry.exists():
            _say(f"Fetching the {what} ...")
            draft = entry.with_name(f"{entry.name}.new")
            shutil.rmtree(draft, ignore_errors=True)  # of a call that was interrupted
            make(draft)
            draft.rename(entry)
    return entry


def _run(*command: str, quiet: bool = False) -> None:
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(command, check=False, stdout=output, stderr=subprocess.STDOUT if quiet else None, text=True)
    if done.returncode != 0:
        said = f":\n{done.stdout[-2000:]}" if quiet else ""
        raise engine.ImageError(f"`{' '.join(command)}` ended with code {done.returncode}{said}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
