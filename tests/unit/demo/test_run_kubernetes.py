"""Ctrl-C ends the demonstration's programs at the same time, in any order."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import rich.console

from demo import processes, run_kubernetes


async def watch_an_ended_program(demo: Any, folder: Path) -> None:
    """Watch a program that ends at once, as it does at Ctrl-C while it starts."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    (folder / "log").touch()
    await demo._watch(processes.RunningProgram("gateway", process, folder / "log"))


def new_demo() -> Any:
    return run_kubernetes.KubernetesDemo(argparse.Namespace(), mock.Mock(), rich.console.Console())


async def test_program_that_ends_before_ctrl_c_is_noticed_is_no_failure(tmp_path: Path) -> None:
    demo = new_demo()
    watching = asyncio.create_task(watch_an_ended_program(demo, tmp_path))
    with mock.patch.object(demo, "_stops_within", wraps=demo._stops_within) as waits:
        while not waits.called:  # noqa: ASYNC110 - the program has ended by then
            await asyncio.sleep(0.01)
        demo._stop.set()
        await watching
    assert demo._failed is None


async def test_program_that_ends_by_itself_ends_the_run(tmp_path: Path) -> None:
    demo = new_demo()
    await watch_an_ended_program(demo, tmp_path)
    assert demo._stop.is_set()
    assert isinstance(demo._failed, processes.ProgramEndedError)
