"""Every module, class, function, port method, setting and constant that others see says what it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from house import source

FILES = source.python_files(source.GATEWAY, source.OPERATOR)
SETTINGS = source.GATEWAY / "settings.py"


def is_docstring(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def undocumented(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Public classes and functions without a docstring, and what is inside of public classes."""
    for node in body:
        if not isinstance(node, ast.ClassDef | source.Function) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node.body, f"{node.name}.")


def assigned(node: ast.stmt) -> list[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith(("TypeVar(", "typing.TypeVar(")):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name) and not target.id.startswith("_")]


def unexplained(body: list[ast.stmt]) -> Iterator[str]:
    """Names that are assigned in a body without a string below that says what they are."""
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not is_docstring(following):
            yield from assigned(node)


@pytest.mark.parametrize("file", FILES, ids=source.shown)
def test_what_is_public_has_a_docstring(file: Path) -> None:
    module = source.tree(file)
    assert ast.get_docstring(module), "the module has none"
    assert list(undocumented(module.body)) == []


@pytest.mark.parametrize("file", FILES, ids=source.shown)
def test_a_constant_says_what_it_is(file: Path) -> None:
    assert [name for name in unexplained(source.tree(file).body) if name.isupper()] == []


def test_a_setting_says_what_it_is() -> None:
    classes = [
        node for node in source.tree(SETTINGS).body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    ]
    assert [list(unexplained(node.body)) for node in classes] == [[]]


def test_what_is_missing_is_seen() -> None:
    body = ast.parse('"""m"""\nA = 1\nB = 2\n"""b"""\ndef f(): ...\nclass C:\n  """c"""\n  def g(self): ...\n').body
    assert list(unexplained(body)) == ["A"]
    assert list(undocumented(body)) == ["f", "C.g"]
