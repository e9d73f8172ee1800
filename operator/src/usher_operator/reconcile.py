"""One key from the queue to the cluster: plan, look for what the plan does not know, write children and status."""

import asyncio
import time
from collections.abc import Callable

import structlog

from usher_gateway.resources import types
from usher_operator import api as apis
from usher_operator import kinds, writer
from usher_operator.cache import Cache
from usher_operator.metrics import OperatorMetrics
from usher_operator.view import Key, Plan, View
from usher_operator.workqueue import PauseGate, Workqueue

_log = structlog.get_logger(__name__)

Planner = Callable[[View, Key], Plan]

_MANY = 200
"""With more keys waiting, what gateways run is written first, and everything else afterwards."""

_LOOK_SECONDS = 5.0
"""From one look for missing Secrets to the next: the watch tells nothing of those without the label."""

_PAUSE_SECONDS = 0.05
"""Between two looks: however many Secrets are missing, the API server is asked no more often."""

_LOOKS = 3
"""So often a plan may ask for Secrets before it has to do without."""


class Reconciler:
    """Works the queue off."""

    def __init__(
        self,
        planner: Planner,
        cache: Cache,
        queue: Workqueue[Key],
        write: tuple[writer.ChildWriter, writer.StatusWriter],
        around: tuple[apis.Api, PauseGate, OperatorMetrics],
    ) -> None:
        self._plan, self._cache, self._queue = planner, cache, queue
        self._children, self._statuses = write
        self._api, self._trust, self._metrics = around

    async def work(self) -> None:
        """Take keys one after the other, for ever; nothing while what is known may not be acted upon."""
        while True:
            await self._trust.wait()
            key = await self._queue.get()
            try:
                if self._trust.reasons:
                    self._queue.add(key)
                else:
                    await self._try(key)
            finally:
                self._queue.done(key)
            await asyncio.sleep(0)  # a key that needs nothing must not keep the loop from everybody else

    async def _try(self, key: Key) -> None:
        begun = time.perf_counter()
        result = "error"
        try:
            await self.reconcile(key)
            self._queue.succeeded(key)
            result = "success"
        except apis.ApiError as error:
            delay = self._queue.retry(key)
            _log.warning("not_reconciled", kind=key.kind, key=key.path, error=str(error), again_in=round(delay, 1))
        except Exception as error:  # noqa: BLE001 - one key must not end the others
            delay = self._queue.retry(key)
            _log.exception("not_reconciled", kind=key.kind, key=key.path, exc_info=error, again_in=round(delay, 1))
        finally:
            self._metrics.reconciles.labels(key.kind, result).inc()
            self._metrics.reconcile_seconds.labels(key.kind).observe(time.perf_counter() - begun)

    async def reconcile(self, key: Key) -> None:
        """Make the cluster what the plan of a key wants.

        Raises:
            ApiError: some of it could not be done; everything else was.
        """
        plan = await self._planned(key)
        self._cache.grant(key, plan.granted)  # no await between the plan and this: others are planned meanwhile
        self._cache.set_behind(key, is_behind=plan.is_behind)
        is_late = self._queue.depth > _MANY
        failure = None
        try:
            await self._children.apply(plan, documents_only=is_late)
        except apis.ApiError as error:
            failure = error
        finally:
            for other in self._cache.end_grant(key):
                self._queue.add(other)
        if is_late:
            self._queue.add_last(key)
        else:
            await self._statuses.write(plan)
        if failure is not None:
            raise failure
        if plan.again_at is not None:
            self._queue.add_after(key, max(0.05, (plan.again_at - self._cache.now) / 1e6))

    async def _planned(self, key: Key) -> Plan:
        plan = self._plan(self._cache, key)
        for _ in range(_LOOKS):
            if not plan.unknown_secrets:
                break
            await asyncio.gather(*(self._look_for(path) for path in plan.unknown_secrets))
            plan = self._plan(self._cache, key)
        return plan

    async def look_again(self) -> None:
        """Look for missing Secrets again and again, for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            for path, before in self._cache.missing.items():
                await self._trust.wait()
                try:
                    await self._look_for(path)
                except apis.ApiError as error:
                    _log.warning("secret_not_looked_for", key=path, error=str(error))
                if self._cache.secret_state(path) != before:
                    for key in self._cache.missed_by(path):
                        self._queue.add(key)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _look_for(self, path: str) -> None:
        """Why a Secret is not in the labelled watch."""
        namespace, _, name = path.partition("/")
        raw = await self._api.get(kinds.SECRET.path(namespace, name), missing_ok=True)
        if raw is None:
            self._cache.note_missing(path, "NotFound")
        elif (raw["metadata"].get("labels") or {}).get(types.WATCH_LABEL) == "true":
            self._cache.put(kinds.CREDENTIAL, raw)  # the watch is a moment behind
        else:
            self._cache.note_missing(path, "NotLabelled")
