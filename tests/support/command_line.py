"""The commands of `usher`: their definitions, and runs of them."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import typer.main
from typer import testing

from usher_gateway.cli import main

_APP = main.build()
ROOT_COMMAND: Any = typer.main.get_command(_APP)


def commands(group: Any = ROOT_COMMAND, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, including commands of groups."""
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


def options(command: Any) -> list[Any]:
    return [option for option in command.params if option.name != "help"]


class CommandRun:
    """The exit code of a command, and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def said(self) -> str:
        """Its standard error on one line, because texts are broken to fit the terminal."""
        return " ".join(self.err.split())


def run(*arguments: object, piped: str = "", **environment: str) -> CommandRun:
    """Run a command that ends by itself in a terminal of 80 columns, with these variables only.

    It runs in this process, because a new process takes a second to start, and keeps the logging of the tests.
    """
    values = {"PATH": os.environ["PATH"], "COLUMNS": "80", **environment}
    with mock.patch.dict(os.environ, values, clear=True), mock.patch("usher_gateway.logs.configure"):
        result = testing.CliRunner().invoke(_APP, [str(argument) for argument in arguments], input=piped)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return CommandRun(result.exit_code, result.stdout, result.stderr)


async def usher(*arguments: object, **environment: str) -> CommandRun:
    """Run a command beside the tasks of a test, which it may ask."""
    return await asyncio.to_thread(run, *arguments, **environment)
