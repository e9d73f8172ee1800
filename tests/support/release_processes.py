"""A release of the chart in an empty cluster without nodes: its pods' programs run as processes.

Each process has the arguments, the environment and the account of its pod. Only addresses, folders and the way to the
API server differ, because the process is not in the cluster's network.
"""

import asyncio
import contextlib
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from local_cluster import ports
from support import accounts, api, charts, clusters, installs, leaks

NAME, SYSTEM, CONFIGURATION = "usher", "usher-system", "usher-system-config"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_MODULES = {"usher": "usher_gateway", "usher-operator": "usher_operator"}
# Environment of a gateway that accepts visits however full the disk of the test is.
ANY_DISK = {
    "USHER_ACCEPT_MIN_FREE_MIB": "0",
    "USHER_ATTEMPTS_MIN_FREE_MIB": "0",
}


def helm(cluster: clusters.Cluster, *arguments: str) -> str:
    return charts.run(*arguments, f"--namespace={SYSTEM}", f"--kubeconfig={cluster.kubeconfig}")


class ProcessRelease(installs.Install):
    """An installed chart."""

    async def pod(self, kind: str, name: str) -> dict[str, Any]:
        """Return the pod template of a workload."""
        workload = await self.cluster.kubectl.json("get", kind, name, f"--namespace={SYSTEM}")
        template: dict[str, Any] = workload["spec"]["template"]
        return template

    async def start_operator_pod(self) -> installs.Process:
        """Start the program of an operator's pod and wait until it is ready."""
        port = ports.free()
        command = await self._command("deployment", f"{NAME}-operator", {"--admin": f"127.0.0.1:{port}"}, self.operator)
        process = await self._start(command, port, {})
        await process.wait_ready()
        return process

    async def start_gateway_pod(self, *, data: Path | None = None) -> installs.Process:
        """Start the program of the gateway's pod; the operator finds its admin port by an EndpointSlice."""
        tokens = self.folder / "tokens"
        tokens.mkdir(exist_ok=True)
        for name, content in (await self.secret("usher-admin-tokens", SYSTEM)).items():
            (tokens / name).write_bytes(content)
        host, port, public = installs.own_address(), ports.free(), ports.free()
        moved = {
            "--data": str(data or self.folder / "data"),
            "--listen": f"127.0.0.1:{public}",
            "--admin": f"{host}:{port}",
            "--admin-tokens": str(tokens),
        }
        command = await self._command("statefulset", f"{NAME}-gateway", moved, self.gateway)
        process = await self._start(command, port, await self._environment() | ANY_DISK, host=host)
        process.public = public
        await process.wait_ready()
        await self.server.apply(self._endpoints(host, port))
        return process

    async def check(self, ready: Mapping[str, installs.Process]) -> tuple[int, str]:
        """Run the programs of `helm test` with their account, as helm does: up to the first that fails.

        Returns the last exit code and the output of all.

        Args:
            ready: component -> the process that answers in place of the component's Service.
        """
        account = api.Resource("ServiceAccount", f"{NAME}-test", SYSTEM)
        logged_in = await accounts.log_in(self.server, self.cluster.endpoint, account, self.folder / "test")
        code, outputs = 0, ""
        pods = yaml.safe_load_all(helm(self.cluster, "get", "hooks", NAME))
        for pod in sorted(pods, key=lambda hook: int(hook["metadata"]["annotations"]["helm.sh/hook-weight"])):
            assert pod["spec"]["serviceAccountName"] == account.name
            arguments = pod["spec"]["containers"][0]["args"]
            for component, process in ready.items():
                service = rf"http://{NAME}-{component}-admin\.{SYSTEM}\.svc:\d+"
                arguments = [re.sub(service, process.url, argument) for argument in arguments]
            assert arguments[:2] == ["usher-operator", "check-install"]
            code, output = await check_install(*arguments[2:], f"--kubeconfig={logged_in.kubeconfig}")
            outputs += output
            if code != 0:
                break
        return code, outputs

    async def _command(self, kind: str, name: str, moved: Mapping[str, str], account: accounts.Account) -> list[str]:
        pod = (await self.pod(kind, name))["spec"]
        assert pod["serviceAccountName"] == account.name
        arguments = pod["containers"][0]["args"]
        for flag, value in moved.items():
            (place,) = [index for index, argument in enumerate(arguments) if argument.startswith(f"{flag}=")]
            arguments[place] = f"{flag}={value}"
        return [*_program(arguments)[1:], f"--kubeconfig={account.kubeconfig}"]

    async def _environment(self) -> dict[str, str]:
        """Return the environment of the gateway's pod."""
        (container,) = (await self.pod("statefulset", f"{NAME}-gateway"))["spec"]["containers"]
        environment = {}
        for variable in container["env"]:
            if "value" in variable:
                environment[variable["name"]] = variable["value"]
                continue
            reference = variable["valueFrom"]["secretKeyRef"]
            environment[variable["name"]] = (
                (await self.secret(reference["name"], SYSTEM))[reference["key"]].decode().strip()
            )
        return environment

    @staticmethod
    def _endpoints(host: str, port: int) -> dict[str, Any]:
        """The EndpointSlice that the endpoint controller would write for the gateway's pod."""
        service = f"{NAME}-gateway-admin"
        labels = {"kubernetes.io/service-name": service}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{service}-process", "namespace": SYSTEM, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"name": "admin", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [host], "conditions": {"ready": True}}],
        }


def _program(arguments: list[str]) -> list[str]:
    program, *rest = arguments
    return [sys.executable, "-m", _MODULES[program], *rest]


async def check_install(*arguments: str) -> tuple[int, str]:
    """Run the program of `helm test`; return exit code and output."""
    checking = await asyncio.create_subprocess_exec(
        *_program(["usher-operator", "check-install", *arguments]),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await checking.communicate()
    assert checking.returncode is not None
    return checking.returncode, output.decode()


async def create_namespace(server: api.Api, name: str, labels: Mapping[str, str] | None = None) -> None:
    metadata = {"name": name, "labels": dict(labels or {})}
    await server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


@contextlib.asynccontextmanager
async def released(
    cluster: clusters.Cluster, server: api.Api, folder: Path, values: Mapping[str, Any]
) -> AsyncIterator[ProcessRelease]:
    """Install the chart into its own namespace, which accepts only restricted pods."""
    await create_namespace(server, SYSTEM, RESTRICTED)
    (folder / "values.json").write_text(json.dumps(values), "utf-8")
    await asyncio.to_thread(helm, cluster, "install", NAME, str(charts.CHART), f"--values={folder / 'values.json'}")
    operator, gateway = [
        await accounts.log_in(server, cluster.endpoint, api.Resource("ServiceAccount", name, SYSTEM), folder / name)
        for name in (f"{NAME}-operator", f"{NAME}-gateway")
    ]
    release = ProcessRelease(server, cluster, folder, SYSTEM, CONFIGURATION, "usher.dev/usher", operator, gateway)
    try:
        yield release
        await release.search_for_secrets()
    finally:
        for process in release.running:
            with contextlib.suppress(AssertionError):
                await process.stop()
            leaks.SECRETS.search(f"log {process.log.name}", process.log.read_text("utf-8", "replace"))
