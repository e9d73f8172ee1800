"""Build the files of a release from the last commit: wheels, image, chart, a list of components, and checksums.

`make release` runs it. Two builds of a commit give the same bytes, with the same base image, buildah and helm: the
source is an export in which every file has the commit's time, and SOURCE_DATE_EPOCH tells each tool to write no other.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from container_image import engine
from local_cluster import helm

CHECKSUMS = "SHA256SUMS"


def main() -> int:
    """Build the release, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    version = engine.version()
    folder = engine.ROOT / "dist" / f"usher-{version}"
    parser.add_argument("--folder", type=Path, default=folder, help="where the files go; it is emptied first")
    parser.add_argument("--base", help="image to build on, best with its digest [default: that of the Dockerfile]")
    parser.add_argument("--wheelhouse", type=Path, help="folder with the wheels, for a build without network")
    arguments = parser.parse_args()
    try:
        engine.find("buildah")
        with exported(arguments.folder.absolute(), version) as release:
            print(f"Building Usher {version} from the commit {release.commit} ...", flush=True)
            release.build(arguments.base, arguments.wheelhouse)
    except (engine.ImageError, helm.HelmError) as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"`{' '.join(map(str, error.cmd))}` ended with code {error.returncode}", file=sys.stderr)
        return 1
    print(f"{(arguments.folder / CHECKSUMS).read_text('ascii')}in {arguments.folder}")
    return 0


@contextlib.contextmanager
def exported(folder: Path, version: str) -> Iterator["Release"]:
    """Yield a release of the last commit, with its files in a temporary folder."""
    commit, seconds = _output("git", "log", "-1", "--format=%H %ct", cwd=engine.ROOT).split()
    with tempfile.TemporaryDirectory(prefix="usher-release-") as scratch:
        source = Path(scratch, "source")
        source.mkdir()
        archive = Path(scratch, "source.tar")
        _run("git", "-c", "tar.umask=0022", "archive", f"--output={archive}", commit, cwd=engine.ROOT)
        _run("tar", "--extract", "--same-permissions", f"--file={archive}", f"--directory={source}", cwd=source)
        yield Release(folder, version, commit, int(seconds), source)


@dataclass(frozen=True)
class Release:
    """The files of a release, and what they are built from."""

    folder: Path
    version: str
    commit: str
    seconds: int
    """Time of the commit."""
    source: Path

    def build(self, base: str | None, wheelhouse: Path | None) -> None:
        """Build every file.

        Raises:
            CalledProcessError: A tool failed; it has printed why.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        self._run(
            *pip,
            "wheel",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            f"--wheel-dir={self.folder}",
            "./gateway",
            "./operator",
        )
        self._run(helm.find(), "package", "charts/usher", f"--destination={self.folder}")
        self._write_components()
        self._build_image(base, wheelhouse)
        files = sorted(self.folder.iterdir())
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
        (self.folder / CHECKSUMS).write_text("".join(lines), "ascii")

    def _write_components(self) -> None:
        """List the packages that the image adds to its base image (CycloneDX)."""
        tool = (sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "--output-reproducible")
        output = self.folder / f"usher-{self.version}.cdx.json"
        self._run(*tool, "--pyproject=gateway/pyproject.toml", f"--output-file={output}", "requirements/image.txt")

    def _build_image(self, base: str | None, wheelhouse: Path | None) -> None:
        image = f"usher:{self.version}"
        build = engine.command(
            "buildah", image, base=base, wheelhouse=wheelhouse, source=self.source, commit=self.commit
        )
        times = (f"--timestamp={self.seconds}", f"--build-arg=SOURCE_DATE_EPOCH={self.seconds}")
        self._run(*build[:-1], *times, build[-1])
        layout = self.source.with_name("image")
        self._run("buildah", "push", "--quiet", image, f"oci:{layout}:{image}")
        name = f"usher-image-{self.version}-{platform.system().lower()}-{platform.machine()}.tar"
        pack(layout, self.folder / name, self.seconds)

    def _run(self, *command: str | Path) -> None:
        _run(*command, cwd=self.source, SOURCE_DATE_EPOCH=str(self.seconds))


def pack(folder: Path, archive: Path, seconds: int) -> None:
    """Write the files of a folder into an archive that depends on nothing but their names and content."""
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as output:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size, entry.mtime = file.stat().st_size, seconds
            with file.open("rb") as content:
                output.addfile(entry, content)


def _run(*command: str | Path, cwd: Path, **environment: str) -> None:
    subprocess.run(command, cwd=cwd, env=os.environ | environment, check=True)


def _output(*command: str, cwd: Path) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
