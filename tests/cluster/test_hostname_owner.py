"""A tenant keeps its hostname against a waiting claim of another agency, whatever happens to its own resources."""

import asyncio
import functools
import json
import operator
from typing import Any

from support import agencies, api, gateways, installs, waiting

pytestmark = agencies.SHARED

PATH = "/hooks/purple.php"

# Pause between two posts to a listener: fewer than 100 posts a second, because a listener accepts 500.
PAUSE_SECONDS = 0.01


def claim(agency: agencies.Agency, hostname: str, listener: str = "lobby", **spec: Any) -> dict[str, Any]:
    """Build a listener that claims a hostname, without authentication."""
    address = {"name": "shop", "hostname": hostname, "path": PATH}
    return agency.listener(listener, addresses=[address], authentication={"type": "None"}, **spec)


async def assert_refused(rival: agencies.Agency, hostname: str, silence: int = 1000) -> None:
    """Edit the rival's claim, so that the operator decides about it again, and wait until it is refused."""
    await rival.apply(claim(rival, hostname, silence={"afterSeconds": silence}))
    await rival.wait("Listener", "lobby", "Accepted", "False", "HostnameConflict")
    assert f"Listener {rival.namespace}/lobby" not in await rival.platform.install.documents()


def publications(agency: agencies.Agency) -> list[str]:
    """Lines of the operator's log about documents of an agency's listener."""
    lines = agency.platform.operator.log.read_text("utf-8").splitlines()
    return [line for line in lines if f'"{agency.namespace}/lobby"' in line and "document_published" in line]


async def test_listeners_of_a_tenant_swap_hostnames_without_a_gap(make_agency: agencies.Make) -> None:
    agency = await make_agency()
    hostnames = [f"{name}.{agency.namespace}.customers.example" for name in ("left", "right")]
    refused: list[tuple[str, int]] = []

    def listeners(first: str, second: str) -> list[dict[str, Any]]:
        return [claim(agency, first, "first"), claim(agency, second, "second")]

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
            await asyncio.sleep(PAUSE_SECONDS)

    await agency.apply(agency.tenant(), agency.destination(), *listeners(*hostnames))
    for hostname in hostnames:
        await agency.until_answers(f"https://{hostname}{PATH}", 200)
    probes = [asyncio.create_task(probe(hostname)) for hostname in hostnames]
    for _ in range(4):
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
    assert publications(owner)
    await owner.wait_ready("listeners.usher.dev/lobby")
    assert (await owner.post(f"https://{hostname}{PATH}", gateways.visit(1))).acknowledges
    await owner.until_received(1)


async def test_hostname_survives_replacements_of_its_listener(make_agency: agencies.Make) -> None:
    owner, rivals, hostname = await contest_with_older_claims(make_agency)
    for _ in range(2):
        await recreate(owner, hostname)  # `kubectl replace --force`
        await owner.wait_ready("listeners.usher.dev/lobby")
    await assert_owner_keeps(owner, rivals, hostname)


async def test_holder_keeps_its_hostname_when_all_config_secrets_are_deleted(make_agency: agencies.Make) -> None:
    owner, rivals, hostname = await contest_with_older_claims(make_agency)
    await delete_config_secrets(owner.platform)
    await assert_owner_keeps(owner, rivals, hostname)
    await owner.platform.server.wait(owner.platform.install.mark, bool)  # which restarted gateways need


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


async def test_contested_hostname_waits_for_a_gateway_that_does_not_answer(make_agency: agencies.Make) -> None:
    owner, rivals, hostname = await contest_with_older_claims(make_agency)
    await owner.platform.operator.stop()
    await delete_config_secrets(owner.platform)
    created = [await recreate(rival, hostname) for rival in rivals]
    await waiting.until(lambda: recreate(owner, hostname), lambda youngest: youngest > max(created))
    with owner.platform.gateway.paused():
        await owner.platform.restart_operator()
        for agency in (owner, *rivals):
            waits = await agency.wait("Listener", "lobby", "Accepted", "Unknown", "Pending")
            assert owner.platform.gateway.url in api.condition(waits, "Accepted")["message"]
        documents = await owner.platform.install.documents()
        assert not documents.keys() & {f"Listener {agency.namespace}/lobby" for agency in (owner, *rivals)}
    await assert_owner_keeps(owner, rivals, hostname)


async def test_one_of_two_tenants_that_claim_a_hostname_together_gets_it(make_agency: agencies.Make) -> None:
    pair = [await make_agency() for _ in range(2)]
    hostnames = [f"shop-{number}.{pair[0].namespace}.customers.example" for number in range(12)]
    for agency in pair:
        await agency.apply(agency.tenant(), agency.destination())
    claims = [claim(agency, hostname, name_in(hostname)) for hostname in hostnames for agency in pair]
    await asyncio.gather(*map(pair[0].platform.server.apply, claims))
    for hostname in hostnames:
        states = [await judged(agency, name_in(hostname)) for agency in pair]
        assert sorted(states) == [("False", "HostnameConflict"), ("True", "Accepted")]
        owner = pair[states.index(("True", "Accepted"))]
        documents = await owner.platform.install.documents()
        contents = {name: installs.decoded(secret)["config.json"] for name, secret in documents.items()}
        serving = [name for name, content in contents.items() if hostname.encode() in content]
        assert [name for name in serving if name.startswith("Listener")] == [
            f"Listener {owner.namespace}/{name_in(hostname)}"
        ]


def name_in(hostname: str) -> str:
    """Return the first label of a hostname, which is the name of the listener that claims it."""
    return hostname.partition(".")[0]


async def judged(agency: agencies.Agency, listener: str) -> tuple[str, str]:
    """Wait until a claim is decided; return status and reason of its condition Accepted."""
    resource = api.Resource("Listener", listener, agency.namespace)
    decided = await agency.platform.server.wait(
        resource, lambda current: api.condition(current, "Ready").get("reason") in {"Ready", "HostnameConflict"}
    )
    accepted = api.condition(decided, "Accepted")
    return accepted["status"], accepted["reason"]
