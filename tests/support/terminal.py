"""A command in a terminal of 80 columns."""

import asyncio
import contextlib
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator
from fcntl import ioctl

from support import admin_port, waiting


class Terminal:
    """A terminal of 80 columns and 24 lines, and the command in it."""

    def __init__(self, main: int, its_end: int, process: asyncio.subprocess.Process) -> None:
        self._main, self._its_end, self.process = main, its_end, process
        self.written = ""
        asyncio.get_running_loop().add_reader(main, self._read)

    def _read(self) -> None:
        try:
            self.written += os.read(self._main, 65_536).decode("utf-8", "replace")
        except OSError:  # the program ended
            asyncio.get_running_loop().remove_reader(self._main)

    @property
    def text(self) -> str:
        """`written` without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written)

    async def wait(self, *words: str) -> None:
        try:
            await waiting.wait_until(lambda: all(word in self.text for word in words))
        except TimeoutError:
            raise AssertionError(f"the screen does not show {words}: {self.text[-4000:]}") from None

    async def end(self) -> tuple[int, str]:
        """Wait until the command ends; return its exit code and its standard error."""
        _, err = await asyncio.wait_for(self.process.communicate(), 60)
        return self.process.returncode or 0, err.decode()

    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._its_end)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._main)
        os.close(self._main)


@contextlib.asynccontextmanager
async def running(served: admin_port.Served, *command: str) -> AsyncIterator[Terminal]:
    """Run a command of ``usher`` in a terminal, beside an admin port."""
    main, its_end = pty.openpty()
    ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "usher_gateway", *command, "--admin", served.url, "--data", str(served.data)),
        stdin=its_end,
        stdout=its_end,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "PYTHONSAFEPATH": "1", "LANG": "C.UTF-8"},
    )
    terminal = Terminal(main, its_end, process)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        terminal.close()
        os.close(its_end)
