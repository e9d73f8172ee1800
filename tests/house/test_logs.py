"""What lines of the log are called."""

import ast
import re
from pathlib import Path

import pytest

from house import source

LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})


def events(file: Path) -> list[ast.expr]:
    """What each line of a file's log is called."""
    calls = [node for node in ast.walk(source.tree(file)) if isinstance(node, ast.Call)]
    return [
        call.args[0]
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in LEVELS
        and ast.unparse(call.func.value) in {"_log", "structlog.get_logger(__name__)"}
    ]


@pytest.mark.parametrize("file", source.python_files(source.GATEWAY, source.OPERATOR), ids=source.shown)
def test_events_of_the_log_have_names_that_can_be_searched_for(file: Path) -> None:
    for event in events(file):
        name = ast.literal_eval(event)
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), f"{source.shown(file)}: {name!r} must be words in lower_snake"


def test_the_events_are_found() -> None:
    assert sum(len(events(file)) for file in source.python_files(source.GATEWAY, source.OPERATOR)) > 50
