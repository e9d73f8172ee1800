"""All log lines have the same form, whether Usher or a library wrote them."""

import json
import logging
import sys

from usher_gateway import logs


def test_library_lines_are_json_without_the_text_of_an_exception() -> None:
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


def test_terminal_output_leaves_out_empty_fields() -> None:
    event = {"event": "event_loop_callback_failed", "line": 0, "hint": "", "reason": None, "frames": ["run"]}
    assert logs.drop_empty(None, "info", event) == {"event": "event_loop_callback_failed", "line": 0, "frames": ["run"]}
