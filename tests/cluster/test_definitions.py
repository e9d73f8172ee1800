"""The definitions in kubectl: columns, short names, field selectors, and examples."""

import secrets

import pytest

from local_cluster import kubectl
from support import api, clusters

EXAMPLES = clusters.DEFINITIONS.parent / "examples"

OBJECTS = """
apiVersion: usher.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
---
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: lobby}
spec: {tenantRef: {name: acme}}
---
apiVersion: usher.dev/v1alpha1
kind: Listener
metadata: {name: bar}
spec: {tenantRef: {name: other}, listenerClassName: internal}
---
apiVersion: usher.dev/v1alpha1
kind: Destination
metadata: {name: crm}
spec: {tenantRef: {name: acme}, type: HTTP, http: {url: "https://crm.example/secret"}}
"""


@pytest.fixture
async def call(definitions: clusters.Cluster, namespace: str) -> kubectl.Kubectl:
    await definitions.kubectl("apply", f"--namespace={namespace}", "--filename=-", stdin=OBJECTS)
    return definitions.kubectl


def condition(kind: str, status: str, reason: str) -> dict[str, object]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": "a Tenant must exist",
        "lastTransitionTime": "2027-01-31T12:00:00Z",
        "observedGeneration": 1,
    }


async def test_kubectl_get_shows_the_state_of_each_object(
    call: kubectl.Kubectl, server: api.Api, namespace: str
) -> None:
    url = {"name": "class", "hostname": "hooks.example.com", "url": "https://hooks.example.com/v1/abcd…"}
    told = [condition("Ready", "False", "TenantNotFound"), condition("Receiving", "Unknown", "NoVisitYet")]
    told.append(condition("Healthy", "True", "Healthy"))
    status = {"observedGeneration": 1, "conditions": told}
    for kind, name, more in (
        ("Tenant", "acme", {}),
        ("Listener", "lobby", {"addresses": [url]}),
        ("Destination", "crm", {"host": "crm.example"}),
    ):
        await server.merge(api.Resource(kind, name, namespace), {"status": status | more}, "status")
    shown = await call("get", "usher", f"--namespace={namespace}")
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    assert [line[:-1] for line in lines if line[0].startswith(("tenant.", "listener.", "destination."))] == [
        ["destination.usher.dev/crm", "HTTP", "crm.example", "False", "Healthy", "TenantNotFound"],
        ["listener.usher.dev/bar", "other"],
        ["listener.usher.dev/lobby", "acme", "hooks.example.com", "False", "NoVisitYet", "TenantNotFound"],
        ["tenant.usher.dev/acme", "False", "TenantNotFound"],
    ]
    assert ["NAME", "TENANT", "HOST", "READY", "RECEIVING", "REASON", "AGE"] in lines
    assert ["NAME", "TYPE", "HOST", "READY", "HEALTHY", "REASON", "AGE"] in lines
    assert ["NAME", "READY", "REASON", "AGE"] in lines
    assert "secret" not in shown
    wide = await call("get", "ul", "lobby", f"--namespace={namespace}", "--output=wide")
    assert "a Tenant must exist" in wide
    assert "https://hooks.example.com/v1/abcd…" in wide
    tenants = await call("get", "ut", f"--namespace={namespace}", "--output=wide")
    assert tenants.splitlines()[0].split() == ["NAME", "READY", "REASON", "STATE", "COMPANY", "MESSAGE", "AGE"]


async def test_short_names_and_field_selectors_select_objects(call: kubectl.Kubectl, namespace: str) -> None:
    async def selected(kind: str, *selector: str) -> list[str]:
        resources = await call.json("get", kind, f"--namespace={namespace}", *selector)
        return [resource["metadata"]["name"] for resource in resources]

    assert await selected("ut") == ["acme"]
    assert await selected("ul") == ["bar", "lobby"]
    assert await selected("ul", "--field-selector=spec.tenantRef.name=acme") == ["lobby"]
    assert await selected("ul", "--field-selector=spec.listenerClassName=internal") == ["bar"]
    assert await selected("ud", "--field-selector=spec.tenantRef.name=acme") == ["crm"]
    assert await selected("ud", "--field-selector=spec.tenantRef.name=other") == []


@pytest.mark.parametrize("path", ["quickstart.yaml", "agency"])
async def test_examples_apply_to_a_cluster(definitions: clusters.Cluster, namespace: str, path: str) -> None:
    built = await definitions.kubectl(
        "create", "--dry-run=client", "--output=json", f"--filename={EXAMPLES / path}", "--validate=false"
    )
    suffix = secrets.token_hex(4)
    text = built.replace('"agency"', f'"{namespace}"')
    text = text.replace('"namespace": "default"', f'"namespace": "{namespace}"').replace('"public"', f'"x{suffix}"')
    said = await definitions.kubectl("apply", "--server-side", "--filename=-", stdin=text)
    try:
        assert said.count("serverside-applied") >= 3
    finally:
        await definitions.kubectl("delete", "ulc", f"x{suffix}", "--ignore-not-found")


async def test_folder_of_the_kinds_applies_in_one_run(definitions: clusters.Cluster) -> None:
    """In the order in which kubectl reads the files: the namespace has to exist before the objects in it."""
    try:
        await definitions.kubectl("apply", f"--filename={EXAMPLES / 'kinds'}")
    finally:
        await definitions.kubectl("delete", "--wait=false", "--ignore-not-found", f"--filename={EXAMPLES / 'kinds'}")
