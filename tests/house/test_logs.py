"""Log events have names that people can search for."""

import ast
import re
from collections.abc import Iterator

from support import source

LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical"})
IRREGULAR_PARTICIPLES = frozenset({"found", "held", "left", "lost", "read", "sent", "set", "written"})
LOGGERS = frozenset({"_log", "structlog.get_logger(__name__)"})


def events() -> Iterator[tuple[str, str]]:
    """Every file that logs, with the name of each event."""
    for file in source.python_files(source.GATEWAY, source.OPERATOR):
        for node in ast.walk(source.tree(file)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and ast.unparse(node.func.value) in LOGGERS
            ):
                yield source.shown(file), ast.literal_eval(node.args[0])


def is_past_tense_fact(name: str) -> bool:
    """Return whether an event says what happened: words in snake_case, one of them a past participle."""
    words = name.split("_")
    return bool(re.fullmatch(r"[a-z]+(_[a-z]+)*", name)) and any(
        word.endswith("ed") or word in IRREGULAR_PARTICIPLES for word in words
    )


def test_log_events_are_past_tense_facts_in_snake_case() -> None:
    names = list(events())
    assert len(names) > 50
    assert [(file, name) for file, name in names if not is_past_tense_fact(name)] == []
