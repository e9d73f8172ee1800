"""An agency on a running platform: it applies resources, posts visits, and receives deliveries."""

import contextlib
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from local_cluster import ports
from support import api, clusters, installs, leaks, waiting, wire
from usher_gateway.simulator import receiver

SHARED = pytest.mark.asyncio(loop_scope="package")  # Mark of the tests that share the platform of their worker

# A Lease that a busy machine does not cost, because later tests need the operator too.
PATIENT = {"timing": {"lease_seconds": 90.0, "renew_deadline_seconds": 60.0}}


@dataclass
class Platform:
    """An install with a running operator and gateway, its class, and a receiver."""

    install: installs.Install
    operator: installs.Process
    gateway: installs.Process
    receiver: receiver.Receiver
    make_namespace: installs.Namespaces

    @property
    def server(self) -> api.Api:
        return self.install.server

    async def ask(self, path: str) -> Any:
        """Send a request to the gateway's admin port with the observe token."""
        return await self.install.ask(self.gateway, path)

    async def restart_operator(self, *arguments: str) -> None:
        """Replace the running operator with a new one."""
        await self.operator.stop()
        self.operator = await self.install.start_operator("--gateways", self.gateway.url, *arguments, changes=PATIENT)

    async def children(self, kind: str, hostname: str) -> list[dict[str, Any]]:
        children = await self.server.list(api.Resource(kind, "", self.install.system))
        return [child for child in children if child["metadata"]["annotations"]["usher.dev/owner"] == hostname]


@dataclass
class Agency:
    """A namespace, with the actions of its users."""

    platform: Platform
    namespace: str

    async def apply(self, *documents: Mapping[str, Any]) -> None:
        await self.platform.install.cluster.kubectl.apply(*documents)

    async def kubectl(self, *arguments: str) -> str:
        return await self.platform.install.cluster.kubectl(*arguments, f"--namespace={self.namespace}")

    async def wait_ready(self, *named: str) -> None:
        """``kubectl wait --for=condition=Ready``, of ``listeners.usher.dev/lobby`` and the like."""
        await self.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *named)

    async def wait(self, kind: str, name: str, condition: str, status: str, reason: str) -> Any:
        """Wait until a condition of the newest generation has a status and reason; return the resource."""
        return await self.platform.server.wait(
            api.Resource(kind, name, self.namespace), says(condition, status, reason)
        )

    def tenant(self, name: str = "acme", **spec: Any) -> dict[str, Any]:
        return installs.tenant(self.namespace, name, **spec)

    def destination(self, name: str = "crm", http: Mapping[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
        """Build a Destination that points to its own path of the receiver."""
        url = f"{self.platform.receiver.url}{self.path_of(name)}"
        return installs.destination(self.namespace, name, http={"url": url, **(http or {})}, **spec)

    def listener(self, name: str = "lobby", **spec: Any) -> dict[str, Any]:
        return installs.listener(self.platform.install, self.namespace, name, **spec)

    def secret(self, name: str, labels: Mapping[str, str] | None = None, **values: str) -> dict[str, Any]:
        """Build a Secret with the watch label, and search for leaks of its values."""
        labels = {"usher.dev/watch": "true"} if labels is None else labels
        for value in values.values():
            leaks.add_secret(value)
        metadata = {"name": name, "namespace": self.namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}

    def path_of(self, destination: str) -> str:
        return f"/{self.namespace}/{destination}"

    async def url(self, listener: str = "lobby", satisfied: Callable[[str], Any] = bool) -> str:
        """Return a listener's URL from its Secret."""

        async def look() -> str:
            secret = await self.platform.server.get(api.Resource("Secret", f"{listener}-url", self.namespace))
            return installs.decoded(secret)["url"].decode() if secret else ""

        url = await waiting.until(look, satisfied)
        leaks.add_secret(urllib.parse.urlsplit(url).path.rpartition("/")[2])
        return url

    async def post(self, url: str, body: bytes, **headers: str) -> wire.Answer:
        """Post to the gateway's public port as Purple does."""
        parts = urllib.parse.urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        asked = wire.request(target, body, host=parts.netloc, headers=headers)
        return await wire.exchange(self.platform.gateway.public, asked)

    async def until_answers(self, url: str, status: int, **headers: str) -> wire.Answer:
        """Probe a URL until it answers with a status."""
        return await waiting.until(lambda: self.post(url, b"{}", **headers), lambda answer: answer.status == status)

    def received(self, destination: str = "crm") -> list[receiver.Received]:
        return self.platform.receiver.kept(self.path_of(destination))

    async def until_received(self, *visits: int, destination: str = "crm") -> list[receiver.Received]:
        """Wait until a destination has received exactly these visits; return its requests."""

        async def look() -> list[receiver.Received]:
            return self.received(destination)

        return await waiting.until(
            look, lambda requests: {number_of(request.body) for request in requests} == set(visits)
        )

    async def until_held(self, reason: str, count: int) -> None:
        """Wait until exactly this number of the agency's deliveries are held, all for this reason."""
        await waiting.until(self._held, lambda reasons: reasons == [reason] * count)

    async def until_any_held(self, count: int) -> None:
        """Wait until exactly this number of the agency's deliveries are held, while edits may change the reason."""
        await waiting.until(self._held, lambda reasons: len(reasons) == count)

    async def _held(self) -> list[str]:
        path = f"/api/deliveries?namespace={self.namespace}&state=held"
        return [row["held"] for row in (await self.platform.ask(path))["rows"]]

    async def until_in_force(self, kind: str, name: str) -> None:
        """Wait until the gateway runs a document of the present object of a name."""
        present = await self.platform.server.get(api.Resource(kind, name, self.namespace))
        assert present is not None

        async def look() -> tuple[str, str, str]:
            secret = (await self.platform.install.documents()).get(f"{kind} {self.namespace}/{name}")
            envelope = json.loads(installs.decoded(secret)["config.json"]) if secret is not None else {}
            running = (await self.platform.ask("/api/config"))["documents"]
            hashes = {(document["kind"], document["key"]): document["hash"] for document in running}
            owner = envelope.get("owner", {}).get("uid", "")
            return owner, envelope.get("hash", ""), hashes.get((kind, f"{self.namespace}/{name}"), "")

        await waiting.until(look, lambda found: found[0] == present["metadata"]["uid"] and found[1] == found[2])


class Make(Protocol):
    """Create an agency in a new namespace with labels."""

    async def __call__(self, **labels: str) -> Agency: ...


@contextlib.asynccontextmanager
async def platform(install: installs.Install, make_namespace: installs.Namespaces) -> AsyncIterator[Platform]:
    """Start the parts of a platform. The owner of the install stops them.

    One listener stays, because the removal of the last listener of an install needs a confirmation.
    """
    port = ports.free()
    await install.server.apply(install.klass(allowedHostnames=[{"hostname": "*.customers.example"}]))
    resident = await make_namespace("resident")
    await install.server.apply(installs.tenant(resident))
    await install.server.apply(installs.listener(install, resident, "lobby"))
    operator = await install.start_operator("--gateways", f"http://127.0.0.1:{port}", changes=PATIENT)
    gateway = await install.start_gateway(admin=port, wait=False)  # ready once there is a document
    await waiting.until(lambda: gateway.get("/healthz"), lambda answer: answer[0] == 200)
    stray = wire.request("/stray", b"{}", host="stray.customers.example")

    async def knows_every_address() -> bool:
        """Return whether it answers 404: its port is open, and the operator has published everything once."""
        with contextlib.suppress(OSError):
            return (await wire.exchange(gateway.public, stray)).status == 404
        return False

    await waiting.wait_until(knows_every_address, 60, "the first pass of the operator")
    async with receiver.Receiver(receiver.ReceiverSettings(keep=True)) as machine:
        yield Platform(install, operator, gateway, machine, make_namespace)


@contextlib.asynccontextmanager
async def running_platform(definitions: clusters.Cluster, folder: Path) -> AsyncIterator[Platform]:
    """Install Usher for one platform and run it. At the end, fail if a permission was missing."""
    async with (
        api.connected(definitions.endpoint, definitions.token) as server,
        installs.namespaces(server) as make,
        installs.installed(definitions, server, make, folder) as install,
        platform(install, make) as ready,
    ):
        yield ready
        await installs.assert_no_right_was_missing(install)


def says(condition: str, status: str, reason: str) -> Callable[[Any], bool]:
    """Return a check whether a condition of the newest generation has a status and reason."""

    def check(resource: Any) -> bool:
        told = api.condition(resource, condition)
        if not told or told["observedGeneration"] != resource["metadata"]["generation"]:
            return False
        return bool((told["status"], told["reason"]) == (status, reason))

    return check


def number_of(body: bytes) -> int:
    return int(json.loads(body)["number"])
