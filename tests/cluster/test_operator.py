"""The operator as a process with the shipped RBAC rules: its writes, its Events and its log."""

import asyncio
import json
import re
from typing import Any

from support import api, clusters, installs, waiting
from support.published_documents import declare, versions


async def test_idle_operator_and_its_successor_write_only_the_lease(install: installs.Install, namespace: str) -> None:
    clusters.require_audit_log()
    # without a gateway, Programmed turns False after this time, which on a slow machine must not be now
    patient = {"grace_seconds": 600.0}
    operator = await install.start_operator(changes=patient)
    await declare(install, namespace, "lobby")

    def written(position: int) -> set[str]:
        asked = install.cluster.audit.since(position, install.operator.user)
        here = {"", namespace, install.system}  # other tests may be deleting their namespaces
        resources = {request.resource for request in asked if request.writes and request.namespace in here}
        return resources - {"selfsubjectaccessreviews"}  # a review only asks for the rights of the operator

    async def written_in(seconds: float) -> set[str]:
        position = install.cluster.audit.position()
        await asyncio.sleep(seconds)
        return written(position)

    await waiting.until(lambda: written_in(1), lambda resources: resources <= {"leases"})
    settled_versions = await versions(install, namespace)
    assert await written_in(5) == {"leases"}
    assert await operator.metric("usher_operator_workqueue_depth") == 0

    assert await operator.stop() == 0
    position = install.cluster.audit.position()
    successor = await install.start_operator(changes=patient)
    await waiting.until(lambda: successor.metric("usher_operator_reconcile_total"), lambda reconciled: reconciled >= 4)
    await waiting.until(lambda: successor.metric("usher_operator_workqueue_depth"), lambda depth: not depth)
    assert await written_in(1) <= {"leases"}
    assert written(position) == {"leases"}
    assert await versions(install, namespace) == settled_versions


async def events(install: installs.Install, namespace: str) -> list[tuple[str, str, str, str]]:
    """(kind, name, type, reason) of every Event of a namespace."""
    posted = await install.server.list(api.Resource("Event", "", namespace))
    return [
        (event["regarding"]["kind"], event["regarding"]["name"], event["type"], event["reason"]) for event in posted
    ]


async def test_event_warns_once_about_a_resource_that_never_worked(install: installs.Install, namespace: str) -> None:
    operator = await install.start_operator()
    await install.server.apply(install.klass())
    await install.server.apply(installs.tenant(namespace))
    await install.server.apply(installs.listener(install, namespace))
    warned = ("Listener", "lobby", "Warning", "DestinationNotFound")
    posted = await waiting.until(lambda: events(install, namespace), lambda posted_so_far: warned in posted_so_far)
    assert posted.count(warned) == 1
    described = await install.cluster.kubectl("describe", "listeners.usher.dev", "lobby", f"--namespace={namespace}")
    assert re.search(r"Warning\s+DestinationNotFound .*`crm` must exist", described)
    tenant = ("Tenant", "acme", "Warning", "ListenersNotReady")
    earlier = await waiting.until(lambda: events(install, namespace), lambda posted_so_far: tenant in posted_so_far)
    await operator.stop()
    second = await install.start_operator()
    await install.server.apply(installs.tenant(namespace, "other", timeZone="Nowhere/Land"))
    later = ("Tenant", "other", "Warning", "UnsupportedValue")
    all_events = await waiting.until(lambda: events(install, namespace), lambda posted_so_far: later in posted_so_far)
    assert sorted(all_events) == sorted([*earlier, later])
    assert second.process.returncode is None


def lines(operator: installs.Process, event: str) -> list[dict[str, Any]]:
    """The lines of an operator's log with one event name."""
    entries = [json.loads(line) for line in operator.log.read_text("utf-8").splitlines() if line.startswith("{")]
    return [line for line in entries if line["event"] == event]


async def test_log_names_published_edited_removed_and_ready_resources(
    install: installs.Install, namespace: str
) -> None:
    operator = await install.start_operator()
    await install.server.apply(install.klass())
    listener, name = installs.listener(install, namespace), f"{namespace}/lobby"
    other = installs.listener(install, namespace, "bar")
    for document in (installs.tenant(namespace), installs.destination(namespace), listener, other):
        await install.server.apply(document)

    async def documents(event: str) -> list[str]:
        return [line["change"] for line in lines(operator, event) if line["document"] == name]

    await waiting.until(lambda: documents("document_published"), lambda changes: changes == ["new"])
    await install.server.apply(installs.listener(install, namespace, silence={"afterSeconds": 60}))
    await waiting.until(lambda: documents("document_published"), lambda changes: changes == ["new", "edited"])

    async def changed() -> list[str]:
        return [line["reason"] for line in lines(operator, "ready_changed") if line["resource"] == name]

    resource = api.Resource("Listener", "lobby", namespace)
    await install.server.wait(resource, lambda listener: api.condition(listener, "Ready")["reason"] == "Pending")
    earlier_reasons = await changed()
    await install.server.delete(api.Resource("Destination", "crm", namespace))
    await waiting.until(changed, lambda reasons: reasons == [*earlier_reasons, "DestinationNotFound"])
    await install.server.delete(api.Resource("Listener", "lobby", namespace))

    async def removed() -> list[str]:
        removed = [line["document"] for line in lines(operator, "document_removed")]
        return [
            document for document in removed if document.startswith(f"{namespace}/")
        ]  # other tests delete their namespaces too

    await waiting.until(removed, lambda names: sorted(names) == [f"{namespace}/crm", name])
