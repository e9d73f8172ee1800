"""The operator as a process with the shipped RBAC rules: its writes, its Events and its log."""

import asyncio
import json
import re
from typing import Any

from support import agencies, api, clusters, installs, waiting
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
    # other tests in the same cluster may give it work at any moment
    await waiting.until(lambda: operator.metric("usher_operator_workqueue_depth"), lambda depth: not depth)

    assert await operator.stop() == 0
    position = install.cluster.audit.position()
    successor = await install.start_operator(changes=patient)
    await waiting.until(lambda: successor.metric("usher_operator_reconcile_total"), lambda reconciled: reconciled >= 4)
    await waiting.until(lambda: successor.metric("usher_operator_workqueue_depth"), lambda depth: not depth)
    assert await written_in(1) <= {"leases"}
    assert written(position) == {"leases"}
    assert await versions(install, namespace) == settled_versions


@agencies.SHARED
async def test_event_warns_once_about_a_resource_that_never_worked(agency: agencies.Agency) -> None:
    await agency.apply(agency.tenant(), agency.listener())
    warned = ("Listener", "lobby", "Warning", "DestinationNotFound")
    tenant = ("Tenant", "acme", "Warning", "ListenersNotReady")

    async def events() -> list[tuple[str, str, str, str]]:
        """(kind, name, type, reason) of every Event of the namespace."""
        posted = await agency.platform.server.list(api.Resource("Event", "", agency.namespace))
        return [
            (event["regarding"]["kind"], event["regarding"]["name"], event["type"], event["reason"]) for event in posted
        ]

    posted = await waiting.until(events, lambda posted_so_far: {warned, tenant} <= set(posted_so_far))
    assert posted.count(warned) == 1
    described = await agency.kubectl("describe", "listeners.usher.dev", "lobby")
    assert re.search(r"Warning\s+DestinationNotFound .*Ready is False.*`crm` must exist", described)


def lines(operator: installs.Process, event: str) -> list[dict[str, Any]]:
    """The lines of an operator's log with one event name."""
    entries = [json.loads(line) for line in operator.log.read_text("utf-8").splitlines() if line.startswith("{")]
    return [line for line in entries if line["event"] == event]


@agencies.SHARED
async def test_log_names_published_edited_removed_and_ready_resources(agency: agencies.Agency) -> None:
    operator, server, name = agency.platform.operator, agency.platform.server, f"{agency.namespace}/lobby"

    async def changes() -> list[str]:
        return [line["change"] for line in lines(operator, "document_published") if line["document"] == name]

    await agency.apply(agency.tenant(), agency.destination(), agency.listener(), agency.listener("bar"))
    await waiting.until(changes, lambda changes: changes == ["new"])
    await agency.wait_ready("listeners.usher.dev/lobby")
    await agency.apply(agency.listener(silence={"afterSeconds": 60}))
    await waiting.until(changes, lambda changes: changes == ["new", "edited"])

    async def reasons() -> list[str]:
        return [line["reason"] for line in lines(operator, "ready_changed") if line["resource"] == name]

    await server.delete(api.Resource("Destination", "crm", agency.namespace))
    await waiting.until(reasons, lambda reasons: reasons[-1:] == ["DestinationNotFound"])
    await server.delete(api.Resource("Listener", "lobby", agency.namespace))

    async def removed() -> set[str]:
        return {line["document"] for line in lines(operator, "document_removed")}

    await waiting.until(removed, lambda names: {f"{agency.namespace}/crm", name} <= names)
