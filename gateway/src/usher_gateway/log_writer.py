"""Where lines of the log go: to a thread of its own, so that a reader that stalls or a full disk delays nobody."""

import collections
import os
import select
import threading
from collections.abc import Callable

MOST_BYTES = 4 * 1024 * 1024
"""Lines that wait for their reader; what comes beyond that is lost, and counted."""


class LogWriter:
    """A text stream whose ``write`` neither waits nor fails, whatever the descriptor behind it does.

    From any thread. Lines keep their order. ``tell_loss`` is called with the number of lines that were lost, once
    lines can be written again.
    """

    def __init__(self, descriptor: int, tell_loss: Callable[[int], None], most_bytes: int = MOST_BYTES) -> None:
        self.lines_lost = 0
        self._descriptor, self._tell_loss, self._most_bytes = descriptor, tell_loss, most_bytes
        self._changed = threading.Condition()
        self._lines: collections.deque[bytes] = collections.deque()
        self._bytes = 0
        """Of what waits, and of the line that is being written."""
        self._told = 0
        self._is_cut = False
        """The last line was written in part, so that the next one begins anew."""
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Take a line over."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._bytes + len(line) > self._most_bytes:
                self.lines_lost += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing: who logs does not wait."""

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, at most so long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._bytes, seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                line = self._lines.popleft()
            is_written = self._write(line)
            with self._changed:
                self.lines_lost += not is_written
                new = self.lines_lost - self._told if is_written and not self._lines else 0
                self._told += new
            if new:
                self._tell_loss(new)
            with self._changed:
                self._bytes -= len(line)
                self._changed.notify_all()

    def _write(self, line: bytes) -> bool:
        left = b"\n" + line if self._is_cut else line
        try:
            while left:
                left = left[self._write_some(left) :]
        except OSError:
            self._is_cut = self._is_cut or len(left) < len(line)
            return False
        self._is_cut = False
        return True

    def _write_some(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # whoever gave us the descriptor has made it so
                select.select([], [self._descriptor], [], 1.0)
