"""Writes statuses, and posts the Events about them.

A status is written only if it differs from the stored one, and an Event reports a condition that changed.
"""

import asyncio
import datetime
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from usher_gateway.kube.client import ApiError, Client
from usher_gateway.resources import types
from usher_gateway.timing import TokenBucket
from usher_operator import kinds
from usher_operator.cache import Cache
from usher_operator.events import EventLogger, EventRecorder, event_of
from usher_operator.health import OperatorMetrics
from usher_operator.view import (
    INFORMATIONAL_CONDITIONS,
    ConditionType,
    Key,
    Plan,
    ResourceStatus,
    StatusCondition,
)
from usher_operator.workqueue import Lanes, Workqueue

_log = structlog.get_logger(__name__)

INFORMATIONAL_PER_SECOND = 5.0
"""Statuses written per second in which only informational conditions differ."""

_MAX_QUEUED_EVENTS = 50
"""Events of one namespace that wait; further ones are dropped."""

_EVENT_INTERVAL_SECONDS = 0.1


class StatusWriter:
    """Writes statuses, and posts the Events about them.

    Args:
        api: client of the API server.
        cache: what the operator knows; the writer puts each answer of the server into it.
        queue: keys that are written later, or that an answer changed, are added here.
        metrics: the operator's metrics.
        event_logger: logs resources whose Ready condition changed.
        event_recorder: decides which conditions get an Event.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        metrics: OperatorMetrics,
        event_logger: EventLogger,
        event_recorder: EventRecorder,
        clock: Callable[[], float],
    ) -> None:
        self._api, self._cache, self._queue, self._clock = api, cache, queue, clock
        self._metrics, self._event_logger, self._event_recorder = metrics, event_logger, event_recorder
        self._bucket = TokenBucket(INFORMATIONAL_PER_SECOND, INFORMATIONAL_PER_SECOND, clock())
        self._deferred: Lanes[Key] = Lanes()
        """Keys whose informational write waits for the rate limit; namespaces take turns."""
        self._waiting: set[Key] = set()
        """The keys in `_deferred`."""
        self._released: set[Key] = set()
        """Keys whose informational write may go ahead."""
        self._events: Lanes[dict[str, Any]] = Lanes()
        """Events to post; namespaces take turns."""
        self._has_events = asyncio.Event()

    async def write(self, plan: Plan) -> None:
        """Write the status that a plan wants, unless it is stored already or the stored one is newer.

        Raises:
            ApiError: the API server did not accept the status.
        """
        record = self._cache.records.get(plan.key)
        if plan.status is None or record is None:
            self._event_recorder.overdue(plan.key, None, self._clock())
            return
        is_released = plan.key in self._released
        self._released.discard(plan.key)
        result = await self._write(plan.key, plan.status, record, is_released=is_released)
        self._metrics.status_updates.labels(plan.key.kind, result).inc()
        self._queue_events(plan.key, record.uid, self._event_recorder.overdue(plan.key, plan.status, self._clock()))
        due = self._event_recorder.due_in(plan.key, self._clock())
        if due is not None:
            self._queue.add_after(plan.key, due)

    async def _write(self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord, *, is_released: bool) -> str:
        """Write a status; returns the label of the metric."""
        if status.observed_generation < record.observed_generation <= record.generation:
            return "newer"  # a generation above that of the object itself is wrong, as after a restore of its status
        changed = differences(status, record)
        if not changed:
            return "noop"
        if changed <= INFORMATIONAL_CONDITIONS and not is_released and not self._may_write_informational(key):
            return "deferred"
        kind = kinds.BY_NAME[key.kind]
        try:
            body = body_of(key, status, record, _now())
            raw = await self._api.apply(kind.path(key.namespace, key.name), body, is_status=True)
        except ApiError as error:
            if error.status == 404:  # the resource was deleted meanwhile
                return "gone"
            self._metrics.status_updates.labels(key.kind, "error").inc()
            raise
        # if the answer shows an edit, reconcile the key too: the cache has the edit, so no event will report it
        is_edited = raw["metadata"].get("generation", 0) > status.observed_generation
        changed_keys = self._cache.take_answer(kind, raw, record.resource_version)
        for other in changed_keys - (frozenset() if is_edited else {key}):
            self._queue.add(other)
        self._log_ready(key, status, record)
        self._queue_events(key, record.uid, self._event_recorder.written(key, status, record, self._clock()))
        return "success"

    def _may_write_informational(self, key: Key) -> bool:
        """Return whether the rate limit permits a write now; otherwise ``release`` queues the key again."""
        if not self._deferred and self._bucket.take(self._clock()):
            return True
        if key not in self._waiting:
            self._waiting.add(key)
            self._deferred.add(key.namespace, key)
        return False

    def release(self) -> None:
        """Queue as many deferred keys as the rate limit permits now. One namespace does not delay another's."""
        while self._deferred and self._bucket.take(self._clock()):
            key = self._deferred.take()
            assert key is not None
            self._waiting.discard(key)
            self._released.add(key)
            self._queue.add(key)

    async def release_deferred(self) -> None:
        """Release deferred keys at the rate limit, until cancelled."""
        while True:
            await asyncio.sleep(1 / INFORMATIONAL_PER_SECOND)
            self.release()

    def _log_ready(self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord) -> None:
        ready = status.condition(ConditionType.Ready)
        before = next((one for one in record.found.conditions if one.type == ConditionType.Ready), None)
        if ready is not None and ready.status != "Unknown" and (before is None or before.status != ready.status):
            self._event_logger.ready(key, ready)

    def _queue_events(self, key: Key, uid: str, conditions: list[StatusCondition]) -> None:
        """Queue Events for the background task; drop those over the limit, so that they never delay a write."""
        for condition in conditions:
            event = event_of(key, uid, condition, _now())
            lane = event["metadata"]["namespace"]
            if self._events.depth(lane) < _MAX_QUEUED_EVENTS:
                self._events.add(lane, event)
                self._has_events.set()

    async def post_events(self) -> None:
        """Post the queued Events, until cancelled."""
        while True:
            await self._has_events.wait()
            event = self._events.take()
            if event is None:
                self._has_events.clear()
                continue
            namespace = event["metadata"]["namespace"]
            try:
                await self._api.create(f"/api/v1/namespaces/{namespace}/events", event, attempts=1)
            except ApiError as error:
                _log.debug("event_not_posted", status=error.status, reason=error.reason)
            await asyncio.sleep(_EVENT_INTERVAL_SECONDS)


def differences(status: ResourceStatus, record: kinds.ResourceRecord) -> frozenset[str]:
    """Types of the conditions that differ, plus ``status`` if anything else differs."""
    stored = {one.type: one for one in record.found.conditions}
    types_of_both = stored.keys() | status.conditions.keys()
    found = {type_ for type_ in types_of_both if stored.get(type_) != status.condition(type_)}
    if record.observed_generation != status.observed_generation or dict(record.found.fields) != status.fields:
        found.add("status")
    return frozenset(found)


def body_of(key: Key, status: ResourceStatus, record: kinds.ResourceRecord, now: str) -> dict[str, Any]:
    """The body of the apply request. ``lastTransitionTime`` changes only if the condition's status does."""
    stored = {one.type: one.status for one in record.found.conditions}
    conditions = []
    for one in status.conditions.values():
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
