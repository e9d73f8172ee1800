"""A Kubernetes node on this machine: a control plane, containerd, kubelet and kube-proxy, in namespaces of their own.

It runs only inside of `isolation.run`, which ends everything and removes what is left.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from local_cluster import control_plane, foreign, isolation, node_files, programs, routes, scratch_image, servers
from local_cluster import kubectl as kubectls

NAME = "node1"
LIMIT_SECONDS = 120.0  # Time limit of each step of the start; on an idle machine the whole start takes 20 s


class Node:
    """The processes of a node with its control plane."""

    def __init__(self, state: Path) -> None:
        self.files = node_files.NodeFiles(state)
        access = servers.NodeAccess(NAME, isolation.ADDRESS)
        self.plane = control_plane.ControlPlane(state / "cluster", programs.control_plane(), node=access)
        self.kubectl = kubectls.Kubectl(programs.kubectl(), self.plane.layout.kubeconfig, state / "kubectl-cache")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for programs in the same namespaces."""
        return self.plane.layout.kubeconfig

    def start(self) -> None:
        """Start everything, and wait until the node is ready and routes can be served.

        Raises:
            StartError: A program ended, or was not ready in time.
        """
        self.files.write(isolation.control_group(self.files.state))
        self._run("containerd", "containerd", f"--config={self.files.containerd}")
        self.plane.start()
        self._wait("containerd", lambda: self._succeeds(*self._ctr("version")))
        self.load(scratch_image.write(self.files.state / "pause.tar", node_files.PAUSE, programs.pause()))
        self._start_kubernetes()
        self._wait("the node", self._is_ready)
        # The kubelet reports no disk without localStorageCapacityIsolation, so no pod that requests some would be
        # scheduled. It keeps what somebody else reports.
        disk = json.dumps({"status": {"capacity": {"ephemeral-storage": "100Gi"}}})
        self.kubectl.run("patch", "node", NAME, "--subresource=status", "--type=merge", f"--patch={disk}")
        self._start_routes()

    def load(self, archive: Path) -> None:
        """Import the images of an OCI archive."""
        subprocess.run([*self._ctr("images", "import", archive)], check=True, capture_output=True, timeout=300)

    def tag(self, image: str, other: str) -> None:
        """Give an image another name."""
        command = self._ctr("images", "tag", "--force", image, other)
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def stop(self) -> None:
        """Kill the node's programs. Their containers end with the namespaces."""
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait(10)
        self._processes.clear()
        self.plane.stop()

    def make_volume(
        self, name: str, *, megabytes: int | None = None, size: str = "10Gi", storage_class: str = ""
    ) -> Path:
        """Create a volume, and return its folder on the node.

        Args:
            name: Name of the PersistentVolume.
            megabytes: Size of the file system. Without it, the volume is a folder of the machine's disk.
            size: The capacity that Kubernetes believes.
            storage_class: The class of the claims that can get it; empty for claims without a class.
        """
        folder = self.files.volumes / name
        folder.mkdir(parents=True)
        if megabytes is not None:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
            subprocess.run(mount, check=True, timeout=30)
        self.kubectl.run(
            "create", "--filename=-", stdin=json.dumps(node_files.volume(name, folder, size, NAME, storage_class))
        )
        return folder

    def _start_kubernetes(self) -> None:
        for group in isolation.control_groups(isolation.control_group(self.files.state)):
            group.mkdir(exist_ok=True)
        layout = self.plane.layout
        kubelet = [
            f"--config={self.files.kubelet}",
            f"--kubeconfig={layout.component('kubelet')}",
            f"--root-dir={self.files.state}/kubelet",
            f"--cert-dir={self.files.state}/kubelet/pki",
            f"--hostname-override={NAME}",
            f"--node-ip={isolation.ADDRESS}",
        ]
        self._run("kubelet", programs.node(), "kubelet", *kubelet)
        self._run("kube-proxy", programs.node(), "kube-proxy", f"--config={self.files.proxy}")

    def _start_routes(self) -> None:
        definitions = [*programs.traefik_definitions(), *(file for each in foreign.ALL for file in foreign.files(each))]
        self.kubectl.run("apply", "--server-side", *(f"--filename={file}" for file in definitions))
        self.kubectl.wait_established()
        solver = self.files.state / "solver.tar"
        self.load(scratch_image.write(solver, routes.SOLVER, programs.cert_manager(), "solver"))
        for route in routes.programs_of(self.files.state, self.plane.layout):
            self._run(route.name, *route.command, environment=route.environment)
            self._wait(route.name, route.answers)
        self.kubectl.run("apply", "--server-side", "--filename=-", stdin=json.dumps(routes.classes()))

    def _is_ready(self) -> bool:
        with contextlib.suppress(kubectls.KubectlError):
            status = json.loads(self.kubectl.run("get", "node", NAME, "--output=json"))["status"]
            return any(
                condition["type"] == "Ready" and condition["status"] == "True" for condition in status["conditions"]
            )
        return False

    def _ctr(self, *arguments: str | Path) -> list[str | Path]:
        return ["ctr", "--address", self.files.socket, "--namespace", "k8s.io", *arguments]

    def _succeeds(self, *command: str | Path) -> bool:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0

    def _run(self, name: str, *command: str | Path, environment: dict[str, str] | None = None) -> None:
        with (self.files.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                process_group=0,
            )

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not ready():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise control_plane.StartError(f"{name} ended; its last words:\n{self._last_words(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"{name}:\n{self._last_words(name)}" for name in self._processes)
                raise control_plane.StartError(f"{what} was not ready in {LIMIT_SECONDS:.0f} s\n{logs}")
            time.sleep(0.1)

    def _last_words(self, name: str) -> str:
        said = (self.files.logs / f"{name}.log").read_text("utf-8", "replace")
        return "\n".join(said.splitlines()[-10:])


@contextlib.contextmanager
def running() -> Iterator[Node]:
    """Run a node for the duration of a ``with`` block."""
    node = Node(isolation.state())
    try:
        node.start()
        yield node
    finally:
        node.stop()
