"""A Kubernetes control plane on loopback, which one kill of its process group ends.

It ends with the process that started it, however that one ends (`detached`: only by `down`). It needs no root.
"""

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from local_cluster import authority, kubeconfigs, ports, programs, servers

LIMIT_SECONDS = 90.0  # Time limit of each step of the start; on an idle machine the whole start takes 4 s
TRIES = 3  # Number of starts, because another program may take a port between its choice and its use
DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
LIFELINE = "CONTROL_PLANE_LIFELINE"  # Variable that makes a server end when its standard input closes


class StartError(Exception):
    """The cluster did not start; the message ends with the server's log."""


class PortTakenError(StartError):
    """Another program took one of the ports."""


@dataclass(frozen=True)
class Running:
    """A running cluster."""

    layout: servers.Layout
    endpoint: kubeconfigs.Endpoint

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig


@contextlib.contextmanager
def running(state: Path) -> Iterator[Running]:
    """Run a cluster for the duration of a ``with`` block, with its files in a new folder."""
    plane = ControlPlane(state, programs.control_plane())
    try:
        yield plane.start()
    finally:
        plane.stop()


class ControlPlane:
    """The four processes, in one process group."""

    def __init__(
        self, state: Path, program: Path, *, detached: bool = False, node: servers.NodeAccess | None = None
    ) -> None:
        self.layout = servers.Layout(state.absolute())
        self._program, self._detached, self._node = program, detached, node
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lifeline: tuple[int, int] | None = None
        self._ports: servers.Ports | None = None
        self._endpoint: kubeconfigs.Endpoint | None = None

    def start(self) -> Running:
        """Start a cluster and wait until its controllers work.

        Raises:
            StartError: A server ended, or was not ready in time.
        """
        for left in reversed(range(TRIES)):
            try:
                return self._start()
            except PortTakenError:
                self.stop()
                if not left:
                    raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Kill every server. Does nothing if none runs."""
        self._kill()
        for end in self._lifeline or ():
            os.close(end)
        self._lifeline = None
        shutil.rmtree(self.layout.data, ignore_errors=True)

    def back_up(self, folder: Path) -> None:
        """Copy the data of etcd, as a snapshot of its volume would, into a new folder."""
        store = self._processes[0]
        store.send_signal(signal.SIGSTOP)
        try:
            shutil.copytree(self.layout.data, folder)
        finally:
            store.send_signal(signal.SIGCONT)

    def restart(self, backup: Path | None = None) -> None:
        """Kill every server and start them again: with the same data, or with that of a backup.

        Raises:
            StartError: A server ended, or was not ready in time.
        """
        self._kill()
        if backup is not None:
            shutil.rmtree(self.layout.data)
            shutil.copytree(backup, self.layout.data)
        self._start_servers()

    def _kill(self) -> None:
        if self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[0].pid, signal.SIGKILL)
        for process in self._processes:
            process.wait(10)
        self._processes.clear()

    def _start(self) -> Running:
        layout, self._ports = self.layout, servers.Ports(*ports.several(5))
        layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        layout.certificates.mkdir(exist_ok=True)
        layout.logs.mkdir(exist_ok=True)
        layout.write_audit_policy()
        self._endpoint = self._issue(self._ports)
        self._lifeline = None if self._detached else os.pipe()
        self._start_servers()
        return Running(layout, self._endpoint)

    def _start_servers(self) -> None:
        layout, server_ports, endpoint = self.layout, self._ports, self._endpoint
        assert server_ports is not None
        assert endpoint is not None
        self._run(servers.etcd(layout, server_ports))
        self._run(servers.api_server(layout, server_ports, self._node))
        self._note()
        self._wait("the API server", lambda: self._answers(endpoint, "/readyz"))
        self._run(
            servers.controllers(layout, server_ports)
        )  # not earlier, because it exits without the API server's roles
        self._run(servers.scheduler(layout, server_ports))
        self._wait("the controller-manager", lambda: self._answers(endpoint, DEFAULT_ACCOUNT))

    def _issue(self, server_ports: servers.Ports) -> kubeconfigs.Endpoint:
        layout = self.layout
        own = authority.Authority(layout.certificates, "ca")
        known_as = servers.KNOWN_AS if self._node is None else (*servers.KNOWN_AS, self._node.address)
        own.issue("api", authority.Subject("kube-apiserver"), known_as)
        authority.write_key_pair(layout.certificates, "accounts")
        endpoint = kubeconfigs.Endpoint(f"https://{servers.LOOPBACK}:{server_ports.api}", own.certificate.read_bytes())
        accounts = {
            layout.kubeconfig: authority.Subject("admin", "system:masters"),
            layout.component("controllers"): authority.Subject("system:kube-controller-manager"),
            layout.component("scheduler"): authority.Subject("system:kube-scheduler"),
        }
        if self._node is not None:
            own.issue("kubelet-client", authority.Subject("kube-apiserver-kubelet-client", "system:masters"))
            accounts[layout.component("kubelet")] = authority.Subject(f"system:node:{self._node.name}", "system:nodes")
            accounts[layout.component("proxy")] = authority.Subject("system:kube-proxy")
        for path, subject in accounts.items():
            pair = own.issue(path.stem, subject)
            kubeconfigs.write(path, kubeconfigs.with_certificate(endpoint, *pair))
        return endpoint

    def _run(self, arguments: list[str]) -> None:
        group = self._processes[0].pid if self._processes else 0
        environment = dict(os.environ)
        if self._lifeline is not None:
            environment[LIFELINE] = "stdin"
        with (self.layout.logs / f"{arguments[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL if self._lifeline is None else self._lifeline[0],
                stdout=log,
                stderr=log,
                env=environment,
                process_group=group,
            )
        self._processes.append(process)

    def _note(self) -> None:
        facts = {"group": self._processes[0].pid}
        self.layout.facts.write_text(json.dumps(facts), "utf-8")

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not ready():
            for process in self._processes:
                if process.poll() is not None:
                    self._explain(str(process.args[1]))  # type: ignore[index]  # a list: see _run
            if time.monotonic() > deadline:
                raise StartError(f"{what} was not ready in {LIMIT_SECONDS:.0f} s: see {self.layout.logs}")
            time.sleep(0.05)

    def _explain(self, name: str) -> None:
        said = (self.layout.logs / f"{name}.log").read_text("utf-8", "replace")
        error = PortTakenError if "address already in use" in said else StartError
        raise error(f"{name} ended; its last words:\n" + "\n".join(said.splitlines()[-10:]))

    def _answers(self, endpoint: kubeconfigs.Endpoint, path: str) -> bool:
        context = ssl.create_default_context(cadata=endpoint.authority.decode())
        files = self.layout.certificates
        context.load_cert_chain(files / "admin.crt", files / "admin.key")
        try:
            with urllib.request.urlopen(endpoint.server + path, context=context, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def down(state: Path) -> bool:
    """Stop a detached cluster and remove its files; return whether one existed."""
    layout = servers.Layout(state.absolute())
    if not layout.facts.exists():
        return False
    group = int(json.loads(layout.facts.read_text("utf-8"))["group"])
    if _is_ours(group, layout):
        os.killpg(group, signal.SIGKILL)
    shutil.rmtree(layout.state)
    return True


def runs(state: Path) -> bool:
    """Return whether the cluster of this folder runs."""
    layout = servers.Layout(state.absolute())
    return layout.facts.exists() and _is_ours(int(json.loads(layout.facts.read_text("utf-8"))["group"]), layout)


def _is_ours(process: int, layout: servers.Layout) -> bool:
    """Return whether a process id still belongs to the cluster's etcd, because the system reuses ids."""
    told = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(process)], capture_output=True, text=True, check=False, timeout=10
    )
    return f"--data-dir={layout.data}" in told.stdout
