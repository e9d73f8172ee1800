"""Health and metrics of the operator: alive, ready, and numbers; nothing else, and no secret."""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Self

import prometheus_client
from aiohttp import web

from usher_gateway import model
from usher_operator.metrics import OperatorMetrics
from usher_operator.settings import AdminAddress, OperatorSettings

_TICK_SECONDS = 0.5


class Health:
    """What keeps the operator from being alive or ready, as reasons in words; none means it is.

    ``clock``: monotonic seconds.
    """

    def __init__(self, settings: OperatorSettings, clock: Callable[[], float]) -> None:
        self._timing, self._clock = settings.timing, clock
        self._expected: dict[str, float] = {}
        """Kind -> since when its watch should have told of something."""
        self._ticked_at = clock()
        self.lag = 0.0
        """Seconds by which the event loop was late at its last tick."""
        self.not_ready: dict[str, str] = {"start": "the operator is starting"}
        """Topic -> reason; empty: ready."""
        self.doubts: Callable[[], Iterable[str]] = tuple
        """More reasons not to be ready."""

    def expect(self, kind: str) -> None:
        """An object of a kind was changed, so its watch has to tell of that; without a change silence is fine."""
        self._expected.setdefault(kind, self._clock())

    def saw_watch(self, kind: str) -> None:
        """The watch of a kind has told something."""
        self._expected.pop(kind, None)

    def not_alive(self) -> list[str]:
        """Why the process should be started anew."""
        now, reasons = self._clock(), []
        late = max(self.lag, now - self._ticked_at - _TICK_SECONDS)
        if late > self._timing.loop_lag:
            reasons.append(f"the event loop is {late:.0f} s late")
        for kind, since in self._expected.items():
            if now - since > self._timing.watch_silence:
                reasons.append(f"the watch of {kind} has not told of a change for {now - since:.0f} s")
        return reasons

    async def tick(self) -> None:
        """Measure the event loop, for ever."""
        while True:
            begun = self._clock()
            await asyncio.sleep(_TICK_SECONDS)
            self._ticked_at = self._clock()
            self.lag = max(0.0, self._ticked_at - begun - _TICK_SECONDS)


class HealthServer:
    """The admin port, for the time of an ``async with`` block."""

    def __init__(self, endpoint: AdminAddress, health: Health, metrics: OperatorMetrics) -> None:
        self._endpoint, self._health, self._metrics = endpoint, health, metrics
        self.port = endpoint.port
        """As asked for; once started, the one that is listened on."""
        self.before_scrape: Callable[[], None] = lambda: None
        """Called before numbers are told: sets those that are only looked up."""
        application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._answer_metrics)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._endpoint.host, self._endpoint.port).start()
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno else str(error.strerror)
            where = f"{self._endpoint.host}:{self._endpoint.port}"
            raise model.ConfigurationError(
                f"cannot listen on {where}: {reason}", "Choose another --admin; is another operator running?"
            ) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        reasons = self._health.not_alive()
        return web.json_response({"alive": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = [*self._health.not_ready.values(), *self._health.doubts()]
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _answer_metrics(self, _: web.Request) -> web.Response:
        self.before_scrape()
        body = prometheus_client.generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})
