"""Edits of an agency's resources and children by others, and values at their limits."""

import base64
import json
from typing import Any

import pytest

from local_cluster import kubectl
from support import agencies, api, installs, waiting

pytestmark = agencies.SHARED

LISTENER = "listeners.usher.dev/lobby"
DESTINATION = "destinations.usher.dev/crm"


async def stand(agency: agencies.Agency, **listener: Any) -> None:
    await agency.apply(agency.tenant(), agency.destination(), agency.listener(**listener))
    await agency.wait_ready(LISTENER, DESTINATION)


async def config_secret(agency: agencies.Agency, owner: str) -> dict[str, Any]:
    """The config Secret of a resource such as ``Listener/lobby``."""
    kind, _, name = owner.partition("/")
    secret = (await agency.platform.install.documents())[f"{kind} {agency.namespace}/{name}"]
    return {**secret, "kind": "Secret"}


async def test_edited_child_is_restored(agency: agencies.Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    await stand(agency)
    url = base64.b64encode((await agency.url()).encode()).decode()
    other = base64.b64encode(b"https://evil.example/v1/token").decode()
    monkeypatch.setenv("KUBE_EDITOR", f"sed --in-place 's|{url}|{other}|'")
    original = await agency.platform.server.get(api.Resource("Secret", "lobby-url", agency.namespace))
    said = await agency.kubectl("edit", "secret/lobby-url")
    assert "edited" in said
    restored = await agency.platform.server.wait(
        api.of({"kind": "Secret", **original}), lambda secret: secret["data"] == original["data"]
    )
    assert restored["metadata"]["resourceVersion"] != original["metadata"]["resourceVersion"]


async def test_child_with_fields_of_another_manager_is_restored(agency: agencies.Agency) -> None:
    await stand(agency)
    original = await config_secret(agency, "Listener/lobby")
    metadata = {"name": original["metadata"]["name"], "namespace": original["metadata"]["namespace"]}
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"config.json": "e30="}}
    await agency.platform.server.apply(theirs)
    await agency.platform.server.wait(api.of(original), lambda secret: secret["data"] == original["data"])
    assert (await agency.post(await agency.url(), b"{}")).acknowledges


async def test_foreign_labels_and_annotations_are_kept(agency: agencies.Agency) -> None:
    await stand(agency)
    server = agency.platform.server
    mine = {"labels": {"team.example/owner": "ops"}, "annotations": {"team.example/note": "kept"}}
    children = [
        api.Resource("Secret", "lobby-url", agency.namespace),
        api.of(await config_secret(agency, "Listener/lobby")),
        api.of(await config_secret(agency, "Destination/crm")),
    ]
    for resource in (*children, api.Resource("Listener", "lobby", agency.namespace)):
        await server.merge(resource, {"metadata": mine})
    old = await agency.url()
    await agency.apply(agency.listener(token={"generation": 1}), agency.destination(concurrency=3))
    await agency.until_answers(await agency.url(satisfied=lambda url: url != old), 200)
    await agency.wait_ready(LISTENER, DESTINATION)
    for resource in (*children, api.Resource("Listener", "lobby", agency.namespace)):
        metadata = (await server.get(resource))["metadata"]
        assert mine["labels"].items() <= metadata["labels"].items()
        assert mine["annotations"].items() <= metadata["annotations"].items()


async def test_secret_without_its_label_keeps_its_last_good_value(agency: agencies.Agency) -> None:
    login = {"type": "Bearer", "bearer": {"secretRef": {"name": "crm-token", "key": "token"}}}
    secret = agency.secret("crm-token", token="wx3secret-of-crm")
    await agency.apply(secret, agency.tenant(), agency.destination(http={"authentication": login}), agency.listener())
    await agency.wait_ready(LISTENER, DESTINATION)
    await agency.kubectl("label", "secret/crm-token", "usher.dev/watch-")
    await agency.wait("Destination", "crm", "ResolvedRefs", "False", "SecretNotLabelled")
    assert (await agency.post(await agency.url(), agencies.visit(1))).acknowledges
    (received,) = await agency.until_received(1)
    assert received.headers["authorization"] == "Bearer wx3secret-of-crm"


async def test_too_large_document_keeps_the_last_good_one(agency: agencies.Agency) -> None:
    await stand(agency)
    await agency.apply_large(agency.secret("large", value="x" * 60_000))
    headers = [
        {"name": f"X-Large-{number}", "valueFrom": {"secretKeyRef": {"name": "large", "key": "value"}}}
        for number in range(20)
    ]
    await agency.apply(agency.destination(http={"headers": headers}))
    destination = await agency.wait("Destination", "crm", "Accepted", "False", "ConfigTooLarge")
    assert "must not be larger than" in api.condition(destination, "Ready")["message"]
    assert (await agency.post(await agency.url(), agencies.visit(1))).acknowledges
    (received,) = await agency.until_received(1)
    assert "x-large-0" not in received.headers
    await agency.apply(agency.destination(http={"headers": [{"name": "X-Small", "value": "1"}]}))
    await agency.wait_ready(DESTINATION)


async def test_unicode_names_are_kept_and_paths_compared_as_sent(agency: agencies.Agency) -> None:
    hostname = f"xn--htel-vqa.{agency.namespace}.customers.example"
    query = [{"name": "größe", "value": "ü東京"}]
    address = {"name": "cafe", "hostname": hostname, "path": "/caf%C3%A9/purple.php", "query": query}
    await agency.apply(agency.tenant(displayName="Hôtel Zoë 東京 🏨"))
    await stand_with_tenant(agency, addresses=[address], authentication={"type": "None"})
    url = await agency.url()
    assert url.isascii()
    assert (await agency.post(url, agencies.visit(1))).acknowledges
    await agency.until_received(1)
    assert (await agency.post(url.replace("%C3%A9", "e"), agencies.visit(2))).status == 404
    shown = json.loads(await agency.kubectl("get", "tenants.usher.dev", "acme", "--output=json"))
    assert shown["spec"]["displayName"] == "Hôtel Zoë 東京 🏨"


async def stand_with_tenant(agency: agencies.Agency, **listener: Any) -> None:
    await agency.apply(agency.destination(), agency.listener(**listener))
    await agency.wait_ready(LISTENER, DESTINATION)


@pytest.mark.parametrize("hostname", ["hôtel.customers.example", "HOTEL.customers.example", "*.customers.example"])
async def test_invalid_hostname_is_rejected_with_its_field(agency: agencies.Agency, hostname: str) -> None:
    with pytest.raises(kubectl.KubectlError, match=r"spec\.addresses\[0\]\.hostname"):
        await agency.apply(agency.listener(addresses=[{"name": "shop", "hostname": hostname}]))


async def test_names_of_maximum_length_work(agency: agencies.Agency) -> None:
    longest = "n" * 52
    routes = [{"name": longest, "destinationRef": {"name": longest}}]
    await agency.apply(
        agency.tenant(longest),
        agency.destination(longest),
        agency.listener(longest, tenantRef={"name": longest}, routes=routes),
    )
    await agency.wait_ready(f"listeners.usher.dev/{longest}", f"destinations.usher.dev/{longest}")
    assert (await agency.post(await agency.url(longest), agencies.visit(1))).acknowledges
    await agency.until_received(1, destination=longest)
    with pytest.raises(kubectl.KubectlError, match="52"):
        await agency.apply(agency.tenant(f"{longest}n"))


async def test_recreated_tenant_gets_its_listener_at_the_same_url(agency: agencies.Agency) -> None:
    await stand(agency)
    url = await agency.url()
    await agency.kubectl("delete", "tenants.usher.dev/acme")
    await agency.wait("Listener", "lobby", "ResolvedRefs", "False", "TenantNotFound")
    await agency.until_answers(url, 404)
    await agency.apply(agency.tenant())
    await agency.wait_ready(LISTENER)
    assert await agency.url() == url
    await waiting.until(lambda: tombstones(agency), lambda names: not names)
    assert (await agency.post(url, b"{}")).acknowledges


async def tombstones(agency: agencies.Agency) -> list[str]:
    """The agency's documents that have a tombstone."""
    secrets = await agency.platform.install.documents()
    mine = {name: secret for name, secret in secrets.items() if f" {agency.namespace}/" in name}
    return [name for name, secret in mine.items() if b'"tombstone"' in installs.decoded(secret)["config.json"]]


async def test_foreign_secret_with_the_name_of_the_url_secret_stays(agency: agencies.Agency) -> None:
    await agency.apply(agency.secret("lobby-url", {}, url="password-of-a-database"))
    await agency.apply(agency.tenant(), agency.destination(), agency.listener())
    await agency.wait("Listener", "lobby", "Accepted", "False", "SecretNameTaken")
    await agency.kubectl("delete", "listeners.usher.dev", "lobby")
    await agency.apply(agency.listener())
    refused = await agency.wait("Listener", "lobby", "Accepted", "False", "SecretNameTaken")
    assert "paste" not in str(refused["status"])
    kept = await agency.platform.server.get(api.Resource("Secret", "lobby-url", agency.namespace))
    assert installs.decoded(kept) == {"url": b"password-of-a-database"}
    await agency.kubectl("delete", "secret", "lobby-url")
    await agency.wait_ready("listeners.usher.dev/lobby")
    assert (await agency.url()).startswith("https://")
