"""Measure the operator with 10,000 objects: 2,000 tenants, 4,000 listeners, 4,000 destinations in 200 namespaces.

`make bench-operator` runs all parts, `make bench-operator ARGS="cold"` one of them. `cold` measures the time to the
last configuration Secret in an empty cluster, memory, and a restart. `edits` measures the time from the API server's
answer to an edit until a gateway's public port serves it, and `fairness` measures it while another agency creates,
changes and deletes listeners as fast as the API server accepts it. `memory` adds large Secrets that no resource uses.
`idle` counts writes while nothing changes. Operator and gateway run as processes with the shipped permissions, against
a control plane on this machine.
"""

import argparse
import asyncio
import base64
import contextlib
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import report

from local_cluster import ports
from support import api, clusters, installs, waiting, wire

_PARTS = ("cold", "edits", "fairness", "memory", "idle")
_CREATORS = 16
_EDITED = 10  # Listeners that are edited in turn
_QUIET_SECONDS = 3.0  # Seconds without a write after which the operator counts as done
_IDLE_SECONDS = 60.0
_EVENTS = frozenset({"events"})  # The operator writes Events in the background, at most ten a second
# The Lease, and questions about permissions, which are POST requests.
_NO_CHANGES = frozenset({"leases", "selfsubjectaccessreviews"})
_LIMIT_SECONDS = 240.0
_LISTENERS_PER_NAMESPACE = 50
_SECRET_BYTES = 1_000_000


class Sizes(msgspec.Struct, frozen=True):
    """The number of objects: each tenant has two listeners and two destinations."""

    tenants: int
    edits: int
    flood: int
    """Listeners of the agency that disturbs the others."""
    secrets: int
    """Large Secrets that no resource uses."""
    tenants_per_namespace: int = 10

    @property
    def documents(self) -> int:
        return 4 * self.tenants

    @property
    def objects(self) -> int:
        return 5 * self.tenants


class Bench:
    """An install with all objects, and the processes that run in it."""

    def __init__(self, install: installs.Install, sizes: Sizes) -> None:
        self.install, self.sizes = install, sizes
        self.namespaces: list[str] = []
        self.flooded = ""  # Namespace of the agency that disturbs the others
        self._serving: tuple[installs.Process, installs.Process] | None = None
        self._gateway_port = 0

    async def serving(self) -> tuple[installs.Process, installs.Process]:
        """Return a running operator and gateway, the same at each call."""
        if self._serving is None:
            self._gateway_port = ports.free()
            operator = await self._start_operator()
            self._serving = operator, await self.install.start_gateway(admin=self._gateway_port, wait=False)
        return self._serving

    async def restart_operator(self) -> installs.Process:
        """Restart the operator that `serving` started, and return it."""
        operator, gateway = await self.serving()
        await operator.stop()
        self._serving = await self._start_operator(), gateway
        return self._serving[0]

    async def _start_operator(self) -> installs.Process:
        return await start(self, "--gateways", f"http://127.0.0.1:{self._gateway_port}")

    async def declare(self, make_namespace: installs.Namespaces) -> None:
        """Create every object, before an operator runs."""
        hostnames, limit = [{"hostname": "*.example.org"}], {"listenersPerNamespace": _LISTENERS_PER_NAMESPACE}
        # every edit takes an address out of service
        await self.install.server.create(
            self.install.klass(allowedHostnames=hostnames, maximums=limit, removalLimit=10_000)
        )
        self.flooded = await make_namespace("flooded")
        count = -(-self.sizes.tenants // self.sizes.tenants_per_namespace)
        self.namespaces = [await make_namespace("agency") for _ in range(count)]
        await self.create(self._documents())

    async def create(self, todo: Iterator[dict[str, Any]]) -> None:
        """Create objects as fast as the API server accepts them."""
        await together(self.install.server.create(document) for document in todo)

    def _documents(self) -> Iterator[dict[str, Any]]:
        for number in range(self.sizes.tenants):
            namespace = self.namespaces[number // self.sizes.tenants_per_namespace]
            tenant = f"tenant-{number}"
            yield installs.tenant(namespace, tenant)
            for name in (f"{tenant}-a", f"{tenant}-b"):
                yield installs.destination(namespace, name, http={"url": f"https://crm.example.com/{name}"})
                routes = [
                    {"name": "all", "destinationRef": {"name": name}},
                    {
                        "name": "new",
                        "destinationRef": {"name": name},
                        "when": 'visit.email != "" && visit.visitCount == 1',
                    },
                ]
                yield installs.listener(self.install, namespace, name, tenantRef={"name": tenant}, routes=routes)

    async def documents(self) -> int:
        """Return the number of configuration Secrets; reads one object."""
        path = api.Resource("Secret", "", self.install.config).path
        listed = await self.install.server.request("GET", path, parameters={"limit": "1"})
        return len(listed["items"]) + int(listed["metadata"].get("remainingItemCount", 0))

    def position(self) -> int:
        assert self.install.cluster.audit is not None
        return self.install.cluster.audit.position()

    def writes(self, position: int) -> dict[str, int]:
        """Return the operator's writes since a position: resource -> count, without those that change no object."""
        assert self.install.cluster.audit is not None
        counts: dict[str, int] = {}
        for asked in self.install.cluster.audit.since(position, self.install.operator.user):
            if asked.writes and asked.resource not in _NO_CHANGES:
                counts[asked.resource] = counts.get(asked.resource, 0) + 1
        return counts

    async def wait_quiet(self, *, but: frozenset[str] = frozenset()) -> float:
        """Wait until the operator has written nothing for some seconds, except ``but``; return since when."""
        position, quiet_since = self.position(), time.monotonic()
        end = quiet_since + _LIMIT_SECONDS
        while time.monotonic() - quiet_since < _QUIET_SECONDS:
            assert time.monotonic() < end, "the operator keeps writing"
            await asyncio.sleep(0.5)
            previous, position = position, self.position()
            if self.writes(previous).keys() - but:
                quiet_since = time.monotonic()
        return quiet_since


def cpu_seconds(process: installs.Process) -> float:
    fields = _stat(process, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(process: installs.Process) -> tuple[float, float]:
    """Return the present and the highest resident memory."""
    rows = dict(row.split(":", 1) for row in _stat(process, "status").splitlines())
    return int(rows["VmRSS"].split()[0]) / 1e3, int(rows["VmHWM"].split()[0]) / 1e3


def _stat(process: installs.Process, name: str) -> str:
    return Path(f"/proc/{process.process.pid}/{name}").read_text("ascii")


async def cold(bench: Bench) -> AsyncIterator[report.Result]:
    """Measure the time to every document in an empty cluster, and then a restart."""
    report.progress("cold: the operator starts in a cluster without documents")
    begun = time.monotonic()
    operator = await start(bench)
    await waiting.until(
        bench.documents, lambda count: count >= bench.sizes.documents, limit_seconds=_LIMIT_SECONDS, every_seconds=0.1
    )
    seconds, cpu = time.monotonic() - begun, cpu_seconds(operator)
    measured = f"{seconds:.1f} s ({cpu:.1f} s of CPU)"
    yield report.Result(f"cold, to {bench.sizes.documents:,} configuration Secrets", measured, "<= 30 s", seconds <= 30)
    report.progress("until every status is written")
    settled = await bench.wait_quiet(but=_EVENTS) - begun
    yield report.Result("to the last status", f"{settled:.0f} s ({cpu_seconds(operator):.1f} s of CPU)", "")
    now, most = resident_megabytes(operator)
    yield report.Result("resident", f"{now:.0f} MB, at most {most:.0f} MB", "<= 250 MB", most <= 250)
    await operator.stop()
    report.progress("warm: another start")
    position, begun = bench.position(), time.monotonic()
    operator = await start(bench)
    await waiting.until(
        lambda: operator.metric("usher_operator_reconcile_total"),
        lambda count: count > bench.sizes.objects,
        limit_seconds=60,
        every_seconds=0.5,
    )
    seconds, cpu = time.monotonic() - begun, cpu_seconds(operator)
    await asyncio.sleep(_QUIET_SECONDS)
    written = bench.writes(position)
    measured = f"{seconds:.1f} s ({cpu:.1f} s of CPU)"
    yield report.Result("warm restart, to the last key", measured, "<= 10 s", seconds <= 10)
    yield report.Result("writes by the restart, except to the Lease", str(written or "none"), "none", not written)
    await operator.stop()


async def edits(bench: Bench) -> AsyncIterator[report.Result]:
    """Measure the time from the answer to an edit until a gateway serves it."""
    report.progress("an operator and a gateway, until every status is written")
    begun = time.monotonic()
    operator, gateway = await bench.serving()
    # the operator is quiet before the gateway reports, and then writes thousands of statuses
    await bench.install.server.wait(
        api.Resource("Listener", "tenant-0-a", bench.namespaces[0]),
        lambda listener: api.condition(listener, "Programmed").get("status") == "True",
        limit_seconds=_LIMIT_SECONDS,
    )
    settled = await bench.wait_quiet(but=_EVENTS) - begun
    yield report.Result("with a gateway, to the last status", f"{settled:.0f} s", "")
    report.progress(f"{bench.sizes.edits} edits in sequence")
    for number in range(_EDITED):
        await edit(bench, gateway, number)  # sets its own hostname; later edits change only its path
    yield report.latency(
        "from an edit to the public port", [await edit(bench, gateway, n) for n in range(bench.sizes.edits)], 300
    )
    measured = ", ".join(
        f"{name} {resident_megabytes(process)[0]:.0f} MB"
        for name, process in {"operator": operator, "gateway": gateway}.items()
    )
    yield report.Result("resident", measured, "")


async def fairness(bench: Bench) -> AsyncIterator[report.Result]:
    """Measure the edits of one agency while another one causes as much work as it can."""
    operator, gateway = await bench.serving()
    await bench.wait_quiet(but=_EVENTS)
    install, namespace, count = bench.install, bench.flooded, bench.sizes.flood
    await install.server.create(installs.tenant(namespace))
    await install.server.create(installs.destination(namespace))
    names = [f"flood-{number}" for number in range(count)]
    listeners = [api.Resource("Listener", name, namespace) for name in names]
    phases: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "creates": lambda: bench.create(installs.listener(install, namespace, name) for name in names),
        "changes": lambda: together(
            install.server.merge(listener, {"spec": {"late": {"afterSeconds": 400}}}) for listener in listeners
        ),
        "deletes": lambda: together(install.server.delete(listener) for listener in listeners),
    }
    for verb, flood in phases.items():
        report.progress(f"another agency {verb} {count:,} listeners")
        spent, reconciled = cpu_seconds(operator), await operator.metric("usher_operator_reconcile_total")
        flooding = asyncio.create_task(flood())
        latencies: list[float] = []
        while not flooding.done() or await operator.metric("usher_operator_workqueue_depth"):
            latencies.append(await edit(bench, gateway, len(latencies)))
        await flooding
        yield report.latency(f"the same while another agency {verb} {count:,} listeners", latencies, 1000)
        reconciled = await operator.metric("usher_operator_reconcile_total") - reconciled
        measured = (
            f"{reconciled / count:.1f} reconciles and {(cpu_seconds(operator) - spent) / count * 1e3:.1f} ms of CPU"
        )
        yield report.Result("the operator's work for each of them", measured, "")


async def memory(bench: Bench) -> AsyncIterator[report.Result]:
    """Measure the operator's memory beside large labelled Secrets that no resource uses."""
    report.progress(f"{bench.sizes.secrets} Secrets of {_SECRET_BYTES:,} bytes")
    operator, _ = await bench.serving()
    value = base64.b64encode(b"x" * _SECRET_BYTES).decode()
    where = {"namespace": bench.namespaces[0], "labels": {"usher.dev/watch": "true"}}
    await bench.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"large-{n}", **where}, "data": {"value": value}}
        for n in range(bench.sizes.secrets)
    )
    await bench.wait_quiet(but=_EVENTS)
    now, most = resident_megabytes(operator)
    what = f"resident beside {bench.sizes.secrets} unused Secrets of 1 MB"
    yield report.Result(what, f"{now:.0f} MB, at most {most:.0f} MB", "<= 250 MB", most <= 250)
    report.progress("another start beside them")
    operator = await bench.restart_operator()
    await bench.wait_quiet(but=_EVENTS)
    now, most = resident_megabytes(operator)
    yield report.Result("the same after a restart", f"{now:.0f} MB, at most {most:.0f} MB", "<= 250 MB", most <= 250)


async def together(todo: Iterable[Awaitable[object]]) -> None:
    """Await everything, some at a time."""
    remaining = iter(todo)

    async def work() -> None:
        for awaitable in remaining:
            await awaitable

    async with asyncio.TaskGroup() as group:
        for _ in range(_CREATORS):
            group.create_task(work())


async def edit(bench: Bench, gateway: installs.Process, number: int) -> float:
    """Edit an address; return the milliseconds until the gateway serves it."""
    await asyncio.sleep(random.uniform(0.1, 0.5))  # random, so that edits do not align with timers
    tenant = number % _EDITED
    namespace = bench.namespaces[tenant // bench.sizes.tenants_per_namespace]
    path = f"/{secrets.token_hex(8)}"
    addresses = [{"name": "own", "hostname": f"h{tenant}.example.org", "path": path}]
    spec = {"addresses": addresses, "authentication": {"type": "None"}}
    await bench.install.server.merge(api.Resource("Listener", f"tenant-{tenant}-a", namespace), {"spec": spec})
    answered = time.monotonic()
    request = wire.request(path, b"", method="GET", headers={"Host": f"h{tenant}.example.org"})

    async def look() -> int:
        return (await wire.exchange(gateway.public, request)).status

    await waiting.until(look, lambda status: status == 200, limit_seconds=_LIMIT_SECONDS, every_seconds=0.002)
    return (time.monotonic() - answered) * 1000


async def idle(bench: Bench) -> AsyncIterator[report.Result]:
    """Count the writes while nothing changes."""
    if not any(process.process.returncode is None for process in bench.install.running):
        await start(bench)
    await bench.wait_quiet()
    report.progress(f"idle for {_IDLE_SECONDS:.0f} s")
    position = bench.position()
    await asyncio.sleep(_IDLE_SECONDS)
    written = bench.writes(position)
    yield report.Result("writes in a minute, except to the Lease", str(written or "none"), "none", not written)


async def start(bench: Bench, *arguments: str) -> installs.Process:
    """Start an operator with the log level of production."""
    return await bench.install.start_operator(*arguments, "--log-level", "warning", wait=False)


@contextlib.asynccontextmanager
async def ready(folder: Path, sizes: Sizes) -> AsyncIterator[Bench]:
    """Run a cluster with all objects."""
    report.progress("a control plane")
    with clusters.cluster(folder) as cluster:
        cluster.define(clusters.own_definitions())
        async with api.connected(cluster.endpoint, cluster.token) as server:
            make_namespace = installs.Namespaces(server)
            async with installs.installed(cluster, server, make_namespace, folder) as install:
                bench = Bench(install, sizes)
                report.progress(f"{sizes.objects:,} objects")
                await bench.declare(make_namespace)
                yield bench


async def run(names: Sequence[str], sizes: Sizes) -> list[report.Result]:
    parts = {"cold": cold, "edits": edits, "fairness": fairness, "memory": memory, "idle": idle}
    with tempfile.TemporaryDirectory(prefix="usher-bench-") as folder:
        async with ready(Path(folder), sizes) as bench:
            return [result for name in names for result in [result async for result in parts[name](bench)]]


def main() -> int:
    """Run the requested parts; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("--tenants", type=int, default=2_000, help="each with two listeners and two destinations")
    parser.add_argument("--edits", type=int, default=120)
    parser.add_argument("--flood", type=int, default=2_000, help="listeners of the agency that disturbs the others")
    parser.add_argument("--secrets", type=int, default=300, help="large Secrets that no resource uses")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(_PARTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    sizes = Sizes(tenants=arguments.tenants, edits=arguments.edits, flood=arguments.flood, secrets=arguments.secrets)
    results = asyncio.run(run(arguments.names or _PARTS, sizes))
    return report.show(f"{os.cpu_count()} cores, {sizes.objects:,} objects", results)


if __name__ == "__main__":
    sys.exit(main())
