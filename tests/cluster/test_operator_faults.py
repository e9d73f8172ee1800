"""The operator with an API server that rejects requests or hangs, and with foreign objects."""

import asyncio
from pathlib import Path
from typing import Any

from local_cluster import foreign
from support import api, clusters, faulty_proxy, installs, waiting


async def declare(install: installs.Install, namespace: str, *names: str) -> None:
    documents = [install.klass(), installs.tenant(namespace), installs.destination(namespace)]
    for document in [*documents, *(installs.listener(install, namespace, name) for name in names)]:
        await install.server.apply(document)
    for name in names:
        await wait_published(install, namespace, name)


async def wait_published(install: installs.Install, namespace: str, name: str) -> Any:
    owner = f"Listener {namespace}/{name}"
    return await waiting.until(install.documents, lambda documents: owner in documents)


def lists_of(plural: str) -> faulty_proxy.Where:
    return lambda asked: faulty_proxy.lists(asked) and asked.path.endswith(f"/{plural}")


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


async def test_operator_without_rights_on_a_kind_is_unready_and_idle(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    first = await install.start_operator()
    await declare(install, namespace, "lobby")
    await first.stop()
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    refused = proxy.refuse(403, lists_of("listeners"))
    second = await install.start_operator(account=through, wait=False)
    await waiting.until(lambda: second.get("/readyz"), lambda answer: "listeners cannot be read: 403" in answer[1])
    versions = {owner: secret["metadata"]["resourceVersion"] for owner, secret in (await install.documents()).items()}
    assert f"Listener {namespace}/lobby" in versions
    refused.lift()
    await second.wait_ready()
    await declare(install, namespace, "lobby", "bar")


async def test_rejected_list_removes_nothing(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    through = install.operator.at(proxy.endpoint, tmp_path / "through")
    operator = await install.start_operator("--resync-seconds", "1", account=through)
    await declare(install, namespace, "lobby")
    readings = await operator.metric('usher_operator_resync_total{result="incomplete"}')
    with proxy.refuse(403, lists_of("listeners")):
        await waiting.until(
            lambda: operator.metric('usher_operator_resync_total{result="incomplete"}'),
            lambda count: count >= readings + 2,
        )
    await waiting.until(
        lambda: operator.metric('usher_operator_resync_total{result="success"}'), lambda count: count >= 1
    )
    documents = await install.documents()
    assert f"Listener {namespace}/lobby" in documents
    assert operator.taken_for_gone(namespace) == []


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


async def test_foreign_secret_with_the_name_of_a_child_is_kept(install: installs.Install, namespace: str) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "lobby-url", "namespace": namespace},
        "data": {"mine": "YWJj"},
    }
    original = await install.server.create(theirs)
    operator = await install.start_operator()
    await declare(install, namespace, "lobby")
    await waiting.until(lambda: operator.metric('usher_operator_reconcile_total{kind="Listener",result="error"}'), bool)
    present = await install.server.get(api.Resource("Secret", "lobby-url", namespace))
    assert present["metadata"]["resourceVersion"] == original["metadata"]["resourceVersion"]


async def test_optional_api_may_appear_and_disappear_at_run_time(
    install: installs.Install, namespace: str, definitions: clusters.Cluster
) -> None:
    names = [f"{file.stem.split('_', 1)[1]}.{foreign.GATEWAY_API.group}" for file in _routes()]
    await definitions.kubectl("delete", "crd", *names)
    try:
        operator = await install.start_operator()
        feature = 'usher_operator_feature_available{feature="gateway_api"}'
        assert await operator.metric(feature) == 0
        definitions.define(_routes())
        await waiting.until(lambda: operator.metric(feature), bool)
        exposure = {
            "type": "HTTPRoute",
            "scope": "Hostname",
            "httpRoute": {"parentRef": {"namespace": namespace, "name": "edge", "sectionName": "https"}},
        }
        await install.server.apply(install.klass(exposure=exposure))
        for document in (installs.tenant(namespace), installs.listener(install, namespace)):
            await install.server.apply(document)
        routes = api.Resource("HTTPRoute", "", install.system)
        await waiting.until(lambda: install.server.list(routes))
        await definitions.kubectl("delete", "crd", *names)
        await waiting.until(lambda: operator.metric(feature), lambda is_available: is_available == 0)
        assert operator.process.returncode is None
    finally:
        definitions.define(_routes())


def _routes() -> list[Path]:
    return [file for file in foreign.files(foreign.GATEWAY_API) if file.stem.endswith("httproutes")]


async def test_deleted_namespace_with_every_listener_stays_published(
    install: installs.Install, make_namespace: installs.Namespaces
) -> None:
    doomed = await make_namespace("agency")
    names = [f"room-{number}" for number in range(8)]
    await install.start_operator()
    await declare(install, doomed, *names)
    await install.server.delete(api.Resource("Namespace", doomed))
    klass = api.of(install.klass())
    await install.server.wait(
        klass, lambda current: api.condition(current, "Ready").get("reason") == "RemovalsHalted", limit_seconds=60
    )
    documents = await install.documents()
    assert {f"Listener {doomed}/{name}" for name in names} <= set(documents)


async def test_idle_operator_writes_only_its_lease(install: installs.Install, namespace: str) -> None:
    # without a gateway, Programmed turns False after this time, which on a slow machine must not be now
    operator = await install.start_operator(changes={"grace_seconds": 600.0})
    await declare(install, namespace, "lobby")

    async def writes_in(seconds: float) -> set[str]:
        position = install.cluster.audit.position()
        await asyncio.sleep(seconds)
        asked = install.cluster.audit.since(position, install.operator.user)
        here = {namespace, install.system}  # other tests may be deleting their namespaces
        return {request.resource for request in asked if request.writes and request.namespace in here}

    await waiting.until(lambda: writes_in(1), lambda resources: resources <= {"leases"})
    assert await writes_in(5) == {"leases"}
    assert await operator.metric("usher_operator_workqueue_depth") == 0


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
