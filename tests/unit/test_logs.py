"""All log lines have the same form, whether Usher or a library wrote them."""

import json
import logging
import sys

import pytest
import structlog

from usher_gateway import logs


def test_library_lines_are_json_without_the_text_of_an_exception() -> None:
    try:
        int("what no log may hold")
    except ValueError:
        record = logging.LogRecord("kopf", logging.WARNING, __file__, 1, "no %s", ("issuers",), sys.exc_info())
    line = logs.JsonLibraryFormatter().format(record)
    told = json.loads(line)
    assert told["event"] == "library_line_logged"
    assert (told["logger"], told["level"], told["message"]) == ("kopf", "warning", "no issuers")
    assert told["error"] == "ValueError"
    assert "test_logs.py" in told["frames"][0]
    assert "what no log may hold" not in line
    assert told["timestamp"].endswith("Z")


def test_terminal_output_leaves_out_empty_fields() -> None:
    event = {"event": "event_loop_callback_failed", "line": 0, "hint": "", "reason": None, "frames": ["run"]}
    assert logs.drop_empty(None, "info", event) == {"event": "event_loop_callback_failed", "line": 0, "frames": ["run"]}


class Limited:
    """A limiter with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self._limiter = logs.RepeatLimiter(lambda: self.now)

    def write(self, event: str = "filter_failed", level: str = "warning", **fields: str) -> dict[str, object] | None:
        """Return the line as it is written; None: it is left out."""
        try:
            return dict(self._limiter(None, level, {"event": event, **fields}))
        except structlog.DropEvent:
            return None


def test_repeated_line_of_a_listener_is_written_once_a_minute_with_the_number_left_out() -> None:
    limited = Limited()
    line = {"listener": "agency/lobby", "route": "crm", "error": "TypeMismatch"}
    assert limited.write(**line) is not None
    assert [limited.write(**line) for _ in range(3)] == [None] * 3
    limited.now = 60.0
    written_line = limited.write(**line)
    assert written_line is not None
    assert written_line["repeated"] == 3
    limited.now = 120.0
    assert "repeated" not in (limited.write(**line) or {"repeated": "left out"})


def test_line_of_one_listener_hides_no_other_line() -> None:
    limited = Limited()
    first = {"listener": "agency/lobby", "route": "crm", "error": "TypeMismatch"}
    lines = [
        first,
        first | {"listener": "agency/bar"},
        first | {"route": "mail"},
        first | {"error": "Overflow"},
        first | {"fault": "UnexpectedSource"},
        {"destination": "agency/crm", "error": "Timeout"},
    ]
    assert None not in [limited.write(**line) for line in lines]
    assert limited.write("transform_failed", **first) is not None


@pytest.mark.parametrize("fields", [{}, {"reason": "disk"}])
def test_line_about_the_whole_gateway_is_never_left_out(fields: dict[str, str]) -> None:
    limited = Limited()
    assert None not in [limited.write("store_ownership_lost", "error", **fields) for _ in range(5)]


@pytest.mark.parametrize("event", ["store_commit_failed", "dispatcher_paused", "heartbeat_failed"])
def test_outage_of_the_store_is_written_once_a_minute_for_each_reason(event: str) -> None:
    limited = Limited()
    reasons = ["server away", "server away", "connection refused", "server away"]
    assert [limited.write(event, "error", reason=reason) is not None for reason in reasons] == [
        True,
        False,
        True,
        False,
    ]
    limited.now += 61
    assert limited.write(event, "error", reason="server away")


def test_information_is_never_left_out() -> None:
    limited = Limited()
    assert None not in [limited.write("audit", "info", listener="agency/lobby") for _ in range(5)]


def test_limiter_forgets_the_oldest_of_very_many_listeners() -> None:
    limited = Limited()
    for number in range(10_001):
        assert limited.write(listener=f"agency/l{number}") is not None
    assert limited.write(listener="agency/l10000") is None
    assert limited.write(listener="agency/l0") is not None
