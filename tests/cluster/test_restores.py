"""After a restore of etcd, or of objects by a tool such as Velero, every gateway runs what the manifests say."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from local_cluster import ports
from support import agencies, api, clusters, installs

RESTORED_SECONDS = 120.0
"""Limit of design.md for the time from a restore until every gateway runs what the manifests say."""

PATIENT = {"timing": {"lease_seconds": 90.0, "renew_deadline_seconds": 60.0}}
"""A Lease that a restart of the API server does not cost, however busy the machine is."""


@pytest.mark.timeout(600)
async def test_restored_manifests_are_in_force_without_a_restart(
    restorable: clusters.Restorable,
    restorable_namespaces: installs.Namespaces,
    restorable_install: installs.Install,
    tmp_path: Path,
) -> None:
    install, namespace = restorable_install, await restorable_namespaces("agency")
    server, hostname = install.server, f"{namespace}.example.org"
    admin = ports.free()
    operator = await install.start_operator("--gateways", f"http://127.0.0.1:{admin}", changes=PATIENT)
    await server.apply(install.klass(allowedHostnames=[{"hostname": "*.example.org"}], retiredAddressDays=0))
    for document in (installs.tenant(namespace), installs.destination(namespace)):
        await server.apply(document)
    for name in ("edited", "deleted"):
        await server.apply(installs.placed(install, namespace, name, f"/{name}"))
    gateway = await install.start_gateway(admin=admin)
    for name in ("edited", "deleted"):
        await gateway.wait_answer(hostname, f"/{name}", 200)
    await asyncio.to_thread(restorable.plane.back_up, tmp_path / "backup")

    await server.apply(installs.placed(install, namespace, "edited", "/elsewhere"))
    await server.delete(api.Resource("Listener", "deleted", namespace))
    await server.apply(installs.placed(install, namespace, "new", "/new"))
    for path, status in (("/elsewhere", 200), ("/edited", 404), ("/deleted", 404), ("/new", 200)):
        await gateway.wait_answer(hostname, path, status)

    await asyncio.to_thread(restorable.restart, tmp_path / "backup")
    for path, status in (("/elsewhere", 404), ("/edited", 200), ("/deleted", 200)):
        await gateway.wait_answer(hostname, path, status, RESTORED_SECONDS)
    await server.apply(installs.placed(install, namespace, "edited", "/after"))  # the watches work again
    await gateway.wait_answer(hostname, "/after", 200, RESTORED_SECONDS)
    await server.wait(
        api.Resource("Listener", "edited", namespace),
        lambda listener: api.condition(listener, "Programmed")["status"] == "True",
        RESTORED_SECONDS,
    )
    await server.delete(api.Resource("Listener", "deleted", namespace))
    await gateway.wait_answer(hostname, "/deleted", 404, RESTORED_SECONDS)
    assert (operator.process.returncode, gateway.process.returncode) == (None, None)


LOST = frozenset({"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"})
"""Metadata that the API server sets when an object is created."""


async def restore(server: api.Api, saved: Mapping[str, Any]) -> None:
    """Create a saved object again with its old labels, annotations, owners and status, as Velero does on request."""
    metadata = {name: value for name, value in saved["metadata"].items() if name not in LOST}
    await server.create({**saved, "metadata": metadata})
    if "status" in saved:
        await server.merge(api.of(saved), {"status": saved["status"]}, "status")


async def test_restored_objects_get_new_documents_and_correct_statuses(
    install: installs.Install, namespace: str
) -> None:
    server, hostname, admin = install.server, f"{namespace}.example.org", ports.free()
    arguments = ("--gateways", f"http://127.0.0.1:{admin}")
    operator = await install.start_operator(*arguments)
    await server.apply(install.klass(allowedHostnames=[{"hostname": "*.example.org"}], retiredAddressDays=0))
    for document in (installs.tenant(namespace), installs.destination(namespace)):
        await server.apply(document)
    for path in ("/first", "/second", "/third"):
        await server.apply(installs.placed(install, namespace, "lobby", path))
    gateway = await install.start_gateway(admin=admin)
    lobby = api.Resource("Listener", "lobby", namespace)
    original = await server.wait(lobby, agencies.says("Ready", "True", "Ready"))
    kinds = ("Tenant", "Destination", "Listener")
    saved = [
        {**resource, "kind": kind}
        for kind in kinds
        for resource in await server.list(api.Resource(kind, "", namespace))
    ]
    saved += [{**secret, "kind": "Secret"} for secret in (await install.documents()).values()]
    saved.append(await server.get(api.Resource("Secret", "lobby-url", namespace)))
    await operator.stop()
    for saved_object in saved:
        await server.delete(api.of(saved_object))
    for saved_object in saved:
        await restore(
            server, {"apiVersion": "v1" if saved_object["kind"] == "Secret" else "usher.dev/v1alpha1", **saved_object}
        )

    await install.start_operator(*arguments)

    def is_mended(listener: Any) -> bool:
        return agencies.says("Ready", "True", "Ready")(listener) and listener["status"]["observedGeneration"] == 1

    mended = await server.wait(lobby, is_mended)
    assert (original["metadata"]["generation"], mended["metadata"]["generation"]) == (3, 1)
    assert {condition["observedGeneration"] for condition in mended["status"]["conditions"]} == {1}
    uid = mended["metadata"]["uid"]
    await server.wait(
        api.Resource("Secret", "lobby-url", namespace),
        lambda secret: secret and secret["metadata"]["ownerReferences"][0]["uid"] == uid,
    )
    assert await gateway.answer(hostname, "/third") == 200
