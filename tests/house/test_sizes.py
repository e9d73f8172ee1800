"""How long a file, a function and a list of parameters may be."""

import ast
import warnings
from pathlib import Path

import pytest

from house import source

MOST_FILE_LINES = 800
MANY_FILE_LINES = 500
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 5

EXCEPTIONS: dict[str, str] = {}
"""``file:function`` -> why it may have more parameters."""


def commands(file: Path) -> set[str]:
    """Functions that typer calls: their parameters are flags, and typer knows flags in no other form."""
    decorated = {
        function.name
        for function in source.functions(file)
        if any(".command(" in ast.unparse(decorator) for decorator in function.decorator_list)
    }
    registered = {
        ast.unparse(node.args[0])
        for node in ast.walk(source.tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and ".command(" in ast.unparse(node.func)
    }
    return decorated | registered


def own_lines(function: source.Function, commands: set[str]) -> int:
    """Lines of a function; without a command's signature (a flag takes three), and without commands inside."""
    if function.name in commands:
        return len_of(function) - (function.body[0].lineno - function.lineno)
    inside = [node for node in ast.walk(function) if isinstance(node, source.Function) and node.name in commands]
    return len_of(function) - sum(len_of(node) for node in inside)


def len_of(node: source.Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def parameters(function: source.Function) -> int:
    """Parameters without ``self``; ``*args`` and ``**names`` count as one each."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    is_method = bool(named) and named[0].arg in {"self", "cls"}
    rest = sum(each is not None for each in (arguments.vararg, arguments.kwarg))
    return len(named) - is_method + len(arguments.kwonlyargs) + rest


@pytest.mark.parametrize("file", source.python_files(), ids=source.shown)
def test_a_file_and_its_functions_are_short(file: Path) -> None:
    lines = len(file.read_text("utf-8").splitlines())
    assert lines <= MOST_FILE_LINES, "split it by what its parts are about"
    known = commands(file)
    long = {function.name: own_lines(function, known) for function in source.functions(file)}
    assert {name: lines for name, lines in long.items() if lines > MOST_FUNCTION_LINES} == {}


@pytest.mark.parametrize("file", source.python_files(source.GATEWAY, source.OPERATOR), ids=source.shown)
def test_more_than_five_parameters_are_a_struct(file: Path) -> None:
    known = commands(file)
    many = {
        f"{source.shown(file)}:{function.name}": parameters(function)
        for function in source.functions(file)
        if parameters(function) > MOST_PARAMETERS and function.name not in known
    }
    assert {name: count for name, count in many.items() if name not in EXCEPTIONS} == {}


def test_no_exception_outlives_its_reason() -> None:
    for name, reason in EXCEPTIONS.items():
        file, _, wanted = name.partition(":")
        assert reason
        assert any(
            function.name == wanted and parameters(function) > MOST_PARAMETERS
            for function in source.functions(source.ROOT / file)
        ), name


def test_long_files_are_named() -> None:
    """Above 500 lines a file is looked at again: `pytest -W default tests/house` lists them."""
    long = [
        source.shown(file)
        for file in source.python_files()
        if len(file.read_text("utf-8").splitlines()) > MANY_FILE_LINES
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for name in long:
            warnings.warn(f"{name} has more than {MANY_FILE_LINES} lines", stacklevel=1)


def test_the_counting_counts() -> None:
    code = "class A:\n    def f(self, a, *b, c=1, **d):\n        x = 1\n        return x\n"
    function = next(node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef))
    assert (parameters(function), own_lines(function, set())) == (4, 3)
    assert own_lines(function, {"f"}) == 2
