"""Writes statuses, and posts the Events about them.

A status is written only if it differs from the stored one, and an Event reports a condition that changed.

Only the install that owns a resource writes its status, so two installs never write one. If something else changes a
status again and again, each write waits for twice as long as the one before (`rewrites`).
"""

import asyncio
import datetime
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import structlog

from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_gateway.resources import types
from usher_gateway.timing import TokenBucket
from usher_operator.run.health import OperatorMetrics
from usher_operator.run.workqueue import Lanes, Workqueue
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import (
    INFORMATIONAL_CONDITIONS,
    ConditionType,
    Key,
    Plan,
    ResourceStatus,
    StatusCondition,
)
from usher_operator.write.events import conditions_to_report, event_of, is_warning
from usher_operator.write.rewrites import RewriteBackoff

_log = structlog.get_logger(__name__)

# Statuses written per second in which only informational conditions differ, except those in which a hold begins or
# ends.
INFORMATIONAL_PER_SECOND = 5.0

_CANNOT_APPLY = 500

_MAX_QUEUED_EVENTS = 50  # Events of one namespace that wait; further ones are dropped

_EVENT_INTERVAL_SECONDS = 0.1


def _hash_of(conditions: Iterable[StatusCondition], fields: Mapping[str, Any], generation: int) -> int:
    return hash((frozenset(conditions), msgspec.json.encode(_filled(fields), order="sorted"), generation))


def _filled(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields without empty lists: the API server stores none where an apply empties a list."""
    return {name: value for name, value in fields.items() if value != []}


class StatusWriter:
    """Writes statuses, and posts the Events about them."""

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        metrics: OperatorMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._api, self._cache, self._queue, self._clock = api, cache, queue, clock
        self._metrics = metrics
        self._bucket = TokenBucket(INFORMATIONAL_PER_SECOND, INFORMATIONAL_PER_SECOND, clock())
        self._deferred: Lanes[Key] = Lanes()
        """Keys whose informational write waits for the rate limit; namespaces take turns."""
        self._waiting: set[Key] = set()  # The keys in `_deferred`
        self._released: set[Key] = set()  # Keys whose informational write may go ahead
        self._events: Lanes[dict[str, Any]] = Lanes()  # Events to post; namespaces take turns
        self._has_events = asyncio.Event()
        self._rewrites: RewriteBackoff[Key] = RewriteBackoff()
        self._were_ready: set[Key] = set()  # Keys whose Ready was True before it became Unknown

    async def write(self, plan: Plan) -> None:
        """Write the status that a plan wants, unless it is stored already or the stored one is newer.

        Raises:
            ApiError: the API server did not accept the status.
        """
        record = self._cache.record_of(plan.key)
        if plan.status is None or record is None:
            self._rewrites.forget(plan.key)
            self._were_ready.discard(plan.key)
            return
        is_released = plan.key in self._released
        self._released.discard(plan.key)
        result = await self._write(plan.key, plan.status, record, is_released=is_released)
        self._metrics.status_updates.labels(plan.key.kind, result).inc()

    async def _write(self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord, *, is_released: bool) -> str:
        """Write a status; returns the metric's label."""
        if status.observed_generation < record.observed_generation <= record.generation:
            return "newer"  # a generation above that of the object itself is wrong, as after a restore of its status
        changed = differences(status, record)
        if not changed:
            return "noop"
        stored = _hash_of(record.parsed.conditions, record.parsed.fields, record.observed_generation)
        seconds = self._rewrites.seconds_left(key, stored, self._clock())
        if seconds > 0:
            self._queue.add_after(key, seconds)
            return "delayed"
        is_informational = changed <= INFORMATIONAL_CONDITIONS and not _starts_or_ends_hold(status, record)
        if is_informational and not is_released and not self._may_write_informational(key):
            return "deferred"
        kind = kinds.BY_NAME[key.kind]
        try:
            body = body_of(key, status, record, _now())
            raw = await self._apply(kind.path(key.namespace, key.name), body, status)
        except ApiError as error:
            if error.status == 404:  # the resource was deleted meanwhile
                return "gone"
            self._metrics.status_updates.labels(key.kind, "error").inc()
            raise
        written = _hash_of(status.conditions.values(), status.fields, status.observed_generation)
        self._rewrites.written(key, written, stored, self._clock())
        if self._rewrites.conflict_seconds_left(key, self._clock()) > 0:
            _log.warning("status_changed_again", kind=key.kind, key=key.path)
        # if the answer shows an edit, reconcile the key too: the cache has the edit, so no event will report it
        is_edited = raw["metadata"].get("generation", 0) > status.observed_generation
        changed_keys = self._cache.take_answer(kind, raw, record.resource_version)
        self._queue.add_all(changed_keys - (frozenset() if is_edited else {key}))
        self._log_ready(key, status, record)
        for condition in conditions_to_report(status, record, was_ready=key in self._were_ready):
            self.queue_event(key, record.uid, condition)
            if is_warning(condition):
                _log.warning("resource_warning_found", kind=key.kind, resource=key.path, message=condition.message)
        self._remember_ready(key, status, record)
        return "success"

    async def _apply(self, path: str, body: dict[str, Any], status: ResourceStatus) -> dict[str, Any]:
        """Apply a status; returns the object with it."""
        try:
            raw = await self._api.apply(path, body, is_status=True)
        except ApiError as error:
            if error.status != _CANNOT_APPLY:
                raise
            # The API server applies nothing to a stored object that does not fit its definition, but it merges.
            collection, _, name = path.rpartition("/")
            pages = self._api.pages(collection, JsonObject, field_selector=f"metadata.name={name}")
            stored = [raw async for page in pages for raw in page.items]
            if not stored:
                raise
            return await self._api.merge_status(path, merge_of(stored[0], body))
        if not leftover_types(raw, status):
            return raw
        return await self._api.merge_status(path, without_leftovers(raw, status))

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
        ready = status.conditions.get(ConditionType.Ready)
        previous = next(
            (condition for condition in record.parsed.conditions if condition.type == ConditionType.Ready), None
        )
        if ready is not None and ready.status != "Unknown" and (previous is None or previous.status != ready.status):
            _log.info(
                "ready_changed",
                kind=key.kind,
                resource=key.path,
                ready=ready.status,
                reason=ready.reason,
                message=ready.message if ready.status == "False" else "",
            )

    def _remember_ready(self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord) -> None:
        ready = status.conditions.get(ConditionType.Ready)
        if ready is None or ready.status != "Unknown":
            self._were_ready.discard(key)
        elif any(stored.type == ready.type and stored.status == "True" for stored in record.parsed.conditions):
            self._were_ready.add(key)

    def queue_event(self, key: Key, uid: str, condition: StatusCondition) -> None:
        """Queue an Event for the background task; drop it over the limit, so that Events never delay a write."""
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


def _starts_or_ends_hold(status: ResourceStatus, record: kinds.ResourceRecord) -> bool:
    """True if DeliveriesHeld appears or disappears, which has to show within 5 s, however many others wait."""
    was_held = any(stored.type == ConditionType.DeliveriesHeld for stored in record.parsed.conditions)
    return was_held != (ConditionType.DeliveriesHeld in status.conditions)


def differences(status: ResourceStatus, record: kinds.ResourceRecord) -> frozenset[str]:
    """Condition types that differ, plus ``status`` if anything else differs."""
    stored = {condition.type: condition for condition in record.parsed.conditions}
    types_of_both = stored.keys() | status.conditions.keys()
    differing = {
        condition_type
        for condition_type in types_of_both
        if stored.get(condition_type) != status.conditions.get(condition_type)
    }
    has_other_fields = _filled(record.parsed.fields) != _filled(status.fields)
    if has_other_fields or record.observed_generation != status.observed_generation:
        differing.add("status")
    return frozenset(differing)


def leftover_types(raw: dict[str, Any], status: ResourceStatus) -> frozenset[str]:
    """The operator's conditions in the answer of an apply that the status does not have.

    Another field manager wrote them, such as the install that owned the resource before, and an apply leaves them.
    """
    stored = {condition["type"] for condition in raw.get("status", {}).get("conditions") or ()}
    return frozenset(stored.intersection(ConditionType) - status.conditions.keys())


def merge_of(raw: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """The merge body that does what an apply would do, to the version in ``raw``."""
    stored = (raw.get("status") or {}).get("conditions") or ()
    theirs = [condition for condition in stored if condition["type"] not in {*ConditionType}]
    status = {**body["status"], "conditions": [*theirs, *body["status"]["conditions"]]}
    return {"metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]}, "status": status}


def without_leftovers(raw: dict[str, Any], status: ResourceStatus) -> dict[str, Any]:
    """The merge body that removes these conditions from the version that the answer shows."""
    leftovers = leftover_types(raw, status)
    conditions = [condition for condition in raw["status"]["conditions"] if condition["type"] not in leftovers]
    return {"metadata": {"resourceVersion": raw["metadata"]["resourceVersion"]}, "status": {"conditions": conditions}}


def body_of(key: Key, status: ResourceStatus, record: kinds.ResourceRecord, now: str) -> dict[str, Any]:
    """The apply request's body. ``lastTransitionTime`` changes only if the condition's status does."""
    stored = {condition.type: condition.status for condition in record.parsed.conditions}
    conditions = []
    for condition in status.conditions.values():
        is_same = stored.get(condition.type) == condition.status and record.times.get(condition.type)
        conditions.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": condition.observed_generation,
                "lastTransitionTime": record.times[condition.type] if is_same else now,
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
