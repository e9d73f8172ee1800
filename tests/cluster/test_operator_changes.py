"""The operator handles edited children, mass removals, lost events and lost leaders."""

import base64
import re
from collections.abc import Callable
from typing import Any

import pytest

from support import api, clusters, installs, waiting
from support.published_documents import content, declare, live, versions, wait_live


async def test_replayed_document_and_tombstone_are_replaced(install: installs.Install, namespace: str) -> None:
    await install.start_operator()
    await declare(install, namespace, "lobby", "bar")
    owner, lobby = f"Listener {namespace}/lobby", api.Resource("Listener", "lobby", namespace)
    older = (await install.documents())[owner]["data"]
    await install.server.delete(lobby)
    secrets = await waiting.until(install.documents, lambda documents: "tombstone" in content(documents[owner]))
    tombstone = secrets[owner]["data"]
    again = installs.listener(install, namespace, "lobby", silence={"afterSeconds": 60})
    await install.server.apply(again)
    present = await waiting.until(install.documents, lambda documents: "document" in content(documents[owner]))
    for replayed in (older, tombstone):
        secret = api.of({"kind": "Secret", **present[owner]})
        await install.server.merge(secret, {"data": replayed})
        await install.server.wait(secret, lambda current: current["data"] == present[owner]["data"])


async def test_deleted_config_secret_and_removed_label_are_restored(install: installs.Install, namespace: str) -> None:
    await install.start_operator()
    await declare(install, namespace, "lobby")
    documents = await install.documents()
    await install.server.delete(api.of({"kind": "Secret", **documents[f"Listener {namespace}/lobby"]}))
    labels = {"metadata": {"labels": {"usher.dev/config": None, "usher.dev/watch": None, "usher.dev/install": None}}}
    await install.server.merge(api.of({"kind": "Secret", **documents[f"Destination {namespace}/crm"]}), labels)
    await wait_live(install, namespace, "lobby")


@pytest.mark.parametrize("fields", [{"immutable": True}, {"type": "Opaque", "data": {"config.json": "e30="}}])
async def test_unwritable_config_secret_is_recreated(
    install: installs.Install, namespace: str, fields: dict[str, Any]
) -> None:
    """No write can change the type of a Secret, or an immutable Secret."""
    operator = await install.start_operator()
    await declare(install, namespace, "lobby")
    secret = (await install.documents())[f"Listener {namespace}/lobby"]
    await operator.stop()
    await install.server.delete(api.of({"kind": "Secret", **secret}))
    metadata = {name: secret["metadata"][name] for name in ("name", "namespace", "labels", "annotations")}
    kept = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": secret["type"], "data": secret["data"]}
    await install.server.create({**kept, **fields})
    await install.start_operator()
    await install.server.apply(installs.listener(install, namespace, "lobby", silence={"afterSeconds": 600}))
    owner = f"Listener {namespace}/lobby"
    await waiting.until(
        install.documents, lambda documents: owner in documents and content(documents[owner]).get("generation") == 2
    )


async def test_mass_removal_waits_for_a_confirmation_of_its_namespace(
    install: installs.Install, namespace: str, make_namespace: installs.Namespaces
) -> None:
    other = await make_namespace("other")
    await install.start_operator()
    names = [f"room-{number}" for number in range(6)]
    await declare(install, namespace, *names, "lobby")
    await declare(install, other, "bar", "lobby")
    everything = await live(install, namespace)
    for name in names:
        await install.server.delete(api.Resource("Listener", name, namespace))
    digest = await halted_digest(install, set())
    await wait_event(install, namespace, "RemovalsHalted", f"usher.dev/confirm-removals={digest}")
    await install.server.delete(api.Resource("Listener", "bar", other))
    await wait_live(install, other, "lobby")
    assert await live(install, namespace) == everything
    await install.server.delete(api.Resource("Listener", "lobby", namespace))
    assert await halted_digest(install, {digest}) != digest
    klass = api.of(install.klass())
    await install.server.merge(klass, {"metadata": {"annotations": {"usher.dev/confirm-removals": digest}}})
    await wait_live(install, namespace)
    await install.server.wait(klass, lambda current: api.condition(current, "Ready").get("reason") != "RemovalsHalted")


async def wait_event(install: installs.Install, namespace: str, reason: str, text: str) -> None:
    """Wait until a namespace has an Event with a reason and a text."""

    async def notes() -> list[str]:
        events = await install.server.list(api.Resource("Event", "", namespace))
        return [event["note"] for event in events if event["reason"] == reason]

    await waiting.until(notes, lambda posted: any(text in note for note in posted))


async def halted_digest(install: installs.Install, earlier: set[str]) -> str:
    """Wait until the class's message has another hash than the known ones, and return it."""

    def digests(listener_class: Any) -> set[str]:
        ready = api.condition(listener_class, "Ready")
        is_halted = ready.get("reason") == "RemovalsHalted"
        return set(re.findall(r'"([0-9a-f]{12})"', ready["message"])) - earlier if is_halted else set()

    (digest,) = digests(await install.server.wait(api.of(install.klass()), digests))
    return digest


async def test_leader_that_lost_its_lease_exits(install: installs.Install) -> None:
    leader = await install.start_operator()
    lease = api.Resource("Lease", "usher-operator", install.system)
    await install.server.merge(lease, {"spec": {"holderIdentity": "somebody else"}})
    await waiting.until(leader_code(leader), lambda code: code == 1)


def leader_code(process: installs.Process) -> Any:
    async def look() -> int | None:
        return process.process.returncode

    return look


async def test_deleted_crds_remove_no_document(
    install: installs.Install, namespace: str, definitions: clusters.Cluster
) -> None:
    operator = await install.start_operator()
    await declare(install, namespace, "lobby")
    everything = await live(install, namespace)
    try:
        await definitions.kubectl("delete", "crd", "listeners.usher.dev")
        await waiting.until(
            lambda: operator.get("/readyz"), lambda answer: "listeners.usher.dev was deleted" in answer[1]
        )
    finally:
        definitions.define(clusters.own_definitions())
    await waiting.until(lambda: operator.get("/readyz"), lambda answer: answer[0] == 200)
    klass = api.of(install.klass())
    await install.server.wait(klass, lambda current: api.condition(current, "Ready").get("reason") == "RemovalsHalted")
    assert await live(install, namespace) == everything
    await declare(install, namespace, "lobby")
    await install.server.wait(klass, lambda current: api.condition(current, "Ready").get("reason") != "RemovalsHalted")


async def test_restored_install_key_takes_effect_without_a_restart(install: installs.Install, namespace: str) -> None:
    first = await install.start_operator()
    await declare(install, namespace, "lobby")
    secret = api.Resource("Secret", "usher-install-key", install.system)
    right = (await install.server.get(secret))["data"]
    await first.stop()
    wrong = base64.b64encode(base64.b64encode(bytes(32))).decode()
    await install.server.merge(secret, {"data": {"install.key": wrong}})
    await install.start_operator()
    second = install.klass(hostname="second.example.com")
    second["metadata"] = {"name": f"{second['metadata']['name']}-second"}
    await install.server.apply(second)
    try:
        refused = await install.server.wait(api.of(second), accepted("InstallKeyChanged"))
        assert "installKeyFingerprint" not in refused["status"]
        previous_versions = await versions(install, namespace)
        await install.server.merge(secret, {"data": right})
        stamped = await install.server.wait(api.of(second), accepted("Accepted"))
        first_class = await install.server.wait(api.of(install.klass()), accepted("Accepted"))
        assert stamped["status"]["installKeyFingerprint"] == first_class["status"]["installKeyFingerprint"]
        await declare(install, namespace, "lobby", "bar")
        assert previous_versions.items() <= (await versions(install, namespace)).items()
    finally:
        await install.server.delete(api.of(second))


def accepted(reason: str) -> Callable[[Any], bool]:
    """Return a check whether Accepted has a reason."""
    return lambda resource: api.condition(resource, "Accepted").get("reason") == reason


async def test_deleted_install_key_is_not_recreated_while_documents_exist(
    install: installs.Install, namespace: str
) -> None:
    first = await install.start_operator()
    await declare(install, namespace, "lobby")
    await first.stop()
    listeners_before = await live(install, namespace)
    secret, klass = api.Resource("Secret", "usher-install-key", install.system), api.of(install.klass())
    await install.server.delete(secret)
    await install.server.delete(klass)
    await install.server.apply(install.klass())  # without the status that has the fingerprint
    second = await install.start_operator(wait=False)
    await waiting.until(lambda: second.get("/readyz"), lambda answer: "usher-install-key was deleted" in answer[1])
    assert await install.server.get(secret) is None
    assert await live(install, namespace) == listeners_before


async def test_deleted_resources_with_a_foreign_finalizer_are_taken_out_of_service(
    install: installs.Install, namespace: str
) -> None:
    operator = await install.start_operator()
    await declare(install, namespace, "lobby", "bar")
    kept = api.Resource("Listener", "lobby", namespace), api.Resource("Destination", "crm", namespace)
    for resource in kept:
        await install.server.merge(resource, {"metadata": {"finalizers": ["example.com/hold"]}})
        await install.server.delete(resource)
    await waiting.until(lambda: live(install, namespace), lambda names: names == {"bar"})
    assert all(["deletionTimestamp" in (await install.server.get(resource))["metadata"] for resource in kept])
    for resource in kept:
        await install.server.merge(resource, {"metadata": {"finalizers": []}})
    await install.server.apply(installs.destination(namespace))
    await install.server.apply(installs.listener(install, namespace, "lobby"))
    await wait_live(install, namespace, "lobby", "bar")
    assert operator.taken_for_gone(namespace) == []
