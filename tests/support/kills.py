"""Rounds in which a gateway is killed under load, and the checks after a round."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec

from support import databases, gateways, waiting
from usher_gateway import model
from usher_gateway.simulator import receiver, receiving

KILLS = 3
CONNECTIONS = 24
DUE_SOON = "5"  # Factor of the clock: a retry after 5 s comes after 1 s

PATHS = ("/crm", "/mail", "/shared", "/flaky")


def manifests(url: str) -> list[gateways.Manifest]:
    """Manifests of two listeners with a filter, a once-per rule, a shared destination, and a flaky one."""
    routes = [
        gateways.route("crm", "crm"),
        gateways.route("odd", "mail", when='visit.userId.endsWith("1")'),
        gateways.route("shared", "shared"),
    ]
    second = [
        gateways.route("daily", "mail", oncePer={"per": ["User"], "every": "Day"}),
        gateways.route("shared", "shared", repeats="Forward"),
        gateways.route("flaky", "flaky"),
    ]
    return [
        gateways.TENANT,
        gateways.listener("first", routes),
        gateways.listener("second", second),
        *[gateways.destination(path[1:], url + path) for path in PATHS],
    ]


class Sent(msgspec.Struct):
    """The history of one body."""

    path: str
    body: bytes
    acknowledged: int = 0
    answers: int = 0


class Sender:
    """Posts bodies over many connections, and repeats those that were not acknowledged."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._number = 0
        self.sent: list[Sent] = []
        self._again: list[Sent] = []
        self._is_over = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._post())

    def finish(self) -> None:
        """Stop making new bodies; run() ends when all are acknowledged."""
        self._is_over = True

    def _next(self) -> Sent | None:
        if self._again:
            return self._again.pop()
        if self._is_over:
            return None
        self._number += 1
        user = self._random.randrange(1, 4) if self._random.random() < 0.1 else 1000 + self._number
        path = self._random.choice(("/first", "/second"))
        request = Sent(path, gateways.visit(self._number, user))
        self.sent.append(request)
        return request

    async def _post(self) -> None:
        connection = gateways.Connection(self._port)
        try:
            while (sent := self._next()) is not None:
                try:
                    reply = await connection.post(sent.path, sent.body)
                except OSError:
                    self._again.append(sent)
                    await asyncio.sleep(0.02)  # the gateway is down: try again later, as a real sender does
                    continue
                sent.answers += 1
                if reply.is_acknowledgement:
                    sent.acknowledged += 1
                else:
                    assert reply.status == 503
                    self._again.append(sent)
                    await asyncio.sleep(0.02)
        finally:
            connection.close()


async def one_round(folder: Path, seed: int, database: str | None = None) -> None:
    """Kill a gateway under load; ``database``: it runs on this PostgreSQL database, and not on SQLite."""
    chance = random.Random(seed)
    in_flight: set[str] = set()
    async with receiver.Receiver(receiver.ReceiverSettings(keep=False)) as peer:
        peer.set_behaviour("/flaky", receiving.Behaviour(status=503), for_seconds=0.3)
        async with gateways.Gateway(
            folder, manifests(peer.url), "--time-scale", DUE_SOON, database=database
        ) as gateway:
            await gateway.start()
            sender = Sender(gateway.port, seed)
            sending = asyncio.create_task(sender.run())
            for _ in range(KILLS):
                await asyncio.sleep(chance.uniform(0.05, 0.5))
                await gateway.kill()
                if chance.random() < 0.5:
                    peer.set_behaviour("/flaky", receiving.Behaviour(status=503), for_seconds=0.2)
                unsettled = unsettled_in(gateway.store)
                if database is not None:
                    databases.let_gateways_die(database)
                await gateway.launch()
                await asyncio.sleep(0.1)  # to read what is still in the sockets; a new process needs longer to send
                in_flight |= unsettled & {identifier for path in PATHS for identifier in peer.taken_ids(path)}
                await gateway.wait_ready()
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            sender.finish()
            await sending
            store = gateway.store
            await waiting.wait_until(lambda: store.open_deliveries() == 0, 60, "the delivery of everything")
            assert await gateway.terminate() == 0
            check_ledger(store, sender.sent)
            check_deliveries(store, peer, in_flight)
            check_books(store)


def unsettled_in(store: gateways.StoreData) -> set[str]:
    """Return the deliveries whose outcome was not committed when the gateway was killed."""
    return {model.format_id(row[0]) for row in store.rows("select id from deliveries where state = 0")}


def check_ledger(store: gateways.StoreData, sent: Sequence[Sent]) -> None:
    """Check that the ledger has every body, at most as often as it was sent, and once as the right kind."""
    listeners = dict(store.rows("select number, listener from listeners"))
    ledger: dict[tuple[str, bytes], list[int]] = {}
    statement = "select listener, body, counted_as from arrivals join bodies on bodies.key = arrivals.key"
    for listener, body, counted_as in store.rows(statement):
        ledger.setdefault((f"/{listeners[listener]}", body), []).append(counted_as)
    assert all(each.acknowledged == 1 for each in sent)
    assert ledger.keys() == {(each.path, each.body) for each in sent}
    for each in sent:
        words = ledger[each.path, each.body]
        assert words.count(int(model.CountedAs.Visit)) <= 1
        assert set(words) <= {int(model.CountedAs.Visit), int(model.CountedAs.Repeat), int(model.CountedAs.Redelivery)}
        # Committed, but killed before the answer: the sender repeated it, so it is also a repeat (same visitor and
        # venue).
        assert words[1:].count(int(model.CountedAs.Visit)) == 0


def check_deliveries(store: gateways.StoreData, peer: receiver.Receiver, in_flight: set[str]) -> None:
    """Check that the receiver got every delivery, and twice only those that a kill left unsettled."""
    destinations = {number: "/" + key.partition("/")[2] for number, key in store.rows("select * from destinations")}
    expected: dict[str, set[str]] = {path: set() for path in PATHS}
    for identifier, number in store.rows("select id, destination from deliveries"):
        expected[destinations[number]].add(model.format_id(identifier))
    for path in PATHS:
        taken = peer.taken_ids(path)
        assert taken.keys() == expected[path]
        assert {identifier for identifier, times in taken.items() if times > 1} <= in_flight
    assert expected["/crm"]
    assert expected["/mail"]


def check_books(store: gateways.StoreData) -> None:
    """Check that meters and rows agree, and that the equations hold."""
    meters = store.meters()
    words = dict(store.rows("select counted_as, count(*) from arrivals group by counted_as"))
    counter, counted = model.Counter, model.CountedAs
    for meter, word in (
        (counter.visits, counted.Visit),
        (counter.repeats, counted.Repeat),
        (counter.redeliveries, counted.Redelivery),
    ):
        assert meters[meter] == words.get(int(word), 0)
    assert meters[counter.created] == store.count("deliveries")
    assert meters[counter.delivered] == store.count("deliveries where state = 1")
    assert gateways.balance(meters) == store.open_deliveries() == 0
    skipped = sum(count for meter, count in meters.items() if meter.name.startswith("skipped_"))
    assert meters[counter.routed] == 3 * (meters[counter.visits] + meters[counter.repeats])
    assert meters[counter.routed] == meters[counter.created] + skipped
