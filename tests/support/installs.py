"""An install in its own namespaces of a shared cluster, with the shipped permissions; its programs are processes."""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from local_cluster import ports
from support import accounts, api, clusters, leaks, waiting, wire
from usher_gateway import config_secret
from usher_operator.state.values import AGENCY_ROLE

ACCESS = Path(__file__).parents[2] / "operator" / "rbac"
ALTERED = Path(__file__).with_name("altered_operator.py")
OPERATOR, GATEWAY = "usher-operator", "usher-gateway"
_STOP_SECONDS = 60
_SHOWN_LINES = 60
_STARTED: list["Process"] = []  # The programs of all installs of this run, in the order of their start
_SECRET_PART = 20  # A part of a URL with this number of characters counts as a secret


def logs_of_running() -> list[tuple[str, str]]:
    """Return the path and the last lines of the log of each program that still runs, to explain a failed test."""
    running = [process for process in _STARTED if process.process.returncode is None]
    return [
        (str(process.log), "\n".join(process.log.read_text("utf-8").splitlines()[-_SHOWN_LINES:]))
        for process in running
    ]


def own_address() -> str:
    """An address of this machine that is not loopback, because an EndpointSlice accepts no loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            # the API server rejects loopback addresses in an EndpointSlice, a machine without a network has no other
            # address, and no gateway would answer at an invented one
            pytest.skip("this machine has no address but loopback, and an EndpointSlice takes none of those")
        return str(probe.getsockname()[0])


class Namespaces:
    """Creates namespaces, and admits those of agencies for every install, as the owner of a platform does."""

    def __init__(self, server: api.Api) -> None:
        self.server = server
        self.created: list[str] = []
        self._agencies: list[str] = []
        self._operators: list[accounts.Account] = []

    async def __call__(
        self, prefix: str = "test", labels: Mapping[str, str] | None = None, *, is_admitted: bool = True
    ) -> str:
        """Create a namespace with labels, and return its name."""
        name = f"{prefix}-{secrets.token_hex(4)}"
        metadata = {"name": name, "labels": {clusters.MADE: "true", **(labels or {})}}
        await self.server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.created.append(name)
        if is_admitted:
            self._agencies.append(name)
            if self._operators:
                await self.server.apply(accounts.admission(name, self._operators))
        return name

    async def admit(self, operator: accounts.Account) -> None:
        """Admit the namespaces for the operator of an install, and those that are created later."""
        self._operators.append(operator)
        for name in self._agencies:
            await self.server.apply(accounts.admission(name, self._operators))


@contextlib.asynccontextmanager
async def namespaces(server: api.Api) -> AsyncIterator[Namespaces]:
    """Create new namespaces, and delete them at the end without waiting."""
    make = Namespaces(server)
    yield make
    for name in make.created:
        await server.delete(api.Resource("Namespace", name))


class Process:
    """A running program with an admin port and a log."""

    def __init__(self, process: asyncio.subprocess.Process, admin: int, log: Path, host: str) -> None:
        self.process, self.admin, self.log, self.host = process, admin, log, host
        self.public = 0  # A gateway's public port
        self.command: list[str] = []
        self.environ: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.admin}"

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Send a request to the admin port; return status 0 while it does not answer."""
        try:
            async with aiohttp.ClientSession(headers=headers) as session, session.get(self.url + path) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def answer(self, hostname: str, path: str, **headers: str) -> int:
        """Post a probe to a gateway's public port and return the status of the answer."""
        request = wire.request(path, b"{}", host=hostname, headers=headers)
        return (await wire.exchange(self.public, request)).status

    async def wait_answer(self, hostname: str, path: str, status: int, limit_seconds: float = 60.0) -> None:
        """Wait until a gateway answers with a status."""
        await waiting.until(
            lambda: self.answer(hostname, path),
            lambda answered_status: answered_status == status,
            limit_seconds=limit_seconds,
        )

    async def wait_ready(self) -> None:
        async def look() -> tuple[int, str]:
            assert self.process.returncode is None, self.log.read_text("utf-8")[-4000:]
            return await self.get("/readyz")

        await waiting.until(look, lambda answer: answer[0] == 200)

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; ``name`` may include the first labels."""
        _, text = await self.get("/metrics")
        rows = [row for row in text.splitlines() if row.startswith(name)]
        return sum(float(row.rpartition(" ")[2]) for row in rows)

    def taken_for_gone(self, namespace: str) -> list[str]:
        """Return the log lines about objects of one namespace that a relist found deleted without an event."""
        lines = self.log.read_text("utf-8").splitlines()
        return [line for line in lines if "missed_deletion_found" in line and f'"{namespace}"' in line]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the program, which keeps its connections and answers nothing, and let it go on at the end."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the program and return its exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            try:
                await asyncio.wait_for(self.process.wait(), _STOP_SECONDS)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
                raise AssertionError("the program did not end:\n" + self.log.read_text("utf-8")[-4000:]) from None
        assert self.process.returncode is not None
        return self.process.returncode


async def start(
    command: list[str], admin: int, log: Path, environ: Mapping[str, str], *, host: str = "127.0.0.1"
) -> Process:
    """Start a program of this environment: ``-m`` and a module, or a file, then its arguments."""
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=output, stderr=output, env={**kept, **environ}
        )
    started = Process(process, admin, log, host)
    started.command, started.environ = command, dict(environ)
    _STARTED.append(started)
    return started


@dataclass
class Install:
    """One install. ListenerClasses refer to it by ``controller``."""

    server: api.Api
    cluster: clusters.Cluster
    folder: Path
    system: str
    config: str
    controller: str
    operator: accounts.Account
    gateway: accounts.Account
    running: list[Process] = field(default_factory=list)

    async def start_operator(
        self,
        *arguments: str,
        account: accounts.Account | None = None,
        wait: bool = True,
        changes: dict[str, Any] | None = None,
    ) -> Process:
        """Start an operator.

        Args:
            *arguments: further arguments.
            account: the account to use instead of the install's.
            wait: whether to wait until the operator is ready.
            changes: differences from the shipped program (see altered_operator.py).
        """
        kubeconfig = (account or self.operator).kubeconfig
        port = ports.free()
        program = ["-m", "usher_operator"] if changes is None else [str(ALTERED), json.dumps(changes)]
        command = [
            *(*program, "run", "--kubeconfig", str(kubeconfig), "--admin", f"127.0.0.1:{port}"),
            *("--namespace", self.system, "--configuration-namespace", self.config),
            *("--controller-name", self.controller, "--log-format", "json", "--log-level", "debug", *arguments),
        ]
        process = await self._start(command, port, {})
        if wait:
            await process.wait_ready()
        return process

    async def start_gateway(
        self, *, admin: int = 0, wait: bool = True, account: accounts.Account | None = None, host: str = "127.0.0.1"
    ) -> Process:
        """Start a gateway that runs the published documents; ``host`` is the host of its admin port."""
        port, public = admin or ports.free(), ports.free()
        data = self.folder / f"data-{port}"
        tokens = self.folder / "tokens"
        tokens.mkdir(exist_ok=True)
        for name, content in (await self.secret("usher-admin-tokens", self.system)).items():
            (tokens / name).write_bytes(content)
        key = (await self.secret("usher-install-key", self.system))["install.key"].decode().strip()
        kubeconfig = str((account or self.gateway).kubeconfig)
        command = [
            *("-m", "usher_gateway", "run", "--from-cluster", "--kubeconfig", kubeconfig),
            *("--config-namespace", self.config, "--data", str(data), "--admin-tokens", str(tokens)),
            *("--listen", f"127.0.0.1:{public}", "--admin", f"{host}:{port}", "--log-format", "json"),
            *("--accept-min-free-mib", "0", "--attempts-min-free-mib", "0"),
        ]
        process = await self._start(command, port, {"USHER_INSTALL_KEY": key}, host=host)
        process.public = public
        if wait:
            await process.wait_ready()
        return process

    async def start_again(self, ended: Process) -> Process:
        """Start a program that ended again: with the same command, data and ports."""
        again = await self._start(ended.command, ended.admin, ended.environ, host=ended.host)
        again.public = ended.public
        return again

    async def _start(
        self, command: list[str], port: int, environ: dict[str, str], *, host: str = "127.0.0.1"
    ) -> Process:
        log = self.folder / f"{port}-{len(self.running)}.log"
        process = await start(command, port, log, environ, host=host)
        self.running.append(process)
        return process

    async def secret(self, name: str, namespace: str) -> dict[str, bytes]:
        """Wait for a Secret and return its values."""
        return decoded(await self.server.wait(api.Resource("Secret", name, namespace), bool))

    async def ask(self, gateway: Process, path: str) -> Any:
        """Send a request with the observe token to a gateway's admin port; return None while it does not answer."""
        token = (await self.secret("usher-admin-tokens", self.system))["observe.token"].decode().strip()
        status, text = await gateway.get(path, Authorization=f"Bearer {token}")
        return json.loads(text) if status == 200 else None

    async def documents(self) -> dict[str, dict[str, Any]]:
        """Return the config Secrets of this install by ``Kind namespace/name``."""
        listed = await self.server.list(api.Resource("Secret", "", self.config), "usher.dev/config=true")
        config_secrets = [secret for secret in listed if not config_secret.is_mark(secret["metadata"]["name"])]
        owners = [secret["metadata"]["annotations"] for secret in config_secrets]
        names = [f"{owner['usher.dev/owner-kind']} {owner['usher.dev/owner']}" for owner in owners]
        return dict(zip(names, config_secrets, strict=True))

    @property
    def mark(self) -> api.Resource:
        """The Secret that says that everything was published once."""
        return api.Resource(
            "Secret", config_secret.mark_name(config_secret.install_label(self.controller)), self.config
        )

    def klass(self, **spec: Any) -> dict[str, Any]:
        """Build a ListenerClass of this install, named like its controller."""
        name = self.controller.rpartition("/")[2]
        base = {"controllerName": self.controller, "hostname": f"{name}.example.com", "tls": {"mode": "External"}}
        metadata = {"name": name}
        return {**OURS, "kind": "ListenerClass", "metadata": metadata, "spec": {**base, **spec}}

    async def search_for_secrets(self) -> None:
        """Search the install's Events, conditions, metrics and reports for secrets."""
        await self._keep_secrets()
        for event in await self.server.list(api.Resource("Event")):
            leaks.SECRETS.search("an Event", json.dumps(event, ensure_ascii=False))
        for kind in ("ListenerClass", "Tenant", "Listener", "Destination"):
            for resource in await self.server.list(api.Resource(kind)):
                leaks.SECRETS.search(f"the status of a {kind}", json.dumps(resource.get("status"), ensure_ascii=False))
        for secret in await self.server.list(api.Resource("Secret", "", self.config)):
            leaks.SECRETS.search("the metadata of a Secret", json.dumps(secret["metadata"], ensure_ascii=False))
        for process in self.running:
            leaks.SECRETS.search("metrics", (await process.get("/metrics"))[1])
            if process.public:
                leaks.SECRETS.search(
                    "/api/config", json.dumps(await self.ask(process, "/api/config"), ensure_ascii=False)
                )

    async def _keep_secrets(self) -> None:
        for account in (self.operator, self.gateway):
            leaks.add_secret(account.token)
        ours = f"usher.dev/install={config_secret.install_label(self.controller)}"
        for secret in await self.server.list(api.Resource("Secret"), ours):
            if secret["type"].startswith("usher.dev/"):
                leaks.add_secret_document(secret["data"]["config.json"])
            else:
                _keep_values(decoded(secret))
        for secret in await self.server.list(api.Resource("Secret"), "usher.dev/watch=true"):
            _keep_values(decoded(secret))


def _keep_values(data: dict[str, bytes]) -> None:
    for value in data.values():
        text = value.decode("utf-8", "replace")
        if text.startswith("https://"):
            parts = urllib.parse.urlsplit(text)
            for part in (*parts.path.split("/"), *(value for _, value in urllib.parse.parse_qsl(parts.query))):
                if len(part) >= _SECRET_PART:
                    leaks.add_secret(part)
        else:
            leaks.add_secret(text)


def decoded(secret: dict[str, Any]) -> dict[str, bytes]:
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


OURS = {"apiVersion": "usher.dev/v1alpha1"}


def tenant(namespace: str, name: str = "acme", **spec: Any) -> dict[str, Any]:
    return {**OURS, "kind": "Tenant", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def destination(namespace: str, name: str = "crm", **spec: Any) -> dict[str, Any]:
    spec = {"type": "HTTP", "http": {"url": "https://crm.example.com/hook"}, **spec}
    return {**OURS, "kind": "Destination", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def listener(install: Install, namespace: str, name: str = "lobby", **spec: Any) -> dict[str, Any]:
    base = {
        "tenantRef": {"name": "acme"},
        "listenerClassName": install.klass()["metadata"]["name"],
        "routes": [{"name": "crm", "destinationRef": {"name": "crm"}}],
    }
    metadata = {"name": name, "namespace": namespace}
    return {**OURS, "kind": "Listener", "metadata": metadata, "spec": {**base, **spec}}


def placed(install: Install, namespace: str, name: str, path: str, hostname: str = "", **spec: Any) -> dict[str, Any]:
    """Build a listener with one address: a path at a hostname, by default the namespace's below example.org."""
    addresses = [{"name": "own", "hostname": hostname or f"{namespace}.example.org", "path": path}]
    return listener(install, namespace, name, **{"addresses": addresses, "authentication": {"type": "None"}, **spec})


@contextlib.asynccontextmanager
async def ingress_class(server: api.Api, name: str) -> AsyncIterator[dict[str, Any]]:
    """Create an IngressClass, delete it at the end, and return the exposure of a ListenerClass that names it."""
    manifest = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "metadata": {"name": name}}
    await server.create({**manifest, "spec": {"controller": "example.com/edge"}})
    try:
        yield {"type": "Ingress", "scope": "Hostname", "ingress": {"className": name}}
    finally:
        await server.delete(api.of(manifest))


async def assert_no_right_was_missing(install: Install) -> None:
    """Check that the shipped permissions were enough for operator and gateway.

    In a namespace whose admission ended, or that was deleted, requests may fail until the operator noticed that.
    """
    log = install.cluster.audit
    refused = [request for account in (install.operator, install.gateway) for request in log.refusals(account.user)]
    own = {"", install.system, install.config}
    admissions = {request.namespace: api.Resource("RoleBinding", AGENCY_ROLE, request.namespace) for request in refused}
    ended = {name for name, binding in admissions.items() if name not in own and not await install.server.get(binding)}
    unexplained = [request for request in refused if request.namespace not in ended]
    if unexplained:
        deleted = {
            request.name for request in log.since() if request.verb == "delete" and request.resource == "namespaces"
        }
        assert [request for request in unexplained if request.namespace not in deleted] == []


@contextlib.asynccontextmanager
async def installed(
    cluster: clusters.Cluster, server: api.Api, make_namespace: Namespaces, folder: Path
) -> AsyncIterator[Install]:
    """Provide a new install with the shipped permissions; stop its programs and delete its class at the end."""
    system, config = [await make_namespace(name, is_admitted=False) for name in ("system", "config")]
    suffix = secrets.token_hex(4)
    operator, gateway = [
        await accounts.log_in(server, cluster.endpoint, api.Resource("ServiceAccount", name, system), folder / name)
        for name in (OPERATOR, GATEWAY)
    ]
    documents = [each for file in sorted(ACCESS.glob("*.yaml")) for each in yaml.safe_load_all(file.read_text("utf-8"))]
    rights = accounts.moved(documents, {"usher-system": system, "usher-config": config}, f"-{suffix}")
    await accounts.grant(server, rights)
    await make_namespace.admit(operator)
    install = Install(server, cluster, folder, system, config, f"usher.dev/test-{suffix}", operator, gateway)
    try:
        yield install
        await install.search_for_secrets()
    finally:
        for process in install.running:
            with contextlib.suppress(AssertionError):
                await process.stop()
            leaks.SECRETS.search(f"log {process.log.name}", process.log.read_text("utf-8", "replace"))
        await server.delete(api.of(install.klass()))
        await accounts.withdraw(server, rights)
