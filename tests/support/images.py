"""Build the container image as users do, and run its programs as a hardened pod does."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from container_image import engine, offline

NAME = "localhost/usher:test"
_LIMIT_SECONDS = 600

# What `restricted` pods of the chart have: a read-only root, a few writable folders, user 65532, no new privileges.
_CONTAINER = """
root=$1; user=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --rbind -o ro /dev "$root/dev"
mount -t proc proc "$root/proc"
exec setpriv --no-new-privs chroot --userspec="$user" --groups= "$root" "$@"
"""


class Image:
    """A built image with its files mounted at ``root``."""

    def __init__(self, *, root: Path, config: dict[str, Any], megabytes: float, build_seconds: float) -> None:
        self.root = root
        self.config = config
        self.megabytes = megabytes  # Size above the base, in millions of bytes
        self.build_seconds = build_seconds

    def command(self, *arguments: str, user: str = "65532:65532") -> list[str]:
        """Return the command that runs a program of the image with nothing but the image's own environment."""
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", _CONTAINER, "sh"]
        return [*isolated, str(self.root), user, "env", "-i", *self.config["Env"], *arguments]

    def run(self, *arguments: str) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


class Builder:
    """Builds images with a buildah whose storage is one folder."""

    def __init__(self, storage: Path) -> None:
        self._environment = offline.environment(storage)

    def build(self) -> Image:
        """Build the image by ``make image``, without network."""
        offline.add_base(self._environment)
        wheels = offline.wheelhouse()
        make = [
            "make",
            "image",
            f"IMAGE={NAME}",
            "ENGINE=buildah",
            f"BASE_IMAGE={offline.BASE}",
            f"WHEELHOUSE={wheels}",
        ]
        started = time.monotonic()
        self._run("unshare", "--net", *make)
        build_seconds = time.monotonic() - started
        container = self._buildah("from", "--pull-never", NAME)
        return Image(
            root=Path(self._buildah("mount", container)),
            config=self._inspect(NAME)["OCIv1"]["config"],
            megabytes=(self._bytes(NAME) - self._bytes(offline.BASE)) / 1e6,
            build_seconds=build_seconds,
        )

    def archive(self, file: Path) -> Path:
        """Write the built image to an OCI archive."""
        self._buildah("push", "--quiet", NAME, f"oci-archive:{file}:{NAME}")
        return file

    def remove(self) -> None:
        """Unmount everything and delete the images."""
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")

    def _inspect(self, image: str) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self._buildah("inspect", "--type=image", image))
        return description

    def _bytes(self, image: str) -> int:
        container = self._buildah("from", "--pull-never", image)
        root = self._buildah("mount", container)
        size = self._run("du", "--summarize", "--bytes", "--one-file-system", root).split()[0]
        self._buildah("rm", container)
        return int(size)

    def _buildah(self, *arguments: str) -> str:
        return self._run("buildah", *arguments).strip()

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=engine.ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_SECONDS,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout
