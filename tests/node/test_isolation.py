"""The namespaces of a node: they end as a whole, and leave nothing."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import isolation
from support import waiting

pytestmark = [pytest.mark.node, pytest.mark.timeout(300)]

TOOLS = Path(isolation.__file__).parents[1]


def inside(folder: Path, *command: str) -> subprocess.Popen[str]:
    """Run a command in new namespaces, with their files in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(TOOLS), "TMPDIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "local_cluster", "inside", *command], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for the files of namespaces, which must be empty at the end."""
    state_folder = Path(tempfile.mkdtemp(prefix="isolation-"))  # not pytest's, whose file system may not carry overlays
    yield state_folder
    state_folder.rmdir()


def processes_of(mark: str) -> list[str]:
    process_ids = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"sleep\0{mark}\0".encode() in words:
            process_ids.append(file.parent.name)
    return process_ids


def test_command_sees_only_its_own_processes_and_network(folder: Path) -> None:
    with inside(folder, "sh", "-c", "ls -d /proc/[0-9]* | wc -l; cat /proc/net/dev") as process:
        assert process.stdout is not None
        count, *network = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert int(count) < 10
    assert {line.partition(":")[0].strip() for line in network[2:]} == {"lo", "node0"}


@pytest.mark.parametrize(("number", "mark"), [(signal.SIGTERM, "4217.1"), (signal.SIGKILL, "4217.2")])
def test_killed_run_leaves_no_process_and_its_files_go_at_the_next_run(folder: Path, number: int, mark: str) -> None:
    script = f"setsid sleep {mark} & touch $USHER_NODE_STATE/file; sleep {mark}"
    with inside(folder, "sh", "-c", script) as process:
        waiting.poll(lambda: processes_of(mark), lambda process_ids: len(process_ids) == 2)
        (state,) = folder.glob("usher-node-*")
        groups = isolation.control_groups(isolation.control_group(state))
        for group in groups:
            (group / "pods").mkdir(parents=True)
        process.send_signal(number)
    waiting.poll(lambda: processes_of(mark), lambda process_ids: not process_ids)
    with inside(folder, "true"):
        pass
    assert not any(group.exists() for group in groups)
