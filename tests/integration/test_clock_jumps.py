"""The wall clock of a gateway jumps by a day or twenty years, and back: it loses no visit and delivers none twice.

The contract tests of the store try kills with a clock that is wrong.
"""

import datetime
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

from support import gateway as in_process
from support import gateways, waiting
from usher_gateway import app, model
from usher_gateway.simulator import receiver, receiving

HOUR, DAY = 3600, 86_400
TWENTY_YEARS = 20 * 365 * DAY
VISITS = 4  # Visits per clock setting, half of them with the true time in the body; few enough that no circuit opens


class WallClock:
    """The wall clock of this process. The monotonic clock stays, as when an administrator sets a machine's time."""

    def __init__(self) -> None:
        self.ahead_seconds = 0
        self._true = time.time_ns

    def nanoseconds(self) -> int:
        return self._true() + self.ahead_seconds * 1_000_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    wall_clock = WallClock()
    monkeypatch.setattr(time, "time_ns", wall_clock.nanoseconds)
    monkeypatch.setattr(app, "_PRUNE_SECONDS", 0.1)
    return wall_clock


class Sender:
    """Posts visits and records their bodies."""

    def __init__(self) -> None:
        self.timed: list[bytes] = []
        self.count = self.again = 0

    async def visits(self, gateway: in_process.RunningGateway) -> None:
        """Post new visits of different people, and check that each is acknowledged."""
        for _ in range(VISITS):
            self.count += 1
            body = gateways.visit(self.count)
            if self.count % 2:
                now = datetime.datetime.now(datetime.UTC).isoformat()
                body = gateways.visit(self.count, loginDatetime=now)
                self.timed.append(body)
            assert (await gateways.post(gateway.port, "/first", body)).is_acknowledgement

    async def redeliver(self, gateway: in_process.RunningGateway) -> None:
        """Post every body with a time again: these are certainly the same authentications."""
        for body in self.timed:
            self.again += 1
            assert (await gateways.post(gateway.port, "/first", body)).is_acknowledgement


def manifests(url: str) -> list[gateways.Manifest]:
    routes = [gateways.route(name, name) for name in ("crm", "flaky")]
    destinations = [gateways.destination(name, f"{url}/{name}") for name in ("crm", "flaky")]
    return [gateways.TENANT, gateways.listener("first", routes), *destinations]


def assert_each_once(requests: list[receiver.Received], count: int) -> None:
    assert sorted(json.loads(request.body)["number"] for request in requests) == list(range(1, count + 1))
    assert len({request.headers["webhook-id"] for request in requests}) == count


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_clock_jump_loses_no_visit_and_delivers_none_twice(
    tmp_path: Path, clock: WallClock, peer: receiver.Receiver, jump: int
) -> None:
    """The gateway restarts after the clock is corrected."""
    sender = Sender()
    async with in_process.running(tmp_path, manifests(peer.url)) as gateway:
        await sender.visits(gateway)
        await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == 2 * VISITS)
        peer.set_behaviour("/flaky", receiving.Behaviour(status=503))
        clock.ahead_seconds = jump
        await sender.redeliver(gateway)
        await sender.visits(gateway)
        await waiting.wait_until(lambda: only_failed(gateway), what="an attempt of each delivery")
    failed = peer.kept("/flaky")[VISITS:]
    peer.set_behaviour("/flaky", receiving.Behaviour())
    clock.ahead_seconds = 0
    async with in_process.running(tmp_path, manifests(peer.url)) as gateway:
        await sender.redeliver(gateway)
        await sender.visits(gateway)
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the end of all deliveries")
        assert_each_once(peer.kept("/crm"), sender.count)
        assert_each_once([request for request in peer.kept("/flaky") if request not in failed], sender.count)
        assert_books(gateway, sender)


async def test_jump_of_twenty_years_deletes_and_cancels_nothing(
    tmp_path: Path, clock: WallClock, peer: receiver.Receiver
) -> None:
    routes = [gateways.route(name, name, deliverWithinSeconds=HOUR) for name in ("crm", "flaky", "held")]

    def set_up(state: str) -> list[gateways.Manifest]:
        destinations = [gateways.destination(name, f"{peer.url}/{name}") for name in ("crm", "flaky")]
        destinations.append(gateways.destination("held", f"{peer.url}/held", state=state))
        return [gateways.TENANT, gateways.listener("first", routes), *destinations]

    peer.set_behaviour("/flaky", receiving.Behaviour(status=503))
    with structlog.testing.capture_logs() as logs:
        async with in_process.running(tmp_path, set_up("Paused")) as gateway:
            await Sender().visits(gateway)
            await waiting.wait_until(lambda: gateway.store.count("deliveries where state = 1") == VISITS)

            clock.ahead_seconds = TWENTY_YEARS
            gateway.configure([*set_up("Paused"), gateways.destination("other", f"{peer.url}/other")])  # reviews holds
            for _ in range(2):
                noted = confirmed_at(gateway)
                await waiting.wait_until(functools.partial(was_pruned, gateway, noted), 60, "a run of retention")
            await waiting.wait_until(lambda: "clock_jumped" in [line["event"] for line in logs], what="a log line")
            assert await has_warning(gateway)
            assert counts(gateway) == (VISITS, 3 * VISITS, VISITS)
            assert gateway.store.count("bodies where body is not null") == VISITS
            assert gateway.store.open_deliveries() == 2 * VISITS

            peer.set_behaviour("/flaky", receiving.Behaviour())
            clock.ahead_seconds = 0
            gateway.configure(set_up("Active"))
            await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the end of all deliveries")
            assert counts(gateway) == (VISITS, 3 * VISITS, 3 * VISITS)
            for path in ("/crm", "/held"):
                assert_each_once(peer.kept(path), VISITS)


async def test_visit_is_not_stale_by_a_clock_that_jumped_ahead(
    tmp_path: Path, clock: WallClock, peer: receiver.Receiver
) -> None:
    routes = [gateways.route("crm", "crm", deliverWithinSeconds=HOUR)]
    resources = [gateways.TENANT, gateways.listener("first", routes), gateways.destination("crm", peer.url)]
    async with in_process.running(tmp_path, resources) as gateway:
        clock.ahead_seconds = DAY
        await Sender().visits(gateway)
        assert counts(gateway)[:2] == (VISITS, VISITS)
        clock.ahead_seconds = 0
        await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, "the end of all deliveries")
        assert counts(gateway) == (VISITS, VISITS, VISITS)
        assert_each_once(peer.kept("/"), VISITS)


@pytest.mark.parametrize("token", [{"generation": 1}, {"generation": 1, "alsoAccept": [{"generation": 0}]}])
async def test_old_url_does_not_end_by_a_clock_that_jumped_ahead(
    tmp_path: Path, clock: WallClock, token: dict[str, Any]
) -> None:
    """An edit retires the old URL, or declares until when it is accepted."""
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    for old in token.get("alsoAccept", ()):
        old["untilTime"] = tomorrow.isoformat(timespec="seconds")
    tenant, listener = (
        gateways.TENANT,
        gateways.listener("first", [], addresses=[{"name": "a", "hostname": gateways.HOST}]),
    )
    async with in_process.running(tmp_path, [tenant, listener]) as gateway:
        (old_address,) = gateway.gateway.snapshot.listeners["default/first"].addresses
        for jump, state in ((0, "Active"), (60 * DAY, "Suspended")):
            clock.ahead_seconds = jump
            edited = {**listener, "spec": {**listener["spec"], "token": token, "state": state}}
            gateway.configure([tenant, edited])
            await waiting.wait_until(functools.partial(has_state, gateway, state))
            answer = await gateways.post(gateway.port, old_address.path, gateways.visit(jump))
            assert answer.is_acknowledgement, f"after a jump of {jump} s"


def has_state(gateway: in_process.RunningGateway, state: str) -> bool:
    listener = gateway.gateway.snapshot.listeners["default/first"]
    return (listener.state, len(listener.addresses)) == (state, 2)


async def has_warning(gateway: in_process.RunningGateway) -> bool:
    status, text = await gateway.readiness()
    assert status == 200
    return "the clock jumped" in text


async def test_start_with_another_clock_warns_unless_it_is_accepted(tmp_path: Path, clock: WallClock) -> None:
    warned, noted = [], 0
    for jump, accepts in ((0, False), (TWENTY_YEARS, False), (TWENTY_YEARS, True), (TWENTY_YEARS, False)):
        clock.ahead_seconds = jump
        async with in_process.running(tmp_path, manifests("http://127.0.0.1:1"), accept_clock=accepts) as gateway:
            await waiting.wait_until(functools.partial(was_pruned, gateway, noted), 60, "a run of retention")
            warned.append(await has_warning(gateway))
            noted = confirmed_at(gateway)
    assert warned == [False, True, False, False]


def confirmed_at(gateway: in_process.RunningGateway) -> int:
    """Return the time of the last run of retention."""
    rows = gateway.store.rows("select value from meta where name = 'confirmed_at'")
    return int(rows[0][0]) if rows else 0


def was_pruned(gateway: in_process.RunningGateway, after: int) -> bool:
    return confirmed_at(gateway) > after


def counts(gateway: in_process.RunningGateway) -> tuple[int, int, int]:
    """Return the visits, the created and the delivered deliveries according to the meters."""
    meters, counter = gateway.store.meters(), model.Counter
    return meters[counter.visits], meters[counter.created], meters[counter.delivered]


def only_failed(gateway: in_process.RunningGateway) -> bool:
    """Return True if everything is delivered except what the flaky destination rejected."""
    return (gateway.store.open_deliveries(), gateway.store.count("deliveries where attempts = 0")) == (VISITS, 0)


def assert_books(gateway: in_process.RunningGateway, sender: Sender) -> None:
    meters, counter = gateway.store.meters(), model.Counter
    assert gateways.balance(meters) == 0
    assert (meters[counter.visits], meters[counter.delivered]) == (sender.count, 2 * sender.count)
    assert meters[counter.redeliveries] + meters[counter.repeats] == sender.again
    ids = [identifier for (identifier,) in gateway.store.rows("select id from deliveries order by key")]
    assert ids == sorted(set(ids))
