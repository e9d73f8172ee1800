"""The only composition root of the operator: what is built, in which order it starts and stops.

Start: admin port, Lease; then, as the leader, a complete reading of the cluster (the install key after the classes, and
before documents are read), workers, kopf's watches. Stop, the other way round: workers first, so that nothing is
written any more when the Lease is given up; kopf last, for it takes a while and writes nothing.
"""

import asyncio
import contextlib
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

import kopf
import msgspec
import structlog

from usher_gateway import logs
from usher_operator import api as apis
from usher_operator import (
    connection,
    events,
    follow,
    gateways,
    handlers,
    kinds,
    leader,
    plan,
    reconcile,
    removals,
    resync,
    writer,
)
from usher_operator.cache import Cache
from usher_operator.health import Health, HealthServer
from usher_operator.installation import Installation
from usher_operator.metrics import OperatorMetrics
from usher_operator.settings import OperatorSettings
from usher_operator.view import Key
from usher_operator.workqueue import PauseGate, Workqueue

_log = structlog.get_logger(__name__)

_STOP_SECONDS = 1.0
"""So long work that has begun may take to end when the operator stops."""


class Operator:
    """An operator in one process. ``run`` lives until it is told to stop, or loses its Lease."""

    def __init__(self, settings: OperatorSettings, environ: dict[str, str]) -> None:
        settings.check()
        identity = settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.settings = msgspec.structs.replace(settings, identity=identity)
        self._environ = environ
        self.metrics = OperatorMetrics()
        self.health = Health(self.settings, time.monotonic)
        self.admin = HealthServer(self.settings.admin, self.health, self.metrics)
        self.admin.before_scrape = self._measure
        self._stop = asyncio.Event()
        self._kopf_stop = asyncio.Event()
        self._failed = False
        connection.load(settings.kubeconfig, environ)  # what is wrong with it is told before anything starts
        self.api = apis.Api(self._connect, self.metrics.count_request)
        self.lease = leader.LeaderLease(self.api, self.settings, time.monotonic)
        self.api.may_write = lambda: self.lease.may_write
        self._build()

    def _connect(self) -> kopf.ConnectionInfo:
        return connection.load(self.settings.kubeconfig, self._environ)

    def stop(self) -> None:
        """Ask the operator to end. Idempotent."""
        self._stop.set()

    def _build(self) -> None:
        settings, timing = self.settings, self.settings.timing
        self.trust = PauseGate()
        self.health.doubts = self.trust.reasons.values
        self.cache = Cache(settings)
        self.queue: Workqueue[Key] = Workqueue(time.monotonic, random.random)
        self.queue.waited = self.metrics.queue_seconds.observe
        self.queue.retried = self.metrics.queue_retries.inc
        self.removals = removals.PendingRemovals(timing.settle, timing.settle_most)
        self.installation = Installation(self.api, self.cache, self.trust, self.queue)
        self.chronicle = events.EventLogger(time.monotonic)
        told = (self.metrics, self.chronicle)
        self.children = writer.ChildWriter(self.api, self.cache, self.queue, self.removals, told)
        self.children.tombstones.seconds = timing.tombstone
        flips = events.EventRecorder(timing.warn)
        self.statuses = writer.StatusWriter(self.api, self.cache, self.queue, (*told, flips), time.monotonic)
        self.reconciler = reconcile.Reconciler(
            plan.plan,
            self.cache,
            self.queue,
            (self.children, self.statuses),
            (self.api, self.trust, self.metrics),
        )
        self.resync = resync.Resync(self.api, self.cache, self.queue, self.trust, self.metrics)
        self.resync.kinds = self._kinds()
        self.resync.scopes = dict.fromkeys(
            (kinds.INGRESS, kinds.HTTP_ROUTE, kinds.CERTIFICATE), settings.data_plane_namespace
        )
        self.resync.after_all = self.children.doubt
        around = (self.trust, self.installation, self.metrics)
        self.judge = removals.RemovalGuard(self.removals, self.cache, self.queue, around)
        self.observer = gateways.GatewayObserver(
            self.api, settings, self.cache, self.queue, (self.installation, self.metrics)
        )
        self.children.published = self.observer.poke
        self.cache.expect = self.health.expect
        seen_by = (self.trust, self.health, self.metrics)
        self.handlers = handlers.Handlers(self.cache, self.queue, self.resync, seen_by, time.monotonic)
        self.handlers.on_class = self.judge.poke
        self.handlers.on_lost = self.removals.suspect
        self.follower = follow.Follower(self.api, self.resync, self.handlers, self.health)
        self.handlers.on_arrival = self.follower.follow

    def _kinds(self) -> tuple[kinds.Watched, ...]:
        is_on = {"": True, "gateway_api": self.settings.gateway_api, "cert_manager": self.settings.cert_manager}
        return tuple(kind for kind in kinds.ALL if is_on[kind.feature])

    async def run(self) -> bool:
        """Run until stop() or until the Lease is lost; True for the former.

        Raises:
            UsherError: the operator cannot start; its hint says what to do.
        """
        asyncio.get_running_loop().set_exception_handler(logs.log_loop_exception)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.api)
            await stack.enter_async_context(self.admin)
            self._tell_signals()
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self.health.tick(), name="loop lag")]
            stack.push_async_callback(_cancel, tasks)
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            tasks.append(stopping)
            _log.info("waiting_for_the_lease", identity=self.settings.identity, admin_port=self.admin.port)
            self._set_ready("start", "the Lease was not reached yet")
            tasks.append(asyncio.create_task(self._tell_lease(), name="lease told"))
            if await self._until(stopping, self.lease.acquire(), "lease"):
                stack.push_async_callback(self.lease.release)
                await self._lead(stopping, tasks)
        _log.info("stopped")
        return not self._failed

    async def _until(self, stopping: asyncio.Task[Any], job: Coroutine[Any, Any, None], name: str) -> bool:
        """Wait for a job; False where the operator is to stop first. Its errors are raised."""
        task = asyncio.create_task(job, name=name)
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        await _cancel([task])
        return False

    async def _tell_lease(self) -> None:
        """A standby is ready once it has reached the Lease."""
        while True:
            if self.lease.reached_at is not None and not self.lease.is_leader:
                self._set_ready("start", "")
            await asyncio.sleep(0.2)

    def _set_ready(self, topic: str, reason: str) -> None:
        if reason:
            self.health.not_ready[topic] = reason
        else:
            self.health.not_ready.pop(topic, None)

    async def _lead(self, stopping: asyncio.Task[Any], tasks: list[asyncio.Task[Any]]) -> None:
        self.metrics.leader.set(1)
        self._set_ready("start", "")
        self._set_ready("cache", "the cluster was not read yet")
        holding = asyncio.create_task(self.lease.hold(), name="hold the lease")
        tasks.append(holding)
        ended = {stopping, holding}
        reading = asyncio.create_task(self._read(), name="read the cluster")
        await asyncio.wait({*ended, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await _cancel([reading])
        else:
            reading.result()
            self._set_ready("cache", "")
            watching = asyncio.create_task(self._watch(), name="kopf")
            working = self._start()
            ended |= {watching, *working}
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(working, self._failure)
            await self.lease.release()
            self._kopf_stop.set()
            await _cancel_late(watching)
        self._failed = self._failed or not stopping.done()
        self.metrics.leader.set(0)

    def _failure(self, task: asyncio.Task[Any]) -> None:
        """A task that must never end has ended."""
        self._failed = True
        _log.error("task_ended", task=task.get_name(), exc_info=task.exception())

    async def _read(self) -> None:
        """Everything there is, completely; the install key before documents, and after the classes that know it."""
        begun = time.monotonic()
        await self.resync.read_start((kinds.LISTENER_CLASS,))
        while not await self._ensure():  # noqa: ASYNC110 - the API server is asked again
            await asyncio.sleep(self.settings.timing.retry)
        await self.resync.read_start(tuple(kind for kind in self.resync.kinds if kind is not kinds.LISTENER_CLASS))
        self.resync.plan_all()
        seconds = round(time.monotonic() - begun, 2)
        _log.info(
            "cluster_read", objects=len(self.cache.records), children=len(self.cache.in_place.by_ref), seconds=seconds
        )

    async def _ensure(self) -> bool:
        try:
            is_there = await self.installation.ensure()
        except apis.ApiError as error:
            self._set_ready("install", f"the install's Secrets cannot be had: {error}")
            _log.error("install_secrets_not_read", error=str(error))
            return False
        self._set_ready("install", "")
        return is_there

    def _start(self) -> list[asyncio.Task[Any]]:
        jobs: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "resync": lambda: self.resync.run(self.settings.timing.resync),
            "children": self.follower.run,
            "removals": self.judge.run,
            "observe": self.observer.run,
            "install": self.installation.watch,
            "missing Secrets": self.reconciler.look_again,
            "events": self.statuses.post_events,
            "sums of the log": self.chronicle.run,
        }
        tasks = [asyncio.create_task(job(), name=name) for name, job in jobs.items()]
        workers = range(self.settings.workers)
        return tasks + [asyncio.create_task(self.reconciler.work(), name=f"worker {number}") for number in workers]

    async def _watch(self) -> None:
        """Kopf, until told to stop."""
        registry = handlers.register(self.handlers, tuple(kind for kind in self._kinds() if kind in kinds.DECLARED))
        kopf.on.login(registry=registry)(self._login)
        handlers.RestartWatcher(self.resync).install()
        ready = asyncio.Event()
        signals = asyncio.create_task(self._take_signals_back(ready), name="signals")
        try:
            await kopf.operator(
                registry=registry,
                settings=_kopf_settings(),
                standalone=True,
                clusterwide=True,
                stop_flag=self._kopf_stop,
                ready_flag=ready,
            )
        finally:
            signals.cancel()

    def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return self._connect()

    async def _take_signals_back(self, ready: asyncio.Event) -> None:
        """Kopf takes the signals for itself, and would stop before the Lease is given up."""
        await ready.wait()
        self._tell_signals()

    def _tell_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def _measure(self) -> None:
        """Numbers that are only looked up when somebody asks."""
        numbers = self.metrics
        numbers.queue_depth.set(self.queue.depth)
        numbers.queue_age.set(self.queue.oldest_age)
        numbers.loop_lag.set(self.health.lag)
        for name in ("gateway_api", "cert_manager"):
            numbers.features.labels(name).set(getattr(self.cache.features, name))
        numbers.objects.clear()
        for key, record in self.cache.records.items():
            ready = next((one.status for one in record.found.conditions if one.type == "Ready"), "Unknown")
            numbers.objects.labels(key.kind, ready).inc()
        numbers.documents.clear()
        for child in self.cache.in_place.by_ref.values():
            if child.is_config:
                state = "Tombstone" if child.tombstone else "InForce"
                numbers.documents.labels(child.key.kind, state).inc()


class _NoBase(kopf.DiffBaseStorage):
    """Keeps no former state of any object: without handlers of changes, nobody asks for it."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing is ever written to an object."""


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = apis.CHUNK
    settings.persistence.diffbase_storage = _NoBase()
    settings.queueing.idle_timeout = 1.0
    settings.queueing.exit_timeout = 0.5
    for kind in kinds.DECLARED:
        if kind.selector:
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = kind.selector
    return settings


async def _cancel(tasks: list[asyncio.Task[Any]], failed: Callable[[asyncio.Task[Any]], None] = lambda _: None) -> None:
    """End tasks; those that had ended by themselves are told of."""
    for task in tasks:
        if task.done() and not task.cancelled():
            failed(task)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_SECONDS)


async def _cancel_late(task: asyncio.Task[Any]) -> None:
    """Let kopf end by itself, for a while."""
    await asyncio.wait({task}, timeout=5)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_STOP_SECONDS)
    elif task.exception() is not None:
        _log.error("kopf_ended", exc_info=task.exception())
