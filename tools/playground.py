"""A shell on the real node of the tests, with everything to install the chart by hand: `make node`.

It runs inside of `local_cluster inside`, so the node and all of its pods end with the shell.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from container_image import engine, offline
from kind_cluster import steps
from local_cluster import control_plane, helm, isolation, node, programs

IMAGE = f"docker.io/library/{steps.IMAGE}"
STORAGE_CLASS = "local"
VOLUMES = 10  # How many claims the StorageClass can serve: it has volumes that exist, and no provisioner

_WELCOME = """
This shell is on a Kubernetes node with Traefik, cert-manager and the image {image}. No packet leaves it.
KUBECONFIG, kubectl, helm and usher are set up, and claims get volumes of the StorageClass "{storage_class}".
Traefik and cert-manager run beside the kubelet, so they have no pods. Ingresses have the address 192.0.2.10, to which
every name below .test leads. DNS has no other names, so `hooks.usher.example` of class.yaml is not REACHABLE.
No NetworkPolicy is enforced.
Install Usher, make the first webhook, and post to it:
{commands}
The node ends with this shell (exit, or Ctrl-D).
"""


def main() -> int:
    """Start a node, and run a command or a shell on it."""
    parser = argparse.ArgumentParser(
        prog="python -m playground", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("argv", nargs=argparse.REMAINDER, help="command to run [default: an interactive bash]")
    argv = parser.parse_args().argv
    try:
        with tempfile.TemporaryDirectory(prefix="usher-playground-") as folder, node.running() as ready:
            furnish(ready, build_image(Path(folder)))
            print(welcome(), file=sys.stderr)
            signal.signal(signal.SIGINT, lambda *_: None)  # from here on, Ctrl-C belongs to the command
            variables = environment(ready.kubeconfig, Path(folder))
            if argv:
                return subprocess.run(argv, env=variables, check=False).returncode
            subprocess.run(["bash", "--norc", "-i"], env=variables, check=False)  # its code is that of its last command
    except (engine.ImageError, control_plane.StartError, helm.HelmError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
    return 0


def build_image(folder: Path) -> Path:
    """Build the image of this checkout without network, and return its archive."""
    storage = offline.environment(folder)
    offline.add_base(storage)
    try:
        command = engine.command("buildah", IMAGE, base=offline.BASE, wheelhouse=offline.wheelhouse())
        print("Building the image (1 minute) ...", file=sys.stderr, flush=True)
        _run(*command, env=storage)
        archive = folder / "usher.tar"
        _run("buildah", "push", "--quiet", IMAGE, f"oci-archive:{archive}:{IMAGE}", env=storage)
        return archive
    finally:
        _run("buildah", "rmi", "--all", "--force", env=storage)


def furnish(ready: node.Node, archive: Path | None) -> None:
    """Give a node the image, and a default StorageClass with volumes."""
    if archive is not None:
        ready.load(archive)
    ready.kubectl.run("apply", "--server-side", "--filename=-", stdin=json.dumps(_storage_class()))
    for number in range(VOLUMES):
        ready.make_volume(f"{STORAGE_CLASS}-{number}", storage_class=STORAGE_CLASS)


def environment(kubeconfig: Path, folder: Path) -> dict[str, str]:
    """Return the variables of a shell whose PATH has kubectl, helm and usher.

    A folder gets links to these programs, and what kubectl and helm cache.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, program in {"kubectl": programs.kubectl(), "helm": helm.find()}.items():
        (bin_folder / name).symlink_to(program)
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    prompt = "\\[\\e[1m\\]node\\[\\e[0m\\]:\\W$ "
    cache = str(folder / "kube-cache")
    return os.environ | {"PATH": path, "KUBECONFIG": str(kubeconfig), "KUBECACHEDIR": cache, "PS1": prompt}


def commands() -> list[str]:
    """Return the commands from an empty cluster to the first visit, as they work on the node."""
    first, *rest = steps.commands(steps.USHER, steps.AGENCY, steps.VISIT)
    assert first.startswith("kubectl create namespace")
    url = next(command for command in rest if command.startswith("kubectl get secret"))
    rest.remove(url)
    return [
        first,
        *(command.replace("127.0.0.1", isolation.ADDRESS).replace(" URL", f' "$({url})"') for command in rest),
    ]


def welcome() -> str:
    """Return what the shell prints first."""
    shown = "\n".join(f"  {command}" for command in commands())
    return _WELCOME.format(image=steps.IMAGE, storage_class=STORAGE_CLASS, commands=f"\n{shown}\n")


def _storage_class() -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _run(*command: str, env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise engine.ImageError(f"`{' '.join(command)}` ended with code {done.returncode}:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
