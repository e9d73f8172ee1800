"""The commands of `usher`: their definitions, and runs of them as processes."""

import asyncio
import os
import sys
from collections.abc import Iterator
from typing import Any

import typer.main

from usher_gateway.cli import main

ROOT_COMMAND: Any = typer.main.get_command(main.build())


def commands(group: Any = ROOT_COMMAND, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, including commands of groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


def options(command: Any) -> list[Any]:
    """Return the options and arguments of a command, without `--help`."""
    return [option for option in command.params if option.name != "help"]


class CommandRun:
    """The exit code of a command, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


async def usher(*arguments: str, **environment: str) -> CommandRun:
    """Run `usher` as a process in a terminal of 80 columns, with these variables only."""
    values = {"PATH": os.environ["PATH"], "COLUMNS": "80", "PYTHONSAFEPATH": "1", "LANG": "C.UTF-8", **environment}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "usher_gateway", *arguments),
        env=values,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), timeout=60)
    assert process.returncode is not None
    return CommandRun(process.returncode, out.decode(), err.decode())
