"""The brake at work: waits until removals have settled, judges them together, and lets go or says that it does not."""

import asyncio
import contextlib
import time

import structlog

from usher_operator import cache as caches
from usher_operator import installation, metrics, removals, trust, workqueue
from usher_operator.view import Key

_log = structlog.get_logger(__name__)

_HOLD_SECONDS = 1.0


class Judge:
    """Calls ``Removals.judge`` at the right moments."""

    def __init__(
        self,
        pending: removals.Removals,
        cache: caches.Cache,
        queue: workqueue.Workqueue[Key],
        around: tuple[trust.Trust, installation.Installation, metrics.Metrics],
    ) -> None:
        self._removals, self._cache, self._queue = pending, cache, queue
        self._trust, self._installation, self._metrics = around
        self._wake = asyncio.Event()

    def poke(self) -> None:
        """Something happened on which a judgement may depend."""
        self._wake.set()

    async def run(self) -> None:
        """Judge, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._removals.due_in(time.monotonic()) or _HOLD_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            is_due = self._removals.due_in(time.monotonic()) == 0.0
            if not is_due and not self._removals.is_reopened(self._cache.confirmations()):
                continue
            if self._trust.reasons or not self._installation.is_key_known:
                await asyncio.sleep(_HOLD_SECONDS)
                continue
            self._judge()

    def _judge(self) -> None:
        listeners = [key for key in self._cache.published_keys() if key.kind == "Listener"]
        before = self._removals.halted
        verdict = self._removals.judge(len(listeners), self._cache.confirmations())
        halted = verdict.halted
        if halted is not None and halted != before:
            _log.error("removals_halted", listeners=len(halted.names), digest=halted.digest)
        self._metrics.removals_halted.set(len(halted.names) if halted is not None else 0)
        for key in self._cache.set_halted(halted):
            self._queue.add(key)
        for kind, path in verdict.allowed:
            namespace, _, name = path.partition("/")
            self._queue.add(Key(kind, namespace, name))
