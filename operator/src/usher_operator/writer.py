"""Children as a plan wants them: applied server-side where they differ, removed where they are wanted no more.

A document is removed in two steps: its config Secret becomes a tombstone once the removal was judged, and is deleted
when the tombstone is old enough.
"""

import asyncio
import datetime
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from usher_gateway import config_secret
from usher_gateway.resources import types
from usher_operator import api as apis
from usher_operator import children, events, kinds, removals, seen
from usher_operator.cache import Cache
from usher_operator.metrics import OperatorMetrics
from usher_operator.view import (
    INFORMATIONAL_CONDITIONS,
    ConditionType,
    DesiredChild,
    Key,
    ObjectRef,
    Plan,
    ResourceStatus,
    StatusCondition,
)
from usher_operator.workqueue import Workqueue

_log = structlog.get_logger(__name__)

_INVALID = 422


class ChildWriter:
    """Writes children."""

    def __init__(
        self,
        api: apis.Api,
        cache: Cache,
        queue: Workqueue[Key],
        judge: removals.PendingRemovals,
        told: tuple[OperatorMetrics, events.EventLogger],
    ) -> None:
        self._api, self._cache, self._queue, self._removals = api, cache, queue, judge
        self._metrics, self._chronicle = told
        self.tombstones = removals.TombstoneClock()
        self.published: Callable[[], None] = lambda: None
        """Called after a document, or a tombstone, was written."""
        self._verified: dict[ObjectRef, str] = {}
        """Digests of children as they were when we last wrote them, or first saw them to be as wanted."""
        self._doubted: set[ObjectRef] = set()

    def doubt(self) -> None:
        """Write everything once more that cannot be compared by its content alone: no write where nothing differs."""
        self._doubted = {ref for ref in self._cache.in_place.by_ref if ref.kind != "Secret"}

    async def apply(self, plan: Plan, *, documents_only: bool = False) -> None:
        """Make what is in place what is wanted; with ``documents_only`` just what gateways run, and remove nothing.

        Raises:
            ApiError: after everything was tried; the first one.
        """
        if plan.children is None:
            return
        failures: list[apis.ApiError] = []
        staying = {*plan.staying, *(child.ref for child in plan.children)}
        for child in plan.children:
            if documents_only and child.ref.namespace != self._cache.install.config_namespace:
                continue
            try:
                await self._apply(plan.key, child)
            except apis.ApiError as error:
                failures.append(error)
        for found in () if documents_only else self._cache.in_place.of(plan.key):
            if found.seen.ref not in staying and not self._is_needed(plan):
                try:
                    await self._remove(found)
                except apis.ApiError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    async def _apply(self, key: Key, child: DesiredChild) -> None:
        identity_ = identity_of(key)
        if identity_ is not None and child.manifest["metadata"].get("labels", {}).get(config_secret.CONFIG_LABEL):
            self._removals.keep(identity_)
        if not self._is_in_place(child):
            await self._write(key, child.ref, child.manifest)

    def _is_in_place(self, child: DesiredChild) -> bool:
        found = self._cache.in_place.by_ref.get(child.ref)
        if found is None or found.seen.desired != child.desired or child.ref in self._doubted:
            return False
        if child.ref.kind == "Secret":
            return found.digest == seen.digest_of(child.manifest)
        return self._verified.setdefault(child.ref, found.digest) == found.digest

    async def _write(self, key: Key, ref: ObjectRef, manifest: dict[str, Any]) -> None:
        kind = kinds.BY_NAME[ref.kind]
        path = kind.path(ref.namespace, ref.name)
        if ref in self._cache.in_place.foreign:
            raise apis.ApiError(409, "NotOurs", f"apply {path}", "another install's child has that name")
        before = self._cache.in_place.by_ref.get(ref)  # now: the watch may tell of the write before its answer comes
        if before is None and ref.namespace != self._cache.install.config_namespace:
            await self._refuse_foreign(path)
        try:
            raw = await self._api.apply(path, manifest)
        except apis.ApiError as error:
            if (
                error.status != _INVALID
                or ref not in self._cache.in_place.by_ref
                or not await self._clear(path, manifest)
            ):
                raise
            raw = await self._api.apply(path, manifest)
        self._take(key, kind, raw)
        self._doubted.discard(ref)
        found = self._cache.in_place.by_ref.get(ref)
        if found is not None:
            self._verified[ref] = found.digest
            self._tell(key, before, found)
            if found.seen.status != (before.seen.status if before is not None else {}):
                self._queue.add(key)  # what the answer tells is told by no event any more
        _log.debug("child_written", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def _tell(self, key: Key, before: seen.Child | None, found: seen.Child) -> None:
        if found.is_config:
            self._metrics.published.set(time.time())
            self.published()
            if found.tombstone:
                self._chronicle.removed(key)
            else:
                self._chronicle.published(key, is_new=before is None or bool(before.tombstone))
        elif found.seen.ref.kind != "Secret":
            self._chronicle.applied(found.seen.ref)

    async def _clear(self, path: str, manifest: dict[str, Any]) -> bool:
        """Delete a Secret of ours that no write can make what is wanted; whether it was one.

        Gateways serve on what it held until it is there again.
        """
        if manifest["kind"] != "Secret":
            return False
        raw = await self._api.get(path, missing_ok=True)
        if raw is None or not (raw.get("immutable") or raw.get("type") != manifest.get("type", "Opaque")):
            return False
        await self._api.delete(path, raw["metadata"]["uid"])
        _log.warning("child_made_anew", path=path)
        return True

    async def _refuse_foreign(self, path: str) -> None:
        """Where an object of that name is there that was not seen as ours, leave it; unless only its labels were taken.

        The configuration namespace is the operator's alone, so nobody is asked there.
        """
        raw = await self._api.get(path, missing_ok=True)
        if raw is None:
            return
        labels = raw["metadata"].get("labels") or {}
        managers = {entry.get("manager") for entry in raw["metadata"].get("managedFields") or ()}
        install = labels.get(config_secret.INSTALL_LABEL, self._install_label)
        if apis.FIELD_MANAGER not in managers or install != self._install_label:
            raise apis.ApiError(409, "NotOurs", f"apply {path}", "somebody else's object has the name of a child")

    @property
    def _install_label(self) -> str:
        return config_secret.install_label(self._cache.install.controller_name)

    def _take(self, key: Key, kind: kinds.Watched, raw: dict[str, Any]) -> None:
        """Note what the server answered, so that the next plan sees it and its echo is nothing new."""
        for changed in self._cache.take(kind, raw) - {key}:
            if changed.kind == "Hostname":
                self._queue.add_after(changed, 0.1)  # many documents of one hostname are one change of its children
            else:
                self._queue.add(changed)

    def _is_needed(self, plan: Plan) -> bool:
        """Whether a hostname that nobody wants any more still has documents whose removal is held back."""
        if plan.key.kind != "Hostname" or plan.children:
            return False
        waiting = self._removals.waiting
        return any(("Listener", one.key) in waiting for one in self._cache.listeners_at(plan.key.name))

    async def _remove(self, child: seen.Child) -> None:
        ref = child.seen.ref
        identity_ = identity_of(child.key)
        if not child.is_config or identity_ is None:
            await self._delete(child)
        elif child.tombstone:
            left = self._left(ref, child.tombstone)
            if left > 0:
                self._queue.add_after(child.key, left)
                return
            await self._delete(child)
            self._removals.keep(identity_)
        elif self._removals.want(identity_, time.monotonic()):
            said_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            await self._write(child.key, ref, self._tombstone(child, identity_, said_at))
            self._queue.add_after(child.key, self._left(ref, said_at))

    def _left(self, ref: ObjectRef, said_at: str) -> float:
        return self.tombstones.left(ref, said_at, datetime.datetime.now(datetime.UTC), time.monotonic())

    async def _delete(self, child: seen.Child) -> None:
        ref = child.seen.ref
        kind = kinds.BY_NAME[ref.kind]
        await self._api.delete(kind.path(ref.namespace, ref.name), child.uid)
        for key in self._cache.remove(kind, ref.namespace, ref.name) - {child.key}:
            self._queue.add(key)
        self._verified.pop(ref, None)
        self.tombstones.forget(ref)
        self._chronicle.deleted(ref)

    def _tombstone(self, child: seen.Child, about: removals.Identity, said_at: str) -> dict[str, Any]:
        """The config Secret that says that a document is gone."""
        kind, path = about
        keys = self._cache.keys
        assert keys is not None
        namespace, _, name = path.partition("/")
        owner = config_secret.Owner(namespace, name, child.owner_uid)
        envelope = config_secret.tombstone_of(kind, owner, child.owner_generation, said_at, keys.document)
        manifest: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "namespace": child.seen.ref.namespace,
                "name": child.seen.ref.name,
                "labels": config_secret.labels(self._cache.install.controller_name, child.owner_uid),
                "annotations": children.annotations(child.key),
            },
            "type": config_secret.secret_type(kind),
            "data": config_secret.secret_data(envelope),
        }
        return children.finish(manifest).manifest


def identity_of(key: Key) -> removals.Identity | None:
    """What is published of a key; None where nothing ever is."""
    match key.kind:
        case "Listener" | "Destination":
            return key.kind, key.path
    return None


INFORMATIONAL_PER_SECOND = 5.0
"""So many statuses are written a second of which only informational conditions differ (design §7)."""

_MOST_EVENTS = 500
_EVENT_SECONDS = 0.1


class StatusBucket:
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


class StatusWriter:
    """Writes statuses. ``clock``: seconds that only grow."""

    def __init__(
        self,
        api: apis.Api,
        cache: Cache,
        queue: Workqueue[Key],
        around: tuple[OperatorMetrics, events.EventLogger, events.EventRecorder],
        clock: Callable[[], float],
    ) -> None:
        self._api, self._cache, self._queue, self._clock = api, cache, queue, clock
        self._metrics, self._chronicle, self._flips = around
        self._bucket = StatusBucket(INFORMATIONAL_PER_SECOND, clock)
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
