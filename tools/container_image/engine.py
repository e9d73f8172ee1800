"""Build the image with the container engine that this machine has."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Engines in the order of preference, each with a command that fails if it cannot build: docker without a daemon.
ENGINES = {
    "docker": ["docker", "version"],
    "podman": ["podman", "info"],
    "buildah": ["buildah", "info"],
}


class ImageError(Exception):
    """The image cannot be built; the message says what to do."""


def find(engine: str | None = None) -> str:
    """Return the name of the first engine that works, or check the wanted one.

    Raises:
        ImageError: None works. The message has the reason of each.
    """
    if engine:
        reason = problem(engine)
        if reason is not None:
            raise ImageError(f"{engine} cannot build the image: {reason}")
        return engine
    reasons = []
    for name in ENGINES:
        reason = problem(name)
        if reason is None:
            return name
        reasons.append(f"  {name}: {reason}")
    raise ImageError("\n".join(["An image needs docker, podman or buildah. None of them works here:", *reasons]))


def problem(engine: str) -> str | None:
    """Return why an engine does not work here, or None."""
    if engine not in ENGINES:
        return f"the engine must be one of {', '.join(ENGINES)}"
    if shutil.which(engine) is None:
        return "not installed"
    done = subprocess.run(ENGINES[engine], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"`{' '.join(ENGINES[engine])}` ended with code {done.returncode}"]
    return lines[-1]


def version() -> str:
    """Return the version of Usher."""
    project = tomllib.loads((ROOT / "gateway" / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def revision() -> str:
    """Return the commit, with ``-dirty`` if files differ from it; empty outside of a clone."""
    describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def command(
    engine: str,
    image: str,
    *,
    base: str | None,
    wheelhouse: Path | None,
    source: Path = ROOT,
    commit: str | None = None,
) -> list[str]:
    """Return the command that builds the image from the Dockerfile of a source, by default this checkout."""
    arguments = [engine, "build", f"--tag={image}", f"--build-arg=VERSION={version()}"]
    arguments.append(f"--build-arg=REVISION={commit or revision()}")
    if base:
        arguments.append(f"--build-arg=BASE_IMAGE={base}")
    if wheelhouse:
        arguments.append(f"--build-context=wheelhouse={wheelhouse.absolute()}")
    return [*arguments, str(source)]


def build(image: str, *, engine: str | None = None, base: str | None = None, wheelhouse: Path | None = None) -> None:
    """Build the image.

    Raises:
        ImageError: No engine works, or the build failed.
    """
    chosen = find(engine)
    print(f"Building {image} with {chosen} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command(chosen, image, base=base, wheelhouse=wheelhouse), check=False)
    if done.returncode != 0:
        raise ImageError(f"{chosen} could not build the image: its last lines say why")
