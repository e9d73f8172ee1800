"""Complete readings of the cluster: at the start, every ten minutes, and whenever a watch may have missed something.

Only a list that ended without an error says that something is gone. Kopf never reports what was deleted while its watch
was cut and began anew, so its new beginnings are noticed (handlers.py) and answered by a reading of that kind.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable

import structlog

from usher_gateway.kube.client import ApiError, Client, Raw
from usher_operator import kinds
from usher_operator.cache import Cache, KeySet
from usher_operator.metrics import OperatorMetrics
from usher_operator.view import Key
from usher_operator.workqueue import PauseGate, Workqueue

_log = structlog.get_logger(__name__)

_GRACE_SECONDS = 1.0
"""What a list no longer shows is mostly on its way as an event; only what is not is a divergence."""

_RETRY_SECONDS = 5.0
_ABSENT = 404


class Resync:
    """Reads kinds completely and says what has to be planned again."""

    def __init__(
        self,
        api: Client,
        cache: Cache,
        queue: Workqueue[Key],
        trusting: PauseGate,
        numbers: OperatorMetrics,
    ) -> None:
        self._api, self._cache, self._queue = api, cache, queue
        self._trust, self._metrics = trusting, numbers
        self._asked: set[kinds.WatchedKind] = set()
        self._wake = asyncio.Event()
        self.versions: dict[kinds.WatchedKind, str] = {}
        """Where the reading at the start ended: where a watch may begin."""
        self.scopes: dict[kinds.WatchedKind, str] = {}
        """Kind -> the one namespace in which it is of interest; others are read in all."""
        self.kinds: tuple[kinds.WatchedKind, ...] = kinds.ALL
        """What is read; optional kinds that are switched off are left out."""
        self.after_all: Callable[[], None] = lambda: None
        """Called after a complete periodic reading, before everything is planned again."""

    def ask(self, kind: kinds.WatchedKind) -> None:
        """Read a kind soon: its watch may have missed something."""
        self._asked.add(kind)
        self._wake.set()

    async def read_start(self, some: tuple[kinds.WatchedKind, ...]) -> None:
        """Read kinds until each was read completely; waits, and says so, while one cannot be."""
        left = list(some)
        while True:
            left = [kind for kind in left if not await self.read(kind, is_start=True) and not self.is_absent(kind)]
            if not left:
                return
            await asyncio.sleep(_RETRY_SECONDS)

    async def run(self, seconds: float) -> None:
        """Read everything every so often, and at once what was asked for; for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            self._wake.clear()
            asked, self._asked = self._asked, set()
            if loop.time() >= due:
                await self._read_all()
                due = loop.time() + seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
            else:
                failed = {kind for kind in asked if not await self.read(kind) and not self.is_absent(kind)}
                if failed:
                    loop.call_later(_RETRY_SECONDS, self._ask_again, failed)

    def _ask_again(self, failed: set[kinds.WatchedKind]) -> None:
        for kind in failed:
            self.ask(kind)

    async def _read_all(self) -> None:
        results = [await self.read(kind) or self.is_absent(kind) for kind in self.kinds]
        self._metrics.resyncs.labels("success" if all(results) else "incomplete").inc()
        self._cache.forget_missing()
        self.after_all()
        self.plan_all()

    def plan_all(self) -> None:
        """Plan everything again: what gateways run first, and Tenants, which sum up their Listeners, last."""
        for key in sorted(self._cache.all_keys(), key=_rank):
            self._queue.add(key)

    def collection(self, kind: kinds.WatchedKind) -> str:
        """Path of what is of interest of a kind."""
        return kind.collection(self.scopes.get(kind, ""))

    async def read(self, kind: kinds.WatchedKind, *, is_start: bool = False) -> str:
        """Read a kind; returns its resourceVersion, ``""`` where that was not complete or there is no such kind.

        What an incomplete reading lacks is not taken for gone.
        """
        topic = f"reading {kind.plural}"
        known = self._cache.names(kind)
        found: set[tuple[str, str]] = set()
        version = ""
        try:
            async for page in self._api.pages(self.collection(kind), Raw, selector=kind.selector):
                version = page.resource_version
                for raw in page.items:
                    found.add((raw["metadata"].get("namespace", ""), raw["metadata"]["name"]))
                    self._put(kind, raw, is_start=is_start)
        except ApiError as error:
            self._failed(kind, error, is_start=is_start)
            return ""
        self._trust.resume(topic)
        if kind.feature:
            self._add(self._cache.set_served(kind, served=True))
        gone = [name for name in known - found if not self._is_newer(kind, name, version)]
        if gone:
            await self._forget(kind, gone, version)
        if is_start:
            self.versions[kind] = version
        return version

    def is_absent(self, kind: kinds.WatchedKind) -> bool:
        """Whether a kind is optional and not there: then there is nothing to read."""
        return not self._cache.optional.is_served(kind)

    def _failed(self, kind: kinds.WatchedKind, error: ApiError, *, is_start: bool) -> None:
        if error.status == _ABSENT and kind.feature:
            self._add(self._cache.set_served(kind, served=False))
            return
        topic = f"reading {kind.plural}"
        if error.status == _ABSENT:
            self._trust.pause(topic, f"the API server does not know {kind.plural}.{kind.group}: apply the CRDs")
        elif is_start:
            self._trust.pause(topic, f"{kind.plural} cannot be read: {error.status} {error.reason}")
        else:
            _log.error("reading_incomplete", kind=kind.name, status=error.status, reason=error.reason)

    def _put(self, kind: kinds.WatchedKind, raw: Raw, *, is_start: bool) -> None:
        metadata = raw["metadata"]
        uid, version = self._cache.version_of(kind, metadata.get("namespace", ""), metadata["name"])
        if uid == metadata["uid"] and is_older(metadata["resourceVersion"], version):
            return  # an event was faster
        # kinds of which no version is kept have nothing to compare
        keeps = kind in kinds.OWN or kind in kinds.CHILDREN
        if is_start:
            self._cache.put(kind, raw)  # everything is planned once everything was read
        else:
            self._add(self._cache.take(kind, raw) if keeps else self._cache.put(kind, raw))

    def _is_newer(self, kind: kinds.WatchedKind, name: tuple[str, str], version: str) -> bool:
        """Whether an object was seen in a state that came after the list."""
        return is_older(version, self._cache.version_of(kind, *name)[1])

    async def _forget(self, kind: kinds.WatchedKind, gone: list[tuple[str, str]], version: str) -> None:
        await asyncio.sleep(_GRACE_SECONDS)
        still = self._cache.names(kind)
        for name in gone:
            if name in still and not self._is_newer(kind, name, version):
                self._metrics.divergence.labels(kind.name).inc()
                _log.warning("gone_without_an_event", kind=kind.name, namespace=name[0], name=name[1])
                self._add(self._cache.remove(kind, *name))

    def _add(self, keys: KeySet) -> None:
        for key in keys:
            self._queue.add(key)


_ORDER: dict[str, int] = {"ListenerClass": 0, "Destination": 1, "Listener": 2, "Hostname": 3, "Tenant": 4}


def _rank(key: Key) -> tuple[int, Key]:
    return _ORDER[key.kind], key


def is_older(version: str, than: str) -> bool:
    """Whether a resourceVersion is surely older: both are numbers, as every API server on etcd has them."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)
