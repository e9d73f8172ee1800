"""How long Prometheus takes for each query of the boards with 2,000 tenants of five listeners: `make bench-boards`.

Time is compressed: every 3 s Prometheus scrapes what a real gateway exported, and each query gets as many points, and
as many samples in each window, as a board with a scrape every 30 s.
"""

import asyncio
import contextlib
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from boards import output
from demo import processes
from local_cluster import ports
from prometheus import server

RULES = Path(__file__).parents[1] / "charts" / "usher" / "files" / "rules"
TENANTS, LISTENERS, NAMESPACES = 2_000, 5, 20
SCRAPE_SECONDS, SCRAPES, POINTS = 3, 40, 200
COMPRESSION = 10
"""Windows of the rules are shorter by this factor: a scrape every 3 s stands for one every 30 s."""
GOAL_SECONDS = 0.3
START_SECONDS = 120.0


def manifests() -> str:
    klass = {
        "apiVersion": "usher.dev/v1alpha1",
        "kind": "ListenerClass",
        "metadata": {"name": "public"},
        "spec": {
            "controllerName": "usher.dev/usher",
            "hostname": "hooks.example.com",
            "exposure": {"type": "None"},
            "tls": {"mode": "External"},
        },
    }
    documents: list[dict[str, Any]] = [klass]
    for number in range(TENANTS):
        metadata = {"namespace": f"agency-{number % NAMESPACES}", "name": f"tenant-{number}"}
        quota = {"quota": {"visitsPerMonth": 100_000}}
        about = {"apiVersion": "usher.dev/v1alpha1", "metadata": metadata}
        documents.append({**about, "kind": "Tenant", "spec": quota})
        http = {"url": "http://127.0.0.1:9/crm"}
        spec = {"tenantRef": {"name": metadata["name"]}, "type": "HTTP", "http": http}
        documents.append({**about, "kind": "Destination", "spec": spec})
        for listener in range(LISTENERS):
            named = {**metadata, "name": f"tenant-{number}-{listener}"}
            route = {"name": "crm", "destinationRef": {"name": metadata["name"]}}
            listed = {"tenantRef": {"name": metadata["name"]}, "routes": [route]}
            documents.append({**about, "metadata": named, "kind": "Listener", "spec": listed})
    return "\n---\n".join(json.dumps(document) for document in documents)


async def measure(prometheus: server.Prometheus, begun: float, board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        for target in panel["targets"]:
            values = {"__rate_interval": f"{4 * SCRAPE_SECONDS}s", "tenant": "tenant-7", "tenant_namespace": ".+"}
            values |= {"tenant_namespace": "agency-7"} if board["uid"] == "usher-tenant" else {}
            expr = re.sub(r"\$(\w+)", lambda variable: values.get(variable[1], ".+"), target["expr"])  # noqa: B023
            times = []
            for _ in range(5):
                started, now = time.perf_counter(), time.time()
                if panel["type"] == "timeseries":
                    await prometheus.query_range(expr, begun, now, (now - begun) / POINTS)
                else:
                    await prometheus.query(expr)
                times.append(time.perf_counter() - started)
            best, middle = min(times), statistics.median(times)
            note = " over the goal" if middle > GOAL_SECONDS else ""
            print(f"{best * 1000:7.0f} (median {middle * 1000:6.0f}) ms  {board['title']}: {panel['title']}{note}")


async def exported(folder: Path) -> bytes:
    """Return `/metrics` of a gateway with all tenants."""
    (folder / "agency.yaml").write_text(manifests(), "utf-8")
    admin = ports.free()
    arguments = ["usher_gateway", "run", str(folder / "agency.yaml"), "--data", str(folder / "data")]
    arguments += ["--listen", f"127.0.0.1:{ports.free()}", "--admin", f"127.0.0.1:{admin}"]
    gateway = await processes.start("gateway", arguments, folder / "gateway.log", {})
    try:
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get("/metrics") as answer:
                        text = await answer.read()
                    if text.count(b"\nusher_tenant_listeners{") == TENANTS:
                        return text
                await asyncio.sleep(1)
    finally:
        await gateway.stop()


@contextlib.asynccontextmanager
async def served(text: bytes) -> AsyncIterator[int]:
    """Serve the metrics, and yield the port."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    application = web.Application()
    application.router.add_get("/metrics", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = await exported(folder)
        rules = [server.compress(file.read_text("utf-8"), COMPRESSION) for file in sorted(RULES.glob("*.yaml"))]
        async with (
            served(text) as port,
            server.Prometheus(
                folder / "prometheus", {f"127.0.0.1:{port}": {}}, rules, f"{SCRAPE_SECONDS}s"
            ) as prometheus,
        ):
            begun = time.time()
            await asyncio.sleep(SCRAPE_SECONDS * SCRAPES)
            (series,) = await prometheus.query("sum(max_over_time(scrape_samples_scraped[1m]))")
            (up,) = await prometheus.query("avg_over_time(up[1m])")
            load = os.getloadavg()[0]
            print(f"{series['value'][1]} series; share of scrapes that succeeded: {up['value'][1]}; load {load:.0f}")
            for board in output.files().values():
                await measure(prometheus, begun, json.loads(board))


if __name__ == "__main__":
    asyncio.run(main())
