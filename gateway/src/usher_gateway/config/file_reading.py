"""Reads the manifests in files and folders, once.

A path that is absent, empty or unreadable is a gap in the reading: nothing that it held counts as removed.
"""

import hashlib
import os
import pathlib
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

import msgspec

from usher_gateway import model
from usher_gateway.resources.conditions import Problem, has_errors
from usher_gateway.resources.manifests import MAX_FILE_BYTES, Manifests, load_manifests, merge_manifests

# Suffixes for the files that are read in a folder. A file that is named itself may have any name.
SUFFIXES = frozenset({".yaml", ".yml"})

STANDARD_INPUT = pathlib.Path("-")  # Stands for standard input where a path is expected

# Hint about a path without objects. `usher check` prints it too, so it says whose configuration it is about.
_KEPT = "a gateway that runs keeps what it held before, if anything"


class FilePlace(NamedTuple):
    """A file on disk: equal numbers mean that it was not replaced by another."""

    number: int
    size: int  # Bytes
    changed_at: float  # Seconds since 1970
    ends_line: bool
    """True if its last character ends a line, as editors and programs that are done leave it."""


class FileReading(msgspec.Struct, frozen=True):
    """The paths' content at one moment."""

    manifests: Manifests
    gaps: tuple[str, ...]
    """Paths, or files in them, that are absent, empty or unreadable: nothing that they held is removed."""
    digest: bytes  # Of all contents and gaps. Two readings with the same digest are equal.
    places: dict[str, FilePlace]  # By the file's name in problems


class FileReader:
    """Reads paths, and parses only files that changed."""

    def __init__(self, paths: Sequence[pathlib.Path], standard_input: bytes = b"") -> None:
        self._paths = tuple(paths)
        self._standard_input = standard_input
        self._parsed: dict[str, tuple[bytes, Manifests]] = {}

    def rank(self, file: str) -> tuple[int, str]:
        """Return a file's place in the order: paths as given, then files by name."""
        for index, path in enumerate(self._paths):
            if is_within(file, _shown(path)):
                return index, file
        return len(self._paths), file

    def read(self) -> FileReading:
        """Read everything now. Blocking."""
        parts, gaps, problems, empty = [], [], [], []
        digest = hashlib.blake2b(digest_size=16)
        parsed, places = {}, {}
        for path in self._paths:
            unreadable: list[tuple[str, str]] = []
            files = [path] if path == STANDARD_INPUT else list(_files_of(path, unreadable))
            for folder, why in unreadable:
                gaps.append(_shown(pathlib.Path(folder)))
                problems.append(_gap(gaps[-1], why))
            if not files and not unreadable:
                gaps.append(_shown(path))
                problems.append(_gap(gaps[-1], _why_no_file(path)))
            for file in files:
                name = _shown(file)
                content, place = (self._standard_input, None) if file == STANDARD_INPUT else _content_of(file)
                if place is not None:
                    places[name] = place
                digest.update(f"{name}\0{len(content or b'')}\0".encode() + (content or b""))
                if content is None:
                    gaps.append(name)
                    problems.append(_gap(name, "cannot be read"))
                    continue
                parsed[name] = self._parse(name, content)
                manifests = parsed[name][1]
                parts.append(manifests)
                if not manifests.objects and not manifests.invalid:
                    gaps.append(name)
                    empty.append((name, manifests))
        self._parsed = parsed
        digest.update("\0".join(gaps).encode())
        merged = merge_manifests(parts)
        problems.extend(_empty_file_problems(empty, merged, {_shown(path) for path in self._paths}))
        manifests = msgspec.structs.replace(merged, problems=(*problems, *merged.problems))
        return FileReading(manifests, tuple(gaps), digest.digest(), places)

    def _parse(self, name: str, content: bytes) -> tuple[bytes, Manifests]:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        parsed = self._parsed.get(name)
        return parsed if parsed and parsed[0] == digest else (digest, load_manifests(content, name))


def is_within(file: str, path: str) -> bool:
    """Return True if a file, by its name in problems, is a path or in its folder."""
    if path == ".":
        return not os.path.isabs(file) and not file.startswith("..")  # noqa: PTH117
    return file == path or file.startswith(path.rstrip("/") + "/")


def require_paths(paths: Sequence[pathlib.Path]) -> None:
    """Check the paths before the gateway starts. While it runs, a path that disappears removes nothing.

    Raises:
        ConfigurationError: A path does not exist or cannot be watched.
    """
    for path in paths:
        if path == STANDARD_INPUT:
            raise model.ConfigurationError(
                "standard input cannot be watched", "Write it to a file and give that; `usher check -` reads it."
            )
        if not os.path.exists(path):  # noqa: PTH110 - as in `is_folder`
            raise model.ConfigurationError(
                f"{path}: no such file or folder, or no permission to reach it",
                "Name files or folders of manifests that exist and that this user may read.",
            )


def _shown(path: pathlib.Path) -> str:
    """Return a path's name in problems. A byte that is not UTF-8 becomes a question mark."""
    return "<stdin>" if path == STANDARD_INPUT else str(path).encode("utf-8", "replace").decode()


def is_folder(path: pathlib.Path) -> bool:
    """Return True if a path is a folder. Without permission to reach it, ``Path.is_dir`` would raise."""
    return os.path.isdir(path)  # noqa: PTH112


def _files_of(path: pathlib.Path, unreadable: list[tuple[str, str]]) -> Iterator[pathlib.Path]:
    """Yield a path's files, sorted, without hidden ones (such as a mount's ``..data``) and editors' files.

    Adds each folder in it that is not read to ``unreadable``, with the reason.
    """
    if os.path.isfile(path):  # noqa: PTH113 - as in `is_folder`
        yield path
        return

    def note(error: OSError) -> None:
        if error.filename != str(path):
            unreadable.append((error.filename, "cannot be read"))

    for folder, folders, names in os.walk(path, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [link for name in folders if os.path.islink(link := pathlib.Path(folder) / name)]  # noqa: PTH114
        unreadable += [(str(link), "is a link to a folder, which is not followed; name its target") for link in links]
        for name in sorted(names):
            if pathlib.Path(name).suffix in SUFFIXES and not name.startswith((".", "#")):
                yield pathlib.Path(folder) / name


def _content_of(file: pathlib.Path) -> tuple[bytes | None, FilePlace | None]:
    """Return a file's bytes, at most one more than allowed, and its place; None if it cannot be read."""
    try:
        if not file.is_file():  # opening a pipe would block until some process writes to it
            return None, None
        with file.open("rb") as opened:
            content, status = opened.read(MAX_FILE_BYTES + 1), os.fstat(opened.fileno())
            return content, FilePlace(status.st_ino, status.st_size, status.st_mtime, content.endswith(b"\n"))
    except OSError:
        return None, None


def _why_no_file(path: pathlib.Path) -> str:
    if is_folder(path):
        return f"no file in this folder ends in {' or '.join(sorted(SUFFIXES))}"
    return "no such file or folder, or no permission to reach it"


def _empty_file_problems(
    empty: list[tuple[str, Manifests]], merged: Manifests, named: Container[str]
) -> Iterator[Problem]:
    """Yield a warning for each file without objects, or an error if the whole set has none (as kubectl does).

    ``named`` holds the paths that the user gave. If a path disappears, nothing is removed; if a file disappears
    from a folder, its objects are.
    """
    has_nothing = not merged.objects and not merged.invalid and not has_errors(merged.problems)
    for name, manifests in empty:
        hint = _KEPT if name in named else f"{_KEPT}; to remove all of it, delete the file"
        hint = "" if name == _shown(STANDARD_INPUT) else hint
        if has_nothing:
            yield Problem(name, 1, "", "there is no object of Usher in it", hint)
        elif not manifests.problems and not manifests.namespaces:
            yield Problem(name, 1, "", "there is no object in it", hint, "warning")


def _gap(file: str, message: str) -> Problem:
    return Problem(file, 0, "", message, f"check the path and its permissions; {_KEPT}")
