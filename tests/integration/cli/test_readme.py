"""The sample on the README's first screen, run as it is printed in one shell."""

import asyncio
import json
import os
import re
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
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def make_checkout(folder: Path) -> None:
    """Link what `make try` needs, and give it an environment that is newer than its sources: it installs nothing."""
    for name in ("Makefile", "requirements", "gateway", "operator"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv" / "runs").touch()
    (folder / "examples").mkdir()


class Shell:
    """A new user's shell in a checkout. Its gateway and receiver use free ports, and `usher` is not on its PATH."""

    def __init__(self, folder: Path, bash: asyncio.subprocess.Process, public: str) -> None:
        self._log, self._bash, self._public = folder / "shell.log", bash, public

    @classmethod
    async def start(cls, folder: Path) -> "Shell":
        """Make a checkout in a folder, and start a shell there."""
        make_checkout(folder)
        public, admin, receiver = (f"127.0.0.1:{port}" for port in ports.several(3))
        manifests = (ROOT / "examples" / "quickstart.yaml").read_text("utf-8")
        (folder / "examples" / "quickstart.yaml").write_text(manifests.replace("127.0.0.1:9000", receiver), "utf-8")
        own_bin = str(Path(sys.executable).parent)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("USHER_")} | {
            "PATH": os.pathsep.join([path for path in os.environ["PATH"].split(os.pathsep) if path != own_bin]),
            "COLUMNS": "80",
            "USHER_LISTEN": public,
            "USHER_ADMIN_LISTEN": admin,
            "USHER_ADMIN": f"http://{admin}",
            "USHER_RECEIVE_LISTEN": receiver,
            "USHER_ACCEPT_MIN_FREE_MIB": "0",
            "USHER_ATTEMPTS_MIN_FREE_MIB": "0",
        }
        with (folder / "shell.log").open("wb") as log:
            bash = await asyncio.create_subprocess_exec(
                *("bash", "--norc"), cwd=folder, env=environment, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log
            )
        return cls(folder, bash, public)

    async def run(self, command: str) -> str:
        """Run a command as the user enters it, and return what the shell printed until it ended."""
        begin = self._log.stat().st_size
        self._enter(f"{command.replace('127.0.0.1:8080', self._public)}\necho ended with $?.")
        printed = await self._until(begin, "ended with ")
        assert "ended with 0." in printed, printed
        return printed

    async def wait_for(self, text: str) -> None:
        """Wait until a program in the background prints a text."""
        await self._until(0, text)

    async def close(self) -> None:
        """End what still runs."""
        self._enter("kill $(jobs -p); wait; exit")
        await self._bash.wait()

    def _enter(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{text}\n".encode())

    async def _until(self, begin: int, text: str) -> str:
        async def printed() -> str:
            return self._log.read_bytes()[begin:].decode()

        return await waiting.until(printed, lambda shown: text in shown, limit_seconds=300)  # as long as the test


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    shell = await Shell.start(tmp_path)
    yield shell
    await shell.close()


async def test_sample_of_the_readme_leads_from_purple_to_the_books(shell: Shell, tmp_path: Path) -> None:
    install, receive, run, print_url, simulate, usage, end = sample()
    for command in (install, receive, run):
        await shell.run(command)
    await shell.wait_for("gateway_started")
    assert "https://localhost/v1/" in await shell.run(print_url)
    assert "Would survive Purple" in await shell.run(simulate)

    async def total() -> dict[str, int]:
        await shell.run(f"{usage} --output=json > usage.json")
        counts: dict[str, int] = json.loads((tmp_path / "usage.json").read_bytes())["total"]
        return counts

    counts = await waiting.until(total, lambda counts: counts["delivered"] == 9)
    assert counts["visits"] == 9
    assert counts["repeats"] + counts["redeliveries"] == 2  # one that comes within the same second is a redelivery
    head = re.search("^PERIOD .*", await shell.run(usage), re.MULTILINE)
    assert head is not None
    shown = set(head[0].split())
    assert shown & {"REPEATS", "REDELIV."}
    in_readme = re.search(r"^(PERIOD .*)\n.*\n(total .*)$", README, re.MULTILINE)
    assert in_readme is not None
    heads = in_readme[1].split()
    assert shown - {"ARRIVALS"} <= set(heads)  # a column of zeros gives way to it
    total_row = dict(zip(heads, in_readme[2].split(), strict=True))
    expected = {"VISITS": "visits", "DELIV.": "delivered", "PROBES": "probes", "CREATED": "created"}
    assert {head: int(total_row[head]) for head in expected} == {head: counts[name] for head, name in expected.items()}
    assert int(total_row["REPEATS"]) + int(total_row["REDELIV."]) == counts["repeats"] + counts["redeliveries"]
    await shell.run(f"{end} && wait")
