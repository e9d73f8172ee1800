"""Whether this machine can run a node, and the programs that a node needs from it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local_cluster import debian, isolation, node_files

# Programs with the Debian package of each.
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    f"{node_files.CNI_PROGRAMS}/bridge": "containernetworking-plugins",
    "nft": "nftables",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
}

# Each line is something that a node does, and that a container or a strict kernel may refuse.
_PROBES = {
    "a mount": "mount --make-rshared / && mount -t tmpfs tmpfs {folder}/lower",
    "an overlay mount": (
        "mkdir {folder}/upper {folder}/work {folder}/merged"
        " && mount -t overlay -o lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
        " overlay {folder}/merged"
    ),
    "a network bridge": "ip link set lo up && ip link add node0 type bridge",
    "a control group": "for group in {groups}; do mkdir $group/usher-probe && rmdir $group/usher-probe; done",
    "IP forwarding": "echo 1 > /proc/sys/net/ipv4/ip_forward",
}


def problem() -> str | None:
    """Return why this machine cannot run a node, or None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "A node needs Linux and root: it mounts file systems, makes networks and changes users."
    needed = {program: package for program, package in PROGRAMS.items() if program != "ip"}
    missing = debian.missing(needed)
    if missing and shutil.which("apt-get") is None:
        return f"A node needs {', '.join(missing)}, and there is no apt-get to install it."
    if shutil.which("unshare") is None or debian.missing({"ip": "iproute2"}):
        return "A node needs the programs `unshare` (util-linux) and `ip` (iproute2)."
    return _refused()


def prepare() -> None:
    """Install the programs that are missing.

    Raises:
        MissingError: They cannot be installed.
    """
    debian.install_missing(PROGRAMS)


def _refused() -> str | None:
    """Return what the kernel refuses inside of new namespaces, or None."""
    for what, script in _PROBES.items():
        with tempfile.TemporaryDirectory(prefix="usher-probe-") as folder:
            Path(folder, "lower").mkdir()
            ready = script.format(folder=folder, groups=_groups())
            done = subprocess.run(
                [*isolation.ENTER, "sh", "-ec", ready],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"code {done.returncode}"]
            return f"A node needs {what} in namespaces of its own, which this machine refuses: {said[-1]}"
    return None


def _groups() -> str:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return str(root)
    return " ".join(str(entry) for entry in root.iterdir() if not entry.is_symlink())
