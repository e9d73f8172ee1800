"""Programs beside this one: their logs in files, their ends noticed; however this one ends, they end too."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 30.0
_LAST_BYTES = 2_000


class EndedError(Exception):
    """A program ended by itself; the message ends with what it said last."""


class Program:
    """One that runs."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self.log = name, log
        self._process = process

    async def wait_ended(self) -> EndedError:
        """Wait until it has ended."""
        code = await self._process.wait()
        said = self.log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace")
        return EndedError(f"{self.name} ended with {code}; {self.log} ends so:\n{said}")

    async def stop(self) -> None:
        """End it, in its own time if that is short."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def start(name: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> Program:
    """Start a module of this Python."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "day.tethered", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
        )
    return Program(name, process, log)
