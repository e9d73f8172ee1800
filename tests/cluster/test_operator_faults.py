"""The operator with an API server that rejects requests or hangs, and with foreign objects."""

import asyncio
from pathlib import Path
from typing import Any

from support import api, faulty_proxy, installs
from support.published_documents import declare


async def test_rejected_requests_are_retried(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    await install.start_operator(account=install.operator.at(proxy.endpoint, tmp_path / "through"))
    faults = [
        proxy.refuse(429, faulty_proxy.writes, times=3, retry_after_seconds=1),
        proxy.refuse(500, faulty_proxy.writes, times=3),
    ]
    await declare(install, namespace, "lobby")
    assert [fault.met for fault in faults] == [3, 3]


def writes_of(plural: str, namespace: str) -> faulty_proxy.Where:
    return lambda asked: asked.writes and f"/namespaces/{namespace}/{plural}/" in asked.path


async def test_refused_writes_show_in_conditions_until_they_are_allowed(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    await install.start_operator(account=install.operator.at(proxy.endpoint, tmp_path / "through"))
    faults = [
        proxy.refuse(403, writes_of("secrets", install.config)),
        proxy.refuse(403, writes_of("ingresses", install.system)),
    ]
    for document in (
        install.klass(exposure={"type": "Ingress", "scope": "Hostname", "ingress": {"className": "nginx"}}),
        installs.tenant(namespace),
        installs.destination(namespace),
        installs.listener(install, namespace),
    ):
        await install.server.apply(document)
    lobby, crm = api.Resource("Listener", "lobby", namespace), api.Resource("Destination", "crm", namespace)

    def is_forbidden(resource: Any) -> bool:
        return bool(api.condition(resource, "Programmed").get("reason") == "WriteForbidden")

    await install.server.wait(crm, is_forbidden)
    forbidden = await install.server.wait(lobby, is_forbidden)
    assert api.condition(forbidden, "Ready")["status"] == "False"
    assert "403" in api.condition(forbidden, "Programmed")["message"]
    for fault in faults:
        fault.lift()
    await install.server.merge(crm, {"metadata": {"labels": {"again": "now"}}})
    await install.server.merge(lobby, {"metadata": {"labels": {"again": "now"}}})
    for resource in (crm, lobby):
        await install.server.wait(resource, lambda current: not is_forbidden(current))


async def test_foreign_conditions_are_kept(install: installs.Install, namespace: str) -> None:
    await install.start_operator()
    await declare(install, namespace, "lobby")
    lobby = api.Resource("Listener", "lobby", namespace)
    theirs = {
        "type": "example.com/Audited",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2027-01-31T12:00:00Z",
    }
    document = {**installs.OURS, "kind": "Listener", "metadata": {"name": "lobby", "namespace": namespace}}
    await install.server.wait(lobby, lambda listener: api.condition(listener, "Ready"))
    await install.server.apply({**document, "status": {"conditions": [theirs]}}, "status")
    await install.server.delete(api.Resource("Destination", "crm", namespace))

    def lost(listener: Any) -> bool:
        condition = api.condition(listener, "ResolvedRefs")
        return bool(condition.get("reason") == "DestinationNotFound")

    listener = await install.server.wait(lobby, lost)
    assert api.condition(listener, "example.com/Audited") == theirs


async def test_edited_condition_is_restored_with_its_transition_time(install: installs.Install, namespace: str) -> None:
    await install.start_operator()
    await declare(install, namespace, "lobby")
    acme = api.Resource("Tenant", "acme", namespace)
    original = await install.server.wait(acme, lambda tenant: api.condition(tenant, "Accepted"))
    changed = [{**condition, "message": "edited"} for condition in original["status"]["conditions"]]
    await install.server.merge(acme, {"status": {"conditions": changed}}, "status")

    def is_restored(tenant: Any) -> bool:
        condition = api.condition(tenant, "Accepted")
        return bool(condition.get("message", "edited") != "edited")

    restored = await install.server.wait(acme, is_restored)
    assert api.condition(restored, "Accepted") == api.condition(original, "Accepted")


async def test_large_secret_with_the_managed_label_ends_no_watch(install: installs.Install, namespace: str) -> None:
    operator = await install.start_operator()
    await declare(install, namespace, "lobby")
    labels = {"usher.dev/managed": "true"}
    large = {"metadata": {"name": "large", "namespace": namespace, "labels": labels}, "data": {"x": "QUFB" * 170_000}}
    await install.server.create({"apiVersion": "v1", "kind": "Secret", **large})
    document = (await install.documents())[f"Listener {namespace}/lobby"]
    await asyncio.sleep(1)
    assert operator.process.returncode is None
    await install.server.merge(api.of({"kind": "Secret", **document}), {"data": {"config.json": "e30="}})
    await install.server.wait(
        api.of({"kind": "Secret", **document}), lambda current: current["data"] == document["data"]
    )
    assert operator.process.returncode is None


async def test_forged_config_secret_does_not_block_a_removal(
    install: installs.Install, namespace: str, make_namespace: installs.Namespaces
) -> None:
    """Any tenant can write labels and annotations; this one claims the documents of another tenant."""
    await install.start_operator()
    names = [f"room-{number}" for number in range(6)]
    await declare(install, namespace, *names)
    elsewhere, documents = await make_namespace("elsewhere"), await install.documents()
    for name in names:
        secret = documents[f"Listener {namespace}/{name}"]
        metadata = {key: secret["metadata"][key] for key in ("labels", "annotations")}
        forged = {"metadata": {**metadata, "name": name, "namespace": elsewhere}, "type": secret["type"]}
        await install.server.create({"apiVersion": "v1", "kind": "Secret", **forged, "data": {"config.json": "e30="}})
    await asyncio.sleep(4)
    listener_class = await install.server.get(api.of(install.klass()))
    assert api.condition(listener_class, "Ready").get("reason") != "RemovalsHalted"
    kept = await install.documents()
    ours = {
        owner: secret["data"] for owner, secret in documents.items() if f" {namespace}/" in owner
    }  # other tests may be deleting theirs
    assert ours == {owner: kept[owner]["data"] for owner in ours}
