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
