"""Several tenants, tight limits and random failures by a seed: every acknowledged visit is stored and counted.

A real gateway runs in the process of the test. Statements fail, the database refuses bodies, commits pass the deadline,
senders hang up, destinations fail, hang and disappear, and the gateway restarts. Then all failures end, the gateway
finishes every delivery, and the test checks the books, the ledger, what the destinations got, and the counters in
memory. Kills of the process are in test_kill.py.
"""

import asyncio
import collections
import contextlib
import functools
import json
import random
import sqlite3
import time
from pathlib import Path
from typing import Any, cast

import pytest

from support import engines, gateways, waiting, wire
from support import gateway as in_process
from usher_gateway import model
from usher_gateway.ingest import server
from usher_gateway.simulator import receiver, receiving
from usher_gateway.store import books
from usher_gateway.store.sqlite.store import SqliteStore

TIME_SCALE = 500.0  # Factor of the clock: a retry after 5 s comes after 10 ms

TENANTS = 6
LISTENERS = 12
SENDERS = 24
LIMITS = server.ServerLimits(answer_seconds=0.5, header_seconds=0.4)
DESTINATIONS = ("good", "flaky", "hanging", "refusing", "elsewhere")
BEHAVIOURS = {"flaky": receiving.Behaviour(status=503), "hanging": receiving.Behaviour(kind="Hang")}
FOREVER = 1 << 62


class FailingConnection:
    """A connection on which statements fail at random. The writer uses it in another thread."""

    def __init__(self, connection: sqlite3.Connection, chance: random.Random) -> None:
        self._connection, self._chance = connection, chance
        self.failure_rate = self.commit_failure_rate = 0.0
        self.is_slow = False  # True if the next commit takes longer than the deadline

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "commit" and self.is_slow:
            self.is_slow = False
            time.sleep(1.2 * LIMITS.answer_seconds)  # the deadline passes before the commit
            return self._connection.execute(statement)
        rate = self.commit_failure_rate if statement == "commit" else self.failure_rate
        if not statement.startswith("rollback") and self._chance.random() < rate:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def manifests(url: str, chance: random.Random, *, healthy: bool = False) -> list[gateways.Manifest]:
    """Return always the same listeners; unless ``healthy``, quotas hold, and destinations are missing or paused."""

    def resource(kind: str, name: str, **spec: Any) -> gateways.Manifest:
        return {"apiVersion": "usher.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    maximums = {"requestsPerSecond": 100_000}
    objects = [
        resource("ListenerClass", "public", controllerName="usher.dev/usher", hostname="hooks.test", maximums=maximums)
    ]
    for number in range(TENANTS):
        quota = {"visitsPerMonth": 20 * (1 + number % 3), "whenExceeded": "Forward" if healthy else "Hold"}
        objects.append(resource("Tenant", f"tenant-{number}", quota=quota))
    for number in range(LISTENERS):
        routes = [gateways.route("crm", DESTINATIONS[number % len(DESTINATIONS)])]
        routes.append(gateways.route("all", "good", repeats="Forward", deliverWithinSeconds=100_000))
        if number % 4 == 0:
            routes.append(gateways.route("once", "flaky", oncePer={"per": ["User"], "every": "Day"}))
        tenant = {"name": f"tenant-{number % TENANTS}"}
        objects.append(resource("Listener", f"l{number}", tenantRef=tenant, routes=routes))
    for name in DESTINATIONS:
        if healthy or chance.random() < 0.8:
            state = "Active" if healthy or chance.random() < 0.8 else "Paused"
            limits = {"timeoutSeconds": 30 if healthy else 1}
            objects.append(gateways.destination(name, f"{url}/{name}", limits, state=state, concurrency=3))
    return objects


class Senders:
    """Post visits, and repeat those that were not acknowledged. They outlive a gateway."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.acknowledged: collections.Counter[bytes] = collections.Counter()
        self._number = 0
        self._again: list[tuple[str, bytes]] = []

    def _next(self) -> tuple[str, bytes]:
        chance = self._chance
        if self._again and chance.random() < 0.3:
            return self._again.pop()
        self._number += 1
        listener = int(chance.triangular(0, LISTENERS, 0)) % LISTENERS
        user = chance.choice([self._number, self._number, chance.randrange(5)])
        body: dict[str, Any] = {"n": self._number, "user": {"id": user, "venue": {"id": 9}}}
        body["filler"] = "x" * chance.choice([0, 10, 500, 2_000])
        kind = chance.random()
        if kind < 0.03:
            body["filler"] = "poison"
        elif kind < 0.06:
            del body["user"]
        return f"default/l{listener}", json.dumps(body).encode()

    async def send(self, gateway: in_process.RunningGateway, is_over: asyncio.Event) -> None:
        while not is_over.is_set():
            listener, body = self._next()
            is_acknowledged = False
            with contextlib.suppress(OSError, wire.ClosedError):
                async with wire.connect(gateway.port) as connection:
                    await connection.send(wire.request(gateway.target(listener), body))
                    if self._chance.random() < 0.05:
                        connection.abort()
                    else:
                        answer = await connection.answer()
                        assert answer.status in {200, 503}
                        is_acknowledged = answer.acknowledges
            if is_acknowledged:
                self.acknowledged[body] += 1
            else:
                self._again.append((listener, body))
            await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.02]))


async def change_failures(
    gateway: in_process.RunningGateway, connection: FailingConnection, url: str, chance: random.Random
) -> None:
    while True:
        await asyncio.sleep(chance.uniform(0.01, 0.2))
        connection.failure_rate = chance.choice([0.0, 0.0, 0.005, 0.05, 1.0])
        connection.commit_failure_rate = chance.choice([0.0, 0.3])
        connection.is_slow = chance.random() < 0.2
        if chance.random() < 0.3:
            gateway.configure(manifests(url, chance))


def is_settled(store: SqliteStore) -> bool:
    return store.unsettled == 0 and store.may_attempt


async def run_scenario(folder: Path, seed: int, runs: int) -> None:
    """Run a gateway several times with failures, and end the failures in the last run."""
    chance = random.Random(seed)
    senders = Senders(chance)
    async with receiver.Receiver(receiver.ReceiverSettings(keep=False)) as peer:
        peer.set_behaviour("/refusing", receiving.Behaviour(status=400))
        for left in range(runs - 1, -1, -1):
            for name, behaviour in BEHAVIOURS.items():
                peer.set_behaviour(f"/{name}", behaviour, for_seconds=None if chance.random() < 0.5 else 0.5)
            settings: dict[str, Any] = {"time_scale": TIME_SCALE, "lane_bytes": 9_000, "max_attempts": 6}
            settings |= {"removal_limit": 1_000, "drain_seconds": 5.0}
            async with in_process.running(folder, manifests(peer.url, chance), LIMITS, **settings) as gateway:
                store = cast("SqliteStore", gateway.gateway.store)
                if left == runs - 1:
                    engines.Sqlite().refuse_bodies(store.settings.folder, "poison")
                connection = FailingConnection(store.writer.connection, random.Random(chance.random()))
                store.writer.connection = cast("sqlite3.Connection", connection)
                is_over = asyncio.Event()
                sending = [asyncio.create_task(senders.send(gateway, is_over)) for _ in range(SENDERS)]
                failing = asyncio.create_task(change_failures(gateway, connection, peer.url, chance))
                await asyncio.sleep(chance.uniform(1.0, 2.0))
                failing.cancel()  # the gateway loses what it cannot write while it stops
                connection.failure_rate = connection.commit_failure_rate = 0.0
                if not left:
                    await waiting.wait_until(lambda: sum(senders.acknowledged.values()) > 100, 60, "enough visits")
                is_over.set()
                await asyncio.gather(*sending)
                await waiting.wait_until(functools.partial(is_settled, store))
                if not left:
                    for name in BEHAVIOURS:
                        peer.set_behaviour(f"/{name}", receiving.Behaviour())
                    gateway.configure(manifests(peer.url, chance, healthy=True))
                    await finish_and_check(gateway, peer, senders)


async def finish_and_check(gateway: in_process.RunningGateway, peer: receiver.Receiver, senders: Senders) -> None:
    stored, running = gateway.store, gateway.gateway
    await waiting.wait_until(lambda: stored.open_deliveries() == 0, 60, "the end of all deliveries")
    await running.store.flush()
    # A bounded counter that drifts would finally reject every arrival.
    lanes = running.dispatcher.scheduler
    assert (running.pipeline.uncommitted, lanes.bytes, lanes.count, lanes.in_flight) == (0, 0, 0, 0)
    assert "refused:InternalError" not in gateway.counted()
    assert books.check(await running.store.usage(0, FOREVER), {}, {}) == []
    check_ledger(stored, senders.acknowledged)
    taken: collections.Counter[str] = collections.Counter()
    for name in DESTINATIONS:
        taken.update(peer.taken_ids(f"/{name}"))
    assert taken == collections.Counter(stored.delivered_ids())
    assert len(taken) > 20


def check_ledger(stored: gateways.StoreData, acknowledged: collections.Counter[bytes]) -> None:
    """Check that every acknowledged body has its row. Of a body that the database refuses, only the size is kept."""
    kept: collections.Counter[bytes] = collections.Counter()
    statement = "select body, body_size, reason from bodies join arrivals using (key)"
    for body, size, reason in stored.rows(statement):
        kept[b"%d" % size if reason == model.QuarantineReason.Unstorable else body] += 1
    expected: collections.Counter[bytes] = collections.Counter()
    for body, count in acknowledged.items():
        expected[b"%d" % len(body) if b"poison" in body else body] += count
    assert expected - kept == {}
    assert expected


@pytest.fixture(autouse=True)
def wall_clock_is_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start the clock of each gateway where the scaled clock of the previous one ended.

    Otherwise a delivery could end in an earlier quarter of an hour than it began.
    """
    true, start = time.time_ns, time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: start + int((true() - start) * TIME_SCALE))


async def test_random_failures_keep_every_acknowledged_visit(tmp_path: Path) -> None:
    await run_scenario(tmp_path, random.randrange(1 << 30), runs=2)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40))
async def test_many_random_failures_keep_every_acknowledged_visit(tmp_path: Path, seed: int) -> None:
    await run_scenario(tmp_path, seed, runs=5)
