"""Ctrl-C ends the demonstration's programs at the same time, in any order."""

import argparse
import asyncio
from pathlib import Path
from typing import Any
from unittest import mock

import rich.console

from demo import processes, run_kubernetes


async def watch_a_program(demo: Any, folder: Path, source: str = "") -> processes.RunningProgram:
    """Start a program, and watch it until the demonstration stops."""
    (folder / "program_of_test.py").write_text(source, "utf-8")
    program = await processes.start("operator", ["program_of_test"], folder / "log", {"PYTHONPATH": str(folder)})
    await demo._watch(program)
    return program


def new_demo() -> Any:
    return run_kubernetes.KubernetesDemo(argparse.Namespace(), mock.Mock(), rich.console.Console())


async def test_program_that_ends_before_ctrl_c_is_noticed_is_no_failure(tmp_path: Path) -> None:
    demo = new_demo()
    watching = asyncio.create_task(watch_a_program(demo, tmp_path))
    with mock.patch.object(demo, "_stops_within", wraps=demo._stops_within) as waits:
        while not waits.called:  # noqa: ASYNC110 - the program has ended by then
            await asyncio.sleep(0.01)
        demo._stop.set()
        await watching
    assert demo._failed is None


async def test_program_that_ends_by_itself_ends_the_run(tmp_path: Path) -> None:
    demo = new_demo()
    await watch_a_program(demo, tmp_path)
    assert demo._stop.is_set()
    assert isinstance(demo._failed, processes.ProgramEndedError)


LOSES_ITS_LEASE_ONCE = """
import pathlib, sys
ends = pathlib.Path(__file__).with_name("ends")
print("cannot bind" if ends.exists() else "lease_lost")
ends.touch()
sys.exit(1)
"""


async def test_operator_that_lost_its_lease_starts_again(tmp_path: Path) -> None:
    demo = new_demo()
    program = await watch_a_program(demo, tmp_path, LOSES_ITS_LEASE_ONCE)
    assert program.log.read_text("utf-8") == "lease_lost\ncannot bind\n"
    assert "lease_lost" not in str(demo._failed)
    assert "cannot bind" in str(demo._failed)
