"""Create a kind cluster with an Ingress controller, cert-manager, Usher and the example agency; or delete it.

`up` can be repeated: it goes on after a failure.

python -m kind_cluster up
python -m kind_cluster down
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from container_image import engine
from kind_cluster import steps

ROOT = Path(__file__).parents[2]
KUBECONFIG = ROOT / "data" / "kind.kubeconfig"
_PROGRAMS = ("docker", "kind", "kubectl", "helm")


def main() -> int:
    """Create or delete the cluster, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kind_cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("up", "down"))
    action = parser.parse_args().action
    missing = [name for name in (_PROGRAMS if action == "up" else _PROGRAMS[:2]) if shutil.which(name) is None]
    if missing:
        print(f"make kind needs {', '.join(_PROGRAMS)}; not on the PATH: {', '.join(missing)}", file=sys.stderr)
        return 1
    reason = engine.problem("docker")
    if reason is not None:
        print(f"make kind needs docker with a running daemon: {reason}", file=sys.stderr)
        return 1
    return _up() if action == "up" else _run("kind delete cluster --name usher")


def _up() -> int:
    KUBECONFIG.parent.mkdir(exist_ok=True)
    for command in steps.commands(steps.CLUSTER, steps.ROUTES, steps.USHER, steps.AGENCY):
        code = _run_or_repeat(command)
        if code != 0:
            print(_GO_ON.format(kubeconfig=KUBECONFIG), file=sys.stderr)
            return code
    print(f"\nUsher runs. Try this:\n\nexport KUBECONFIG={KUBECONFIG}{steps.VISIT}")
    return 0


_GO_ON = """
This command failed. To find out why:

  export KUBECONFIG={kubeconfig}
  kubectl get pods --all-namespaces
  kubectl get events --all-namespaces --sort-by=.lastTimestamp

Then run `make kind` again: it goes on with the cluster as it is. `make kind-down` deletes the cluster.
"""


def _run_or_repeat(command: str) -> int:
    """Run a command; if an earlier run has done it and it cannot be repeated, run what replaces it."""
    for beginning, (is_done, instead) in steps.REPEATS.items():
        if command.startswith(beginning) and _succeeds(is_done):
            return 0 if instead is None else _run(instead)
    return _run(command)


def _run(command: str) -> int:
    """Run one command, shown as a user would type it."""
    print(f"+ {command}", flush=True)
    return subprocess.run(shlex.split(command), cwd=ROOT, env=_environment(), check=False).returncode


def _succeeds(command: str) -> bool:
    done = subprocess.run(shlex.split(command), cwd=ROOT, env=_environment(), capture_output=True, check=False)
    return done.returncode == 0


def _environment() -> dict[str, str]:
    return os.environ | {"KUBECONFIG": str(KUBECONFIG)}


if __name__ == "__main__":
    sys.exit(main())
