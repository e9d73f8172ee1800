"""A misbehaving destination does not slow the others, and loses none of its deliveries."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support import gateway as in_process
from support import gateways, peers, waiting
from usher_gateway import model
from usher_gateway.simulator import receiving
from usher_gateway.simulator.receiver import Receiver

AnyGateway = gateways.Gateway | in_process.RunningGateway
HEALTHY = 60
FAST = 60.0  # Factor of the clock: circuits are tried once a second, and retries come after 0.1 to 10 s
EXPIRES_SECONDS = 300  # 5 s at this speed: on a slow machine the visits are accepted before they expire


def crm(peer: Receiver, **http: Any) -> gateways.Manifest:
    return gateways.destination("crm", f"{peer.url}/crm", {"timeoutSeconds": 2, **http})


def hook(*routes: gateways.Manifest, **spec: Any) -> list[gateways.Manifest]:
    return [gateways.TENANT, gateways.listener("hook", routes or [gateways.route("crm", "crm")], **spec)]


async def post_visits(gateway: AnyGateway, numbers: Sequence[int], path: str = "/hook") -> None:
    """Post visits over a few connections, and check that all are acknowledged."""
    remaining = list(numbers)

    async def post() -> None:
        connection = gateways.Connection(gateway.port)
        while remaining:
            reply = await connection.post(path, gateways.visit(remaining.pop()))
            assert reply.is_acknowledgement
        connection.close()

    await asyncio.gather(*[post() for _ in range(8)])


def holds_of(gateway: AnyGateway) -> dict[str, int]:
    """Return the number of held deliveries by reason."""
    counts = gateway.store.rows("select hold, count(*) from deliveries where state = 0 and hold > 0 group by hold")
    return {model.HoldReason(hold).name: count for hold, count in counts}


def states_of(gateway: AnyGateway) -> dict[str, int]:
    """Return the number of deliveries by state."""
    counts = gateway.store.rows("select state, count(*) from deliveries group by state")
    return {model.DeliveryState(state).name: count for state, count in counts}


async def wait_for(measure: Callable[[], object], expected: object, seconds: float = 60) -> None:
    await waiting.wait_until(lambda: measure() == expected, seconds, f"{expected}, but {measure()},")


# One bad destination among many good ones


BAD = {
    "hanging": peers.hanging,
    "dripping": peers.answering(*[bytes([byte]) for byte in b"HTTP/1.1 200 OK\r\n\r\n"], pause_seconds=1),
    "resetting": peers.resetting,
    "garbage": peers.answering(b"\x16\x03\x01 this is not HTTP \x00\r\n\r\n"),
    "huge": peers.flooding(b"HTTP/1.1 500 Huge\r\nContent-Length: 300000000\r\n\r\n", bytes(65_536), 300_000_000),
    "down": peers.answering(b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"),
}


@pytest.mark.timeout(600)
async def test_misbehaving_destinations_do_not_slow_others_or_purple(tmp_path: Path, peer: Receiver) -> None:
    names = [f"d{number}" for number in range(HEALTHY)]
    manifests = [gateways.TENANT]
    for number in range(10):
        mine = names[number::10]
        manifests.append(gateways.listener(f"l{number}", [gateways.route(name, name) for name in [*mine, *BAD]]))
    manifests += [gateways.destination(name, f"{peer.url}/{name}", {"timeoutSeconds": 10}) for name in names]
    visits = 10
    async with contextlib.AsyncExitStack() as stack:
        for name, handler in BAD.items():
            bad_peer = await stack.enter_async_context(peers.serving(handler))
            manifests.append(gateways.destination(name, bad_peer.url(), {"timeoutSeconds": 10}))
        gateway = await stack.enter_async_context(gateways.Gateway(tmp_path, manifests))
        await gateway.start()
        bytes_before = gateway.resident_bytes
        slowest = 0.0
        for number in range(visits):
            replies = await asyncio.gather(
                *[gateways.post(gateway.port, f"/l{at}", gateways.visit(number * 10 + at)) for at in range(10)]
            )
            assert all(reply.is_acknowledgement for reply in replies)
            slowest = max(slowest, *[reply.seconds for reply in replies])

        def all_healthy_served() -> bool:
            return all(peer.counts(f"/{name}").distinct == visits for name in names)

        await waiting.wait_until(all_healthy_served, 120, "everything at the healthy ones")
        assert slowest < 8
        assert gateway.resident_bytes - bytes_before < 200_000_000
        assert states_of(gateway).get("Dead", 0) == 0
        assert gateway.store.count("deliveries") == visits * (HEALTHY + 10 * len(BAD))


# Outages


async def test_recovered_destination_gets_its_backlog_and_fresh_visits(tmp_path: Path, peer: Receiver) -> None:
    manifests = [*hook(), {**crm(peer), "spec": {**crm(peer)["spec"], "concurrency": 8}}]
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    async with in_process.running(tmp_path, manifests, time_scale=FAST) as gateway:
        await post_visits(gateway, range(400))
        await wait_for(lambda: gateway.store.count("deliveries where waiting = 1"), 400)
        received = peer.counts("/crm").received
        quiet_from = time.monotonic()
        await asyncio.sleep(3)
        tries = peer.counts("/crm").received - received
        seconds = time.monotonic() - quiet_from
        assert 1 <= tries <= seconds + 2  # one trial a (scaled) minute
        peer.set_behaviour("/crm", receiving.Behaviour(delay_seconds=0.1))
        await waiting.wait_until(lambda: peer.counts("/crm").distinct > 50, 60, "the beginning of the backlog")
        fresh = range(1000, 1020)
        await post_visits(gateway, fresh)

        def fresh_served() -> bool:
            got = {received.body for received in peer.kept("/crm")[-200:]}
            return all(gateways.visit(number) in got for number in fresh)

        await waiting.wait_until(fresh_served, 60, "fresh visits")
        assert peer.counts("/crm").distinct < 420, "fresh visits waited for the whole backlog"
        await wait_for(lambda: states_of(gateway), {"Delivered": 420}, 60)
        assert peer.counts("/crm").distinct == 420
        assert peer.counts("/crm").duplicates == 0


async def test_deliveries_that_do_not_fit_into_lanes_wait_in_the_store(tmp_path: Path, peer: Receiver) -> None:
    peer.set_behaviour("/crm", receiving.Behaviour(delay_seconds=0.01))
    async with in_process.running(tmp_path, [*hook(), crm(peer)], lane_bytes=16_384) as gateway:
        await post_visits(gateway, range(300))  # at once, so fewer than a listener accepts in a second
        assert gateway.gateway.dispatcher.scheduler.bytes <= 16_384
        await waiting.wait_until(lambda: peer.counts("/crm").distinct == 300, 60, "the delivery of everything")
        assert peer.counts("/crm").distinct == 300
        assert peer.counts("/crm").duplicates == 0


# Holds


async def test_edit_that_stops_deliveries_holds_them_until_another_edit(tmp_path: Path, peer: Receiver) -> None:
    paused = {**crm(peer), "spec": {**crm(peer)["spec"], "state": "Paused"}}
    suspended = {**gateways.TENANT, "spec": {"state": "Suspended"}}
    stops: list[tuple[str, list[gateways.Manifest]]] = [
        ("DestinationPaused", [*hook(), paused]),
        ("TenantSuspended", [suspended, *hook()[1:], crm(peer)]),
        ("ListenerSuspended", [*hook(state="Suspended"), crm(peer)]),
        ("DestinationNotFound", hook()),
    ]
    async with in_process.running(tmp_path, stops[0][1]) as gateway:
        for reason, manifests in stops:
            gateway.configure(manifests)

            async def is_held(reason: str = reason) -> bool:
                await post_visits(gateway, [gateway.store.count("arrivals")])
                return holds_of(gateway) == {reason: gateway.store.open_deliveries()}

            await waiting.wait_until(is_held, 60, f"a hold {reason}")
            received_before = peer.counts("/crm").received
            gateway.configure([*hook(), crm(peer)])
            await waiting.wait_until(lambda: gateway.store.open_deliveries() == 0, 60, f"the end of {reason}")
            assert peer.counts("/crm").received > received_before
        assert states_of(gateway) == {"Delivered": gateway.store.count("arrivals")}
        assert peer.counts("/crm").duplicates == 0


async def test_missing_or_unusable_secret_holds_deliveries_without_retries(tmp_path: Path, peer: Receiver) -> None:
    headers = {"headers": [{"name": "X-Key", "valueFrom": {"secretKeyRef": {"name": "crm-key", "key": "key"}}}]}
    objects = [*hook(), crm(peer, **headers)]
    unusable = gateways.secret("crm-key", key="with a control character \x01")
    async with in_process.running(tmp_path, [*objects, unusable], time_scale=FAST) as gateway:
        await post_visits(gateway, range(3))
        await wait_for(lambda: holds_of(gateway), {"SecretNotFound": 3})
        since = gateway.store.rows("select min(due_at) from deliveries")
        await asyncio.sleep(1.5)  # several reviews of holds
        assert holds_of(gateway) == {"SecretNotFound": 3}
        assert gateway.store.rows("select min(due_at) from deliveries") == since
        snapshot = gateway.gateway.snapshot
        gateway.configure(objects)
        await waiting.wait_until(lambda: gateway.gateway.snapshot is not snapshot, 60, "a missing secret")
        await post_visits(gateway, [3])
        await wait_for(lambda: holds_of(gateway), {"SecretNotFound": 4})
        gateway.configure([*objects, gateways.secret("crm-key", key="clean")])
        await wait_for(lambda: states_of(gateway), {"Delivered": 4})
        assert {request.headers["x-key"] for request in peer.kept("/crm")} == {"clean"}


async def test_corrected_filter_decides_held_deliveries_again(tmp_path: Path, peer: Receiver) -> None:
    broken = gateways.route("crm", "crm", when="int(visit.email) > 0")
    mended = gateways.route("crm", "crm", when='visit.userId.endsWith("1")')
    async with in_process.running(tmp_path, [*hook(broken), crm(peer)]) as gateway:
        await post_visits(gateway, range(20))
        await wait_for(lambda: holds_of(gateway), {"FilterError": 20})  # some may be in a retry
        gateway.configure([*hook(mended), crm(peer)])
        await wait_for(lambda: states_of(gateway), {"Delivered": 2, "Cancelled": 18})
        assert {request.body for request in peer.kept("/crm")} == {gateways.visit(1), gateways.visit(11)}
        assert gateways.balance(gateway.store.meters()) == 0
        reasons = gateway.store.rows("select distinct cancel from deliveries where state = 3")
        assert reasons == [(int(model.CancelReason.Filter),)]


async def test_reverted_edit_of_a_transform_releases_held_deliveries(tmp_path: Path, peer: Receiver) -> None:
    good = gateways.route("crm", "crm", transform='{"n": visit.userId}')
    bad = gateways.route("crm", "crm", transform='{"n": int(visit.email)}')
    paused = gateways.destination("crm", f"{peer.url}/crm", state="Paused")
    async with in_process.running(tmp_path, [*hook(good), paused]) as gateway:
        await post_visits(gateway, range(5))
        gateway.configure([*hook(bad), crm(peer)])
        await wait_for(lambda: holds_of(gateway), {"TransformError": 5})
        gateway.configure([*hook(good), crm(peer)])
        await wait_for(lambda: states_of(gateway), {"Delivered": 5})


# Answers of destinations


async def test_401_is_retried_at_once_after_a_secret_change(tmp_path: Path, peer: Receiver) -> None:
    bearer = {"authentication": {"type": "Bearer", "bearer": {"secretRef": {"name": "token", "key": "token"}}}}
    peer.set_behaviour("/crm", receiving.Behaviour(status=401))
    old, new = (gateways.secret("token", token=text) for text in ("old", "new"))
    async with in_process.running(tmp_path, [*hook(), crm(peer, **bearer), old]) as gateway:
        await post_visits(gateway, range(12))
        await wait_for(lambda: gateway.store.count("deliveries where waiting = 1"), 12)
        peer.set_behaviour("/crm", receiving.Behaviour())
        gateway.configure([*hook(), crm(peer, **bearer), new])
        await wait_for(lambda: states_of(gateway), {"Delivered": 12}, 30)  # a circuit is tried once a minute
        taken = peer.kept("/crm")[-12:]
        assert {request.headers["authorization"] for request in taken} == {"Bearer new"}


async def test_401_to_an_attempt_begun_before_a_change_is_retried_at_once(tmp_path: Path, peer: Receiver) -> None:
    bearer = {"authentication": {"type": "Bearer", "bearer": {"secretRef": {"name": "token", "key": "token"}}}}
    peer.set_behaviour("/crm", receiving.Behaviour(status=401, delay_seconds=1.9))
    old, new = (gateways.secret("token", token=text) for text in ("old", "new"))
    async with in_process.running(tmp_path, [*hook(), crm(peer, timeoutSeconds=5, **bearer), old]) as gateway:
        await post_visits(gateway, [1])
        await wait_for(lambda: peer.counts("/crm").received, 1)
        gateway.configure([*hook(), crm(peer, timeoutSeconds=5, **bearer), new])
        await wait_for(lambda: "Bearer new" in {each.headers["authorization"] for each in peer.kept("/crm")}, True, 60)


async def test_expired_delivery_is_cancelled_and_not_sent(tmp_path: Path, peer: Receiver) -> None:
    soon = gateways.route("crm", "crm", deliverWithinSeconds=EXPIRES_SECONDS)
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    async with in_process.running(tmp_path, [*hook(soon), crm(peer)], time_scale=FAST) as gateway:
        await post_visits(gateway, range(10))
        await wait_for(lambda: states_of(gateway), {"Cancelled": 10}, 60)
        reasons = gateway.store.rows("select distinct cancel from deliveries")
        assert reasons == [(int(model.CancelReason.Expired),)]
        assert gateways.balance(gateway.store.meters()) == 0


async def test_removed_route_or_listener_cancels_no_delivery(tmp_path: Path, peer: Receiver) -> None:
    second = gateways.listener("second", [gateways.route("crm", "crm", transform='{"u": visit.userId}')])
    third = gateways.listener("third", [gateways.route("crm", "crm")])
    peer.set_behaviour("/crm", receiving.Behaviour(status=503))
    manifests = [*hook(), second, third, crm(peer)]
    async with in_process.running(tmp_path, manifests, time_scale=FAST) as gateway:
        await post_visits(gateway, range(3))
        await post_visits(gateway, range(3), "/second")
        await wait_for(lambda: gateway.store.count("deliveries where waiting = 1"), 6)
        gateway.configure([*hook(gateways.route("new", "crm")), third, crm(peer)])

        async def is_removed() -> bool:
            return (await gateways.post(gateway.port, "/second", b"{}")).status == 404

        await waiting.wait_until(is_removed, 60, "the removal of the listener")
        peer.set_behaviour("/crm", receiving.Behaviour())
        await wait_for(lambda: states_of(gateway), {"Delivered": 6}, 60)
        assert b'{"u":"2"}' in {request.body for request in peer.kept("/crm")}
