"""Tokens of Kubernetes at the admin port: a real API server says whose they are, and RBAC what their users may do."""

import asyncio
import contextlib
import functools
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from support import (
    accounts,
    admin_port,
    api,
    audit,
    clusters,
    faulty_proxy,
    gateways,
    installs,
    samples,
    waiting,
)
from usher_gateway import model
from usher_gateway.access.kubernetes_tokens import CLIENT_LIMITS, KubernetesTokens
from usher_gateway.kube import access, client

REVIEWS = installs.ACCESS / "optional" / "kubernetes-tokens.yaml"
ROLES = clusters.DEFINITIONS / "access" / "people.yaml"
UNKNOWN = "01920000-0000-7000-8000-000000000001"


@pytest.fixture(scope="module", autouse=True)
def roles(definitions: clusters.Cluster) -> None:
    """The shipped roles for people, such as `usher-support`."""
    definitions.kubectl.run("apply", "--server-side", "--force-conflicts", f"--filename={ROLES}")


@pytest.fixture
async def gateway(
    definitions: clusters.Cluster, server: api.Api, make_namespace: installs.Namespaces, tmp_path: Path
) -> AsyncIterator[accounts.Account]:
    """The account of a gateway that has only the rights of --admin-kubernetes-tokens."""
    system = await make_namespace("system", is_admitted=False)
    named = api.Resource("ServiceAccount", installs.GATEWAY, system)
    account = await accounts.log_in(server, definitions.endpoint, named, tmp_path / "gateway")
    manifests = yaml.safe_load_all(REVIEWS.read_text("utf-8"))
    rights = accounts.moved(manifests, {"usher-system": system}, f"-{system}")
    await accounts.grant(server, rights)
    for resource in ("tokenreviews.authentication.k8s.io", "subjectaccessreviews.authorization.k8s.io"):
        name, _, group = resource.partition(".")
        wish = {"group": group, "resource": name, "verb": "create"}
        await waiting.until(functools.partial(server.may, account.user, wish), bool)
    yield account
    await accounts.withdraw(server, rights)


@dataclass
class Desk:
    """An admin port that asks the API server, over a store with a visit in each of two agencies' namespaces."""

    served: admin_port.Served
    server: api.Api
    proxy: faulty_proxy.Proxy
    """The gateway asks the API server through it."""
    north: str
    south: str
    clock: list[float]
    """The one element is the time by which answers are kept, in seconds."""

    async def account(self, role: str = "", *, everywhere: bool = False) -> api.Resource:
        """Create a service account in the namespace `north`, and bind a role there or in the whole cluster."""
        account = api.Resource("ServiceAccount", f"desk-{secrets.token_hex(4)}", self.north)
        await self.server.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(account)})
        if role:
            await self.bind(account, role, "" if everywhere else self.north)
        return account

    async def bind(self, account: api.Resource, role: str, namespace: str) -> None:
        """Bind a ClusterRole, and wait until the API server knows it."""
        binding = binding_of(account, namespace)
        subject = {"kind": "ServiceAccount", "name": account.name, "namespace": account.namespace}
        await self.server.create(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": binding.kind,
                "metadata": metadata(binding),
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
                "subjects": [subject],
            }
        )
        await self.wait_access(account, namespace, is_allowed=True)

    async def wait_access(self, account: api.Resource, namespace: str, *, is_allowed: bool) -> None:
        """Wait until the API server lets an account read the visits of a namespace, or does not."""
        wish = {"group": "usher.dev", "resource": "visits", "verb": "read", "namespace": namespace}
        user = audit.account_name(account.namespace, account.name)
        await waiting.until(lambda: self.server.may(user, wish), lambda answer: answer == is_allowed)

    async def visits(self, token: str, query: str = "") -> tuple[int, Any]:
        """Return the namespaces of the visits that a token shows, or the error that it gets."""
        status, answer = await self.served.ask("GET", f"/api/visits{query}", token=token)
        return status, {row["namespace"] for row in answer["rows"]} if status == 200 else answer["code"]

    async def visit_in(self, namespace: str) -> str:
        """Return the id of the visit in a namespace."""
        rows = (await self.served.get("/api/visits"))["rows"]
        return next(str(row["id"]) for row in rows if row["namespace"] == namespace)

    def count_reviews(self, kind: str) -> int:
        return sum(asked.path.endswith(f"/{kind}") for asked in self.proxy.asked)


def metadata(resource: api.Resource) -> dict[str, str]:
    return {"name": resource.name} | ({"namespace": resource.namespace} if resource.namespace else {})


def binding_of(account: api.Resource, namespace: str) -> api.Resource:
    return api.Resource("RoleBinding" if namespace else "ClusterRoleBinding", account.name, namespace)


@contextlib.asynccontextmanager
async def opened(
    account: accounts.Account,
    make_namespace: installs.Namespaces,
    proxy: faulty_proxy.Proxy,
    folder: Path,
    *,
    audience: str | None = None,
    limits: client.ClientLimits = CLIENT_LIMITS,
) -> AsyncIterator[Desk]:
    """Run a desk whose gateway has this account."""
    north, south = await make_namespace("north"), await make_namespace("south")
    clock = [0.0]

    async def namespaces() -> list[str]:
        return [north, south]

    through = account.at(proxy.endpoint, folder / "account")
    asking = client.Client(access.find_access(through.kubeconfig, {}), limits=limits)
    tokens = KubernetesTokens(client=asking, namespaces=namespaces, now=lambda: clock[0], audience=audience)
    async with tokens, admin_port.served(folder, tokens) as served:
        for namespace in (north, south):
            listener = model.ListenerName(namespace, "acme", "lobby")
            await served.bench.accept(samples.arrival(namespace, listener=listener, if_visit=()))
        yield Desk(served, make_namespace.server, proxy, north, south, clock)


@pytest.fixture
async def desk(
    gateway: accounts.Account, make_namespace: installs.Namespaces, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> AsyncIterator[Desk]:
    async with opened(gateway, make_namespace, proxy, tmp_path / "desk") as ready:
        yield ready


async def test_account_sees_only_the_namespaces_where_a_role_is_bound(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    assert await desk.visits(token) == (200, {desk.north})
    assert await desk.visits(token, f"?namespace={desk.north}") == (200, {desk.north})
    assert await desk.visits(token, f"?namespace={desk.south}") == (404, "UnknownName")
    for visit in (await desk.visit_in(desk.south), UNKNOWN):
        status, answer = await desk.served.ask("GET", f"/api/visits/{visit}/story", token=token)
        assert (status, answer["code"]) == (404, "NotFound")


async def test_role_bound_in_the_whole_cluster_shows_every_namespace(desk: Desk) -> None:
    account = await desk.account("usher-privacy", everywhere=True)
    try:
        token = await desk.server.token(account)
        assert await desk.visits(token) == (200, {desk.north, desk.south})
        assert (await desk.served.ask("GET", "/api/audit", token=token))[0] == 200
    finally:
        await desk.server.delete(binding_of(account, ""))


async def test_scope_that_no_role_grants_is_refused_with_the_right_that_is_missing(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    visit = await desk.visit_in(desk.north)
    status, answer = await desk.served.ask("GET", f"/api/visits/{visit}/body", token=token)
    assert (status, answer["code"]) == (403, "Forbidden")
    assert "may not read bodies.usher.dev in any namespace" in answer["detail"]
    assert "bind a role" in answer["hint"]


async def test_request_about_all_is_refused_to_an_account_of_one_namespace(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-privacy"))
    status, answer = await desk.served.ask("GET", "/api/audit", token=token)
    assert (status, answer["code"]) == (403, "Forbidden")


async def test_role_view_of_a_namespace_shows_visits_and_no_body(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("view"))
    assert await desk.visits(token) == (200, {desk.north})
    visit = await desk.visit_in(desk.north)
    assert (await desk.served.ask("GET", f"/api/visits/{visit}/body", token=token))[0] == 403
    selection = {"namespace": desk.north, "dryRun": True}
    assert (await desk.served.ask("POST", "/api/deliveries/retry", token=token, json=selection))[0] == 403


async def test_withdrawn_right_ends_after_a_minute(desk: Desk) -> None:
    account = await desk.account("usher-support")
    token = await desk.server.token(account)
    assert await desk.visits(token) == (200, {desk.north})
    await desk.server.delete(binding_of(account, desk.north))
    await desk.wait_access(account, desk.north, is_allowed=False)
    desk.clock[0] = 59.9
    assert await desk.visits(token) == (200, {desk.north})
    desk.clock[0] = 60.0
    assert await desk.visits(token) == (403, "Forbidden")


async def test_granted_right_begins_after_a_minute(desk: Desk) -> None:
    account = await desk.account()
    token = await desk.server.token(account)
    assert await desk.visits(token) == (403, "Forbidden")
    await desk.bind(account, "usher-support", desk.south)
    assert await desk.visits(token) == (403, "Forbidden")
    desk.clock[0] = 60.0
    assert await desk.visits(token) == (200, {desk.south})


async def test_requests_of_a_minute_cost_one_review(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    answers = await asyncio.gather(*[desk.visits(token) for _ in range(20)])
    assert answers == [(200, {desk.north})] * 20
    assert desk.count_reviews("tokenreviews") == 1
    assert desk.count_reviews("subjectaccessreviews") == 3


async def test_forged_token_and_garbage_are_refused(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    header, payload, signature = token.split(".")
    forged = payload[:-2] + ("AA" if payload[-2:] != "AA" else "BB")
    for refused in (f"{header}.{forged}.{signature}", f"{header}.{payload}.{signature[::-1]}", "a.b.c"):
        assert await desk.visits(refused) == (401, "Unauthenticated")
    reviews = desk.count_reviews("tokenreviews")
    for never_asked in ("usher_of-nobody", "a.b", "a.b.c.d", "a.b.ü"):
        assert await desk.visits(never_asked) == (401, "Unauthenticated")
    assert desk.count_reviews("tokenreviews") == reviews


async def test_strangers_cannot_flood_the_api_server(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    assert await desk.visits(token) == (200, {desk.north})
    desk.clock[0] = 60.0
    answers = await asyncio.gather(*[desk.visits(f"a.b.{number}") for number in range(150)])
    assert sorted(answers) == [(401, "Unauthenticated")] * 100 + [(429, "TooManyTokens")] * 50
    assert desk.count_reviews("tokenreviews") == 101
    assert await desk.visits(token) == (200, {desk.north})
    desk.clock[0] = 120.0
    assert await desk.visits("a.b.later") == (401, "Unauthenticated")


async def test_accepted_token_is_no_stranger_with_another_scope(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    assert await desk.visits(token) == (200, {desk.north})
    await asyncio.gather(*[desk.visits(f"a.b.{number}") for number in range(100)])
    assert await desk.visits("a.b.stranger") == (429, "TooManyTokens")
    assert (await desk.served.ask("GET", "/api/tenants", token="a.b.0"))[0] == 429
    assert (await desk.served.ask("GET", "/api/tenants", token=token))[0] == 200


async def test_api_server_that_is_away_gives_no_access(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    other = await desk.server.token(await desk.account("usher-support"))
    assert await desk.visits(token) == (200, {desk.north})
    await desk.proxy.disappear()
    assert await desk.visits(token) == (200, {desk.north})
    assert await desk.visits(other) == (503, "KubernetesUnavailable")
    desk.clock[0] = 60.0
    assert await desk.visits(token) == (503, "KubernetesUnavailable")
    assert await desk.visits(desk.served.tokens.observe) == (200, {desk.north, desk.south})
    await desk.proxy.appear()
    assert await desk.visits(token) == (200, {desk.north})


async def test_api_server_that_hangs_gives_no_access(
    gateway: accounts.Account, make_namespace: installs.Namespaces, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    impatient = client.ClientLimits(connections=2, request_seconds=0.2)
    async with opened(gateway, make_namespace, proxy, tmp_path / "desk", limits=impatient) as desk:
        token = await desk.server.token(await desk.account("usher-support"))
        with proxy.hang():
            answers = await asyncio.gather(*[desk.visits(token) for _ in range(20)])
        assert answers == [(503, "KubernetesUnavailable")] * 20


async def test_failed_review_of_one_access_gives_no_access(desk: Desk) -> None:
    token = await desk.server.token(await desk.account("usher-support"))
    desk.proxy.refuse(500, lambda _: desk.count_reviews("subjectaccessreviews") > 1)
    assert await desk.visits(token) == (503, "KubernetesUnavailable")
    desk.proxy.lift()
    assert await desk.visits(token) == (200, {desk.north})


async def test_audit_log_has_the_user_of_a_token(desk: Desk) -> None:
    account = await desk.account("usher-privacy")
    token = await desk.server.token(account)
    visit = await desk.visit_in(desk.north)
    assert (await desk.served.ask("GET", f"/api/visits/{visit}/body", token=token))[0] == 200
    (entry,) = (await desk.served.get("/api/audit"))["rows"]
    assert entry["who"] == f"system:serviceaccount:{account.namespace}:{account.name}"
    _, line = (await desk.served.output_of("audit", COLUMNS="300")).splitlines()
    assert f"  {account.namespace}" in line
    assert "show body" in line
    assert f"id {visit[:8]}" in line


async def test_operator_of_a_namespace_sees_the_replays_that_it_starts(desk: Desk) -> None:
    account = await desk.account("usher-operate")
    await desk.bind(account, "usher-support", desk.south)
    token = await desk.server.token(account)
    selection = {"namespace": desk.north, "reason": "Paused"}
    status, replay = await desk.served.ask("POST", "/api/replays", token=token, json=selection)
    assert status == 201, replay
    assert (await desk.served.ask("GET", f"/api/replays/{replay['id']}", token=token))[0] == 200


async def test_only_tokens_for_the_audience_are_accepted(
    gateway: accounts.Account, make_namespace: installs.Namespaces, proxy: faulty_proxy.Proxy, tmp_path: Path
) -> None:
    async with opened(gateway, make_namespace, proxy, tmp_path / "desk", audience="usher.dev") as desk:
        account = await desk.account("usher-support")
        assert await desk.visits(await desk.server.token(account)) == (401, "Unauthenticated")
        token = await desk.server.token(account, audience="usher.dev")
        assert await desk.visits(token) == (200, {desk.north})


async def test_token_for_another_audience_is_refused(desk: Desk) -> None:
    account = await desk.account("usher-support")
    token = await desk.server.token(account, audience="usher.dev")
    assert await desk.visits(token) == (401, "Unauthenticated")


async def test_gateway_without_the_rights_names_them(
    server: api.Api,
    cluster: clusters.Cluster,
    make_namespace: installs.Namespaces,
    proxy: faulty_proxy.Proxy,
    tmp_path: Path,
) -> None:
    named = api.Resource("ServiceAccount", "nobody", await make_namespace())
    nobody = await accounts.log_in(server, cluster.endpoint, named, tmp_path / "nobody")
    async with opened(nobody, make_namespace, proxy, tmp_path / "desk") as desk:
        token = await server.token(await desk.account())
        status, answer = await desk.served.ask("GET", "/api/visits", token=token)
        assert (status, answer["code"]) == (503, "KubernetesUnavailable")
        assert "operator/rbac/optional/kubernetes-tokens.yaml" in answer["hint"]


async def test_gateway_that_waits_for_its_store_does_not_blame_the_token(
    gateway: accounts.Account, server: api.Api, tmp_path: Path
) -> None:
    token = await server.token(api.Resource("ServiceAccount", gateway.name, gateway.namespace))
    flags = ("--admin-kubernetes-tokens", "--kubeconfig", str(gateway.kubeconfig))
    nowhere = ("--store", "postgresql://127.0.0.1:1/usher")
    async with gateways.Gateway(tmp_path, gateways.one_route("http://127.0.0.1:1"), *nowhere, *flags) as process:
        await process.launch()
        await process.wait_for_store_report()
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{process.admin}", headers=headers) as session:
            answer = await session.get("/api/visits")
            assert (answer.status, (await answer.json())["code"]) == (503, "StoreUnavailable")
        assert await process.terminate() == 0
