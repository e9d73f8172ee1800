"""The operator with an API server that refuses or delays writes of the Lease."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import structlog
from aiohttp import web

from usher_gateway.kube import access, client
from usher_operator import settings
from usher_operator.run import leader
from usher_operator.settings import OperatorSettings
from usher_operator.state.confirmed_clock import ConfirmedClock


class LeaseStore:
    """Stores one Lease as an API server does."""

    def __init__(self) -> None:
        self._lease: dict[str, Any] = {}

    @property
    def holder(self) -> str:
        return str(self._lease["spec"]["holderIdentity"])

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(self._lease or {"reason": "NotFound"}, status=200 if self._lease else 404)
        written = await request.json()
        if self._lease and written["metadata"]["resourceVersion"] != self._lease["metadata"]["resourceVersion"]:
            return web.json_response({"reason": "Conflict"}, status=409)
        version = int(self._lease["metadata"]["resourceVersion"]) + 1 if self._lease else 1
        self._lease = {**written, "metadata": {**written["metadata"], "resourceVersion": str(version)}}
        return web.json_response(self._lease)


@pytest.mark.parametrize(("status", "hint"), [(404, "--namespace"), (403, "operator/rbac"), (401, "delete the pod")])
async def test_lease_that_cannot_be_created_is_logged_and_retried(status: int, hint: str) -> None:
    asked: Counter[str] = Counter()

    async def refuse(request: web.Request) -> web.Response:
        asked[request.method] += 1
        if asked["POST"] == 3:
            retried.set()
        return web.json_response({"reason": "No"}, status=404 if request.method == "GET" else status)

    retried = asyncio.Event()
    async with replica(refuse, settings.OperatorTiming(lease_retry_seconds=0.1)) as part:
        with structlog.testing.capture_logs() as logs:
            acquiring = asyncio.create_task(part.acquire())
            async with asyncio.timeout(60):
                await retried.wait()
            acquiring.cancel()
    assert (part.is_leader, part.reached_at) == (False, None)
    assert [hint in line["hint"] for line in logs[:2]] == [True, True]


async def test_next_leader_goes_on_from_the_saved_time_whatever_its_wall_clock() -> None:
    store, passed, hour = LeaseStore(), list[int](), 3600 * 1_000_000
    for wall in (1_800_000_000_000_000, 1_900_000_000_000_000, 0):
        steady = 5
        clock = ConfirmedClock(steady=lambda: steady, wall=lambda: wall)  # noqa: B023 - used within the turn
        async with replica(store.answer, settings.OperatorTiming(), clock) as part:
            await part.acquire()
            steady += hour
            passed.append(clock.now())
            await part.release()
    assert passed == [1_800_000_000_000_000 + number * hour for number in (1, 2, 3)]


async def test_replica_leads_although_each_request_takes_half_of_its_time() -> None:
    """A reading and a write together take longer than one request may."""
    store = LeaseStore()

    async def answer_slowly(request: web.Request) -> web.Response:
        await asyncio.sleep(2.6)
        return await store.answer(request)

    async with replica(answer_slowly, settings.OperatorTiming()) as part:
        async with asyncio.timeout(60):
            await part.acquire()
        assert part.may_write


async def test_renewal_whose_answer_is_lost_does_not_cost_the_lease() -> None:
    """The next renewal conflicts with the lost one, and is the last one before the deadline."""
    store, replaced = LeaseStore(), 0

    async def lose_the_first_answer(request: web.Request) -> web.Response:
        nonlocal replaced
        answer = await store.answer(request)
        if request.method == "PUT" and answer.status == 200:
            replaced += 1
            if replaced == 1:
                await asyncio.sleep(60)  # the client gives up before, and 0.9 s of the deadline are left
            renewed.set()
        return answer

    renewed = asyncio.Event()
    timing = settings.OperatorTiming(renew_deadline_seconds=6.0, lease_retry_seconds=2.1)
    async with replica(lose_the_first_answer, timing) as part:
        await part.acquire()
        holding = asyncio.create_task(part.hold())
        await asyncio.wait({holding, asyncio.create_task(renewed.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert not holding.done()
        assert part.is_leader
        holding.cancel()


async def test_lease_is_released_although_the_answer_to_its_last_renewal_is_lost() -> None:
    store, renewed = LeaseStore(), asyncio.Event()

    async def lose_the_answer(request: web.Request) -> web.Response:
        answer = await store.answer(request)
        if request.method == "PUT" and not renewed.is_set():
            renewed.set()
            await asyncio.sleep(60)  # the client ends before
        return answer

    async with replica(lose_the_answer, settings.OperatorTiming(lease_retry_seconds=0.1)) as part:
        await part.acquire()
        holding = asyncio.create_task(part.hold())
        await renewed.wait()
        holding.cancel()
        await part.release()
    assert store.holder == ""


@contextlib.asynccontextmanager
async def replica(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    timing: settings.OperatorTiming,
    confirmed_clock: ConfirmedClock | None = None,
) -> AsyncIterator[leader.LeaderLease]:
    """Yield one replica's part in the election at an API server that answers as given."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    connection = access.ApiConnection(server=f"http://{host}:{port}")
    try:
        async with client.Client(access.Access(lambda _: connection)) as opened:
            yield leader.LeaderLease(
                opened,
                OperatorSettings(timing=timing, identity="me"),
                clock=time.monotonic,
                confirmed_clock=confirmed_clock or ConfirmedClock(),
            )
    finally:
        await runner.cleanup()
