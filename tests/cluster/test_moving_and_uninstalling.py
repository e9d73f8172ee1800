"""docs/moving-to-a-cluster.md and docs/install.md: from one machine to the chart, and what an uninstallation leaves."""

import asyncio
import base64
import functools
import json
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local_cluster import foreign, ports
from support import agencies, api, clusters, gateways, installs, release_processes, waiting, wire
from usher_gateway.simulator import receiver, receiving

VALUES = {"agencies": ["hotels"], "gateway": {"allowDestinations": ["loopback"]}}


OF_THE_CLUSTER = {"configmaps/kube-root-ca.crt", "serviceaccounts/default"}  # Objects that every namespace has


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    """A cluster of this module's own, with the definitions of cert-manager."""
    clusters.require_local()
    with clusters.cluster(tmp_path_factory.mktemp("moving")) as ready:
        ready.define_missing(foreign.CERT_MANAGER)
        yield ready


@pytest.fixture
async def cluster(empty: clusters.Cluster) -> AsyncIterator[clusters.Cluster]:
    """The cluster, from which everything that a test installs is deleted at its end."""
    yield empty
    namespaces = (release_processes.SYSTEM, release_processes.CONFIGURATION, "hotels")
    await empty.kubectl("delete", "namespace", *namespaces, "--ignore-not-found")
    await empty.kubectl("delete", "listenerclasses", "--all")


def manifests(receiver_url: str) -> list[dict[str, Any]]:
    ours = {"apiVersion": "usher.dev/v1alpha1"}
    spec = {"controllerName": "usher.dev/usher", "hostname": "hooks.example.com", "tls": {"mode": "External"}}
    route = {"name": "crm", "destinationRef": {"name": "crm"}}
    place = {"namespace": "hotels"}
    return [
        {**ours, "kind": "ListenerClass", "metadata": {"name": "public"}, "spec": spec},
        {**ours, "kind": "Tenant", "metadata": {"name": "acme", **place}, "spec": {}},
        installs.destination("hotels", http={"url": f"{receiver_url}/crm"}),
        {
            **ours,
            "kind": "Listener",
            "metadata": {"name": "lobby", **place},
            "spec": {"tenantRef": {"name": "acme"}, "routes": [route]},
        },
    ]


async def start_on_the_machine(folder: Path, file: Path) -> installs.Process:
    """Start ``usher run FILES`` with its data folder."""
    admin, public = ports.free(), ports.free()
    command = ["-m", "usher_gateway", "run", str(file), f"--data={folder / 'data'}", "--allow-destination=loopback"]
    command += [f"--listen=127.0.0.1:{public}", f"--admin=127.0.0.1:{admin}", "--log-format=json"]
    process = await installs.start(command, admin, folder / "machine.log", release_processes.ANY_DISK)
    process.public = public
    await process.wait_ready()
    return process


async def books(gateway: installs.Process, token: str) -> dict[str, int]:
    status, text = await gateway.get("/api/usage", Authorization=f"Bearer {token}")
    assert status == 200
    total: dict[str, int] = json.loads(text)["total"]
    return total


async def post(gateway: installs.Process, url: str, number: int) -> wire.Answer:
    parts = urllib.parse.urlsplit(url)
    return await wire.exchange(gateway.public, wire.request(parts.path, gateways.visit(number), host=parts.netloc))


async def test_urls_books_and_open_deliveries_move_along(cluster: clusters.Cluster, tmp_path: Path) -> None:
    async with (
        api.connected(cluster.endpoint, cluster.token) as server,
        receiver.Receiver(receiver.ReceiverSettings(keep=True)) as crm,
    ):
        file, data = tmp_path / "usher.yaml", tmp_path / "data"
        file.write_text(yaml.safe_dump_all(manifests(crm.url)), "utf-8")
        machine = await start_on_the_machine(tmp_path, file)
        token = (data / "observe.token").read_text("ascii").strip()
        url = await usher_url(file, data)
        assert urllib.parse.urlsplit(url).netloc == "hooks.example.com"
        assert (await post(machine, url, 1)).acknowledges
        await waiting.until(lambda: delivered(machine, token), lambda count: count == 1)
        crm.set_behaviour("/crm", receiving.Behaviour(status=503))
        assert (await post(machine, url, 2)).acknowledges
        await waiting.until(lambda: attempts(machine, token), lambda count: count >= 2)
        previous_books = await books(machine, token)
        assert await machine.stop() == 0

        release_folder = tmp_path / "release"
        release_folder.mkdir()
        await release_processes.create_namespace(server, release_processes.SYSTEM, release_processes.RESTRICTED)
        await release_processes.create_namespace(server, "hotels")
        for name, entries in (
            ("usher-install-key", ["install.key"]),
            ("usher-admin-tokens", ["observe.token", "operate.token"]),
        ):
            content = {entry: base64.b64encode((data / entry).read_bytes()).decode() for entry in entries}
            metadata = {"name": name, "namespace": release_processes.SYSTEM}
            await server.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": content})
        async with release_processes.released(cluster, server, release_folder, VALUES) as release:
            await release.start_operator_pod()
            await cluster.kubectl("apply", f"--filename={file}")
            volume = tmp_path / "volume"
            shutil.copytree(data, volume)
            crm.set_behaviour("/crm", receiving.Behaviour())
            gateway = await release.start_gateway_pod(data=volume)
            wait = ("wait", "--for=condition=Ready", "--timeout=60s", "listeners.usher.dev/lobby")
            await cluster.kubectl(*wait, "--namespace=hotels")
            assert (await release.secret("lobby-url", "hotels"))["url"].decode() == url

            assert (await post(gateway, url, 1)).acknowledges  # a visitor who was counted on the machine
            assert (await post(gateway, url, 3)).acknowledges
            moved_books = await waiting.until(
                lambda: books(gateway, token), lambda current_books: current_books["delivered"] == 3, limit_seconds=60
            )
            assert moved_books["visits"] == previous_books["visits"] + 1 == 3
            assert moved_books["repeats"] == previous_books["repeats"] + 1 == 1
            retried = [
                request.headers["webhook-id"] for request in crm.kept("/crm") if agencies.number_of(request.body) == 2
            ]
            assert len(retried) >= 2
            assert len(set(retried)) == 1
            assert moved_books["created"] == 3


async def usher_url(file: Path, data: Path) -> str:
    """Return the URL that ``usher url`` prints."""
    command = [sys.executable, "-m", "usher_gateway", "url", str(file), f"--data={data}", "--output=json"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=60)
    (entry,) = json.loads(done.stdout)["rows"]
    return str(entry["url"])


async def delivered(gateway: installs.Process, token: str) -> int:
    return (await books(gateway, token))["delivered"]


async def attempts(gateway: installs.Process, token: str) -> int:
    return (await books(gateway, token))["attempts"]


async def test_uninstall_leaves_what_the_page_lists(cluster: clusters.Cluster, tmp_path: Path) -> None:
    async with api.connected(cluster.endpoint, cluster.token) as server:
        await release_processes.create_namespace(server, "hotels")
        values = {"agencies": ["hotels"]}
        async with release_processes.released(cluster, server, tmp_path, values) as release:
            operator = await release.start_operator_pod()
            tls = {"mode": "PerHostname", "issuerRef": {"name": "example", "kind": "ClusterIssuer"}}
            async with installs.ingress_class(server, "traefik") as exposure:
                await server.apply(release.klass(tls=tls, exposure=exposure))
                await server.apply(installs.tenant("hotels"))
                await server.apply(installs.destination("hotels"))
                await server.apply(installs.listener(release, "hotels"))
                for kind in ("Ingress", "Certificate"):
                    child = api.Resource(kind, "", release_processes.SYSTEM)
                    await waiting.until(functools.partial(server.list, child))
                await release.secret("lobby-url", "hotels")
                assert await operator.stop() == 0
            await asyncio.to_thread(release_processes.helm, cluster, "uninstall", release_processes.NAME)

            kinds = await cluster.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name")
            asked = ",".join(set(kinds.split()) - {"events", "events.events.k8s.io"})

            async def left() -> dict[str, set[str]]:
                """Return what is left. Kubernetes deletes pods and other parts of workloads a while later."""
                objects_by_namespace = {}
                for namespace in (release_processes.SYSTEM, "hotels"):
                    names = await cluster.kubectl("get", asked, f"--namespace={namespace}", "--output=name")
                    objects_by_namespace[namespace] = {without_group(name) for name in names.split()} - OF_THE_CLUSTER
                return objects_by_namespace

            routes = [
                f"{plural}/{child['metadata']['name']}"
                for kind, plural in (("Ingress", "ingress"), ("Certificate", "certificates"))
                for child in await server.list(api.Resource(kind, "", release_processes.SYSTEM))
            ]
            assert len(routes) == 2
            expected = {
                "usher-system": {
                    "secrets/usher-install-key",
                    "secrets/usher-admin-tokens",
                    "leases/usher-operator",
                    "persistentvolumeclaims/data-usher-gateway-0",
                    *routes,
                },
                "hotels": {"secrets/lobby-url", "tenants/acme", "listeners/lobby", "destinations/crm"},
            }
            await waiting.until(left, lambda remaining: remaining == expected)


def without_group(name: str) -> str:
    """Return ``plural/name`` for the ``kind.group/name`` that kubectl prints."""
    kind, _, own = name.partition("/")
    return f"{kind.partition('.')[0].removesuffix('s')}s/{own}"
