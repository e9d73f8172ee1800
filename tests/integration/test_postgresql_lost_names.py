"""Gateways under load whose database fails over to a standby that lacks the last names.

No visit is stored under another listener, no row is without a name, and with ``Replicated`` no acknowledged visit is
lost.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from postgresql.server import PostgresServer, StandbyServer
from support import gateways, waiting
from usher_gateway.store.postgresql.connections import Durability

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
GATEWAYS = 2
CONNECTIONS = 6
FIRST_LISTENERS = 2

CANCEL_WAITS = "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'"
NAMES = "select listener from listeners"
VISITS = """
    select l.listener, convert_from(b.body, 'UTF8') from arrivals a
    left join listeners l on l.number = a.listener join bodies b on b.key = a.key
"""
WITHOUT_ROUTE = """
    select count(*) from deliveries d left join routes r on r.number = d.route
    left join listeners l on l.number = r.listener left join arrivals a on a.key = d.arrival and a.listener = r.listener
    left join destinations on destinations.number = d.destination
    where l.number is null or a.key is null or destinations.number is null
"""
"""Deliveries whose route has no name, or belongs to the listener of another arrival."""


def manifests(listeners: int, state: str) -> list[gateways.Manifest]:
    """Return listeners with a destination that does not answer, in a given state."""
    routes = [gateways.route("crm", "crm")]
    declared = [gateways.listener(f"l{number}", routes) for number in range(listeners)]
    return [gateways.TENANT, gateways.destination("crm", "http://127.0.0.1:1", state=state), *declared]


class Load:
    """Posts visits to any gateway, and knows which ones are acknowledged."""

    def __init__(self, fleet: Sequence[gateways.Gateway], seed: int, state: str) -> None:
        self.fleet = fleet
        self.state = state
        """The state of the destination."""
        self.random = random.Random(seed)
        self.listeners = FIRST_LISTENERS
        self.acknowledged: list[tuple[str, int]] = []
        """(listener, number of the visit)."""
        self._number = 0
        self._is_over = False
        self._only: str | None = None
        """If this is set, all visits go to this listener."""
        self._in_flight = 0
        self._may_post = asyncio.Event()
        self._may_post.set()
        self._tasks = [asyncio.create_task(self._post()) for _ in range(CONNECTIONS)]

    async def add_listener(self) -> str:
        """Configure another listener; return its name."""
        self.listeners += 1
        for gateway in self.fleet:
            gateway.configure(manifests(self.listeners, self.state))
        return f"l{self.listeners - 1}"

    async def pause(self) -> None:
        """Post nothing, and wait for the answers."""
        self._may_post.clear()

        async def in_flight() -> int:
            return self._in_flight

        await waiting.until(in_flight, lambda count: count == 0)

    def resume(self, only: str | None = None) -> None:
        """Post again: to all listeners, or to only one."""
        self._only = only
        self._may_post.set()

    async def all_acknowledged(self) -> None:
        """Wait until each listener gets a visit acknowledged that is posted from now on."""
        first = self._number
        names = {f"l{number}" for number in range(self.listeners)}

        async def names_since() -> set[str]:
            return {name for name, number in self.acknowledged if number > first}

        await waiting.until(names_since, lambda names_acknowledged: names_acknowledged >= names, limit_seconds=120)

    async def finish(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def _post(self) -> None:
        while not self._is_over:
            await self._may_post.wait()
            self._number += 1
            number, name = self._number, self._only or f"l{self.random.randrange(self.listeners)}"
            body = gateways.visit(number, listener=name)
            self._in_flight += 1
            with contextlib.suppress(OSError):
                reply = await gateways.post(self.random.choice(self.fleet).port, f"/{name}", body)
                if reply.is_acknowledgement:
                    self.acknowledged.append((name, number))
            self._in_flight -= 1
            await asyncio.sleep(0.02)


async def replicating(primary: PostgresServer) -> None:
    async def states() -> list[str]:
        rows = await asyncio.to_thread(primary.rows, "select sync_state from pg_stat_replication")
        return [str(state) for (state,) in rows]

    await waiting.until(states, lambda current_states: current_states == ["sync"])


async def name_written(primary: PostgresServer, name: str) -> None:
    """Wait until a server has the name of a listener, while somebody gives up every wait for the standby."""

    async def look() -> bool:
        await asyncio.to_thread(primary.rows, CANCEL_WAITS)
        return (name,) in [tuple(row) for row in await asyncio.to_thread(primary.rows, NAMES)]

    await waiting.until(look)


async def run(folder: Path, durability: Durability, *, seed: int, failovers: int) -> None:
    # Without the standby, commits of attempts would wait for it before the new name is written.
    state = "Active" if durability == "Local" else "Paused"
    async with contextlib.AsyncExitStack() as stack:
        primary = stack.enter_context(PostgresServer(is_durable=True))
        servers: list[PostgresServer] = [primary]
        for _ in range(failovers + 1):
            servers.append(StandbyServer(servers[-1]))
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        fleet = []
        for place in range(GATEWAYS + 1):
            own = folder / f"gateway-{place}"
            own.mkdir()
            flags = ("--store", f"postgresql://usher@{hosts}/postgres", "--store-durability", durability)
            gateway = gateways.Gateway(own, manifests(FIRST_LISTENERS, state), *flags)
            fleet.append(await stack.enter_async_context(gateway))
        new_gateway = fleet.pop()
        stack.enter_context(servers[1])
        await replicating(primary)
        for gateway in fleet:
            await gateway.start(USHER_INSTALL_KEY=KEY)
        load = Load(fleet, seed, state)
        for number in range(failovers):
            old, standby = servers[number], servers[number + 1]
            assert isinstance(standby, StandbyServer)
            await load.all_acknowledged()
            if durability == "Replicated":
                await load.pause()  # or visits of other listeners, too, would wait before the new name is written
            await asyncio.to_thread(standby.kill)
            if durability == "Local":
                await asyncio.to_thread(old.execute, "alter system set synchronous_standby_names = ''")
                await asyncio.to_thread(old.execute, "select pg_reload_conf()")
            name = await load.add_listener()
            if durability == "Replicated":
                load.resume(only=name)
            await name_written(old, name)
            await asyncio.to_thread(old.kill)
            load.resume()
            kept = set(load.acknowledged) if durability == "Replicated" else set()
            await asyncio.to_thread(standby.start)
            await asyncio.to_thread(standby.promote)
            await asyncio.to_thread(stack.enter_context, servers[number + 2])
            await replicating(standby)
        failed_over = len(load.acknowledged) if durability == "Local" else 0
        await load.all_acknowledged()
        await load.finish()
        for gateway in fleet:
            assert await gateway.terminate() == 0
        new_gateway.configure(manifests(load.listeners, state))
        await new_gateway.start(USHER_INSTALL_KEY=KEY)
        assert (await new_gateway.readiness())[0] == 200
        check(servers[failovers], {*kept, *load.acknowledged[failed_over:]})


def check(server: PostgresServer, acknowledged: set[tuple[str, int]]) -> None:
    stored = [(name, json.loads(body)) for name, body in server.rows(VISITS)]
    assert [(name, body["user"]["listener"]) for name, body in stored if name != body["user"]["listener"]] == []
    assert acknowledged - {(name, body["number"]) for name, body in stored} == set()
    assert server.rows(WITHOUT_ROUTE)[0][0] == 0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("durability", ["Local", "Replicated"])
async def test_failovers_under_load_mix_no_listeners(tmp_path: Path, durability: Durability) -> None:
    await run(tmp_path, durability, seed=0, failovers=1)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("durability", ["Local", "Replicated"])
async def test_many_failovers_under_load_mix_no_listeners(tmp_path: Path, durability: Durability, seed: int) -> None:
    await run(tmp_path, durability, seed=seed, failovers=5)
