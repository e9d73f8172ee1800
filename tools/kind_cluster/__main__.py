"""Create a kind cluster with an Ingress controller, cert-manager, Usher and the example agency; or delete it.

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
    return _up() if action == "up" else _run("kind delete cluster --name usher")


def _up() -> int:
    KUBECONFIG.parent.mkdir(exist_ok=True)
    for command in steps.commands(steps.CLUSTER, steps.ROUTES, steps.USHER, steps.AGENCY):
        code = _run(command)
        if code != 0:
            print("This command failed. Correct the cause, and go on with it; `make kind-down` starts over.")
            return code
    print(f"\nUsher runs. Try this:\n\nexport KUBECONFIG={KUBECONFIG}{steps.VISIT}")
    return 0


def _run(command: str) -> int:
    """Run one command, shown as a user would type it."""
    print(f"+ {command}", flush=True)
    environ = os.environ | {"KUBECONFIG": str(KUBECONFIG)}
    return subprocess.run(shlex.split(command), cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
