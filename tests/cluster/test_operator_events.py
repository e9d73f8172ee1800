"""The operator's Events about resources, and the lines of its log."""

import json
import re
from typing import Any

from support import api, installs, waiting


async def events(install: installs.Install, namespace: str) -> list[tuple[str, str, str, str]]:
    """(kind, name, type, reason) of every Event of a namespace."""
    posted = await install.server.list(api.Resource("Event", "", namespace))
    return [
        (event["regarding"]["kind"], event["regarding"]["name"], event["type"], event["reason"]) for event in posted
    ]


def lines(operator: installs.Process, event: str) -> list[dict[str, Any]]:
    """The lines of an operator's log with one event name."""
    entries = [json.loads(line) for line in operator.log.read_text("utf-8").splitlines() if line.startswith("{")]
    return [line for line in entries if line["event"] == event]


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


async def until_warned(install: installs.Install, namespace: str, reason: str) -> None:
    """Wait for a Warning about the Listener `lobby`."""
    warned = ("Listener", "lobby", "Warning", reason)
    await waiting.until(lambda: events(install, namespace), lambda posted: warned in posted)


async def test_event_names_each_problem_of_a_new_resource_at_once(install: installs.Install, namespace: str) -> None:
    await install.server.apply(install.klass())
    await install.start_operator()
    await install.server.apply(installs.listener(install, namespace))
    for reason, missing in (
        ("TenantNotFound", installs.tenant(namespace)),
        ("DestinationNotFound", installs.destination(namespace)),
    ):
        await until_warned(install, namespace, reason)
        await install.server.apply(missing)


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
