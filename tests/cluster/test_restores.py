"""After a restore of objects by a tool such as Velero, their documents and statuses are correct."""

from collections.abc import Mapping
from typing import Any

from local_cluster import ports
from support import agencies, api, installs

# Metadata that the API server sets when an object is created.
LOST = frozenset({"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"})


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
