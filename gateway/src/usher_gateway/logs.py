"""Logs: JSON lines in a cluster, readable on a terminal. Ids only, never personal data."""

import logging
import sys
import traceback
import types

import structlog


def configure(*, as_json: bool | None = None, level: str = "info") -> None:
    """Set up logging for the process; ``as_json`` None: JSON unless standard error is a terminal."""
    if as_json is None:
        as_json = not sys.stderr.isatty()
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _frames_only,
    ]
    if as_json:
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries that log by the standard library: warnings and worse, to the same stream.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def _frames_only(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Of an exception keep type and place: its text and its variables may hold what no log may hold."""
    del logger, method
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["frames"] = _frames(error.__traceback__)
    return event


def _frames(trace: types.TracebackType | None) -> list[str]:
    return [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(trace)]
