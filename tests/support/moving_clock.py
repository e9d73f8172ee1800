"""Run a program with a wall clock that a test sets: ``python moving_clock.py FILE PROGRAM ARGUMENTS…``.

The monotonic clock stays the machine's, as when an administrator sets a machine's time. PROGRAM is a module or a file.
"""

import datetime
import mmap
import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Any

PROGRAM = str(Path(__file__))
_FORM = struct.Struct("<q")


class Clock:
    """The offset, in seconds, of the wall clock of all programs that use this file."""

    def __init__(self, file: Path, seconds: float = 0.0) -> None:
        file.write_bytes(_FORM.pack(0))
        self.file = file
        with file.open("r+b") as opened:
            self._memory = mmap.mmap(opened.fileno(), _FORM.size)
        self.set(seconds)

    def set(self, seconds: float) -> None:
        """Set the offset."""
        self._memory[:] = _FORM.pack(round(seconds * 1e9))


class _AnyMoment(type):
    """Return whether a value is a datetime, also one that the real class made."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _TRUE)


_TRUE = datetime.datetime


def follow(file: Path) -> None:
    """Shift every reading of the wall clock in this process by the offset in the file."""
    with file.open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), _FORM.size)
    true = time.time_ns

    def nanoseconds() -> int:
        return true() + int(_FORM.unpack(memory[:])[0])

    class Moved(_TRUE, metaclass=_AnyMoment):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return cls.fromtimestamp(nanoseconds() / 1e9, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

    time.time_ns, time.time = nanoseconds, lambda: nanoseconds() / 1e9
    datetime.datetime = Moved  # type: ignore[misc]


def main() -> None:
    _, file, program, *arguments = sys.argv
    follow(Path(file))
    sys.argv = [program, *arguments]
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    run(program, run_name="__main__")


if __name__ == "__main__":
    main()
