"""A namespace is deleted and recreated with the same names: the objects are new and the addresses stay."""

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from support import accounts, agencies, api, clusters, faulty_proxy, gateways, installs, waiting

ROOMS = [f"room-{number}" for number in range(8)]  # More removals than the limit allows without a confirmation

TENANTS = ("acme", "globex")
GONE_SECONDS = 60.0


async def declare(install: installs.Install, namespace: str, rooms: list[str], url: str) -> None:
    """Apply listeners; every second one belongs to another tenant."""
    documents = [installs.tenant(namespace, name) for name in TENANTS]
    documents.append(installs.destination(namespace, http={"url": url}))
    for number, room in enumerate(rooms):
        tenant = {"name": TENANTS[number % len(TENANTS)]}
        documents.append(installs.listener(install, namespace, room, tenantRef=tenant))
    for document in documents:
        await install.server.apply(document)


async def delete(install: installs.Install, namespace: str) -> None:
    """Delete the namespace and wait until it is gone."""
    deleted = api.Resource("Namespace", namespace)
    await install.server.delete(deleted)
    await install.server.wait(deleted, lambda current: current is None, limit_seconds=GONE_SECONDS)


async def recreate(install: installs.Install, namespace: str) -> None:
    """Recreate the namespace, so that the cleanup of `make_namespace` can delete it again, and admit it again."""
    metadata = {"name": namespace, "labels": {clusters.MADE: "true"}}
    await install.server.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    await install.server.apply(accounts.admission(namespace, [install.operator]))


async def uids(install: installs.Install, namespace: str) -> dict[str, str]:
    listeners = await install.server.list(api.Resource("Listener", "", namespace))
    return {listener["metadata"]["name"]: listener["metadata"]["uid"] for listener in listeners}


async def published(install: installs.Install, namespace: str) -> dict[str, str]:
    """Uid of the owner in each listener's document, or ``"tombstone"``."""
    uids_by_name = {}
    for owner, secret in (await install.documents()).items():
        kind, _, path = owner.partition(" ")
        if kind == "Listener" and path.startswith(f"{namespace}/"):
            envelope = json.loads(base64.b64decode(secret["data"]["config.json"]))
            assert envelope["owner"]["uid"] == secret["metadata"]["labels"]["usher.dev/owner-uid"]
            uids_by_name[path.partition("/")[2]] = "tombstone" if "tombstone" in envelope else envelope["owner"]["uid"]
    return uids_by_name


async def hostnames(install: installs.Install, namespace: str) -> set[str]:
    """The hostnames in the first room's document."""
    secret = (await install.documents()).get(f"Listener {namespace}/{ROOMS[0]}")
    document = json.loads(installs.decoded(secret)["config.json"]).get("document") if secret else None
    return {address["host"] for address in document["addresses"]} if document else set()


async def owners_of_urls(install: installs.Install, namespace: str) -> dict[str, str]:
    """Uid of the owner of each listener's URL Secret."""
    secrets = await install.server.list(api.Resource("Secret", "", namespace), "usher.dev/managed=true")
    named = {
        secret["metadata"]["name"].removesuffix("-url"): secret["metadata"]["ownerReferences"] for secret in secrets
    }
    return {name: references[0]["uid"] for name, references in named.items()}


async def wait_whole(install: installs.Install, namespace: str, rooms: list[str]) -> None:
    """Wait until documents and URL Secrets belong to the present objects."""
    expected = await uids(install, namespace)
    assert set(expected) == set(rooms)

    async def look() -> tuple[dict[str, str], dict[str, str]]:
        documents = await published(install, namespace)
        return {name: documents.get(name, "") for name in rooms}, await owners_of_urls(install, namespace)

    await waiting.until(look, lambda owners: owners == (expected, expected))


async def wait_halted(install: installs.Install, *, halted: bool) -> None:
    def check(listener_class: Any) -> bool:
        return (api.condition(listener_class, "Ready").get("reason") == "RemovalsHalted") is halted

    await install.server.wait(api.of(install.klass()), check)


async def confirm_removals(install: installs.Install) -> None:
    """Confirm what the class's message names, again and again until nothing is halted."""
    klass = api.of(install.klass())

    async def confirm() -> bool:
        ready = api.condition(await install.server.get(klass), "Ready")
        digests = ",".join(re.findall(r'"([0-9a-f]{12})"', ready["message"]))
        await install.server.merge(klass, {"metadata": {"annotations": {"usher.dev/confirm-removals": digests}}})
        return bool(ready["reason"] != "RemovalsHalted")

    await waiting.until(confirm, every_seconds=0.5)


def logged_removals(operator: installs.Process, namespace: str) -> list[str]:
    return [
        line
        for line in operator.log.read_text("utf-8").splitlines()
        if "document_removed" in line and namespace in line
    ]


async def visits_and_repeats(platform: agencies.Platform, namespace: str) -> tuple[int, int]:
    rows = [row for row in (await platform.ask("/api/usage"))["rows"] if row["namespace"] == namespace]
    return sum(row["visits"] for row in rows), sum(row["repeats"] for row in rows)


@agencies.SHARED
class TestServed:
    """The namespace as clients of the gateway's port see it."""

    @pytest.mark.long
    async def test_the_same_names_have_the_same_urls_visitors_and_books(self, agency: agencies.Agency) -> None:
        install, namespace, urls = await self.deleted(agency, ROOMS)
        await wait_halted(install, halted=True)
        assert (await agency.post(urls[ROOMS[0]], gateways.visit(2))).acknowledges
        await recreate(install, namespace)
        await declare(install, namespace, ROOMS, self.system(agency))
        await wait_whole(install, namespace, ROOMS)
        await wait_halted(install, halted=False)
        assert {room: await agency.url(room) for room in ROOMS} == urls
        await agency.wait_ready(*(f"listeners.usher.dev/{room}" for room in ROOMS))
        assert (await agency.post(urls[ROOMS[0]], self.again(1))).acknowledges
        assert (await agency.post(urls[ROOMS[1]], gateways.visit(3))).acknowledges
        await agency.until_received(1, 2, 3)
        await waiting.until(lambda: visits_and_repeats(agency.platform, namespace), lambda counts: counts == (3, 1))
        assert logged_removals(agency.platform.operator, namespace) == []

    @pytest.mark.long
    async def test_what_is_not_made_anew_is_served_no_more(self, agency: agencies.Agency) -> None:
        install, namespace, urls = await self.deleted(agency, ROOMS)
        await wait_halted(install, halted=True)
        await recreate(install, namespace)
        kept = ROOMS[:4]
        await declare(install, namespace, kept, self.system(agency))
        await wait_whole(install, namespace, kept)
        await confirm_removals(install)
        for room in ROOMS[4:]:
            await agency.until_answers(urls[room], 404)
        await wait_halted(install, halted=False)
        for number, room in enumerate(kept):
            assert (await agency.post(urls[room], gateways.visit(10 + number))).acknowledges
        await agency.until_received(1, 10, 11, 12, 13)

    @pytest.mark.long
    async def test_what_another_agency_makes_gets_no_visits_of_the_former_one(self, agency: agencies.Agency) -> None:
        install, namespace, urls = await self.deleted(agency, ROOMS)
        await wait_halted(install, halted=True)
        await recreate(install, namespace)
        bearer = {"type": "Bearer", "bearer": {"secretRef": {"name": "new", "key": "token"}}}
        url = f"{agency.platform.receiver.url}{agency.path_of('new')}"
        await agency.apply(
            agency.tenant("newcomer"),
            agency.destination("crm", http={"url": url, "authentication": bearer}),
            agency.listener("office", tenantRef={"name": "newcomer"}),
        )
        office = await agency.url("office")
        await agency.until_answers(office, 200)
        assert (await agency.post(office, gateways.visit(20))).acknowledges
        await agency.until_any_held(1)
        await agency.apply(agency.secret("new", token="token-of-the-newcomer-4713"))
        await agency.until_received(20, destination="new")
        assert (await agency.post(urls[ROOMS[0]], gateways.visit(21))).acknowledges
        await agency.until_held("DestinationNotFound", 1)
        await agency.until_received(1)
        await agency.until_received(20, destination="new")
        await confirm_removals(install)

    @pytest.mark.long
    async def test_a_tombstone_removes_nothing_of_what_came_after_it(self, agency: agencies.Agency) -> None:
        platform, few = agency.platform, ROOMS[:3]
        await platform.restart_operator("--tombstone-seconds", "10")
        try:
            install, namespace, urls = await self.deleted(agency, few)
            await agency.until_answers(urls[few[0]], 404)
            await waiting.until(
                lambda: published(install, namespace), lambda documents: documents == dict.fromkeys(few, "tombstone")
            )
            await recreate(install, namespace)
            await declare(install, namespace, few, self.system(agency))
            await wait_whole(install, namespace, few)
            secrets = await self.documents(install, namespace)
            await asyncio.sleep(11)  # until the tombstones end
            await wait_whole(install, namespace, few)
            assert await self.documents(install, namespace) == secrets
            await agency.until_answers(urls[few[0]], 200)
            assert (await agency.post(urls[few[1]], gateways.visit(2))).acknowledges
            await agency.until_received(1, 2)
        finally:
            await platform.restart_operator()

    @staticmethod
    async def documents(install: installs.Install, namespace: str) -> dict[str, str]:
        """Version of the config Secret of each owner."""
        secrets = await install.documents()
        mine = {owner: secret["metadata"] for owner, secret in secrets.items() if f" {namespace}/" in owner}
        return {owner: metadata["resourceVersion"] for owner, metadata in mine.items()}

    @staticmethod
    def system(agency: agencies.Agency) -> str:
        return f"{agency.platform.receiver.url}{agency.path_of('crm')}"

    @staticmethod
    def again(number: int) -> bytes:
        """The body of another visit of the same visitor, so that it is not a redelivery."""
        return json.dumps({**json.loads(gateways.visit(number)), "again": True}).encode()

    async def deleted(self, agency: agencies.Agency, rooms: list[str]) -> tuple[installs.Install, str, dict[str, str]]:
        """Send one visit, delete everything, and return the URLs."""
        install, namespace = agency.platform.install, agency.namespace
        await declare(install, namespace, rooms, self.system(agency))
        await agency.wait_ready(*(f"listeners.usher.dev/{room}" for room in rooms))
        urls = {room: await agency.url(room) for room in rooms}
        assert (await agency.post(urls[rooms[0]], gateways.visit(1))).acknowledges
        await agency.until_received(1)
        await delete(install, namespace)
        return install, namespace, urls


@pytest.mark.parametrize("is_relisted", [pytest.param(False, marks=pytest.mark.long), True])
async def test_recreated_namespace_seen_late_gives_the_same_result(
    install: installs.Install, namespace: str, proxy: faulty_proxy.Proxy, tmp_path: Path, *, is_relisted: bool
) -> None:
    """The watches are cut meanwhile, so the operator gets all events at once or finds new objects in a list."""
    operator = await install.start_operator(account=install.operator.at(proxy.endpoint, tmp_path / "through"))
    await install.server.apply(install.klass())
    await declare(install, namespace, ROOMS, "https://crm.example.com/hook")
    await wait_whole(install, namespace, ROOMS)
    previous_uids = await uids(install, namespace)
    with proxy.silence():
        await delete(install, namespace)
        await recreate(install, namespace)
        await declare(install, namespace, ROOMS, "https://crm.example.com/hook")
        if is_relisted:
            proxy.expire_open()
    assert not set(previous_uids.values()) & set((await uids(install, namespace)).values())
    await wait_whole(install, namespace, ROOMS)
    assert logged_removals(operator, namespace) == []


async def test_agency_that_takes_a_namespace_over_while_the_operator_is_suspended_inherits_nothing(
    install: installs.Install, namespace: str
) -> None:
    """Kopf then reports the events of the former and of the present namespace in any order."""
    operator = await install.start_operator()
    await install.server.apply(install.klass(hostname="old.example.com"))
    await declare(install, namespace, ROOMS[:1], "https://former.example.com/hook")
    await waiting.until(lambda: hostnames(install, namespace), lambda hosts: hosts == {"old.example.com"})
    await install.server.apply(install.klass(hostname="new.example.com"))
    await waiting.until(lambda: hostnames(install, namespace), lambda hosts: len(hosts) == 2)
    with operator.paused():
        await delete(install, namespace)
        await recreate(install, namespace)
        await declare(install, namespace, ROOMS[:1], "https://present.example.com/hook")
    await waiting.until(
        lambda: hostnames(install, namespace), lambda hosts: hosts == {"new.example.com"}, limit_seconds=20
    )
