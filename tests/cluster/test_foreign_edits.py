"""Edits of an agency's resources and children by others, and values at their limits."""

import asyncio
import re
from typing import Any

import pytest

from local_cluster import kubectl
from support import agencies, api, gateways, installs, waiting
from support.published_documents import content, live

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


async def assert_restored(server: api.Api, child: dict[str, Any], data: dict[str, str]) -> None:
    """Write other data into a Secret of the operator, and wait until it has its own again."""
    await server.apply({**api_version_of(child), "data": data})
    await server.wait(api.of(child), lambda secret: secret["data"] == child["data"])


def api_version_of(secret: dict[str, Any]) -> dict[str, Any]:
    metadata = {name: secret["metadata"][name] for name in ("name", "namespace")}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}


async def test_edited_children_are_restored_also_beside_a_large_secret(agency: agencies.Agency) -> None:
    server = agency.platform.server
    await stand(agency)
    labels = {"usher.dev/managed": "true"}
    large = {"metadata": {"name": "large", "namespace": agency.namespace, "labels": labels}}
    await server.create({"apiVersion": "v1", "kind": "Secret", **large, "data": {"x": "QUFB" * 170_000}})
    url = await server.get(api.Resource("Secret", "lobby-url", agency.namespace))
    await assert_restored(server, {**url, "kind": "Secret"}, {"url": "aHR0cHM6Ly9ldmlsLmV4YW1wbGU="})
    await assert_restored(server, await config_secret(agency, "Listener/lobby"), {"config.json": "e30="})
    assert (await agency.post(await agency.url(), b"{}")).acknowledges
    assert agency.platform.operator.process.returncode is None


async def test_replayed_document_and_tombstone_are_replaced(agency: agencies.Agency) -> None:
    server, install = agency.platform.server, agency.platform.install
    await stand(agency)
    owner = f"Listener {agency.namespace}/lobby"
    older = await config_secret(agency, "Listener/lobby")
    await server.delete(api.Resource("Listener", "lobby", agency.namespace))
    secrets = await waiting.until(install.documents, lambda documents: "tombstone" in content(documents[owner]))
    tombstone = secrets[owner]
    await server.apply(agency.listener(silence={"afterSeconds": 60}))
    present = await waiting.until(install.documents, lambda documents: "document" in content(documents[owner]))
    for replayed in (older, tombstone):
        await assert_restored(server, {**present[owner], "kind": "Secret"}, replayed["data"])


async def test_deleted_unlabelled_and_immutable_config_secrets_are_restored(agency: agencies.Agency) -> None:
    """No write can change an immutable Secret, so the operator creates it again."""
    server, install = agency.platform.server, agency.platform.install
    await stand(agency)
    await server.delete(api.of(await config_secret(agency, "Listener/lobby")))
    labels = {"metadata": {"labels": {"usher.dev/config": None, "usher.dev/watch": None, "usher.dev/install": None}}}
    await server.merge(api.of(await config_secret(agency, "Destination/crm")), labels)
    await waiting.until(lambda: live(install, agency.namespace), lambda names: names == {"crm", "lobby"})
    await server.merge(api.of(await config_secret(agency, "Listener/lobby")), {"immutable": True})
    await server.apply(agency.listener(silence={"afterSeconds": 600}))
    owner = f"Listener {agency.namespace}/lobby"
    await waiting.until(
        install.documents, lambda documents: owner in documents and content(documents[owner]).get("generation") == 2
    )


async def test_deleted_resources_with_a_foreign_finalizer_are_taken_out_of_service(agency: agencies.Agency) -> None:
    server, install = agency.platform.server, agency.platform.install
    await agency.apply(agency.tenant(), agency.destination(), agency.listener(), agency.listener("bar"))
    await agency.wait_ready(LISTENER, "listeners.usher.dev/bar", DESTINATION)
    kept = [
        api.Resource(kind, name, agency.namespace) for kind, name in (("Listener", "lobby"), ("Destination", "crm"))
    ]
    for resource in kept:
        await server.merge(resource, {"metadata": {"finalizers": ["example.com/hold"]}})
        await server.delete(resource)
    await waiting.until(lambda: live(install, agency.namespace), lambda names: names == {"bar"})
    assert all(["deletionTimestamp" in (await server.get(resource))["metadata"] for resource in kept])
    for resource in kept:
        ending = await agency.wait(resource.kind, resource.name, "Ready", "False", "Deleted")
        assert {condition["type"] for condition in ending["status"]["conditions"]} == {"Accepted", "Ready"}
    for resource in kept:
        await server.merge(resource, {"metadata": {"finalizers": []}})
    await agency.apply(agency.destination(), agency.listener())
    await waiting.until(lambda: live(install, agency.namespace), lambda names: names == {"bar", "crm", "lobby"})
    assert agency.platform.operator.taken_for_gone(agency.namespace) == []


async def test_foreign_conditions_are_kept_and_edited_ones_restored(agency: agencies.Agency) -> None:
    server, lobby = agency.platform.server, api.Resource("Listener", "lobby", agency.namespace)
    await stand(agency)
    theirs = {
        "type": "example.com/Audited",
        "status": "True",
        "reason": "Fine",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2027-01-31T12:00:00Z",
    }
    document = {**installs.OURS, "kind": "Listener", "metadata": {"name": lobby.name, "namespace": lobby.namespace}}
    await server.apply({**document, "status": {"conditions": [theirs]}}, "status")
    await server.delete(api.Resource("Destination", "crm", agency.namespace))
    listener = await agency.wait("Listener", "lobby", "ResolvedRefs", "False", "DestinationNotFound")
    assert api.condition(listener, "example.com/Audited") == theirs

    acme = api.Resource("Tenant", "acme", agency.namespace)
    original = await server.get(acme)
    changed = [{**condition, "message": "edited"} for condition in original["status"]["conditions"]]
    await server.merge(acme, {"status": {"conditions": changed}}, "status")
    restored = await server.wait(acme, lambda tenant: api.condition(tenant, "Accepted")["message"] != "edited")
    assert api.condition(restored, "Accepted") == api.condition(original, "Accepted")


async def test_mass_removal_waits_for_a_confirmation_of_its_namespace(make_agency: agencies.Make) -> None:
    """Forged Secrets, which any tenant can write, do not count."""
    agency, other = await make_agency(), await make_agency()
    server, install = agency.platform.server, agency.platform.install
    rooms = [f"room-{number}" for number in range(6)]
    await agency.apply(agency.tenant(), agency.destination(), *map(agency.listener, [*rooms, "lobby"]))
    await other.apply(other.tenant(), other.destination(), other.listener(), other.listener("bar"))
    everything = {"crm", "lobby", *rooms}
    await waiting.until(lambda: live(install, agency.namespace), lambda names: names == everything)
    await waiting.until(lambda: live(install, other.namespace), lambda names: names == {"crm", "lobby", "bar"})
    for room in rooms:
        secret = await config_secret(agency, f"Listener/{room}")
        metadata = {key: secret["metadata"][key] for key in ("labels", "annotations")}
        forged = {"metadata": {**metadata, "name": room, "namespace": other.namespace}, "type": secret["type"]}
        await server.create({"apiVersion": "v1", "kind": "Secret", **forged, "data": {"config.json": "e30="}})
    await server.delete(api.Resource("Listener", "bar", other.namespace))
    await waiting.until(lambda: live(install, other.namespace), lambda names: names == {"crm", "lobby"})

    for room in rooms:
        await server.delete(api.Resource("Listener", room, agency.namespace))
    digest = await halted_digest(install, set())
    await wait_event(agency, "RemovalsHalted", f"usher.dev/confirm-removals={digest}")
    assert await live(install, agency.namespace) == everything
    await server.delete(api.Resource("Listener", "lobby", agency.namespace))
    newer_digest = await halted_digest(install, {digest})
    klass = api.of(install.klass())
    await server.merge(klass, {"metadata": {"annotations": {"usher.dev/confirm-removals": digest}}})
    await waiting.until(lambda: live(install, agency.namespace), lambda names: names == {"crm", "lobby"})
    last_digest = await halted_digest(install, {digest, newer_digest})
    await server.merge(klass, {"metadata": {"annotations": {"usher.dev/confirm-removals": last_digest}}})
    await waiting.until(lambda: live(install, agency.namespace), lambda names: names == {"crm"})
    await server.wait(klass, lambda current: api.condition(current, "Ready").get("reason") != "RemovalsHalted")


async def wait_event(agency: agencies.Agency, reason: str, text: str) -> None:
    """Wait until the agency's namespace has an Event with a reason and a text."""

    async def notes() -> list[str]:
        events = await agency.platform.server.list(api.Resource("Event", "", agency.namespace))
        return [event["note"] for event in events if event["reason"] == reason]

    await waiting.until(notes, lambda posted: any(text in note for note in posted))


async def halted_digest(install: installs.Install, earlier: set[str]) -> str:
    """Wait until the class's message has another hash than the earlier ones, and return it."""

    def digests(listener_class: Any) -> set[str]:
        ready = api.condition(listener_class, "Ready")
        is_halted = ready.get("reason") == "RemovalsHalted"
        return set(re.findall(r'"([0-9a-f]{12})"', ready["message"])) - earlier if is_halted else set()

    (digest,) = digests(await install.server.wait(api.of(install.klass()), digests))
    return digest


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
    assert (await agency.post(await agency.url(longest), gateways.visit(1))).acknowledges
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


async def change_url_secret(agency: agencies.Agency) -> None:
    """Change the Secret with the URL as soon as the operator has written it, until cancelled."""
    server = agency.platform.server
    secret = api.Resource("Secret", "lobby-url", agency.namespace)
    while True:
        await server.merge(secret, {"data": {"url": "aHR0cHM6Ly9ldmlsLmV4YW1wbGU="}})
        await server.wait(secret, lambda raw: raw and raw["data"]["url"] != "aHR0cHM6Ly9ldmlsLmV4YW1wbGU=")


async def test_conflict_about_a_child_is_named_until_it_ends(agency: agencies.Agency) -> None:
    await stand(agency)
    fight = asyncio.create_task(change_url_secret(agency))
    listener = await agency.wait("Listener", "lobby", "Programmed", "False", "WriteConflict")
    message = (api.condition(listener, "Programmed") or {})["message"]
    assert message.startswith("Secret `lobby-url` is changed by the field manager `")
    fight.cancel()
    await asyncio.wait({fight})
    await agency.wait("Listener", "lobby", "Programmed", "True", "Programmed")
