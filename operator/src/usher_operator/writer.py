"""Writes what a plan wants: children by server-side apply, and statuses.

The operator removes a document in two steps. Once the removal guard allows the removal, the config Secret becomes a
tombstone; when the tombstone is old enough, the writer deletes it. A status is written only if it differs from the
stored one, and an Event reports a condition that changed.
"""

import asyncio
import datetime
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from usher_gateway import config_secret
from usher_gateway.kube.client import ApiError, Client
from usher_gateway.resources import types
from usher_gateway.token_bucket import TokenBucket
from usher_operator import children, kinds
from usher_operator.cache import Cache
from usher_operator.events import EventLogger, EventRecorder, event_of
from usher_operator.health import OperatorMetrics
from usher_operator.removals import DocumentId, PendingRemovals, TombstoneClock
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
_HOSTNAME_DELAY_SECONDS = 0.1
"""Delay before a hostname is reconciled after one of its documents changed, so that changes of many documents of one
hostname cause one write."""

INFORMATIONAL_PER_SECOND = 5.0
"""Statuses written per second in which only informational conditions differ."""

_MAX_QUEUED_EVENTS = 500
_EVENT_INTERVAL_SECONDS = 0.1


class ChildWriter:
    """Writes and removes the children of a key.

    Args:
        api: client of the API server.
        cache: what the operator knows; the writer puts each answer of the server into it.
        queue: keys that an answer changed are added here.
        removals: allows or delays the removal of documents.
        tombstones: counts the age of tombstones.
        metrics: the operator's metrics.
        event_logger: logs what was written.
        on_published: called after a document or a tombstone was written.
    """

    def __init__(
        self,
        *,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        removals: PendingRemovals,
        tombstones: TombstoneClock,
        metrics: OperatorMetrics,
        event_logger: EventLogger,
        on_published: Callable[[], None] = lambda: None,
    ) -> None:
        self._api, self._cache, self._queue = api, cache, queue
        self._removals, self._tombstones = removals, tombstones
        self._metrics, self._event_logger = metrics, event_logger
        self._on_published = on_published
        self._verified: dict[ObjectRef, str] = {}
        """Digest of each child as it was after our last write, or when it was first found to be as wanted."""
        self._unverified: set[ObjectRef] = set()

    def rewrite_all(self) -> None:
        """Apply every child again except Secrets, whose content shows drift; an apply without changes is free."""
        self._unverified = {ref for ref in self._cache.child_index.by_ref if ref.kind != "Secret"}

    async def apply(self, plan: Plan, *, documents_only: bool = False) -> None:
        """Write the children that a plan wants, and remove those that it does not want.

        Args:
            plan: the plan of one key.
            documents_only: write only config Secrets and remove nothing.

        Raises:
            ApiError: the first failure, after every child was tried.
        """
        if plan.children is None:
            return
        failures: list[ApiError] = []
        staying = {*plan.staying, *(child.ref for child in plan.children)}
        for child in plan.children:
            if documents_only and child.ref.namespace != self._cache.install.config_namespace:
                continue
            try:
                await self._apply(plan.key, child)
            except ApiError as error:
                failures.append(error)
        for existing in () if documents_only else self._cache.child_index.of(plan.key):
            if existing.state.ref not in staying and not self._is_needed(plan):
                try:
                    await self._remove(existing)
                except ApiError as error:
                    failures.append(error)
        if failures:
            raise failures[0]

    async def _apply(self, key: Key, child: DesiredChild) -> None:
        document = document_id(key)
        if document is not None and child.manifest["metadata"].get("labels", {}).get(config_secret.CONFIG_LABEL):
            self._removals.withdraw(document)
        if not self._is_in_place(child):
            await self._write(key, child.ref, child.manifest)

    def _is_in_place(self, child: DesiredChild) -> bool:
        existing = self._cache.child_index.by_ref.get(child.ref)
        if existing is None or existing.state.desired != child.desired or child.ref in self._unverified:
            return False
        if child.ref.kind == "Secret":
            return existing.digest == kinds.digest_of(child.manifest)
        return self._verified.setdefault(child.ref, existing.digest) == existing.digest

    async def _write(self, key: Key, ref: ObjectRef, manifest: dict[str, Any]) -> None:
        kind = kinds.BY_NAME[ref.kind]
        path = kind.path(ref.namespace, ref.name)
        if ref in self._cache.child_index.foreign:
            raise ApiError(409, "NotOurs", f"apply {path}", "a child of another install has this name")
        # read before the write, because the watch may report the write before the answer arrives
        before = self._cache.child_index.by_ref.get(ref)
        if before is None and ref.namespace != self._cache.install.config_namespace:
            await self._refuse_foreign(path)
        try:
            raw = await self._api.apply(path, manifest)
        except ApiError as error:
            if (
                error.status != _INVALID
                or ref not in self._cache.child_index.by_ref
                or not await self._delete_unwritable(path, manifest)
            ):
                raise
            raw = await self._api.apply(path, manifest)
        self._take_answer(key, kind, raw)
        self._unverified.discard(ref)
        existing = self._cache.child_index.by_ref.get(ref)
        if existing is not None:
            self._verified[ref] = existing.digest
            self._report(key, before, existing)
            if existing.state.status != (before.state.status if before is not None else {}):
                self._queue.add(key)  # the cache has the status from the answer, so no event will report it
        _log.debug("child_written", kind=ref.kind, namespace=ref.namespace, name=ref.name)

    def _report(self, key: Key, before: kinds.ChildRecord | None, existing: kinds.ChildRecord) -> None:
        if existing.is_config:
            self._metrics.published.set(time.time())
            self._on_published()
            if existing.tombstone:
                self._event_logger.removed(key)
            else:
                self._event_logger.published(key, is_new=before is None or bool(before.tombstone))
        elif existing.state.ref.kind != "Secret":
            self._event_logger.applied(existing.state.ref)

    async def _delete_unwritable(self, path: str, manifest: dict[str, Any]) -> bool:
        """Delete one of our Secrets if it is immutable or has another type, since no write can change either.

        Gateways keep serving its document until it is written again. Returns whether the Secret was deleted.
        """
        if manifest["kind"] != "Secret":
            return False
        raw = await self._api.get(path, missing_ok=True)
        if raw is None or not (raw.get("immutable") or raw.get("type") != manifest.get("type", "Opaque")):
            return False
        await self._api.delete(path, raw["metadata"]["uid"])
        _log.warning("child_recreated", path=path)
        return True

    async def _refuse_foreign(self, path: str) -> None:
        """Raise if an object of that name exists that this operator did not make.

        An object whose labels were removed but that this operator applied earlier is ours. The configuration namespace
        belongs to the operator alone, so this is not called for it.
        """
        raw = await self._api.get(path, missing_ok=True)
        if raw is None:
            return
        labels = raw["metadata"].get("labels") or {}
        managers = {entry.get("manager") for entry in raw["metadata"].get("managedFields") or ()}
        install = labels.get(config_secret.INSTALL_LABEL, self._install_label)
        if kinds.FIELD_MANAGER not in managers or install != self._install_label:
            raise ApiError(409, "NotOurs", f"apply {path}", "an object that this operator did not make has this name")

    @property
    def _install_label(self) -> str:
        return config_secret.install_label(self._cache.install.controller_name)

    def _take_answer(self, key: Key, kind: kinds.WatchedKind, raw: dict[str, Any]) -> None:
        """Put the server's answer into the cache, so that the next plan sees it and its watch event changes nothing."""
        for changed in self._cache.take(kind, raw) - {key}:
            if changed.kind == "Hostname":
                self._queue.add_after(changed, _HOSTNAME_DELAY_SECONDS)
            else:
                self._queue.add(changed)

    def _is_needed(self, plan: Plan) -> bool:
        """True if a hostname that no listener wants still has documents whose removal is halted or not decided."""
        if plan.key.kind != "Hostname" or plan.children:
            return False
        waiting = self._removals.waiting
        return any(("Listener", one.key) in waiting for one in self._cache.listeners_at(plan.key.name))

    async def _remove(self, child: kinds.ChildRecord) -> None:
        ref = child.state.ref
        document = document_id(child.key)
        if not child.is_config or document is None:
            await self._delete(child)
        elif child.tombstone:
            left = self._tombstone_seconds_left(ref, child.tombstone)
            if left > 0:
                self._queue.add_after(child.key, left)
                return
            await self._delete(child)
            self._removals.withdraw(document)
        elif self._removals.request(document, time.monotonic()):
            written_at = _now()
            await self._write(child.key, ref, self._tombstone(child, document, written_at))
            self._queue.add_after(child.key, self._tombstone_seconds_left(ref, written_at))

    def _tombstone_seconds_left(self, ref: ObjectRef, written_at: str) -> float:
        return self._tombstones.seconds_left(ref, written_at, datetime.datetime.now(datetime.UTC), time.monotonic())

    async def _delete(self, child: kinds.ChildRecord) -> None:
        ref = child.state.ref
        kind = kinds.BY_NAME[ref.kind]
        await self._api.delete(kind.path(ref.namespace, ref.name), child.uid)
        for key in self._cache.remove(kind, ref.namespace, ref.name) - {child.key}:
            self._queue.add(key)
        self._verified.pop(ref, None)
        self._tombstones.forget(ref)
        self._event_logger.deleted(ref)

    def _tombstone(self, child: kinds.ChildRecord, document: DocumentId, written_at: str) -> dict[str, Any]:
        keys = self._cache.keys
        assert keys is not None
        owner = config_secret.Owner(child.key.namespace, child.key.name, child.owner_uid)
        envelope = config_secret.tombstone_of(document[0], owner, child.owner_generation, written_at, keys.document)
        return children.build_tombstone(envelope, child.state.ref, self._cache.install).manifest


def document_id(key: Key) -> DocumentId | None:
    """The document that a key publishes; None for keys that publish none."""
    match key.kind:
        case "Listener" | "Destination":
            return key.kind, key.path
    return None


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
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_MAX_QUEUED_EVENTS)

    async def write(self, plan: Plan) -> None:
        """Write the status that a plan wants, unless it is stored already or the stored one is newer.

        Raises:
            ApiError: the API server did not accept the status.
        """
        record = self._cache.records.get(plan.key)
        if plan.status is None or record is None:
            self._event_recorder.overdue(plan.key, None, self._clock())
            return
        result = await self._write(plan.key, plan.status, record)
        self._metrics.status_updates.labels(plan.key.kind, result).inc()
        self._queue_events(plan.key, record.uid, self._event_recorder.overdue(plan.key, plan.status, self._clock()))
        due = self._event_recorder.due_in(plan.key, self._clock())
        if due is not None:
            self._queue.add_after(plan.key, due)

    async def _write(self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord) -> str:
        """Write a status; returns the label of the metric."""
        if record.observed_generation > status.observed_generation:
            return "newer"
        changed = differences(status, record)
        if not changed:
            return "noop"
        if changed <= INFORMATIONAL_CONDITIONS and not self._bucket.take(self._clock()):
            self._queue.add_after(key, self._bucket.seconds_until_token())
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
        for other in self._cache.take(kind, raw) - (frozenset() if is_edited else {key}):
            self._queue.add(other)
        self._log_ready(key, status, record)
        self._queue_events(key, record.uid, self._event_recorder.written(key, status, record, self._clock()))
        return "success"

    def _log_ready(self, key: Key, status: ResourceStatus, record: kinds.ResourceRecord) -> None:
        ready = status.condition(ConditionType.Ready)
        before = next((one for one in record.found.conditions if one.type == ConditionType.Ready), None)
        if ready is not None and ready.status != "Unknown" and (before is None or before.status != ready.status):
            self._event_logger.ready(key, ready)

    def _queue_events(self, key: Key, uid: str, conditions: list[StatusCondition]) -> None:
        """Queue Events for the background task; drop them if its queue is full, so that they never delay a write."""
        for condition in conditions:
            event = event_of(key, uid, condition, _now())
            try:
                self._events.put_nowait(event)
            except asyncio.QueueFull:
                return

    async def post_events(self) -> None:
        """Post the queued Events, until cancelled."""
        while True:
            event = await self._events.get()
            namespace = event["metadata"]["namespace"]
            try:
                await self._api.create(f"/api/v1/namespaces/{namespace}/events", event, attempts=1)
            except ApiError as error:
                _log.debug("event_not_posted", status=error.status, reason=error.reason)
            await asyncio.sleep(_EVENT_INTERVAL_SECONDS)


def differences(status: ResourceStatus, record: kinds.ResourceRecord) -> frozenset[str]:
    """Types of the conditions that differ, plus ``status`` if anything else differs."""
    stored = {one.type: one for one in record.found.conditions}
    wanted = {one.type: one for one in status.conditions}
    found = {type_ for type_ in stored.keys() | wanted.keys() if stored.get(type_) != wanted.get(type_)}
    if record.observed_generation != status.observed_generation or dict(record.found.fields) != status.fields:
        found.add("status")
    return frozenset(found)


def body_of(key: Key, status: ResourceStatus, record: kinds.ResourceRecord, now: str) -> dict[str, Any]:
    """The body of the apply request. ``lastTransitionTime`` changes only if the condition's status does."""
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
