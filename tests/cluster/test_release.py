"""An installed chart at work: its programs run with the accounts, arguments and roles that the chart gives them."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from local_cluster import ports
from support import (
    agencies,
    api,
    audit,
    charts,
    clusters,
    command_line,
    gateways,
    installs,
    leaks,
    release_processes,
    waiting,
)
from support.release_processes import ProcessRelease
from usher_gateway.simulator import receiver

pytestmark = agencies.SHARED

# Rights that a test withdraws while the operator runs. No other right may be missing.
WITHDRAWN = {("secrets", ""), ("secrets", "cafes")}

VALUES = {
    "agencies": ["hotels"],
    "gateway": {"allowDestinations": ["loopback"], "kubernetesTokens": {"enabled": True}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[agencies.Platform]:
    """The chart in an empty cluster, with its class and running programs."""
    clusters.require_local()
    folder = tmp_path_factory.mktemp("release")
    with clusters.cluster(folder) as cluster:
        async with api.connected(cluster.endpoint, cluster.token) as server:
            await release_processes.create_namespace(server, "hotels")
            async with (
                release_processes.released(cluster, server, folder, VALUES) as release,
                receiver.Receiver(receiver.ReceiverSettings(keep=True)) as machine,
            ):
                operator = await release.start_operator_pod()
                gateway = await release.start_gateway_pod()
                await server.apply(release.klass())
                yield agencies.Platform(release, operator, gateway, machine, installs.Namespaces(server))
                for account in (release.operator, release.gateway):
                    refused = {
                        (request.resource, request.namespace) for request in cluster.audit.refusals(account.user)
                    }
                    assert refused <= WITHDRAWN


@pytest_asyncio.fixture(loop_scope="package")
async def release(platform: agencies.Platform) -> ProcessRelease:
    assert isinstance(platform.install, ProcessRelease)
    return platform.install


@pytest_asyncio.fixture(loop_scope="package")
async def hotels(platform: agencies.Platform) -> agencies.Agency:
    """The agency that `agencies` admits, with a destination that has a credential."""
    agency = agencies.Agency(platform, "hotels")
    secret = {"authentication": {"type": "Bearer", "bearer": {"secretRef": {"name": "token", "key": "token"}}}}
    await agency.apply(
        agency.tenant(),
        agency.secret("token", token="open-sesame-release"),
        agency.destination(http=secret),
        agency.listener(),
    )
    return agency


async def test_visit_is_delivered_by_the_programs_of_the_chart(hotels: agencies.Agency) -> None:
    await hotels.wait_ready("listeners.usher.dev/lobby", "destinations.usher.dev/crm", "tenants.usher.dev/acme")
    await hotels.post(await hotels.url(), gateways.visit(1))
    (received,) = await hotels.until_received(1)
    assert received.headers["authorization"] == "Bearer open-sesame-release"


async def test_helm_test_passes_with_rights_of_its_own(release: ProcessRelease, platform: agencies.Platform) -> None:
    code, output = await release.check({"operator": platform.operator, "gateway": platform.gateway})
    assert code == 0, output
    assert [line.partition(":")[0] for line in output.splitlines()] == ["ok"] * 4
    wish = {"group": "usher.dev", "resource": "tenants", "namespace": release_processes.SYSTEM}
    user = f"system:serviceaccount:{release_processes.SYSTEM}:usher-test"
    assert await release.server.may(user, {**wish, "verb": "create"})
    assert not await release.server.may(user, {**wish, "verb": "delete"})
    assert not await release.server.may(user, {**wish, "verb": "create", "namespace": "hotels"})
    assert await release.server.get(api.Resource("Tenant", "usher-check", release_processes.SYSTEM)) is None


async def test_helm_test_names_what_is_not_ready(release: ProcessRelease, platform: agencies.Platform) -> None:
    absent = installs.Process(platform.gateway.process, ports.free(), platform.gateway.log, "127.0.0.1")
    code, output = await release.check({"operator": platform.operator, "gateway": absent})
    assert code == 1
    (failed,) = [line for line in output.splitlines() if line.startswith("failed:")]
    assert absent.url in failed
    assert "no pod is ready (`kubectl describe pods` says why)" in failed


async def test_account_of_an_agency_uses_the_commands_with_its_own_token(
    hotels: agencies.Agency, platform: agencies.Platform
) -> None:
    await hotels.wait_ready("listeners.usher.dev/lobby")
    await hotels.post(await hotels.url(), gateways.visit(1))
    await hotels.kubectl("create", "serviceaccount", "desk")
    await hotels.kubectl("create", "rolebinding", "desk", "--clusterrole=usher-support", "--serviceaccount=hotels:desk")
    token = (await hotels.kubectl("create", "token", "desk")).strip()
    leaks.add_secret(token)
    user = audit.account_name("hotels", "desk")
    wish = {"group": "usher.dev", "resource": "persons", "verb": "find", "namespace": "hotels"}
    await waiting.until(lambda: platform.server.may(user, wish))
    asking = {"USHER_ADMIN": platform.gateway.url, "USHER_TOKEN": token}
    listing = await command_line.usher("visits", "list", "--output=json", **asking)
    assert listing.code == 0, listing.err
    rows = json.loads(listing.out)["rows"]
    assert {row["namespace"] for row in rows} == {"hotels"}
    body = await command_line.usher("visits", "show", rows[0]["id"], "--body", **asking)
    assert body.code != 0
    assert "may not read bodies.usher.dev in any namespace" in body.said


async def test_all_namespaces_are_admitted_by_one_value(release: ProcessRelease, platform: agencies.Platform) -> None:
    cafes = agencies.Agency(platform, "cafes")
    await release_processes.create_namespace(platform.server, "cafes")
    await cafes.apply(cafes.tenant(), cafes.destination(), cafes.listener())
    await cafes.wait("Listener", "lobby", "Accepted", "False", "NamespaceNotPermitted")
    upgrade = ("upgrade", release_processes.NAME, str(charts.CHART), "--reuse-values")
    notes = await asyncio.to_thread(release_processes.helm, release.cluster, *upgrade, "--set=rbac.allNamespaces=true")
    assert "WARNING: `rbac.allNamespaces` lets the operator read and write every Secret" in notes
    await cafes.wait_ready("listeners.usher.dev/lobby")
    await cafes.post(await cafes.url(), gateways.visit(2))
    await cafes.until_received(2)
    await asyncio.to_thread(release_processes.helm, release.cluster, *upgrade, "--set=rbac.allNamespaces=false")
    await cafes.wait("Listener", "lobby", "Accepted", "False", "NamespaceNotPermitted")
