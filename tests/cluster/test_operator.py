"""The operator as a process with the shipped RBAC rules, against a real API server."""

import asyncio
from typing import Any

from local_cluster import ports
from support import api, installs, waiting


async def declare(install: installs.Install, namespace: str, **listener: Any) -> None:
    for document in (
        install.klass(),
        installs.tenant(namespace),
        installs.destination(namespace),
        installs.listener(install, namespace, **listener),
    ):
        await install.server.apply(document)


def has(condition_type: str, status: str, reason: str = "") -> Any:
    def check(resource: Any) -> bool:
        condition = api.condition(resource, condition_type)
        return bool(condition) and condition.get("status") == status and reason in {"", condition["reason"]}

    return check


async def test_applied_resources_give_documents_a_url_and_conditions(install: installs.Install, namespace: str) -> None:
    await install.start_operator()
    await declare(install, namespace)
    lobby = api.Resource("Listener", "lobby", namespace)
    is_accepted, is_resolved = has("Accepted", "True"), has("ResolvedRefs", "True")
    listener = await install.server.wait(lobby, lambda listener: is_accepted(listener) and is_resolved(listener))
    assert listener["status"]["observedGeneration"] == listener["metadata"]["generation"]
    assert listener["status"]["addresses"][0]["hostname"] == install.klass()["spec"]["hostname"]
    owners = {f"Listener {namespace}/lobby", f"Destination {namespace}/crm"}
    await waiting.until(install.documents, lambda documents: owners <= set(documents))
    url = await install.server.wait(api.Resource("Secret", "lobby-url", namespace), bool)
    assert url["metadata"]["ownerReferences"][0]["uid"] == listener["metadata"]["uid"]


async def test_document_that_gateways_run_is_programmed(install: installs.Install, namespace: str) -> None:
    port = ports.free()
    await install.start_operator("--gateways", f"http://127.0.0.1:{port}")
    await declare(install, namespace)
    await install.start_gateway(admin=port)
    listener = await install.server.wait(api.Resource("Listener", "lobby", namespace), has("Ready", "True"))
    assert has("Programmed", "True")(listener)
    await install.server.wait(api.Resource("Tenant", "acme", namespace), has("Ready", "True"))


async def versions(install: installs.Install, namespace: str) -> dict[str, str]:
    """resourceVersion of each object that the operator writes."""
    versions_by_name = {}
    for kind, where in (
        ("Secret", install.config),
        ("Secret", namespace),
        ("Ingress", install.system),
        ("ListenerClass", ""),
        ("Tenant", namespace),
        ("Listener", namespace),
        ("Destination", namespace),
    ):
        for written in await install.server.list(api.Resource(kind, "", where)):
            owner = (written["metadata"].get("annotations") or {}).get("usher.dev/owner", "")
            if where == install.config and not owner.startswith(f"{namespace}/"):
                continue  # another test may be deleting its namespace
            versions_by_name[f"{kind} {written['metadata']['name']}"] = written["metadata"]["resourceVersion"]
    return versions_by_name


async def settled(install: installs.Install, namespace: str) -> dict[str, str]:
    """Wait until the versions have not changed for a second, and return them."""
    previous_versions = await versions(install, namespace)
    while True:
        await asyncio.sleep(1)
        now = await versions(install, namespace)
        if now == previous_versions:
            return now
        previous_versions = now


async def test_restarted_operator_writes_nothing(install: installs.Install, namespace: str) -> None:
    first = await install.start_operator()
    await declare(install, namespace)
    await install.server.wait(api.Resource("Listener", "lobby", namespace), has("ResolvedRefs", "True"))
    for kind, name in (("Tenant", "acme"), ("Destination", "crm")):
        await install.server.wait(api.Resource(kind, name, namespace), has("Accepted", "True"))
    settled_versions = await settled(install, namespace)
    assert await first.stop() == 0
    position = install.cluster.audit.position()
    second = await install.start_operator()

    async def reconciled() -> float:
        return await second.metric("usher_operator_reconcile_total")

    await waiting.until(reconciled, lambda count: count >= 4)
    assert await settled(install, namespace) == settled_versions
    asked = install.cluster.audit.since(position, install.operator.user)
    here = {namespace, install.system, install.config}  # other tests may be deleting their namespaces
    assert {request.resource for request in asked if request.writes and request.namespace in here} == {"leases"}


async def test_operator_reveals_no_secret(install: installs.Install, namespace: str) -> None:
    operator = await install.start_operator()
    credential = "c0nfidential-credential"
    about = {"name": "token", "namespace": namespace, "labels": {"usher.dev/watch": "true"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": {"token": credential}}
    bearer = {"type": "Bearer", "bearer": {"secretRef": {"name": "token", "key": "token"}}}
    await install.server.apply(secret)
    await declare(install, namespace)
    http = {"url": "https://crm.example.com/hook", "authentication": bearer}
    await install.server.apply(installs.destination(namespace, http=http))
    crm = api.Resource("Destination", "crm", namespace)
    await install.server.wait(crm, lambda destination: (destination.get("status") or {}).get("observedGeneration") == 2)
    await install.server.delete(api.of(secret))
    await install.server.wait(crm, has("ResolvedRefs", "False", "SecretNotFound"))
    url = await install.secret("lobby-url", namespace)
    key = await install.secret("usher-install-key", install.system)
    tokens = await install.secret("usher-admin-tokens", install.system)
    hidden = [credential, url["url"].decode(), url["url"].decode().rpartition("/")[2]]
    hidden += [value.decode().strip() for value in (*key.values(), *tokens.values())]
    texts = [operator.log.read_text("utf-8"), (await operator.get("/metrics"))[1], (await operator.get("/readyz"))[1]]
    for kind in ("ListenerClass", "Tenant", "Listener", "Destination", "Event"):
        where = "" if kind == "ListenerClass" else namespace
        texts += [str(resource) for resource in await install.server.list(api.Resource(kind, "", where))]
    assert [text for text in texts for word in hidden if word in text] == []


async def test_listener_is_not_programmed_without_ready_endpoints(install: installs.Install, namespace: str) -> None:
    await install.start_operator("--gateway-service", f"{install.system}/usher-gateway")
    await declare(install, namespace)
    listener = await install.server.wait(
        api.Resource("Listener", "lobby", namespace), lambda listener: api.condition(listener, "Programmed")
    )
    assert api.condition(listener, "Programmed")["status"] != "True"
