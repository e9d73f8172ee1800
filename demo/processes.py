"""Child programs with a log file each. They end when this process ends, even if it is killed."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 30.0
_TETHERED = Path(__file__).with_name("tethered.py")
_LAST_BYTES = 2_000


class ProgramEndedError(Exception):
    """A program ended by itself; the message ends with the last lines of its log."""


class RunningProgram:
    """A running program."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name, self.log = name, log
        self._process = process

    async def wait_ended(self) -> ProgramEndedError:
        """Wait until the program ends, and return an error that describes it."""
        code = await self._process.wait()
        said = self.log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace")
        return ProgramEndedError(f"{self.name} ended with {code}; {self.log} ends so:\n{said}")

    async def stop(self) -> None:
        """Ask the program to stop, and kill it after 30 s."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def start(name: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> RunningProgram:
    """Run a Python module as a child program."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(_TETHERED), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **environ},
        )
    return RunningProgram(name, process, log)
