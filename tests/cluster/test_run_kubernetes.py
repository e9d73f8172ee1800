"""`make run-kubernetes` as a user runs it: its own cluster, all programs, a simulated day, the table."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from demo import cluster as demo_cluster
from local_cluster import kubectl, ports
from support import clusters, waiting
from usher_gateway.kube import access

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "examples" / "agency"
LIMIT_SECONDS = 250


class Run:
    """One run, on its own ports."""

    def __init__(self, folder: Path) -> None:
        self.log, self.data = folder / "run.log", folder / "data"
        self.ports = [ports.free() for _ in range(3)]
        self._manifests = folder / "manifests"
        self._manifests.mkdir()
        self.receivers = [ports.free() for _ in range(3)]
        moved = {f":{old}/": f":{new}/" for old, new in zip((9101, 9102, 9103), self.receivers, strict=True)}
        for file in MANIFESTS.glob("*.yaml"):
            text = file.read_text("utf-8")
            for old, new in moved.items():
                text = text.replace(old, new)
            (self._manifests / file.name).write_text(text, "utf-8")

    async def start(self, *arguments: str) -> None:
        public, admin, operator = [f"127.0.0.1:{port}" for port in self.ports]
        given = clusters.given()
        command = [
            *("-m", "demo.run_kubernetes", "--manifests", str(self._manifests), "--data", str(self.data)),
            *("--listen", public, "--admin", admin, "--operator", operator),
            *(("--kubeconfig", str(given)) if given else ()),
            *arguments,
        ]
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
        own = {
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tools'}",
            "USHER_ACCEPT_MIN_FREE_MIB": "0",
            "USHER_ATTEMPTS_MIN_FREE_MIB": "0",
        }
        with self.log.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdout=output,
                stderr=output,
                env={**kept, **own},
                cwd=self.data.parent,
                start_new_session=True,
            )

    async def wait_said(self, words: str) -> None:
        async def look() -> str:
            said = self.log.read_text("utf-8")
            assert self.process.returncode is None, said
            return said

        await waiting.until(look, lambda said: words in said, limit_seconds=LIMIT_SECONDS)

    async def wait_ended(self) -> int:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await self.process.wait()

    def left(self) -> list[str]:
        """Return the running programs whose arguments contain the folder of the run."""
        command_lines = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            if str(self.data) in words:
                command_lines.append(words.replace("\0", " "))
        return command_lines


@pytest.fixture
async def run(tmp_path: Path, cluster: clusters.Cluster) -> AsyncIterator[Run]:
    """Prepare a run; after the test, kill its remaining programs and clean a given cluster."""
    new_run = Run(tmp_path)
    yield new_run
    with contextlib.suppress(ProcessLookupError):
        os.killpg(new_run.process.pid, signal.SIGKILL)  # also where the runner has ended and others have not
    await new_run.process.wait()
    if clusters.given():
        await asyncio.to_thread(demo_cluster.remove, cluster.kubectl)


async def test_simulated_day_ends_with_equal_counts_and_runs_until_ctrl_c(run: Run) -> None:
    with socket.create_server(("127.0.0.1", run.receivers[0])):
        await run.start("--seconds", "8")
        await run.wait_said("The books agree: nothing lost, nothing twice.")
    said = run.log.read_text("utf-8")
    assert f"Port {run.receivers[0]} is taken, so the receiver of /crm is at 127.0.0.1:" in said
    for row in ("public", "stadium-legacy", "warehouse"):
        line = next(line for line in said.splitlines() if f" {row} " in line)
        assert "True" in line, said
    assert len(run.left()) >= 3
    os.killpg(run.process.pid, signal.SIGINT)
    assert await run.wait_ended() == 0
    assert "Traceback" not in run.log.read_text("utf-8")
    assert run.left() == []


@pytest.mark.long
async def test_ctrl_c_before_the_day_ends_the_run_without_an_error(run: Run) -> None:
    await run.start()
    await run.wait_said("The gateway runs")
    os.killpg(run.process.pid, signal.SIGINT)
    assert await run.wait_ended() == 0
    said = run.log.read_text("utf-8")
    assert "Traceback" not in said
    assert "kubectl" not in said
    assert run.left() == []


@pytest.mark.long
async def test_killed_run_leaves_no_process(run: Run) -> None:
    await run.start("--seconds", "600")
    await run.wait_said("A day of the example agency")
    assert len(run.left()) >= 3
    run.process.send_signal(signal.SIGKILL)
    await run.wait_ended()

    async def left() -> list[str]:
        return run.left()

    await waiting.until(left, lambda programs: programs == [], limit_seconds=60)


async def test_accounts_of_programs_stay_logged_in(cluster: clusters.Cluster, namespace: str, tmp_path: Path) -> None:
    await cluster.kubectl("create", "serviceaccount", "usher-gateway", f"--namespace={namespace}")
    call = kubectl.Kubectl(cluster.kubectl.program, cluster.kubeconfig, tmp_path / "cache")
    reached = demo_cluster.Cluster(call, cluster.endpoint, tmp_path, is_given=True, namespace=namespace)
    kubeconfig = reached.account("usher-gateway")
    own = access.find_access(kubeconfig, {})
    tokens = {own.load().authorization}
    renewing = asyncio.create_task(reached.stay_logged_in("usher-gateway", every_seconds=1.0))

    async def told() -> set[str]:
        tokens.add(own.load().authorization)
        return tokens

    try:
        await waiting.until(told, lambda tokens_so_far: len(tokens_so_far) > 1)
        as_account = kubectl.Kubectl(cluster.kubectl.program, kubeconfig, tmp_path / "cache")
        assert f"serviceaccount:{namespace}:usher-gateway" in await as_account("auth", "whoami")
    finally:
        renewing.cancel()
