"""The metrics page, which needs no token and is expensive with many tenants."""

import asyncio
import gzip
import time
from collections.abc import Callable

import prometheus_client
from aiohttp import web

from usher_gateway import metrics, timing
from usher_gateway.admin import api

# The share of a core that `/metrics` may take. With 2,000 tenants a text is kept for about half a second.
_METRICS_SHARE = 0.1


class MetricsPage:
    """The ``/metrics`` text.

    One text is made at a time, and requests meanwhile and for a while after it get the same one. So a stranger's
    requests take at most ``_METRICS_SHARE`` of a core from arrivals.

    Args:
        collect: yields families. It runs on the event loop, because other threads could see values change.
        now: returns monotonic seconds.
    """

    def __init__(self, collect: Callable[[], metrics.Metrics], now: Callable[[], float] = time.monotonic) -> None:
        self._collect = collect
        self._now = now
        self._making = asyncio.Lock()  # Held while the page is made, so that concurrent requests get the same page
        self._text, self._compressed = b"", b""
        self._kept_until = 0.0

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Answer ``GET /metrics``."""
        async with self._making:
            if self._now() >= self._kept_until:
                await self._make()
        headers = {"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        if api.accepts_gzip(request):
            return web.Response(body=self._compressed, headers={**headers, "Content-Encoding": "gzip"})
        return web.Response(body=self._text, headers=headers)

    async def _make(self) -> None:
        families: list[metrics.Family] = []
        turns = timing.EventLoopTurns()
        for family in self._collect():
            families.append(family)
            await turns.give_way()
        # with 2,000 tenants this takes 25 ms, in which arrivals must not wait
        self._text, self._compressed, writing = await asyncio.to_thread(_write, families)
        self._kept_until = self._now() + (turns.used_seconds + writing) / _METRICS_SHARE


def _write(families: list[metrics.Family]) -> tuple[bytes, bytes, float]:
    """Return the metrics as text, also compressed, and the CPU seconds that this took."""
    started = time.thread_time()
    text = (metrics.process_text() + metrics.write(families)).encode()
    return text, gzip.compress(text, 1), time.thread_time() - started
