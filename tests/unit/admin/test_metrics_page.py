"""Requests for ``/metrics`` need no token, so they must not take the event loop from arrivals."""

import asyncio
import time
from collections.abc import Iterator

import prometheus_client
from aiohttp import test_utils, web
from prometheus_client import core, registry

from usher_gateway.admin import server


class Expensive(registry.Collector):
    """A collector that takes 10 ms of CPU time."""

    def __init__(self) -> None:
        self.collected = 0

    def collect(self) -> Iterator[core.Metric]:
        self.collected += 1
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        yield core.GaugeMetricFamily("collected", "How often.", value=self.collected)


async def test_metrics_that_many_ask_for_are_made_once() -> None:
    expensive, now = Expensive(), 1000.0
    found = prometheus_client.CollectorRegistry()
    found.register(expensive)
    expensive.collected = 0
    page = server.MetricsPage(found, now=lambda: now)
    request = test_utils.make_mocked_request("GET", "/metrics")

    answers = await asyncio.gather(*[page.show(request) for _ in range(20)])
    assert expensive.collected == 1
    assert all(isinstance(answer, web.Response) and answer.body for answer in answers)

    now += 0.09
    await page.show(request)
    assert expensive.collected == 1
    now += 1
    await page.show(request)
    assert expensive.collected == 2
