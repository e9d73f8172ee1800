"""The files of the repository, the syntax trees of its code, and its pages, for the house tests."""

import ast
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
GATEWAY = ROOT / "gateway" / "src" / "usher_gateway"
OPERATOR = ROOT / "operator" / "src" / "usher_operator"
DOCS = ROOT / "docs"

_NOT_OURS = {
    ".git",
    ".venv",
    ".cache",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".import_linter_cache",
    "__pycache__",
    "build",
    "data",
    "dist",
}


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file of the repository, without caches and build output."""
    paths: list[Path] = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if name not in _NOT_OURS and not name.endswith(".egg-info")]
        paths.extend(Path(folder, name) for name in names if not name.endswith(".pyc"))
    return tuple(sorted(paths))


@functools.cache
def python_files(*below: Path) -> tuple[Path, ...]:
    """Every Python file, or those in some folders."""
    return tuple(
        file
        for file in files()
        if file.suffix == ".py" and (not below or any(folder in file.parents for folder in below))
    )


@functools.cache
def tree(file: Path) -> ast.Module:
    """A Python file's syntax tree."""
    return ast.parse(file.read_text("utf-8"), str(file))


def pages() -> list[Path]:
    return [file for file in files() if file.suffix == ".md"]


def shown(file: Path) -> str:
    """A file's path, relative to the root of the repository."""
    return file.relative_to(ROOT).as_posix()


def check_section(page: Path, name: str, content: str) -> None:
    """Compare a page's text between ``<!-- name -->`` and ``<!-- end -->``. UPDATE_DOCS=1 rewrites it first."""
    text = page.read_text("utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    assert pattern.search(text), name
    updated = pattern.sub(lambda section: section[1] + content + section[2], text)
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(updated, "utf-8")
    assert page.read_text("utf-8") == updated, "run this test with UPDATE_DOCS=1"


Function = ast.FunctionDef | ast.AsyncFunctionDef


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every row of a page's tables, without head rows and rules."""
    previous_cells: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            previous_cells = []
            continue
        cells = [cell.strip().replace("\\|", "|") for cell in line.replace("\\|", "\0").strip("|").split("|")]
        cells = [cell.replace("\0", "|") for cell in cells]
        if previous_cells and not set(line) <= set("|- :"):
            yield cells
        previous_cells = cells
