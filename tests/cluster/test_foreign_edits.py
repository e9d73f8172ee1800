"""Edits of an agency's resources and children by others, and values at their limits."""

import base64
from typing import Any

import pytest

from local_cluster import kubectl
from support import agencies, api, installs

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
