"""Two installs in one cluster: one of them owns the status of an object, and the other writes nothing to it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import api, clusters, installs, waiting
from usher_operator.state import kinds

USED = {"Tenant": "acme", "Destination": "crm"}
QUIET_LOOKS = 20  # Looks in a row, 0.5 s apart, without a write: then the statuses are settled


@pytest.fixture
async def second(
    definitions: clusters.Cluster, server: api.Api, make_namespace: installs.Namespaces, tmp_path: Path
) -> AsyncIterator[installs.Install]:
    """A second install in the same cluster."""
    folder = tmp_path / "second"
    folder.mkdir()
    async with installs.installed(definitions, server, make_namespace, folder) as ready:
        yield ready


def status_writes(namespace: str, *writers: installs.Install) -> int:
    log = writers[0].cluster.audit
    asked = [request for install in writers for request in log.since(0, install.operator.user)]
    return sum(
        request.writes and request.namespace == namespace and request.resource.endswith("/status") for request in asked
    )


async def until_settled(namespace: str, *writers: installs.Install) -> None:
    """Wait until the operators write no status in a namespace any more."""
    counts: list[int] = []

    async def look() -> list[int]:
        counts.append(status_writes(namespace, *writers))
        return counts[-QUIET_LOOKS:]

    await waiting.until(
        look, lambda last: len(last) == QUIET_LOOKS and len(set(last)) == 1, limit_seconds=120, every_seconds=0.5
    )


def managers_of_status(resource: dict[str, Any]) -> set[str]:
    entries = resource["metadata"]["managedFields"]
    return {entry["manager"] for entry in entries if entry.get("subresource") == "status"}


def by(install: installs.Install, resource: dict[str, Any]) -> bool:
    return kinds.field_manager(install.controller) in managers_of_status(resource)


async def until_reason(server: api.Api, resource: api.Resource, reason: str) -> dict[str, Any]:
    """Wait until Ready of a resource has a reason, and return the resource."""
    raw: dict[str, Any] = await server.wait(
        resource, lambda raw: raw and (api.condition(raw, "Ready") or {}).get("reason") == reason
    )
    return raw


async def test_two_installs_settle_with_an_unready_listener_and_a_secret(
    install: installs.Install, second: installs.Install, server: api.Api, namespace: str
) -> None:
    token = {"type": "Bearer", "bearer": {"secretRef": {"name": "crm-token", "key": "token"}}}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "crm-token", "namespace": namespace, "labels": {"usher.dev/watch": "true"}},
        "stringData": {"token": "wx3secret-of-crm"},
    }
    url = "https://crm.example.com/hook"
    for manifest in (
        install.klass(),
        second.klass(),
        secret,
        installs.tenant(namespace),
        installs.destination(namespace, http={"url": url, "authentication": token}),
        installs.listener(
            second, namespace, routes=[{"name": name, "destinationRef": {"name": name}} for name in ("crm", "gone")]
        ),
        installs.tenant(namespace, "unused"),
        installs.destination(namespace, "unused"),
    ):
        await server.apply(manifest)
    await install.start_operator()
    await second.start_operator()
    await until_reason(server, api.Resource("Tenant", "acme", namespace), "ListenersNotReady")
    await until_settled(namespace, install, second)
    assert f"Destination {namespace}/crm" in await install.documents()
    assert {f"Destination {namespace}/crm", f"Listener {namespace}/lobby"} <= (await second.documents()).keys()
    for kind in ("Tenant", "Destination"):
        used = await server.get(api.Resource(kind, USED[kind], namespace))
        assert by(second, used)
        assert not by(install, used)
        unused = await server.get(api.Resource(kind, "unused", namespace))
        assert len(managers_of_status(unused)) == 1


async def test_resource_whose_listener_changes_install_is_taken_over_whole(
    install: installs.Install, second: installs.Install, server: api.Api, namespace: str
) -> None:
    shared = installs.tenant(namespace, "globex", companyID="77")
    for manifest in (install.klass(), second.klass(), shared, installs.tenant(namespace, companyID="77")):
        await server.apply(manifest)
    listener = installs.listener(second, namespace)
    for manifest in (installs.destination(namespace), listener):
        await server.apply(manifest)
    await install.start_operator()
    former = await second.start_operator()
    acme = api.Resource("Tenant", "acme", namespace)
    await server.wait(acme, lambda raw: by(second, raw) and api.condition(raw, "CompanyShared"))
    await former.stop()
    await server.delete(api.of(shared))
    await server.delete(api.of(listener))
    await server.apply(installs.listener(install, namespace))
    await server.wait(acme, lambda raw: by(install, raw) and not api.condition(raw, "CompanyShared"))
    await second.start_operator()
    await until_settled(namespace, install, second)
