"""What is told of a resource: its status, written only where it differs, and an Event where a condition flips."""

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from usher_gateway.resources import types
from usher_operator import api as apis
from usher_operator import cache as caches
from usher_operator import chronicle, events, kinds, metrics, seen, workqueue
from usher_operator.view import INFORMATIONAL_CONDITIONS, ConditionType, Key, Plan, ResourceStatus, StatusCondition

_log = structlog.get_logger(__name__)

INFORMATIONAL_PER_SECOND = 5.0
"""So many statuses are written a second of which only informational conditions differ (design §7)."""

_MOST_EVENTS = 500
_EVENT_SECONDS = 0.1


class Bucket:
    """So many a second, and a second's worth at once. ``clock``: seconds that only grow."""

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = per_second, clock
        self._tokens, self._at = per_second, clock()

    def wait(self) -> float:
        """0 where one may go now (it is counted), else after how many seconds to ask again."""
        now = self._clock()
        self._tokens = min(self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate


class Statuses:
    """Writes statuses. ``clock``: seconds that only grow."""

    def __init__(
        self,
        api: apis.Api,
        cache: caches.Cache,
        queue: workqueue.Workqueue[Key],
        around: tuple[metrics.Metrics, chronicle.Chronicle, events.Flips],
        clock: Callable[[], float],
    ) -> None:
        self._api, self._cache, self._queue, self._clock = api, cache, queue, clock
        self._metrics, self._chronicle, self._flips = around
        self._bucket = Bucket(INFORMATIONAL_PER_SECOND, clock)
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MOST_EVENTS)

    async def write(self, plan: Plan) -> None:
        """Write the status that a plan wants, if it differs and nobody knows better.

        Raises:
            ApiError: it could not be written.
        """
        record = self._cache.records.get(plan.key)
        if plan.status is None or record is None:
            self._flips.overdue(plan.key, None, self._clock())
            return
        result = await self._write(plan.key, plan.status, record)
        self._metrics.status_updates.labels(plan.key.kind, result).inc()
        self._tell(plan.key, record.uid, self._flips.overdue(plan.key, plan.status, self._clock()))
        due = self._flips.due_in(plan.key, self._clock())
        if due is not None:
            self._queue.add_after(plan.key, due)

    async def _write(self, key: Key, status: ResourceStatus, record: seen.Record) -> str:
        if record.observed_generation > status.observed_generation:
            return "newer"
        changed = differences(status, record)
        if not changed:
            return "noop"
        if changed <= INFORMATIONAL_CONDITIONS:
            wait = self._bucket.wait()
            if wait:
                self._queue.add_after(key, wait)
                return "deferred"
        kind = kinds.BY_NAME[key.kind]
        try:
            body = body_of(key, status, record, _now())
            raw = await self._api.apply(kind.path(key.namespace, key.name), body, is_status=True)
        except apis.ApiError as error:
            if error.status == 404:  # gone meanwhile
                return "gone"
            self._metrics.status_updates.labels(key.kind, "error").inc()
            raise
        is_edited = raw["metadata"].get("generation", 0) > status.observed_generation
        for other in self._cache.take(kind, raw) - (frozenset() if is_edited else {key}):
            self._queue.add(other)  # an edit that the answer tells of is told of by no event any more
        self._log_ready(key, status, record)
        self._tell(key, record.uid, self._flips.written(key, status, record, self._clock()))
        return "success"

    def _log_ready(self, key: Key, status: ResourceStatus, record: seen.Record) -> None:
        ready = status.condition(ConditionType.Ready)
        before = next((one for one in record.found.conditions if one.type == ConditionType.Ready), None)
        if ready is not None and ready.status != "Unknown" and (before is None or before.status != ready.status):
            self._chronicle.ready(key, ready)

    def _tell(self, key: Key, uid: str, conditions: list[StatusCondition]) -> None:
        """Events are told in the background, and never at the price of anything else."""
        for condition in conditions:
            event = events.event_of(key, uid, condition, _now())
            try:
                self._events.put_nowait(event)
            except asyncio.QueueFull:
                return

    async def post_events(self) -> None:
        """Post Events, for ever."""
        while True:
            event = await self._events.get()
            namespace = event["metadata"]["namespace"]
            try:
                await self._api.create(f"/api/v1/namespaces/{namespace}/events", event, attempts=1)
            except apis.ApiError as error:
                _log.debug("event_not_posted", status=error.status, reason=error.reason)
            await asyncio.sleep(_EVENT_SECONDS)


def differences(status: ResourceStatus, record: seen.Record) -> frozenset[str]:
    """Types of conditions that differ, and ``status`` where anything else does."""
    stored = {one.type: one for one in record.found.conditions}
    wanted = {one.type: one for one in status.conditions}
    found = {type_ for type_ in stored.keys() | wanted.keys() if stored.get(type_) != wanted.get(type_)}
    if record.observed_generation != status.observed_generation or dict(record.found.fields) != status.fields:
        found.add("status")
    return frozenset(found)


def body_of(key: Key, status: ResourceStatus, record: seen.Record, now: str) -> dict[str, Any]:
    """What is applied; a condition's time moves only when its status does."""
    stored = {one.type: one.status for one in record.found.conditions}
    conditions = []
    for one in status.conditions:
        is_same = stored.get(one.type) == one.status and record.times.get(one.type)
        conditions.append(
            {
                "type": one.type,
                "status": one.status,
                "reason": one.reason,
                "message": one.message,
                "observedGeneration": one.observed_generation,
                "lastTransitionTime": record.times[one.type] if is_same else now,
            }
        )
    metadata = {"name": key.name, "uid": record.uid, **({"namespace": key.namespace} if key.namespace else {})}
    return {
        "apiVersion": types.API_VERSION,
        "kind": key.kind,
        "metadata": metadata,
        "status": {
            "observedGeneration": status.observed_generation,
            **msgspec.to_builtins(status.fields),
            "conditions": conditions,
        },
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
