"""Search everything that the programs write during a test run for personal data and for secrets.

Tests pass logs, metrics, Events and reports to `PERSONAL_DATA.search` and `SECRETS.search`. A fixture of the whole run
fails at its end if one of them found something.
"""

import base64
import json
import logging
from collections.abc import Iterable, Iterator

import structlog

from usher_gateway import logs
from usher_gateway.simulator import schedule

PERSON = "Wx3personal"  # A name that tests use as a person's name in bodies
_SHORTEST_SECRET = 12  # A shorter text can occur by chance, and no credential of a test is shorter

_PIECE = 64


class LeakDetector:
    """Searches texts for values that they must not contain, in any case."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = {value.lower() for value in values}
        self._found: list[str] = []
        self._searched: set[int] = set()

    def add(self, value: str) -> None:
        """Search for this value from now on."""
        self._values.add(value.lower())

    def search(self, source: str, text: str) -> None:
        """Search a text, and remember where it contains a value.

        A text that was searched before is skipped, because many tests read the same Events and conditions again.
        """
        if hash(text) in self._searched:
            return
        self._searched.add(hash(text))
        lower = text.lower()
        for value in self._values:
            position = lower.find(value)
            if position >= 0:
                self._found.append(f"{source}: …{lower[max(0, position - 200) : position]}<{value[:4]}…>")

    def take_found(self) -> list[str]:
        """Return and forget what was found: the source, the text before the value, the value's first characters."""
        leaks, self._found = self._found, []
        return leaks


# Finds the simulator's people, and the names that tests put into bodies.
PERSONAL_DATA = LeakDetector([*schedule.MARKS, PERSON, "wx3persönlich"])

SECRETS = LeakDetector()  # Finds the secrets that tests give to programs


def add_secret(value: str) -> None:
    """Search for a secret, plain and in base64."""
    value = value.strip()
    if len(value) >= _SHORTEST_SECRET:
        SECRETS.add(value)
        SECRETS.add(base64.b64encode(value.encode()).decode().rstrip("="))


def add_secret_document(encoded: str) -> None:
    """Search for a piece from the middle of a Secret's data: a program that writes the document writes this piece."""
    middle = max(0, len(encoded) // 2 - _PIECE // 2)
    SECRETS.add(encoded[middle : middle + _PIECE])


class _LibraryLogs(logging.Handler):
    """Searches the lines that libraries log, in their final form."""

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("tests", "faker", "hypothesis")):
            PERSONAL_DATA.search(f"library log {record.name}", self.format(record))


def _search_event(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    PERSONAL_DATA.search(f"log {event.get('event')}", json.dumps(event, default=repr, ensure_ascii=False))
    raise structlog.DropEvent


def personal_data_in_logs() -> Iterator[None]:
    """Search all logs of this process; at the end, fail if personal data was found anywhere."""
    structlog.configure(
        processors=[structlog.processors.add_log_level, logs.keep_frames, _search_event],
        cache_logger_on_first_use=False,
    )
    handler = _LibraryLogs(logging.DEBUG)
    handler.setFormatter(logs.LibraryFormatter("%(levelname)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    assert PERSONAL_DATA.take_found() == []
