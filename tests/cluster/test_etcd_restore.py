"""After a restore of etcd, operator and gateway run what the restored manifests say, without a restart."""

import asyncio
from pathlib import Path

from cluster.conftest import MakeNamespace
from local_cluster import ports
from support import api, clusters, installs

RESTORED_SECONDS = 120.0
"""Limit of design.md for the time from a restore until every gateway runs what the manifests say."""

PATIENT = {"timing": {"lease_seconds": 90.0, "renew_deadline_seconds": 60.0}}
"""A Lease that a restart of the API server does not cost, however busy the machine is."""


async def test_restored_manifests_are_in_force_without_a_restart(
    restorable: clusters.Restorable,
    restorable_namespaces: MakeNamespace,
    restorable_install: installs.Install,
    tmp_path: Path,
) -> None:
    install, namespace = restorable_install, await restorable_namespaces("agency")
    server, hostname = install.server, f"{namespace}.example.org"
    admin = ports.free()
    operator = await install.start_operator("--gateways", f"http://127.0.0.1:{admin}", changes=PATIENT)
    await server.apply(install.klass(allowedHostnames=[{"hostname": "*.example.org"}]))
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
    await gateway.wait_answer(hostname, "/after", 200)
    await server.wait(
        api.Resource("Listener", "edited", namespace),
        lambda seen: api.condition(seen, "Programmed")["status"] == "True",
    )
    await server.delete(api.Resource("Listener", "deleted", namespace))
    await gateway.wait_answer(hostname, "/deleted", 404)
    assert (operator.process.returncode, gateway.process.returncode) == (None, None)
