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
        kind_line = re.search(r"^kind: *(\w+)", self.text, re.MULTILINE)
        return kind_line[1] if kind_line else ""

    @property
    def name(self) -> str:
        name_line = re.search(r"^metadata:\s*\{?\s*name: *([\w.-]+)", self.text, re.MULTILINE)
        return name_line[1] if name_line else ""

    @property
    def server(self) -> str:
        """The API server's expected result if it differs from the result for files; ``""``: the same result."""
        server_line = _SERVER.search(self.text)
        return server_line[1] if server_line else ""


def documents(folder: str) -> list[Document]:
    """Return every document of the files in a folder of the corpus."""
    return [document for file in files(folder) for document in of(file)]


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


def _expected(part: str, lines_before: int) -> Iterator[Expected]:
    for number, line in enumerate(part.splitlines(), start=lines_before + 1):
        match = _EXPECTED.search(line)
        for expectation in match[1].split(" ;; ") if match else ():
            field, _, message = expectation.partition(" | ")
            yield Expected(number, field, message)
