"""Each order of creation of an agency's resources gives the same state, and a second pass writes nothing."""

import asyncio
import base64
import itertools
import json
import re
from typing import Any

from support import agencies, api, installs, waiting

pytestmark = agencies.SHARED

KINDS = ("ListenerClass", "Tenant", "Listener", "Destination", "Secret")
AT_A_TIME = 10
ORDERS = list(itertools.permutations(KINDS))


class Numbered:
    """The resources of one order. Each name contains the number of the order, so that all orders run side by side."""

    def __init__(self, agency: agencies.Agency, number: int) -> None:
        self._agency = agency
        self.number = f"n{number:03}"

    def document(self, kind: str) -> dict[str, Any]:
        agency, number = self._agency, self.number
        match kind:
            case "ListenerClass":
                klass = agency.platform.install.klass(hostname=f"{number}.{agency.namespace}.example.com")
                klass["metadata"]["name"] = self.class_name
                return klass
            case "Tenant":
                return agency.tenant(number, displayName="Hôtel Zoë 東京")
            case "Listener":
                routes = [{"name": "crm", "destinationRef": {"name": number}}]
                names = {"tenantRef": {"name": number}, "listenerClassName": self.class_name}
                return agency.listener(number, **names, routes=routes)
            case "Destination":
                header = {"name": "X-Key", "valueFrom": {"secretKeyRef": {"name": number, "key": "token"}}}
                return agency.destination(number, http={"headers": [header]}, tenantRef={"name": number})
        return agency.secret(number, token=f"wx3secret-{number}")

    @property
    def class_name(self) -> str:
        return f"{self.number}-{self._agency.namespace}"

    async def outcome(self, documents: dict[str, dict[str, Any]]) -> str:
        """Every status and document of this order, without its number."""
        outcomes: list[Any] = []
        for kind in ("ListenerClass", "Tenant", "Listener", "Destination"):
            document = self.document(kind)
            status = (await self._agency.platform.server.get(api.of(document)))["status"]
            for condition in status["conditions"]:
                del condition["lastTransitionTime"]
            outcomes.append(status)
        for kind in ("Listener", "Destination"):
            content = documents[f"{kind} {self._agency.namespace}/{self.number}"]["data"]["config.json"]
            outcomes.append(json.loads(base64.b64decode(content))["document"])
        text = re.sub(r"/v1/[a-z2-7]+", "/v1/TOKEN", json.dumps(outcomes, sort_keys=True))
        return text.replace(self.number, "NUMBER")


async def versions(platform: agencies.Platform, namespace: str) -> dict[str, str]:
    """resourceVersion of each object that the operator writes for a namespace, or for the class made for it."""
    versions_by_name = {}
    places = [("Secret", platform.install.config), ("ListenerClass", "")]
    for kind, where in [*places, *((kind, namespace) for kind in ("Secret", "Tenant", "Listener", "Destination"))]:
        for stored in await platform.server.list(api.Resource(kind, "", where)):
            about = stored["metadata"]
            owner = about.get("annotations", {}).get("usher.dev/owner", "")
            if where == namespace or owner.startswith(f"{namespace}/") or about["name"].endswith(namespace):
                versions_by_name[f"{kind} {about['name']}"] = about["resourceVersion"]
    return versions_by_name


async def settled(platform: agencies.Platform, namespace: str) -> dict[str, str]:
    """Wait until the versions have not changed for two seconds, because informational conditions are delayed."""
    history: list[dict[str, str]] = []

    async def look() -> dict[str, str]:
        history.append(await versions(platform, namespace))
        return history[-1]

    def is_settled(_: dict[str, str]) -> bool:
        return len(history) > SAME and all(earlier == history[-1] for earlier in history[-SAME:])

    return await waiting.until(look, is_settled, limit_seconds=60, every_seconds=0.5)


SAME = 4


async def test_each_order_of_creation_converges_to_the_same_state(
    agency: agencies.Agency,
) -> None:
    platform = agency.platform
    numbered = [Numbered(agency, number) for number in range(len(ORDERS))]
    try:
        for position in range(len(KINDS)):
            each = zip(ORDERS, numbered, strict=True)
            await apply_all(platform.server, [resources.document(order[position]) for order, resources in each])
            await waiting.until(
                lambda: platform.operator.metric("usher_operator_workqueue_depth"), lambda depth: not depth
            )
        await waiting.until(lambda: unready(agency), lambda names: not names, limit_seconds=60)
        settled_versions = await settled(platform, agency.namespace)
        documents = await platform.install.documents()
        outcomes = {
            await resources.outcome(documents): order for order, resources in zip(ORDERS, numbered, strict=True)
        }
        assert len(outcomes) == 1, outcomes
        await platform.restart_operator()
        keys = 4 * len(ORDERS)
        await waiting.until(
            lambda: platform.operator.metric("usher_operator_reconcile_total"), lambda reconciled: reconciled >= keys
        )
        await waiting.until(lambda: platform.operator.metric("usher_operator_workqueue_depth"), lambda depth: not depth)
        assert await versions(platform, agency.namespace) == settled_versions
    finally:
        for resources in numbered:
            await platform.server.delete(api.of(resources.document("ListenerClass")))


async def apply_all(server: api.Api, documents: list[dict[str, Any]]) -> None:
    """Apply documents, a few at a time."""
    for start in range(0, len(documents), AT_A_TIME):
        await asyncio.gather(*map(server.apply, documents[start : start + AT_A_TIME]))


async def unready(agency: agencies.Agency) -> list[str]:
    """Resources of the agency that are not Ready."""
    kinds = ("Tenant", "Listener", "Destination")
    resources = [await agency.platform.server.list(api.Resource(kind, "", agency.namespace)) for kind in kinds]
    unready = [
        resource for some in resources for resource in some if api.condition(resource, "Ready").get("status") != "True"
    ]
    return [resource["metadata"]["name"] for resource in unready]


async def test_one_of_two_tenants_that_claim_a_hostname_together_gets_it(make_agency: agencies.Make) -> None:
    pair = [await make_agency() for _ in range(2)]
    hostnames = [f"shop-{number}.{pair[0].namespace}.customers.example" for number in range(12)]
    for agency in pair:
        await agency.apply(agency.tenant(), agency.destination())
    claims = [claim(agency, hostname) for hostname in hostnames for agency in pair]
    await asyncio.gather(*map(pair[0].platform.server.apply, claims))
    for hostname in hostnames:
        states = [await judged(agency, hostname) for agency in pair]
        assert sorted(states) == [("False", "HostnameConflict"), ("True", "Accepted")]
        owner = pair[states.index(("True", "Accepted"))]
        documents = await owner.platform.install.documents()
        serving = [name for name, secret in documents.items() if hostname.encode() in content(secret)]
        assert [name for name in serving if name.startswith("Listener")] == [
            f"Listener {owner.namespace}/{hostname.partition('.')[0]}"
        ]


def claim(agency: agencies.Agency, hostname: str) -> dict[str, Any]:
    return agency.listener(hostname.partition(".")[0], addresses=[{"name": "shop", "hostname": hostname}])


def content(secret: dict[str, Any]) -> bytes:
    return installs.decoded(secret)["config.json"]


async def judged(agency: agencies.Agency, hostname: str) -> tuple[str, str]:
    """Wait for the condition Accepted of a claim; return its status and reason."""
    resource = api.Resource("Listener", hostname.partition(".")[0], agency.namespace)
    listener = await agency.platform.server.wait(
        resource, lambda listener: api.condition(listener, "Ready").get("reason") in DONE
    )
    accepted = api.condition(listener, "Accepted")
    return accepted["status"], accepted["reason"]


DONE = {"Ready", "HostnameConflict"}
