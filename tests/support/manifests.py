"""The documents of the corpus (tests/corpus), with the problems that Usher must report for each."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"

_EXPECTED = re.compile(r"#\s*expect: (.*)$")
_SERVER = re.compile(r"^# server: (accepts|refuses|not asked)", re.MULTILINE)


@dataclass(frozen=True)
class Expected:
    """An expected problem: the line (from 1), the field, and a part of the message."""

    line: int
    field: str
    message: str


@dataclass(frozen=True)
class Document:
    """One document of a file, as text."""

    file: Path
    line: int
    text: str
    expected: tuple[Expected, ...]

    def __str__(self) -> str:
        return f"{self.file.parent.name}/{self.file.name}:{self.line}"

    @property
    def kind(self) -> str:
        found = re.search(r"^kind: *(\w+)", self.text, re.MULTILINE)
        return found[1] if found else ""

    @property
    def name(self) -> str:
        found = re.search(r"^metadata:\s*\{?\s*name: *([\w.-]+)", self.text, re.MULTILINE)
        return found[1] if found else ""

    @property
    def server(self) -> str:
        """The API server's expected result if it differs from the result for files; ``""``: the same result."""
        found = _SERVER.search(self.text)
        return found[1] if found else ""


def documents(folder: str) -> list[Document]:
    """Return every document of the files in a folder of the corpus."""
    return [one for file in files(folder) for one in of(file)]


def files(folder: str) -> list[Path]:
    return sorted((CORPUS / folder).glob("*.yaml"))


def text(file: Path) -> str:
    return file.read_text("utf-8")


def of(file: Path) -> Iterator[Document]:
    """Yield the documents of one file; a part with only comments is not a document."""
    lines = text(file).splitlines(keepends=True)
    starts = [0, *(index + 1 for index, line in enumerate(lines) if line.rstrip() == "---"), len(lines) + 1]
    for start, end in itertools.pairwise(starts):
        part = "".join(lines[start : end - 1])
        if re.search(r"^[^#\s]", part, re.MULTILINE):
            yield Document(file, start + 1, part, tuple(_expected(part, start)))


def _expected(part: str, before: int) -> Iterator[Expected]:
    for number, line in enumerate(part.splitlines(), start=before + 1):
        match = _EXPECTED.search(line)
        for one in match[1].split(" ;; ") if match else ():
            field, _, message = one.partition(" | ")
            yield Expected(number, field, message)
