"""The operator's Events about resources, and the lines of its log."""

import json
import re
from typing import Any

from support import api, installs, waiting


async def events(install: installs.Install, namespace: str) -> list[tuple[str, str, str, str]]:
    """(kind, name, type, reason) of every Event of a namespace."""
    found = await install.server.list(api.Resource("Event", "", namespace))
    return [(one["regarding"]["kind"], one["regarding"]["name"], one["type"], one["reason"]) for one in found]


def lines(operator: installs.Process, event: str) -> list[dict[str, Any]]:
    """The lines of an operator's log with one event name."""
    found = [json.loads(line) for line in operator.log.read_text("utf-8").splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


async def test_event_warns_once_about_a_resource_that_never_worked(install: installs.Install, namespace: str) -> None:
    operator = await install.start_operator()
    await install.server.apply(install.klass())
    await install.server.apply(installs.tenant(namespace))
    await install.server.apply(installs.listener(install, namespace))
    warned = ("Listener", "lobby", "Warning", "DestinationNotFound")
    posted = await waiting.until(lambda: events(install, namespace), lambda seen: warned in seen)
    assert posted.count(warned) == 1
    described = await install.cluster.kubectl("describe", "listeners.usher.dev", "lobby", f"--namespace={namespace}")
    assert re.search(r"Warning\s+DestinationNotFound .*`crm` must exist", described)
    tenant = ("Tenant", "acme", "Warning", "ListenersNotReady")
    before = await waiting.until(lambda: events(install, namespace), lambda seen: tenant in seen)
    await operator.stop()
    second = await install.start_operator()
    await install.server.apply(installs.tenant(namespace, "other", timeZone="Nowhere/Land"))
    later = ("Tenant", "other", "Warning", "UnsupportedValue")
    after = await waiting.until(lambda: events(install, namespace), lambda seen: later in seen)
    assert sorted(after) == sorted([*before, later])
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

    await waiting.until(lambda: documents("document_published"), lambda seen: seen == ["new"])
    await install.server.apply(installs.listener(install, namespace, silence={"afterSeconds": 60}))
    await waiting.until(lambda: documents("document_published"), lambda seen: seen == ["new", "edited"])

    async def changed() -> list[str]:
        return [line["reason"] for line in lines(operator, "ready_changed") if line["resource"] == name]

    resource = api.Resource("Listener", "lobby", namespace)
    await install.server.wait(resource, lambda found: api.condition(found, "Ready")["reason"] == "Pending")
    before = await changed()
    await install.server.delete(api.Resource("Destination", "crm", namespace))
    await waiting.until(changed, lambda seen: seen == [*before, "DestinationNotFound"])
    await install.server.delete(api.Resource("Listener", "lobby", namespace))

    async def removed() -> list[str]:
        removed = [line["document"] for line in lines(operator, "document_removed")]
        return [
            document for document in removed if document.startswith(f"{namespace}/")
        ]  # other tests delete their namespaces too

    await waiting.until(removed, lambda seen: sorted(seen) == [f"{namespace}/crm", name])
