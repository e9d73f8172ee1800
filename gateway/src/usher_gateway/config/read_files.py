"""Manifests from disk: which files there are, what they hold, and where nothing could be had."""

import hashlib
import os
import pathlib
from collections.abc import Container, Iterator, Sequence

import msgspec

from usher_gateway import model
from usher_gateway.resources import conditions, load

SUFFIXES = frozenset({".yaml", ".yml"})
"""What is read in a folder; a file that is named itself may be called anything."""

STANDARD_INPUT = pathlib.Path("-")
"""In place of a path: what is piped in."""


class Reading(msgspec.Struct, frozen=True):
    """What the paths hold at one moment."""

    manifests: load.Manifests
    gaps: tuple[str, ...]
    """Paths (or files in them) that are absent, empty or unreadable: nothing is removed on their account."""
    digest: bytes
    """Of all contents and gaps: two equal readings need no work."""


class Reader:
    """Reads paths, and parses only what has changed."""

    def __init__(self, paths: Sequence[pathlib.Path], piped: bytes = b"") -> None:
        """``piped``: what STANDARD_INPUT stands for."""
        self._paths, self._piped = tuple(paths), piped
        self._parsed: dict[str, tuple[bytes, load.Manifests]] = {}

    def rank(self, file: str) -> tuple[int, str]:
        """Where a file stands in the order of things: paths as given, files by name."""
        for index, path in enumerate(self._paths):
            if file == shown(path) or file.startswith(f"{path}{os.sep}"):
                return index, file
        return len(self._paths), file

    def read(self) -> Reading:
        """Read everything now. Blocking."""
        parts, gaps, found, empty = [], [], [], []
        digest = hashlib.blake2b(digest_size=16)
        parsed = {}
        for path in self._paths:
            files = [path] if path == STANDARD_INPUT else list(_files(path))
            if not files:
                gaps.append(str(path))
                found.append(_gap(str(path), _why_nothing(path)))
            for file in files:
                name = shown(file)
                content = self._piped if file == STANDARD_INPUT else _content(file)
                digest.update(f"{name}\0{len(content or b'')}\0".encode() + (content or b""))
                if content is None:
                    gaps.append(name)
                    found.append(_gap(name, "cannot be read"))
                    continue
                parsed[name] = self._manifests(name, content)
                manifests = parsed[name][1]
                parts.append(manifests)
                if not manifests.objects and not manifests.invalid:
                    gaps.append(name)
                    empty.append((name, manifests))
        self._parsed = parsed
        digest.update("\0".join(gaps).encode())
        merged = load.merge(parts)
        found.extend(_tell_empty(empty, merged, {shown(path) for path in self._paths}))
        manifests = msgspec.structs.replace(merged, problems=(*found, *merged.problems))
        return Reading(manifests, tuple(gaps), digest.digest())

    def _manifests(self, name: str, content: bytes) -> tuple[bytes, load.Manifests]:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        known = self._parsed.get(name)
        return known if known and known[0] == digest else (digest, load.load(content, name))


def shown(path: pathlib.Path) -> str:
    """The name by which a path is told."""
    return "<stdin>" if path == STANDARD_INPUT else str(path)


def is_folder(path: pathlib.Path) -> bool:
    """Whether it is a folder; False too where a folder above may not be entered, which ``Path.is_dir`` raises for."""
    return os.path.isdir(path)  # noqa: PTH112


def require(paths: Sequence[pathlib.Path]) -> None:
    """Refuse to start on what is not there; while a gateway runs, a path that goes away removes nothing.

    Raises:
        ConfigurationError: a path does not exist, or is none that can be watched.
    """
    for path in paths:
        if path == STANDARD_INPUT:
            raise model.ConfigurationError(
                "standard input cannot be watched", "Write it to a file and give that; `usher check -` reads it."
            )
        if not os.path.exists(path):  # noqa: PTH110 - as in `is_folder`
            raise model.ConfigurationError(
                f"{path}: no such file or folder, or not to be reached",
                "Name files or folders of manifests that are there, and that this user may read.",
            )


def _files(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The files of a path, sorted. Hidden ones (a mounted volume's ``..data`` too) and editors' are left out."""
    if os.path.isfile(path):  # noqa: PTH113 - as in `is_folder`
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if pathlib.Path(name).suffix in SUFFIXES and not name.startswith((".", "#")):
                yield pathlib.Path(folder) / name


def _content(file: pathlib.Path) -> bytes | None:
    """A file's bytes; one byte more than allowed where it is too large, None where it cannot be read."""
    try:
        if not file.is_file():  # to open a pipe would be to wait for somebody who writes to it
            return None
        with file.open("rb") as opened:
            return opened.read(load.MAX_FILE_BYTES + 1)
    except OSError:
        return None


def _why_nothing(path: pathlib.Path) -> str:
    if is_folder(path):
        return f"no file in this folder ends in {' or '.join(sorted(SUFFIXES))}"
    return "no such file or folder, or not to be reached"


def _tell_empty(
    empty: list[tuple[str, load.Manifests]], merged: load.Manifests, named: Container[str]
) -> Iterator[conditions.Problem]:
    """A file with nothing but comments is odd; a set without any object is a mistake, as it is for kubectl.

    ``named``: paths that were given. One that goes away removes nothing; a file that goes from its folder does.
    """
    is_nothing = not merged.objects and not merged.invalid and not conditions.has_errors(merged.problems)
    for name, manifests in empty:
        hint = "what it held before, if anything, stays in force"
        hint += "" if name in named else "; to remove all of it, delete the file"
        if is_nothing:
            yield conditions.Problem(name, 1, "", "there is no object of Usher in it", hint)
        elif not manifests.problems and not manifests.namespaces:
            yield conditions.Problem(name, 1, "", "there is no object in it", hint, "warning")


def _gap(where: str, what: str) -> conditions.Problem:
    return conditions.Problem(
        where, 1, "", what, "check the path and its rights; what it held before, if anything, stays in force"
    )
