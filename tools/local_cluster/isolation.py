"""Namespaces of their own for a node: network, mounts and processes, which one kill ends.

`run` starts a command as the child of the first process of a new process namespace. When the command ends, or when the
caller of `run` is killed, the kernel ends every process of the namespace, and with the last one go mounts and network.
Only control groups and files are left. `run` removes them, also those of earlier runs that were killed.
"""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from local_cluster import cache

STATE = "USHER_NODE_STATE"  # Variable with the folder of the node's files, for programs inside of the namespaces
ADDRESS = "192.0.2.10"  # The node's address. It is from a range for documentation, so no real host has it.

# Command that starts another one as the first process of new namespaces.
ENTER = (
    *("unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation=slave", "--"),
)

_CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "usher-node-"

# Everything that Kubernetes writes outside of its folder goes to memory of these namespaces.
_PREPARE = f"""
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/usher/var /run/usher/work
mount -t overlay -o lowerdir=/var,upperdir=/run/usher/var,workdir=/run/usher/work overlay /var
resolver=$(readlink -m /etc/resolv.conf)
mkdir -p "$(dirname "$resolver")"
test -e "$resolver" || touch "$resolver"
echo "nameserver {ADDRESS}" > /run/usher/resolv.conf
mount --bind /run/usher/resolv.conf "$resolver"
ip link set lo up
ip link add node0 type bridge
ip addr add {ADDRESS}/24 dev node0
ip link set node0 up
ip route add default dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
"""


class IsolationError(Exception):
    """This process is not in the namespaces of a node."""


def run(command: Sequence[str]) -> int:
    """Run a command in new namespaces and return its exit code. Needs root and Linux."""
    with _state_folder() as state:
        first = [sys.executable, "-P", "-m", "local_cluster.isolation", *command]
        environment = os.environ | {STATE: str(state), "PYTHONPATH": os.pathsep.join(_python_path())}
        # The terminal sends an interrupt to the command as well, which decides what to do with it.
        previous_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            # The namespaces end also if this process is killed.
            tethered = ["setpriv", "--pdeathsig=KILL", "--", *ENTER, *first]
            with subprocess.Popen(tethered, env=environment) as process, _ended_with_this(process):
                return process.wait()
        finally:
            signal.signal(signal.SIGINT, previous_handler)


def state() -> Path:
    """Return the folder of the node's files.

    Raises:
        IsolationError: This process was not started by `run`.
    """
    path = os.environ.get(STATE)
    if path is None or not Path("/run/usher").is_dir():
        raise IsolationError("a node runs in namespaces of its own: use `make test-node`, or `local_cluster node`")
    return Path(path)


def control_group(state_folder: Path) -> str:
    """Return the name of the control group below which the node's pods are."""
    return state_folder.name


def control_groups(name: str) -> list[Path]:
    """Return the folder of a control group: one in each hierarchy of version 1, or the one of version 2."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS / name]
    return [hierarchy / name for hierarchy in _CGROUPS.iterdir() if not hierarchy.is_symlink()]


def _python_path() -> list[str]:
    here = str(Path(__file__).parents[1])
    return [here, *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)]


@contextlib.contextmanager
def _ended_with_this(outer: subprocess.Popen[bytes]) -> Iterator[None]:
    """End the namespaces at SIGTERM and at the end of the block, and wait until all of their processes are gone."""
    first = _first_process(outer)
    if first is None:
        yield
        return

    def end(_signal: int = 0, _frame: object = None) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(first, signal.SIGKILL)

    previous_handler = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        end()
        select.select([first], [], [])  # the first process ends after all others
        os.close(first)
        signal.signal(signal.SIGTERM, previous_handler)


def _first_process(outer: subprocess.Popen[bytes]) -> int | None:
    """Return a handle of the first process of the namespaces, or None if there is none any more."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while outer.poll() is None:
        process_ids = children.read_text("ascii").split()
        if process_ids:
            with contextlib.suppress(ProcessLookupError):
                return os.pidfd_open(int(process_ids[0]))
        time.sleep(0.01)
    return None


@contextlib.contextmanager
def _state_folder() -> Iterator[Path]:
    """Make a folder for the files of one node, and remove what killed runs left."""
    with contextlib.ExitStack() as stack:
        with cache.locked(cache.folder() / "node-folders"):
            for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
                with contextlib.suppress(BlockingIOError), _locked(left):
                    _remove(left)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            stack.enter_context(_locked(folder))
        stack.callback(_remove, folder)
        yield folder


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    for top in control_groups(control_group(folder)):
        for group, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                Path(group).rmdir()
    shutil.rmtree(folder, ignore_errors=True)


def _main() -> int:
    """Be the first process of the namespaces: prepare them, run the command, and reap every orphan."""
    subprocess.run(["sh", "-ec", _PREPARE], check=True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the command would inherit
    command = subprocess.Popen(sys.argv[1:])
    while True:
        ended, status = os.wait()
        if ended == command.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_main())
