"""A Kubernetes cluster on this machine.

python -m local_cluster up             start a control plane (etcd, API server, controller-manager, scheduler; no nodes,
                                       no root), print its KUBECONFIG; builds it first: once, some minutes
python -m local_cluster down           end it and remove its files
python -m local_cluster build          only build what `up` and the tests need

python -m local_cluster node COMMAND   start a node too, with CoreDNS, cert-manager, Traefik and Pebble, in namespaces
                                       of its own (Linux, root); run COMMAND there with KUBECONFIG, and end everything
python -m local_cluster inside COMMAND the same namespaces without the node, for tests that start it themselves
python -m local_cluster prepare-node   only install and build what `node` needs
python -m local_cluster can-run-node   print why this machine cannot run a node, and end with code 1; or end with code 0
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from local_cluster import (
    cache,
    compiler,
    control_plane,
    debian,
    foreign,
    helm,
    isolation,
    node,
    node_machine,
    programs,
    toolchain,
)

_ERRORS = (
    control_plane.StartError,
    compiler.BuildError,
    toolchain.ToolchainError,
    debian.MissingError,
    helm.HelmError,
    isolation.IsolationError,
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m local_cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    state = cache.folder() / "local-cluster"
    parser.add_argument("--state", type=Path, default=state, help="where the files of `up` are")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in ("up", "down", "build", "prepare-node", "can-run-node"):
        commands.add_parser(name)
    for name in ("node", "inside", "in-node"):
        commands.add_parser(name).add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except _ERRORS as error:
        print(error, file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up":
            return _up(arguments.state)
        case "down":
            return _down(arguments.state)
        case "build":
            return _build()
        case "prepare-node":
            return _prepare_node()
        case "can-run-node":
            return _can_run_node()
        case "inside":
            return isolation.run(arguments.argv)
        case "node":
            again = [sys.executable, "-m", "local_cluster", "in-node", *arguments.argv]
            return _prepare_node() or isolation.run(again)
        case _:
            return _in_node(arguments.argv)


def _build() -> int:
    programs.control_plane()
    for each in foreign.ALL:
        foreign.files(each)
    return 0


def _prepare_node() -> int:
    problem = node_machine.problem()
    if problem is not None:
        print(problem, file=sys.stderr)
        return 1
    node_machine.prepare()
    _build()
    for build in programs.OF_A_NODE:
        build()
    helm.find()
    return 0


def _can_run_node() -> int:
    problem = node_machine.problem()
    print(problem or "This machine can run a node.")
    return 0 if problem is None else 1


def _in_node(argv: list[str]) -> int:
    with node.running() as ready:
        print(f"The node is ready: KUBECONFIG={ready.kubeconfig}", file=sys.stderr)
        command = argv or [os.environ.get("SHELL", "sh")]
        return subprocess.run(command, env=os.environ | {"KUBECONFIG": str(ready.kubeconfig)}, check=False).returncode


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
