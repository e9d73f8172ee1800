"""A release of the chart in its own namespace, installed as users do."""

import contextlib
import json
import os
import secrets
import signal
import time
from pathlib import Path
from typing import Any

from local_cluster import kubectl as kubectls
from support import charts, sites

NAME = "usher"
ALLOW_CLUSTER = "--set=gateway.allowDestinations={10.0.0.0/8}"  # Lets destinations be in the cluster
_WAIT_SECONDS = 180


class Release:
    """Usher installed by helm, with the chart's own rights.

    Args:
        site: The cluster.
        workload: Kind of the gateway in the chart: `deployment` with PostgreSQL, which needs no volume.
    """

    def __init__(self, site: sites.Site, workload: str = "statefulset") -> None:
        self.site = site
        self.gateway = f"{workload}/{NAME}-gateway"
        self.namespace = f"usher-{secrets.token_hex(3)}"
        repository, _, tag = site.image.rpartition(":")
        self.values = [f"--set=image.repository={repository}", f"--set=image.tag={tag}"]
        if site.local is not None:
            self.values.append("--set=image.pullPolicy=Never")

    @property
    def volume_claim(self) -> str:
        return f"data-{NAME}-gateway-0"

    def install(self, *arguments: str, megabytes: int | None = None) -> float:
        """Install the chart from nothing, and return the seconds until everything is ready.

        Args:
            arguments: More arguments of helm.
            megabytes: Size of the gateway's volume, on a local node.
        """
        self.site.make_namespace(self.namespace)
        if self.site.local is not None and self.gateway.startswith("statefulset/"):
            self.site.local.make_volume(self.namespace, megabytes=megabytes)
        started = time.monotonic()
        self.helm("install", NAME, str(charts.CHART), *self._wait(), *self.values, *arguments)
        return time.monotonic() - started

    def upgrade(self, *arguments: str, chart: str = str(charts.CHART)) -> None:
        self.helm("upgrade", NAME, chart, *self._wait(), *self.values, *arguments)

    def rollback(self, revision: int) -> None:
        self.helm("rollback", NAME, str(revision), *self._wait())

    def uninstall(self) -> None:
        self.helm("uninstall", NAME, *self._wait())

    def remove(self) -> None:
        """Remove everything, also what an uninstallation leaves."""
        if NAME in self.helm("list", "--short").split():
            self.uninstall()
        later = ("--ignore-not-found", "--wait=false")
        self.site.kubectl.run("delete", "namespace", self.namespace, f"{self.namespace}-config", *later)
        self.site.kubectl.run("delete", "persistentvolume", self.namespace, *later)
        definitions = [f"{kind}.usher.dev" for kind in ("listenerclasses", "tenants", "listeners", "destinations")]
        self.site.kubectl.run("delete", "customresourcedefinition", *definitions, "--ignore-not-found")

    def helm(self, *arguments: str) -> str:
        kubeconfig = f"--kubeconfig={self.site.kubectl.kubeconfig}"
        return charts.run(*arguments, f"--namespace={self.namespace}", kubeconfig, limit_seconds=_WAIT_SECONDS + 30)

    def admit(self, namespace: str) -> None:
        """Admit the namespace of an agency by the command that the chart's notes print."""
        account = f"--serviceaccount={self.namespace}:{NAME}-operator"
        role = ("--clusterrole=usher-agency", account)
        self.site.kubectl.run("create", "rolebinding", "usher-agency", f"--namespace={namespace}", *role)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return self.site.kubectl.run(*arguments, f"--namespace={self.namespace}", stdin=stdin)

    def pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"--selector=app.kubernetes.io/component={component}"
        pods: list[dict[str, Any]] = self.site.get("pods", f"--namespace={self.namespace}", selector)
        return pods

    def usher(self, *arguments: str) -> str:
        """Run a command of `usher` in the pod of a gateway."""
        command = ("usher", *arguments, "--data=/tokens")
        return self.site.kubectl.run("exec", self.gateway, f"--namespace={self.namespace}", "--", *command)

    def books(self, tenant: str) -> dict[str, Any]:
        """Return the gateway's counts of a tenant (NAMESPACE/NAME)."""
        total: dict[str, Any] = json.loads(self.usher("usage", f"--tenant={tenant}", "--output=json"))["total"]
        return total

    def wait_ready(self) -> None:
        """Wait until gateway and operator run as wanted."""
        for workload in (self.gateway, f"deployment/{NAME}-operator"):
            self.kubectl("rollout", "status", workload, "--timeout=110s")

    def gateway_is_ready(self) -> bool:
        ready = [
            condition["status"] == "True"
            for pod in self.pods("gateway")
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready"
        ]
        return ready == [True]

    def describe(self) -> str:
        """Return the pods, Events and last log lines, for the report of a failed test."""
        commands = (
            ("get", "pods", "--output=wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "--selector=app.kubernetes.io/name=usher", "--tail=20", "--prefix"),
        )
        outputs = []
        for command in commands:
            with contextlib.suppress(kubectls.KubectlError):
                outputs.append("\n".join(self.kubectl(*command).splitlines()[-60:]))
        return "\n\n".join(outputs)

    def kill_gateway(self) -> None:
        """Kill the gateway's process; in a given cluster, delete its pod without a grace period."""
        if self.site.local is None:
            self.kubectl("delete", "pod", f"{NAME}-gateway-0", "--force", "--grace-period=0")
            return
        for process in self._gateway_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def kill_one_gateway(self) -> None:
        """Kill the process of one of several gateways, on a local node."""
        os.kill(self._gateway_processes()[0], signal.SIGKILL)

    def _gateway_processes(self) -> list[int]:
        argument = f"--config-namespace={self.namespace}-config".encode()
        process_ids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if argument in (folder / "cmdline").read_bytes().split(b"\0"):
                    process_ids.append(int(folder.name))
        return process_ids

    @staticmethod
    def _wait() -> tuple[str, str]:
        return "--wait", f"--timeout={_WAIT_SECONDS}s"
