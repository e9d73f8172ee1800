"""Several gateways on one database under load, while they are killed, suspended and disconnected.

Nothing that was acknowledged is lost, the books are exact, and only attempts that were in flight are repeated.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from support import databases, gateways, waiting
from usher_gateway import model
from usher_gateway.simulator import receiver

GATEWAYS = 3
CONNECTIONS = 12
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
DISCONNECT = (
    "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}' and application_name = 'usher'"
)
CLAIMED = "select 1 from deliveries where owner = {} and state = 0 and hold = 0 and not waiting limit 1"


def manifests(url: str) -> list[gateways.Manifest]:
    routes = [gateways.route("crm", "crm"), gateways.route("odd", "mail", when='visit.userId.endsWith("1")')]
    return [
        gateways.TENANT,
        gateways.listener("wifi", routes),
        gateways.destination("crm", f"{url}/crm"),
        gateways.destination("mail", f"{url}/mail"),
    ]


class Chaos:
    """The gateways, a sender, and what happens to them."""

    def __init__(self, fleet: Sequence[gateways.Gateway], database: str, seed: int) -> None:
        self.fleet = fleet
        self.database = database
        self.random = random.Random(seed)
        self.incarnations: dict[int, int] = {}  # Gateway -> the number of its incarnation
        self.acknowledged: set[int] = set()
        self.unsettled: set[str] = set()  # Deliveries that were open when something happened
        self._number = 0
        self._is_over = False

    async def start(self, place: int) -> None:
        gateway = self.fleet[place]
        await gateway.start(USHER_INSTALL_KEY=KEY)
        ((newest,),) = gateway.store.rows("select max(number) from incarnations")
        self.incarnations[place] = newest

    # The sender

    async def send(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._post())

    def finish(self) -> None:
        self._is_over = True

    async def _post(self) -> None:
        """Post bodies; repeat each at any gateway until one acknowledges it."""
        while not self._is_over:
            self._number += 1
            number = self._number
            while number not in self.acknowledged:
                gateway = self.random.choice(self.fleet)
                with contextlib.suppress(OSError):
                    reply = await gateways.post(gateway.port, "/wifi", gateways.visit(number))
                    assert reply.status in {200, 503}
                    if reply.is_acknowledgement:
                        self.acknowledged.add(number)
                await asyncio.sleep(0.02)

    # Failures

    async def kill(self, place: int) -> None:
        await self.fleet[place].kill()
        self.note_unsettled()
        await self.let_die(place)
        await self.start(place)

    async def suspend(self, place: int) -> None:
        """Suspend a gateway until others take over; it ends by itself when it comes back."""
        process = self.fleet[place].process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        # Its own clock does not show that 61 s passed, so it may send what it has once more when it comes back. That
        # includes the deliveries of a commit that the server had received already.
        await self.transactions_ended()
        self.note_unsettled()
        await self.let_die(place)
        claimed = CLAIMED.format(self.incarnations[place])
        await waiting.wait_until(lambda: not self.fleet[place].store.rows(claimed), 90, "a takeover")
        process.send_signal(signal.SIGCONT)
        assert await self.fleet[place].exit_code() == 1
        await self.start(place)

    async def disconnect(self, _: int) -> None:
        self.note_unsettled()
        await asyncio.to_thread(databases.server().rows, DISCONNECT.format(self.database))

    async def let_die(self, place: int) -> None:
        await asyncio.to_thread(databases.let_gateways_die, self.database, f"number = {self.incarnations[place]}")

    async def transactions_ended(self) -> None:
        """Wait until every transaction that is open now has ended. The server ends those of a suspended gateway."""
        store = self.fleet[0].store
        # Not xmax of a snapshot, because the open transactions may have higher numbers than it.
        ((border,),) = store.rows("select pg_current_xact_id()::text::bigint")
        oldest = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        await waiting.wait_until(lambda: bool(store.rows(oldest)[0][0] >= border), 60, "the end of transactions")

    def note_unsettled(self) -> None:
        rows = self.fleet[0].store.rows("select id from deliveries where state = 0")
        self.unsettled |= {model.format_id(identifier) for (identifier,) in rows}


async def run(folder: Path, database: str, seed: int, events: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        peer = await stack.enter_async_context(receiver.Receiver(receiver.ReceiverSettings(keep=False)))
        fleet = []
        for place in range(GATEWAYS):
            own = folder / f"gateway-{place}"
            own.mkdir()
            gateway = gateways.Gateway(own, manifests(peer.url), database=database)
            fleet.append(await stack.enter_async_context(gateway))
        chaos = Chaos(fleet, database, seed)
        for place in range(GATEWAYS):
            await chaos.start(place)
        sending = asyncio.create_task(chaos.send())
        happenings = [chaos.kill, chaos.suspend, chaos.disconnect]
        for number in range(events):
            await asyncio.sleep(chaos.random.uniform(0.2, 1.0))
            await happenings[number % len(happenings)](chaos.random.randrange(GATEWAYS))
        chaos.finish()
        await sending
        store = fleet[0].store
        await waiting.wait_until(lambda: store.open_deliveries() == 0, 60, "the delivery of everything")
        for gateway in fleet:
            assert await gateway.terminate() == 0
    check(store, peer, chaos)


def check(store: gateways.StoreData, peer: receiver.Receiver, chaos: Chaos) -> None:
    counter = model.Counter
    ledger = store.rows("select body, counted_as from arrivals join bodies on bodies.key = arrivals.key")
    visits = [bytes(body) for body, counted_as in ledger if counted_as == model.CountedAs.Visit]
    assert len(visits) > 100
    assert sorted(visits) == sorted(gateways.visit(number) for number in chaos.acknowledged)
    meters = store.meters()
    assert meters[counter.visits] == len(visits)
    assert sum(meters[each] for each in (counter.visits, counter.repeats, counter.redeliveries)) == len(ledger)
    assert meters[counter.created] == meters[counter.delivered] == store.count("deliveries where state = 1")
    assert gateways.balance(meters) == 0
    taken = {identifier: times for path in ("/crm", "/mail") for identifier, times in peer.taken_ids(path).items()}
    assert taken.keys() == set(store.delivered_ids())
    assert {identifier for identifier, times in taken.items() if times > 1} <= chaos.unsettled


@pytest.mark.timeout(240)
async def test_gateways_that_fail_under_load_lose_nothing(tmp_path: Path, database: str) -> None:
    await run(tmp_path, database, seed=0, events=3)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.timeout(900)
async def test_gateways_that_fail_for_minutes_lose_nothing(tmp_path: Path, database: str, seed: int) -> None:
    await run(tmp_path, database, seed=seed, events=40)
