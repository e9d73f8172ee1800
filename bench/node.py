"""Measure an installed release on a real node: image, installation, edits and memory.

`make bench-node` needs what `make test-node` needs: Linux and root. `install` measures the size of the image and the
time from `helm install` until everything is ready. `edits` measures the time from the API server's answer to an edit
until the gateway's pod serves it. `memory` measures the resident memory of each pod, idle and while visits arrive over
TLS. Sender, Ingress, gateway, receiver and the whole cluster share the machine.
"""

import argparse
import asyncio
import contextlib
import random
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import report

from local_cluster import kubectl as kubectls
from local_cluster import node
from support import api, images, releases, sites, waiting, webhooks

_PARTS = ("install", "edits", "memory")
_GOAL_INSTALL_SECONDS, _GOAL_EDIT_MILLISECONDS = 60, 500
_EDITS = 200
_VISITS, _RATE = 15_000, 500
_PROGRAMS = {"gateway": ("usher", "run"), "operator": ("usher-operator", "run"), "receiver": ("usher", "receive")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"default: {' '.join(_PARTS)}")
    parts = parser.parse_args().parts or _PARTS
    with tempfile.TemporaryDirectory() as folder:
        return report.show("Usher on a real node", list(measure(Path(folder), parts)))


def measure(folder: Path, parts: Sequence[str]) -> Iterator[report.Result]:
    """Build the image, start a node and install the chart; yield the results of the wanted parts."""
    builder = images.Builder(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(builder.remove)
        report.progress("building the image")
        image = builder.build()
        report.progress("starting the node")
        local = stack.enter_context(node.running())
        local.load(builder.archive(folder / "usher.tar"))
        release = releases.Release(sites.Site(local.kubectl, images.NAME, folder, local))
        report.progress("installing the chart")
        seconds = release.install(releases.ALLOW_CLUSTER)
        if "install" in parts:
            yield report.Result(
                "image above its base", f"{image.megabytes:.0f} MB", "under 120 MB", image.megabytes < 120
            )
            met = seconds < _GOAL_INSTALL_SECONDS
            yield report.Result("helm install to ready", f"{seconds:.0f} s", f"under {_GOAL_INSTALL_SECONDS} s", met)
        webhook = webhooks.Webhook(release)
        webhook.create()
        webhook.apply_class(webhooks.INGRESS | webhooks.ISSUED | {"removalLimit": 10_000})
        webhook.wait_ready()
        if "memory" in parts:
            yield from memory(webhook)
        if "edits" in parts:
            report.progress(f"{_EDITS} edits")
            milliseconds = asyncio.run(edits(webhook))
            yield report.latency("edit to live", milliseconds, _GOAL_EDIT_MILLISECONDS)


def memory(webhook: webhooks.Webhook) -> Iterator[report.Result]:
    """Measure the resident memory of the programs, idle and under load."""
    report.progress("memory while idle")
    idle = resident_megabytes()
    report.progress(f"memory at {_RATE} visits/s")
    highest = dict(idle)
    sender, started = webhook.start_visits(_VISITS, rate=_RATE), time.monotonic()
    looking = threading.Thread(target=_look, args=(sender, highest))
    looking.start()
    sent = sender.wait(600)
    rate = sent["acknowledged"] / (time.monotonic() - started)
    looking.join()
    webhook.assert_books_equal(sent)
    for name in _PROGRAMS:
        told = f"idle {_joined(idle[name])} MB, at {rate:.0f} visits/s {_joined(highest[name])} MB"
        yield report.Result(f"memory of {name}", told, "")
    latency = sent["latency"]
    told = f"{rate:.0f} a second of {_RATE} offered, p50 {latency['p50']:.3f} s, p99 {latency['p99']:.3f} s"
    yield report.Result("visits over TLS through the Ingress", told, "")


def _look(sender: webhooks.Sender, highest: dict[str, list[int]]) -> None:
    while sender.is_running():
        for name, sizes in resident_megabytes().items():
            highest[name] = [max(pair) for pair in zip(sizes, highest[name], strict=True)]
        time.sleep(0.5)


def resident_megabytes() -> dict[str, list[int]]:
    """Return the resident memory of each program's processes."""
    sizes_by_program: dict[str, list[int]] = {name: [] for name in _PROGRAMS}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = [Path(word).name for word in (folder / "cmdline").read_text("utf-8").split("\0")[1:3]]
            for name, program in _PROGRAMS.items():
                if words == list(program):
                    status = (folder / "status").read_text("ascii")
                    sizes_by_program[name].append(int(status.partition("VmRSS:")[2].split()[0]) // 1024)
    return {name: sorted(sizes) for name, sizes in sizes_by_program.items()}


def _joined(sizes: list[int]) -> str:
    return " and ".join(str(size) for size in sizes)


async def edits(webhook: webhooks.Webhook) -> list[float]:
    """Edit an address of the listener; return the milliseconds until the gateway's pod serves each edit."""
    kubectl, release = webhook.site.kubectl, webhook.release
    (pod,) = release.pods("gateway")
    gateway = (pod["status"]["podIP"], 8080)
    kubectl.run("create", "serviceaccount", "editor", "--namespace=default")
    kubectl.run(
        *("create", "clusterrolebinding", "editor", "--clusterrole=cluster-admin", "--serviceaccount=default:editor")
    )
    token = kubectl.run("create", "token", "editor", "--namespace=default").strip()
    async with api.connected(kubectls.endpoint(kubectl), token) as server:
        return [await _edit(server, webhook, gateway) for _ in range(_EDITS)]


async def _edit(server: api.Api, webhook: webhooks.Webhook, gateway: tuple[str, int]) -> float:
    await asyncio.sleep(random.uniform(0.1, 0.5))  # random, so that edits do not align with timers
    hostname, path = f"shop.{webhook.hostname}", f"/{secrets.token_hex(8)}"
    addresses = [{"name": "own", "hostname": hostname, "path": path}]
    spec = {"addresses": addresses, "authentication": {"type": "None"}}
    await server.merge(api.Resource("Listener", "lobby", webhook.namespace), {"spec": spec})
    answered = time.monotonic()
    request = f"GET {path} HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n".encode()

    async def look() -> bytes:
        reader, writer = await asyncio.open_connection(*gateway)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    await waiting.until(look, lambda answer: answer.startswith(b"HTTP/1.1 200"), limit_seconds=60, every_seconds=0.002)
    return (time.monotonic() - answered) * 1000


if __name__ == "__main__":
    sys.exit(main())
