"""Logs: JSON lines in a cluster, readable lines on a terminal. Ids only, never personal data.

A thread writes the lines (the standard library's ``QueueHandler`` and ``QueueListener``), so that a stalled reader or
a full disk delays no arrival. Two small subclasses add what the standard classes lack:

- ``queue.Queue`` bounds the number of lines and not their bytes, and its lock is not reentrant: if garbage collection
  logs inside ``put``, the thread waits for itself. ``BoundedQueueHandler`` counts bytes, and drops and counts lines.
- ``StreamHandler`` reports a failed write to the same descriptor and does not count it. ``DescriptorHandler`` counts
  it, and waits if the descriptor is non-blocking.

``QueueListener.stop`` joins its thread without a time limit, which never ends with a stalled reader. So no code calls
it: the thread is a daemon, and ``drain`` waits for at most a second.
"""

import asyncio
import atexit
import collections
import datetime
import json
import logging
import logging.handlers
import math
import os
import queue
import select
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

MAX_WAITING_BYTES = 4 * 1024 * 1024  # The most bytes that wait for the reader. Further lines are dropped and counted.
_REPEATING = ("listener", "destination", "file")  # Fields that say what a line is about, if it may repeat

# Lines that repeat while the database is away, or that strangers can cause.
_REPEATING_EVENTS = {
    "dispatcher_paused",
    "exception_ignored",
    "heartbeat_failed",
    "store_commit_failed",
    "store_durability_missed",
    "store_not_opened",
    "store_upkeep_failed",
    "takeover_failed",
    "tenants_not_counted",
}

_REPEAT_SECONDS = 60.0
_MAX_KINDS = 10_000  # Kinds of lines that the limiter remembers
_DRAIN_SECONDS = 1.0  # How long the process's end waits for the log's reader

_queues: list["BoundedQueueHandler"] = []  # The queue of this process, if logging is configured


def configure(*, as_json: bool | None = None, level: str = "info") -> None:
    """Set up logging for the process; ``as_json`` None means JSON unless standard error is a terminal."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    if as_json is None:
        as_json = not is_terminal
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        keep_frames,
        RepeatLimiter(time.monotonic),
    ]
    if as_json:
        processors.append(structlog.processors.JSONRenderer())
    else:
        processors += [drop_empty, structlog.dev.ConsoleRenderer(colors=is_terminal, sort_keys=False)]
    handler = _open_queue()
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _QueueLogger(handler),
        cache_logger_on_first_use=True,
    )
    # Libraries use the standard library: their warnings and errors go to the same queue.
    handler.setFormatter(JsonLibraryFormatter() if as_json else LibraryFormatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.unraisablehook = log_unraisable


class RepeatLimiter:
    """Limits warnings and errors that repeat for the same listener, destination or file, or as _REPEATING_EVENTS says.

    A broken filter fails for every visit. Each kind's first line is written, and then at most one a minute, which
    has in ``repeated`` how many were left out before it. Listeners do not share the limit: lines of one never hide
    those of another. It is a structlog processor.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds: collections.OrderedDict[tuple[object, ...], tuple[float, int]] = collections.OrderedDict()
        """Kind of line -> (when one was written last, how many were left out since)."""

    def __call__(self, _: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the line, or raise DropEvent to leave it out."""
        subject = next((line[name] for name in _REPEATING if line.get(name)), None)
        is_repeating = subject is not None or line["event"] in _REPEATING_EVENTS
        if method not in {"warning", "error"} or not is_repeating:
            return line
        kind = (line["event"], subject, *[line.get(name) for name in ("route", "error", "reason", "fault")])
        now = self._clock()
        written_at, left_out = self._kinds.get(kind, (-math.inf, 0))
        if now - written_at < _REPEAT_SECONDS:
            self._kinds[kind] = (written_at, left_out + 1)
            raise structlog.DropEvent
        self._kinds[kind] = (now, 0)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _MAX_KINDS:
            self._kinds.popitem(last=False)
        return {**line, "repeated": left_out} if left_out else line


def lines_lost() -> int:
    """Return how many lines were dropped because the reader stalled or is gone, or the disk was full."""
    return sum(log_queue.lines_lost for log_queue in _queues)


def drain() -> bool:
    """Wait up to a second for the reader, before the process ends. Returns False if lines are still waiting."""
    return all(log_queue.drain(_DRAIN_SECONDS) for log_queue in _queues)


def _open_queue() -> "BoundedQueueHandler":
    if not _queues:
        # Without a standard error, descriptor 2 may be a file of the store by now.
        descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
        _queues.append(start_writer(descriptor, _log_loss))
        atexit.register(drain)
    return _queues[0]


def _log_loss(lines: int) -> None:
    structlog.get_logger(__name__).warning("log_lines_lost", lines=lines)


class _QueueLogger:
    """The logger behind structlog: it puts whole lines into the queue."""

    def __init__(self, handler: "BoundedQueueHandler") -> None:
        self._handler = handler

    def msg(self, line: str) -> None:
        """Write a line at any level."""
        self._handler.write_line(line)

    debug = info = warning = error = critical = msg


class BoundedQueueHandler(logging.handlers.QueueHandler):
    """Queues lines for the writer thread, from any thread, without ever waiting. Lines keep their order."""

    def __init__(self, on_loss: Callable[[int], None], max_bytes: int) -> None:
        super().__init__(queue.SimpleQueue())
        self.lines_lost = 0
        self._on_loss = on_loss
        self._max_bytes = max_bytes
        self._reported_loss = 0
        self._waiting_bytes = 0  # Bytes in the queued lines and the line that is being written
        self._changed = threading.Condition(threading.RLock())  # reentrant: garbage collection may log at any point

    def write_line(self, line: str) -> None:
        """Queue a line as it is."""
        self.enqueue(logging.makeLogRecord({"msg": line}))

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a formatted record, or drop and count it if too many bytes are waiting."""
        size = len(_encode(record))
        with self._changed:
            if self._waiting_bytes + size > self._max_bytes:
                self.lines_lost += 1
            else:
                self._waiting_bytes += size
                self.queue.put_nowait(record)

    def finish_line(self, line: bytes, *, is_written: bool) -> None:
        """Note where a line ends, and report lost lines once the reader has taken everything. For the writer."""
        with self._changed:
            self.lines_lost += not is_written
            is_last = self._waiting_bytes == len(line)
            lost = self.lines_lost - self._reported_loss if is_written and is_last else 0
            self._reported_loss += lost
        if lost:
            self._on_loss(lost)
        with self._changed:
            self._waiting_bytes -= len(line)
            self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """Wait until every line is written, at most this long; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting_bytes, seconds)


class DescriptorHandler(logging.Handler):
    """Writes lines to a file descriptor, in the listener's thread."""

    def __init__(self, descriptor: int, lines: BoundedQueueHandler) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines = lines
        self._is_cut = False
        """True if the last line was written in part, so that the next one must start with a line break."""

    def createLock(self) -> None:  # noqa: N802 - the standard library's name
        """Have no lock: ``logging.shutdown`` would wait for it while the reader stalls. Only one thread writes."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, however long the reader takes."""
        line = _encode(record)
        self._lines.finish_line(line, is_written=self._write(line))

    def _write(self, line: bytes) -> bool:
        unwritten = b"\n" + line if self._is_cut else line
        try:
            while unwritten:
                unwritten = unwritten[self._write_some(unwritten) :]
        except OSError:
            self._is_cut = self._is_cut or len(unwritten) < len(line)
            return False
        self._is_cut = False
        return True

    def _write_some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # the process that created the descriptor made it non-blocking
                select.select([], [self._descriptor], [], 1.0)


def start_writer(
    descriptor: int, on_loss: Callable[[int], None], max_bytes: int = MAX_WAITING_BYTES
) -> BoundedQueueHandler:
    """Start a thread that writes to a descriptor, and return its queue.

    Args:
        descriptor: where lines go; it may be a pipe or a file, blocking or not.
        on_loss: called in the writer's thread with the number of lost lines, once lines can be written again.
        max_bytes: the most bytes that may wait.
    """
    lines = BoundedQueueHandler(on_loss, max_bytes)
    logging.handlers.QueueListener(lines.queue, DescriptorHandler(descriptor, lines)).start()
    return lines


def _encode(record: logging.LogRecord) -> bytes:
    return f"{record.msg}\n".encode("utf-8", "backslashreplace")


class LibraryFormatter(logging.Formatter):
    """Formats lines from libraries; for an exception it keeps only the type and the frames, like our own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record without the exception text that another formatter may have cached in it."""
        record.exc_text = None
        line = super().format(record)
        record.exc_text = None
        return line

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the standard library's name
        """Return an exception's type and frames, without its text."""
        return " ".join([type(ei[1]).__name__, *_frames(ei[2])])


class JsonLibraryFormatter(logging.Formatter):
    """Formats lines from libraries as JSON, so that every log line is JSON and has a fixed word in ``event``."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record with the field names in our own lines; for an exception only its type and its frames."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat().replace("+00:00", "Z")
        line: dict[str, object] = {
            "event": "library_line_logged",
            "logger": record.name,
            "message": record.getMessage(),
            "level": record.levelname.lower(),
            "timestamp": time,
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= {"error": type(record.exc_info[1]).__name__, "frames": _frames(record.exc_info[2])}
        return json.dumps(line)


def log_loop_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception that no task caught, without its text. For ``loop.set_exception_handler``."""
    del loop
    structlog.get_logger(__name__).error("event_loop_callback_failed", exc_info=context.get("exception"))


def log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Log the type of an exception that Python could not raise. For ``sys.unraisablehook``.

    A TLS client that asks for a name that is not ASCII causes one. Python's own hook writes that name to standard
    error, and the event loop waits for the reader.
    """
    structlog.get_logger(__name__).error(
        "exception_ignored", error=unraisable.exc_type.__name__, frames=_frames(unraisable.exc_traceback)
    )


def drop_empty(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Remove empty fields; a structlog processor for terminals."""
    del logger, method
    return {name: value for name, value in event.items() if value is not None and value != ""}


def keep_frames(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace an exception by its type and frames, because its text may hold personal data; a structlog processor."""
    del logger, method
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["frames"] = _frames(error.__traceback__)
    return event


def _frames(trace: types.TracebackType | None) -> list[str]:
    return [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in traceback.extract_tb(trace)]
