"""A staged day of an agency, in which things go wrong, with a real gateway: for the test of alerts and for pictures.

The day's curve of visits is played in little more than a minute. The gateway's clock is the real one, so that the times
in its metrics are those of Prometheus.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from demo import processes
from local_cluster import ports
from usher_gateway import simulator

_TENANTS: dict[str, dict[str, Any]] = {
    "harbour-hotels": {"quota": {"visitsPerMonth": 100_000, "whenExceeded": "Hold"}},
    "corner-cafes": {},
    "river-stadium": {},
    "city-gym": {},
    "park-spa": {},
    "old-inn": {},
    "arena": {},
    "city-museum": {"companyID": "7", "quota": {"visitsPerMonth": 60, "whenExceeded": "Forward"}},
}
_PLACES = (
    "grand-hotel",
    "city-mall",
    "the-old-brewery-visitor-centre",
    "airport-lounge",
    "fit-club",
    "green-garden-cafe",
)
# The other companies of the agency, at which nothing goes wrong.
_QUIET_TENANTS = [f"{_PLACES[number % len(_PLACES)]}-{number:03}" for number in range(292)]
_START_SECONDS = 60.0


def _resource(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name} if kind == "ListenerClass" else {"name": name, "namespace": "agency"}
    return {"apiVersion": "usher.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def _listener(tenant: str, destination: str, *more: dict[str, Any], path: str = "/wifi", **spec: Any) -> dict[str, Any]:
    address = {"name": "wifi", "hostname": f"{tenant}.example.com", "path": path}
    given = {
        "tenantRef": {"name": tenant},
        "addresses": [address],
        "authentication": {"type": "None"},
        "routes": [{"name": destination, "destinationRef": {"name": destination}}, *more],
    }
    return _resource("Listener", tenant, **(given | spec))


def _destination(name: str, port: int, path: str = "") -> dict[str, Any]:
    return _resource("Destination", name, type="HTTP", http={"url": f"http://127.0.0.1:{port}/{path or name}"})


def manifests(port: int, *, museum_path: str = "/wifi") -> list[dict[str, Any]]:
    """Return the agency. ``port``: of the receiver; ``museum_path``: an edit moves this address."""
    exposure = {"exposure": {"type": "None"}, "tls": {"mode": "External"}}
    allowed = [{"hostname": "*.example.com"}]
    common: dict[str, Any] = {"controllerName": "usher.dev/usher", "allowedHostnames": allowed, **exposure}
    public = _resource("ListenerClass", "public", hostname="public.example.org", **common)
    tenants = [_resource("Tenant", name, **spec) for name, spec in _TENANTS.items()]
    elsewhere = {"ranges": ["203.0.113.0/24"]}
    paused = {"name": "welcome", "destinationRef": {"name": "crm"}, "state": "Paused"}
    listeners = [
        _listener("harbour-hotels", "crm", paused, {"name": "stock", "destinationRef": {"name": "warehouse"}}),
        _listener("corner-cafes", "mailer"),
        _listener("river-stadium", "warehouse"),
        _listener("city-gym", "crm", {"name": "gold", "destinationRef": {"name": "crm"}, "when": "body.tier > 1"}),
        _listener("park-spa", "crm"),
        _listener("old-inn", "crm", silence={"afterSeconds": 60}),
        _listener("arena", "crm", allowedSources=elsewhere | {"policy": "Enforce"}),
        _listener(
            "city-museum",
            "crm",
            path=museum_path,
            allowedSources=elsewhere | {"policy": "Report"},
        ),
    ]
    for name in _QUIET_TENANTS:
        tenants.append(_resource("Tenant", name))
        listeners += [_listener(name, f"{name}-crm"), _destination(f"{name}-crm", port, "crm")]
    return [public, *tenants, *listeners, *(_destination(name, port) for name in ("crm", "mailer", "warehouse"))]


# The alerts that the day causes, each with its tenant, or without one with its destination.
EXPECTED = {
    ("ListenerSilent", "old-inn"),
    ("HookAtRisk", "arena"),
    ("QuarantineGrowing", "park-spa"),
    ("QuotaNear", "city-museum"),
    ("CompanyMismatch", "city-museum"),
    ("DeliveriesHeld", "city-gym"),
    ("DestinationDown", "warehouse"),
    ("DeliveryFailing", "corner-cafes"),
    ("DeadLettersGrowing", "corner-cafes"),
}

# Depends on how many attempts run before the circuit opens: then there is one a minute, which is not compressed.
POSSIBLE = {("DeliveryFailing", "river-stadium"), ("DeliveryFailing", "harbour-hotels")}


class StagedDay:
    """A running day."""

    def __init__(self, folder: Path, receiver: simulator.Receiver, port: int, admin: int) -> None:
        self._manifests, self._receiver, self._port = folder / "agency.yaml", receiver, port
        self._data = folder / "data"
        self.admin = admin  # Port of the gateway's metrics
        self.terminal = ""
        """What `usher top --once --failing` printed during the day, in 80 columns, with its colours (ECMA-48)."""
        self._session = aiohttp.ClientSession()
        self._numbers = itertools.count(1)

    def write(self, **edits: str) -> None:
        """Write the manifests by a rename, as an editor does."""
        draft = self._manifests.with_suffix(".new")
        documents = manifests(int(self._receiver.url.rpartition(":")[2]), **edits)
        draft.write_text("\n---\n".join(json.dumps(document) for document in documents), "utf-8")
        draft.replace(self._manifests)

    async def _look(self) -> str:
        """Return what `usher top --once --failing` prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "usher_gateway", "top", "--once", "--failing"),
            *("--admin", f"http://127.0.0.1:{self.admin}"),
            *("--data", str(self._data)),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm-256color"},
        )
        printed, _ = await process.communicate()
        return printed.decode()

    async def close(self) -> None:
        """End the connections of the sender."""
        await self._session.close()

    async def wait_serving(self) -> None:
        """Wait until the gateway serves every listener."""
        async with asyncio.timeout(_START_SECONDS):
            while await self._post("old-inn") != 200:  # noqa: ASYNC110 - what is waited for is another process
                await asyncio.sleep(0.1)

    async def play(self, seconds: float) -> None:
        """Send the visits of the day, and look at `usher top` when the silent webhook is silent."""
        self._receiver.set_behaviour("/mailer", simulator.Behaviour(status=400))
        self._receiver.set_behaviour("/warehouse", simulator.Behaviour(status=503))
        async with asyncio.TaskGroup() as group:
            for tenant, pause in {"corner-cafes": 0.5, "river-stadium": 0.3, "city-gym": 0.7, "arena": 0.05}.items():
                group.create_task(self._send(tenant, seconds, pause))
            group.create_task(self._send("park-spa", seconds, 0.4, odd_every=3))
            group.create_task(self._send_museum(seconds))
            group.create_task(self._send_to_others(seconds))
            group.create_task(self._send_hotels(seconds))
            await asyncio.sleep(seconds * 9 / 10)
            self.terminal = await self._look()

    async def _post(self, tenant: str, body: bytes | None = None) -> int:
        number = next(self._numbers)
        visit = {"user": {"id": number, "email": f"v{number}@example.org", "venue": {"id": 7}}, "companyId": 8}
        url = f"http://127.0.0.1:{self._port}/wifi"
        headers = {"Host": f"{tenant}.example.com", "Content-Type": "application/json"}
        with contextlib.suppress(aiohttp.ClientError):
            async with self._session.post(url, data=body or json.dumps(visit).encode(), headers=headers) as answer:
                return answer.status
        return 0

    async def _send(self, tenant: str, seconds: float, pause: float, odd_every: int = 0) -> None:
        """Post a visit after each pause; each ``odd_every``-th body is no visit."""
        ends = time.monotonic() + seconds
        for number in itertools.count():
            if time.monotonic() > ends:
                return
            await self._post(tenant, b"[]" if odd_every and number % odd_every == 0 else None)
            await asyncio.sleep(pause)

    async def _send_to_others(self, seconds: float) -> None:
        """Post to the other companies in turn, ten visits a second together."""
        ends = time.monotonic() + seconds
        for tenant in itertools.cycle(_QUIET_TENANTS):
            if time.monotonic() > ends:
                return
            await self._post(tenant)
            await asyncio.sleep(0.1)

    async def _send_museum(self, seconds: float) -> None:
        """An edit moves the webhook, but the portal keeps the old URL."""
        await self._send("city-museum", seconds / 2, 0.5)
        self.write(museum_path="/new")
        await self._send("city-museum", seconds / 2, 0.5)

    async def _send_hotels(self, seconds: float) -> None:
        """The day of a hotel, as the simulator knows it, but without what it sends again hours later."""
        pattern = simulator.Pattern(
            authentications=int(5 * seconds),
            duration_seconds=seconds,
            curve=simulator.HOTEL,
            redeliveries=0.0,
            lates=0.0,
        )
        target = simulator.SimulatorTarget(
            url="http://harbour-hotels.example.com/wifi", name="harbour-hotels", pattern=pattern
        )
        settings = simulator.SimulatorSettings(targets=(target,), connect=("127.0.0.1", self._port))
        await simulator.Simulator(settings).run()


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[StagedDay]:
    """Run the gateway and the receiver of a day."""
    port, admin = ports.free(), ports.free()
    async with simulator.Receiver(simulator.ReceiverSettings()) as receiver:
        day = StagedDay(folder, receiver, port, admin)
        day.write()
        arguments = ["usher_gateway", "run", str(folder / "agency.yaml"), "--data", str(folder / "data")]
        arguments += ["--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--log-level", "warning"]
        arguments += ["--accept-min-free-mib", "1", "--attempts-min-free-mib", "1"]
        gateway = await processes.start("gateway", arguments, folder / "gateway.log", {})
        try:
            await day.wait_serving()
            yield day
        finally:
            await day.close()
            await gateway.stop()
