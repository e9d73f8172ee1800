"""Logs: JSON lines in a cluster, readable on a terminal. Ids only, never personal data."""

import asyncio
import atexit
import datetime
import json
import logging
import os
import sys
import traceback
import types
from typing import Any

import structlog

from usher_gateway import log_writer

_DRAIN_SECONDS = 1.0
"""An end waits so long for whoever reads the log."""

_writers: list[log_writer.LogWriter] = []
"""At most one: of this process."""


def configure(*, as_json: bool | None = None, level: str = "info") -> None:
    """Set up logging for the process; ``as_json`` None: JSON unless standard error is a terminal."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if as_json is None:
        as_json = not is_terminal
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        frames_only,
    ]
    if as_json:
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors += [without_nothing, structlog.dev.ConsoleRenderer(colors=is_terminal, sort_keys=False)]
    stream = _open_writer()
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _LineLogger(stream),
        cache_logger_on_first_use=True,
    )
    # Libraries that log by the standard library: warnings and worse, to the same stream.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLibraryFormatter() if as_json else LibraryFormatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class _LineLogger:
    """Whole lines for the writer, without a lock: a collection may log while a line is being made."""

    def __init__(self, stream: log_writer.LogWriter) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Whatever its level."""
        self._stream.write(f"{line}\n")

    debug = info = warning = error = critical = msg


def lines_lost() -> int:
    """Lines that nobody took: their reader stalled or is gone, or the disk was full."""
    return sum(writer.lines_lost for writer in _writers)


def drain() -> bool:
    """Wait for the reader before the process ends, but not for long; False where it does not read."""
    return all(writer.drain(_DRAIN_SECONDS) for writer in _writers)


def _open_writer() -> log_writer.LogWriter:
    if not _writers:
        # Without a standard error its number may be a file of the store by now.
        descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
        _writers.append(log_writer.LogWriter(descriptor, _tell_loss))
        atexit.register(drain)
    return _writers[0]


def _tell_loss(lines: int) -> None:
    structlog.get_logger(__name__).warning("log_lines_lost", lines=lines)


class LibraryFormatter(logging.Formatter):
    """Lines of libraries: of an exception type and place, as in our own."""

    def format(self, record: logging.LogRecord) -> str:
        """Without the text of the exception that another formatter may have left in the record."""
        record.exc_text = None
        line = super().format(record)
        record.exc_text = None
        return line

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the standard library's name
        """Not its text."""
        return " ".join([type(ei[1]).__name__, *_frames(ei[2])])


class JsonLibraryFormatter(LibraryFormatter):
    """The same as a line of JSON, for whoever reads all lines as such."""

    def format(self, record: logging.LogRecord) -> str:
        """With the names that our own lines have."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat().replace("+00:00", "Z")
        line = {"logger": record.name, "event": super().format(record), "level": record.levelname.lower()}
        return json.dumps({**line, "timestamp": time})


def log_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody awaited or caught, for ``loop.set_exception_handler``; asyncio's own would write its text."""
    del loop
    structlog.get_logger(__name__).error("loop_exception", exc_info=context.get("exception"))


def without_nothing(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A processor for people: leave out what is empty."""
    del logger, method
    return {name: value for name, value in event.items() if value is not None and value != ""}


def frames_only(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A processor: of an exception keep type and place: its text and its variables may hold what no log may hold."""
    del logger, method
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["frames"] = _frames(error.__traceback__)
    return event


def _frames(trace: types.TracebackType | None) -> list[str]:
    return [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(trace)]
