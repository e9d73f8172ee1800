"""Chaos: edits, kills, stops, restarts of the API server and restores of etcd, with two operators and two gateways.

Afterwards each gateway runs what the manifests say within two minutes, and no address ever answers for another
agency than its owner. The agencies have different credentials, so an answer's status shows the owner.
"""

import asyncio
import contextlib
import itertools
import json
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import aiohttp
import pytest

from local_cluster import ports
from support import api, clusters, installs, leaks, waiting, wire
from support.published_documents import declare, live

SEED = 11
CHAOS_SECONDS = 600.0
CONVERGED_SECONDS = 120.0  # Limit of design.md until every gateway runs what the manifests say

# A Lease and checks that fit the length of the test.
QUICK = {
    "timing": {
        "lease_seconds": 6.0,
        "renew_deadline_seconds": 4.0,
        "lease_retry_seconds": 0.5,
        "watch_check_seconds": 20.0,
        "stale_document_seconds": 5.0,
    }
}

# A Lease that a restart of the API server does not cost, however busy the machine is.
PATIENT = {"timing": {"lease_seconds": 90.0, "renew_deadline_seconds": 60.0}}

SHOP = ("shop.example.org", "/hook")  # The address that a listener of the rival claims for the whole test
Address = tuple[str, str]  # Hostname and path


class Program:
    """Keeps a program running, as a Deployment does."""

    def __init__(self, install: installs.Install, process: installs.Process) -> None:
        self._install, self.process = install, process

    async def keep_running(self) -> NoReturn:
        while True:
            await self.process.process.wait()
            self.process = await self._install.start_again(self.process)

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.process.send_signal(number)

    async def suspend(self, seconds: float) -> None:
        """Stop the process without its notice, and let it go on."""
        self.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.send(signal.SIGCONT)

    async def answer(self, address: Address, namespace: str) -> int:
        """Status of a gateway's answer to a post with an agency's credential; 0: no answer."""
        try:
            async with asyncio.timeout(1):
                return await self.process.answer(*address, **{"X-Agency": credential(namespace)})
        except (OSError, TimeoutError, wire.ClosedError):
            return 0


def credential(namespace: str) -> str:
    return f"credential-of-{namespace}"


class Agencies:
    """The manifests of two agencies, and every address that they ever had."""

    def __init__(self, install: installs.Install, owner: str, rival: str, chance: random.Random) -> None:
        self._install, self._server, self._chance = install, install.server, chance
        self._owner, self._rival = owner, rival
        self._numbers = itertools.count()
        self.addresses: dict[Address, str] = {SHOP: owner}
        """Every address that a manifest ever had, and the namespace that owns it."""

    async def begin(self) -> None:
        """Apply everything that stays."""
        hostnames = [{"hostname": "*.example.org"}]
        await self._server.apply(
            self._install.klass(allowedHostnames=hostnames, removalLimit=100, retiredAddressDays=0)
        )
        for namespace in (self._owner, self._rival):
            leaks.add_secret(credential(namespace))
            metadata = {"name": "purple", "namespace": namespace, "labels": {"usher.dev/watch": "true"}}
            data = {"key": credential(namespace)}
            await self._server.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
            for document in (installs.tenant(namespace), installs.destination(namespace)):
                await self._server.apply(document)
            for number in range(4):
                await self._place(namespace, f"room-{number}")
        await self._server.apply(self._shop(self._owner))
        await self._server.wait(
            api.Resource("Listener", "shop", self._owner),
            lambda listener: api.condition(listener, "Accepted").get("status") == "True",
        )
        await self._server.apply(self._shop(self._rival))

    async def edit(self) -> None:
        """Move, create or delete a listener, or recreate the one that has the contested address."""
        namespace, name = self._chance.choice((self._owner, self._rival)), f"room-{self._chance.randrange(4)}"
        match self._chance.randrange(8):
            case 0:
                await self._server.delete(api.Resource("Listener", name, namespace))
            case 1:
                await self._server.delete(api.Resource("Listener", "shop", self._owner))
                await self._server.create(self._shop(self._owner))
            case _:
                await self._place(namespace, name)

    async def _place(self, namespace: str, name: str) -> None:
        path = f"/{name}/{next(self._numbers)}"
        self.addresses[f"{namespace}.example.org", path] = namespace
        await self._server.apply(self._listener(namespace, name, path))

    def _shop(self, namespace: str) -> dict[str, object]:
        hostname, path = SHOP
        return self._listener(namespace, "shop", path, hostname)

    def _listener(self, namespace: str, name: str, path: str, hostname: str = "") -> dict[str, object]:
        header = {"name": "X-Agency", "secretRef": {"name": "purple", "key": "key"}}
        authentication = {"type": "Header", "header": header}
        return installs.placed(self._install, namespace, name, path, hostname, authentication=authentication)

    def stranger_to(self, address: Address) -> str:
        """The agency that does not own an address."""
        return self._rival if self.addresses[address] == self._owner else self._owner

    async def declared(self) -> dict[Address, str]:
        """The addresses in the manifests of the API server, and the namespace that owns each."""
        namespaces = (self._owner, self._rival)
        listeners = [
            each for name in namespaces for each in await self._server.list(api.Resource("Listener", "", name))
        ]
        addresses = [(listener["spec"]["addresses"][0], listener["metadata"]["namespace"]) for listener in listeners]
        return {(address["hostname"], address["path"]): namespace for address, namespace in addresses} | (
            {SHOP: self._owner} if any(listener["metadata"]["name"] == "shop" for listener in listeners) else {}
        )


class Chaos:
    """The programs, the control plane, and what happens to them."""

    def __init__(
        self, cluster: clusters.Restorable, agencies: Agencies, operators: list[Program], gateways: list[Program]
    ) -> None:
        self._cluster, self._agencies = cluster, agencies
        self._operators, self._gateways = operators, gateways
        self.stolen: list[str] = []  # Answers of an address for another agency than its owner

    async def run(self, seconds: float, backups: Path, chance: random.Random) -> None:
        """Go on for some time, in one or more rounds. Each has every event once and ends with a restore of etcd."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        for number in itertools.count():
            backup = backups / str(number)
            await asyncio.to_thread(self._cluster.plane.back_up, backup)
            events = [*self._events(chance), *[self._edit] * 20]
            chance.shuffle(events)
            for event in events:
                await event()
                await asyncio.sleep(chance.uniform(0.0, 0.3))
            await asyncio.to_thread(self._cluster.restart, backup)
            if loop.time() > end:
                return

    def _events(self, chance: random.Random) -> list[Callable[[], Awaitable[None]]]:
        async def kill(program: Program) -> None:
            program.send(signal.SIGKILL)

        async def stop(program: Program) -> None:
            program.send(signal.SIGTERM)

        async def restart_api_server() -> None:
            await asyncio.to_thread(self._cluster.restart)

        def on(programs: list[Program], act: Callable[[Program], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            program = chance.choice(programs)
            return lambda: act(program)

        acts = (kill, stop, lambda program: program.suspend(chance.uniform(0.5, 3.0)))
        return [on(programs, act) for programs in (self._operators, self._gateways) for act in acts] + [
            restart_api_server
        ]

    async def _edit(self) -> None:
        """Edit as a user does: while the API server is away, the request fails."""
        with contextlib.suppress(api.ApiError, aiohttp.ClientError, TimeoutError):
            await self._agencies.edit()

    async def watch_owners(self) -> NoReturn:
        """Post to addresses as the agency that does not own them; none may accept it."""
        while True:
            sample = [SHOP, *list(self._agencies.addresses)[-5:]]
            for gateway, address in itertools.product(self._gateways, sample):
                stranger = self._agencies.stranger_to(address)
                if await gateway.answer(address, stranger) == 200:
                    self.stolen.append(f"{stranger} answered at {address}")
            await asyncio.sleep(0.05)

    async def differences(self) -> list[str]:
        """Where a gateway does not do what the manifests say, for every address that there ever was."""
        declared, differences = await self._agencies.declared(), []
        for gateway, (address, owner) in itertools.product(self._gateways, self._agencies.addresses.items()):
            expected = 200 if declared.get(address) == owner else 404
            status = await gateway.answer(address, owner)
            if status != expected:
                differences.append(f"gateway {gateway.process.admin}: {address} answered {status}, not {expected}")
        return differences


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_every_gateway_runs_what_the_manifests_say_after_chaos(
    restorable: clusters.Restorable,
    restorable_namespaces: installs.Namespaces,
    restorable_install: installs.Install,
    tmp_path: Path,
) -> None:
    install, chance = restorable_install, random.Random(SEED)
    admin = ports.several(2)
    urls = [word for port in admin for word in ("--gateways", f"http://127.0.0.1:{port}")]
    arguments = (*urls, "--tombstone-seconds", "3")
    operators = [Program(install, await install.start_operator(*arguments, changes=QUICK)) for _ in range(2)]
    owner, rival = [await restorable_namespaces(name) for name in ("owner", "rival")]
    agencies = Agencies(install, owner, rival, chance)
    await agencies.begin()
    gateways = [Program(install, await install.start_gateway(admin=port)) for port in admin]
    chaos = Chaos(restorable, agencies, operators, gateways)
    await waiting.until(chaos.differences, lambda differences: not differences, limit_seconds=CONVERGED_SECONDS)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(program.keep_running()) for program in (*operators, *gateways)]
        running.append(group.create_task(chaos.watch_owners()))
        await chaos.run(CHAOS_SECONDS, tmp_path, chance)
        await waiting.until(chaos.differences, lambda differences: not differences, limit_seconds=CONVERGED_SECONDS)
        for task in running:
            task.cancel()
    assert chaos.stolen == []


@pytest.mark.timeout(600)
async def test_restored_manifests_are_in_force_without_a_restart(
    restorable: clusters.Restorable,
    restorable_namespaces: installs.Namespaces,
    restorable_install: installs.Install,
    tmp_path: Path,
) -> None:
    install, namespace = restorable_install, await restorable_namespaces("agency")
    server, hostname = install.server, f"{namespace}.example.org"
    admin = ports.free()
    changes = {"timing": {**PATIENT["timing"], "stale_document_seconds": 600.0}}  # the gateway alone keeps "again"
    operator = await install.start_operator("--gateways", f"http://127.0.0.1:{admin}", changes=changes)
    await server.apply(install.klass(allowedHostnames=[{"hostname": "*.example.org"}], retiredAddressDays=0))
    for document in (installs.tenant(namespace), installs.destination(namespace)):
        await server.apply(document)
    for name in ("edited", "deleted", "again"):
        await server.apply(installs.placed(install, namespace, name, f"/{name}"))
    gateway = await install.start_gateway(admin=admin)
    for name in ("edited", "deleted", "again"):
        await gateway.wait_answer(hostname, f"/{name}", 200)
    await server.delete(api.Resource("Listener", "again", namespace))
    await gateway.wait_answer(hostname, "/again", 404)
    await asyncio.to_thread(restorable.plane.back_up, tmp_path / "backup")

    await server.apply(installs.placed(install, namespace, "edited", "/elsewhere"))
    await server.delete(api.Resource("Listener", "deleted", namespace))
    for name in ("new", "again"):
        await server.apply(installs.placed(install, namespace, name, f"/{name}"))
    for path, status in (("/elsewhere", 200), ("/edited", 404), ("/deleted", 404), ("/new", 200), ("/again", 200)):
        await gateway.wait_answer(hostname, path, status)

    await asyncio.to_thread(restorable.restart, tmp_path / "backup")
    for path, status in (("/elsewhere", 404), ("/edited", 200), ("/deleted", 200)):
        await gateway.wait_answer(hostname, path, status, CONVERGED_SECONDS)
    assert await gateway.answer(hostname, "/again") == 200, "the tombstone in the backup is that of a former object"
    await server.apply(installs.placed(install, namespace, "edited", "/after"))  # the watches work again
    await gateway.wait_answer(hostname, "/after", 200, CONVERGED_SECONDS)
    await server.wait(
        api.Resource("Listener", "edited", namespace),
        lambda listener: api.condition(listener, "Programmed")["status"] == "True",
        CONVERGED_SECONDS,
    )
    await server.delete(api.Resource("Listener", "deleted", namespace))
    await gateway.wait_answer(hostname, "/deleted", 404, CONVERGED_SECONDS)
    assert (operator.process.returncode, gateway.process.returncode) == (None, None)


async def test_deleted_crds_remove_no_document(
    restorable: clusters.Restorable,
    restorable_namespaces: installs.Namespaces,
    restorable_install: installs.Install,
) -> None:
    """The test uses a separate cluster, because every install sees the deletion."""
    install, namespace = restorable_install, await restorable_namespaces("agency")
    operator = await install.start_operator()
    await declare(install, namespace, "lobby")
    everything = await live(install, namespace)
    try:
        await restorable.cluster.kubectl("delete", "crd", "listeners.usher.dev")
        await waiting.until(
            # The watch sees that it was deleted, or a reader that the server does not know it, whichever is first.
            lambda: operator.get("/readyz"),
            lambda answer: answer[0] == 503 and "listeners.usher.dev" in answer[1],
        )
    finally:
        restorable.cluster.define(clusters.own_definitions())
    await waiting.until(lambda: operator.get("/readyz"), lambda answer: answer[0] == 200)
    klass = api.of(install.klass())
    await install.server.wait(klass, lambda current: api.condition(current, "Ready").get("reason") == "RemovalsHalted")
    assert await live(install, namespace) == everything
    await declare(install, namespace, "lobby")
    await install.server.wait(klass, lambda current: api.condition(current, "Ready").get("reason") != "RemovalsHalted")


async def test_stored_object_that_does_not_fit_its_definition_gets_a_status(
    restorable: clusters.Restorable,
    restorable_namespaces: installs.Namespaces,
    restorable_install: installs.Install,
) -> None:
    """The test uses a separate cluster, because it changes a definition for a moment."""
    install, namespace = restorable_install, await restorable_namespaces("agency")
    operator = await install.start_operator()
    await declare(install, namespace, "lobby", "bar")
    assert await operator.stop() == 0
    definition = api.Resource("CustomResourceDefinition", "listeners.usher.dev", "")
    strict = (await install.server.get(definition))["spec"]["versions"]
    loose = json.loads(json.dumps(strict))
    fields = loose[0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    fields["silence"] = {"x-kubernetes-preserve-unknown-fields": True}
    lobby, bar = (api.Resource("Listener", name, namespace) for name in ("lobby", "bar"))

    numbers = itertools.count()

    async def answer_to_edit(listener: api.Resource) -> int:
        """Return the answer to another value each time, because the API server accepts an invalid one that stays."""
        try:
            await install.server.merge(listener, {"spec": {"silence": f"never {next(numbers)}"}})
        except api.ApiError as error:
            return error.status
        return 200

    try:
        await install.server.merge(definition, {"spec": {"versions": loose}})
        await waiting.until(lambda: answer_to_edit(lobby), lambda status: status == 200)
    finally:
        await install.server.merge(definition, {"spec": {"versions": strict}})
    await waiting.until(lambda: answer_to_edit(bar), lambda status: status == 422)
    await install.start_operator()
    listener = await install.server.wait(
        lobby, lambda listener: api.condition(listener, "Accepted").get("reason") == "UnsupportedValue"
    )
    assert "last good configuration stays in force" in api.condition(listener, "Accepted")["message"]
    assert api.condition(listener, "Ready")["status"] == "False"
