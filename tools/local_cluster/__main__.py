"""A Kubernetes control plane on this machine: etcd, API server, controller-manager and scheduler; no nodes, no root.

python -m local_cluster up      start it (builds it first: once, some minutes), print its KUBECONFIG
python -m local_cluster down    end it and remove its files
python -m local_cluster build   only build what `up` and the tests need
"""

import argparse
import sys
from pathlib import Path

from local_cluster import cache, control_plane, foreign, programs, toolchain


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["up", "down", "build"])
    parser.add_argument("--state", type=Path, default=cache.folder() / "local-cluster", help="where its files are")
    arguments = parser.parse_args()
    try:
        return {"up": _up, "down": _down, "build": _build}[arguments.command](arguments.state)
    except (control_plane.StartError, programs.BuildError, toolchain.ToolchainError) as error:
        print(error, file=sys.stderr)
        return 1


def _build(_: Path) -> int:
    programs.control_plane()
    for each in foreign.ALL:
        foreign.files(each)
    return 0


def _up(state: Path) -> int:
    if control_plane.runs(state):
        print(f"A cluster runs already: export KUBECONFIG={state}/admin.kubeconfig", file=sys.stderr)
        return 1
    plane = control_plane.ControlPlane(state, programs.control_plane(), detached=True)
    try:
        running = plane.start()
    except BaseException:
        plane.stop()
        raise
    print(f"export KUBECONFIG={running.kubeconfig}")
    print(f"# {programs.kubectl()} get namespaces; its logs are in {running.layout.logs}")
    return 0


def _down(state: Path) -> int:
    if not control_plane.down(state):
        print(f"no cluster in {state}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
