"""Requests for ``/metrics`` need no token, so they must not take the event loop from arrivals."""

import asyncio
import time

from aiohttp import test_utils, web

from usher_gateway import metrics
from usher_gateway.admin.metrics_page import MetricsPage

REQUEST = test_utils.make_mocked_request("GET", "/metrics")


def take_10_milliseconds() -> None:
    """Use the CPU for 10 ms."""
    end = time.thread_time() + 0.01
    while time.thread_time() < end:
        pass


async def test_metrics_that_many_ask_for_are_made_once() -> None:
    collected, now = 0, 1000.0

    def expensive() -> metrics.Metrics:
        nonlocal collected
        collected += 1
        take_10_milliseconds()
        yield metrics.gauge("collected", "How often.", [], {(): collected})

    page = MetricsPage(expensive, now=lambda: now)
    answers = await asyncio.gather(*[page.show(REQUEST) for _ in range(20)])
    assert collected == 1
    assert all(isinstance(answer, web.Response) and answer.body for answer in answers)

    now += 0.09
    await page.show(REQUEST)
    assert collected == 1
    now += 1
    await page.show(REQUEST)
    assert collected == 2


async def test_arrivals_get_a_turn_between_two_expensive_metrics() -> None:
    turns: list[str] = []

    def source() -> metrics.Metrics:
        for name in ("first", "second"):
            turns.append(name)
            take_10_milliseconds()
            yield metrics.gauge(name, "A number.", [], {(): 1})

    async def arrive() -> None:
        turns.append("arrival")

    page = MetricsPage(source)
    await asyncio.gather(page.show(REQUEST), arrive())
    assert turns == ["first", "arrival", "second"]
