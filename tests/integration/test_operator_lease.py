"""The operator with an API server that refuses to create the Lease."""

import asyncio
import time
from collections import Counter

import pytest
import structlog
from aiohttp import web

from usher_gateway.kube import access, client
from usher_operator import leader, settings
from usher_operator.settings import OperatorSettings

WAIT_SECONDS = 0.6


@pytest.mark.parametrize(("status", "hint"), [(404, "--namespace"), (403, "operator/rbac")])
async def test_lease_that_cannot_be_created_is_logged_and_retried(status: int, hint: str) -> None:
    asked: Counter[str] = Counter()

    async def refuse(request: web.Request) -> web.Response:
        asked[request.method] += 1
        return web.json_response({"reason": "No"}, status=404 if request.method == "GET" else status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        timing = settings.OperatorTiming(lease_retry_seconds=WAIT_SECONDS * 0.7)
        connection = access.ApiConnection(server=f"http://{host}:{port}")
        async with client.Client(access.Access(lambda _: connection)) as opened:
            part = leader.LeaderLease(opened, OperatorSettings(timing=timing, identity="me"), time.monotonic)
            with structlog.testing.capture_logs() as logs, pytest.raises(TimeoutError):
                async with asyncio.timeout(WAIT_SECONDS):
                    await part.acquire()
    finally:
        await runner.cleanup()
    assert (asked["POST"], part.is_leader, part.reached_at) == (2, False, None)
    assert [hint in line["hint"] for line in logs] == [True, True]
