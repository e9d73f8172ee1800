"""Children as a plan wants them: applied server-side where they differ, removed where they are wanted no more.

A document is removed in two steps: its config Secret becomes a tombstone once the removal was judged, and is deleted
when the tombstone is old enough.
"""

import datetime
import time
from collections.abc import Callable
from typing import Any

import structlog

from usher_gateway import config_secret
from usher_operator import api as apis
from usher_operator import cache as caches
from usher_operator import children, chronicle, kinds, metrics, removals, seen, tombstones, workqueue
from usher_operator.view import DesiredChild, Key, ObjectRef, Plan

_log = structlog.get_logger(__name__)

_INVALID = 422


class Children:
    """Writes children."""

    def __init__(
        self,
        api: apis.Api,
        cache: caches.Cache,
        queue: workqueue.Workqueue[Key],
        judge: removals.Removals,
        told: tuple[metrics.Metrics, chronicle.Chronicle],
    ) -> None:
        self._api, self._cache, self._queue, self._removals = api, cache, queue, judge
        self._metrics, self._chronicle = told
        self.tombstones = tombstones.Tombstones()
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
