"""Complete readings of the cluster, and the check that finds what the watches missed.

The operator reads all kinds at its start and every ten minutes, and one kind whenever its watch may have missed
something. Only a list that ended without an error proves that an object is gone.

Every minute the check lists only each kind's metadata, and compares uid and resourceVersion with the cache. It
finds objects that were deleted while kopf's watch was down, which kopf never reports, and whatever else a watch missed.
If it finds a difference, the operator reads that kind completely.

A list is right about every object that did not change in the cache since before the list, even if the cache has a later
version. That happens after a restore of etcd, when versions go backwards. Watches from later versions then receive
nothing, not even an error. So if a list is older than what was seen before it, the operator pauses its workers, reads
everything, and starts all watches again.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Mapping

import msgspec
import structlog

from usher_gateway.kube import is_older
from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_gateway.timing import EventLoopTurns
from usher_operator.run.health import Health, OperatorMetrics
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key
from usher_operator.state.view import NO_VERSION, Version

_log = structlog.get_logger(__name__)

# A change's event may arrive shortly after a list. An object that still differs after this time was missed.
_GRACE_SECONDS = 1.0

_RETRY_SECONDS = 5.0
_RESTORE = "restore"  # Topic of the gate while everything is read after a restore

_ABSENT = 404

Name = tuple[str, str]  # (namespace, name)


class _ObjectMetadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    uid: str
    resource_version: str
    namespace: str = ""


class _ListedObject(msgspec.Struct, frozen=True):
    metadata: _ObjectMetadata


class Resync:
    """Reads kinds completely, and adds the affected keys to the queue.

    Args:
        gate: paused while a kind cannot be read at the start, and after a restore until everything was read.
        read_kinds: the kinds to read, each with the namespace in which it matters (`""`: all). Optional kinds that are
            switched off are left out.
        after_all: called after each complete reading, before all keys are added to the queue.
        after_restore: called after the complete reading that follows when versions went backwards.
        on_missed_changes: called when a watch missed changes, because other watches may have missed some too.
    """

    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        queue: Workqueue[Key],
        gate: PauseGate,
        health: Health,
        metrics: OperatorMetrics,
        read_kinds: Mapping[kinds.WatchedKind, str],
        after_all: Callable[[], None],
        after_restore: Callable[[], None],
        on_missed_changes: Callable[[], None],
    ) -> None:
        self._client, self._cache, self._queue, self._gate = client, cache, queue, gate
        self._health, self._metrics = health, metrics
        self.kinds, self._namespaces = tuple(read_kinds), read_kinds
        self._after_all, self._after_restore, self._on_missed_changes = after_all, after_restore, on_missed_changes
        self._seen: dict[kinds.WatchedKind, str] = {}  # The last version of each kind that a list or a watch showed
        self._is_restored = False  # True after versions went backwards, until everything was read
        self.requested: set[kinds.WatchedKind] = set()
        self._wake = asyncio.Event()
        self._start_versions: dict[kinds.WatchedKind, str] = {}

    def request(self, *some: kinds.WatchedKind) -> None:
        """Read kinds soon, because their watches may have missed something."""
        self.requested.update(some)
        self._wake.set()

    def saw_version(self, kind: kinds.WatchedKind, version: str) -> None:
        """Note a version that a watch showed."""
        self._seen[kind] = version

    def take_start_version(self, kind: kinds.WatchedKind) -> str:
        """The version at which the reading at the start ended, at the first call; `""` after that."""
        return self._start_versions.pop(kind, "")

    async def read_start(self, some: tuple[kinds.WatchedKind, ...]) -> None:
        """Read kinds until each was read completely. Pauses the workers while a kind cannot be read."""
        unread_kinds = list(some)
        while True:
            unread_kinds = [
                kind for kind in unread_kinds if not await self.read(kind, is_start=True) and not self.is_absent(kind)
            ]
            if not unread_kinds:
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def run(self, seconds: float) -> None:
        """Read everything once per period, and requested kinds at once, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + jittered(seconds)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= due or self._is_restored:
                await self._read_all()
                due = loop.time() + jittered(seconds)
            else:
                requested, self.requested = self.requested, set()
                await self._read_some(requested & set(self.kinds))

    async def _read_some(self, requested: Collection[kinds.WatchedKind]) -> bool:
        """Read kinds, and request those again that could not be read; returns whether all could."""
        failed = {kind for kind in requested if not await self.read(kind) and not self.is_absent(kind)}
        if failed:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.request, *failed)
        return not failed

    async def _read_all(self) -> None:
        self.requested.clear()
        is_complete = await self._read_some(self.kinds)
        self._metrics.resyncs.labels("success" if is_complete else "incomplete").inc()
        self._cache.secrets.forget_missing()
        self._after_all()
        self.add_all_keys()
        if self._is_restored and is_complete:
            self._is_restored = False
            self._gate.resume(_RESTORE)
            self._after_restore()
            # what is deleted before kopf lists again shows only in a later list
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.request, *kinds.WATCHED_BY_KOPF)
        elif self._is_restored:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake.set)

    def add_all_keys(self) -> None:
        """Reconcile everything: documents for the gateways first, Tenants last, because they sum up their Listeners."""
        self._queue.add_all(sorted(self._cache.all_keys(), key=_rank))

    def collection(self, kind: kinds.WatchedKind) -> str:
        """Path to a kind's objects that matter."""
        return kind.collection(self._namespaces[kind])

    async def read(self, kind: kinds.WatchedKind, *, is_start: bool = False) -> str:
        """Read a kind; returns its resourceVersion, or `""` if that failed or the cluster does not serve the kind."""
        cached_versions, last_version = self._cache.versions(kind), self._seen.get(kind, "")
        listed: set[Name] = set()
        version = ""
        turns = EventLoopTurns()
        try:
            async for page in self._client.pages(self.collection(kind), JsonObject, selector=kind.selector):
                version = version or self._see_list(kind, page.resource_version, last_version)
                for raw in page.items:
                    name = raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
                    listed.add(name)
                    self._put(kind, raw, cached_versions.get(name, NO_VERSION), is_start=is_start)
                    await turns.give_way()  # the Lease has to be renewed, however many objects a page has
        except ApiError as error:
            self._handle_failure(kind, error, is_start=is_start)
            return ""
        self._gate.resume(f"reading {kind.plural}")
        if kind.feature:
            self._queue.add_all(self._cache.set_served(kind, served=True))
        self._listed(kind)
        gone = {name: cached_version for name, cached_version in cached_versions.items() if name not in listed}
        if gone:
            await self._remove_gone(kind, gone)
        if is_start:
            self._start_versions[kind] = version
        return version

    def is_absent(self, kind: kinds.WatchedKind) -> bool:
        """Return whether a kind is optional and the cluster does not serve it."""
        return not self._cache.optional.is_served(kind)

    async def run_checks(self, seconds: float) -> None:
        """Compare the cache with the API server once per period, until cancelled."""
        while True:
            await asyncio.sleep(jittered(seconds))
            for kind in self.kinds:
                await self.check(kind)

    async def check(self, kind: kinds.WatchedKind) -> None:
        """Request a reading if an object differs from a list and has not changed in the cache since before the list.

        An absent kind is read, because an API server may answer 404 for a moment although it has the kind.
        """
        if self.is_absent(kind):
            self.request(kind)
            return
        cached_versions, last_version = self._cache.versions(kind), self._seen.get(kind, "")
        listed: dict[Name, Version] = {}
        version = ""
        try:
            pages = self._client.pages(
                self.collection(kind), _ListedObject, selector=kind.selector, is_metadata_only=True
            )
            async for page in pages:
                version = version or self._see_list(kind, page.resource_version, last_version)
                for item in page.items:
                    about = item.metadata
                    listed[about.namespace, about.name] = about.uid, about.resource_version
        except ApiError as error:
            _log.warning("watch_not_checked", kind=kind.name, status=error.status, reason=error.reason)
            return
        self._listed(kind)
        different = {
            name: cached_versions.get(name, NO_VERSION)
            for name in cached_versions.keys() | listed.keys()
            if cached_versions.get(name) != listed.get(name)
        }
        if not different:
            return
        await asyncio.sleep(_GRACE_SECONDS)
        if any(self._cache.version_of(kind, *name) == cached_version for name, cached_version in different.items()):
            _log.warning("watch_missed_changes", kind=kind.name)
            self.request(kind)
            self._on_missed_changes()

    def _see_list(self, kind: kinds.WatchedKind, version: str, last_version: str) -> str:
        """Note and return a list's version. If the last version before it is a later one, etcd was restored."""
        if is_older(version, last_version):
            _log.error("older_versions_found", kind=kind.name, known=last_version, present=version)
            self._gate.pause(_RESTORE, "versions went backwards, as after a restore of etcd: everything is read again")
            self._seen.clear()
            self._is_restored = True
            self._wake.set()
        self._seen[kind] = version
        return version

    def _listed(self, kind: kinds.WatchedKind) -> None:
        """Note a complete list."""
        self._health.saw_list(kind.name)
        self._metrics.saw_list(kind.name)

    def _handle_failure(self, kind: kinds.WatchedKind, error: ApiError, *, is_start: bool) -> None:
        if error.status == _ABSENT and kind.feature:
            self._health.forget_lists(kind.name)
            self._queue.add_all(self._cache.set_served(kind, served=False))
            return
        topic = f"reading {kind.plural}"
        if error.status == _ABSENT:
            self._gate.pause(topic, f"the API server does not know {kind.plural}.{kind.group}: apply the CRDs")
        elif is_start:
            self._gate.pause(topic, f"{kind.plural} cannot be read: {error.status} {error.reason}")
        else:
            _log.error("relist_failed", kind=kind.name, status=error.status, reason=error.reason)

    def _put(self, kind: kinds.WatchedKind, raw: JsonObject, cached_version: Version, *, is_start: bool) -> None:
        """Take an object from a list. `cached_version`: its version in the cache before the list."""
        metadata = raw["metadata"]
        current_version = self._cache.version_of(kind, metadata.get("namespace", ""), metadata["name"])
        was_deleted = current_version == NO_VERSION and cached_version[0] == metadata["uid"]
        if current_version != cached_version and (
            was_deleted or is_older(metadata["resourceVersion"], current_version[1])
        ):
            return  # an event or the answer to a write was faster
        if is_start:
            self._cache.put(kind, raw)  # everything is added to the queue after everything was read
        else:
            self._queue.add_all(self._cache.take(kind, raw))

    async def _remove_gone(self, kind: kinds.WatchedKind, gone: Mapping[Name, Version]) -> None:
        """Remove objects that a list does not have, unless they changed in the cache since before the list."""
        await asyncio.sleep(_GRACE_SECONDS)
        for name, cached_version in gone.items():
            if self._cache.version_of(kind, *name) == cached_version:
                self._metrics.divergence.labels(kind.name).inc()
                _log.warning("missed_deletion_found", kind=kind.name, namespace=name[0], name=name[1])
                self._queue.add_all(self._cache.remove(kind, *name))


_ORDER: dict[str, int] = {"ListenerClass": 0, "Destination": 1, "Listener": 2, "Hostname": 3, "Tenant": 4}


def _rank(key: Key) -> tuple[int, Key]:
    return _ORDER[key.kind], key


def jittered(seconds: float) -> float:
    """A period that differs by at most a tenth, so that operators' readings do not come together."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load
