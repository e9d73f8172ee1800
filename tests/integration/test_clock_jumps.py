"""The wall clock of a gateway jumps by an hour or a day, and back: it loses no visit and delivers none twice."""

import contextlib
import datetime
import functools
import json
from pathlib import Path

import pytest

from support import gateways, moving_clock, waiting
from usher_gateway import model
from usher_gateway.simulator import receiver, receiving

HOUR, DAY = 3600, 86_400
VISITS = 4
"""Visits per clock setting, half of them with the true time in the body; few enough that no circuit opens."""


class Sender:
    """Posts visits and records their bodies."""

    def __init__(self, port: int) -> None:
        self._connection = gateways.Connection(port)
        self.timed: list[bytes] = []
        self.count = self.again = 0

    async def visits(self) -> None:
        """Post new visits of different people, and check that each is acknowledged."""
        for _ in range(VISITS):
            self.count += 1
            body = gateways.visit(self.count)
            if self.count % 2:
                now = datetime.datetime.now(datetime.UTC).isoformat()
                body = gateways.visit(self.count, loginDatetime=now)
                self.timed.append(body)
            assert (await self._connection.post("/first", body)).is_acknowledgement

    async def redeliver(self) -> None:
        """Post every body with a time again: these are certainly the same authentications."""
        for body in self.timed:
            self.again += 1
            assert (await self._connection.post("/first", body)).is_acknowledgement

    def close(self) -> None:
        self._connection.close()


def manifests(url: str) -> list[gateways.Manifest]:
    routes = [gateways.route(name, name) for name in ("crm", "flaky")]
    destinations = [gateways.destination(name, f"{url}/{name}") for name in ("crm", "flaky")]
    return [gateways.TENANT, gateways.listener("first", routes), *destinations]


def assert_each_once(requests: list[receiver.Received], count: int) -> None:
    assert sorted(json.loads(request.body)["number"] for request in requests) == list(range(1, count + 1))
    assert len({request.headers["webhook-id"] for request in requests}) == count


@pytest.mark.parametrize(("jump", "is_killed"), [(HOUR, False), (DAY, True), (-HOUR, True), (-DAY, False)])
async def test_clock_jump_loses_no_visit_and_delivers_none_twice(tmp_path: Path, jump: int, *, is_killed: bool) -> None:
    """With ``is_killed``, the gateway is killed while the clock is wrong, and starts after it is corrected."""
    clock = moving_clock.Clock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        peer = await stack.enter_async_context(receiver.Receiver(receiver.ReceiverSettings(keep=True)))
        gateway = await stack.enter_async_context(gateways.Gateway(tmp_path, manifests(peer.url)))
        gateway.program = [moving_clock.PROGRAM, str(clock.file), "usher_gateway"]
        await gateway.start()
        sender = stack.enter_context(contextlib.closing(Sender(gateway.port)))
        await sender.visits()
        await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == 2 * VISITS)
        peer.set_behaviour("/flaky", receiving.Behaviour(status=503))
        clock.set(jump)
        await sender.redeliver()
        await sender.visits()
        await waiting.wait_until(lambda: only_failed(gateway), what="an attempt of each delivery")
        if is_killed:
            await gateway.kill()
        failed = peer.kept("/flaky")[VISITS:]
        peer.set_behaviour("/flaky", receiving.Behaviour())  # before retries become due, so that no more of them fail
        clock.set(0)
        if is_killed:
            sender.close()
            await gateway.start()
        await sender.redeliver()
        await sender.visits()
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the end of all deliveries")
        assert_each_once(peer.kept("/crm"), sender.count)
        assert_each_once([request for request in peer.kept("/flaky") if request not in failed], sender.count)
        assert_books(gateway, sender)


TWENTY_YEARS = 20 * 365 * DAY


async def test_jump_of_twenty_years_deletes_and_cancels_nothing(tmp_path: Path) -> None:
    clock = moving_clock.Clock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        peer = await stack.enter_async_context(receiver.Receiver(receiver.ReceiverSettings(keep=True)))
        routes = [gateways.route(name, name, deliverWithinSeconds=HOUR) for name in ("crm", "flaky", "held")]

        def set_up(state: str) -> list[gateways.Manifest]:
            destinations = [gateways.destination(name, f"{peer.url}/{name}") for name in ("crm", "flaky")]
            destinations.append(gateways.destination("held", f"{peer.url}/held", state=state))
            return [gateways.TENANT, gateways.listener("first", routes), *destinations]

        gateway = await stack.enter_async_context(gateways.Gateway(tmp_path, set_up("Paused")))
        gateway.program = [moving_clock.PROGRAM, str(clock.file), "usher_gateway"]
        await gateway.start()
        sender = stack.enter_context(contextlib.closing(Sender(gateway.port)))
        peer.set_behaviour("/flaky", receiving.Behaviour(status=503))
        await sender.visits()
        await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == VISITS)

        clock.set(TWENTY_YEARS)
        gateway.configure([*set_up("Paused"), gateways.destination("other", f"{peer.url}/other")])  # reviews holds
        for _ in range(2):
            noted = confirmed_at(gateway)
            await waiting.wait_until(functools.partial(was_pruned, gateway, noted), 60, "a run of retention")
        await waiting.wait_until(lambda: "clock_jumped" in gateway.log.read_text(), what="the line in the log")
        assert await has_warning(gateway)
        assert counts(gateway) == (VISITS, 3 * VISITS, VISITS)
        assert gateway.store.count("bodies where body is not null") == VISITS
        assert gateway.store.open_deliveries() == 2 * VISITS

        peer.set_behaviour("/flaky", receiving.Behaviour())
        clock.set(0)
        gateway.configure(set_up("Active"))
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the end of all deliveries")
        assert counts(gateway) == (VISITS, 3 * VISITS, 3 * VISITS)
        for path in ("/crm", "/held"):
            assert_each_once(peer.kept(path), VISITS)


async def test_visit_is_not_stale_by_a_clock_that_jumped_ahead(tmp_path: Path) -> None:
    clock = moving_clock.Clock(tmp_path / "clock")
    async with contextlib.AsyncExitStack() as stack:
        peer = await stack.enter_async_context(receiver.Receiver(receiver.ReceiverSettings(keep=True)))
        routes = [gateways.route("crm", "crm", deliverWithinSeconds=HOUR)]
        resources = [gateways.TENANT, gateways.listener("first", routes), gateways.destination("crm", peer.url)]
        gateway = await stack.enter_async_context(gateways.Gateway(tmp_path, resources))
        gateway.program = [moving_clock.PROGRAM, str(clock.file), "usher_gateway"]
        await gateway.start()
        sender = stack.enter_context(contextlib.closing(Sender(gateway.port)))
        clock.set(DAY)
        await sender.visits()
        assert counts(gateway)[:2] == (VISITS, VISITS)
        clock.set(0)
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the end of all deliveries")
        assert counts(gateway) == (VISITS, VISITS, VISITS)
        assert_each_once(peer.kept("/"), VISITS)


async def has_warning(gateway: gateways.Gateway) -> bool:
    status, text = await gateway.readiness()
    assert status == 200
    return "the clock jumped" in text


async def test_start_with_another_clock_warns_unless_it_is_accepted(tmp_path: Path) -> None:
    clock = moving_clock.Clock(tmp_path / "clock")
    async with gateways.Gateway(tmp_path, manifests("http://127.0.0.1:1")) as gateway:
        gateway.program = [moving_clock.PROGRAM, str(clock.file), "usher_gateway"]
        warned = []
        for jump, flags in ((0, []), (TWENTY_YEARS, []), (TWENTY_YEARS, ["--accept-clock"]), (TWENTY_YEARS, [])):
            clock.set(jump)
            usual = gateway.flags
            gateway.flags = [*usual, *flags]
            noted = confirmed_at(gateway)
            await gateway.start()
            await waiting.wait_until(functools.partial(was_pruned, gateway, noted), 60, "a run of retention")
            warned.append(await has_warning(gateway))
            gateway.flags = usual
            assert await gateway.terminate() == 0
        assert warned == [False, True, False, False]


def confirmed_at(gateway: gateways.Gateway) -> int:
    """Return the time of the last run of retention."""
    if not (gateway.data / "usher.sqlite3").exists():
        return 0
    rows = gateway.store.rows("select value from meta where name = 'confirmed_at'")
    return int(rows[0][0]) if rows else 0


def was_pruned(gateway: gateways.Gateway, after: int) -> bool:
    return confirmed_at(gateway) > after


def counts(gateway: gateways.Gateway) -> tuple[int, int, int]:
    """Return the visits, the created and the delivered deliveries according to the meters."""
    meters, counter = gateway.store.meters(), model.Counter
    return meters[counter.visits], meters[counter.created], meters[counter.delivered]


def only_failed(gateway: gateways.Gateway) -> bool:
    """Return True if everything is delivered except what the flaky destination rejected."""
    return (gateway.store.open_deliveries(), gateway.store.count("deliveries where attempts = 0")) == (VISITS, 0)


def assert_books(gateway: gateways.Gateway, sender: Sender) -> None:
    meters, counter = gateway.store.meters(), model.Counter
    assert gateways.balance(meters) == 0
    assert (meters[counter.visits], meters[counter.delivered]) == (sender.count, 2 * sender.count)
    assert meters[counter.redeliveries] + meters[counter.repeats] == sender.again
    ids = [identifier for (identifier,) in gateway.store.rows("select id from deliveries order by key")]
    assert ids == sorted(set(ids))
