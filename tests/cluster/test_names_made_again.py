"""A name is deleted and made again: the new object's visits go nowhere by the configuration of the former one."""

from typing import Any

from support import agencies, api, gateways, installs, waiting

INVALID = "visit.emial"
OFFICE = "office"


def bearer(secret: str) -> dict[str, Any]:
    return {"type": "Bearer", "bearer": {"secretRef": {"name": secret, "key": "token"}}}


def destination(agency: agencies.Agency, tenant: str) -> dict[str, Any]:
    """Build the Destination `crm` of a tenant, which has a system and a Secret of its own."""
    http = {"url": f"{agency.platform.receiver.url}{agency.path_of(tenant)}", "authentication": bearer(tenant)}
    return agency.destination("crm", http=http, tenantRef={"name": tenant})


@agencies.SHARED
class TestServed:
    """What clients of the gateway and the receiving systems see."""

    async def test_destination_of_another_tenant_sends_nothing_to_the_former_system(
        self, agency: agencies.Agency
    ) -> None:
        own = {"tenantRef": {"name": "acme"}}
        await agency.apply(
            agency.tenant("acme"),
            agency.tenant("globex"),
            agency.secret("acme", token="token-of-acme-4711"),
            destination(agency, "acme"),
            agency.listener("lobby", **own),
            agency.listener(OFFICE, tenantRef={"name": "globex"}),
        )
        await agency.wait_ready("listeners.usher.dev/lobby")
        lobby, office = await agency.url("lobby"), await agency.url(OFFICE)
        assert (await agency.post(lobby, gateways.visit(1))).acknowledges
        (first,) = await agency.until_received(1, destination="acme")
        assert first.headers["authorization"] == "Bearer token-of-acme-4711"
        await agency.kubectl("delete", "destinations.usher.dev/crm", "secrets/acme")
        await agency.apply(destination(agency, "globex"))
        await agency.wait("Destination", "crm", "ResolvedRefs", "False", "SecretNotFound")
        assert (await agency.post(office, gateways.visit(2))).acknowledges
        await agency.until_any_held(1)
        await agency.apply(agency.secret("globex", token="token-of-globex-4712"))
        (second,) = await agency.until_received(2, destination="globex")
        assert second.headers["authorization"] == "Bearer token-of-globex-4712"
        assert (await agency.post(lobby, gateways.visit(3))).acknowledges
        await agency.until_held("DestinationNotFound", 1)
        await agency.until_received(1, destination="acme")
        await agency.until_received(2, destination="globex")

    async def test_listener_made_again_keeps_its_url_and_sends_by_its_new_route(self, agency: agencies.Agency) -> None:
        await agency.apply(
            agency.tenant(), agency.destination("crm"), agency.destination("new"), agency.listener("lobby")
        )
        await agency.wait_ready("listeners.usher.dev/lobby")
        url = await agency.url("lobby")
        route = {"name": "crm", "destinationRef": {"name": "new"}}
        await agency.kubectl("delete", "listeners.usher.dev/lobby")
        await agency.apply(agency.listener("lobby", routes=[{**route, "transform": INVALID}]))
        await agency.wait("Listener", "lobby", "Accepted", "False", "ExpressionInvalid")
        await agency.until_in_force("Listener", "lobby")
        assert (await agency.post(url, gateways.visit(1))).acknowledges
        await agency.until_held("ListenerSuspended", 1)
        assert await agency.url("lobby") == url
        await agency.apply(agency.listener("lobby", routes=[route]))
        await agency.until_received(1, destination="new")
        assert agency.received("crm") == []

    async def test_invalid_listener_of_another_tenant_has_no_former_url(self, agency: agencies.Agency) -> None:
        await agency.apply(agency.tenant(), agency.tenant("globex"), agency.destination(), agency.listener("lobby"))
        await agency.wait_ready("listeners.usher.dev/lobby")
        former = await agency.url("lobby")
        await agency.kubectl("delete", "listeners.usher.dev/lobby")
        route = {"name": "crm", "destinationRef": {"name": "crm"}, "transform": INVALID}
        await agency.apply(agency.listener("lobby", tenantRef={"name": "globex"}, routes=[route]))
        await agency.until_answers(former, 404)
        url = await agency.url("lobby", lambda url: url not in {"", former})
        assert (await agency.post(url, gateways.visit(1))).acknowledges
        await agency.until_held("TransformError", 1)
        rows = (await agency.platform.ask(f"/api/usage?namespace={agency.namespace}"))["rows"]
        assert {row["tenant"] for row in rows if row["namespace"] == agency.namespace and row["visits"]} == {"globex"}


async def published(install: installs.Install, namespace: str) -> dict[str, str]:
    """Return the owner of each document and tombstone of a namespace, with its kind of content."""
    documents = await install.documents()
    return {
        owner: "tombstone" if b'"tombstone"' in installs.decoded(secret)["config.json"] else "document"
        for owner, secret in documents.items()
        if f" {namespace}/" in owner
    }


async def test_namespace_that_may_not_publish_has_no_destination(
    install: installs.Install, make_namespace: installs.Namespaces
) -> None:
    """Namespaces that nobody admitted, and those that no class of the install permits."""
    server, labels = install.server, {"usher-test": "permitted"}
    await install.start_operator()
    await server.apply(install.klass(namespaces={"from": "Selector", "selector": {"matchLabels": labels}}))
    stranger, other = await make_namespace("stranger", labels, is_admitted=False), await make_namespace("other")
    permitted = await make_namespace("agency", labels)
    for namespace in (stranger, other, permitted):
        await server.apply(installs.destination(namespace))
    crm = api.Resource("Destination", "crm", stranger)
    await server.wait(crm, agencies.says("Accepted", "False", "NamespaceNotPermitted"))
    owner = f"Destination {permitted}/crm"
    await waiting.until(lambda: published(install, permitted), lambda contents: contents == {owner: "document"})
    assert [await published(install, namespace) for namespace in (stranger, other)] == [{}, {}]
    refused = {"metadata": {"labels": {"usher-test": "refused"}}}
    await server.merge(api.Resource("Namespace", permitted), refused)
    await waiting.until(lambda: published(install, permitted), lambda contents: contents == {owner: "tombstone"})
