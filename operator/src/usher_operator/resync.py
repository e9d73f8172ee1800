"""Complete readings of the cluster, and the check that finds what the watches missed.

The operator reads all kinds at its start and every ten minutes, and one kind whenever its watch may have missed
something. Only a list that ended without an error proves that an object is gone.

Every minute the check lists only the metadata of the kinds that kopf watches, and compares uid and resourceVersion with
the cache. It finds objects that were deleted while kopf's watch was down, which kopf never reports. If it finds a
difference, the operator reads that kind completely.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping

import msgspec
import structlog

from usher_gateway.kube.client import ApiError, Client, JsonObject
from usher_operator import kinds
from usher_operator.cache import Cache, KeySet
from usher_operator.health import OperatorMetrics
from usher_operator.view import Key
from usher_operator.workqueue import PauseGate, Workqueue

_log = structlog.get_logger(__name__)

_GRACE_SECONDS = 1.0
"""The event of a change may arrive shortly after a list. An object that still differs after this time was missed."""

_RETRY_SECONDS = 5.0
_ABSENT = 404

Name = tuple[str, str]
"""(namespace, name)."""


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
        client: reads the API server.
        cache: what is known of the cluster.
        queue: keys to reconcile.
        gate: paused while a kind cannot be read at the start.
        metrics: counts readings and divergences.
        read_kinds: the kinds to read; optional kinds that are switched off are left out.
        namespaces: the namespace of kinds that matter in one namespace only.
        after_all: called after each complete reading, before all keys are added to the queue.
    """

    def __init__(
        self,
        *,
        client: Client,
        cache: Cache,
        queue: Workqueue[Key],
        gate: PauseGate,
        metrics: OperatorMetrics,
        read_kinds: tuple[kinds.WatchedKind, ...],
        namespaces: Mapping[kinds.WatchedKind, str],
        after_all: Callable[[], None],
    ) -> None:
        self._client, self._cache, self._queue, self._gate, self._metrics = client, cache, queue, gate, metrics
        self.kinds, self._namespaces, self._after_all = read_kinds, namespaces, after_all
        self.requested: set[kinds.WatchedKind] = set()
        self._wake = asyncio.Event()
        self._start_versions: dict[kinds.WatchedKind, str] = {}

    def request(self, kind: kinds.WatchedKind) -> None:
        """Read a kind soon, because its watch may have missed something."""
        self.requested.add(kind)
        self._wake.set()

    def take_start_version(self, kind: kinds.WatchedKind) -> str:
        """The version at which the reading at the start ended, at the first call; `""` after that."""
        return self._start_versions.pop(kind, "")

    async def read_start(self, some: tuple[kinds.WatchedKind, ...]) -> None:
        """Read kinds until each was read completely. Pauses the workers while a kind cannot be read."""
        left = list(some)
        while True:
            left = [kind for kind in left if not await self.read(kind, is_start=True) and not self.is_absent(kind)]
            if not left:
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def run(self, seconds: float) -> None:
        """Read everything once per period, and requested kinds at once, until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _jittered(seconds)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            self._wake.clear()
            requested, self.requested = self.requested, set()
            if loop.time() >= due:
                await self._read_all()
                due = loop.time() + _jittered(seconds)
            else:
                failed = {kind for kind in requested if not await self.read(kind) and not self.is_absent(kind)}
                if failed:
                    loop.call_later(_RETRY_SECONDS, self._request_all, failed)

    def _request_all(self, failed: set[kinds.WatchedKind]) -> None:
        for kind in failed:
            self.request(kind)

    async def _read_all(self) -> None:
        results = [await self.read(kind) or self.is_absent(kind) for kind in self.kinds]
        self._metrics.resyncs.labels("success" if all(results) else "incomplete").inc()
        self._cache.forget_missing()
        self._after_all()
        self.add_all_keys()

    def add_all_keys(self) -> None:
        """Reconcile everything: documents for the gateways first, Tenants last, because they sum up their Listeners."""
        for key in sorted(self._cache.all_keys(), key=_rank):
            self._queue.add(key)

    def collection(self, kind: kinds.WatchedKind) -> str:
        """Path of the objects of a kind that matter."""
        return kind.collection(self._namespaces.get(kind, ""))

    async def read(self, kind: kinds.WatchedKind, *, is_start: bool = False) -> str:
        """Read a kind; returns its resourceVersion, or `""` if that failed or the cluster does not serve the kind."""
        known = self._cache.names(kind)
        found: set[Name] = set()
        version = ""
        try:
            async for page in self._client.pages(self.collection(kind), JsonObject, selector=kind.selector):
                version = page.resource_version
                for raw in page.items:
                    found.add((raw["metadata"].get("namespace", ""), raw["metadata"]["name"]))
                    self._put(kind, raw, is_start=is_start)
        except ApiError as error:
            self._handle_failure(kind, error, is_start=is_start)
            return ""
        self._gate.resume(f"reading {kind.plural}")
        if kind.feature:
            self._add(self._cache.set_served(kind, served=True))
        gone = [name for name in known - found if not self._is_newer(kind, name, version)]
        if gone:
            await self._remove_gone(kind, gone, version)
        if is_start:
            self._start_versions[kind] = version
        return version

    def is_absent(self, kind: kinds.WatchedKind) -> bool:
        """Return whether a kind is optional and the cluster does not serve it."""
        return not self._cache.optional.is_served(kind)

    async def run_checks(self, seconds: float) -> None:
        """Compare the kinds that kopf watches with the API server once per period, until cancelled."""
        watched = tuple(kind for kind in self.kinds if kind in kinds.WATCHED_BY_KOPF)
        while True:
            await asyncio.sleep(_jittered(seconds))
            for kind in watched:
                if not self.is_absent(kind):
                    await self.check(kind)

    async def check(self, kind: kinds.WatchedKind) -> None:
        """Request a reading if the cache misses a change or a deletion that had time to arrive as an event."""
        known = self._cache.names(kind)
        listed: dict[Name, tuple[str, str]] = {}
        version = ""
        try:
            pages = self._client.pages(
                self.collection(kind), _ListedObject, selector=kind.selector, is_metadata_only=True
            )
            async for page in pages:
                version = page.resource_version
                for item in page.items:
                    about = item.metadata
                    listed[about.namespace, about.name] = about.uid, about.resource_version
        except ApiError as error:
            _log.warning("watch_not_checked", kind=kind.name, status=error.status, reason=error.reason)
            return
        different = [name for name in known | listed.keys() if self._differs(kind, name, listed.get(name), version)]
        if not different:
            return
        await asyncio.sleep(_GRACE_SECONDS)
        if any(self._differs(kind, name, listed.get(name), version) for name in different):
            _log.warning("watch_missed_changes", kind=kind.name)
            self.request(kind)

    def _differs(self, kind: kinds.WatchedKind, name: Name, listed: tuple[str, str] | None, version: str) -> bool:
        """Return whether the cache is older than a list with this uid and version (None: without the object)."""
        if listed is None:
            return name in self._cache.names(kind) and not self._is_newer(kind, name, version)
        uid, cached_version = self._cache.version_of(kind, *name)
        if not uid:
            return True
        return is_older(cached_version, listed[1]) or (uid != listed[0] and not is_older(version, cached_version))

    def _handle_failure(self, kind: kinds.WatchedKind, error: ApiError, *, is_start: bool) -> None:
        if error.status == _ABSENT and kind.feature:
            self._add(self._cache.set_served(kind, served=False))
            return
        topic = f"reading {kind.plural}"
        if error.status == _ABSENT:
            self._gate.pause(topic, f"the API server does not know {kind.plural}.{kind.group}: apply the CRDs")
        elif is_start:
            self._gate.pause(topic, f"{kind.plural} cannot be read: {error.status} {error.reason}")
        else:
            _log.error("relist_failed", kind=kind.name, status=error.status, reason=error.reason)

    def _put(self, kind: kinds.WatchedKind, raw: JsonObject, *, is_start: bool) -> None:
        metadata = raw["metadata"]
        uid, version = self._cache.version_of(kind, metadata.get("namespace", ""), metadata["name"])
        if uid == metadata["uid"] and is_older(metadata["resourceVersion"], version):
            return  # an event was faster
        if is_start:
            self._cache.put(kind, raw)  # everything is added to the queue after everything was read
        else:
            self._add(self._cache.take(kind, raw))

    def _is_newer(self, kind: kinds.WatchedKind, name: Name, version: str) -> bool:
        """Return whether the cache has a version of the object that is later than the list."""
        return is_older(version, self._cache.version_of(kind, *name)[1])

    async def _remove_gone(self, kind: kinds.WatchedKind, gone: list[Name], version: str) -> None:
        await asyncio.sleep(_GRACE_SECONDS)
        known = self._cache.names(kind)
        for name in gone:
            if name in known and not self._is_newer(kind, name, version):
                self._metrics.divergence.labels(kind.name).inc()
                _log.warning("missed_deletion_found", kind=kind.name, namespace=name[0], name=name[1])
                self._add(self._cache.remove(kind, *name))

    def _add(self, keys: KeySet) -> None:
        for key in keys:
            self._queue.add(key)


_ORDER: dict[str, int] = {"ListenerClass": 0, "Destination": 1, "Listener": 2, "Hostname": 3, "Tenant": 4}


def _rank(key: Key) -> tuple[int, Key]:
    return _ORDER[key.kind], key


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load


def is_older(version: str, than: str) -> bool:
    """Return whether a resourceVersion is older. API servers on etcd have numbers; anything else is not comparable."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
