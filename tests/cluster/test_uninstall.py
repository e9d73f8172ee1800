"""docs/install.md: an uninstallation leaves exactly what the page lists."""

import asyncio
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import foreign
from support import api, clusters, installs, release_processes, waiting

OF_THE_CLUSTER = {"configmaps/kube-root-ca.crt", "serviceaccounts/default"}
"""Objects that every namespace has."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Cluster]:
    clusters.require_local()
    with clusters.cluster(tmp_path_factory.mktemp("uninstall")) as ready:
        for each in foreign.ALL:
            ready.define_missing(each)
        yield ready


async def test_uninstall_leaves_what_the_page_lists(cluster: clusters.Cluster, tmp_path: Path) -> None:
    async with api.connected(cluster.endpoint, cluster.token) as server:
        await release_processes.create_namespace(server, "hotels")
        values = {"agencies": ["hotels"]}
        async with release_processes.released(cluster, server, tmp_path, values) as release:
            operator = await release.start_operator_pod()
            tls = {"mode": "PerHostname", "issuerRef": {"name": "example", "kind": "ClusterIssuer"}}
            exposure = {"type": "Ingress", "ingress": {"className": "traefik"}}
            await server.apply(release.klass(tls=tls, exposure=exposure))
            await server.apply(installs.tenant("hotels"))
            await server.apply(installs.destination("hotels"))
            await server.apply(installs.listener(release, "hotels"))
            for kind in ("Ingress", "Certificate"):
                await waiting.until(functools.partial(server.list, api.Resource(kind, "", release_processes.SYSTEM)))
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
