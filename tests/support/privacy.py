"""What the program told during the whole run is searched for people: nothing personal may be in it."""

import json
import logging
from collections.abc import Iterator

import structlog

from usher_gateway import logs
from usher_gateway.simulator import people

MARKS = (*people.MARKS, "wx3personal", "wx3persönlich")
"""In lower case: the simulator's people, and what tests put into bodies where a person would stand."""

PERSON = "Wx3personal"
"""A name to use in tests: it is searched for."""

_KEPT = 2_000_000
_found: dict[str, str] = {}
_told = {"events": 0, "texts": 0}


def search(source: str, text: str) -> None:
    """Search a text that the program told somebody: a log, metrics, an error's text."""
    _told["texts"] += 1
    lower = text.lower()
    for mark in MARKS:
        at = lower.find(mark)
        if at >= 0:
            _found.setdefault(f"{source}: {mark}", lower[max(0, at - 120) : at + 40])


def take_found() -> dict[str, str]:
    """Where a mark was found, with some of the text before it. Empties the list."""
    found = dict(_found)
    _found.clear()
    return found


def told() -> int:
    """How many texts and events were searched."""
    return _told["events"] + _told["texts"]


class _LibraryLogs(logging.Handler):
    """What libraries log, as it would be written."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(("tests", "faker", "hypothesis")):
            return
        _told["events"] += 1
        search(f"library log {record.name}", self.format(record))


def _search_event(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    _told["events"] += 1
    search(f"log {event.get('event')}", json.dumps(event, default=repr, ensure_ascii=False))
    return event


def _drop(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    raise structlog.DropEvent


def watching() -> Iterator[None]:
    """For a session-wide fixture: watch all logging in this process; fail at the end if a person was in it."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, logs.frames_only, _search_event, _drop],
        cache_logger_on_first_use=False,
    )
    handler = _LibraryLogs(logging.DEBUG)
    handler.setFormatter(logs.LibraryFormatter("%(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    found = take_found()
    assert not found, f"personal data was told: {found}"
