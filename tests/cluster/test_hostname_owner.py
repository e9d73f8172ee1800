"""A tenant keeps its hostname against a waiting claim of another agency, whatever happens to its own resources."""

import asyncio
import functools
import json
import operator
from typing import Any

from support import agencies, api, installs, waiting

pytestmark = agencies.SHARED

PATH = "/hooks/purple.php"


def claim(agency: agencies.Agency, hostname: str, **spec: Any) -> dict[str, Any]:
    """Build a listener that claims a hostname, without authentication."""
    address = {"name": "shop", "hostname": hostname, "path": PATH}
    return agency.listener(addresses=[address], authentication={"type": "None"}, **spec)


async def contest(make_agency: agencies.Make, **spec: Any) -> tuple[agencies.Agency, agencies.Agency, str]:
    """Return an agency with a served hostname, one that waits for that hostname, and the hostname."""
    owner, rival = await make_agency(admitted="yes"), await make_agency(admitted="yes")
    hostname = f"{owner.namespace}.customers.example"
    for agency in (owner, rival):
        await agency.apply(agency.tenant(), agency.destination(), claim(agency, hostname, **spec))
        if agency is owner:
            await owner.wait_ready("listeners.usher.dev/lobby")
    await assert_refused(rival, hostname, **spec)
    return owner, rival, hostname


async def assert_refused(rival: agencies.Agency, hostname: str, silence: int = 1000, **spec: Any) -> None:
    """Edit the rival's claim, so that the operator decides about it again, and wait until it is refused."""
    await rival.apply(claim(rival, hostname, silence={"afterSeconds": silence}, **spec))
    await rival.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
    assert f"Listener {rival.namespace}/lobby" not in await rival.platform.install.documents()


def publications(agency: agencies.Agency) -> list[str]:
    """Lines of the operator's log about documents of an agency's listener."""
    lines = agency.platform.operator.log.read_text("utf-8").splitlines()
    return [line for line in lines if f'"{agency.namespace}/lobby"' in line and "document_published" in line]


async def test_hostname_survives_replacements_of_its_listener(make_agency: agencies.Make) -> None:
    owner, rival, hostname = await contest(make_agency)
    server, replaced = owner.platform.server, claim(owner, hostname)
    for _ in range(10):
        await server.delete(api.of(replaced))
        await server.create(replaced)  # `kubectl replace --force`
        await owner.wait_ready("listeners.usher.dev/lobby")
    await assert_refused(rival, hostname, silence=2000)
    assert publications(owner)
    assert publications(rival) == []
    assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
    await owner.until_received(1)


async def test_hostname_survives_a_namespace_that_loses_its_permission(make_agency: agencies.Make) -> None:
    agency = await make_agency()
    server, name = agency.platform.server, f"admitted-{agency.namespace}"
    selector = {"from": "Selector", "selector": {"matchLabels": {"admitted": "yes"}}}
    allowed = [{"hostname": "*.customers.example"}]
    klass = agency.platform.install.klass(hostname=f"{name}.example", namespaces=selector, allowedHostnames=allowed)
    klass["metadata"]["name"] = name
    await server.apply(klass)
    try:
        owner, rival, hostname = await contest(make_agency, listenerClassName=name)
        await server.merge(api.Resource("Namespace", owner.namespace), {"metadata": {"labels": {"admitted": None}}})
        await owner.wait("Listener", "lobby", "Accepted", "False", "ClassNotPermitted")
        await assert_refused(rival, hostname, silence=2000, listenerClassName=name)
        await server.merge(api.Resource("Namespace", owner.namespace), {"metadata": {"labels": {"admitted": "yes"}}})
        await owner.wait_ready("listeners.usher.dev/lobby")
        assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
        await owner.until_received(1)
    finally:
        await server.delete(api.of(klass))


async def test_listeners_of_a_tenant_swap_hostnames_without_a_gap(make_agency: agencies.Make) -> None:
    agency = await make_agency()
    hostnames = [f"{name}.{agency.namespace}.customers.example" for name in ("left", "right")]
    refused: list[tuple[str, int]] = []

    def listeners(first: str, second: str) -> list[dict[str, Any]]:
        claims = {"first": claim(agency, first), "second": claim(agency, second)}
        return [{**document, "metadata": {**document["metadata"], "name": name}} for name, document in claims.items()]

    async def served() -> list[list[tuple[str, bool]]]:
        """The hostname of each address in both documents, and whether the address is retired."""
        secrets = await agency.platform.install.documents()
        published = [secrets[f"Listener {agency.namespace}/{name}"] for name in ("first", "second")]
        contents = [json.loads(installs.decoded(secret)["config.json"])["document"] for secret in published]
        return [
            [(address["host"], address["retired_at"] > 0) for address in content["addresses"]] for content in contents
        ]

    async def probe(hostname: str) -> None:
        while True:
            answer = await agency.post(f"https://{hostname}{PATH}", b"{}")
            if answer.status != 200:
                refused.append((hostname, answer.status))
            await asyncio.sleep(0)

    await agency.apply(agency.tenant(), agency.destination(), *listeners(*hostnames))
    for hostname in hostnames:
        await agency.until_answers(f"https://{hostname}{PATH}", 200)
    probes = [asyncio.create_task(probe(hostname)) for hostname in hostnames]
    for _ in range(20):
        hostnames.reverse()
        await agency.apply(*listeners(*hostnames))
        swapped = [[(hostname, False)] for hostname in hostnames]
        await waiting.until(served, functools.partial(operator.eq, swapped))
    for task in probes:
        task.cancel()
    await asyncio.gather(*probes, return_exceptions=True)
    assert refused == []


async def contest_with_older_claims(make_agency: agencies.Make) -> tuple[agencies.Agency, list[agencies.Agency], str]:
    """Return an agency with a served hostname, two whose older claims are refused, and the hostname."""
    owner, *rivals = [await make_agency() for _ in range(3)]
    hostname = f"{owner.namespace}.customers.example"
    for rival in rivals:  # a claim without its Tenant gets nothing
        await rival.apply(rival.destination(), claim(rival, hostname))
        await rival.wait("Listener", "lobby", "ResolvedRefs", "False", "TenantNotFound")
    await owner.apply(owner.tenant(), owner.destination(), claim(owner, hostname))
    await owner.wait_ready("listeners.usher.dev/lobby")
    for rival in rivals:
        await rival.apply(rival.tenant())
        await rival.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
    return owner, rivals, hostname


async def delete_config_secrets(platform: agencies.Platform) -> None:
    """Delete every config Secret at once."""
    await platform.install.cluster.kubectl("delete", "secrets", "--all", f"--namespace={platform.install.config}")


async def recreate(agency: agencies.Agency, hostname: str) -> str:
    """Create a claim again, without its status; return the time of its creation in whole seconds."""
    await agency.platform.server.delete(api.of(claim(agency, hostname)))
    created = await agency.platform.server.create(claim(agency, hostname))
    return str(created["metadata"]["creationTimestamp"])


async def assert_owner_keeps(owner: agencies.Agency, rivals: list[agencies.Agency], hostname: str) -> None:
    """Wait until the owner's document is there again; no rival ever got one."""
    listener = f"Listener {owner.namespace}/lobby"
    await waiting.until(owner.platform.install.documents, lambda documents: listener in documents)
    for rival in rivals:
        await assert_refused(rival, hostname, silence=2000)
        assert publications(rival) == []
    await owner.wait_ready("listeners.usher.dev/lobby")
    assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
    await owner.until_received(1)


async def test_holder_keeps_its_hostname_when_all_config_secrets_are_deleted(make_agency: agencies.Make) -> None:
    owner, rivals, hostname = await contest_with_older_claims(make_agency)
    await delete_config_secrets(owner.platform)
    await assert_owner_keeps(owner, rivals, hostname)


async def test_holder_keeps_its_hostname_when_the_operator_restarts_without_config_secrets(
    make_agency: agencies.Make,
) -> None:
    owner, rivals, hostname = await contest_with_older_claims(make_agency)
    await owner.platform.operator.stop()
    await delete_config_secrets(owner.platform)
    await owner.platform.restart_operator()
    await assert_owner_keeps(owner, rivals, hostname)


async def test_gateway_says_who_holds_a_hostname_without_config_secrets_and_statuses(
    make_agency: agencies.Make,
) -> None:
    owner, rivals, hostname = await contest_with_older_claims(make_agency)
    await owner.platform.operator.stop()
    await delete_config_secrets(owner.platform)
    created = [await recreate(rival, hostname) for rival in rivals]
    await waiting.until(lambda: recreate(owner, hostname), lambda youngest: youngest > max(created))
    await owner.platform.restart_operator()
    await assert_owner_keeps(owner, rivals, hostname)


async def test_edit_and_revert_of_a_class_hostname_give_no_hostname_away(make_agency: agencies.Make) -> None:
    owner, rival = await make_agency(), await make_agency()
    server, name = owner.platform.server, f"edited-{owner.namespace}"
    hostname = f"{owner.namespace}.customers.example"
    klass = owner.platform.install.klass(
        hostname=f"{name}.example", allowedHostnames=[{"hostname": "*.customers.example"}]
    )
    klass["metadata"]["name"] = name
    await server.apply(klass)
    try:
        # the claim of the rival is the older one, but without its Tenant it gets nothing
        await rival.apply(rival.destination(), claim(rival, hostname, listenerClassName=name))
        await rival.wait("Listener", "lobby", "ResolvedRefs", "False", "TenantNotFound")
        await owner.apply(owner.tenant(), owner.destination(), claim(owner, hostname, listenerClassName=name))
        await owner.wait_ready("listeners.usher.dev/lobby")
        await rival.apply(rival.tenant(), rival.listener("shared", listenerClassName=name))
        await rival.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
        await rival.wait_ready("listeners.usher.dev/shared")

        await server.apply({**klass, "spec": {**klass["spec"], "hostname": hostname}})
        await owner.wait("Listener", "lobby", "Accepted", "False", "HostnameReserved")
        shared = await rival.url("shared", lambda url: hostname in url)
        assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
        await server.apply(klass)
        await owner.wait_ready("listeners.usher.dev/lobby")
        await rival.url("shared", lambda url: hostname not in url)
        await rival.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
        assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(2))).acknowledges
        await owner.until_received(1, 2)
        assert (await rival.post(shared, b"{}")).acknowledges, "a retired URL of the class is served for a while"
    finally:
        await server.delete(api.of(klass))


async def test_retired_url_is_served_and_reported(make_agency: agencies.Make) -> None:
    owner, rival, hostname = await contest(make_agency)
    await owner.apply(owner.listener(authentication={"type": "None"}))
    await owner.wait("Listener", "lobby", "AddressRetired", "True", "AddressRetired")
    await assert_refused(rival, hostname, silence=2000)
    assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
    await owner.until_received(1)
    await owner.wait("Listener", "lobby", "AddressRetired", "True", "RetiredAddressUsed")
    await owner.wait_ready("listeners.usher.dev/lobby")


async def test_agency_at_its_limit_waits_for_the_end_of_a_retired_hostname(make_agency: agencies.Make) -> None:
    agency = await make_agency()
    server, name = agency.platform.server, f"limited-{agency.namespace}"
    hostname = f"{agency.namespace}.customers.example"
    allowed, maximums = [{"hostname": "*.customers.example"}], {"hostnamesPerNamespace": 1}
    klass = agency.platform.install.klass(hostname=f"{name}.example", allowedHostnames=allowed, maximums=maximums)
    klass["metadata"]["name"] = name
    await server.apply(klass)
    try:
        served = claim(agency, hostname, listenerClassName=name)
        await agency.apply(agency.tenant(), agency.destination(), served)
        await agency.wait_ready("listeners.usher.dev/lobby")
        await agency.apply(claim(agency, f"other.{hostname}", listenerClassName=name))
        await agency.wait("Listener", "lobby", "Accepted", "False", "LimitExceeded")
        assert (await agency.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
        klass["spec"]["retiredAddressDays"] = 0
        await server.apply(klass)
        await agency.wait_ready("listeners.usher.dev/lobby")
        assert (await agency.post(f"https://other.{hostname}{PATH}", agencies.visit(2))).acknowledges
    finally:
        await server.delete(api.of(klass))


async def test_given_up_hostname_counts_until_its_certificate_is_deleted(make_agency: agencies.Make) -> None:
    agency = await make_agency()
    platform, name = agency.platform, f"given-up-{agency.namespace}"
    server, hostname = platform.server, f"{agency.namespace}.customers.example"
    klass = platform.install.klass(
        hostname=f"{name}.example",
        allowedHostnames=[{"hostname": "*.customers.example"}],
        maximums={"hostnamesPerNamespace": 1},
        tls={"mode": "PerHostname", "issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}},
    )
    klass["metadata"]["name"] = name
    await server.apply(klass)
    first = claim(agency, hostname, listenerClassName=name)

    async def certificate() -> tuple[str, bool]:
        """Uid of the Certificate, and whether it is marked as unused; empty if there is none."""
        certificates = [child["metadata"] for child in await platform.children("Certificate", hostname)]
        return (
            (certificates[0]["uid"], "usher.dev/unused-since" in certificates[0]["annotations"])
            if certificates
            else ("", False)
        )

    async def assert_other_refused(silence: int) -> None:
        other = claim(agency, f"other.{hostname}", listenerClassName=name, silence={"afterSeconds": silence})
        await agency.apply(other)
        refused = await agency.wait("Listener", "lobby", "Accepted", "False", "LimitExceeded")
        assert "7 days after they were given up" in api.condition(refused, "Accepted")["message"]
        assert await platform.children("Certificate", f"other.{hostname}") == []

    try:
        await agency.apply(agency.tenant(), agency.destination(), first)
        uid, _ = await waiting.until(certificate, lambda current: current[0])
        await agency.until_answers(f"https://{hostname}{PATH}", 200)  # otherwise the 404 below may be from before
        await server.delete(api.of(first))
        await agency.until_answers(f"https://{hostname}{PATH}", 404)
        await assert_other_refused(1000)
        await waiting.until(certificate, lambda current: current == (uid, True))
        await platform.restart_operator()
        await assert_other_refused(2000)

        await agency.apply(first)
        await waiting.until(certificate, lambda current: current == (uid, False))
        await server.delete(api.of(first))
        await waiting.until(certificate, lambda current: current == (uid, True))
        await assert_other_refused(3000)
        given_up = {"metadata": {"annotations": {"usher.dev/unused-since": "2026-01-01T00:00:00Z"}}}
        await server.merge(api.of((await platform.children("Certificate", hostname))[0]), given_up)
        await waiting.until(functools.partial(platform.children, "Certificate", f"other.{hostname}"))
        assert await platform.children("Certificate", hostname) == []
    finally:
        await server.delete(api.of(klass))


async def test_hostname_of_a_deleted_listener_is_free_once_its_tombstone_ends(make_agency: agencies.Make) -> None:
    owner, rival, hostname = await contest(make_agency)
    platform = owner.platform
    await platform.server.delete(api.of(claim(owner, hostname)))
    await owner.until_answers(f"https://{hostname}{PATH}", 404)
    await assert_refused(rival, hostname, silence=2000)
    await platform.restart_operator()
    await assert_refused(rival, hostname, silence=3000)
    await platform.restart_operator("--tombstone-seconds", "1")
    try:
        await rival.wait_ready("listeners.usher.dev/lobby")
        await waiting.until(
            platform.install.documents, lambda documents: f"Listener {owner.namespace}/lobby" not in documents
        )
        assert (await rival.post(f"https://{hostname}{PATH}", agencies.visit(2))).acknowledges
        await rival.until_received(2)
    finally:
        await platform.restart_operator()


async def test_replayed_document_takes_no_hostname_from_its_present_holder(make_agency: agencies.Make) -> None:
    owner, rival = await make_agency(), await make_agency()
    platform, hostname = owner.platform, f"{owner.namespace}.customers.example"
    document = f"Listener {rival.namespace}/lobby"
    for agency in (owner, rival):
        await agency.apply(agency.tenant(), agency.destination())
    await platform.restart_operator("--tombstone-seconds", "1")
    try:
        await rival.apply(claim(rival, hostname))
        await rival.wait_ready("listeners.usher.dev/lobby")
        older = (await platform.install.documents())[document]["data"]
        await platform.server.delete(api.of(claim(rival, hostname)))
        await waiting.until(platform.install.documents, lambda documents: document not in documents)
        await rival.apply(rival.listener())
        await rival.wait_ready("listeners.usher.dev/lobby")
        await owner.apply(claim(owner, hostname))
        await owner.wait_ready("listeners.usher.dev/lobby")
        await rival.apply(claim(rival, hostname))
        await rival.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
        present = (await platform.install.documents())[document]
        secret = api.of({**present, "kind": "Secret"})
        await platform.server.merge(secret, {"data": older})
        await platform.server.wait(secret, lambda current: not current or current["data"] != older)
        await owner.apply(claim(owner, hostname, silence={"afterSeconds": 1000}))
        await owner.wait_ready("listeners.usher.dev/lobby")
        assert (await owner.post(f"https://{hostname}{PATH}", agencies.visit(1))).acknowledges
        await owner.until_received(1)
    finally:
        await platform.restart_operator()


async def test_route_of_a_hostname_survives_the_loss_of_all_config_secrets(make_agency: agencies.Make) -> None:
    agency = await make_agency()
    platform, name = agency.platform, f"routed-{agency.namespace}"
    server, hostname = platform.server, f"{agency.namespace}.customers.example"
    exposure = {"type": "Ingress", "scope": "Hostname", "ingress": {"className": name}}
    allowed = [{"hostname": "*.customers.example"}]
    klass = platform.install.klass(hostname=f"{name}.example", allowedHostnames=allowed, exposure=exposure)
    klass["metadata"]["name"] = name
    await server.apply(klass)
    listener = f"Listener {agency.namespace}/lobby"
    try:
        await agency.apply(agency.tenant(), agency.destination(), claim(agency, hostname, listenerClassName=name))
        (route,) = await waiting.until(functools.partial(platform.children, "Ingress", hostname))
        previous_uid = (await platform.install.documents())[listener]["metadata"]["uid"]
        await delete_config_secrets(platform)
        await waiting.until(
            platform.install.documents,
            lambda documents: listener in documents and documents[listener]["metadata"]["uid"] != previous_uid,
        )
        (kept,) = await waiting.until(functools.partial(platform.children, "Ingress", hostname))
        assert kept["metadata"]["uid"] == route["metadata"]["uid"]
    finally:
        await server.delete(api.of(klass))
