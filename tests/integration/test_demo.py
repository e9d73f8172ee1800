"""`make run` and `make run-kubernetes` on a machine where other programs have their ports."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USUAL = (8080, 9090, 9101, 9102, 9103)
FREE_DISK = {
    "USHER_ACCEPT_MIN_FREE_MIB": "0",
    "USHER_ATTEMPTS_MIN_FREE_MIB": "0",
}


async def start(module: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | FREE_DISK | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}"},
        cwd=ROOT,
    )


async def test_day_takes_other_ports_than_taken_ones_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for port in USUAL:
            with contextlib.suppress(OSError):  # another program has it already
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
        process = await start("demo.run", "--data", str(tmp_path / "day"))
        assert process.stdout is not None
        printed = ""
        while "A day of the example agency" not in printed:
            line = await process.stdout.readline()
            assert line, printed
            printed += line.decode()
    process.send_signal(signal.SIGINT)
    rest, _ = await process.communicate()
    assert process.returncode == 0, printed + rest.decode()
    assert [port for port in USUAL if f"Port {port} is taken, so the " not in printed] == []


@pytest.mark.parametrize("module", ["demo.run", "demo.run_kubernetes"])
async def test_given_port_that_is_taken_ends_the_run_with_a_hint(module: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start(module, "--listen", f"127.0.0.1:{port}", "--data", str(tmp_path / "day"))
        output, _ = await process.communicate()
    printed = output.decode()
    assert process.returncode == 2, printed
    assert printed.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use\n")
    assert "--listen" in printed
    assert "Traceback" not in printed
