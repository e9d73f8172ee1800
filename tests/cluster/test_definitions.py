"""The definitions in kubectl: columns, short names, field selectors, and examples."""

import secrets

import pytest

from local_cluster import kubectl
from support import agencies, clusters

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


@agencies.SHARED
async def test_kubectl_get_shows_the_state_of_each_object(agency: agencies.Agency) -> None:
    nobodys = agency.listener("bar", tenantRef={"name": "other"})
    await agency.apply(agency.tenant(), agency.destination(), agency.listener(), nobodys)
    await agency.wait_ready("listeners.usher.dev/lobby", "destinations.usher.dev/crm", "tenants.usher.dev/acme")
    await agency.wait("Listener", "bar", "Ready", "False", "TenantNotFound")
    shown = await agency.kubectl("get", "usher")
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    rows = {line[0]: line[1:-1] for line in lines}
    host = agency.platform.receiver.url.removeprefix("http://")
    hostname = agency.platform.install.klass()["spec"]["hostname"]
    assert rows["destination.usher.dev/crm"] == ["HTTP", host, "True", "Ready", "NotTried"]
    assert rows["listener.usher.dev/lobby"] == ["acme", hostname, "True", "Ready", "NoVisitYet"]
    assert rows["tenant.usher.dev/acme"] == ["True", "Ready"]
    assert ["NAME", "TENANT", "HOST", "READY", "REASON", "RECEIVING", "AGE"] in lines
    assert ["NAME", "TYPE", "HOST", "READY", "REASON", "HEALTHY", "AGE"] in lines
    assert ["NAME", "READY", "REASON", "AGE"] in lines
    wide = await agency.kubectl("get", "ul", "--output=wide")
    assert "Tenant `other` must exist" in wide
    assert f"https://{hostname}/v1/" in wide
    tenants = await agency.kubectl("get", "ut", "--output=wide")
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
