"""The operator's composition root: builds every part, starts and stops them in order.

Start: the admin port, then the Lease. The leader then reads the whole cluster, starts the workers, and starts kopf's
watches. Stop, in the other order: the workers first, so that the operator writes nothing after it released the Lease;
kopf last, because it needs time and writes nothing.
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

import msgspec
import structlog

from usher_gateway import logs, process
from usher_gateway.kube import access
from usher_gateway.kube.client import ApiError, Client, ClientLimits
from usher_operator.plan import common
from usher_operator.report.gateways import GatewayObserver
from usher_operator.report.route_check import RouteChecker
from usher_operator.run import install_change, leader
from usher_operator.run.health import Health, HealthServer, OperatorMetrics
from usher_operator.run.installation import Installation
from usher_operator.run.workqueue import PauseGate, Workqueue
from usher_operator.settings import OperatorSettings
from usher_operator.state import kinds
from usher_operator.state.cache import Cache
from usher_operator.state.confirmed_clock import ConfirmedClock
from usher_operator.state.values import Key
from usher_operator.watch import resync, watches
from usher_operator.watch.agency_secrets import AgencySecrets
from usher_operator.write.child_writer import ChildRemover, ChildWriter
from usher_operator.write.first_pass import FirstPass
from usher_operator.write.reconcile import Reconciler
from usher_operator.write.removals import RemovalGuard
from usher_operator.write.status_writer import StatusWriter

_log = structlog.get_logger(__name__)

_STOP_SECONDS = 1.0  # How long a cancelled task may take to end
_KOPF_STOP_SECONDS = 5.0  # How long kopf may take to end by itself

# How many namespaces together can occupy all workers. If one could alone, its writes would keep the API server so
# busy that the events of others arrive late (docs/performance.md).
_LANES_AT_ONCE = 4

_STANDBY_POLL_SECONDS = 0.2

# Connections that the watches of agencies' Secrets may need; many systems allow only 1,024 open files at first.
_MAX_AGENCY_WATCHES = 10_000

# How long the watch of an agency's Secrets lasts: longer than usual, because there may be thousands of them.
_AGENCY_WATCH_SECONDS = 1800

# Pages are bounded because an agency can put a megabyte of labels into each of its objects. The largest one has 1.5 MiB
# in etcd, and its JSON may write each byte as six.
_PAGE_BYTES = 10 * 1024 * 1024

_AGENCY_FIRST_ROWS = 4  # Because each Secret of an agency may have 1 MiB


class Operator:
    """The operator in one process. ``run`` ends after ``stop``, or when the Lease is lost."""

    def __init__(self, settings: OperatorSettings, environ: dict[str, str]) -> None:
        settings.check()
        identity = settings.identity or f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.settings = msgspec.structs.replace(settings, identity=identity)
        self._stop = asyncio.Event()
        self._failed = False
        self._access = access.find_access(settings.kubeconfig, environ, access.default_kubeconfig(environ))
        self._build()

    def stop(self) -> None:
        """Ask the operator to end. Idempotent."""
        self._stop.set()

    def _build(self) -> None:
        """Build every part, each after the parts that it needs."""
        settings = self.settings
        self.metrics = OperatorMetrics()
        self.gate = PauseGate()
        self.health = Health(settings, gate=self.gate, clock=time.monotonic)
        self.admin = HealthServer(
            settings.admin, health=self.health, metrics=self.metrics, before_scrape=self._update_gauges
        )
        self.clock = ConfirmedClock()
        self.api = Client(
            self._access,
            limits=ClientLimits(page_bytes=_PAGE_BYTES),
            field_manager=kinds.field_manager(settings.controller_name),
            count_request=self.metrics.count_request,
            may_write=lambda: self.lease.may_write,
        )
        self.watch_api = Client(
            self._access,
            limits=ClientLimits(
                connections=0,
                first_page_rows=_AGENCY_FIRST_ROWS,
                page_bytes=_PAGE_BYTES,
                watch_seconds=_AGENCY_WATCH_SECONDS,
            ),
            count_request=self.metrics.count_request,
        )
        """Reads agencies' Secrets, with a connection for each namespace."""
        self.lease = leader.LeaderLease(self.api, settings, clock=time.monotonic, confirmed_clock=self.clock)
        self.cache = Cache(
            settings,
            confirmed_clock=self.clock.now,
            expect_event=self.health.expect_event,
            read_again=self._read_again,
        )
        self.queue: Workqueue[Key] = Workqueue(
            clock=time.monotonic,
            random=random.random,
            lane_of=self.cache.lane_of,
            max_per_lane=max(1, settings.workers // _LANES_AT_ONCE),
            observe_wait=self.metrics.queue_seconds.observe,
            count_retry=self.metrics.queue_retries.inc,
        )
        self.installation = Installation(
            api=self.api,
            cache=self.cache,
            queue=self.queue,
            gate=self.gate,
            read_documents=lambda: self.resync.read(kinds.SECRET),
        )
        self.gateways = GatewayObserver(
            api=self.api,
            settings=settings,
            cache=self.cache,
            queue=self.queue,
            installation=self.installation,
            metrics=self.metrics,
        )
        self.route_checker = RouteChecker(cache=self.cache, queue=self.queue)
        self.first_pass = FirstPass(
            api=self.api,
            settings=settings,
            may_publish=self._may_publish,
            is_idle=lambda: not self.queue.depth,
            listeners=lambda: self.cache.child_index.listeners_in_force,
        )
        self._build_writers()
        self._build_watches()
        self.reconciler = Reconciler(
            api=self.api,
            cache=self.cache,
            queue=self.queue,
            gate=self.gate,
            children=self.children,
            removal_guard=self.removal_guard,
            remover=self.remover,
            statuses=self.statuses,
            metrics=self.metrics,
            read_secrets=self.agency_secrets.request,
        )

    def _build_watches(self) -> None:
        of_data_plane = (kinds.INGRESS, kinds.HTTP_ROUTE, kinds.CERTIFICATE, kinds.ISSUER)
        namespaces = {
            kinds.SECRET: self.settings.configuration_namespace,
            **dict.fromkeys(of_data_plane, self.settings.data_plane_namespace),
        }
        handler = watches.EventHandler(cache=self.cache, queue=self.queue, health=self.health, metrics=self.metrics)
        self.agency_secrets = AgencySecrets(client=self.watch_api, cache=self.cache, queue=self.queue, handler=handler)
        self.resync = resync.Resync(
            client=self.api,
            cache=self.cache,
            queue=self.queue,
            gate=self.gate,
            health=self.health,
            metrics=self.metrics,
            read_kinds={kind: namespaces.get(kind, "") for kind in self._kinds()},
            after_all=self.children.rewrite_all,
            after_restore=self._restart_watches,
            on_missed_changes=self.agency_secrets.read_again,
        )
        self.watcher = watches.Watcher(client=self.api, reader=self.resync, handler=handler)
        self.kopf = watches.KopfRunner(
            access=self._access,
            watched=tuple(kind for kind in self._kinds() if kind in kinds.WATCHED_BY_KOPF),
            handler=handler,
            crd_handler=watches.CrdHandler(
                cache=self.cache,
                queue=self.queue,
                reader=self.resync,
                watcher=self.watcher,
                gate=self.gate,
                on_crd_deleted=self.removal_guard.halt,
            ),
        )

    def _restart_watches(self) -> None:
        """Start all watches again after a restore, because `Resync` itself only lists."""
        self.kopf.restart()
        self.watcher.restart()
        self.agency_secrets.read_again()

    def _build_writers(self) -> None:
        timing = self.settings.timing
        self.statuses = StatusWriter(
            api=self.api,
            cache=self.cache,
            queue=self.queue,
            metrics=self.metrics,
            clock=time.monotonic,
        )
        self.removal_guard = RemovalGuard(
            cache=self.cache,
            queue=self.queue,
            metrics=self.metrics,
            may_decide=self._may_remove,
            warn=self.statuses.queue_event,
            timing=timing,
            clock=time.monotonic,
        )
        self.children = ChildWriter(
            api=self.api,
            cache=self.cache,
            queue=self.queue,
            metrics=self.metrics,
            on_published=self.gateways.ask_soon,
            on_applied=self.first_pass.done,
        )
        self.remover = ChildRemover(
            api=self.api,
            cache=self.cache,
            queue=self.queue,
            writer=self.children,
            removal_guard=self.removal_guard,
            tombstone_seconds=timing.tombstone_seconds,
        )

    def _may_publish(self) -> bool:
        """False while nothing is published or removed."""
        return self.installation.is_key_known and not self.gate.reasons

    def _may_remove(self) -> bool:
        """False also while the install key is another one, because plans request nothing then."""
        return self._may_publish() and common.publishing_state(self.cache) is None

    def _kinds(self) -> tuple[kinds.WatchedKind, ...]:
        """The kinds to watch: kinds whose APIs are switched off are left out."""
        is_on = {"": True, "gateway_api": self.settings.gateway_api, "cert_manager": self.settings.cert_manager}
        return tuple(kind for kind in kinds.ALL if is_on[kind.feature])

    def _read_again(self, kind: kinds.WatchedKind) -> None:
        self.resync.request(kind)

    async def run(self) -> bool:
        """Run until stop() or until the Lease is lost; True after stop().

        Raises:
            UsherError: the operator cannot start; the error's hint says what to do.
        """
        asyncio.get_running_loop().set_exception_handler(logs.log_loop_exception)
        process.reserve_descriptors(_MAX_AGENCY_WATCHES, idle=0, attempts=0)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.api)
            await stack.enter_async_context(self.watch_api)
            await stack.enter_async_context(self.admin)
            self._handle_signals()
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self.health.measure_loop(), name="loop lag")]
            stack.push_async_callback(_cancel, tasks)
            stopping = asyncio.create_task(self._stop.wait(), name="stop")
            tasks.append(stopping)
            _log.info("lease_requested", identity=self.settings.identity, admin_port=self.admin.port)
            self.health.set_ready("start", "the operator has not reached the Lease yet")
            tasks.append(asyncio.create_task(self._report_standby(), name="standby"))
            if await self._until(stopping, self.lease.acquire(), "lease"):
                holding = asyncio.create_task(self.lease.hold(), name="hold the lease")
                stack.push_async_callback(self._release, holding)
                await self._lead(stopping, holding)
        _log.info("operator_stopped")
        return not self._failed

    async def _until(self, stopping: asyncio.Task[Any], job: Coroutine[Any, Any, None], name: str) -> bool:
        """Wait for a job, and raise its errors; False if the operator has to stop first."""
        task = asyncio.create_task(job, name=name)
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        await _cancel([task])
        return False

    async def _report_standby(self) -> None:
        """Report a standby as ready once it has reached the Lease."""
        while True:
            if self.lease.reached_at is not None and not self.lease.is_leader:
                self.health.set_ready("start")
            await asyncio.sleep(_STANDBY_POLL_SECONDS)

    async def _release(self, holding: asyncio.Task[Any]) -> None:
        """Release the Lease after the last renewal, which would conflict with the release or undo it."""
        await _cancel([holding])
        await self.lease.release()

    async def _lead(self, stopping: asyncio.Task[Any], holding: asyncio.Task[Any]) -> None:
        """Work as the leader until the operator stops, the Lease is lost or a task fails."""
        self.metrics.leader.set(1)
        self.health.set_ready("start")
        self.health.set_ready("cache", "the operator has not read the cluster yet")
        ended = {stopping, holding}
        reading = asyncio.create_task(self._read_cluster(), name="read the cluster")
        await asyncio.wait({*ended, reading}, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            await _cancel([reading])
        else:
            reading.result()
            self.health.set_ready("cache")
            watching = asyncio.create_task(self.kopf.run(on_started=self._handle_signals), name="kopf")
            working = self._start_tasks()
            ended |= {watching, *working}
            await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
            await _cancel(working, self._log_failure)  # first, because a standby takes a released Lease at once
            await self._release(holding)
            self.kopf.stop()
            await _cancel_late(watching)
        self._failed = self._failed or not stopping.done()
        self.metrics.leader.set(0)

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        """Note that a task ended that should run until it is cancelled."""
        self._failed = True
        _log.error("task_failed", task=task.get_name(), exc_info=task.exception())

    async def _read_cluster(self) -> None:
        """Read every kind completely: classes, then the install key that they name, then everything else."""
        begun = time.monotonic()
        await self.resync.read_start((kinds.LISTENER_CLASS,))
        while not await self._ensure_installation():  # noqa: ASYNC110 - asks the API server again
            await asyncio.sleep(self.settings.timing.lease_retry_seconds)
        await self.resync.read_start(tuple(kind for kind in self.resync.kinds if kind is not kinds.LISTENER_CLASS))
        await self.agency_secrets.read_start()
        if await install_change.apply_change(self.api, self.cache, self.lease.saved_install):
            self.lease.save_install()
        self.resync.add_all_keys()
        self.first_pass.begin(self.cache.all_keys())
        _log.info(
            "cluster_read",
            objects=len(self.cache.records),
            children=len(self.cache.child_index.by_ref),
            seconds=round(time.monotonic() - begun, 2),
        )

    async def _ensure_installation(self) -> bool:
        try:
            is_there = await self.installation.ensure()
        except ApiError as error:
            self.health.set_ready("install", f"the operator cannot read or create the install's Secrets: {error}")
            _log.error("install_secrets_not_read", error=str(error))
            return False
        self.health.set_ready("install")
        return is_there

    def _start_tasks(self) -> list[asyncio.Task[Any]]:
        """Start a leader's tasks; none ends by itself."""
        jobs: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "first pass": self.first_pass.run,
            "resync": lambda: self.resync.run(self.settings.timing.resync_seconds),
            "check watches": lambda: self.resync.run_checks(self.settings.timing.watch_check_seconds),
            "watches": self.watcher.run,
            "agency Secrets": lambda: self.agency_secrets.run(self.settings.timing.resync_seconds),
            "removals": self.removal_guard.run,
            "gateways": self.gateways.run,
            "install": self.installation.watch,
            **({"route checks": self.route_checker.run} if self.settings.checks_routes else {}),
            "missing Secrets": self.reconciler.look_up_missing_secrets,
            "events": self.statuses.post_events,
            "informational statuses": self.statuses.release_deferred,
        }
        tasks = [asyncio.create_task(job(), name=name) for name, job in jobs.items()]
        workers = range(self.settings.workers)
        return tasks + [asyncio.create_task(self.reconciler.work(), name=f"worker {number}") for number in workers]

    def _handle_signals(self) -> None:
        """Handle the signals, also those that kopf took, because kopf would stop before the Lease is released."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def _update_gauges(self) -> None:
        """Set the gauges that are read on demand."""
        numbers = self.metrics
        numbers.queue_depth.set(self.queue.depth)
        numbers.queue_age.set(self.queue.oldest_age_seconds)
        numbers.loop_lag.set(self.health.loop_lag_seconds)
        for name in ("gateway_api", "cert_manager"):
            numbers.features.labels(name).set(getattr(self.cache.features, name))
        numbers.set_objects(self.cache)


async def _cancel(tasks: list[asyncio.Task[Any]], failed: Callable[[asyncio.Task[Any]], None] = lambda _: None) -> None:
    """Cancel tasks and wait for them. ``failed``: called for each task that had ended by itself."""
    for task in tasks:
        if task.done() and not task.cancelled():
            failed(task)
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_STOP_SECONDS)


async def _cancel_late(task: asyncio.Task[Any]) -> None:
    """Let kopf end by itself, and cancel it after a while."""
    await asyncio.wait({task}, timeout=_KOPF_STOP_SECONDS)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_STOP_SECONDS)
    elif task.exception() is not None:
        _log.error("kopf_failed", exc_info=task.exception())
