"""The sample on the README's first screen, run command by command in a shell."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from local_cluster import ports
from support import waiting

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text("utf-8")


def sample() -> list[str]:
    """Return the commands of the first block of the README that shows some."""
    block = re.search(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    lines = block[1].replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").partition("#")[0].strip() for line in lines if line.startswith("$ ")]


class Shell:
    """A user's shell in a folder with the examples. Its gateway and receiver use free ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        public, admin, receiver = (f"127.0.0.1:{port}" for port in ports.several(3))
        self._public = public
        self._environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "80",
            "USHER_LISTEN": public,
            "USHER_ADMIN_LISTEN": admin,
            "USHER_ADMIN": f"http://{admin}",
            "USHER_RECEIVE_LISTEN": receiver,
            "USHER_ACCEPT_MIN_FREE_MIB": "0",
            "USHER_ACCEPT_MIN_FREE_PERCENT": "0",
            "USHER_ATTEMPTS_MIN_FREE_MIB": "0",
        }
        (folder / "examples").mkdir()
        manifests = (ROOT / "examples" / "quickstart.yaml").read_text("utf-8")
        (folder / "examples" / "quickstart.yaml").write_text(manifests.replace("127.0.0.1:9000", receiver), "utf-8")
        self._background: list[asyncio.subprocess.Process] = []

    async def run(self, command: str) -> str:
        """Run a command until it ends, and return what it prints."""
        process = await self._start(command.replace("127.0.0.1:8080", self._public), asyncio.subprocess.PIPE)
        printed, _ = await process.communicate()
        assert process.returncode == 0, printed.decode()
        return printed.decode()

    async def start(self, command: str) -> None:
        """Start a command in the background."""
        with (self._folder / "background.log").open("ab") as log:
            self._background.append(await self._start(f"exec {command}", log.fileno()))

    async def wait_serving(self) -> None:
        async def printed() -> str:
            return (self._folder / "background.log").read_text("utf-8")

        await waiting.until(printed, lambda text: "gateway_started" in text and "Receiving at" in text)

    async def stop(self) -> None:
        for process in self._background:
            process.send_signal(signal.SIGTERM)
            await process.wait()

    async def _start(self, command: str, output: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_shell(
            command, cwd=self._folder, env=self._environment, stdout=output, stderr=asyncio.subprocess.STDOUT
        )


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    new_shell = Shell(tmp_path)
    yield new_shell
    await new_shell.stop()


async def test_sample_of_the_readme_leads_from_purple_to_the_books(shell: Shell) -> None:
    receive, run, print_url, simulate, usage = sample()
    for command in (receive, run):
        assert command.endswith("&"), command
        await shell.start(command.removesuffix("&"))
    await shell.wait_serving()
    url = re.search(r"https://\S+", await shell.run(print_url))
    assert url is not None
    await shell.run(re.sub(r"http://localhost\S+", url[0].replace("https", "http"), simulate))

    async def total() -> dict[str, int]:
        counts: dict[str, int] = json.loads(await shell.run(f"{usage} --output=json"))["total"]
        return counts

    counts = await waiting.until(total, lambda counts: counts["delivered"] == 9)
    assert counts["visits"] == 9
    assert counts["repeats"] + counts["redeliveries"] == 2  # one that comes within the same second is a redelivery
    head, *_ = (await shell.run(usage)).splitlines()
    shown = set(re.findall(r"\S+", head))
    assert shown & {"REPEATS", "REDELIV."}
    in_readme = re.search(r"^(PERIOD .*)\n.*\n(total .*)$", README, re.MULTILINE)
    assert in_readme is not None
    heads = in_readme[1].split()
    assert shown - {"ARRIVALS"} <= set(heads)  # a column of zeros gives way to it
    total_row = dict(zip(heads, in_readme[2].split(), strict=True))
    expected = {"VISITS": "visits", "DELIV.": "delivered", "PROBES": "probes", "CREATED": "created"}
    assert {head: int(total_row[head]) for head in expected} == {head: counts[name] for head, name in expected.items()}
    assert int(total_row["REPEATS"]) + int(total_row["REDELIV."]) == counts["repeats"] + counts["redeliveries"]
