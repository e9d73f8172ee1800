"""Test processes that run side by side, also of several checkouts, take no port from each other."""

import subprocess
import sys
from pathlib import Path

from local_cluster import ports

TOOLS = Path(ports.__file__).parent.parent
PROGRAM = f"""
import sys; sys.path.insert(0, {str(TOOLS)!r})
from local_cluster import ports; print(*ports.several(200), flush=True); input()
"""


def test_processes_that_run_at_once_get_different_ports() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [process.stdout.readline().split() for process in running if process.stdout is not None]
    taken = [port for answer in answers for port in answer] + [str(port) for port in ports.several(20)]
    for process in running:
        process.communicate("\n")
    assert len(set(taken)) == 3 * 200 + 20
