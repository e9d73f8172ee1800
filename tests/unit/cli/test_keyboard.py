"""Single keys from a real terminal."""

import os
import pty
from collections.abc import Iterator

import pytest

from usher_gateway.cli import keyboard


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other end of the terminal that standard input is."""
    main, its_end = pty.openpty()
    with os.fdopen(its_end) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield main


@pytest.mark.parametrize("key", ["d", "\r", "\x1b", "\x1b[A", "\x1bOA", "\x1bOB", "\x1b[5~", "\x1b[1~"])
def test_key_of_several_characters_is_one_key(window: int, key: str) -> None:
    with keyboard.keyboard() as next_key:
        os.write(window, b"n" + key.encode())
        assert next_key(60.0) == "n"
        assert next_key(60.0).replace("\n", "\r") == key
        assert next_key(0.0) == ""
    os.close(window)


@pytest.mark.parametrize("key", ["", "\x1b", "\x1b[", "\x1b[5"])
def test_terminal_that_closes_inside_of_a_key_presses_q(window: int, key: str) -> None:
    with keyboard.keyboard() as next_key:
        os.write(window, key.encode())
        os.close(window)
        assert next_key(60.0) == "q"
