"""Watches on the cluster: events change the cache and add keys to the queue.

Kopf watches the CRDs and the platform's other objects, which change rarely. The operator uses only its public
`on.event` handlers, so kopf writes no finalizer and no annotation to any object. Kopf swallows handlers' exceptions, so
handlers do no I/O.

Reflectors watch the custom resources and the operator's children, because kopf needs 1 ms of CPU for each event. With
kopf, one agency that changed its listeners as fast as it could delayed every other agency's changes by seconds,
because all arrive in one stream. Reflectors also watch Issuers, and only those in the data plane's namespace, because
kopf would list the Issuers in all namespaces, in pages of any size. Reflectors also watch kinds whose CRD appears while
the operator runs, because kopf looks for a new CRD only once, often before the API server serves it.

After a watch expired (410), kopf lists again and does not report the objects that were deleted in between. The check in
resync.py finds them. Kopf does not notice that versions went backwards, so the operator then starts it again.
"""

import asyncio
import base64
import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import kopf
import structlog

from usher_gateway import model
from usher_gateway.kube import is_older
from usher_gateway.kube.access import Access, ApiConnection
from usher_gateway.kube.client import ApiError, Client, JsonObject, WatchEvent
from usher_gateway.kube.reflector import Reflector
from usher_operator.run.health import Health, OperatorMetrics
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.values import Key, Kind
from usher_operator.watch import resync

_log = structlog.get_logger(__name__)


_PAGE_ROWS = 500
_POLL_SECONDS = 1.0

_KOPF_FOLDER = f"{pathlib.Path(kopf.__file__).parent}/"
_CANCEL_ROUNDS = 5
_CANCEL_SECONDS = 1.0

_FIRST_KOPF_DELAY_SECONDS = 1.0
_LAST_KOPF_DELAY_SECONDS = 60.0  # Delays before kopf is started again after it failed


def log_failure(error: model.UsherError, failures: int, **about: str) -> None:
    """Log that a watch failed, as a warning from its second failure in a row on. ``failures``: those before it."""
    log = _log.warning if failures else _log.info
    log("watch_failed", error=str(error), failures=failures, **about)


class EventHandler:
    """Applies events to the cache and adds the affected keys to the queue."""

    def __init__(self, *, cache: Cache, queue: Workqueue[Key], health: Health, metrics: OperatorMetrics) -> None:
        self._cache, self._queue, self._health, self._metrics = cache, queue, health, metrics

    def handle(self, kind: kinds.WatchedKind, event_type: str | None, raw: JsonObject) -> None:
        """Handle one event; `event_type` None: kopf listed the object."""
        self.saw_event(kind)
        metadata = raw["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        uid, version = self._cache.version_of(kind, namespace, name)
        if event_type == "DELETED":
            keys = self._cache.remove(kind, namespace, name) if uid in {"", metadata["uid"]} else frozenset()
        elif is_older(metadata["resourceVersion"], version):
            # the cache has the response to a later write, or an object with this name that was made later: kopf orders
            # events only by uid
            return
        else:
            keys = self._cache.put(kind, raw)
        self._queue.add_all(keys)

    def saw_event(self, kind: kinds.WatchedKind) -> None:
        """Note that a kind's watch is alive."""
        self._health.saw_event(kind.name)
        self._metrics.saw_watch(kind.name)


class Watcher:
    """Watches kinds with reflectors, each from the version at which a complete reading ended."""

    def __init__(self, *, client: Client, reader: resync.Resync, handler: EventHandler) -> None:
        self._client, self._reader, self._handler = client, reader, handler
        self._watched: set[kinds.WatchedKind] = set()
        self._requested: asyncio.Queue[kinds.WatchedKind] = asyncio.Queue()
        self._reflectors: list[Reflector[JsonObject]] = []

    def watch(self, kind: kinds.WatchedKind) -> None:
        """Start to watch a kind, unless it is watched already or switched off."""
        if kind not in self._watched and kind in self._reader.kinds:
            self._watched.add(kind)
            self._requested.put_nowait(kind)

    def restart(self) -> None:
        """Start all watches again, from new lists."""
        for reflector in self._reflectors:
            reflector.read_again()

    async def run(self) -> None:
        """Watch the kinds that change often, and the kinds that are requested later, until cancelled."""
        for kind in kinds.WATCHED_BY_REFLECTORS:
            self.watch(kind)
        async with asyncio.TaskGroup() as group:
            while True:
                kind = await self._requested.get()
                reflector = self._reflector(kind)
                self._reflectors.append(reflector)
                group.create_task(reflector.run(), name=f"watch {kind.plural}")

    def _reflector(self, kind: kinds.WatchedKind) -> Reflector[JsonObject]:
        async def read() -> str:
            while self._reader.is_absent(kind):  # noqa: ASYNC110 - until its CRD appears
                await asyncio.sleep(_POLL_SECONDS)
            return self._reader.take_start_version(kind) or await self._reader.read(kind)

        def on_event(event: WatchEvent[JsonObject]) -> None:
            self._reader.saw_version(kind, event.resource_version)
            if event.type == "BOOKMARK":
                self._handler.saw_event(kind)
            else:
                self._handler.handle(kind, event.type, event.item)

        def on_failure(error: model.UsherError, failures: int) -> None:
            if not isinstance(error, ApiError) or error.status != 404:
                log_failure(error, failures, kind=kind.name)

        return Reflector(
            self._client,
            self._reader.collection(kind),
            dict[str, Any],
            read=read,
            on_event=on_event,
            on_failure=on_failure,
            selector=kind.selector,
        )


class CrdHandler:
    """Handles CRDs that appear, change or disappear.

    Args:
        on_crd_deleted: called with the namespaces whose documents depend on an Usher CRD when it is
            deleted, because its objects go without being meant to.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        queue: Workqueue[Key],
        reader: resync.Resync,
        watcher: Watcher,
        gate: PauseGate,
        on_crd_deleted: Callable[[frozenset[str]], None],
    ) -> None:
        self._cache, self._queue, self._reader = cache, queue, reader
        self._watcher, self._gate, self._on_crd_deleted = watcher, gate, on_crd_deleted

    def handle(self, event_type: str | None, raw: JsonObject) -> None:
        """Handle one CRD event; `event_type` None: kopf listed it."""
        metadata, spec = raw["metadata"], raw.get("spec") or {}
        plural, group = (spec.get("names") or {}).get("plural"), spec.get("group")
        kind = next(
            (
                watched_kind
                for watched_kind in kinds.ALL
                if (watched_kind.plural, watched_kind.group) == (plural, group)
            ),
            None,
        )
        if kind is None:
            return
        topic = f"definition {plural}"
        if event_type == "DELETED" or "deletionTimestamp" in metadata:
            self._handle_deleted(kind, topic)
        elif _is_established(raw):
            if event_type is not None or topic in self._gate.reasons:  # the operator read everything at its start
                self._reader.request(kind)
                self._watcher.watch(kind)
            self._gate.resume(topic)

    def _handle_deleted(self, kind: kinds.WatchedKind, topic: str) -> None:
        if kind in kinds.OWN:
            reason = f"the CRD {kind.plural}.{kind.group} was deleted: apply it and its objects again"
            self._gate.pause(topic, reason)
            document_kind: Kind = "Destination" if kind is kinds.DESTINATION else "Listener"
            self._on_crd_deleted(self._cache.child_index.namespaces_with(document_kind))
        else:
            self._queue.add_all(self._cache.set_served(kind, served=False))


def _is_established(raw: JsonObject) -> bool:
    conditions = (raw.get("status") or {}).get("conditions") or ()
    return any(condition.get("type") == "Established" and condition.get("status") == "True" for condition in conditions)


class KopfRunner:
    """Runs kopf, which watches the platform's objects.

    Raises:
        ConfigurationError: kopf cannot use the connection.
    """

    def __init__(
        self, *, access: Access, watched: tuple[kinds.WatchedKind, ...], handler: EventHandler, crd_handler: CrdHandler
    ) -> None:
        self._access, self._has_logged_in = access, False
        connection_info(access.load())
        self._registry = _registry(watched, handler, crd_handler)
        kopf.on.login(registry=self._registry)(self._log_in)
        self._end = asyncio.Event()  # Ends the present run of kopf
        self._is_stopping = False

    async def run(self, *, on_started: Callable[[], None]) -> None:
        """Run kopf until `stop`. If kopf fails, run it again after a delay, which doubles with each failure in a row.

        Kopf fails if the API server answers 404 or 410 to a request. Meanwhile the checks in resync.py find
        changes, and if they find some that kopf does not report, the operator counts as not alive.

        Not `kopf.operator`, which at its end cancels all event loop tasks that began after it.

        Args:
            on_started: called after each kopf start, which installs its own signal handlers.
        """
        delay = _FIRST_KOPF_DELAY_SECONDS
        while not self._is_stopping:
            self._end.clear()
            began = time.monotonic()
            tasks = await kopf.spawn_tasks(
                registry=self._registry,
                settings=_kopf_settings(),
                standalone=True,
                # Unused, but by default kopf looks up its user's name, and the container's user has none.
                identity="usher-operator",  # type: ignore[arg-type]  # kopf does not export the type
                clusterwide=True,
                stop_flag=self._end,
            )
            on_started()
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._end.set()  # otherwise kopf would kill this process when it does not end soon
                for task in tasks:
                    task.cancel()
                results = await asyncio.gather(*tasks, return_exceptions=True)
            failure = next((result for result in results if isinstance(result, Exception)), None)
            await _cancel_orphans()
            if failure is not None and not self._is_stopping:
                lasted = time.monotonic() - began
                delay = _FIRST_KOPF_DELAY_SECONDS if lasted > _LAST_KOPF_DELAY_SECONDS else delay
                _log.warning("kopf_failed", error=type(failure).__name__, retry_in=delay, exc_info=failure)
                await self._wait(delay)
                delay = min(2 * delay, _LAST_KOPF_DELAY_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Wait, at most until `stop` or `restart`."""
        self._end.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._end.wait()

    def restart(self) -> None:
        """Start all watches again, from new lists."""
        _log.info("watches_restarted")
        self._end.set()

    def stop(self) -> None:
        """End the run."""
        self._is_stopping = True
        self._end.set()

    async def _log_in(self, **_: Any) -> kopf.ConnectionInfo:
        """Kopf calls this at its start, and again after the API server answered 401."""
        if self._has_logged_in:
            self._access.reject()
        self._has_logged_in = True
        return connection_info(await self._access.connection())


async def _cancel_orphans() -> None:
    """Cancel the watches that kopf leaves running when one fails. When it is cancelled, it leaves none."""
    for _ in range(_CANCEL_ROUNDS):
        orphans = [task for task in asyncio.all_tasks() if _is_of_kopf(task)]
        if not orphans:
            return
        for task in orphans:
            # A watch takes its pause-waiter's end for a pause, and begins again instead of ending. So only the
            # watch is cancelled, which then cancels its pause-waiter.
            if not task.get_name().startswith("pause-waiter"):
                task.cancel()
        await asyncio.wait(orphans, timeout=_CANCEL_SECONDS)
    _log.error("kopf_not_ended", tasks=[task.get_name() for task in orphans])


def _is_of_kopf(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_KOPF_FOLDER)


def connection_info(connection: ApiConnection) -> kopf.ConnectionInfo:
    """A connection in kopf's format.

    Raises:
        ConfigurationError: kopf cannot use it.
    """
    if connection.server_name:
        raise model.ConfigurationError(
            "the kubeconfig file has `tls-server-name`, which the operator does not support",
            "use a server whose certificate has the name of its URL",
        )
    scheme, _, token = connection.authorization.partition(" ")
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_data=base64.b64encode(connection.authorities) or None,
        insecure=not connection.verify,
        scheme=scheme or None,
        token=token or None,
        certificate_data=base64.b64encode(connection.certificate) or None,
        private_key_data=base64.b64encode(connection.key) or None,
    )


def _registry(
    watched: tuple[kinds.WatchedKind, ...], handler: EventHandler, crd_handler: CrdHandler
) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    for kind in watched:

        async def on_event(event: Any, kind: kinds.WatchedKind = kind, **_: Any) -> None:
            handler.handle(kind, event["type"], event["object"])

        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.name, registry=registry)(on_event)

    async def on_crd_event(event: Any, **_: Any) -> None:
        crd_handler.handle(event["type"], event["object"])

    kopf.on.event("apiextensions.k8s.io", "v1", "customresourcedefinitions", id="CRD", registry=registry)(on_crd_event)
    return registry


class _NoDiffBase(kopf.DiffBaseStorage):
    """Stores no object's previous state, because no handler compares states."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Write nothing to the object."""


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = _PAGE_ROWS
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5
    return settings
