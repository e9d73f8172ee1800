"""The commands of docs/operations.md that copy the store of a running gateway, and a gateway on the copy."""

import asyncio
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from support import gateways
from support.gateway import running

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")


async def run_python(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


def python_commands() -> list[list[str]]:
    """Return the words after `python3` of each command of the page that runs a program of its own."""
    lines = re.findall(r"python3 (-c .*)$", PAGE, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("place", ["machine", "cluster"])
async def test_gateway_on_a_backup_has_every_visit_before_it(tmp_path: Path, place: str) -> None:
    on_machine, in_pod, check = python_commands()
    copy = tmp_path / "new" / "data" / "usher.sqlite3"
    copy.parent.mkdir(parents=True)
    async with running(tmp_path) as gateway:
        for number in range(3):
            assert (await gateway.post(gateways.visit(number))).status == 200
        data, target, meters = gateway.file.parent, gateway.target(), await gateway.meters()
        if place == "machine":
            await run_python(*on_machine[:2], str(gateway.file), str(copy))
        else:
            await run_python(*[word.replace("/data/", f"{data}/") for word in in_pod])
            (data / "backup.sqlite3").rename(copy)
        assert await run_python(*check[:2], str(copy)) == "ok\n"
        assert (await gateway.post(gateways.visit(3))).status == 200
    shutil.copy(data / "install.key", copy.parent)
    async with running(tmp_path / "new") as restored:
        assert restored.target() == target
        assert await restored.meters() == meters
        assert meters["visits"] == 3
