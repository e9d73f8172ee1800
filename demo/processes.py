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
    """A Python module that runs as a child program. Its log file goes on when it is started again."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        self._arguments, self._environ = arguments, environ

    async def start(self) -> None:
        """Start the program, also again after it has ended."""
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(_TETHERED), *self._arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._environ},
            )

    async def wait_ended(self) -> ProgramEndedError:
        """Wait until the program ends, and return an error that describes it."""
        code = await self._process.wait()
        last_lines = self._said()[-_LAST_BYTES:].decode("utf-8", "replace")
        return ProgramEndedError(f"{self.name} ended with {code}; {self.log} ends so:\n{last_lines}")

    def has_logged(self, event: str) -> bool:
        """Return True if the event is in the log since the last start."""
        return event.encode() in self._said()

    def _said(self) -> bytes:
        return self.log.read_bytes()[self._log_start :]

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
    program = RunningProgram(name, arguments, log, environ)
    await program.start()
    return program
