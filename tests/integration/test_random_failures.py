"""Many tenants, tiny limits and random failures by a seed: every acknowledged visit is stored and counted.

Runs the steps of arrivals and deliveries, the dispatcher and a real store in one process. Statements fail, the
database refuses bodies, senders hang up, deadlines pass, destinations fail, hang and disappear, and the gateway stops
and crashes. Then all failures end, the gateway finishes every delivery, and the test checks the books, the ledger and
all in-memory counters.
"""

import asyncio
import collections
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from multidict import CIMultiDict

from support import engines, gateways, ingest_samples
from usher_gateway import documents, model, timing
from usher_gateway.delivery.dispatcher import Dispatcher, DispatcherLimits
from usher_gateway.delivery.holds import HoldReviewer
from usher_gateway.delivery.route_documents import RouteDocuments
from usher_gateway.delivery.worker import DeliveryWorker
from usher_gateway.destinations import DestinationAnswer, DestinationRequest, SendError
from usher_gateway.destinations.http import DestinationClient
from usher_gateway.ingest.body_budgets import BodyBudgets
from usher_gateway.ingest.counters import ArrivalCounters
from usher_gateway.ingest.evaluation_limits import CpuBudgets
from usher_gateway.ingest.pipeline import ArrivalPipeline
from usher_gateway.ingest.registry import ListenerRegistry
from usher_gateway.ingest.server import Request
from usher_gateway.store import books, encodings
from usher_gateway.store.base import UsageRow
from usher_gateway.store.sqlite import database
from usher_gateway.store.sqlite import store as sqlite_store

TIME_SCALE = 500.0
"""Factor of the clock: a retry after 5 s comes after 10 ms."""

TENANTS = 9
LISTENERS = 2
SENDERS = 40
DEADLINE_SECONDS = 0.3
DESTINATIONS = ("good", "flaky", "hanging", "refusing", "elsewhere")
QUEUE = {"entries": 24, "tenant_entries": 8, "bytes": 30_000, "tenant_bytes": 8_000, "batch_entries": 5}
LANES = DispatcherLimits(lane_bytes=9_000, in_flight=6, unsettled=4)
FOREVER = 1 << 62


class FailingConnection:
    """A connection on which statements fail at random. The writer uses it in another thread."""

    def __init__(self, connection: sqlite3.Connection, chance: random.Random) -> None:
        self._connection, self._chance = connection, chance
        self.failure_rate = 0.0
        self.is_slow = False
        """True if the next commit takes longer than the deadline."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "commit" and self.is_slow:
            self.is_slow = False
            time.sleep(1.2 * DEADLINE_SECONDS)  # the deadline passes before the commit
            return self._connection.execute(statement)
        if not statement.startswith("rollback") and self._chance.random() < self.failure_rate:
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class FakeDestinations:
    """Answers in place of the destinations."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.is_healthy = False
        self.delivered: collections.Counter[str] = collections.Counter()
        """webhook-id -> how often a destination accepted it."""

    def literal_refusal(self, _: str) -> str | None:
        return None

    async def send(self, request: DestinationRequest, timeout_seconds: float) -> DestinationAnswer:
        chance, name = self._chance, request.url.rpartition("/")[2]
        await asyncio.sleep(chance.uniform(0, 0.01))
        if not self.is_healthy:
            if chance.random() < 0.01:
                raise RuntimeError(f"a programming error, within {timeout_seconds} s")
            if name == "hanging" and chance.random() < 0.8:
                await asyncio.sleep(0.1)
                return DestinationAnswer(error=SendError.Timeout)
            if name == "flaky" and chance.random() < 0.5:
                return DestinationAnswer(503)
        if name == "refusing":
            return DestinationAnswer(400)
        self.delivered[dict(request.headers)["webhook-id"]] += 1
        return DestinationAnswer(200)


class PostedRequest:
    """The part of a server.Request that the steps of an arrival use, without a connection."""

    method = "POST"
    remote = "127.0.0.1"
    is_complete = True
    unanswered_bytes = 0

    def __init__(self, path: str, body: bytes, *, is_connected: bool) -> None:
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.host_and_target = ("hooks.test", path)
        self.body = body
        self.is_connected = is_connected
        self.deadline = asyncio.get_running_loop().time() + DEADLINE_SECONDS

    def note_listener(self, listener: model.ListenerName) -> None:
        pass

    async def read_body(self) -> bytes:
        return self.body

    async def wait_and_give_way(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def snapshot(chance: random.Random, *, healthy: bool) -> documents.Snapshot:
    """Return always the same listeners; unless ``healthy``, some destinations are missing or paused."""
    listeners = {}
    for number in range(TENANTS * LISTENERS):
        tenant = documents.TenantDocument(
            f"tenant-{number // LISTENERS}", visits_per_month=20 * (number % 3), when_exceeded="Hold"
        )
        if healthy:
            tenant = msgspec.structs.replace(tenant, when_exceeded="Forward")
        routes = [documents.Route("crm", f"agency/{DESTINATIONS[number % len(DESTINATIONS)]}")]
        routes.append(documents.Route("all", "agency/good", repeats="Forward", deliver_within_seconds=100_000))
        if number % 4 == 0:
            routes.append(documents.Route("once", "agency/flaky", once_per=documents.OncePer(("User",), "Day")))
        document = ingest_samples.listener(name=f"l{number}", routes=tuple(routes))
        address = documents.Address("hooks.test", f"/l{number}")
        listeners[document.key] = msgspec.structs.replace(
            document, tenant=tenant, addresses=(address,), max_body_bytes=2_500
        )
    destinations = {}
    for name in DESTINATIONS:
        if healthy or chance.random() < 0.8:
            state: Any = "Active" if healthy or chance.random() < 0.8 else "Paused"
            timeout = 30 if healthy else 10
            destination = ingest_samples.destination(
                name=name, url=f"https://peer.test/{name}", state=state, timeout_seconds=timeout, concurrency=3
            )
            destinations[destination.key] = destination
    return documents.Snapshot(listeners, destinations)


class GatewayRun:
    """One run of a gateway without its sockets."""

    def __init__(self, scenario: "Scenario") -> None:
        self.scenario = scenario
        self.clock = scenario.clock
        self.store = cast(
            "sqlite_store.SqliteStore",
            engines.Sqlite().make(
                scenario.place, cast("engines.Clock", scenario.clock.now), limits=QUEUE, fold_rows=20
            ),
        )
        self.tasks: list[asyncio.Task[None]] = []
        self.is_over = self.has_crashed = False

    async def start(self) -> None:
        await self.store.open()
        if not self.scenario.is_prepared:
            engines.Sqlite().refuse_bodies(self.scenario.place, "poison")
            self.scenario.is_prepared = True
        writer = self.store.writer
        self.connection = FailingConnection(writer.connection, random.Random(self.scenario.chance.random()))
        writer.connection = writer.names._connection = cast("sqlite3.Connection", self.connection)
        client = cast("DestinationClient", self.scenario.peers)
        newest = RouteDocuments(keys=ingest_samples.KEYS)
        budgets = CpuBudgets()
        worker = DeliveryWorker(
            store=self.store, client=client, clock=self.clock, route_documents=newest, budgets=budgets
        )
        self.dispatcher = Dispatcher(
            store=self.store, worker=worker, route_documents=newest, clock=self.clock, limits=LANES
        )
        self.hold_reviewer = HoldReviewer(
            store=self.store,
            route_documents=newest,
            clock=self.clock,
            offer=self.dispatcher.offer_backlog,
            has_slow_transform=worker.is_too_slow,
            budgets=budgets,
        )
        self.counters = ArrivalCounters()
        self.registry = ListenerRegistry(
            keys=ingest_samples.KEYS,
            expressions=ingest_samples.RecordingWatcher(),
            counters=self.counters,
            budgets=budgets,
        )
        self.pipeline = ArrivalPipeline(
            registry=self.registry,
            store=self.store,
            clock=self.clock,
            keys=ingest_samples.KEYS,
            counters=self.counters,
            budgets=BodyBudgets(),
            deliver=self.dispatcher.offer,
        )
        self.apply()
        jobs = (self.pipeline.watch_deadlines(), self.dispatcher.run(), self._review(), self._change_failures())
        self.tasks = [asyncio.create_task(job) for job in jobs]

    def apply(self, *, healthy: bool = False) -> None:
        new_snapshot = snapshot(self.scenario.chance, healthy=healthy)
        self.registry.apply(new_snapshot, asyncio.get_running_loop().time())
        self.dispatcher.apply(new_snapshot)

    async def _review(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            with contextlib.suppress(model.StoreUnavailableError):
                await self.hold_reviewer.review()
                self.dispatcher.ask_store()

    async def _change_failures(self) -> None:
        while True:
            chance = self.scenario.chance
            await asyncio.sleep(chance.uniform(0.01, 0.2))
            if self.scenario.is_healthy:
                continue
            self.connection.failure_rate = chance.choice([0.0, 0.0, 0.005, 0.05, 1.0])
            self.connection.is_slow = chance.random() < 0.2
            if chance.random() < 0.3:
                self.apply()

    async def post(self, path: str, body: bytes, *, is_connected: bool) -> int:
        """Pass one arrival through the real steps and return the status of the answer."""
        loop = asyncio.get_running_loop()
        request = PostedRequest(path, body, is_connected=is_connected)
        answer = await self.pipeline.accept(cast("Request", request))
        assert loop.time() < request.deadline + 5  # with a margin for a busy machine
        return answer.status

    def check_tasks(self) -> None:
        """Check that no task of the gateway has ended, because the gateway would end with it."""
        for task in self.tasks:
            assert not task.done(), task.exception()

    async def stop(self) -> None:
        self.check_tasks()
        self.tasks.pop().cancel()  # ends the failures, because the gateway loses what it cannot write while it stops
        self.connection.failure_rate = 0.0
        await gateways.wait_until(lambda: not self.pipeline.uncommitted)
        await self.dispatcher.stop(1)
        await self._end()
        await self.store.close()
        self._add_up()

    async def crash(self) -> None:
        self.check_tasks()
        self.is_over = self.has_crashed = True
        self.dispatcher._stopping.set()
        for attempt in list(self.dispatcher._attempts):
            attempt.cancel()
        await engines.Sqlite().crash(self.store)
        await self._end()
        self._add_up()

    async def _end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _add_up(self) -> None:
        for counts in self.counters.counted.values():
            for counted_as in model.CountedAs:
                self.scenario.counted[counted_as.name.lower()] += counts[counted_as]
        self.scenario.unacknowledged += self.counters.unacknowledged


class Scenario:
    """The state that outlives a gateway, with the senders' own counters."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place = place
        self.chance = random.Random(seed)
        self.clock = timing.Clock(TIME_SCALE)
        self.peers = FakeDestinations(random.Random(seed + 1))
        self.is_prepared = self.is_healthy = False
        self.posted = 0
        self.acknowledged: collections.Counter[bytes] = collections.Counter()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.counted: collections.Counter[str] = collections.Counter()
        self.unacknowledged = 0
        self._number = 0
        self._again: list[tuple[str, bytes]] = []

    def _next(self) -> tuple[str, bytes]:
        chance = self.chance
        if self._again and chance.random() < 0.3:
            return self._again.pop()
        self._number += 1
        listener = int(chance.triangular(0, TENANTS * LISTENERS, 0)) % (TENANTS * LISTENERS)
        user = chance.choice([self._number, self._number, chance.randrange(5)])
        body: dict[str, Any] = {"n": self._number, "user": {"id": user, "venue": {"id": 9}}}
        body["filler"] = "x" * chance.choice([0, 10, 500, 2_000, 3_000])
        kind = chance.random()
        if kind < 0.03:
            body["filler"] = "poison"
        elif kind < 0.06:
            del body["user"]
        elif kind < 0.09:
            body = {}
        return f"/l{listener}", json.dumps(body).encode()

    async def send(self, run: GatewayRun) -> None:
        """Post visits, and repeat those that were not acknowledged, until the gateway ends."""
        while not run.is_over:
            path, body = self._next()
            self.posted += 1
            is_connected = self.chance.random() > 0.05
            status = await run.post(path, body, is_connected=is_connected)
            self.statuses[status] += 1
            if status == 200 and is_connected:
                self.acknowledged[body] += 1
            else:
                self._again.append((path, body))
            await asyncio.sleep(self.chance.choice([0, 0, 0.001, 0.02]))

    @contextlib.asynccontextmanager
    async def senders(self, run: GatewayRun) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.send(run)) for _ in range(SENDERS)]
        yield
        run.is_over = True
        done, left = await asyncio.wait(tasks, timeout=2 * DEADLINE_SECONDS if run.has_crashed else 60)
        for task in done:
            task.result()
        assert run.has_crashed or not left
        for task in left:
            task.cancel()  # the crashed gateway will never answer this sender
        await asyncio.gather(*left, return_exceptions=True)


async def run_scenario(place: Path, seed: int, *, crashes: bool, runs: int = 2) -> None:
    """Run a gateway several times with failures, and end the failures in the last run."""
    scenario = Scenario(place, seed)
    for left in range(runs - 1, -1, -1):
        run = GatewayRun(scenario)
        await run.start()
        async with scenario.senders(run):
            await asyncio.sleep(scenario.chance.uniform(0.3, 0.6) if left else 1.2)
            if not left:
                await gateways.wait_until(lambda: len(scenario.peers.delivered) > 60, 60, "enough deliveries")
            if crashes and left:
                await run.crash()
        if not left:
            await finish_and_check(run, crashes=crashes)
        elif not crashes:
            await run.stop()


async def finish_and_check(run: GatewayRun, *, crashes: bool) -> None:
    scenario = run.scenario
    scenario.is_healthy = scenario.peers.is_healthy = True
    run.connection.failure_rate = 0.0
    run.apply(healthy=True)

    async def is_nothing_open() -> bool:
        run.check_tasks()
        return not await run.store.open_deliveries(FOREVER)

    await gateways.wait_until(is_nothing_open, 60, "the end of all deliveries")
    await run.store.flush()
    check_nothing_is_left(run)
    usage = await run.store.usage(0, FOREVER)
    assert books.check(usage, {}, {}) == []
    await run.stop()
    check_books(scenario, usage, crashes=crashes)
    check_ledger(scenario)
    check_deliveries(scenario, crashes=crashes)


def check_nothing_is_left(run: GatewayRun) -> None:
    """Check that every bounded counter is back at zero; one that drifts would finally reject every arrival."""
    store, dispatcher, lanes = run.store, run.dispatcher, run.dispatcher.scheduler
    queue = store._commits._arrivals
    assert (queue.entries, queue.bytes, len(queue._tenants), store._commits._waiters) == (0, 0, 0, [])
    assert (store.unsettled, store._commits._orphans) == (0, [])
    assert store._commits._abandoned == {}
    assert (lanes.bytes, lanes.count, lanes.in_flight) == (0, 0, 0)
    assert lanes._shared.namespaces == lanes._reserve.namespaces == 0
    assert all(lane.bytes == lane.in_flight == 0 for lane in lanes._lanes.values())
    assert (dispatcher._claimed, dispatcher._deferred, dispatcher._outdated) == (set(), [], set())
    assert (run.pipeline.uncommitted, store.writer.claimed) == (0, set())


def check_books(scenario: Scenario, usage: list[UsageRow], *, crashes: bool) -> None:
    meters: collections.Counter[int] = collections.Counter()
    for row in usage:
        meters.update(row.counts)
    arrivals = sum([meters[counter] for counter in books.ARRIVALS])
    if crashes:
        assert arrivals <= scenario.posted
        return
    assert arrivals == scenario.posted
    words = list(model.CountedAs)
    assert [scenario.counted[word.name.lower()] for word in words] == [meters[counter] for counter in books.ARRIVALS]
    assert meters[model.Counter.unacknowledged] == scenario.unacknowledged


def rows_of(scenario: Scenario, statement: str) -> list[Any]:
    store = gateways.StoreFile(scenario.place / database.FILE_NAME)
    return list(store.rows(statement))


def check_ledger(scenario: Scenario) -> None:
    """Check that every acknowledged body has its row."""
    kept: collections.Counter[bytes] = collections.Counter()
    for stored, size, reason in rows_of(
        scenario, "select body, body_size, reason from bodies join arrivals using (key)"
    ):
        body = encodings.unpack_body(stored)
        kept[f"{size}".encode() if reason else bytes(body)] += 1
    expected: collections.Counter[bytes] = collections.Counter()
    for body, count in scenario.acknowledged.items():
        fields = json.loads(body)
        if fields:
            is_kept = "user" in fields and fields["filler"] != "poison" and len(body) <= 2_500
            expected[body if is_kept else f"{len(body)}".encode()] += count
    assert expected - kept == {}
    assert expected


def check_deliveries(scenario: Scenario, *, crashes: bool) -> None:
    states: collections.Counter[int] = collections.Counter()
    for identifier, state in rows_of(scenario, "select id, state from deliveries"):
        states[state] += 1
        taken = scenario.peers.delivered[model.format_id(identifier)]
        if state == model.DeliveryState.Delivered:
            assert taken >= 1
        if not crashes:
            assert taken == (state == model.DeliveryState.Delivered)
    assert states[model.DeliveryState.Delivered] > 20
    assert states[model.DeliveryState.Pending] == 0


@pytest.mark.parametrize("crashes", [False, True])
async def test_random_failures_keep_every_acknowledged_visit(tmp_path: Path, crashes: bool) -> None:
    await run_scenario(tmp_path / "data", random.randrange(1 << 30), crashes=crashes)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("crashes", [False, True])
async def test_many_random_failures_keep_every_acknowledged_visit(tmp_path: Path, seed: int, crashes: bool) -> None:
    await run_scenario(tmp_path / "data", seed, crashes=crashes, runs=5)
