"""Reads single keys from a terminal."""

import contextlib
import os
import select
import sys
from collections.abc import Callable, Iterator

ESCAPE = "\x1b"

GONE = "q"
"""The key that a terminal which is gone presses."""

_ESCAPE_SECONDS = 0.05
"""An arrow key sends further characters within this time after its escape character."""

_LONGEST_KEY = 8
"""Characters of a key."""


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], str]]:
    """Read single keys from standard input, a terminal, for the duration of a ``with`` block.

    The function waits at most that many seconds for a key, and returns ``""`` if none was pressed.

    Raises:
        OSError, termios.error: the terminal was gone from the beginning.
    """
    import termios
    import tty

    terminal = sys.stdin.fileno()
    saved_attributes = termios.tcgetattr(terminal)

    def read(seconds: float) -> str:
        if not select.select([terminal], [], [], max(0.0, seconds))[0]:
            return ""
        key = ""
        while not key or (_is_begun(key) and select.select([terminal], [], [], _ESCAPE_SECONDS)[0]):
            character = os.read(terminal, 1).decode("latin-1")
            if not character:
                return GONE
            key += character
        return key

    tty.setcbreak(terminal)
    try:
        yield read
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSADRAIN, saved_attributes)


def _is_begun(key: str) -> bool:
    """Return whether more characters of a key may follow: after an escape character, or a number as in ``ESC [ 5``."""
    return key.startswith(ESCAPE) and (len(key) < len("\x1b[A") or key[-1].isdecimal()) and len(key) < _LONGEST_KEY
