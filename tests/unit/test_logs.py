"""Lines of the log: of one form, whoever wrote them."""

import json
import logging
import sys

from usher_gateway import logs


def test_lines_of_libraries_are_json_too_and_without_the_text_of_an_exception() -> None:
    try:
        int("what no log may hold")
    except ValueError:
        record = logging.LogRecord("kopf", logging.WARNING, __file__, 1, "no %s", ("issuers",), sys.exc_info())
    line = logs.JsonLibraryFormatter().format(record)
    told = json.loads(line)
    assert (told["logger"], told["level"], told["event"].splitlines()[0]) == ("kopf", "warning", "no issuers")
    assert "ValueError" in told["event"]
    assert "what no log may hold" not in line
    assert told["timestamp"].endswith("Z")


def test_on_a_terminal_nothing_is_shown_of_what_is_empty() -> None:
    event = {"event": "loop_exception", "line": 0, "hint": "", "reason": None, "frames": ["run"]}
    assert logs.drop_empty(None, "info", event) == {"event": "loop_exception", "line": 0, "frames": ["run"]}
