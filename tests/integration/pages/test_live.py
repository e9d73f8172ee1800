"""A page gets counts and new visits while it is open, and the stream ends with the gateway or its session."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support import admin_port, browsing, samples

FAST = {"interval_seconds": 0.05}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[admin_port.Served]:
    async with admin_port.served(tmp_path, streams=FAST) as served:
        await admin_port.fill(served)
        yield served


async def next_event(stream: Any, name: str) -> Any:
    """Return the data of the next event with a name."""
    async with asyncio.timeout(30):
        while True:
            if await stream.readline() == f"event: {name}\n".encode():
                return json.loads((await stream.readline()).removeprefix(b"data: "))


async def test_stream_has_counts_and_visits_that_come_later(served: admin_port.Served) -> None:
    async with browsing.opened(served) as browser, browser.stream("/ui/events") as stream:
        before = await next_event(stream, "counts")
        await served.bench.accept(samples.arrival("later"))
        visit = await next_event(stream, "visit")
        counts = await next_event(stream, "counts")
    assert (visit["tenant"], visit["countedAs"]) == ("acme", "Visit")
    assert counts["visits"] == before["visits"] + 1


async def test_stream_of_one_tenant_has_no_visits_of_others(served: admin_port.Served) -> None:
    async with browsing.opened(served) as browser, browser.stream("/ui/events?tenant=agency/acme") as stream:
        await next_event(stream, "counts")
        await served.bench.accept(samples.arrival("bar", listener=samples.BAR))
        await served.bench.accept(samples.arrival("lobby"))
        assert (await next_event(stream, "visit"))["tenant"] == "acme"


async def test_stream_needs_a_session(served: admin_port.Served) -> None:
    async with browsing.visitor(served) as browser:
        assert (await browser.get("/ui/events")).status == 401


async def test_too_many_streams_get_none(tmp_path: Path) -> None:
    async with (
        admin_port.served(tmp_path, streams=FAST | {"most_streams": 1}) as served,
        browsing.opened(served) as browser,
        browser.stream("/ui/events") as stream,
    ):
        await next_event(stream, "counts")
        assert (await browser.get("/ui/events")).status == 204


async def test_one_session_does_not_take_the_streams_of_others(tmp_path: Path) -> None:
    async with (
        admin_port.served(tmp_path, streams=FAST | {"most_of_viewer": 1}) as served,
        browsing.opened(served) as browser,
        browser.stream("/ui/events") as stream,
    ):
        await next_event(stream, "counts")
        assert (await browser.get("/ui/events")).status == 204
        async with browsing.opened(served) as other, other.stream("/ui/events") as others:
            await next_event(others, "counts")


async def test_stream_ends_when_the_gateway_stops(served: admin_port.Served) -> None:
    async with browsing.opened(served) as browser, browser.stream("/ui/events") as stream:
        await next_event(stream, "counts")
        await served.pages.__aexit__()
        async with asyncio.timeout(30):
            await stream.read()
        assert stream.at_eof()
